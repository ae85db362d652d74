"""deq bench kernels, deq bench engine: what they print, not how fast this machine is."""
import json
import math
import os
import signal
import struct
import subprocess
import sys
import tempfile
import time

from lib import DEQ, ROOT, SLOW, TINY, check, clean_env, equal, run

PEERS = os.path.join(ROOT, "tests", "bench", "peers")
sys.path[:0] = [PEERS, os.path.join(ROOT, "tests", "tools")]
import gguf
import make_looped_checkpoint as looped

TRELLIS = os.path.join(os.path.dirname(TINY), "tiny-trellis")
COUNTED = {"explicit_rows", "coda_rows", "head_rows", "screen_rows"}
COUNTS = {"tokens_per_s", "steps", "evaluations"} | COUNTED
PARTS = {"evaluation": {"rows", "context", "us", "us_per_row", "floor_us", "floor_of", "fraction"},
         "ends": {"work", "rows", "us", "us_per_row", "floor_us", "floor_of", "fraction"},
         "memory": {"streams", "positions", "weights_mb", "engine_mb", "bytes_per_position", "peak_mb", "load_s",
                    "open_s"},
         "prefill": {"prompt", "window"} | COUNTS, "generation": {"streams", "window", "temperature"} | COUNTS,
         "depth": {"start", "tol", "window"} | COUNTS,
         "training": {"phase", "ms_per_step", "tokens_per_s", "evaluations", "floor_us_per_token", "fraction"}}
MACHINE = {"kernels", "threads", "floats", "integers", "read", "scale", "steadiness", "quiet"}


def bench(kind, *args, env=None):
    """The JSON of a quick run."""
    code, out, err = run([DEQ, "bench", kind, *args, "--quick", "--json"], env=env)
    equal((code, err), (0, ""), "bench %s %s" % (kind, " ".join(args)))
    return json.loads(out)


def sane(rows, keys, what):
    """A list of figures: its keys, and numbers that something was measured for; only what is counted may be 0."""
    check(rows and all(set(r) == keys for r in rows), "%s: keys: %s" % (what, rows[:1]))
    counted = {"temperature"} | COUNTED
    for r in rows:
        for k, v in r.items():
            check(isinstance(v, str) or math.isfinite(v) and (v > 0 or k in counted and v == 0),
                  "%s: %s: %s" % (what, k, r))


def test_kernels():
    o = bench("kernels", TINY, "--threads", "2")
    m = o["machine"]
    equal((set(m), m["threads"]), (MACHINE, 2), "machine")
    check(all(m[u][r] > 0 for u in ("floats", "integers") for r in ("gop_per_s_one", "gop_per_s_all")), "peaks: %s" % m)
    check({"l1", "l2", "dram"} <= set(m["read"]) and
          all(r["bytes"] > 0 and r["gb_per_s_one"] > 0 and r["gb_per_s_all"] > 0 for r in m["read"].values()),
          "memory: %s" % m)
    equal([(x["model"], x["class"], x["parameters"]) for x in o["models"]], [(TINY, "float32", 34432)], "models")
    products = o["models"][0]["products"]
    sane(products, {"matrix", "format", "n", "k", "rows", "us", "gop_per_s", "floor_us", "floor_of", "fraction"},
         "products")
    up = [(p["n"], p["k"], p["rows"]) for p in products if p["matrix"] == "blocks.0.ffn.up.weight"]
    equal([r for _, _, r in up], [1, 3, 8], "rows: %s" % up)
    equal(len({p["matrix"] for p in products}), len(products) // 3, "each matrix once")


def test_kernels_of_every_class_and_level():
    for name, cell, ends in (("int16", "i16", "i16"), ("int8", "i8", "i16")):
        o = bench("kernels", TINY, "--class", name, "--threads", "1", env={"DEQ_CPU": "ref"})
        equal((o["machine"]["kernels"], o["models"][0]["class"]), ("ref", name), "level and class")
        formats = {p["matrix"]: p["format"] for p in o["models"][0]["products"]}
        equal((formats["blocks.0.ffn.up.weight"], formats["embed.weight"]), (cell, ends), "formats of " + name)


def test_engine():
    with tempfile.TemporaryDirectory() as tmp:
        o = bench("engine", TINY, TRELLIS, "--class", "int16", "--threads", "2", env={"TMPDIR": tmp})
        equal(os.listdir(tmp), [], "what is left of directories that were made")
    equal([x["model"] for x in o["models"]], [TINY, TRELLIS], "models")
    for x in o["models"]:
        equal(set(x), set(PARTS) | {"model", "parameters", "class"}, "parts")
        equal(x["class"], "int16", "the class that was asked for")
        for part, keys in PARTS.items():
            sane(x[part], keys, x["model"] + ", " + part)
        check(all(r["steps"] <= r["evaluations"] for r in x["prefill"] + x["depth"]), "steps: %s" % x["prefill"])


def test_layers_beside_the_loop():
    """Each part is measured where a model has it; prompts are not cut where only the layers before the loop have run,
    and a model's own limit of positions is kept."""
    with tempfile.TemporaryDirectory() as tmp:
        models = [os.path.join(tmp, f) for f in ("attractor-tiny", "parcae-tiny")]
        for m in models:
            looped.make(os.path.basename(m), m + "-made")
            equal(run([DEQ, "import", m + "-made", "--out", m])[0], 0, "import")
        attractor, parcae = bench("engine", *models, "--only", "ends", "--threads", "1")["models"]
        for x, names in ((attractor, {"layers before", "head"}), (parcae, {"layers before", "layers behind", "head"})):
            sane(x["ends"], PARTS["ends"], "ends")
            equal({r["work"] for r in x["ends"]} - {"head in bytes"}, names, "parts of " + x["model"])
        o = bench("engine", models[0], "--only", "prefill", "--threads", "1")["models"][0]["prefill"]
        equal({(r["prompt"], r["explicit_rows"]) for r in o}, {(64, 1)}, "whole prompts")


def test_a_shape():
    """Its model is there while it is measured, and gone after a signal too."""
    with tempfile.TemporaryDirectory() as tmp:
        o = bench("engine", "S", "--only", "evaluation", "--threads", "1", env={"TMPDIR": tmp})
        equal((set(o["models"][0]), o["models"][0]["parameters"]), ({"model", "parameters", "class", "evaluation"},
                                                                    2105088), "S")
        equal(os.listdir(tmp), [], "what is left")
        p = subprocess.Popen([DEQ, "bench", "engine", "S", "S", "S", "S", "--quick"], env=clean_env({"TMPDIR": tmp}),
                             stdout=subprocess.DEVNULL)
        end = time.monotonic() + 60 * SLOW
        while not os.listdir(tmp) and time.monotonic() < end:
            time.sleep(0.01)
        check(os.listdir(tmp), "a directory")
        p.send_signal(signal.SIGTERM)
        equal((p.wait(timeout=60 * SLOW), os.listdir(tmp)), (-signal.SIGTERM, []), "after SIGTERM")


def test_chosen_streams_and_windows():
    with tempfile.TemporaryDirectory() as tmp:
        made, model = os.path.join(tmp, "made"), os.path.join(tmp, "attractor-tiny")
        looped.make("attractor-tiny", made)
        equal(run([DEQ, "import", made, "--out", model])[0], 0, "import")
        o = bench("engine", model, "--only", "generation", "--threads", "1", "--streams", "1,3", "--windows", "1,4")
    rows = o["models"][0]["generation"]
    sane(rows, PARTS["generation"], "generation")
    equal([(r["temperature"] > 0, r["window"], r["streams"]) for r in rows],
          [(drawn, w, n) for drawn in (True, False) for w in (1, 4) for n in (1, 3)], "what was asked for, in order")
    check(all(r["explicit_rows"] >= 1 for r in rows), "a pass through the layers before the loop a token: %s" % rows)
    check(all((r["steps"] == r["evaluations"]) == (r["window"] == r["streams"] == 1) for r in rows),
          "one row a step, and more: %s" % rows)


def test_a_table():
    code, out, err = run([DEQ, "bench", "engine", TINY, "--quick", "--only", "prefill"])
    lines = [line.split() for line in out.splitlines()]
    check(code == 0 and not err and out.startswith("machine, kernels "), "a report: %d %r %r" % (code, out[:80], err))
    head = lines.index(["prompt", "window", "tokens_per_s", "steps", "evaluations", "explicit_rows", "coda_rows",
                        "head_rows", "screen_rows"])
    equal([line[1] for line in lines[head + 1:]], ["1", "2", "4", "8", "16", "32", "64"], "a row a window")


def test_bad_input():
    with tempfile.TemporaryDirectory() as tmp:
        nowhere = os.path.join(tmp, "nowhere")
        for args, code, word in (
            (["kernels", nowhere], 1, nowhere + ": neither a shape (S, M, W, attractor-140m"),
            (["engine", tmp, "--quick"], 1, "config.json"), (["engine", ""], 1, '"": neither'),
            (["kernels", "--class", "int4"], 2, "--class"), (["kernels", "--threads", "0"], 2, "--threads"),
            (["engine", "--only", "all of it"], 2, "--only"), (["engine", "--streams", "1,x"], 2, "--streams"),
            (["engine", "--windows", "1,65"], 2, "--windows: 65 is outside 1..64"),
            (["engine", "--context", "0"], 2, "--context"),
            (["kernels", "--only", "depth"], 2, "--only"), (["engine"] + ["S"] * 17, 2, "unexpected argument"),
            (["nothing"], 2, 'unknown kind "nothing"'), ([], 2, "Usage: deq bench"),
            (["engine", "S", "--only", "training", "--quick"], 1, "ends a document")):
            got, out, err = run([DEQ, "bench"] + args)
            check(got == code and word in err and (not out or "--quick" in args),
                  "%s: %d %r %r" % (args, got, out[:200], err))
    for args in (["--help"], ["kernels", "--help"], ["engine", "--help"]):
        code, out, err = run([DEQ, "bench"] + args)
        check(code == 0 and out.startswith("Usage: deq bench") and not err, "%s: %r" % (args, out[:80]))


# --- Peers ---

def test_peers_that_are_not_there():
    """Both are left out with a word, and deqd is measured all the same."""
    with tempfile.TemporaryDirectory() as tmp:
        code, out, err = run([sys.executable, os.path.join(PEERS, "run.py"), "--dir", tmp, "--deq", DEQ, "--shapes",
                              "S", "--rounds", "1", "--threads", "1", "--quick"])
        check(code == 0 and "left out: PyTorch" in out and "left out: llama.cpp" in out and
              "of 1 runs of deq bench" in out, "no peers: %d %r %r" % (code, out, err))


def test_gguf():
    """Every tensor lies inside the file, behind the one before, at a multiple of 32 bytes."""
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "m.gguf")
        gguf.write(path, layers=2, vocab=96, d=64, heads=2, inner=128, context=32)
        with open(path, "rb") as f:
            data = f.read()
    at = 0

    def take(form):
        nonlocal at
        values = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return values if len(values) > 1 else values[0]

    def text():
        n = take("Q")
        return take("%ds" % n).decode()

    equal((take("4s"), take("I")), (b"GGUF", 3), "magic and version")
    n_tensors, n_keys = take("QQ")
    keys = {}
    for _ in range(n_keys):
        name, kind = text(), take("I")
        keys[name] = text() if kind == gguf.STRING else take({gguf.U32: "I", gguf.FLOAT: "f"}[kind])
    equal((keys["general.architecture"], keys["gpt2.block_count"], keys["gpt2.embedding_length"]), ("gpt2", 2, 64),
          "keys")
    end, last = 0, 0
    for _ in range(n_tensors):
        name, dims = text(), take("I")
        count = math.prod(take("%dQ" % dims) if dims > 1 else [take("Q")])
        kind, offset = take("IQ")
        check(offset == end, "%s begins where the one before ends: %d, %d" % (name, offset, end))
        last = offset + (count * 4 if kind == gguf.F32 else count // gguf.BLOCK * (gguf.BLOCK + 2))
        end = -(-last // 32) * 32
    equal((n_tensors, -(-at // 32) * 32 + end), (4 + 2 * 12, len(data)), "all of the file")
