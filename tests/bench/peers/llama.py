"""llama.cpp through its shared library: seconds of a prompt and of steps of generation.

    llama.py LIB_DIR THREADS      requests: {"model": PATH, "what": "prefill", "tokens": 512}
                                            {"model": PATH, "what": "generation", "streams": 32, "context": 150}

LIB_DIR holds libllama and the back ends of every CPU, as npm's @node-llama-cpp/linux-x64 has them. Of the parameters
of a context only the beginning is known here, which is checked."""
import ctypes
import glob
import os
import random
import sys

from worker import clock, median_s, serve

PREFILL_MAX, WARM, STEPS = 512, 4, 32
DEFAULTS = [512, 2048, 512, 1]  # n_ctx, n_batch, n_ubatch, n_seq_max


class Params(ctypes.Structure):
    """By value in memory: what is behind the structure's own end is not looked at."""
    _fields_ = [("word", ctypes.c_int32 * 128)]


class Batch(ctypes.Structure):
    _fields_ = [("n_tokens", ctypes.c_int32), ("token", ctypes.POINTER(ctypes.c_int32)),
                ("embd", ctypes.POINTER(ctypes.c_float)), ("pos", ctypes.POINTER(ctypes.c_int32)),
                ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
                ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))), ("logits", ctypes.POINTER(ctypes.c_int8))]


def load(directory):
    """(libllama, libggml) with the back end of this CPU."""
    def library(pattern):
        found = sorted(glob.glob(os.path.join(directory, pattern)))
        if not found:
            sys.exit("%s: no %s" % (directory, pattern))
        return ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)

    library("libggml-base.so")
    ggml, llama = library("libggml.v*.so"), library("libllama.v*.so")
    for name, result, arguments in (
        ("llama_model_default_params", Params, []), ("llama_context_default_params", Params, []),
        ("llama_model_load_from_file", ctypes.c_void_p, [ctypes.c_char_p, Params]),
        ("llama_init_from_model", ctypes.c_void_p, [ctypes.c_void_p, Params]),
        ("llama_get_memory", ctypes.c_void_p, [ctypes.c_void_p]),
        ("llama_memory_clear", None, [ctypes.c_void_p, ctypes.c_bool]),
        ("llama_batch_init", Batch, [ctypes.c_int32] * 3), ("llama_batch_free", None, [Batch]),
        ("llama_decode", ctypes.c_int32, [ctypes.c_void_p, Batch]), ("llama_synchronize", None, [ctypes.c_void_p]),
        ("llama_set_n_threads", None, [ctypes.c_void_p] + [ctypes.c_int32] * 2),
        ("llama_free", None, [ctypes.c_void_p]), ("llama_model_get_vocab", ctypes.c_void_p, [ctypes.c_void_p]),
        ("llama_vocab_n_tokens", ctypes.c_int32, [ctypes.c_void_p]), ("llama_log_set", None, [ctypes.c_void_p] * 2)):
        function = getattr(llama, name)
        function.restype, function.argtypes = result, arguments
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path(directory.encode())
    return llama


class Engine:
    """A context for so many sequences of so many tokens."""

    def __init__(self, llama, model, threads, streams, tokens):
        p = llama.llama_context_default_params()
        if list(p.word[:4]) != DEFAULTS:
            sys.exit("llama_context_params begins with %s, not %s: another version" % (list(p.word[:4]), DEFAULTS))
        p.word[0:4] = [streams * tokens, streams * PREFILL_MAX, PREFILL_MAX, streams]
        self.llama, self.context, self.streams = llama, llama.llama_init_from_model(model, p), streams
        if not self.context:
            sys.exit("llama_init_from_model failed")
        llama.llama_set_n_threads(self.context, threads, threads)
        self.batch = llama.llama_batch_init(streams * PREFILL_MAX, 0, 1)
        self.vocab, self.rng = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)), random.Random(1)

    def clear(self):
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)

    def decode(self, position, tokens, every):
        """So many tokens of every sequence, from that position on; logits of every one, or of the last."""
        b, n = self.batch, 0
        for s in range(self.streams):
            for i in range(tokens):
                b.token[n], b.pos[n], b.n_seq_id[n] = self.rng.randrange(self.vocab), position + i, 1
                b.seq_id[n][0], b.logits[n] = s, every or i + 1 == tokens
                n += 1
        b.n_tokens = n
        if self.llama.llama_decode(self.context, b):
            sys.exit("llama_decode failed")
        self.llama.llama_synchronize(self.context)

    def close(self):
        self.llama.llama_batch_free(self.batch)
        self.llama.llama_free(self.context)


def main():
    directory, threads = sys.argv[1], int(sys.argv[2])
    llama, now, models = load(directory), clock(threads), {}
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama.llama_log_set(ctypes.cast(quiet, ctypes.c_void_p), None)

    def answer(q):
        if q["model"] not in models:
            models[q["model"]] = llama.llama_model_load_from_file(q["model"].encode(),
                                                                  llama.llama_model_default_params())
        if q["what"] == "prefill":
            e = Engine(llama, models[q["model"]], threads, 1, PREFILL_MAX)

            def prompt():
                e.clear()
                e.decode(0, q["tokens"], False)

            seconds, tokens = median_s(prompt, now), q["tokens"]
        else:
            e = Engine(llama, models[q["model"]], threads, q["streams"], q["context"] + WARM + STEPS)
            e.decode(0, q["context"], False)
            for i in range(WARM + STEPS):
                if i == WARM:
                    t = now()
                e.decode(q["context"] + i, 1, True)
            seconds, tokens = now() - t, STEPS * q["streams"]
        e.close()
        return {"tokens_per_s": tokens / seconds}

    serve(answer)


if __name__ == "__main__":
    main()
