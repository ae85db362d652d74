"""The paper's shape, with random weights: python3 tests/paper/run.py [TEXT]

D 700, 10 heads of 70, inner 48,000, 267,735 words in clusters cut at 20,000, 40,000, 200,000, div_val 4: made
(make_paper_checkpoint.py), imported, loaded, served and scored by the authors' segments, within limits of time and
memory; prints the figures. Times of processor are of all threads, so that a busy machine does not change them. TEXT:
what is scored (default: models/README.md); its words begin the vocabulary. Leaves what it made under
build/paper."""
import json
import math
import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
sys.dont_write_bytecode = True

from lib import BUILD, DEQ, ROOT, Daemon, check, counts

WIKITEXT_103_TEST = 245569  # words and line ends
STREAMS, SEGMENTS, T = 2, 4, 150  # so long that a memory of 480 fills
WEIGHTS_MB = 391            # float32


def timed(*args):
    """(stdout, seconds, seconds of processor, peak resident MB)"""
    t = time.monotonic()
    p = subprocess.Popen(args, stdout=subprocess.PIPE)
    out = p.stdout.read().decode("utf-8")
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    check(p.returncode == 0, "%s: exit code %d" % (" ".join(args[:3]), p.returncode))
    return out, time.monotonic() - t, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def say(what, seconds, cpu, more=""):
    print("%-34s %7.1f s, %6.1f s of processor%s" % (what, seconds, cpu, more), flush=True)


def resident_mb(pid):
    with open("/proc/%d/status" % pid) as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024


def main():
    text = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "models", "README.md")
    place = os.path.join(BUILD, "paper")
    made, model = os.path.join(place, "made"), os.path.join(place, "model")
    shutil.rmtree(place, ignore_errors=True)

    _, s, cpu, _ = timed(sys.executable, os.path.join(ROOT, "tests", "tools", "make_paper_checkpoint.py"), made,
                         "--text", text)
    say("a checkpoint is made", s, cpu)
    _, s, cpu, mb = timed(DEQ, "import", os.path.join(made, "checkpoint.pth"), "--config",
                          os.path.join(made, "config.json"), "--vocab", os.path.join(made, "vocab.txt"), "--out", model)
    say("deq import", s, cpu, ", %.0f MB at most" % mb)
    check(cpu < 10 and mb < 4 * WEIGHTS_MB, "import: %.1f s of processor, %.0f MB" % (cpu, mb))

    runs = [timed(DEQ, "inspect", model) for _ in range(3)]
    _, s, cpu, _ = min(runs, key=lambda r: r[2])
    say("it is loaded (the best of three)", s, cpu)
    check(cpu < 3, "loads within 3 s: %.2f s of processor" % cpu)

    with Daemon(model=model) as d:
        ready = d.wait_line(30, message="listening")
        mb = resident_mb(d.p.pid)
        print("%-34s %7.1f s, %.0f MB resident: weights %d, keys and values %.0f" % ("deqd is ready after",
                                                                                     ready["load_ms"] / 1000, mb,
                                                                                     WEIGHTS_MB,
              d.metrics()["deqd_cache_pages"] * 16 * 6000 / 1e6))
        check(mb < 2.2 * WEIGHTS_MB, "weights are held once: %.0f MB resident" % mb)
        prompt = open(text, encoding="utf-8").read().split()[:40]
        q = {"prompt": " ".join(prompt), "max_tokens": 16, "temperature": 1, "seed": 1, "ignore_eos": True,
             "return_token_ids": True}
        t, before = time.monotonic(), d.metrics()["deqd_steps_total"]
        o = d.complete(**q)
        s, steps = time.monotonic() - t, d.metrics()["deqd_steps_total"] - before
        print("%-34s %7.1f s for %d tokens behind %d; %d steps, %.0f ms each" % ("a completion", s,
                                                                                 len(o["choices"][0]["token_ids"]),
                                                                                 len(prompt), steps, 1000 * s / steps))
        check(len(o["choices"][0]["token_ids"]) == 16 and o["deq"]["converged"], "a completion: %s" % o["deq"])
        c = d.complete(**dict(q, logprobs=1))["choices"][0]
        check(c["token_ids"] == o["choices"][0]["token_ids"], "the same with log-probabilities")
        check(math.isfinite(sum(c["logprobs"]["token_logprobs"])), "log-probabilities")

    limit = STREAMS * (SEGMENTS * T + 1)
    for memory in (150, 480):
        out, s, cpu, mb = timed(DEQ, "eval", model, text, "--tgt-len", str(T), "--mem-len", str(memory), "--streams",
                                str(STREAMS), "--limit", str(limit), "--json")
        o = json.loads(out)
        say("deq eval, memory %d, %d tokens" % (memory, o["tokens"]), s, cpu, ", %.0f MB at most" % mb)
        print("    %.0f tokens/s, %.1f evaluations a segment, perplexity %.0f; WikiText-103's test split at that pace: "
              "%.1f hours" % (
            o["tokens_per_second"], o["evaluations_per_segment"], o["perplexity"],
            WIKITEXT_103_TEST / o["tokens_per_second"] / 3600), flush=True)
        check(o["tokens"] == STREAMS * SEGMENTS * T and o["converged"] == o["segments"] == STREAMS * SEGMENTS,
              "segments: %s" % out)
        check(2e3 < o["perplexity"] < 1e6, "random weights guess: %s" % out)
    print("%(passed)d passed, %(failed)d failed" % counts)
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
