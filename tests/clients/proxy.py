#!/usr/bin/env python3
"""nginx in front, with its usual buffering: streams arrive as they are made, a client that leaves is noticed, nothing
is smuggled."""
import json
import os
import socket
import subprocess
import time

from clients import lib, main, scratch
from lib import SLOW, check, equal, raw_request

# its texts may be longer than the shipped model's
TRANSFORMER = os.path.join(lib.ROOT, "models", "stories-transformer")
LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "temperature": 0, "ignore_eos": True, "stream": True}
CONF = """
daemon off; worker_processes 1; pid nginx.pid; error_log error.log info;
events {}
http {
    access_log off;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    # shorter than server.idle_timeout_ms
    upstream deqd { server 127.0.0.1:%(deqd)d; keepalive 8; keepalive_timeout 20s; }
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {
        listen 127.0.0.1:%(port)d;
        location / { proxy_pass http://deqd; }
        # nginx' default, and where it gathers bytes unless told not to
        location /plain/ { proxy_pass http://deqd/; proxy_http_version 1.0; }
        # a chunked body reaches deqd chunked
        location /unbuffered/ { proxy_pass http://deqd/; proxy_request_buffering off; }
    }
}
"""


class Proxy:
    """nginx on a free port in front of a daemon; lib.Daemon's methods that talk HTTP work on it."""
    host, unix, tls, key = "127.0.0.1", None, None, None
    connect, http, request, post = lib.Daemon.connect, lib.Daemon.http, lib.Daemon.request, lib.Daemon.post

    def __init__(self, d):
        with socket.socket() as s:
            s.bind((self.host, 0))
            self.port = s.getsockname()[1]
        self.dir = scratch("nginx")
        with open(os.path.join(self.dir, "nginx.conf"), "w") as f:
            f.write(CONF % {"deqd": d.port, "port": self.port})
        self.p = subprocess.Popen(["nginx", "-e", "error.log", "-p", self.dir, "-c", "nginx.conf"])
        until = time.monotonic() + 10 * SLOW
        while True:
            try:
                return self.connect().close()
            except OSError:
                if time.monotonic() > until or self.p.poll() is not None:
                    raise
                time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.p.terminate()
        self.p.wait(10)


def pieces(at, body, base=""):
    """Reads a stream as it comes: [(seconds, bytes)]."""
    c = at.http()
    begin = time.monotonic()
    c.request("POST", base + "/v1/completions", json.dumps(body),
              {"Content-Type": "application/json", "X-Request-Id": "same"})
    r = c.getresponse()
    equal((r.status, r.getheader("content-type")), (200, "text/event-stream; charset=utf-8"), "status, Content-Type")
    got = []
    while part := r.read1(65536):
        got.append((time.monotonic() - begin, part))
    c.close()
    return got


def joined(stream):
    """(text, what else the events say): how many tokens an event holds is a matter of the moment."""
    events = lib.parse_sse(stream)[0]
    rest = set()
    for e in events:
        choices = [{k: v for k, v in c.items() if k != "text"} for c in e["choices"]]
        rest.add(json.dumps(dict(e, choices=choices, created=0), sort_keys=True))
    return lib.events_text(events), rest


def test_stream():
    with lib.Daemon("stream.flush_ms=0", "limits.max_iter=1000", model=TRANSFORMER) as d, Proxy(d) as proxy:
        direct = pieces(d, LONG)
        for base in ("", "/plain"):
            # slow tokens, and fewer bytes in all than nginx would gather before it passes any on
            slow = pieces(proxy, dict(LONG, prompt="Once", max_tokens=12,
                                      deq={"min_iter": 300, "max_iter": 300, "window": 1}), base)
            first, last = slow[0][0], slow[-1][0]
            check(first < last / 2 and len(slow) >= 6,
                  "%s/: the first event came after %.3f s, the last after %.3f s, in %d pieces" % (base, first, last,
                                                                                                   len(slow)))
            through = pieces(proxy, LONG, base)
            same = [joined(b"".join(p for _, p in x)) for x in (direct, through)]
            check(same[0] == same[1] and through[-1][1].endswith(b"data: [DONE]\n\n"),
                  "%s/: the direct one's text and what else it says" % base)
        whole = proxy.post("/v1/completions", dict(LONG, stream=False))[2]["choices"][0]["text"]
        equal(same[0][0], whole, "a whole answer has the same text")


def test_client_leaves():
    with lib.Daemon("engine.max_positions=200000") as d, Proxy(d) as proxy:
        for stream in (True, False):
            with proxy.connect() as s:
                s.sendall(raw_request({"prompt": "A", "max_tokens": 150000, "ignore_eos": True, "stream": stream}))
                check(d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)[0], "running, stream %s" % stream)
                if stream:
                    check(b"data: " in s.recv(65536) + s.recv(65536), "events come")
            held, m = d.wait_metric(lambda m: m["deqd_requests_running"] == 0, 2)
            check(held, "cancelled when the client left, stream %s" % stream)
        equal(sum(m['deqd_requests_cancelled_total{phase="%s"}' % p] for p in ("prefill", "decode")), 2,
              "counted as cancelled")


def upstream_sockets(port):
    """States of nginx' sockets to the daemon (01 is established, 06 is time-wait), from the kernel's table."""
    with open("/proc/net/tcp") as f:
        rows = [line.split() for line in f.readlines()[1:]]
    return [r[3] for r in rows if r[2] == "0100007F:%04X" % port]


def test_keep_alive():
    with lib.Daemon() as d, Proxy(d) as proxy:
        for i in range(20):
            s, h, o = proxy.post("/v1/completions", {"prompt": "A", "max_tokens": 2, "temperature": 0},
                                 {"X-Request-Id": "r%d" % i})
            equal((s, h["x-request-id"], o["id"]), (200, "r%d" % i, "cmpl-r%d" % i), "request %d" % i)
            if i % 5 == 0:
                pieces(proxy, dict(LONG, max_tokens=5))
                equal(proxy.request("POST", "/v1/completions", "{")[0], 400, "an error")
        equal(upstream_sockets(d.port), ["01"], "one connection to the daemon served all of them")


def test_429():
    with lib.Daemon("engine.max_sequences=1", "queue.max_requests=0",
                    "engine.max_positions=200000") as d, Proxy(d) as proxy:
        with d.connect() as s:
            s.sendall(raw_request({"prompt": "A", "max_tokens": 150000, "ignore_eos": True, "stream": True}))
            s.recv(65536)
            status, h, b = proxy.request("POST", "/v1/completions", {"prompt": "B", "max_tokens": 4})
            lib.check_error(status, b, 429, "queue_full", None, "429 through the proxy")
            check(int(h["retry-after"]) >= 1 and int(h["retry-after-ms"]) > 0, "its headers: %s" % h)
        check(d.wait_metric(lambda m: m["deqd_requests_running"] == 0, 5)[0], "the first one is gone")
        equal(proxy.post("/v1/completions", {"prompt": "B", "max_tokens": 4})[0], 200, "then there is room")


def test_smuggling():
    """A request hidden in another one's body is never run, and the next one on the connection gets its own answer."""
    hidden = b"GET /version HTTP/1.1\r\nHost: x\r\nX-Request-Id: hidden\r\n\r\n"
    body = b'{"prompt": "A", "max_tokens": 1}'
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    cases = [
        ("CL.TE", b"Content-Length: %d\r\nTransfer-Encoding: chunked" % len(chunked + hidden), chunked + hidden),
        ("TE.CL", b"Transfer-Encoding: chunked\r\nContent-Length: 4", b"%x\r\n%s\r\n0\r\n\r\n" % (len(hidden), hidden)),
        ("TE obfuscated", b"Content-Length: %d\r\nTransfer-Encoding: xchunked" % len(body + hidden), body + hidden),
        ("TE twice", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", chunked),
        ("TE, tab", b"Content-Length: %d\r\nTransfer-Encoding:\tchunked" % len(chunked + hidden), chunked + hidden),
        ("TE, blank before the colon", b"Content-Length: %d\r\nTransfer-Encoding : chunked" % len(chunked + hidden),
         chunked + hidden),
        ("CL twice", b"Content-Length: %d\r\nContent-Length: %d" % (len(body), len(body + hidden)), body + hidden),
        ("CL in the body of a GET", b"Content-Length: %d" % len(hidden), hidden),
        ("chunk extension", b"Transfer-Encoding: chunked", b"%x;a=\n%s\r\n0\r\n\r\n" % (len(body), body)),
        ("trailer", b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\nContent-Length: 5\r\n\r\n" % (len(body), body)),
        ("header with a bare LF", b"X-A: b\nContent-Length: %d" % len(body + hidden), body + hidden),
        ("Connection: Content-Length", b"Connection: close, Content-Length\r\nContent-Length: %d" % len(body + hidden),
         body + hidden),
    ]
    with lib.Daemon() as d, Proxy(d) as proxy:
        for base in (b"", b"/unbuffered"):
            for name, head, data in cases:
                method = b"GET" if "GET" in name else b"POST"
                with proxy.connect(5) as s:
                    s.sendall(method + b" " + base + b"/v1/completions HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" +
                              data)
                    s.settimeout(0.3 * SLOW)
                    got = b""
                    try:
                        while part := s.recv(65536):
                            got += part
                    except OSError:
                        pass
                check(got.count(b"HTTP/1.1 ") <= 1 and b"hidden" not in got,
                      "%s%s: at most one answer: %r" % (base.decode(), name, got[:300]))
                for i in range(2):  # on the same upstream connection, where it was kept
                    s, h, o = proxy.post("/tokenize", {"prompt": "x" * (i + 1)}, {"X-Request-Id": "own%d" % i})
                    equal((s, h.get("x-request-id"), o["count"]), (200, "own%d" % i, i + 1),
                          "%s%s: the next request's answer" % (base.decode(), name))
        check('"hidden"' not in d.stderr(), "no hidden request was run")


if __name__ == "__main__":
    main("proxy")
