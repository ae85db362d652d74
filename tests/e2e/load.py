"""Clients that leave, a queue that is full, requests that wait too long, many clients at once."""
import json
import os
import socket
import struct
import tempfile
import threading
import time

from lib import (MARK, PATIENCE_S, SLOW, Daemon, check, check_error, equal, events_text, parse_sse, raw_request,
                 read_response)

LONG = {"prompt": MARK, "max_tokens": 190000, "temperature": 0, "ignore_eos": True}   # seconds of decoding
WIDE = {"prompt": [70, 71, 72, 73] * 25000, "max_tokens": 1, "temperature": 0}        # a while of prefill


def freed(d, what, seconds=2):
    """The contract: within 2 s nothing of the request is left."""
    ok, m = d.wait_metric(lambda m: m["deqd_requests_running"] == 0 and m["deqd_requests_waiting"] == 0 and
                          m["deqd_cache_pages_used"] == 0 and
                          m["deqd_rows_open"] == 0, seconds)
    return check(ok, "%s: within %g s running, waiting, pages and rows are 0: %s" % (what, seconds, {
        k: m[k] for k in ("deqd_requests_running", "deqd_requests_waiting", "deqd_cache_pages_used",
                          "deqd_rows_open")}))


def leave(s, reset):
    if reset:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def cancelled(m, phase):
    phases = ("prefill", "decode") if phase == "running" else (phase,)
    return sum(m['deqd_requests_cancelled_total{phase="%s"}' % p] for p in phases)


def test_clients_that_leave():
    with Daemon("engine.max_sequences=1", "engine.max_positions=200000") as d:
        for stream in (False, True):
            for reset in (False, True):
                for phase in ("decode", "prefill"):
                    what = "%s, %s, %s" % ("stream" if stream else "whole", "reset" if reset else "closed", phase)
                    a = d.metrics()
                    s = d.connect()
                    s.sendall(raw_request(dict(LONG if phase == "decode" else WIDE, stream=stream)))
                    if phase == "decode":
                        made = "deqd_generation_tokens_total"
                        ok, m = d.wait_metric(lambda m: m[made] > a[made] + 10, 5)
                    else:
                        ok, m = d.wait_metric(lambda m: m["deqd_requests_running"] == 1 and
                                              m["deqd_positions_total"] > a["deqd_positions_total"], 5)
                    check(ok and m["deqd_requests_running"] == 1, what + ": it runs")
                    leave(s, reset)
                    freed(d, what)
                    m = d.metrics()
                    equal(cancelled(m, "running") - cancelled(a, "running"), 1,
                          what + ": deqd_requests_cancelled_total{prefill or decode}")
                    ended = 'deqd_requests_total{finish_reason="cancelled"}'
                    equal(m[ended] - a[ended], 1, what + ": finish_reason")
                    check(m["deqd_generation_tokens_total"] - a["deqd_generation_tokens_total"] < 190000,
                          what + ": it was not run to its end")
                    d.alive(what)
        # queued behind another
        for stream in (False, True):
            a = d.metrics()
            with d.connect() as first:
                first.sendall(raw_request(dict(LONG, stream=True)))
                d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
                waiting = [d.connect() for _ in range(3)]
                for s in waiting:
                    s.sendall(raw_request(dict(LONG, stream=stream)))
                ok, m = d.wait_metric(lambda m: m["deqd_requests_waiting"] == 3, 5)
                check(ok, "three wait")
                for i, s in enumerate(waiting):
                    leave(s, i == 1)
                ok, m = d.wait_metric(lambda m: m["deqd_requests_waiting"] == 0, 2)
                check(ok and m["deqd_requests_running"] == 1,
                      "queued ones that leave are gone, the running one stays: %s" % m["deqd_requests_waiting"])
                equal(cancelled(m, "queued") - cancelled(a, "queued"), 3, "deqd_requests_cancelled_total{queued}")
                first.setblocking(True)
                check(first.recv(100).startswith(b"HTTP/1.1 200"), "the running stream was not touched")
            freed(d, "the first one leaves too")
            equal(cancelled(d.metrics(), "running") - cancelled(a, "running"), 1,
                  "deqd_requests_cancelled_total{running}")
            d.alive()
        # logits too, and both of two embeddings, of which one finds a place
        for path, body, queued in (("/v1/logits", {"prompt": WIDE["prompt"], "positions": "last"}, 0),
                                   ("/v1/embeddings", {"input": [WIDE["prompt"]] * 2}, 1)):
            a = d.metrics()
            s = d.connect()
            s.sendall(raw_request(body, path=path))
            d.wait_metric(lambda m: (m["deqd_requests_running"], m["deqd_requests_waiting"]) == (1, queued), 5)
            leave(s, True)
            freed(d, path)
            m = d.metrics()
            equal([cancelled(m, k) - cancelled(a, k) for k in ("running", "queued")], [1, queued],
                  path + ": deqd_requests_cancelled_total")
        # many at once, at any moment
        for i in range(60):
            s = d.connect()
            s.sendall(raw_request(dict(LONG, stream=bool(i % 2))))
            time.sleep(0.001 * (i % 7))
            leave(s, bool(i & 2))
        freed(d, "60 that come and go", 4)
        d.alive("after 60 that came and went")


def test_half_closed_client_still_reads():
    """Who only ends its own side still wants the answer (a shell pipe into nc does that)."""
    with Daemon() as d:
        with d.connect() as s:
            s.sendall(raw_request({"prompt": "A", "max_tokens": 400, "temperature": 0, "stream": True,
                                   "ignore_eos": True}))
            data = s.recv(1000)
            s.shutdown(socket.SHUT_WR)
            status, _, body, _ = read_response(s, data)
            events, done = parse_sse(body)
            equal((status, done, len(events_text(events)) > 100), (200, True, True),
                  "a stream whose client closed its sending side")


def whole(d, version="1.1", **fields):
    """A connection on which a request for a whole answer was sent, whose sending side is closed."""
    s, body = d.connect(), json.dumps(dict({"prompt": "A", "temperature": 0, "ignore_eos": True}, **fields)).encode()
    s.sendall(("POST /v1/completions HTTP/%s\r\nHost: x\r\nContent-Length: %d\r\n\r\n" %
               (version, len(body))).encode() + body)
    s.shutdown(socket.SHUT_WR)
    return s


def final(s):
    """Reads to the end: (how many 100 Continue stood before the answer, its status, its body)."""
    data, interim = b"", b"HTTP/1.1 100 Continue\r\n\r\n"
    while block := s.recv(65536):
        data += block
    n = 0
    while data.startswith(interim):
        data, n = data[len(interim):], n + 1
    return n, int(data.split()[1]) if data else None, data.partition(b"\r\n\r\n")[2]


def test_half_closed_client_gets_its_whole_answer():
    """... whether it is ready at once, or the client waits in the queue and sees the interim answers that tell it from
    one that closed."""
    with Daemon("engine.max_sequences=1", "engine.max_positions=200000") as d:
        with whole(d, max_tokens=2) as s:
            equal(final(s)[1], 200, "an answer that is ready soon")
        with d.connect() as busy:
            busy.sendall(raw_request(dict(LONG, stream=True)))
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            with whole(d, max_tokens=2) as waits, whole(d, max_tokens=2) as leaves, \
                    whole(d, "1.0", max_tokens=2) as old, d.connect() as closes:
                equal(waits.recv(4, socket.MSG_PEEK), b"HTTP", "it is told while it waits")
                leave(leaves, False)  # after its interim answer: the next one finds out
                closes.sendall(raw_request(dict(LONG, stream=False)))
                closes.close()
                ok, m = d.wait_metric(lambda m: m["deqd_requests_waiting"] == 1, 8)
                check(ok, "who closed, and who speaks HTTP/1.0, is taken from the queue: %s wait" %
                      m["deqd_requests_waiting"])
                equal(final(old)[1], None, "HTTP/1.0 has no interim answers")
                busy.close()
                n, status, body = final(waits)
                equal((n >= 1, status, json.loads(body)["usage"]["completion_tokens"]), (True, 200, 2),
                      "its answer comes after all")
        # a pipeline that ends so: each answer is whole
        with d.connect() as s:
            s.sendall(raw_request({"prompt": "A", "max_tokens": 1}) * 3)
            s.shutdown(socket.SHUT_WR)
            data = b""
            while block := s.recv(65536):
                data += block
            equal(data.count(b"HTTP/1.1 200 OK\r\n"), 3, "three requests in one go, half-closed")
        d.alive()


def test_half_closed_beside_idle_connections():
    """The end of what is sent must not be read before the answer is given; behind it nothing keeps the connection."""
    with Daemon("server.idle_timeout_ms=600000") as d:
        others = [d.connect() for _ in range(8)]  # so that each HTTP thread has one
        for s in others:
            s.sendall(raw_request("", "/v1/models", method="GET"))
            read_response(s)
        for path, body in (("/v1/completions", {"prompt": "A", "max_tokens": 2}),
                           ("/v1/completions", {"prompt": "A", "max_tokens": 2, "stream": True}),
                           ("/v1/responses", {"input": "A", "max_output_tokens": 2}), ("/v1/logits", {"prompt": "A"}),
                           ("/v1/embeddings", {"input": "A"}), ("/tokenize", {"prompt": "A"}),
                           ("/tokenize", {"prompt": "A" * 100000})):
            with d.connect() as s:
                s.sendall(raw_request(body, path))
                s.shutdown(socket.SHUT_WR)
                equal(final(s)[1], 200, "half-closed at %s: %.60s" % (path, body))
        for s in others:
            s.close()


def test_half_closed_on_a_unix_socket():
    """The system tells who closed: no interim answers."""
    with tempfile.TemporaryDirectory() as tmp, Daemon("engine.max_sequences=1", "engine.max_positions=200000",
                                                      listen="unix:%s/s" % tmp) as d:
        with d.connect() as busy:
            busy.sendall(raw_request(dict(LONG, stream=True)))
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            with whole(d, max_tokens=2) as waits, whole(d, max_tokens=2) as leaves:
                d.wait_metric(lambda m: m["deqd_requests_waiting"] == 2, 5)
                leaves.close()
                ok, _ = d.wait_metric(lambda m: m["deqd_requests_waiting"] == 1, 1)
                check(ok, "who closed is taken from the queue")
                time.sleep(1)  # longer than the grace
                busy.close()
                equal(final(waits)[:2], (0, 200), "who half-closed has its answer, alone")


def test_full_queue():
    with Daemon("engine.max_sequences=1", "queue.max_requests=2", "engine.max_positions=200000") as d:
        with d.connect() as run:
            run.sendall(raw_request(dict(LONG, stream=True)))
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            waiting = [d.connect() for _ in range(2)]
            for s in waiting:
                s.sendall(raw_request({"prompt": "A", "max_tokens": 2, "temperature": 0}))
            ok, _ = d.wait_metric(lambda m: m["deqd_requests_waiting"] == 2, 5)
            check(ok, "two wait")
            for path, body in (("/v1/completions", {"prompt": "A"}),
                               ("/v1/completions", {"prompt": "A", "stream": True}), ("/v1/logits", {"prompt": "A"})):
                s, h, b = d.request("POST", path, body)
                check_error(s, b, 429, "queue_full", None, path)
                ms, whole = h.get("retry-after-ms", ""), h.get("retry-after", "")
                check(ms.isdigit() and whole.isdigit() and int(whole) >= 1 and
                      int(whole) == max(1, -(-int(ms) // 1000)) and int(ms) <= 60000,
                      "Retry-After %r and retry-after-ms %r" % (whole, ms))
            # what needs no place is answered
            for path in ("/health", "/health/live", "/metrics", "/v1/models"):
                equal(d.request("GET", path)[0], 200, path + " of a full server")
            equal(d.post("/tokenize", {"prompt": "a"})[0], 200, "/tokenize of a full server")
            s, _, b = d.request("POST", "/v1/completions", {"prompt": 1})
            check_error(s, b, 429, "queue_full", None, "a bad request to a full server: it is not even read")
            equal(d.metrics()['deqd_requests_rejected_total{reason="queue_full"}'], 4, "deqd_requests_rejected_total")
            leave(run, False)
            for s in waiting:
                status, _, b, _ = read_response(s)
                equal((status, json.loads(b)["usage"]["completion_tokens"]), (200, 2),
                      "who waited is served when the running one leaves")
                s.close()
        d.alive()


def test_full_queue_of_tokens():
    with Daemon("engine.max_sequences=1", "queue.max_tokens=100", "engine.max_positions=200000") as d:
        with d.connect() as run, d.connect() as wait:
            run.sendall(raw_request(dict(LONG, stream=True)))
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            wait.sendall(raw_request({"prompt": [70] * 90, "max_tokens": 1}))
            d.wait_metric(lambda m: m["deqd_requests_waiting"] == 1, 5)
            s, h, b = d.request("POST", "/v1/completions", {"prompt": [70] * 11})
            check_error(s, b, 429, "tokens_queue_full", None, "90 + 11 waiting tokens")
            check(h.get("retry-after", "").isdigit(), "Retry-After")
            equal(d.metrics()['deqd_requests_rejected_total{reason="tokens_queue_full"}'], 1,
                  "deqd_requests_rejected_total")


def test_no_queue_at_all():
    with Daemon("engine.max_sequences=1", "queue.max_requests=0", "engine.max_positions=200000") as d:
        d.alive("a free place is taken although the queue has none")
        with d.connect() as run:
            run.sendall(raw_request(dict(LONG, stream=True)))
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            s, _, b = d.request("POST", "/v1/completions", {"prompt": "A"})
            check_error(s, b, 429, "queue_full", None, "a busy server without a queue")
        freed(d, "queue.max_requests=0")
        d.alive()


def classes(d):
    """{thread's name: the classes that the system's scheduler has its threads in}"""
    ret = {}
    for t in os.listdir("/proc/%d/task" % d.p.pid):
        with open("/proc/%d/task/%s/stat" % (d.p.pid, t)) as f:
            stat = f.read()
        name, rest = stat[stat.index("(") + 1:stat.rindex(")")], stat[stat.rindex(")") + 2:].split()
        ret.setdefault(name, set()).add(int(rest[38]))
    return ret


def test_patient_threads():
    """A thread that refuses requests does not interrupt the engine, until a second after the last refusal."""
    with Daemon("engine.max_sequences=1", "queue.max_requests=0", "engine.max_positions=200000") as d:
        equal(classes(d)["MHD-worker"], {os.SCHED_OTHER}, "threads of HTTP to begin with")
        with d.connect() as run:
            run.sendall(raw_request(dict(LONG, stream=True)))
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            equal(d.post("/v1/completions", {"prompt": "A"})[0], 429, "a request too many")
            now = classes(d)
            check(os.SCHED_BATCH in now["MHD-worker"], "who refuses is patient: %s" % now)
            equal(now["engine"], {os.SCHED_OTHER}, "the engine is not")
        freed(d, "the one that ran")
        until = time.monotonic() + PATIENCE_S * SLOW
        while os.SCHED_BATCH in classes(d)["MHD-worker"] and time.monotonic() < until:
            d.alive()
        equal(classes(d)["MHD-worker"], {os.SCHED_OTHER}, "threads of HTTP in the end")


def test_waiting_too_long():
    with Daemon("engine.max_sequences=1", "queue.timeout_ms=300", "engine.max_positions=200000") as d:
        with d.connect() as run:
            run.sendall(raw_request(LONG))  # whole, not a stream: an unread stream would be cut when its buffer is full
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            for path, body in (("/v1/completions", {"prompt": "A"}),
                               ("/v1/completions", {"prompt": "A", "stream": True}), ("/v1/logits", {"prompt": "A"})):
                begin = time.monotonic()
                s, h, b = d.request("POST", path, body)
                took = time.monotonic() - begin
                check_error(s, b, 503, "queue_timeout", None, path)
                check(0.29 <= took <= 60 * SLOW, "%s: after %.2f s, expected about 0.3" % (path, took))
                check(h.get("content-type") == "application/json", "an error, not a stream: %s" % h.get("content-type"))
            equal(d.metrics()['deqd_requests_rejected_total{reason="queue_timeout"}'], 3,
                  "deqd_requests_rejected_total")
        freed(d, "after queue timeouts")
        d.alive()


def test_many_at_once():
    """100 clients on 4 places: all are served, each as if it were alone."""
    with Daemon("engine.max_sequences=4") as d:
        prompts = ["", "A", "First Citizen:", "é😀", "The king is"]
        want = [d.complete(p, max_tokens=15)["choices"][0]["text"] for p in prompts]
        bad = []

        def one(i):
            try:
                p = i % len(prompts)
                if i % 2:
                    _, _, events, done = d.stream(prompts[p], max_tokens=15)
                    got = events_text(events) if done else None
                else:
                    got = d.complete(prompts[p], max_tokens=15)["choices"][0]["text"]
                if got != want[p]:
                    bad.append((p, got, want[p]))
            except Exception as e:
                bad.append(repr(e))

        threads = [threading.Thread(target=one, args=(i,)) for i in range(100)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        equal(bad, [], "100 clients at once")
        freed(d, "100 clients")
        m = d.metrics()
        equal(m['deqd_requests_total{finish_reason="length"}'], 105, "requests that ended")


def test_reader_that_stops():
    """A client that reads nothing is dropped: its buffer is bounded, and the others go on."""
    with Daemon("stream.buffer_bytes=65536", "stream.stall_ms=500", "engine.max_positions=200000") as d:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.connect((d.host, d.port))
        s.sendall(raw_request(dict(LONG, stream=True, logprobs=20)))  # 2 KB a token: the sockets' buffers are full soon
        ok, _ = d.wait_metric(lambda m: m["deqd_generation_tokens_total"] > 0, 5)
        check(ok, "it began")
        freed(d, "a reader that stops", 10)
        m = d.metrics()
        check(m["deqd_generation_tokens_total"] < 190000,
              "it was stopped before its end: %d tokens" % m["deqd_generation_tokens_total"])
        s.close()
        d.alive()


def unread(d, body, path="/v1/completions", extra="", source="127.0.0.1"):
    """A request whose answer nobody reads; the socket takes little of it."""
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    s.settimeout(30 * SLOW)
    s.bind((source, 0))
    s.connect((d.host, d.port))
    s.sendall(raw_request(body, path, extra))
    return s


def test_slow_readers_give_way():
    """Streams that nobody reads hold the engine only while nobody waits for it; a caller without any has a place of his
    own. (Seconds: a reader has two of them.)"""
    stream = dict(LONG, stream=True, logprobs=20)
    with Daemon("engine.max_sequences=8", "stream.buffer_bytes=4096", "stream.stall_ms=60000",
                "engine.max_positions=200000") as d:
        held = [unread(d, stream) for _ in range(8)]
        ok, m = d.wait_metric(lambda m: m["deqd_stream_paused_total"] >= 8, 20)
        check(ok, "all readers are slow: %s" % m["deqd_stream_paused_total"])
        with unread(d, {"prompt": "A", "max_tokens": 1, "temperature": 0}, source="127.0.0.2") as s:
            equal(read_response(s)[0], 200, "another caller")
        equal(d.metrics()["deqd_stream_gave_way_total"], 0, "nobody had to give way to him")
        equal(d.post("/v1/completions", {"prompt": "A", "max_tokens": 1, "temperature": 0})[0], 200,
              "the same caller, who has all places")
        equal(d.metrics()["deqd_stream_gave_way_total"], 1, "one gave way")
        # nobody waits: the others go on being held, and are whole up to where they are
        equal(d.metrics()["deqd_requests_running"], 7, "the others")
        ends = []
        for s in held:
            data = b""
            while b"slow_reader" not in data and len(data) < 1 << 20:  # the others go on when they are read
                data += s.recv(65536)
            ends += [data[-400:]] if b"slow_reader" in data else []
            s.close()
            if ends:
                break
        check(len(ends) == 1 and b'"error"' in ends[0] and b"[DONE]" not in ends[0],
              "its stream ends with an error event: %r" % ends)
        for s in held:
            s.close()
        freed(d, "slow readers", 10)


def test_narrow_requests_overtake_a_wide_one():
    """Two callers hold the engine, a third waits for half of it: a fourth with one choice does not wait behind him, and
    the third has his turn."""
    wide = dict(LONG, n=8, max_tokens=100000)
    with Daemon("engine.max_sequences=16", "engine.max_positions=200000") as d:
        held = [unread(d, dict(wide, stream=True), source="127.0.0.%d" % i) for i in (2, 3)]
        check(d.wait_metric(lambda m: m["deqd_requests_running"] == 2, 20)[0], "two hold the engine")
        third = unread(d, dict(wide, max_tokens=4), source="127.0.0.4")
        check(d.wait_metric(lambda m: m["deqd_requests_waiting"] == 1, 20)[0], "a third waits")
        for i in range(5, 9):
            with unread(d, {"prompt": "A", "max_tokens": 2, "temperature": 0}, source="127.0.0.%d" % i) as s:
                equal(read_response(s)[0], 200, "a narrow one")
        m = d.metrics()
        equal((m["deqd_requests_running"], m["deqd_requests_waiting"]), (2, 1), "meanwhile")
        held[0].close()
        equal(read_response(third)[0], 200, "the wide one, once there is room")
        for s in held + [third]:
            s.close()
        freed(d, "wide requests", 10)


def test_answers_have_a_budget():
    """Whole answers that nobody reads hold no more than limits.answer_bytes; who asks for little meanwhile is served; a
    reader below the least rate is dropped."""
    # positions * 384 numbers of 4 bytes: 1.5 MB an answer
    body, octets = {"prompt": [70] * 1000, "positions": "all"}, "Accept: application/octet-stream\r\n"
    with Daemon("limits.answer_bytes=8M", "limits.max_logits_bytes=2M", "stream.stall_ms=%d" % (1000 * SLOW)) as d:
        held = [unread(d, body, "/v1/logits", octets) for _ in range(20)]
        ok, m = d.wait_metric(lambda m: m["deqd_answer_memory_bytes"] > 2.9e6, 10)
        check(ok, "two answers of one caller: %s" % m["deqd_answer_memory_bytes"])
        check(m["deqd_requests_waiting"] >= 10, "the others wait: %s" % m["deqd_requests_waiting"])
        equal(d.post("/v1/completions", {"prompt": "A", "max_tokens": 1, "temperature": 0})[0], 200,
              "a small request of the same caller")
        with unread(d, body, "/v1/logits", octets, "127.0.0.2") as s:
            status, _, data, _ = read_response(s)
            equal((status, len(data)), (200, 1000 * 384 * 4), "a large one of another")
        # readers that take nothing are dropped, and those behind them come, until nothing is held
        ok, m = d.wait_metric(lambda m: m["deqd_http_connections"] <= 1 and m["deqd_answer_memory_bytes"] < 1e5, 30)
        check(ok, "all were dropped: %s connections, %s bytes" % (m["deqd_http_connections"],
                                                                  m["deqd_answer_memory_bytes"]))
        for s in held:
            s.close()
        freed(d, "answers", 10)


def test_readers_that_read():
    """Wide streams of clients that read come whole, however fast the model is; also when one pauses for less than
    stream.stall_ms."""
    with Daemon("engine.max_positions=200000") as d:
        for pause in (0, 1):
            with d.connect() as s:
                s.sendall(raw_request({"prompt": "A", "max_tokens": 2000, "temperature": 0, "ignore_eos": True,
                                       "stream": True, "logprobs": 20}))
                data = s.recv(1000)
                time.sleep(pause)
                try:
                    status, _, body, _ = read_response(s, data)
                    events, done = parse_sse(body)
                    got = (status, done, sum(len(e["choices"][0]["logprobs"]["tokens"]) for e in events))
                except (EOFError, ConnectionError) as e:
                    got = repr(e)[:60]
                equal(got, (200, True, 2000), "a stream of 2,000 tokens with 20 logprobs, a pause of %d s" % pause)


def test_streams_that_nobody_disturbs():
    """The thread that looks for stalled and vanished clients leaves the others alone: streams that are read come whole,
    while others come and go beside them. A second and more is ten of that thread's rounds."""
    with Daemon("engine.max_sequences=16", "engine.max_positions=200000", "queue.max_requests=1000") as d:
        results = {}
        end = threading.Event()

        def reader(i):
            try:
                _, _, events, done = d.stream("A", max_tokens=700, ignore_eos=True)
                results[i] = (done, len(events_text(events)) > 100 and events[-1]["choices"][0]["finish_reason"])
            except Exception as e:
                results[i] = repr(e)[:80]

        def leaver():
            while not end.is_set():
                s = d.connect()
                s.sendall(raw_request(LONG))
                end.wait(0.01)
                leave(s, False)

        threads = [threading.Thread(target=reader, args=(i,)) for i in range(24)]
        others = [threading.Thread(target=leaver) for _ in range(2)]
        for t in threads + others:
            t.start()
        for t in threads:
            t.join()
        end.set()
        for t in others:
            t.join()
        equal([r for r in results.values() if r != (True, "length")], [], "24 streams beside clients that leave")
        freed(d, "streams and clients that leave", 4)


def test_running_stream_beside_queued_ones_that_leave():
    """One stream runs, three wait and leave: ten times, because what must not happen depends on the moment."""
    with Daemon("engine.max_sequences=1", "engine.max_positions=200000") as d:
        for i in range(10):
            a = d.metrics()
            with d.connect() as first:
                first.sendall(raw_request(dict(LONG, stream=True)))
                d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
                waiting = [d.connect() for _ in range(3)]
                for s in waiting:
                    s.sendall(raw_request(LONG))
                d.wait_metric(lambda m: m["deqd_requests_waiting"] == 3, 5)
                for s in waiting:
                    leave(s, False)
                d.wait_metric(lambda m: m["deqd_requests_waiting"] == 0, 2)
                m = d.metrics()
                if not equal((m["deqd_requests_running"], cancelled(m, "running") - cancelled(a, "running")), (1, 0),
                             "the running stream is not touched, round %d" % i):
                    break
            freed(d, "round %d" % i)


def test_large_bodies_beside_small_requests():
    """A prompt of a megabyte is read by a thread of its own: other requests are answered meanwhile, and its own answer
    comes whole."""
    with Daemon("server.max_body_bytes=8M", "server.http_threads=1", "engine.max_positions=100000") as d:
        text = "The king is dead. Long live the king! " * 80000  # 3 MB
        got = []
        big = [threading.Thread(target=lambda: got.append(d.post("/tokenize", {"prompt": text}))) for _ in range(3)]
        t = time.monotonic()
        for b in big:
            b.start()
        slowest, n = 0.0, 0
        while any(b.is_alive() for b in big):
            begin = time.monotonic()
            d.alive("a small request beside large ones")
            slowest, n = max(slowest, time.monotonic() - begin), n + 1
        took = time.monotonic() - t
        equal([(s, o["count"] > 100000) for s, _, o in got], [(200, True)] * 3, "three large ones are answered")
        check(n > 5 and slowest < took / 2,
              "small ones are answered meanwhile: %d of them, the slowest in %.3f s of %.3f" % (n, slowest, took))
        s, _, o = d.post("/v1/completions", {"prompt": text, "max_tokens": 1})
        check_error(s, o, 400, "context_length_exceeded", "prompt", "too long a prompt of that size")
        s, _, b = d.request("POST", "/v1/completions",
                            b'{"prompt": "' + text[:66000].encode() +
                            b'", "max_tokens": 3, "temperature": 0, "stream": true, "deq": {"tol": 0.5}}')
        check(s == 200 and b.endswith(b"data: [DONE]\n\n"), "a stream behind a large body: %d %s" % (s, b[-100:]))
        with d.connect() as c:  # leaves while its body is read
            c.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (len(text) + 14) +
                      b'{"prompt": "' + text.encode() + b'"}')
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        d.alive("after one that left")
