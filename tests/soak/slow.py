#!/usr/bin/env python3
"""A good client beside a thousand slow ones. Standard library, and slowhttptest (Debian has it).

    tests/soak/slow.py [--seconds 60] [--connections 1000] [--model models/stories]

Four attacks, each for so many seconds: heads that never end, bodies that come byte by byte, answers that are read byte
by byte, and requests that ask for ranges. The good client asks for 16 tokens, again and again, a request at a time,
through the same address: before each attack as long, and during it. What must hold, else BROKEN and exit code 1: each
of its requests is answered; the daemon grows by at most 64 MiB; no connection is left a deadline after the attack. What
a busy machine can miss (MISSED, exit code 1 with --strict): the p99 of the good one's latency is at most twice the calm
one."""
import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
sys.dont_write_bytecode = True
import lib  # noqa: E402

GROWTH = 64 << 20
BODY = {"prompt": "Once upon a time", "max_tokens": 16, "temperature": 0, "ignore_eos": True, "cache": "off"}
ATTACKS = {
    "heads that never end": ["-H", "-i", "1", "-t", "GET", "-x", "24"],
    "bodies byte by byte": ["-B", "-i", "1", "-s", "8192", "-t", "POST", "-x", "1"],
    "answers read byte by byte": ["-X", "-n", "1", "-w", "64", "-y", "256", "-z", "1", "-k", "3"],
    "ranges": ["-R", "-t", "GET", "-a", "1", "-b", "3000"],
}


def memory(d):
    with open("/proc/%d/status" % d.p.pid) as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmRSS:"))


def p99(xs):
    xs = sorted(xs)
    return xs[min(len(xs) - 1, int(0.99 * len(xs)))]


def latencies(d, until):
    """Of a good client's requests, in ms, until that holds; and how many were not answered."""
    took, lost = [], 0
    while not until():
        begin = time.monotonic()
        try:
            lost += d.request("POST", "/v1/completions", BODY)[0] != 200
        except (OSError, ValueError):
            lost += 1
        took.append(1e3 * (time.monotonic() - begin))
        time.sleep(0.02)
    return took, lost


def attack(d, name, flags, options):
    path = "/openapi.json" if "-X" in flags else "/v1/completions" if "-B" in flags else "/v1/models"
    argv = ["slowhttptest", *flags, "-c", str(options.connections), "-r", "200", "-l", str(options.seconds), "-p", "3",
            "-u", "http://%s:%d%s" % (d.host, d.port, path)]
    end = time.monotonic() + options.seconds
    calm, lost = latencies(d, lambda: time.monotonic() > end)
    before, most = memory(d), 0
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as p:
        def over():
            nonlocal most
            most = max(most, int(d.metrics()["deqd_http_connections"]))
            return p.poll() is not None
        during, more = latencies(d, over)
    grown = memory(d) - before
    wait_s = 35  # the longest deadline: a body's
    gone, m = d.wait_metric(lambda m: m["deqd_http_connections"] <= 1, wait_s)
    ratio = p99(during) / p99(calm)
    print("%-26s at most %4d connections; p50, p99 of the good client: %.1f, %.1f ms calm, %.1f, %.1f ms beside it: "
          "%.2f times; %d of %d lost; resident %+.1f MiB; %d connections left" % (
              name, most, statistics.median(calm), p99(calm), statistics.median(during), p99(during), ratio,
              lost + more, len(calm) + len(during), grown / 2**20, int(m["deqd_http_connections"]) - 1), flush=True)
    broken = ["%s: %d requests of the good client were not answered" % (name, lost + more)] * bool(lost + more) + \
        ["%s: %.1f MiB more" % (name, grown / 2**20)] * (grown > GROWTH) + \
        ["%s: %d connections were left" % (name, m["deqd_http_connections"] - 1)] * (not gone)
    return broken, ["%s: p99 %.2f times the calm one" % (name, ratio)] * (ratio > 2)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=int, default=60)
    p.add_argument("--connections", type=int, default=1000)
    p.add_argument("--model", default=os.path.join(lib.ROOT, "models", "stories"))
    p.add_argument("--strict", action="store_true")
    options = p.parse_args()
    if not shutil.which("slowhttptest"):
        print("slow: skipped: no slowhttptest; apt-get install --no-install-recommends slowhttptest")
        return 0
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    broken, missed = [], []
    with lib.Daemon(model=options.model) as d:
        for name, flags in ATTACKS.items():
            worse, slower = attack(d, name, flags, options)
            broken += worse
            missed += slower
    broken += ["the daemon's log or its end, see FAIL above"] * (lib.counts["failed"] > 0)
    for text in missed:
        print("MISSED " + text)
    for text in broken:
        print("BROKEN " + text)
    print("slow: %d broken, %d missed, %s" % (len(broken), len(missed), time.strftime("%F %T")))
    return 1 if broken or (missed and options.strict) else 0


if __name__ == "__main__":
    sys.exit(main())
