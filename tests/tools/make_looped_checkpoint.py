"""Writes a random checkpoint of a looped model as its users have it, without PyTorch: config.json and the weights.

    make_looped_checkpoint.py attractor-140m DIR [--form safetensors|shards|torch] [--dtype f32|bf16] [--shard-mb 4500]

The shapes are those of the published models (and three small ones); numbers repeat a block of random ones with another
offset for each tensor, so that gigabytes are written at the speed of the disk. What is written streams."""
import argparse
import array
import functools
import json
import math
import os
import random
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import torchzip

BLOCK = 1 << 16  # numbers

BASE = dict(vocab_size=32768, padding_multiple=64, padded_vocab_size=32768, block_size=2048, norm_eps=1e-5, bias=False,
            qk_bias=False, qk_norm=True, clip_qkv=None, logit_softcap=None, use_fused_head="pytorch",
            block_class_name="TransformerPreNormBlock", norm_class_name="RMSNorm", mlp_class_name="BaseMLP",
            nonlin_name="ReLU2", init_strategy="scaled-zero", tie_embeddings=True,
            rope_settings=dict(use_rope=True, rope_condense_ratio=1, rope_base=50000))


def attractor(D, heads, backbone, core, gamma_max, **more):
    return dict(BASE, n_embd=D, num_attention_heads=heads, num_key_value_heads=heads, intermediate_size=4 * D,
                n_backbone_layers=backbone, n_fp_blocks=core, gamma_max=gamma_max, layer_scale_init=gamma_max,
                solver="anderson", anderson_m=5, anderson_beta=1.0, causal=True, model_class_name="Attractor",
                _class_name="AttractorConfig", **more)


def parcae(D, heads, layers, **more):
    return dict(BASE, n_embd=D, num_attention_heads=heads, num_key_value_heads=heads, intermediate_size=4 * D,
                recurrent_embedding_dimension=D, recurrent_intermediation_embedding_dimension=4 * D,
                recurrent_num_attention_heads=None, n_layers_in_prelude=layers, n_layers_in_recurrent_block=layers,
                n_layers_in_coda=layers, injection_type="diagonal", prelude_norm=True, mean_recurrence=8,
                mean_backprop_depth=4, state_init="like-init", model_class_name="Parcae", _class_name="ParcaeConfig",
                **more)


def huginn(D, heads, inner, vocab, block):
    return dict(model_type="huginn_raven", n_embd=D, n_heads=heads, intermediate_size=inner, vocab_size=vocab,
                padded_vocab_size=vocab, block_size=block, bias=False, qk_bias=True, norm_eps=1e-6,
                block_class_name="SandwichBlock", norm_class_name="RMSNorm_llama", mlp_class_name="GatedMLP",
                nonlin_name="SiLU", injection_type="linear", init_strategy="takase", tie_embeddings=True,
                n_layers_in_prelude=2, n_layers_in_recurrent_block=4, n_layers_in_coda=2, mean_recurrence=32,
                state_init="like-init", rope_base=50000)


SMALL = dict(vocab_size=96, padded_vocab_size=96, block_size=64)
MODELS = {
    "attractor-140m": attractor(1024, 8, 7, 1, 0.75), "attractor-370m": attractor(1280, 10, 15, 2, 1.0),
    "attractor-770m": attractor(1280, 10, 35, 2, 0.9), "parcae-140m": parcae(768, 6, 2),
    "parcae-370m": parcae(1024, 8, 4), "parcae-770m": parcae(1280, 10, 6), "parcae-1.3b": parcae(1536, 12, 8),
    "huginn-3.5b": huginn(5280, 55, 17920, 65536, 4096), "huginn-tiny": huginn(64, 4, 96, 96, 64),
    "attractor-tiny": dict(attractor(64, 4, 2, 1, 0.75), **SMALL), "parcae-tiny": dict(parcae(64, 4, 2), **SMALL),
}


def layer(c, name, width, inner, heads, d, sandwich, gates):
    """(name, shape) of a block's tensors"""
    qkv = [("attn.Wqkv.weight", [3 * width, width]), ("attn.qk_bias", [2, 1, heads, d])] if sandwich else [
        ("attn.%s.weight" % x, [width, width]) for x in ("c_q", "c_k", "c_v")]
    out = "attn.proj.weight" if sandwich else "attn.c_proj.weight"
    fc = [("mlp.fc.weight", [(2 if sandwich else 1) * inner, width]), ("mlp.proj.weight", [width, inner])]
    norms = [("norm_%d.weight" % (i + 1), [width]) for i in range(4 if sandwich else 2)]
    raw = [("raw_gamma_attn", [width]), ("raw_gamma_mlp", [width])] if gates else []
    return [("%s.%s" % (name, n), s) for n, s in qkv + [(out, [width, width])] + fc + norms + raw]


def tensors(c):
    """(name, shape) of all but the tied head and the table of turns"""
    D, V, F = c["n_embd"], c["padded_vocab_size"], c["intermediate_size"]
    H = c.get("n_heads") or c["num_attention_heads"]
    kind = c.get("model_class_name", "Huginn")
    P, R, C = ((c["n_backbone_layers"], c["n_fp_blocks"], 0) if kind == "Attractor" else
               [c["n_layers_in_" + x] for x in ("prelude", "recurrent_block", "coda")])
    S = c.get("recurrent_embedding_dimension", D) if kind == "Parcae" else D
    core = (S, c["recurrent_intermediation_embedding_dimension"],
            c["recurrent_num_attention_heads"] or H) if kind == "Parcae" else (D, F, H)
    out = [("transformer.wte.weight", [V, D])]
    for part, n in (("prelude", P), ("core_block", R), ("coda", C)):
        for i in range(n):
            name = "transformer.%s.%d" % (part, i)
            width, inner, heads = core if part == "core_block" else (D, F, H)
            out += layer(c, name, width, inner, heads, D // H, kind == "Huginn",
                         kind == "Attractor" and part == "core_block")
            if kind == "Parcae":
                at = {"prelude": 0, "core_block": P, "coda": P + R * c["mean_recurrence"]}[part] + i
                if at % 2 == (R * c["mean_backprop_depth"] - 1) % 2:
                    out.append((name + ".attn.ve_gate.weight", [heads, 32]))
    if kind == "Parcae":
        out += [("value_embeds.%d.weight" % i, [V, D]) for i in range(P + R + C) if i % 2 == (P + R + C - 1) % 2]
        out += [("transformer.adapter." + n, s) for n, s in (("A_log", [S]), ("dt_bias", [S]), ("B", [S, D]))]
        out += [("transformer.C.weight", [D, S]), ("transformer.ln_prelude.weight", [D])]
    if kind == "Huginn":
        out.append(("transformer.adapter.weight", [D, 2 * D]))
    return out + [("transformer.ln_f.weight", [D])]


def turns(positions, d, base=50000.0):
    """cos, sin as float32, of angles that were rounded as PyTorch's code rounds them"""
    def f32(x):
        return struct.unpack("<f", struct.pack("<f", x))[0]

    frequency = [f32(1 / f32(base ** f32(2 * i / d))) for i in range(d // 2)]
    return array.array("f", (f(f32(t * w)) for t in range(positions) for w in frequency for f in (math.cos, math.sin)))


@functools.lru_cache
def gauss(seed):
    r = random.Random(seed)
    return array.array("f", (r.gauss(0, 1) for _ in range(BLOCK)))


class Numbers:
    """Bytes of a tensor, block by block; gains are ones."""

    def __init__(self, seed, dtype):
        self.unit, self.dtype, self.scaled = gauss(seed), dtype, {}

    def encode(self, f):
        return f.tobytes() if self.dtype == "f32" else b"".join(
            x.to_bytes(2, "little") for x in (y >> 16 for y in array.array("I", f.tobytes())))

    def chunks(self, name, shape):
        n = math.prod(shape)
        if "norm" in name or "ln_" in name:
            yield self.encode(array.array("f", [1.0])) * n
            return
        scale = 0.5 / math.sqrt(shape[-1])
        if scale not in self.scaled:
            self.scaled[scale] = self.encode(array.array("f", (x * scale for x in self.unit)))
        block, size = self.scaled[scale], torchzip.SIZE[self.dtype]
        at = sum(name.encode()) * 7919 % BLOCK
        while n:
            k = min(n, BLOCK - at)
            yield block[at * size:(at + k) * size]
            n, at = n - k, 0


def write_safetensors(path, entries):
    """entries: (name, shape, dtype, chunks)"""
    head, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, dtype, _ in entries:
        n = math.prod(shape) * torchzip.SIZE[dtype]
        head[name] = {"dtype": dtype.upper(), "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(head).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for *_, chunks in entries:
            for chunk in chunks:
                f.write(chunk)


def write_shards(folder, entries, most):
    shards, size = [[]], 0
    for e in entries:
        n = math.prod(e[1]) * torchzip.SIZE[e[2]]
        if shards[-1] and size + n > most:
            shards.append([])
            size = 0
        shards[-1].append(e)
        size += n
    where = {}
    for i, shard in enumerate(shards):
        name = "model-%05d-of-%05d.safetensors" % (i + 1, len(shards))
        write_safetensors(os.path.join(folder, name), shard)
        where.update((e[0], name) for e in shard)
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {}, "weight_map": where}, f)


def make(name, folder, form="torch", dtype="f32", shard_bytes=4500 << 20, seed=0):
    """Returns the bytes of the largest tensor as float32."""
    c = MODELS[name]
    d = c["n_embd"] // (c.get("n_heads") or c["num_attention_heads"])
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(c, f, indent=2)
    numbers, shapes = Numbers(seed, dtype), tensors(c)
    table = ("freqs_cis", [1, c["block_size"], 1, d // 2, 2], "f32", [turns(c["block_size"], d).tobytes()])
    entries = [(n, s, dtype, numbers.chunks(n, s)) for n, s in shapes] + [table]
    if form == "torch":
        tree = {n: torchzip.Tensor(s, chunks, t) for n, s, t, chunks in entries}
        tree["lm_head.weight"] = torchzip.shared(tree["transformer.wte.weight"])
        torchzip.save(os.path.join(folder, "model.pt"), tree)
    else:
        wte = shapes[0]
        entries.append(("lm_head.weight", wte[1], dtype, numbers.chunks(*wte)))
        if form == "shards":
            write_shards(folder, entries, shard_bytes)
        else:
            write_safetensors(os.path.join(folder, "model.safetensors"), entries)
    return 4 * max(math.prod(s) for _, s in shapes)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", choices=sorted(MODELS))
    p.add_argument("dir")
    p.add_argument("--form", choices=("safetensors", "shards", "torch"), default="torch")
    p.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    p.add_argument("--shard-mb", type=int, default=4500)
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    make(a.model, a.dir, a.form, a.dtype, a.shard_mb << 20, a.seed)
