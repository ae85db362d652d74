"""HTTP over raw sockets that is about time and order: slow and idle clients, too many of them, pipelined replies. Bad
bytes: corpus.py."""
import json
import os
import socket
import tempfile
import threading
import time

from lib import (SLOW, Daemon, check, check_error, closed_within, equal, raw_request, read_response, send, shared,
                 usual)

IMPATIENT = ("server.header_timeout_ms=700", "server.body_timeout_ms=700", "server.idle_timeout_ms=1000",
             "server.max_connections=1000")
GOOD = {"prompt": "A", "max_tokens": 1, "temperature": 0}


def exchange(d, data, timeout=5):
    """Sends bytes; returns (status or None when the connection was just cut, body)."""
    with d.connect(timeout) as s:
        try:
            send(s, data)
            status, h, body, _ = read_response(s)
            return status, body
        except (EOFError, ConnectionError):
            return None, b""
        except socket.timeout:
            return "silence", b""


def test_pipelining():
    d = usual()
    with d.connect() as s:
        s.sendall(raw_request(dict(GOOD, max_tokens=3), extra="X-Request-Id: one\r\n") +
                  raw_request({"prompt": "abc"}, path="/tokenize", extra="X-Request-Id: two\r\n") +
                  raw_request(dict(GOOD, stream=True), extra="X-Request-Id: three\r\n") +
                  b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        rest = b""
        got = []
        for _ in range(4):
            status, h, body, rest = read_response(s, rest)
            got.append((status, h["x-request-id"], body))
        equal([g[0] for g in got], [200] * 4, "four requests at once on one connection")
        equal([g[1] for g in got[:3]], ["one", "two", "three"], "answered in order")
        equal(json.loads(got[0][2])["usage"]["completion_tokens"], 3, "the first")
        equal(json.loads(got[1][2])["count"] > 0, True, "the second")
        check(got[2][2].endswith(b"data: [DONE]\n\n"), "the third, a stream")
        equal(set(json.loads(got[3][2])), {"version", "kernels", "model", "model_fingerprint"}, "the fourth")
    with d.connect() as s:
        s.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        equal(read_response(s)[0], 200, "Connection: close")
        check(closed_within(s, 2 * SLOW) is not None, "closed after Connection: close")


LINGER_S = 5 * SLOW  # of server/net/linger.h


def test_refused_while_sending():
    """Who is refused by the head of a request can send on, and reads the answer and then the end, not a reset: over TCP
    and a unix socket; also what libmicrohttpd refuses by itself."""
    large = 8 << 20  # more than sockets hold
    plain = b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % large
    with tempfile.TemporaryDirectory() as tmp, Daemon(listen="unix:" + os.path.join(tmp, "s")) as local:
        for what, d, head, want in (("too large", usual(), plain, 413), ("on a unix socket", local, plain, 413),
                                    ("no Host", usual(), plain.replace(b"Host: x\r\n", b""), 400)):
            for reads_first in (False, True):
                with d.connect() as s:
                    begin = time.monotonic()
                    try:
                        s.sendall(head)
                        if reads_first:
                            s.recv(1, socket.MSG_PEEK)
                        for _ in range(16):
                            s.sendall(b"x" * (large // 16))
                        equal(b"".join(iter(lambda: s.recv(65536), b""))[9:12], b"%d" % want, what + ", to the end")
                    except ConnectionError as e:
                        check(time.monotonic() - begin > LINGER_S, "%s, answer first %s: %r" % (what, reads_first, e))


def drip(d, data, seconds, pause=0.1, before=b""):
    """Sends one byte at a time; returns after how many seconds the other side closed, or None."""
    with d.connect() as s:
        if before:
            s.sendall(before)
            read_response(s)
        begin = time.monotonic()
        s.settimeout(pause)
        i = 0
        while time.monotonic() - begin < seconds:
            try:
                if i < len(data):
                    s.sendall(data[i:i + 1])
                    i += 1
                if not s.recv(65536):
                    return time.monotonic() - begin
            except socket.timeout:
                continue
            except OSError:
                return time.monotonic() - begin
        return None


def test_slow_clients():
    """Deadlines are absolute: a byte now and then does not extend them."""
    d = shared(*IMPATIENT)
    request = raw_request(dict(GOOD, prompt="a" * 400), extra="X-Pad: " + "p" * 200 + "\r\n")
    head = request.index(b"\r\n\r\n") + 4
    results = {}

    def one(name, *args, **more):
        results[name] = drip(d, *args, **more)

    jobs = {"slow headers": (request, 60), "slow body": (request[head:], 60),
            "slow headers of a second request": (request, 60), "slow body of a second request": (request[head:], 60),
            "nothing at all": (b"", 60)}
    before = {"slow body": None, "slow headers of a second request": raw_request(GOOD),
              "slow body of a second request": raw_request(GOOD)}
    threads = []
    for name, args in jobs.items():
        if "body" in name:
            continue
        threads.append(threading.Thread(target=one, args=(name,) + args, kwargs={"before": before.get(name) or b""}))

    def slow_body(name, first):
        with d.connect() as s:
            if first:
                s.sendall(first)
                read_response(s)
            s.sendall(request[:head])
            begin = time.monotonic()
            s.settimeout(0.1)
            i = head
            while time.monotonic() - begin < 60:
                try:
                    s.sendall(request[i:i + 1])
                    i += 1
                    got = s.recv(65536)
                    if not got:
                        results[name] = time.monotonic() - begin
                        return
                except socket.timeout:
                    continue
                except OSError:
                    results[name] = time.monotonic() - begin
                    return
            results[name] = None

    for name in ("slow body", "slow body of a second request"):
        threads.append(threading.Thread(target=slow_body, args=(name, before[name])))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for name in jobs:
        took = results.get(name)
        # 700 ms, up to 100 ms until the reaper looks, and some for a busy machine; nothing at all may also end by
        # idle_timeout_ms
        check(took is not None and 0.6 <= took <= 20 * max(SLOW, 1),
              "%s: cut after %s s, expected 0.7; a byte every 0.1 s that extended it would be 40" % (name, took))
    d.alive()


def test_idle_connections_are_closed():
    d = shared(*IMPATIENT)
    with d.connect() as s:
        s.sendall(raw_request(GOOD))
        equal(read_response(s)[0], 200, "a request")
        took = closed_within(s, 6 * SLOW)
        # libmicrohttpd counts in whole seconds
        check(took is not None and took >= 0.9, "keep-alive ends after server.idle_timeout_ms 1000: %s s" % took)


def test_too_many_connections():
    with Daemon("server.max_connections=8") as d:
        open_ones = []
        try:
            for _ in range(8):
                s = d.connect(5)
                s.sendall(raw_request(GOOD))
                equal(read_response(s)[0], 200, "one of 8 connections")
                open_ones.append(s)
            status, body = exchange(d, raw_request(GOOD))
            check_error(status or 0, body, 503, "too_many_connections", None, "the ninth")
            open_ones.pop().close()
            end = time.monotonic() + 60 * SLOW
            while (status := exchange(d, raw_request(GOOD))[0]) != 200 and time.monotonic() < end:
                time.sleep(0.02)
            equal(status, 200, "room again after one closed")
        finally:
            for s in open_ones:
                s.close()


def test_requests_of_one_connection():
    d = usual()
    with d.connect() as s:
        rest = b""
        for i in range(1000):
            s.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            status, h, _, rest = read_response(s, rest)
            if status != 200 or (h.get("connection", "").lower() == "close") != (i == 999):
                check(False, "request %d of a connection: %d, Connection: %s" % (i + 1, status, h.get("connection")))
                break
        check(i == 999 and closed_within(s, 2 * SLOW) is not None, "closed after 1,000 requests")
