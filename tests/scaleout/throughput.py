"""What replicas bring on one machine, measured: one deqd with all cores, alone and behind HAProxy, against three that
share them.

    make bench-scaleout, or sh tests/scaleout/run.sh throughput [repetitions, default 5]

The cores are the same, so little can be gained: what threads of one engine lose by waiting for each other, against
weights and caches that are there three times and batches a third as large. Repetitions are interleaved, so that
whatever else the machine does meets all of them alike; ratios are taken within a repetition. "Others" is what the
machine's cores were busy with besides, stolen time included."""
import json
import os
import statistics
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from haproxy import STORIES, Proxy, Replicas, lib  # noqa: E402

INPUT, OUTPUT, CONCURRENCY = 32, 64, (8, 48)
TICK = os.sysconf("SC_CLK_TCK")


def machine_busy_s():
    """CPU seconds that all cores were busy since boot."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:9]]
    return (sum(v) - v[3] - v[4]) / TICK


def cpu_s(pid):
    with open("/proc/%d/stat" % pid) as f:
        v = f.read().rsplit(")", 1)[1].split()
    return (int(v[11]) + int(v[12])) / TICK


def bench(url, concurrency, seed):
    n = 4 * concurrency if concurrency >= 48 else 12 * concurrency
    code, out, err = lib.run([lib.DEQ, "bench", "serve", url, "--num-prompts", str(n), "--max-concurrency",
                              str(concurrency), "--input-len", str(INPUT), "--output-len",
                              str(OUTPUT), "--seed", str(seed), "--json"], timeout=600)
    if code:
        sys.exit("deq bench serve: exit code %d: %s" % (code, err))
    return json.loads(out)


def main():
    repeat = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cores = len(os.sched_getaffinity(0))
    with Replicas(model=STORIES, n=1, threads=cores) as one, Replicas(model=STORIES,
                                                                      threads=max(1, cores // 3)) as three, \
            Replicas(model=STORIES,
                     threads=cores) as crowded, Proxy(one) as p1, Proxy(three) as p3, Proxy(crowded) as pc:
        each = max(1, cores // 3)
        setups = [("one replica, %d thread%s, no proxy" % (cores, "s"[:cores > 1]), one[0]),
                  ("the same behind HAProxy", p1),
                  ("three replicas, %d thread%s each" % (each, "s"[:each > 1]), p3),
                  ("three replicas, %d threads each (the default)" % cores, pc)]
        daemons = [d.p.pid for some in (one, three, crowded, (p1, p3, pc)) for d in some]
        print("%d cores, model stories, prompts of %d tokens, %d generated; load average before: %s" %
              (cores, INPUT, OUTPUT, " ".join("%.2f" % x for x in os.getloadavg())))
        for c in CONCURRENCY:
            for _, at in setups:
                bench("http://127.0.0.1:%d" % at.port, c, 0)  # warm
            got, foreign = [[] for _ in setups], []
            for r in range(repeat):
                for k, (_, at) in enumerate(setups):
                    begin, busy = time.monotonic(), machine_busy_s()
                    own = sum(cpu_s(x) for x in daemons) + sum(os.times()[:4])
                    got[k].append(bench("http://127.0.0.1:%d" % at.port, c, r + 1))
                    own = sum(cpu_s(x) for x in daemons) + sum(os.times()[:4]) - own
                    foreign.append(max(0, machine_busy_s() - busy - own) / (time.monotonic() - begin))
            print("\n%d open requests, medians of %d repetitions; others took %.2f cores meanwhile (%.2f to %.2f)" %
                  (c, repeat, statistics.median(foreign), min(foreign), max(foreign)))
            if statistics.median(foreign) > 0.1:
                print("The machine was not quiet: these ratios say as much about its other work (one core taken away "
                      "stops every thread of an engine that has two).")
            print("| | tokens/s (least, most) | of the first | TTFT median, p99 | ITL p99 |\n|---|---|---|---|---|")
            for k, (name, _) in enumerate(setups):
                def median(key, k=k):
                    return statistics.median(x[key] for x in got[k])

                rate = [x["output_throughput"] for x in got[k]]
                ratio = statistics.median(a / b["output_throughput"] for a, b in zip(rate, got[0]))
                print("| %s | %.0f (%.0f, %.0f) | %.2f | %.0f, %.0f ms | %.0f ms |" %
                      (name, statistics.median(rate), min(rate), max(rate), ratio, median("median_ttft_ms"),
                       median("p99_ttft_ms"), median("p99_itl_ms")))
            failed = sum(x["failed"] for g in got for x in g)
            if failed:
                sys.exit("%d requests failed" % failed)
        print("\nload average after: %s; resident: one replica %.0f MB, three %.0f MB" %
              (" ".join("%.2f" % x for x in os.getloadavg()), resident_mb(one), resident_mb(three)))


def resident_mb(replicas):
    total = 0
    for d in replicas:
        with open("/proc/%d/status" % d.p.pid) as f:
            total += next(int(line.split()[1]) for line in f if line.startswith("VmRSS:"))
    return total / 1024


if __name__ == "__main__":
    main()
