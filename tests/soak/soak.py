#!/usr/bin/env python3
"""Hours of mixed clients against one daemon: what holds over time. Standard library only.

    tests/soak/soak.py [--minutes 10] [--rate 10] [--model tests/golden/tiny] [--out build/soak] [--seed 1]

Clients come at random moments, --rate a second on average: good ones of every endpoint, whose answers are compared with
what the same request got alone; bad ones (a case of tests/http each); ones that speak or read slowly, that leave at any
moment, whose sequence an admin ends; saved states are written, used and removed; weights are reloaded from a new file,
by signal and by request, and from a damaged one. The daemon runs as it is configured by default, with a key.

What must hold, else BROKEN and exit code 1:
- every good request that is not refused (429, 503) is answered as alone, and no client waits for ever;
- a probe's answer (tokens, log-probabilities, evaluations, residuals) is the same to the byte at every sample;
- resident memory is flat. Each interval's smallest value counts, since a reload holds two models for a moment; a line
  is fitted to those behind the first half hour, or behind the first half of a run of less than an hour. It may rise by
  1 MiB an hour; where less than an hour is judged, by 1 MiB in all, since pages come one by one;
- in the end descriptors (without claims of cores) and threads are as many as at the start, nothing runs, waits or holds
  pages, no invariant was found broken (deqd_bugs_total), and the daemon ends with exit code 0.

A line a sample on standard output; OUT/samples.csv and OUT/soak.svg are written anew every ten, to be looked at
meanwhile; OUT/wrong.txt has whatever was wrong."""
import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "bench"), os.path.join(HERE, "..", "..", "models", "claims")]
sys.dont_write_bytecode = True
from client import Client  # noqa: E402
import corpus  # noqa: E402  (tests/e2e, by client.py)
import lib  # noqa: E402
import svg  # noqa: E402

KEY = "sk-soak-3f9a"
AUTHORIZATION = "Authorization: Bearer %s\r\n" % KEY
PROMPTS = ["But soft, what light", "My lord,", "The king is", "O Romeo, Romeo", "What shall I say more than I have",
           "Remember whom you are to cope withal", "A horse", "Good night, good night", "To be, or not",
           "Once more unto the breach"]
LENGTHS = (1, 8, 24)
PROBE = {"prompt": "What shall I say more than I have inferred?", "max_tokens": 24, "temperature": 0.8, "seed": 7,
         "logprobs": 3, "ignore_eos": True, "cache": "off", "include": ["deq.tokens"]}
VICTIM_TOKENS = 1777  # so that an admin tells it from the others
FAILED = 'deqd_reloads_total{result="failed"}'
HANG_S = 180  # longer than any deadline of the daemon's
SLOW_READER_S = 60  # longer than stream.stall_ms, by which it is dropped
LIGHT_S = 2  # between two looks at /proc
COLUMNS = ("minutes", "requests", "tokens", "rss_least", "rss_most", "descriptors", "threads", "cpu_daemon",
           "cpu_clients", "bugs", "wrong")


class Daemon(lib.Daemon):
    def proc(self, name):
        with open("/proc/%d/%s" % (self.p.pid, name)) as f:
            return f.read()

    def status(self, key):
        return next(int(line.split()[1]) for line in self.proc("status").split("\n") if line.startswith(key + ":"))

    def descriptors(self):
        """Without claims of cores (core/base/cores.h), which a reload takes when another daemon has left them."""
        sockets = self.proc("net/unix").split("\n")
        claims = {"socket:[%s]" % line.split()[6] for line in sockets if "@deqd-core-" in line}
        at, n = "/proc/%d/fd" % self.p.pid, 0
        for fd in os.listdir(at):
            try:
                n += os.readlink("%s/%s" % (at, fd)) not in claims
            except FileNotFoundError:
                pass  # closed since it was listed
        return n

    def settled_descriptors(self):
        """The least of a second: sockets of those who left are held for a moment."""
        least = self.descriptors()
        for _ in range(20):
            time.sleep(0.05)
            least = min(least, self.descriptors())
        return least

    def cpu_s(self):
        fields = self.proc("stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def probe(self):
        """What may not change: all of the answer but its name and time."""
        s, _, o = self.post("/v1/completions", PROBE)
        return json.dumps({"status": s, **{k: v for k, v in o.items() if k not in ("id", "created")}}, sort_keys=True)


class Clients:
    """Everybody who comes. Outcomes are counted by kind; what must not be is kept in wrong."""

    def __init__(self, d, rng, model):
        self.d, self.rng, self.client, self.model = d, rng, Client(d.host, d.port), model
        self.outcomes, self.wrong, self.ended, self.damaged, self.reloads = {}, [], 0, 0, 0
        self.want = {(p, n): d.complete(p, max_tokens=n, ignore_eos=True)["choices"][0]["text"]
                     for p in PROMPTS for n in LENGTHS}
        self.logits = {p: d.request("POST", "/v1/logits", {"prompt": p}, {"Accept": "application/octet-stream"})[2]
                       for p in PROMPTS}
        key = ("Host: x\r\n" + AUTHORIZATION).encode()
        self.cases = [(c.name, c.data.replace(b"Host: x\r\n", key), {a[0] for a in c.expect[0][0]})
                      for c in corpus.all_cases()]
        self.kinds = {self.whole: 20, self.stream: 16, self.other: 20, self.get: 8, self.state: 4, self.bad: 12,
                      self.leaves: 8, self.cuts: 8, self.slow_writer: 2, self.slow_reader: 2, self.victim: 1}
        d.wait_metric(lambda m: m["deqd_http_connections"] <= 1, 5)

    def come(self):
        kind = self.rng.choices(list(self.kinds), self.kinds.values())[0]
        kind()

    # --- Accounting ---

    def count(self, kind, outcome):
        by = self.outcomes.setdefault(kind, {})
        by[outcome] = by.get(outcome, 0) + 1
        self.ended += 1

    def fail(self, kind, text):
        self.count(kind, "WRONG")
        self.wrong.append("%s %s: %s" % (time.strftime("%H:%M:%S"), kind, lib.short(text)))

    def watch(self, c):
        def hang():
            if c.state == "open":
                c.on_end = None
                self.client.cut(c, True)
                self.fail(c.tag, "still open after %d s" % HANG_S)
        self.client.at(c.start + HANG_S, hang)
        return c

    def ask(self, kind, body, path="/v1/completions", judge=None, method="POST", more="", **options):
        """A request with the key. judge(call): what is wrong with its answer of status 200, or None."""
        def on_end(c):
            if c.state == "cut":
                return self.count(kind, "cut")
            if c.state == "broken":
                return self.fail(kind, "the connection ended after %r" % bytes(c.data[:200]))
            if c.status() in (429, 503):
                return self.count(kind, "refused")
            error = "status %d: %r" % (c.status(), bytes(c.data[:300])) if c.status() != 200 else judge and judge(c)
            return self.fail(kind, error) if error else self.count(kind, "answered")
        options.setdefault("on_end", on_end)
        if method == "POST":
            return self.watch(self.client.post(body, path, AUTHORIZATION + more, tag=kind, **options))
        head = "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n" % (method, path, AUTHORIZATION + more)
        return self.watch(self.client.raw(head.encode(), tag=kind, **options))

    # --- Who is served ---

    def completion(self, kind, **more):
        p, n = self.rng.choice(PROMPTS), self.rng.choice(LENGTHS)

        def judge(c):
            got = c.answers()
            return None if got and set(got) == {self.want[p, n]} else "%r, %d tokens: %r" % (p, n, got)
        body = {"prompt": p, "max_tokens": n, "temperature": 0, "ignore_eos": True,
                "cache": self.rng.choice(("exact", "approximate", "off")), "n": self.rng.choice((1, 1, 2)), **more}
        # states that generation left: as good an answer, and not the same
        self.ask(kind, body, judge=None if body["cache"] == "approximate" else judge)

    def whole(self):
        self.completion("whole")

    def stream(self):
        self.completion("stream", stream=True, logprobs=self.rng.choice((None, 2)))

    def other(self):
        p = self.rng.choice(PROMPTS)
        raw = "Accept: application/octet-stream\r\n"
        self.rng.choice((
            lambda: self.ask("chat", {"messages": [{"role": "user", "content": p}], "max_tokens": 12},
                             "/v1/chat/completions"),
            lambda: self.ask("responses", {"input": p, "max_output_tokens": 12}, "/v1/responses"),
            lambda: self.ask("form", {"prompt": p, "max_tokens": 40, "structured_outputs": {
                "regex": self.rng.choice((" [a-z]+ and [a-z]+", "(yes|no)", "[0-9]{3}-[0-9]{4}"))}}),
            lambda: self.ask("embeddings", {"input": [p, p + "."]}, "/v1/embeddings"),
            lambda: self.ask("equilibria", {"prompt": p, "positions": "last"}, "/v1/equilibria"),
            lambda: self.ask("tokenize", {"prompt": p * self.rng.choice((1, 200))}, "/tokenize"),
            lambda: self.ask("scoring", {"prompt": p, "max_tokens": 0, "echo": True, "logprobs": 1}),
            lambda: self.ask("deadline", {"prompt": p * 20, "max_tokens": 200, "deadline_ms": self.rng.choice((1, 50))},
                             on_end=self.deadline_met),
            lambda: self.ask("logits", {"prompt": p}, "/v1/logits", more=raw,
                             judge=lambda c: None if c.body() == self.logits[p] else "logits of %r" % p)))()

    def deadline_met(self, c):
        if c.state == "done" and c.status() in (200, 503, 504, 429):
            return self.count(c.tag, "answered" if c.status() == 200 else "refused")
        return self.fail(c.tag, "%s, %r" % (c.state, bytes(c.data[:300])))

    def get(self):
        self.ask("get", None, self.rng.choice(("/health", "/metrics", "/v1/models", "/openapi.json", "/", "/v1/states",
                                               "/v1/sequences", "/version", "/tokenizer_info")), method="GET")

    def state(self):
        """Saved, used, and half of the time removed; others of the same name do the same meanwhile, so that it may be
        gone."""
        name, p = "soak-%d" % self.rng.randrange(8), self.rng.choice(PROMPTS)

        def used(c):
            self.known(c)
            if self.rng.random() < 0.5:
                self.ask("state removed", None, "/v1/states/" + name, method="DELETE", on_end=self.known)

        def saved(c):
            self.known(c)
            self.ask("state used", {"prompt": "And", "state": name, "max_tokens": 8}, on_end=used)
        self.ask("state saved", {"name": name, "prompt": p * 20}, "/v1/states", on_end=saved)

    def known(self, c):
        if c.state == "done" and c.status() in (200, 404, 429, 503):
            return self.count(c.tag, "answered" if c.status() == 200 else "refused")
        return self.fail(c.tag, "%s, %r" % (c.state, bytes(c.data[:300])))

    # --- Who is not ---

    def bad(self):
        name, data, known = self.rng.choice(self.cases)

        def on_end(c):
            if c.state == "done" and c.status() >= 500 and c.status() not in known | {503}:
                return self.fail("bad", "%s: %r" % (name, bytes(c.data[:300])))
            return self.count("bad", "closed" if c.state == "broken" else "answered" if c.status() < 300 else "refused")
        self.watch(self.client.raw(data, tag="bad", on_end=on_end))

    def leaves(self):
        """At any moment, of a request that would take a while or is not all there."""
        body = {"prompt": self.rng.choice(PROMPTS) * self.rng.choice((1, 50)), "max_tokens": 400, "ignore_eos": True,
                "stream": self.rng.random() < 0.5}
        c = self.ask("leaves", body, send=self.rng.randrange(1, 300) if self.rng.random() < 0.3 else None)
        reset = self.rng.random() < 0.5
        self.client.at(time.monotonic() + 10 ** self.rng.uniform(-4, 0.5), lambda: self.client.cut(c, reset))

    def cuts(self):
        at, reset = self.rng.randrange(1, 40), self.rng.random() < 0.5
        self.ask("cuts", {"prompt": self.rng.choice(PROMPTS), "max_tokens": 60, "ignore_eos": True, "stream": True},
                 on_token=lambda c: c.tokens >= at and self.client.cut(c, reset))

    def slow_writer(self):
        """Byte by byte, in the head or in the body: the server ends it at its deadline, or it comes to its end."""
        body = json.dumps({"prompt": "A", "max_tokens": 1}).encode()
        raw = ("POST /v1/completions HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" %
               (AUTHORIZATION, len(body))).encode() + body
        at = self.rng.choice((1, 40, len(raw) - 8))

        def on_end(c):
            if c.state == "done" and c.status() not in (200, 408, 429, 503):
                return self.fail("slow writer", bytes(c.data[:300]))
            return self.count("slow writer", "answered" if c.status() == 200 else "closed")
        c = self.watch(self.client.raw(raw[:at], tag="slow writer", on_end=on_end))
        for i in range(at, len(raw)):
            self.client.at(c.start + 0.5 * (i - at + 1), lambda i=i: self.client.say(c, raw[i:i + 1]))

    def slow_reader(self):
        """500 bytes a second of a long answer: the stream pauses, and is dropped when that goes on for too long.
        Nothing tells this side, whose system takes no more either: by then it leaves."""
        def on_end(c):
            if c.state == "done" and c.status() not in (200, 429, 503):
                return self.fail("slow reader", bytes(c.data[:300]))
            return self.count("slow reader", "answered" if c.state == "done" else "dropped")
        c = self.ask("slow reader", {"prompt": self.rng.choice(PROMPTS), "max_tokens": 1900, "ignore_eos": True,
                                     "stream": True, "logprobs": 5}, on_end=on_end)
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def sip():
            if c.state == "open" and time.monotonic() < c.start + SLOW_READER_S:
                self.client.hush(c)
                self.client.read(c, time.monotonic(), 500)
                self.client.at(time.monotonic() + 1, sip)
            else:
                self.client.cut(c, False)
        self.client.at(c.start + 1, sip)

    def victim(self):
        """A long stream, which an admin finds and ends."""
        def ended(c):
            return self.count("ended by an admin", "cut short" if c.tokens < VICTIM_TOKENS else "answered")

        def listed(c):
            self.known(c)
            for s in c.events()[0][0]["data"] if c.state == "done" and c.status() == 200 else []:
                if s["max_tokens"] == VICTIM_TOKENS:
                    self.ask("sequence ended", None, "/v1/sequences/" + s["id"], method="DELETE", on_end=self.known)
        self.ask("victim", {"prompt": self.rng.choice(PROMPTS), "max_tokens": VICTIM_TOKENS, "ignore_eos": True,
                            "stream": True}, on_end=ended)
        self.client.at(time.monotonic() + 0.1, lambda: self.ask("sequences", None, "/v1/sequences", method="GET",
                                                                on_end=listed))

    # --- Weights ---

    def put_weights(self, n_bytes=None):
        """A new file in the place of the old one; n_bytes: only so many of it."""
        path = os.path.join(self.model, "model.safetensors")
        with open(path + ".good", "rb") as f:
            data = f.read()
        with open(path + ".new", "wb") as f:
            f.write(data[:n_bytes])
        os.replace(path + ".new", path)

    def reload(self):
        how = self.reloads % 3
        self.reloads += 1
        if how == 2:
            self.damaged += 1
            before = self.d.metrics()[FAILED]

            def mend():
                if self.d.metrics()[FAILED] > before:
                    return self.put_weights()
                return self.client.at(time.monotonic() + 1, mend)
            self.put_weights(100000)
            mend()
        else:
            self.put_weights()
        if how == 1:
            self.ask("reload", {}, "/admin/reload")
        else:
            os.kill(self.d.p.pid, signal.SIGHUP)


class Samples:
    """Rows of COLUMNS, a light look at /proc every LIGHT_S in between."""

    def __init__(self, d, clients, out):
        self.d, self.clients, self.out, self.rows = d, clients, out, []
        self.begin = self.at = time.monotonic()
        self.cpu = self.d.cpu_s(), time.process_time()
        self.want = d.probe()
        self.probes = 0
        self.clear()

    def clear(self):
        self.rss, self.fds, self.threads = [], [], []

    def light(self):
        self.rss.append(self.d.status("VmRSS") / 1024)
        self.threads.append(self.d.status("Threads"))
        self.fds.append(self.d.descriptors())

    def take(self):
        m, got, now = self.d.metrics(), self.d.probe(), time.monotonic()
        self.probes += 1
        if got != self.want:
            self.clients.fail("probe", "%s, at first %s" % (got, self.want))
        cpu = self.d.cpu_s(), time.process_time()
        share = [(b - a) / (now - self.at) for a, b in zip(self.cpu, cpu)]
        self.cpu, self.at = cpu, now
        bugs = sum(v for k, v in m.items() if k.startswith("deqd_bugs_total"))
        self.rows.append(((now - self.begin) / 60, self.clients.ended, int(m["deqd_generation_tokens_total"]),
                          min(self.rss), max(self.rss), max(self.fds), max(self.threads), *share, int(bugs),
                          len(self.clients.wrong)))
        print("%7.1f min %8d requests %9d tokens, resident %.2f to %.2f MiB, descriptors %d, threads %d, cores: daemon "
              "%.3f, clients %.3f; bugs %d, wrong %d" % self.rows[-1], flush=True)
        self.clear()
        if len(self.rows) % 10 == 0:
            self.write()

    def write(self):
        with open(os.path.join(self.out, "samples.csv"), "w", newline="") as f:
            csv.writer(f).writerows([COLUMNS, *self.rows])
        with open(os.path.join(self.out, "wrong.txt"), "w") as f:
            f.writelines(w + "\n" for w in self.clients.wrong)
        if len(self.rows) < 3:
            return
        at = {name: [(r[0], r[i]) for r in self.rows] for i, name in enumerate(COLUMNS)}

        def rate(name):
            return [(b[0], (b[1] - a[1]) / (b[0] - a[0]) / 60) for a, b in zip(at[name], at[name][1:])]
        charts = [svg.chart("Resident memory", "minutes", "MiB", [("least", at["rss_least"], 0, False),
                                                                 ("most", at["rss_most"], 1, True)]),
                  svg.chart("Requests that ended", "minutes", "a second", [("requests", rate("requests"), 2, False)]),
                  svg.chart("Tokens", "minutes", "a second", [("tokens", rate("tokens"), 2, False)]),
                  svg.chart("Descriptors and threads", "minutes", "most at once",
                            [("descriptors", at["descriptors"], 0, False), ("threads", at["threads"], 1, False)])]
        with open(os.path.join(self.out, "soak.svg"), "w", encoding="utf-8") as f:
            f.write(svg.stack(charts))

    def memory(self):
        """(MiB by which the fitted line rises over what is judged, what it may, hours judged); None: too few."""
        end = self.rows[-1][0]
        judged = [(r[0] / 60, r[3]) for r in self.rows if r[0] >= (30 if end >= 60 else end / 2)]
        if len(judged) < 3:
            return None
        t, y = (sum(x[i] for x in judged) / len(judged) for i in (0, 1))
        slope = sum((a - t) * (b - y) for a, b in judged) / sum((a - t) ** 2 for a, b in judged)
        hours = judged[-1][0] - judged[0][0]
        return slope * hours, max(1, hours), hours


def rest(d, fds, threads):
    """What of the start is not there again, after everybody left; what still is of them."""
    keys = ("deqd_requests_running", "deqd_requests_waiting", "deqd_cache_pages_used", "deqd_cache_pages_reserved",
            "deqd_rows_open")
    _, m = d.wait_metric(lambda m: not any(m[k] for k in keys) and m["deqd_http_connections"] <= 1 and
                         d.settled_descriptors() <= fds and d.status("Threads") == threads, 40)
    left = {k[5:]: int(m[k]) for k in keys if m[k]}
    now = d.settled_descriptors(), d.status("Threads")
    print("at rest: %s left; descriptors %d -> %d, threads %d -> %d" % (left or "nothing", fds, now[0], threads,
                                                                        now[1]))
    return ["of requests there is left: %s" % left] * bool(left) + \
        ["descriptors %d at the start, %d in the end" % (fds, now[0])] * (now[0] != fds) + \
        ["threads %d at the start, %d in the end" % (threads, now[1])] * (now[1] != threads)


def soak(d, model, options):
    rng, seconds = random.Random(options.seed), 60 * options.minutes
    clients = Clients(d, rng, model)
    client, fds, threads = clients.client, d.settled_descriptors(), d.status("Threads")
    samples, begin = Samples(d, clients, options.out), time.monotonic()
    every, reload_every = min(60, max(2, seconds / 30)), min(600, max(10, seconds / 12))
    end = begin + seconds

    def again(fn, gap):
        def run():
            if time.monotonic() < end:
                fn()
                client.at(time.monotonic() + gap(), run)
        client.at(time.monotonic() + gap(), run)
    again(clients.come, lambda: rng.expovariate(options.rate))
    again(samples.light, lambda: min(LIGHT_S, every / 3))
    again(samples.take, lambda: every)
    again(clients.reload, lambda: reload_every)
    while time.monotonic() < end:
        client.step()
        if d.p.poll() is not None:
            return ["the daemon ended with %s: %s" % (d.p.returncode, d.stderr()[-2000:])]
    client.run(lambda: not client.calls, HANG_S + 10)
    client.close()
    broken = rest(d, fds, threads)
    samples.light()
    samples.take()
    samples.write()
    for kind, by in sorted(clients.outcomes.items()):
        print("%-18s %s" % (kind, ", ".join("%d %s" % (n, k) for k, n in sorted(by.items()))))
    reloads = [sum(x["message"].startswith(m) for x in d.lines()) for m in ("reloaded", "reload failed")]
    print("reloads: %d done, %d of damaged files refused (%d damaged); %d probes" % (*reloads, clients.damaged,
                                                                                     samples.probes))
    if reloads[1] < clients.damaged:
        broken.append("%d damaged files, %d reloads that were refused" % (clients.damaged, reloads[1]))
    if rose := samples.memory():
        print("resident memory: the fitted line rises by %.2f MiB over the %.2f h that are judged, at most %.2f" % (
            rose[0], rose[2], rose[1]))
        if rose[0] > rose[1]:
            broken.append("resident memory rises by %.2f MiB in %.2f h" % (rose[0], rose[2]))
    if samples.rows[-1][COLUMNS.index("bugs")]:
        broken.append("deqd_bugs_total is %d" % samples.rows[-1][COLUMNS.index("bugs")])
    return broken + ["%d wrong, the first: %s" % (len(clients.wrong), w) for w in clients.wrong[:1]]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--minutes", type=float, default=10)
    p.add_argument("--rate", type=float, default=10, help="clients a second, on average")
    p.add_argument("--model", default=lib.TINY)
    p.add_argument("--out", default=os.path.join(lib.BUILD, "soak"))
    p.add_argument("--seed", type=int, default=1)
    options = p.parse_args()
    options.out = os.path.abspath(options.out)
    shutil.rmtree(options.out, ignore_errors=True)
    model, keys = os.path.join(options.out, "model"), os.path.join(options.out, "keys")
    shutil.copytree(options.model, model)
    weights = os.path.join(model, "model.safetensors")
    shutil.copy(weights, weights + ".good")
    with open(keys, "w") as f:
        f.write("soak %s admin\n" % hashlib.sha256(KEY.encode()).hexdigest())
    print("soak: %g minutes, %g clients a second, seed %d, %s" % (options.minutes, options.rate, options.seed,
                                                                  time.strftime("%F %T")), flush=True)
    with Daemon("auth.keys_file=" + keys, "state.dir=" + os.path.join(options.out, "states"), model=model,
                key=KEY) as d:
        broken = soak(d, model, options)
    broken += ["the daemon's log or its end, see FAIL above"] * (lib.counts["failed"] > 0)
    for text in broken:
        print("BROKEN " + text)
    print("soak: %s, %s" % ("BROKEN" if broken else "held", time.strftime("%F %T")))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
