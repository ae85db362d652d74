"""Looped models of their published shapes, with random weights: python3 tests/sizes/run.py [SHAPE]...

attractor-140m and attractor-770m as published (float32, model.pt), huginn-3.5b in bf16 shards: made
(tests/tools/make_looped_checkpoint.py), imported and loaded within limits of memory; the first two served, to one
client and to 32 at once, the third asked for one token. Prints the figures. Times are of the wall, of processor of all
threads; tests/bench/peers/run.py and deq bench engine have the speeds. Works in build/sizes and leaves nothing there;
takes as much of the disk as a checkpoint and its model do: 16 GB for the largest."""
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(ROOT, "tests", "e2e"), os.path.join(ROOT, "tests", "tools")]
sys.dont_write_bytecode = True

import lib
import make_looped_checkpoint as made
from lib import BUILD, DEQ, Daemon, check, counts, equal

SHAPES = {"attractor-140m": ("torch", "f32"), "attractor-770m": ("torch", "f32"), "huginn-3.5b": ("shards", "bf16")}
STREAMS, POSITIONS, TOKENS = 32, 256, 8
IMPORT_MB = 200  # beside the largest tensor as float32
ROOM_MB = 200    # of a daemon beside what it declares: the program, tokenizer, threads, connections
lib.PATIENCE_S = PATIENCE_S = 1800  # a daemon that loads gigabytes on a busy machine


def timed(*args):
    """(stdout, seconds, seconds of processor, peak resident MB)"""
    t = time.monotonic()
    p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    out = p.stdout.read().decode("utf-8")
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    check(p.returncode == 0, "%s: exit code %d" % (" ".join(args[:3]), p.returncode))
    return out, time.monotonic() - t, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def say(what, seconds, more):
    print("    %-44s %7.1f s, %s" % (what, seconds, more), flush=True)


def peak_mb(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 1024


def load(model, largest):
    """What deq inspect says; loading takes the packed weights and, on the way, the largest tensor."""
    out, s, cpu, mb = timed(DEQ, "inspect", model, "--json")
    about = json.loads(out)
    weights = about["weight_bytes"] / 1e6
    say("loaded", s, "%.1f s of processor, %.0f MB at most: weights %.0f" % (cpu, mb, weights))
    check(mb < weights + largest / 1e6 + IMPORT_MB, "loading takes %.0f MB" % mb)
    return weights


def ask(d, prompt, answers, i):
    t = time.monotonic()
    status, _, o = d.post("/v1/completions", {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0,
                                              "ignore_eos": True, "return_token_ids": True}, timeout=PATIENCE_S)
    answers[i] = status, o["choices"][0]["token_ids"], o["deq"]["converged"], time.monotonic() - t


def serve(model, weights):
    """One client, then 32 at once, of which the first asks the same and gets the same."""
    rng = random.Random(1)
    prompts = [[rng.randrange(32768) for _ in range(16)] for _ in range(STREAMS)]
    alone, answers = [None], [None] * STREAMS
    with Daemon("engine.max_sequences=%d" % STREAMS, "engine.max_positions=%d" % POSITIONS, "engine.stall_ms=600000",
                model=model) as d:
        ask(d, prompts[0], alone, 0)
        one_mb, t = peak_mb(d.p.pid), time.monotonic()
        clients = [threading.Thread(target=ask, args=(d, p, answers, i)) for i, p in enumerate(prompts)]
        for c in clients:
            c.start()
        for c in clients:
            c.join()
        s, mb, engine = time.monotonic() - t, peak_mb(d.p.pid), d.metrics()["deqd_engine_memory_bytes"] / 1e6
        say("served to 1", alone[0][3], "%d tokens behind 16; ready after %.1f s, %.0f MB at most" % (
            TOKENS, d.first["load_ms"] / 1000, one_mb))
        say("served to %d at once" % STREAMS, s, "%.1f tokens/s, %.0f MB at most: weights %.0f, rows and cache %.0f" % (
            TOKENS * STREAMS / s, mb, weights, engine))
    equal([(a[0], len(a[1]), a[2]) for a in alone + answers], [(200, TOKENS, True)] * (STREAMS + 1), "answers")
    equal(answers[0][1], alone[0][1], "among others as alone")
    check(mb < weights + engine + ROOM_MB, "%.0f MB resident" % mb)


def generate(model, weights, largest):
    out, s, cpu, mb = timed(DEQ, "generate", model, "<1> <2> <3>", "--max-tokens", "1", "--ignore-eos", "--json")
    o = json.loads(out)
    say("a token generated", s, "%.0f s of processor, %.0f MB at most; %.2f s to it, %.0f evaluations" % (
        cpu, mb, o["time_to_first_token_seconds"], o["evaluations_per_token"]))
    equal(o["completion_tokens"], 1, "a token")
    check(mb < weights + largest / 1e6 + 2 * ROOM_MB, "generating takes %.0f MB" % mb)


def one(shape):
    form, dtype = SHAPES[shape]
    place = os.path.join(BUILD, "sizes", shape)
    source, model = os.path.join(place, "made"), os.path.join(place, "model")
    shutil.rmtree(place, ignore_errors=True)
    print(shape, flush=True)
    try:
        t = time.monotonic()
        largest = made.make(shape, source, form, dtype)
        files = sum(os.path.getsize(os.path.join(source, f)) for f in os.listdir(source))
        say("a checkpoint is made", time.monotonic() - t, "%.2f GB, %s" % (files / 1e9, dtype))
        _, s, cpu, mb = timed(DEQ, "import", source, "--out", model)
        say("imported", s, "%.1f s of processor, %.0f MB at most: the largest tensor %.0f" % (cpu, mb, largest / 1e6))
        check(mb < largest / 1e6 + IMPORT_MB, "import takes %.0f MB" % mb)
        shutil.rmtree(source)
        weights = load(model, largest)
        if shape.startswith("huginn"):
            generate(model, weights, largest)
        else:
            serve(model, weights)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main():
    for shape in sys.argv[1:] or SHAPES:
        one(shape)
    print("%(passed)d passed, %(failed)d failed" % counts)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
