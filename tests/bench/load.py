#!/usr/bin/env python3
"""The daemon under load: what it promises, and what it costs. Standard library only.

    tests/bench/load.py [MODEL] [PART...] [--scale X] [--strict] [--split] [--runs N] [--flood N] [--priority P]
                        [--text FILE] [--svg FILE]

Parts: streams overload churn overhead clients prefill idle restart fairness elastic (all, when none is named). Each
starts a daemon of its own.
--scale 0.1 makes a tenth of the load, to see whether this script works.
--split: the daemon has the first core for itself, clients have the others. --runs: of overload, how many (1).
--flood, --priority: of fairness, how many requests the one caller keeps open (64), and how they are to be ranked (0).
--text: of elastic, what is scored (models/README.md, its first 4,000 letters). --svg: of elastic, where its plot goes.

Two kinds of last lines: BROKEN, a promise that holds on any machine (exit code 1); MISSED, a figure that was worse than
its target, which a busy machine can do too (exit code 1 only with --strict).

Memory (overload, streams). Declared is what somebody who sets a container's limit can compute before any request came:
    deqd_engine_memory_bytes + deqd_model_weight_bytes + 100 KB for each connection + a base
The engine zeroes what it reserves, so all of it is resident from the start. The base (program, libraries, stacks,
configuration) must not be taken from the daemon that is judged: idle memory minus what it declares would hide whatever
it holds and does not declare. It is taken from an idle daemon with the smallest model (tests/golden/tiny), and so
leaves out everything that grows with the model. Connections are those that were open at once, not those allowed. Peak
is VmHWM, which the kernel keeps, set back before the load.

Goodput (overload): a machine that others share, or whose clock moves, is by some percent another one a quarter of a
minute later, so capacity and overload take turns of a few seconds. A turn's goodput is that of the time in which
requests are refused, beside the mean of the capacities before and behind it; the median of three turns counts. Both are
what passes while every place is taken: neither the beginning nor the end of a load. Beside it stands the same by the
daemon's processor time: what is lost in the former and not in the latter, others took.

Overhead is CPU time that is not spent on solving: of the engine's thread outside steps
(deqd_engine_overhead_seconds_total: queue, hand-over to the readers) and of all threads that do not compute
(HTTP, watching), over the wall time of steps (deqd_step_seconds). Not wall time of the engine's thread outside steps:
on a machine whose cores all compute, the HTTP threads run in its place then, and would be counted twice. What stays
inside steps is the count of a token for /metrics and the making of its text (about 1 us). HTTP's share is the same
from outside, in wall time: streams against one answer with the same texts.
"""
import argparse
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from client import Client  # noqa: E402
import lib  # noqa: E402  (tests/e2e, by client.py)

PROMPTS = ["Once upon a time", "Tom had a red ball.", "The little dog was very", "One day, a girl named Lucy found a",
           "Mum said, \"You must", "There was a big tree in the", "A bird sat on the", "It was raining, so Ben",
           "Sara and her brother", "In the garden there lived a", "The cat saw a",
           "\"Can I play with you?\" asked", "Anna wanted to", "The old man gave", "Every morning the",
           "When the sun went down,", "He ran and ran until", "She was sad because", "They all laughed and",
           "At the end of the road"]
CONNECTION_BYTES = 100000
LONG_TOKENS = 4000

options = None
broken, missed = [], []


def say(part, text):
    print("%-9s %s" % (part, text), flush=True)


def promise(ok, part, text):
    if not ok:
        broken.append("%s: %s" % (part, text))
    return ok


def target(ok, part, text):
    if not ok:
        missed.append("%s: %s" % (part, text))


def scaled(n, least=1):
    return max(least, int(n * options.scale))


def percentile(xs, p):
    xs = sorted(xs)
    return xs[min(len(xs) - 1, int(p / 100 * len(xs)))] if xs else float("nan")


class Daemon(lib.Daemon):
    """A daemon that is looked at from outside."""

    def __init__(self, *settings, model=None):
        os.sched_setaffinity(0, options.daemons_cores)  # which it inherits
        try:
            super().__init__(*settings, model=model or options.model)
        finally:
            os.sched_setaffinity(0, options.clients_cores)
        self.proc = "/proc/%d/" % self.p.pid

    def descriptors(self):
        return len(os.listdir(self.proc + "fd"))

    def memory(self, key="VmRSS"):
        with open(self.proc + "status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key + ":"))

    def reset_peak(self):
        with open(self.proc + "clear_refs", "w") as f:
            f.write("5")

    def threads(self):
        """{id: (name, CPU seconds)}"""
        ret = {}
        for t in os.listdir(self.proc + "task"):
            with open(self.proc + "task/" + t + "/stat") as f:
                stat = f.read()
            name, rest = stat[stat.index("(") + 1:stat.rindex(")")], stat[stat.rindex(")") + 2:].split()
            seconds = (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK")
            try:  # nanoseconds instead of hundredths, where the kernel keeps them
                with open(self.proc + "task/" + t + "/schedstat") as f:
                    seconds = int(f.read().split()[0]) * 1e-9
            except (OSError, ValueError):
                pass
            ret[int(t)] = (name, seconds)
        return ret

    def client(self, nap=0.0, gather=1):
        return Client(self.host, self.port, nap, gather)

    def alone(self, n, prompt, **more):
        return self.complete(prompt, max_tokens=n, ignore_eos=True, **more)["choices"][0]["text"]


def at_rest(d, part, fds):
    """Nothing of any request is left."""
    keys = ("deqd_requests_running", "deqd_requests_waiting", "deqd_cache_pages_used", "deqd_cache_pages_reserved",
            "deqd_rows_open")
    _, m = d.wait_metric(lambda m: not any(m[k] for k in keys), 10)
    left = {k[5:]: int(m[k]) for k in keys if m[k]}
    promise(not left, part, "10 s after the last client left there still were %s" % left)
    # a connection whose client left in the middle of a request ends with server.body_timeout_ms at the latest
    t = time.monotonic()
    while d.descriptors() > fds + 2 and time.monotonic() < t + 40:
        time.sleep(0.05)
    now, took = d.descriptors(), time.monotonic() - t
    promise(abs(now - fds) <= 2, part, "the daemon had %d descriptors before and has %d after" % (fds, now))
    target(took <= 5, part, "descriptors of clients that had left were held for %.0f s more, target 5 s" % took)
    return m, "running, waiting, rows, cache pages used and reserved: %s; descriptors %d -> %d" % (left or "0", fds,
                                                                                                   now)


def cancelled(m, before):
    return {p: int(m['deqd_requests_cancelled_total{phase="%s"}' %
                     p] - before['deqd_requests_cancelled_total{phase="%s"}' % p])
            for p in ("queued", "prefill", "decode")}


def words(counts):
    return ", ".join("%d %s" % (n, k) for k, n in counts.items()) or "none"


def base_bytes():
    with Daemon(model=lib.TINY) as d:
        m = d.metrics()
        time.sleep(0.2)
        return d.memory() - m["deqd_engine_memory_bytes"] - m["deqd_model_weight_bytes"]


def check_memory(d, part, m, base, connections):
    engine, weights = m["deqd_engine_memory_bytes"], m["deqd_model_weight_bytes"]
    declared, peak = engine + weights + base + connections * CONNECTION_BYTES, d.memory("VmHWM")
    say(part, "peak resident %.1f MB, declared %.1f MB (engine %.1f + weights %.1f + base %.1f + %d connections x "
              "0.1): %+.1f %%" % (
        peak / 1e6, declared / 1e6, engine / 1e6, weights / 1e6, base / 1e6, connections, 100 * (peak / declared - 1)))
    promise(peak <= 1.05 * declared, part,
            "peak resident memory %.1f MB exceeds the declared %.1f MB by more than 5 %%" % (peak / 1e6,
                                                                                             declared / 1e6))


# --- Thousands of open streams ---

def streams():
    n, n_cut, tokens, part = scaled(2000), scaled(500), 24, "streams"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < n + 200:
        say(part, "only %d descriptors are allowed here: %d streams instead of %d" % (hard, hard - 200, n))
        n, n_cut = hard - 200, (hard - 200) // 4
    base, rng = base_bytes(), random.Random(1)
    with Daemon("server.max_connections=4096", "queue.max_requests=4096", "engine.max_sequences=32",
                "queue.timeout_ms=3600000") as d:
        want = [d.alone(tokens, p) for p in PROMPTS]
        client = d.client(nap=0.002)
        body = [{"prompt": p, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
                 "stream": True} for p in PROMPTS]
        t = time.monotonic()
        for i in range(64):
            client.post(body[i % len(body)])
        client.run()
        seconds = (time.monotonic() - t) * n / 64  # about how long all of them will take
        d.wait_metric(lambda m: m["deqd_http_connections"] <= 1, 5)
        fds, rss, before = d.descriptors(), d.memory(), d.metrics()
        d.reset_peak()

        # half of the cuts come at random times to any open stream (most wait), half at a stream's own k-th token
        cut_at = dict(zip(rng.sample(range(n), n_cut // 2), (rng.randrange(1, tokens) for _ in range(n_cut // 2))))

        def cut_random():
            others = [c for c in client.calls.values() if c.tag not in cut_at]
            if others:
                client.cut(rng.choice(others), rng.random() < 0.5)

        def on_token(c):
            if c.tokens >= cut_at[c.tag]:
                client.cut(c, c.tag % 2 == 0)

        calls, t = [], time.monotonic()
        for _ in range(n_cut - n_cut // 2):
            client.at(t + rng.random() * 0.8 * seconds, cut_random)
        for i in range(n):
            calls.append(client.post(body[i % len(body)], tag=i, on_token=on_token if i in cut_at else None))
            if i % 50 == 49:
                client.step(0)
        m = d.metrics()
        opened, t_open, connections = int(m["deqd_http_connections"]) - 1, time.monotonic() - t, client.most
        ended = client.run(lambda: not client.calls)
        took = time.monotonic() - t
        client.timers.clear()
        m, rest = at_rest(d, part, fds)
        states = {s: sum(c.state == s for c in calls) for s in ("done", "cut", "broken")}
        wrong = sum(c.answers() != [want[c.tag % len(want)]] for c in calls if c.state == "done")
        say(part, "%d opened in %.2f s (%d open at once), %d cut at random moments, %d survivors in %.1f s: %d with "
                  "another text than alone, %d broken" % (
            n, t_open, max(opened, connections), states["cut"], states["done"], took, wrong, states["broken"]))
        phases = cancelled(m, before)
        say(part, "cancelled by phase: %s (others had ended); resident %.1f MB before, %.1f after" %
            (words(phases), rss / 1e6, d.memory() / 1e6))
        say(part, rest)
        check_memory(d, part, m, base, connections)
        promise(ended, part, "streams were still open after 10 minutes")
        promise(not wrong, part, "%d survivors got another text than the same request alone" % wrong)
        promise(not states["broken"], part, "%d streams that nobody cut were ended by the server" % states["broken"])
        promise(sum(phases.values()) <= states["cut"], part,
                "%d requests were cancelled, but only %d cut" % (sum(phases.values()), states["cut"]))
        client.close()


# --- More than it can do ---

def bench_serve(d, *args):
    """Runs deq bench serve beside samples of /metrics: (its JSON, [(time, metrics)])."""
    argv = [lib.DEQ, "bench", "serve", "http://%s:%d" % (d.host, d.port), "--json", "--text",
            os.path.join(lib.ROOT, "models", "README.md"), *map(str, args)]
    samples = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as p:
        while p.poll() is None:
            samples.append((time.monotonic(), d.metrics()))
            time.sleep(0.1)
        return json.loads(p.stdout.read()), samples


def while_full(samples, full):
    """(tokens a second, tokens a second of the daemon's processor time) while the daemon was full, without the first
    half second. The former is the slope of a fitted line, since requests of one length come in waves."""
    at = [(t, m["deqd_generation_tokens_total"], m["process_cpu_seconds_total"]) for t, m in samples if full(m)]
    at = [x for x in at if x[0] >= at[0][0] + 0.5] if at else []
    if len(at) < 3:
        return float("nan"), float("nan")
    t, n = (sum(x[i] for x in at) / len(at) for i in (0, 1))
    return (sum((x[0] - t) * (x[1] - n) for x in at) / sum((x[0] - t) ** 2 for x in at),
            (at[-1][1] - at[0][1]) / (at[-1][2] - at[0][2]))


def refused(m):
    return m['deqd_requests_rejected_total{reason="queue_full"}']


class Overload:
    """One daemon, which gets as much as it can do and three times as much by turns."""
    TOKENS, SEQUENCES, TURNS = 64, 32, 3

    def __init__(self, d, window):
        self.d, self.more = d, [] if window == "default" else ["--window", window]
        self.sent = self.completed = self.refused = self.lost = self.connections = 0
        self.kinds, self.late, self.worst, self.latency = [], [], 0, 0
        self.capacities, self.goodputs = [], []  # both of (tokens/s, tokens per processor second)
        r = self.ask("--num-prompts", 96, "--max-concurrency", self.SEQUENCES)[0]
        self.offered = r["request_throughput"]

    def ask(self, *args):
        return bench_serve(self.d, "--output-len", self.TOKENS, *args, *self.more)

    def at_capacity(self):
        r, s = self.ask("--num-prompts", scaled(4 * self.offered, 96), "--max-concurrency", self.SEQUENCES)
        self.capacities.append(while_full(s, lambda m: m["deqd_requests_running"] >= self.SEQUENCES - 4))
        # the whole turn, its beginning and end included, may only raise what is asked for
        self.offered = max(r["output_throughput"], self.capacities[-1][0]) / self.TOKENS
        self.d.wait_metric(lambda m: m["deqd_http_connections"] <= 1, 5)

    def above(self):
        rate = 3 * self.offered
        r, s = self.ask("--num-prompts", scaled(6 * rate, 200), "--request-rate", round(rate, 1))
        last = refused(s[-1][1])
        # behind the last refusal there is less to do
        self.goodputs.append(while_full(s, lambda m: m["deqd_requests_waiting"] > 0 and refused(m) < last))
        self.sent += r["num_prompts"]
        self.completed += r["completed"]
        self.refused += r["rejected"]
        self.lost += r["failed"] - r["rejected"]
        self.kinds.append(r["errors_by_kind"])
        self.late.append(r["refusal_mean_ms"])
        self.worst = max(self.worst, r["refusal_max_ms"])
        self.latency = max(self.latency, r["p99_e2el_ms"])
        self.connections = max(self.connections, *(int(m["deqd_http_connections"]) for _, m in s))

    def goodput(self, i):
        """Median of the turns' shares of capacity, which is the mean of what it was before and behind a turn."""
        c = self.capacities
        shares = [2 * g[i] / (c[k][i] + c[k + 1][i]) for k, g in enumerate(self.goodputs)]
        return float("nan") if any(x != x for x in shares) else percentile(shares, 50)  # a turn was too short


def overload():
    part, base = "overload", base_bytes()
    for window in ("default", "1") * options.runs:
        with Daemon("engine.max_sequences=%d" % Overload.SEQUENCES, "queue.max_requests=64") as d:
            o = Overload(d, window)
            o.at_capacity()
            d.reset_peak()
            for _ in range(Overload.TURNS):
                o.above()
                o.at_capacity()
            share, by_processor = o.goodput(0), o.goodput(1)
            say(part, "window %s: capacity %s tokens/s (closed loop, %d streams of %d), by turns with 300 %% of it "
                      "(open loop): goodput %s tokens/s; median %.1f %%, by processor time %.1f %%" % (
                window, " ".join("%.0f" % c[0] for c in o.capacities), o.SEQUENCES, o.TOKENS,
                " ".join("%.0f" % g[0] for g in o.goodputs), 100 * share, 100 * by_processor))
            say(part, "window %s: %d sent, %d completed (p99 %.0f ms), %d refused (mean %.1f ms, max %.1f ms after the "
                      "scheduled arrival), %d lost" % (
                window, o.sent, o.completed, o.latency, o.refused, sum(o.late) / len(o.late), o.worst, o.lost))
            check_memory(d, part, d.metrics(), base, o.connections)
            # else the capacity was measured while something else had the machine, and the figures above say nothing
            target(o.refused > 0, part, "window %s: nothing was refused at 300 %% of capacity" % window)
            promise(not o.lost, part,
                    "window %s: %d accepted requests did not complete (%s)" % (window, o.lost, o.kinds))
            target(share >= 0.95, part, "window %s: goodput %.1f %% of capacity, target 95 %%" % (window, 100 * share))
            target(o.worst <= 50, part, "window %s: a refusal took %.1f ms, target 50 ms" % (window, o.worst))


# --- Coming and going ---

def churn():
    part, total, width, rng = "churn", scaled(10000, 200), 64, random.Random(2)
    lengths = (1, 8, 24)
    with Daemon() as d:
        want = {(p, n): d.complete(p, max_tokens=n, ignore_eos=True, return_token_ids=True)["choices"][0]["token_ids"]
                for p in PROMPTS for n in lengths}
        text = d.alone(24, PROMPTS[0])
        logits = {p: d.request("POST", "/v1/logits", {"prompt": p}, {"Accept": "application/octet-stream"})[2]
                  for p in PROMPTS}
        client = d.client()
        d.wait_metric(lambda m: m["deqd_http_connections"] <= 1, 5)
        fds, rss, before = d.descriptors(), d.memory(), d.metrics()
        outcomes, wrong, begun = {}, [], 0

        def count(kind):
            outcomes[kind] = outcomes.get(kind, 0) + 1

        def on_end(c):
            kind, p, n = c.tag
            if c.state != "done":
                return count(c.state)
            if kind == "logits" and c.status() == 200:
                count("logits")
                if c.body() != logits[p]:
                    wrong.append("logits of %r" % p)
                return
            if c.error():
                return count(c.error())
            whole, short = want[p, n], False
            for ids in c.answers("token_ids"):
                # a deadline ends the solving of the token at hand too: the last one may be another
                short = kind == "deadline" and len(ids) < n
                if ids != whole and not (short and ids[:-1] == whole[:len(ids) - 1]):
                    wrong.append("%r, %d tokens, %s: %s, alone %s" % (p, n, kind, ids, whole))
            count("cut short by their deadline" if short else "whole answers")

        def begin():
            p, n, x = rng.choice(PROMPTS), rng.choice(lengths), rng.random()
            body = {"prompt": p, "max_tokens": n, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
            kind, path, headers = "plain", "/v1/completions", ""
            if x < 0.1:
                kind, path, body = "logits", "/v1/logits", {"prompt": p}
                headers = "Accept: application/octet-stream\r\n"
            elif x < 0.25:
                body["n"] = 2
            elif x < 0.35:
                body["cache"] = "off"
            elif x < 0.45:
                kind, body["deadline_ms"] = "deadline", rng.choice((1, 20, 100, 1000))
            if kind != "logits" and rng.random() < 0.5:
                body["stream"] = True
            y = rng.random()
            leaves, reset = y < 0.5, rng.random() < 0.5
            at_token = rng.randrange(1, n + 1) if leaves and body.get("stream") and y < 0.2 else 0
            c = client.post(body, path, headers, tag=(kind, p, n), on_end=on_end,
                            send=rng.randrange(1, 300) if y > 0.97 else None,
                            on_token=(lambda c: c.tokens >= at_token and client.cut(c, reset)) if at_token else None)
            if (leaves and not at_token) or y > 0.97:
                client.at(time.monotonic() + 10 ** rng.uniform(-4, -0.5), lambda: client.cut(c, reset))

        t = time.monotonic()
        end = t + 300
        while (begun < total or client.calls) and time.monotonic() < end:
            while begun < total and len(client.calls) < width:
                begin()
                begun += 1
            client.step()
        took = time.monotonic() - t
        promise(not client.calls and begun == total, part,
                "%d of %d requests begun and %d still open after 5 minutes" % (begun, total, len(client.calls)))
        client.close()
        m, rest = at_rest(d, part, fds)
        say(part, "%d requests in %.1f s, %d at once: %s" % (begun, took, width,
                                                             words(dict(sorted(outcomes.items(),
                                                                               key=lambda x: -x[1])))))
        say(part, "cancelled by phase: %s; %d answers other than alone; resident %.1f MB before, %.1f after" % (
            words(cancelled(m, before)), len(wrong), rss / 1e6, d.memory() / 1e6))
        say(part, rest)
        promise(not wrong, part,
                "%d answers differ from the same request alone; the first: %s" % (len(wrong), wrong[:1]))
        promise(not outcomes.get("broken") and not outcomes.get("unfinished"), part,
                "answers ended early that nobody cut: %s" % outcomes)
        promise(d.alone(24, PROMPTS[0]) == text, part, "a probe gives another text than before")


# --- What HTTP, JSON and scheduling cost ---

def difference(a, b):
    (t0, m0, u0), (t1, m1, u1) = a, b
    d = {k: m1["deqd_" + k] - m0["deqd_" + k] for k in ("step_seconds_sum", "steps_total", "rows_total",
                                                        "generation_tokens_total", "engine_overhead_seconds_total")}
    d["step_seconds_sum"] += 0.5e-6 * d["steps_total"]  # the histogram cuts every step to whole microseconds
    d["wall"] = t1 - t0
    d["engine"] = sum(u1[i][1] - u0[i][1] for i in u0 if u0[i][0] == "engine")
    d["threads"] = [(u1[i][0], i, u1[i][1] - u0.get(i, ("", 0))[1]) for i in sorted(u1)]
    return d


def usage(d, part, width, tokens, stream, cache):
    """width requests of so many tokens at once: what the daemon used (in all, between about a tenth and four fifths of
    the tokens)."""
    client = d.client(nap=0.02)
    body = {"max_tokens": tokens, "temperature": 0.8, "ignore_eos": True, "stream": stream, "cache": cache}

    def look():
        return time.monotonic(), d.metrics(), d.threads()

    first = look()
    calls = [client.post(dict(body, prompt=PROMPTS[i % len(PROMPTS)], seed=i)) for i in range(width)]
    begin = first
    made = "deqd_generation_tokens_total"
    while begin[1][made] - first[1][made] < 0.1 * width * tokens and client.calls:
        client.run(lambda t=time.monotonic() + 0.05: time.monotonic() > t)
        begin = look()
    # no looking in between: it would be part of what is measured
    until = begin[0] + 0.7 / 0.1 * (begin[0] - first[0]) * 0.1 * width * tokens / (
        begin[1]["deqd_generation_tokens_total"] - first[1]["deqd_generation_tokens_total"])
    client.run(lambda: time.monotonic() > until or not client.calls)
    end = look()
    client.run()
    promise(all(c.state == "done" and c.status() == 200 for c in calls), part,
            "not all of %d requests were answered" % width)
    client.close()
    return difference(first, look()), difference(begin, end)


def http_share(d, part, width, tokens):
    """So many streams against the same prompts and seed in one request that is answered whole: the engine's work is the
    same to the bit, and HTTP's next to nothing. In turn, five times each. The client, on the same cores, reads seldom:
    else it costs about as much as what it measures."""
    body = {"max_tokens": tokens, "temperature": 0.8, "seed": 1, "ignore_eos": True, "cache": "off"}
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(width)]
    whole, streams = dict(body, prompt=prompts), [dict(body, prompt=p, stream=True) for p in prompts]
    shares = []
    for _ in range(5):
        rates, texts = [], []
        for bodies in ([whole], streams):
            client, t = d.client(nap=0.02, gather=16384), time.monotonic()
            calls = [client.post(b) for b in bodies]
            client.run()
            rates.append(width * tokens / (time.monotonic() - t))
            texts.append([text for c in calls for text in c.answers() or [None]])
            client.close()
        shares.append(1 - rates[1] / rates[0])
        say(part, "%d texts of %d tokens in one answer: %.0f tokens/s; as streams: %.0f; HTTP's share %.1f %%" % (
            width, tokens, *rates, 100 * shares[-1]))
        promise(texts[0] == texts[1], part, "streams have other texts than the one answer")
    share = percentile(shares, 50)
    say(part, "HTTP's share of the time of %d streams: median %.1f %%, largest %.1f %%" % (
        width, 100 * share, 100 * max(shares)))
    target(max(shares) <= 0.05, part, "HTTP's share was %.1f %% in one of five runs, target 5 %%" % (100 * max(shares)))


def overhead():
    part, width, tokens, cores = "overhead", 32, scaled(512, 64), os.cpu_count()
    with Daemon("engine.threads=%d" % cores) as d:
        usage(d, part, width, 32, True, "exact")
        _, u = usage(d, part, width, tokens, True, "exact")
        # Threads are told apart by name. Those of the pool may have none of their own: then they are the busiest of the
        # nameless.
        own = open(d.proc + "comm").read().strip()
        nameless = sorted((t for t in u["threads"] if t[0] == own and t[1] != d.p.pid), key=lambda t: -t[2])
        pool = {t[1] for t in u["threads"] if "pool" in t[0]} or {t[1] for t in nameless[:cores - 1]}
        groups = {}
        for name, i, cpu in u["threads"]:
            key = "pool" if i in pool else "main" if i == d.p.pid else name if name != own else "nameless (watch, BLAS)"
            groups[key] = groups.get(key, 0) + cpu
        steps, seconds, wall = u["steps_total"], u["step_seconds_sum"], u["wall"]
        other = sum(t for k, t in groups.items() if k not in ("pool", "engine"))
        outside = u["engine_overhead_seconds_total"]
        share = (outside + other) / seconds
        say(part, "%d streams, %d engine threads, window of %.1f s: %.0f tokens/s, %d steps of %.2f ms" % (
            width, cores, wall, u["generation_tokens_total"] / wall, steps, 1e3 * seconds / steps))
        say(part, "CPU of threads in that time: " + ", ".join("%s %.2f s" % (k, t) for k,
                                                              t in sorted(groups.items(), key=lambda x: -x[1])))
        say(part, "a step: engine's thread outside of it %.0f us, HTTP and watch threads %.0f us: %.1f %% of it" %
            (1e6 * outside / steps, 1e6 * other / steps, 100 * share))
        target(share <= 0.05, part, "HTTP, JSON and scheduling cost %.1f %% of a step, target 5 %%" % (100 * share))
        http_share(d, part, width, tokens)


# --- More clients than places ---

def clients():
    """The same requests by 32 clients and by 128, each of whom sends its next one when it has its answer; in turn."""
    part, tokens, few, many, rounds = "clients", 64, 32, 128, 3
    n = scaled(384, many)
    with Daemon() as d:
        rates = {few: [], many: []}
        usage(d, part, few, 32, True, "off")
        for _ in range(rounds):
            for width in rates:
                client, calls = d.client(nap=0.005), []

                def again(_=None):
                    if len(calls) < n:
                        i = len(calls)
                        calls.append(None)
                        calls[i] = client.post({"prompt": PROMPTS[i % len(PROMPTS)], "seed": i, "max_tokens": tokens,
                                                "temperature": 0.8, "ignore_eos": True, "stream": True,
                                                "cache": "off"}, on_end=again)

                t = time.monotonic()
                for _ in range(width):
                    again()
                client.run()
                rates[width].append(n * tokens / (time.monotonic() - t))
                promise(all(c.state == "done" and c.status() == 200 for c in calls), part,
                        "not all of %d requests of %d clients were answered" % (n, width))
                client.close()
        a, b = percentile(rates[few], 50), percentile(rates[many], 50)
        say(part, "%d streams of %d tokens: %.0f tokens/s by %d clients, %.0f by %d: %.2f times (medians of %d)" % (
            n, tokens, a, few, b, many, b / a, rounds))
        target(b >= a, part, "%d clients had %.2f times the tokens/s of %d, target 1" % (many, b / a, few))


# --- A long prompt beside a stream ---

def long_prompt(d):
    rng, ids = random.Random(3), []
    while len(ids) < LONG_TOKENS:
        p = rng.choice(PROMPTS)
        ids += d.post("/tokenize", {"prompt": " " + p, "add_special_tokens": False})[2]["tokens"]
    return ids[:LONG_TOKENS]


def prefill():
    part, rounds = "prefill", 3
    with Daemon("engine.max_positions=8192") as d:
        client, prompt = d.client(), long_prompt(d)
        big = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "ignore_eos": True, "cache": "off"}
        d.alone(8, "A")
        alone = client.post(big)
        client.run()
        t_alone, want = alone.end - alone.start, alone.answers()
        promise(want is not None, part,
                "a prompt of %d tokens was not answered: %s" % (LONG_TOKENS, bytes(alone.data[-300:])))
        # one stream after the other, so that there always is one, however fast the model
        body = {"prompt": PROMPTS[0], "max_tokens": 8000, "temperature": 0, "ignore_eos": True, "stream": True}
        now = []

        def again(_=None):
            now.append(client.post(body, times=True, on_end=again))

        def gaps(begin, end):
            return [1e3 * (y - x) for s in now for x, y in zip(s.times, s.times[1:]) if begin <= x and y <= end]

        again()
        client.run(lambda: now[0].tokens > 50, 60)
        idle, beside, texts, took = [], [], [], []
        for _ in range(rounds):
            t0 = time.monotonic()
            client.run(lambda: time.monotonic() > t0 + min(t_alone, 2))
            idle += gaps(t0, time.monotonic())
            c = client.post(big)
            client.run(lambda: c.state != "open", 120)
            beside += gaps(c.start, c.end)
            texts.append(c.answers())
            took.append(c.end - c.start)
        for s in now:
            s.on_end = None
        promise(all(s.state in ("open", "done") for s in now), part, "the stream was ended by the server")
        client.close()
        a, b = percentile(idle, 99), percentile(beside, 99)
        say(part, "gap between tokens of one stream, p50 / p99 / max: idle %.2f / %.2f / %.2f ms (%d gaps)" %
            (percentile(idle, 50), a, max(idle), len(idle)))
        say(part, "while %d tokens are solved beside it (%.2f s alone, %.2f s so): %.2f / %.2f / %.2f ms (%d gaps); "
                  "p99 ratio %.2f" % (
            LONG_TOKENS, t_alone, sum(took) / rounds, percentile(beside, 50), b, max(beside), len(beside), b / a))
        same = sum(t == want for t in texts)
        say(part, "its answer is the same as alone in %d of %d" % (same, rounds))
        promise(same == rounds, part,
                "the long prompt's answer differs from the one alone: %r, alone %r" % (texts, want))
        target(b <= 3 * a, part, "p99 between tokens is %.2f times the idle one, target 3" % (b / a))


# --- A request after a pause ---

def idle():
    part, pause_s, tokens = "idle", 0.2, 16
    body = {"prompt": "Once upon a time there was a little dog who", "max_tokens": tokens, "temperature": 0,
            "ignore_eos": True, "stream": True, "cache": "off"}
    with Daemon() as d:
        client = d.client()
        first, whole, inside, own = ({True: [], False: []} for _ in range(4))

        def daemons_clock():
            return d.metrics()["deqd_time_to_first_token_seconds_sum"]

        def ask(paused=None):
            before = time.process_time()
            c = client.post(body, times=True)
            client.run()
            used = time.process_time() - before
            promise(c.state == "done" and c.status() == 200, part, "a request was not answered")
            if paused is not None:
                first[paused].append(1e3 * (c.times[0] - c.start))
                whole[paused].append(1e3 * (c.end - c.start))
                own[paused].append(1e3 * used)

        for _ in range(scaled(25, 5)):
            at = [daemons_clock()]
            time.sleep(pause_s)
            ask(True)
            at.append(daemons_clock())
            ask()  # in turn, so that both see the same machine; this one is of neither, but for the daemon's clock
            ask(False)
            at.append(daemons_clock())
            inside[True].append(1e3 * (at[1] - at[0]))
            inside[False].append(1e3 * (at[2] - at[1]) / 2)
        client.close()
        for what, ms in (("first token", first), ("%d tokens" % tokens, whole),
                         ("first token by the daemon's clock", inside), ("the client's own processor time", own)):
            ratio = percentile(ms[True], 50) / percentile(ms[False], 50)
            say(part, "%s, p50 / p90: %.1f / %.1f ms after a pause of %.1f s, %.1f / %.1f without; p50 ratio %.2f" % (
                what, percentile(ms[True], 50), percentile(ms[True], 90), pause_s, percentile(ms[False], 50),
                percentile(ms[False], 90), ratio))
            if ms in (first, whole):
                target(ratio <= 1.3, part, "%s after a pause took %.2f times as long as without, target 1.3" % (what,
                                                                                                               ratio))


# --- A prompt that was solved before the daemon began ---

def restart():
    part, rounds, tokens = "restart", scaled(5, 1), 2000
    first = {"solved": [], "restored": [], "state": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as dir:
            settings = ("engine.max_positions=8192", "engine.cache_dir=" + os.path.join(dir, "cache"),
                        "state.dir=" + os.path.join(dir, "states"))

            def ask(d, what, **fields):
                client = d.client()
                body = dict({"max_tokens": 4, "temperature": 0, "ignore_eos": True, "stream": True}, **fields)
                client.post(dict(body, prompt="A", state=None))  # what only a first request takes
                client.run()
                c = client.post(body, times=True)
                client.run()
                promise(c.state == "done" and c.status() == 200, part, what + ": the request was not answered")
                first[what].append(1e3 * (c.times[0] - c.start))
                client.close()

            with Daemon(*settings) as d:
                prompt = long_prompt(d)[:tokens]
                ask(d, "solved", prompt=prompt)
                told = d.post("/v1/states", {"name": "long", "prompt": prompt})[2]
                short = d.post("/v1/states", {"name": "short", "prompt": prompt[:256]})[2]
            with Daemon(*settings) as d:
                ask(d, "restored", prompt=prompt)
                promise(d.metrics()["deqd_state_cache_restored_entries"] > 0, part, "nothing was restored")
                ask(d, "state", state="long", prompt=[])
    a, b, c = (percentile(first[what], 50) for what in ("solved", "restored", "state"))
    say(part, "first token behind %d tokens, p50 of %d: %.1f ms solved, %.1f ms from the restored prefix cache (%.0f "
              "times as fast), %.1f ms behind a saved state (%.0f times)" % (tokens, rounds, a, b, a / b, c, a / c))
    say(part, "the state of 256 tokens takes %d bytes, %.0f a token; that of %d tokens %d" % (
        short["bytes"], short["bytes"] / 256, tokens, told["bytes"]))
    target(b < a / 2 and c < a / 2, part, "a prompt that was solved before is not twice as fast")


# --- Two callers ---

def fairness():
    part, tokens, flood = "fairness", 64, options.flood
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as f:
        for name in ("A", "B"):
            f.write("%s %s\n" % (name, hashlib.sha256(("key-of-" + name).encode()).hexdigest()))
        f.flush()
        with Daemon("auth.keys_file=" + f.name, "auth.open_metrics=true") as d:
            client, rng = d.client(), random.Random(4)
            took, bad, flooding = {"A": [], "B": []}, [], [True]

            def post(name, **more):
                body = {"prompt": rng.choice(PROMPTS), "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
                        "stream": True, "priority": options.priority if name == "A" else 0}
                return client.post(body, headers="Authorization: Bearer key-of-%s\r\n" % name, tag=name, **more)

            def over(c):
                if c.state != "done" or c.status() != 200:
                    bad.append((c.tag, c.state, c.status()))
                took[c.tag].append(c.end - c.start)
                if c.tag == "A" and flooding[0] and not bad:
                    post("A", on_end=over)

            def trickle(seconds, least):
                took["B"] = []
                until = time.monotonic() + seconds
                while (time.monotonic() < until or len(took["B"]) < least) and not bad:
                    b = post("B", on_end=over)
                    client.run(lambda: b.state != "open", 60)
                    client.run(lambda t=time.monotonic() + 0.02: time.monotonic() > t)
                return took["B"]

            alone = trickle(scaled(3), 20)
            for _ in range(flood):
                post("A", on_end=over)
            client.run(lambda: len(took["A"]) > flood or bad, 60)
            a0, skip = len(took["A"]), sum(x.get("message") == "completion" for x in d.lines())
            beside = trickle(scaled(12), 20)
            flooding[0], a = False, took["A"][a0:]
            client.run()
            client.close()
            # the log tells callers apart, by a hash: B is the one with fewer requests
            queued = {}
            for x in [x for x in d.lines() if x.get("message") == "completion"][skip:]:
                queued.setdefault(x["caller"], []).append(x["queue_ms"])
            queued_b = min(queued.values(), key=len) if queued else []
            p = [1e3 * percentile(x, 95) for x in (alone, beside, a)]
            say(part, "B, one request at a time (%d tokens): p95 %.0f ms alone, %.0f ms while A keeps %d open: ratio "
                      "%.1f (%d requests)" % (
                tokens, p[0], p[1], flood, p[1] / p[0], len(beside)))
            say(part, "of it in the queue: p95 %.0f ms; A's p95 is %.0f ms, %d of its requests ended meanwhile" % (
                percentile(queued_b, 95), p[2], len(a)))
            promise(not bad, part, "a request of a known key was not answered: %s" % bad[:2])
            target(p[1] <= 2 * p[0], part, "B's p95 is %.1f times its value alone, target 2" % (p[1] / p[0]))


# --- Depth gives way before latency ---

def offered_load(d, calls_per_s, seconds, body):
    """Streams that begin at random times, whatever comes back: (gaps between tokens in ms, of the last two thirds;
    answers' deq objects; how many were refused, of how many; what a plot shows: [(s, gap in ms)] and
    [(s, tol_effective)] of the whole)."""
    client, rng, calls = d.client(), random.Random(5), []
    t = begin = time.monotonic()
    while (t := t + rng.expovariate(calls_per_s)) < begin + seconds:
        client.at(t, lambda: calls.append(client.post(dict(body, prompt=rng.choice(PROMPTS), seed=len(calls)),
                                                      times=True)))
    client.run(lambda: not client.timers and not client.calls, 10 * seconds)
    client.close()
    settled = begin + seconds / 3
    done = [c for c in calls if c.state == "done" and not c.error()]
    gaps = [1e3 * (y - x) for c in done for x, y in zip(c.times, c.times[1:]) if x >= settled and y <= begin + seconds]
    told = [(c, e["deq"]) for c in done for e in c.events()[0] if "deq" in e]
    reports = [r for c, r in told if c.start >= settled]
    drawn = ([(y - begin, 1e3 * (y - x)) for c in done for x, y in zip(c.times, c.times[1:]) if y <= begin + seconds],
             [(c.times[-1] - begin, r["tol_effective"]) for c, r in told if c.times[-1] <= begin + seconds])
    return gaps, reports, sum(c.status() == 429 for c in calls), len(calls), drawn


def by_second(points, p):
    """[(s, percentile)] of what lay in each second."""
    whole = {}
    for t, x in points:
        whole.setdefault(int(t), []).append(x)
    return [(t + 0.5, percentile(whole[t], p)) for t in sorted(whole)]


def draw_elastic(path, objective, fixed, opened):
    sys.path.insert(0, os.path.join(lib.ROOT, "models", "claims"))
    import svg
    gaps = [("fixed", by_second(fixed[0], 99), 1, False), ("elastic", by_second(opened[0], 99), 0, False)]
    ends = [line[i][0] for _, line, _, _ in gaps for i in (0, -1)]
    gaps.append(("objective, %d ms" % objective, [(min(ends), objective), (max(ends), objective)], 2, True))
    tolerances = [("fixed", by_second(fixed[1], 50), 1, False), ("elastic", by_second(opened[1], 50), 0, False)]
    with open(path, "w") as f:
        f.write(svg.stack([
            svg.chart("Gap between tokens, p99 of each second, at 150 % of capacity", "s", "ms", gaps, log_y=True),
            svg.chart("Loosest tolerance of the answers that ended then, median", "s", "tol_effective", tolerances,
                      log_y=True)]))


def loss(d, text, tol):
    """Nats a token of a text that is scored at that tolerance."""
    o = d.complete(text, max_tokens=0, echo=True, logprobs=0, deq={"tol": tol, "window": 1})
    scores = [x for x in o["choices"][0]["logprobs"]["token_logprobs"] if x is not None]
    return -sum(scores) / len(scores), len(scores)


def elastic():
    """Open loop at 150 % of what a tight tolerance sustains: at that tolerance, and where it may open to hold half of
    the p99 gap that it had. What that costs is the loss of a text at the tolerance it ended with."""
    part, tokens, tol, sequences, seconds = "elastic", 64, 1e-3, 32, scaled(30, 6)
    settings = ["engine.max_sequences=%d" % sequences, "queue.max_requests=64", "stream.flush_ms=0"]
    body = {"max_tokens": tokens, "temperature": 0.8, "ignore_eos": True, "stream": True, "cache": "off",
            "deq": {"tol": tol, "window": 1}}
    with Daemon(*settings) as d:
        client, calls, until = d.client(), [], time.monotonic() + seconds / 3

        def again(_=None):
            if time.monotonic() < until:
                calls.append(client.post(dict(body, prompt=PROMPTS[len(calls) % len(PROMPTS)], seed=len(calls)),
                                         on_end=again))

        for _ in range(sequences):
            again()
        client.run()
        took = time.monotonic() - (until - seconds / 3)
        capacity = len(calls) / took
        client.close()
        gaps, reports, refused, n, tight = offered_load(d, 1.5 * capacity, seconds, body)
        fixed = percentile(gaps, 99)
        say(part, "fixed at %g: capacity %.1f streams of %d tokens a second; offered 150 %%: gaps p50 / p99 %.1f / "
                  "%.1f ms, %d of %d refused, %.2f evaluations a token" % (
            tol, capacity, tokens, percentile(gaps, 50), fixed, refused, n,
            sum(r["iters_mean"] for r in reports) / max(1, len(reports))))
        promise(all(r["tol_effective"] == r["tol"] for r in reports), part, "a fixed tolerance opened")
    objective = max(1, round(fixed / 2))
    with Daemon("depth.objective_ms=%d" % objective, *settings) as d:
        body["deq"]["depth"] = "elastic"
        gaps, reports, refused, n, opened_up = offered_load(d, 1.5 * capacity, seconds, body)
        held = percentile(gaps, 99)
        ended = percentile([r["tol_effective"] for r in reports], 50)
        say(part, "elastic, objective %d ms: gaps p50 / p99 %.1f / %.1f ms, %d of %d refused, %.2f evaluations a "
                  "token, tol_effective p50 / max %.3g / %.3g" % (
            objective, percentile(gaps, 50), held, refused, n,
            sum(r["iters_mean"] for r in reports) / max(1, len(reports)), ended,
            max((r["tol_effective"] for r in reports), default=float("nan"))))
        with open(options.text) as f:
            text = f.read(4000)
        (asked, count), (opened, _) = loss(d, text, tol), loss(d, text, ended)
        say(part, "loss of a text of %d tokens: %.4f nats a token at %g, %.4f at %.3g: %+.2f %%" % (
            count, asked, tol, opened, ended, 100 * (opened / asked - 1)))
        promise(ended > tol, part, "the tolerance did not open")
        target(held <= objective, part, "p99 between tokens %.1f ms, objective %d ms" % (held, objective))
    if options.svg:
        draw_elastic(options.svg, objective, tight, opened_up)


PARTS = {f.__name__: f for f in (streams, overload, churn, overhead, clients, prefill, idle, restart, fairness,
                                 elastic)}


def main():
    global options
    p = argparse.ArgumentParser(description="The daemon under load.", epilog="Parts: " + " ".join(PARTS))
    p.add_argument("model", nargs="?", default="models/stories")
    p.add_argument("parts", nargs="*", metavar="part", choices=[[], *PARTS])
    p.add_argument("--scale", type=float, default=1)
    p.add_argument("--strict", action="store_true")
    p.add_argument("--split", action="store_true")
    p.add_argument("--runs", type=int, default=1)
    p.add_argument("--flood", type=int, default=64)
    p.add_argument("--priority", type=int, default=0)
    p.add_argument("--svg")
    p.add_argument("--text", default=os.path.join(lib.ROOT, "models", "README.md"))
    options = p.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if options.split and len(cores) < 2:
        p.error("--split: there is one core")
    options.daemons_cores, options.clients_cores = (cores[:1], cores[1:]) if options.split else (cores, cores)
    begin = time.monotonic()
    for name in options.parts or PARTS:
        lib._now[0] = name
        failed = lib.counts["failed"]
        try:
            PARTS[name]()
        except Exception as e:  # the other parts still tell something
            broken.append("%s: %r" % (name, e))
            lib.traceback.print_exc()
        if lib.counts["failed"] > failed:
            broken.append("%s: the daemon's log or its end, see FAIL above" % name)
    say("load", "%.0f s in all" % (time.monotonic() - begin))
    for text in missed:
        print("MISSED " + text)
    for text in broken:
        print("BROKEN " + text)
    return 1 if broken or (missed and options.strict) else 0


sys.exit(main())
