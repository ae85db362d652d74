"""Random models of explicit layers for llama.cpp: GPT-2's architecture, matrices in Q8_0, no vocabulary. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Needs Python alone."""
import array
import random
import struct

F32, Q8_0 = 0, 8
U32, FLOAT, STRING = 4, 6, 8
BLOCK = 32  # weights that share a scale
POOL = 1 << 14  # blocks drawn once; a matrix is made of stretches of them


def string(s):
    return struct.pack("<Q", len(s)) + s.encode()


class Weights:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.quants = self.rng.randbytes(POOL * BLOCK).replace(b"\x80", b"\x7f")  # -128 is not used

    def matrix(self, rows, cols):
        """Uniform weights of mean square 1/cols."""
        scale = struct.pack("<e", (3.0 / cols) ** 0.5 / 127)
        blocks = rows * cols // BLOCK
        whole = b"".join(scale + self.quants[i * BLOCK:(i + 1) * BLOCK] for i in range(POOL))
        parts = [whole] * (blocks // POOL) + [whole[:blocks % POOL * (BLOCK + 2)]]
        return Q8_0, [cols, rows], b"".join(parts)

    def vector(self, n, value):
        return F32, [n], array.array("f", [value] * n).tobytes()

    def table(self, rows, cols):
        return F32, [cols, rows], array.array("f", [self.rng.uniform(-0.05, 0.05) for _ in range(rows * cols)]
                                              ).tobytes()


def tensors(layers, vocab, d, inner, context, seed=1):
    w = Weights(seed)
    yield "token_embd.weight", w.matrix(vocab, d)
    yield "position_embd.weight", w.table(context, d)
    yield "output_norm.weight", w.vector(d, 1)
    yield "output_norm.bias", w.vector(d, 0)
    for i in range(layers):
        block = "blk.%d." % i
        for norm in ("attn_norm", "ffn_norm"):
            yield block + norm + ".weight", w.vector(d, 1)
            yield block + norm + ".bias", w.vector(d, 0)
        for name, rows, cols in (("attn_qkv", 3 * d, d), ("attn_output", d, d), ("ffn_up", inner, d),
                                 ("ffn_down", d, inner)):
            yield block + name + ".weight", w.matrix(rows, cols)
            yield block + name + ".bias", w.vector(rows, 0)


def write(path, layers, vocab, d, heads, inner, context=1024):
    keys = [("general.architecture", STRING, string("gpt2")), ("general.name", STRING, string("random")),
            ("tokenizer.ggml.model", STRING, string("no_vocab")), ("gpt2.vocab_size", U32, struct.pack("<I", vocab)),
            ("gpt2.context_length", U32, struct.pack("<I", context)),
            ("gpt2.embedding_length", U32, struct.pack("<I", d)),
            ("gpt2.block_count", U32, struct.pack("<I", layers)),
            ("gpt2.feed_forward_length", U32, struct.pack("<I", inner)),
            ("gpt2.attention.head_count", U32, struct.pack("<I", heads)),
            ("gpt2.attention.layer_norm_epsilon", FLOAT, struct.pack("<f", 1e-5))]
    held = list(tensors(layers, vocab, d, inner, context))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(held), len(keys))
    for key, kind, value in keys:
        head += string(key) + struct.pack("<I", kind) + value
    at = 0
    for name, (kind, shape, data) in held:
        head += string(name) + struct.pack("<I%dQIQ" % len(shape), len(shape), *shape, kind, at)
        at += -(-len(data) // 32) * 32
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32))
        for _, (_, _, data) in held:
            f.write(data + b"\0" * (-len(data) % 32))
