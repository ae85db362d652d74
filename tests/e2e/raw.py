"""HTTP that no honest client sends, over raw sockets."""
import json
import socket
import struct
import threading
import time

from lib import (MARK, SLOW, Daemon, check, check_error, closed_within, equal, raw_request, read_response, shared, usual)

IMPATIENT = ("server.header_timeout_ms=700", "server.body_timeout_ms=700", "server.idle_timeout_ms=1000", "server.max_connections=1000")
GOOD = {"prompt": "A", "max_tokens": 1, "temperature": 0}


def exchange(d, data, timeout=5):
    """Sends bytes; returns (status or None when the connection was just cut, body)."""
    with d.connect(timeout) as s:
        try:
            s.sendall(data)
            status, h, body, _ = read_response(s)
            return status, body
        except (EOFError, ConnectionError):
            return None, b""
        except socket.timeout:
            return "silence", b""


def test_ambiguous_requests():
    """What a proxy in front could understand otherwise must be refused, and nothing behind it on the connection be answered."""
    d = usual()
    body = json.dumps(GOOD).encode()
    n = len(body)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (n, body)
    cases = [
        ("Content-Length twice, different", head + b"Content-Length: %d\r\nContent-Length: 5\r\n\r\n" % n + body),
        ("Content-Length twice, equal", head + b"Content-Length: %d\r\nContent-Length: %d\r\n\r\n" % (n, n) + body),
        ("Content-Length and chunked", head + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % n + chunked),
        ("chunked and Content-Length", head + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + chunked),
        ("chunked twice", head + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked),
        ("Transfer-Encoding gzip", head + b"Transfer-Encoding: gzip\r\n\r\n" + chunked),
        ("Transfer-Encoding gzip, chunked", head + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked),
        ("Transfer-Encoding identity", head + b"Transfer-Encoding: identity\r\nContent-Length: %d\r\n\r\n" % n + body),
        ("Transfer-Encoding xchunked", head + b"Transfer-Encoding: xchunked\r\n\r\n" + chunked),
        ("Content-Length negative", head + b"Content-Length: -5\r\n\r\n" + body),
        ("Content-Length +", head + b"Content-Length: +%d\r\n\r\n" % n + body),
        ("Content-Length hex", head + b"Content-Length: 0x10\r\n\r\n" + body),
        ("Content-Length a list", head + b"Content-Length: %d, %d\r\n\r\n" % (n, n) + body),
        ("Content-Length empty", head + b"Content-Length: \r\n\r\n" + body),
        ("Content-Length a word", head + b"Content-Length: many\r\n\r\n" + body),
        ("Content-Length 2^64 + 5", head + b"Content-Length: 18446744073709551621\r\n\r\n" + body),
        ("blank before the colon", head + b"Content-Length : %d\r\n\r\n" % n + body),
        ("control character in a header", head + b"X-A: a\x01b\r\nContent-Length: %d\r\n\r\n" % n + body),
    ]
    for name, data in cases:
        status, answer = exchange(d, data + raw_request(GOOD))
        check(status in (None, 400, 413), "%s: refused or cut, got %s %r" % (name, status, answer[:100]))
        if status == 400 and answer.startswith(b"{"):
            check_error(status, answer, 400, "invalid_header", None, name)
        with d.connect(3) as s:  # nothing of what stood behind is answered
            s.sendall(data + raw_request(GOOD, extra="X-Request-Id: behind\r\n"))
            s.settimeout(0.3 * SLOW)
            got = b""
            try:
                while True:
                    part = s.recv(65536)
                    if not part:
                        break
                    got += part
            except OSError:
                pass
            check(b"behind" not in got, "%s: what stands behind it is not answered: %r" % (name, got[-300:]))
    d.alive()


def test_garbage():
    d = shared(*IMPATIENT)
    for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x55" * 200, b"\0" * 500, b"\xff" * 3000, b"GET\r\n\r\n", b"GET /\r\n\r\n", b"\r\n\r\n\r\n",
                 b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET  /v1/models  HTTP/1.1\r\nHost: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                 b"GET /v1/models HTTP/1.1\nHost: x\n\n", b"G\0T / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
                 b"GET / HTTP/1.1\r\nHost: x\r\n: empty\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n folded: x\r\n\r\n", MARK.encode() + b"\r\n\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
                 b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdefgh"):
        with d.connect(5) as s:
            try:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                s.settimeout(2 * SLOW)
                while s.recv(65536):
                    pass
            except OSError:
                pass
        d.alive("after %r" % data[:40])
    equal(exchange(d, b"GET /v1/models HTTP/1.0\r\nHost: x\r\n\r\n")[0], 200, "HTTP/1.0")


def test_paths():
    d = usual()
    for path in (b"/v1/%6dodels", b"/%2e%2e/v1/models", b"/v1/models%00", b"/v1/models%00.html", b"/v1%2fmodels", b"/../v1/models", b"/v1/./models", b"/%",
                 b"/%zz", b"/\xff\xfe", b"/v1/models#x", b"http://x/v1/models", b"*"):
        status, body = exchange(d, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        if status == 404:
            check_error(status, body, 404, "unknown_path", None, "path %r" % path)
        else:
            check(status in (None, 400), "path %r is at nothing: %s %r" % (path, status, body[:100]))
    d.alive()


def test_large_headers():
    d = usual()
    for name, data, own in (
            ("one header of 20 KB", b"X-A: " + b"a" * 20000 + b"\r\n", None), ("101 headers", b"X-A: b\r\n" * 101, True),
            ("one of 40 KB", b"X-A: " + b"a" * 40000 + b"\r\n", True), ("one of 1 MB", b"X-A: " + b"a" * 1000000 + b"\r\n", False),
            ("50,000 headers", b"X-A: b\r\n" * 50000, False)):
        status, body = exchange(d, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + data + b"\r\n")
        if own is None:
            equal(status, 200, name)
        elif own:
            check_error(status or 0, body, 431, "headers_too_large", None, name)
        else:
            check(status in (None, 431, 413), "%s: refused or cut: %s" % (name, status))
        d.alive("after " + name)
    status, _ = exchange(d, b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    check(status in (None, 414, 431), "a path of 100 KB: %s" % status)
    equal(exchange(d, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * 90 + b"\r\n")[0], 200, "91 headers")
    d.alive()


def test_pipelining():
    d = usual()
    with d.connect() as s:
        s.sendall(raw_request(dict(GOOD, max_tokens=3), extra="X-Request-Id: one\r\n") + raw_request({"prompt": "abc"}, path="/tokenize", extra="X-Request-Id: two\r\n") +
                  raw_request(dict(GOOD, stream=True), extra="X-Request-Id: three\r\n") + b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
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

    jobs = {"slow headers": (request, 5), "slow body": (request[head:], 5), "slow headers of a second request": (request, 5),
            "slow body of a second request": (request[head:], 5), "nothing at all": (b"", 5)}
    before = {"slow body": None, "slow headers of a second request": raw_request(GOOD), "slow body of a second request": raw_request(GOOD)}
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
            while time.monotonic() - begin < 5:
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
        # 700 ms, up to 100 ms until the reaper looks, and some for a busy machine; nothing at all may also end by idle_timeout_ms
        check(took is not None and 0.6 <= took <= 1.4 * max(SLOW, 1) + (1.5 if name == "nothing at all" else 0), "%s: cut after %s s, expected 0.7 to 0.9" % (name, took))
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
            end = time.monotonic() + 2 * SLOW
            while (status := exchange(d, raw_request(GOOD))[0]) != 200 and time.monotonic() < end:
                time.sleep(0.02)
            equal(status, 200, "room again after one closed")
        finally:
            for s in open_ones:
                s.close()


def test_cut_at_every_byte():
    """libmicrohttpd does not see every end that comes together with bytes; then the deadline ends the connection."""
    d = shared(*IMPATIENT)
    for body in (GOOD, dict(GOOD, stream=True)):
        request = raw_request(body)
        for i in range(len(request)):
            with d.connect(5) as s:
                s.sendall(request[:i])
                if i % 2:  # a reset instead of a normal end
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        d.alive("after a request cut at every byte")
    with d.connect() as s:  # and whole, byte by byte
        for b in raw_request(GOOD):
            s.sendall(bytes([b]))
        equal(read_response(s)[0], 200, "a request in packets of one byte")
    ok, m = d.wait_metric(lambda m: m["deqd_requests_running"] == 0 and m["deqd_requests_waiting"] == 0 and m["deqd_http_connections"] <= 2, 5)
    check(ok, "no request and no connection is left over: %s" % {k: m[k] for k in ("deqd_requests_running", "deqd_requests_waiting", "deqd_http_connections")})
    equal(d.p.poll(), None, "the daemon lives")
