"""Three replicas behind HAProxy with the repository's configuration: make test-scaleout, or sh tests/scaleout/run.sh
[part of a test's name]..."""
import collections
import json
import os
import pwd
import random
import re
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from haproxy import CONFIG, STORIES, Proxy, Replicas, lib  # noqa: E402
from lib import MARK, SLOW, check, equal, raw_request, skip  # noqa: E402
from known import Failure, Load, ask, ask_again, id_of, requests  # noqa: E402

# Without the bound a key leads to its replica for sure, however few requests there are: where a test is about what
# happens to one replica. (The bound: test_bound.)
UNBOUND = [("hash-balance-factor 200", None)]
NAMES = ["deqd1", "deqd2", "deqd3"]
# Half a minute and more of decoding on any machine: 60 evaluations a token, one after the other.
LONG = {"max_tokens": 190000, "ignore_eos": True, "temperature": 0,
        "deq": {"min_iter": 60, "max_iter": 60, "window": 1}}
ROOM = ("engine.max_positions=200000",)  # for LONG
SECOND = dict(LONG, prompt="The end", max_tokens=6000)  # about one second of it


def say(text):
    print("%s: %s" % (lib._now[0].split(".")[-1], text), flush=True)


def server_of(proxy, ids):
    """{request id: server}, from HAProxy's log, once all of them stand there."""
    until = time.monotonic() + 5 * SLOW
    while True:
        got = {x["request_id"]: x["server"] for x in proxy.lines()}
        if all(i in got for i in ids) or time.monotonic() > until:
            return {i: got.get(i) for i in ids}
        time.sleep(0.02)


def place(proxy, keys, tag):
    """{key: the server that answered it}"""
    ids = {k: "%s-%d" % (tag, n) for n, k in enumerate(keys)}
    for k in keys:
        proxy.idle()
        s = proxy.post("/v1/completions", {"prompt": "A", "max_tokens": 1},
                       {"X-Deqd-Affinity": k, "X-Request-Id": ids[k]})[0]
        if s != 200:
            check(False, "key %s: status %d" % (k, s))
    got = server_of(proxy, list(ids.values()))
    return {k: got[i] for k, i in ids.items()}


def key_of(proxy, server):
    """A value of X-Deqd-Affinity that leads to this server."""
    for k, s in place(proxy, ["find%d" % i for i in range(20)], "find-%s" % server).items():
        if s == server:
            return k
    raise RuntimeError("none of 20 keys leads to %s" % server)


def test_configuration():
    code, out, err = lib.run(["haproxy", "-v"])
    say(out.split("\n")[0])
    try:
        pwd.getpwnam("haproxy")
        code, out, err = lib.run(["haproxy", "-c", "-f", CONFIG])
        check(code == 0 and "WARNING" not in out + err,
              "haproxy -c -f etc/haproxy/haproxy.cfg: %d %s%s" % (code, out, err))
    except KeyError:
        skip("haproxy -c on the file as it stands: this machine has no user haproxy (the package is unpacked, not "
             "installed); the other tests run it retargeted")


def test_affinity():
    keys = ["key%d" % i for i in range(120)]
    with Replicas("chat.message={role}: {content}\\n") as rep, Proxy(rep) as proxy:
        before = place(proxy, keys, "a")
        equal(place(proxy, keys, "b"), before, "the same key, the same replica")
        count = collections.Counter(before.values())
        # 40 +- 5.2 for even shares
        check(set(count) == set(NAMES) and all(15 <= n <= 65 for n in count.values()),
              "120 keys over three replicas: %s" % count)
        logged, until = {}, time.monotonic() + 5
        while len(logged) < len(keys) and time.monotonic() < until:
            logged = {x["request_id"]: n for n,
                      d in zip(NAMES, rep) for x in d.lines() if str(x.get("request_id", "")).startswith("a-")}
        equal(logged, {"a-%d" % n: before[k] for n, k in enumerate(keys)},
              "the replicas' logs say the same, under the same ids")

        # without the header: by the head of the prompt, in whatever shape it comes
        rng = random.Random(1)
        for shape, path, wrap in (("text", "/v1/completions", lambda h, i: {"prompt": h + " tail %d" % i}),
                                  ("ids", "/v1/completions", lambda h,
                                   i: {"prompt": [ord(c) + 1 for c in h] + [300 + i]}),
                                  ("chat", "/v1/chat/completions", lambda h,
                                   i: {"messages": [{"role": "system", "content": h},
                                                    {"role": "user", "content": "tail %d" % i}]}),
                                  ("large", "/v1/completions", lambda h,
                                   i: {"prompt": h + " x" * 30000 + " tail %d" % i, "truncate_prompt_tokens": 8})):
            where = {}
            for h in range(12):
                head = "".join(rng.choice("abcdefgh ") for _ in range(300))
                for i in range(3):
                    proxy.idle()
                    s, _, b = proxy.request("POST", path, dict(wrap(head, i), max_tokens=1),
                                            {"X-Request-Id": "%s-%d-%d" % (shape, h, i),
                                             "Authorization": "Bearer k%d" % i})
                    check(s == 200, "%s: %d %s" % (shape, s, b[:200]))
            got = server_of(proxy, ["%s-%d-%d" % (shape, h, i) for h in range(12) for i in range(3)])
            for h in range(12):
                where[h] = {got["%s-%d-%d" % (shape, h, i)] for i in range(3)}
            check(all(len(w) == 1 for w in where.values()),
                  "%s: prompts with one head, one replica, whatever the key: %s" % (shape, where))
            check(len({next(iter(w)) for w in where.values()}) == 3,
                  "%s: 12 heads reach all replicas: %s" % (shape, where))

        # without a body: by the API key
        for i in range(24):
            proxy.idle()
            equal(proxy.request("GET", "/v1/models",
                                headers={"Authorization": "Bearer key%d" % (i % 12), "X-Request-Id": "get-%d" % i})[0],
                  200, "GET /v1/models")
        got = server_of(proxy, ["get-%d" % i for i in range(24)])
        check(all(got["get-%d" % i] == got["get-%d" % (i + 12)] for i in range(12)) and len(set(got.values())) == 3,
              "without a body, by the API key: %s" % got)

        # one replica leaves: only its keys move, to both others; it returns: they come home
        port = rep[1].port
        rep[1].stop()
        check(proxy.wait_status("deqd2", "DOWN", 10) is not None, "deqd2 is found to be gone")
        away = place(proxy, keys, "c")
        equal({k: s for k, s in away.items() if before[k] != "deqd2"},
              {k: s for k, s in before.items() if s != "deqd2"}, "the others' keys stay")
        moved = collections.Counter(away[k] for k in keys if before[k] == "deqd2")
        check(set(moved) == {"deqd1", "deqd3"} and min(moved.values()) >= 0.2 * sum(moved.values()),
              "its keys go to both others: %s" % moved)
        rep.start(1)
        equal(rep[1].port, port, "its port")
        check(proxy.wait_status("deqd2", "UP", 10) is not None, "deqd2 is found again")
        equal(place(proxy, keys, "d"), before, "then every key is where it was")
        say("120 keys: %s; without deqd2 its %d went %s, none else moved" % (dict(count), count["deqd2"], dict(moved)))


def test_bound():
    """One key for everything: its replica takes at most twice the mean, the rest spills over."""
    with Replicas(*ROOM) as rep, Proxy(rep) as proxy:
        home = place(proxy, ["hot"], "home")["hot"]
        body = dict(LONG, prompt="A", deadline_ms=int(2500 * SLOW))
        threads = [threading.Thread(target=lambda: ask_again(proxy, body, "hot", headers={"X-Deqd-Affinity": "hot"}))
                   for _ in range(12)]
        for t in threads:
            t.start()
            time.sleep(0.02)
        until, running = time.monotonic() + 2 * SLOW, []
        while sum(running) < 12 and time.monotonic() < until:
            running = [int(proxy.servers()[n]["scur"]) for n in NAMES]
            time.sleep(0.02)
        for t in threads:
            t.join()
        # the bound is reckoned with the request that comes, so 12 of them give at most 8
        check(sum(running) == 12 and max(running) <= 8 and running[NAMES.index(home)] == max(running) and
              sorted(running)[1] >= 2,
              "12 requests of one key, whose replica is %s: %s at %s" % (home, running, NAMES))
        say("12 open requests of one key: %s" % dict(zip(NAMES, running)))


def cache_figures(edits):
    """Twelve heads of three blocks, five requests each in random order, two at a time, on fresh replicas: (tokens
    found, looked up, seconds of prefill)."""
    text = open(os.path.join(STORIES, "README.md"), encoding="utf-8").read()
    heads = ["%d. %s" % (i * 31, text[i * 90:i * 90 + 1700]) for i in range(12)]
    order = [(h, i) for h in range(12) for i in range(5)]
    random.Random(3).shuffle(order)
    with Replicas(model=STORIES) as rep, Proxy(rep, edits) as proxy:
        lock, failed = threading.Lock(), []

        def run():
            while True:
                with lock:
                    if not order:
                        return
                    h, i = order.pop()
                s = proxy.request("POST", "/v1/completions",
                                  {"prompt": heads[h] + " Tail %d" % i, "max_tokens": 4,
                                   "truncate_prompt_tokens": 2000})[0]
                if s != 200:
                    failed.append(s)

        threads = [threading.Thread(target=run) for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        equal(failed, [], "statuses other than 200")
        m = [d.metrics() for d in rep]
        return [sum(x[k] for x in m) for k in ("deqd_state_cache_hits_total", "deqd_state_cache_queries_tokens_total",
                                               "deqd_prefill_seconds_sum")]


def test_prefix_cache():
    ours = cache_figures([])
    even = cache_figures(UNBOUND + [("balance hash var(txn.affinity)", "balance roundrobin"),
                                    ("hash-type consistent sdbm avalanche", None)])
    for name, (hits, asked, seconds) in (("by head", ours), ("round robin", even)):
        say("%-11s %5d of %d prompt tokens from the cache (%.0f %%), %.2f s of prefill" % (name, hits, asked,
                                                                                           100 * hits / asked, seconds))
    equal(ours[1], even[1], "the same prompts")
    # Five requests of a head: four can hit. Round robin solves it on up to three replicas, so about two can; the
    # difference must be seen, whatever the order.
    check(ours[0] > 1.3 * even[0], "by head %d tokens were found, by round robin %d" % (ours[0], even[0]))


def test_stream():
    slow = dict(LONG, prompt="Once", max_tokens=12, stream=True, deq={"min_iter": 300, "max_iter": 300, "window": 1})
    with Replicas("stream.flush_ms=0", "limits.max_iter=1000", model=STORIES, n=1) as rep, Proxy(rep) as proxy:
        at = []
        begin = time.monotonic()
        through = ask(proxy, slow, "same", on_part=lambda: at.append(time.monotonic() - begin))
        check(at[0] < at[-1] / 2 and len(at) >= 6,
              "the first event came after %.3f s, the last after %.3f s, in %d pieces" % (at[0], at[-1], len(at)))
        equal(through, ask(rep[0], slow, "same"), "the stream says what the direct one says")
        for stream in (True, False):  # of usual speed, with many events in a packet
            b = dict(LONG, prompt="Once upon a time", max_tokens=600, stream=stream, deq={})
            equal(ask(proxy, b, "same"), ask(rep[0], b, "same"), "the direct answer, stream %s" % stream)
        say("first event of twelve slow tokens after %.3f s, the last after %.3f s, %d pieces" % (at[0], at[-1],
                                                                                                  len(at)))


def test_two_segments():
    """Headers and body in a packet each, from a client that awaits the acknowledgement of the first (as it does by
    default)."""
    with Replicas(n=1) as rep, Proxy(rep) as proxy:
        took = []
        for _ in range(15):
            with proxy.connect(5) as c:
                head, body = raw_request({"prompt": "A", "max_tokens": 1}).split(b"\r\n\r\n")
                begin = time.monotonic()
                c.sendall(head + b"\r\n\r\n")
                c.sendall(body)
                equal(lib.read_response(c)[0], 200, "status")
                took.append(time.monotonic() - begin)
        median = sorted(took)[7]
        check(median < 0.03 * SLOW, "median %.1f ms; a delayed acknowledgement would take 40" % (1e3 * median))
        say("median %.2f ms" % (1e3 * median))


def test_client_leaves():
    with Replicas(*ROOM, n=1) as rep, Proxy(rep) as proxy:
        d = rep[0]
        for stream in (True, False):
            with proxy.connect() as s:
                s.sendall(raw_request(dict(LONG, prompt="A", max_tokens=150000, stream=stream)))
                check(d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)[0], "running, stream %s" % stream)
                if stream:
                    check(b"data: " in s.recv(65536) + s.recv(65536), "events come")
            check(d.wait_metric(lambda m: m["deqd_requests_running"] == 0, 2)[0],
                  "cancelled when the client left, stream %s" % stream)
        equal(sum(d.metrics()['deqd_requests_cancelled_total{phase="%s"}' % p] for p in ("prefill", "decode")), 2,
              "counted as cancelled")


def test_errors_and_log():
    """Errors have deqd's shape whoever makes them; ids go through; the log holds no prompt, no key, no query."""
    with Replicas(n=1) as rep, Proxy(rep) as proxy:
        for given, want in (("my-id.7", "my-id.7"), (None, None), ('bad "id"', None), ("x" * 129, None)):
            s, h, o = proxy.post("/v1/completions", {"prompt": MARK, "max_tokens": 1},
                                 dict({"Authorization": "Bearer " + MARK},
                                      **({"X-Request-Id": given} if given else {})))
            check(s == 200 and o["id"] == "cmpl-" + h["x-request-id"] and
                  (h["x-request-id"] == want if want else h["x-request-id"] != given),
                  "X-Request-Id %r: %d %r %r" % (given, s, h.get("x-request-id"), o.get("id")))
        s, h, b = proxy.request("POST", "/v1/completions?q=" + MARK, {"prompt": MARK, "max_tokens": -1},
                                {"X-Deqd-Affinity": MARK})
        equal((s, json.loads(b)["error"]["param"]), (400, "max_tokens"), "deqd's own 400")
        for method, path in (("GET", "/metrics"), ("POST", "/admin/reload")):
            s, h, b = proxy.request(method, path)
            lib.check_error(s, b, 404, "unknown_path", None, "%s is not to be had here" % path)
        s, h, o = proxy.get("/health")
        equal((s, o), (200, {"status": "ok", "replicas": 1}), "/health of the group")
        with proxy.connect(5) as c:
            c.sendall(b"GET /v1 models HTTP/1.1\r\nHost: x\r\n\r\n")
            equal(c.recv(65536)[:12], b"HTTP/1.1 400", "a malformed request")
        rep[0].stop()
        s, h, b = proxy.request("POST", "/v1/completions", {"prompt": MARK, "max_tokens": 1}, {"X-Request-Id": "alone"})
        lib.check_error(s, b, 503, "no_replica", None, "no replica there, not known yet or known")
        equal((h.get("retry-after"), h.get("x-request-id")), ("1", "alone"), "its headers")
        proxy.wait_status("deqd1", "DOWN", 10)
        equal(proxy.request("GET", "/health/ready")[0], 503, "/health/ready of the group")
        text = proxy.log()
        check(MARK not in text, "no text of prompts, keys or queries in the log")
        check(len(proxy.lines()) >= 10 and all(x["method"] in ("POST", "GET", "<BADREQ>") for x in proxy.lines()),
              "every request has its line of JSON")


def test_timeouts():
    """Silence while an answer is made is no reason to cut it; a stream that is silent is cut; a replica that hangs is
    left, and what it held is answered by another."""
    edits = UNBOUND + [
        ("timeout client 60s", "timeout client 1s"),
        ("http-request set-timeout server 60s if { var(txn.stream) -m bool }",
         "http-request set-timeout server 2s if { var(txn.stream) -m bool }")]
    with Replicas("stream.ping_ms=500", *ROOM) as rep, Proxy(rep, edits) as proxy:
        body = dict(LONG, prompt="A", deadline_ms=int(3000 * SLOW))
        answer, failures = ask_again(proxy, body, "silent")
        check(answer is not None and not failures,
              "an answer after 3 s of silence, with a client timeout of 1 s: %s" % failures)
        keys = [key_of(proxy, n) for n in NAMES]
        whole, stream = SECOND, dict(LONG, prompt="A", stream=True)
        known = ask(rep[1], whole, "whole")
        box, ended = [], []

        def held(body, rid, into):
            begin = time.monotonic()
            try:
                into.append((ask(proxy, body, rid, {"X-Deqd-Affinity": keys[0]}), time.monotonic() - begin))
            except Failure as e:
                into.append((e, time.monotonic() - begin))

        threads = [threading.Thread(target=held, args=a) for a in ((stream, "stream", ended), (whole, "whole", box))]
        for t in threads:
            t.start()
        check(rep[0].wait_metric(lambda m: m["deqd_requests_running"] == 2, 5)[0], "both run at deqd1")
        rep[0].p.send_signal(signal.SIGSTOP)
        took = proxy.wait_status("deqd1", "DOWN", 15)
        check(took is not None, "a replica that hangs is found out")
        threads[0].join(10 * SLOW)
        check(ended and isinstance(ended[0][0], Failure) and ended[0][0].kind.startswith("cut short"),
              "the silent stream is cut, and seen to be cut: %s" % ended)
        answer, failures = ask_again(proxy, whole, "whole", tries=1, headers={"X-Deqd-Affinity": keys[0]})
        check(answer == known and not failures, "its keys are served elsewhere meanwhile: %s" % failures)
        check(not box, "its whole answer is still awaited: %s" % (box and box[0][0][:100]))
        rep.kill(0)
        threads[1].join(30 * SLOW)
        check(box and box[0][0] == known,
              "when it is killed, another replica gives that answer, and the client sees nothing of it: %s" %
              (box and box[0][0][:100]))
        rep.start(0)
        say("a hanging replica was out after %.1f s" % (took or -1))


def known_answers(d, bodies):
    return [ask(d, b, id_of(i)) for i, b in enumerate(bodies)]


def flaps(proxy):
    s = proxy.servers()
    return [int(s[n]["chkdown"]) for n in NAMES], [int(s[n]["chkfail"]) for n in NAMES]


def test_killed():
    """SIGKILL under load: with client retries every answer comes, and is the one that a direct request gets."""
    bodies = requests(24)
    long_stream, long_whole = dict(SECOND, stream=True), SECOND
    with Replicas(*ROOM) as rep, Proxy(rep, UNBOUND) as proxy:
        known, known_long = known_answers(rep[0], bodies), [ask(rep[0], b, "long") for b in (long_stream, long_whole)]
        key = key_of(proxy, "deqd2")
        with Load(proxy, bodies, known) as load:
            load.wait(40)
            begun, got = threading.Event(), [None, None]

            def client(n, body):
                got[n] = ask_again(proxy, body, "long", headers={"X-Deqd-Affinity": key},
                                   on_part=begun.set if n == 0 else None)

            threads = [threading.Thread(target=client, args=a) for a in ((0, long_stream), (1, long_whole))]
            for t in threads:
                t.start()
            begun.wait(20 * SLOW)
            running = rep[1].wait_metric(lambda m: m["deqd_requests_running"] >= 2, 1)[1]["deqd_requests_running"]
            rep.kill(1)
            took = proxy.wait_status("deqd2", "DOWN", 10)
            check(running >= 2, "%d requests were running when it was killed" % running)
            for t in threads:
                t.join()
            load.wait(40)
            rep.start(1)
            check(proxy.wait_status("deqd2", "UP", 10) is not None, "it comes back")
            load.wait(40)
        down, fails = flaps(proxy)
        retried = {n: int(proxy.servers()[n]["wretr"]) for n in NAMES}
        say("%d were running; %s; the long stream: %s, the long whole answer: %s; HAProxy's retries %s; out %.1f s "
            "after; went down %s, failed checks %s" %
            (running, load.summary(), got[0] and got[0][1], got[1] and got[1][1], retried, took or -1, down, fails))
        equal((load.lost, load.wrong), (0, 0), "requests lost, answers other than the direct ones")
        check(load.asked >= 120, "%d requests" % load.asked)
        for k, (name, n) in enumerate((("stream", 1), ("whole answer", 0))):
            answer, failures = got[k]
            equal((answer == known_long[k], len(failures)), (True, n),
                  "the long %s: as the direct one, and tries that failed %s" % (name, failures))
        check(sum(retried.values()) > 0, "HAProxy sent something again")
        equal((down, fails[0], fails[2]), ([0, 1, 0], 0, 0), "replicas taken out, and probes that the others failed")


def test_rolled():
    """All three are rolled, one after the other, with the default delays, under load: clients that never retry see no
    error, and running streams come to their ends."""
    bodies = requests(24)
    with Replicas("server.drain_delay_ms=5000", *ROOM) as rep, Proxy(rep, UNBOUND) as proxy:
        known = known_answers(rep[0], bodies)
        keys = [key_of(proxy, n) for n in NAMES]
        out = []
        with Load(proxy, bodies, known, tries=1) as load:
            for i in range(3):
                load.wait(30)
                box, begun = [], threading.Event()

                def client(box=box, begun=begun, key=keys[i]):
                    begin = time.monotonic()
                    try:
                        got = ask(proxy, dict(LONG, prompt="The end", stream=True, deadline_ms=8000), "long",
                                  {"X-Deqd-Affinity": key}, begun.set)
                        box.append((json.loads(got)["deq"], time.monotonic() - begin))
                    except Failure as e:
                        box.append((e.kind, time.monotonic() - begin))

                t = threading.Thread(target=client)
                t.start()
                begun.wait(20 * SLOW)
                running = rep[i].metrics()["deqd_requests_running"]
                check(running >= 1, "deqd%d runs the long stream: %d" % (i + 1, running))
                begin = time.monotonic()
                rep[i].p.send_signal(signal.SIGTERM)
                out.append(proxy.wait_status(NAMES[i], "DOWN", 5))
                code = rep[i].p.wait(40 * SLOW)
                took = time.monotonic() - begin
                rep[i].check_end(code)
                t.join(10 * SLOW)
                check(box and isinstance(box[0][0], dict) and box[0][0].get("deadline_exceeded") is True and took > 5,
                      "the stream that ran on deqd%d went on beyond the drain delay, to its own end: %s, the replica "
                      "ended after %.1f s" % (i + 1, box, took))
                equal(sum(x.get("status") == 503 for x in rep[i].lines()), 0,
                      "requests that the draining replica refused")
                rep.start(i)
                check(proxy.wait_status(NAMES[i], "UP", 10) is not None, "deqd%d is back" % (i + 1))
            load.wait(30)
        down, fails = flaps(proxy)
        statuses = collections.Counter(x["status"] for x in proxy.lines())
        ends = collections.Counter(x["end"] for x in proxy.lines())
        retried = sum(int(proxy.servers()[n]["wretr"]) for n in NAMES)
        say("%s; statuses %s; HAProxy's retries %d; out %s s after SIGTERM; went down %s, failed checks %s" %
            (load.summary(), dict(statuses), retried, ["%.1f" % (x or -1) for x in out], down, fails))
        equal((load.lost, load.wrong, dict(load.failures)), (0, 0, {}),
              "requests lost, answers other than the direct ones, errors seen")
        equal(set(statuses), {200}, "statuses")
        check(all(re.fullmatch("--[-A-Z]{2}", e) for e in ends), "no request ended by an error: %s" % ends)
        equal(down, [1, 1, 1], "each replica went out once")


def test_rolled_without_delay():
    """A replica that refuses at once and leaves: what it refused or dropped unanswered goes to another, and clients see
    nothing of it."""
    bodies = requests(24)
    with Replicas(*ROOM) as rep, Proxy(rep) as proxy:
        known = known_answers(rep[0], bodies)
        with Load(proxy, bodies, known, tries=1) as load:
            # a few times: whether a request comes just when a replica leaves is chance
            for i in (0, 1, 2) * 4:
                load.wait(30)
                rep[i].stop()
                load.wait(60)
                rep.start(i)
                proxy.wait_status(NAMES[i], "UP", 10)
                load.wait(10)
                retried = sum(int(proxy.servers()[n]["wretr"]) for n in NAMES)
                if retried and i == 2:
                    break
        say("%s; HAProxy's retries %d; went down %s" % (load.summary(), retried, flaps(proxy)[0]))
        equal((load.lost, load.wrong, dict(load.failures)), (0, 0, {}),
              "requests lost, answers other than the direct ones, errors seen")
        check(retried > 0, "HAProxy sent something again")


if __name__ == "__main__":
    sys.exit(lib.main("scaleout", parts=sys.argv[1:]))
