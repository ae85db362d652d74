"""Pages in browsers: whose may ask, what they may read, under which names the daemon answers."""
import json
import re

from lib import Daemon, check, check_error, equal, run, shared, DEQD
from security import ALICE, ROOT_KEY, Place, ask

APP, LOCAL = "https://app.example.com", "http://localhost:3000"
BODY = {"prompt": "A", "max_tokens": 1}
EXPOSED = "X-Request-Id, Retry-After, retry-after-ms, Server-Timing"


def head(**fields):
    return "".join("%s: %s\r\n" % (k.replace("_", "-"), v) for k, v in fields.items())


def preflight(d, path, origin, **more):
    return ask(d, "OPTIONS", path, head(Origin=origin, Access_Control_Request_Method="POST", **more))


def computed(d):
    return sum(v for k, v in d.metrics().items() if k.startswith("deqd_prompt_tokens_total"))


def test_foreign_pages():
    """Nothing is computed for a page of another site; without a list there is no other site."""
    d = shared("log.level=info")
    before = computed(d)
    for what, extra in (("another site", head(Origin="https://evil.example")), ("another port", head(Origin=LOCAL)),
                        ("null", head(Origin="null")),
                        ("two origins", head(Origin="http://test") * 2),
                        ("cross-site", head(Sec_Fetch_Site="cross-site")),
                        ("same-site", head(Sec_Fetch_Site="same-site")),
                        ("a form", head(Origin="null", Content_Type="application/x-www-form-urlencoded")),
                        ("text", head(Origin=APP, Content_Type="text/plain"))):
        for method, path, body in (("POST", "/v1/completions", BODY), ("POST", "/tokenize", {"prompt": "A"}),
                                   ("GET", "/v1/models", None), ("POST", "/nothing", {})):
            s, h, b = ask(d, method, path, extra, body)
            check_error(s, b, 403, "origin_not_allowed", None, "%s: %s %s" % (what, method, path))
            check("server.cors_origins" in json.loads(b)["error"]["message"] and "access-control-allow-origin" not in h,
                  "%s: the message names the key: %s" % (what, b))
    s, h, b = preflight(d, "/v1/completions", LOCAL)
    equal((s, "access-control-allow-origin" in h), (403, False), "its preflight")
    equal(computed(d), before, "prompt tokens computed")
    # the daemon's own page, by whatever name; and what is no page
    for extra in (head(Origin="http://test"), head(Origin="https://TEST"),
                  head(Origin="http://inner", Sec_Fetch_Site="same-origin"), head(Sec_Fetch_Site="none"), ""):
        s, h, b = ask(d, "POST", "/v1/completions", extra, BODY)
        equal((s, "access-control-allow-origin" in h, "vary" in h), (200, False, False), extra)
    equal(ask(d, "GET", "/v1/models", head(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate"))[0], 200,
          "a link that is followed")


def test_forms():
    """What curl -d sends by itself is taken from whoever is no browser."""
    d = shared("log.level=info")
    form = "application/x-www-form-urlencoded"
    for extra, status in (({}, 200), ({"Origin": "http://127.0.0.1:%d" % d.port}, 415),
                          ({"Sec-Fetch-Site": "same-origin"}, 415), ({"Sec-Fetch-Mode": "cors"}, 415)):
        s, _, b = d.request("POST", "/v1/completions", BODY, dict(extra, **{"Content-Type": form}))
        equal(s, status, "a form with %s" % extra)
    for kind, status in (("application/json;charset=\"UTF-8\"", 200),
                         ("Application/JSON ; charset=utf-8 ; x=\"a;b\"", 200), (form + ";charset=utf-8", 200),
                         ("", 200), ("text/plain", 415), ("application/json, text/plain", 415),
                         ("multipart/form-data; boundary=x", 415)):
        s, _, b = d.request("POST", "/v1/completions", BODY, {"Content-Type": kind})
        equal(s, status, "Content-Type: " + kind)
    for coding, status in (("identity", 200), (" Identity\t", 200), ("", 200), ("gzip", 415), ("identity, gzip", 415),
                           ("br", 415), ("zstd", 415)):
        s, h, b = d.request("POST", "/v1/completions", BODY, {"Content-Encoding": coding})
        equal((s, h.get("accept-encoding")), (status, "identity" if status == 415 else None),
              "Content-Encoding: " + coding)
        if status == 415:
            check_error(s, b, 415, "unsupported_content_encoding", None, coding)
            check("Content-Encoding" in json.loads(b)["error"]["message"], "the message names it")


def test_allowed_pages():
    """A site that is listed: preflight, answers, errors, streams; with and without keys."""
    with Place() as place, place.daemon("server.cors_origins=%s,%s" % (APP, LOCAL), "queue.max_requests=0") as d:
        key = head(Authorization="Bearer " + ALICE)
        for origin in (APP, LOCAL):
            for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/nothing"):
                s, h, b = preflight(d, path, origin,
                                    Access_Control_Request_Headers="authorization,content-type,x-stainless-os",
                                    Access_Control_Request_Private_Network="true")
                equal((s, b, h.get("access-control-allow-origin"), h.get("access-control-allow-methods"),
                       h.get("access-control-allow-headers"), h.get("access-control-allow-private-network"),
                       h.get("access-control-max-age")),
                      (204, b"", origin, "GET, HEAD, POST, PUT, DELETE",
                       "authorization,content-type,x-stainless-os", "true", "600"),
                      "preflight of %s from %s" % (path, origin))
                check("Origin" in h.get("vary", ""), "it varies")
            for what, extra, path, body, status in (("an answer", key, "/v1/completions", BODY, 200),
                                                    ("a stream", key, "/v1/completions", dict(BODY, stream=True), 200),
                                                    ("no key", "", "/v1/completions", BODY, 401),
                                                    ("no path", key, "/nothing", BODY, 404),
                                                    ("a bad field", key, "/v1/completions", {"prompt": 1}, 400),
                                                    ("too large", key, "/tokenize", b"x" * (2 << 20), 413),
                                                    ("a bad header", key + head(X_Request_Timeout_Ms="0"),
                                                     "/v1/completions", BODY, 400)):
                s, h, b = ask(d, "POST", path, extra + head(Origin=origin, Sec_Fetch_Site="cross-site"), body)
                equal((s, h.get("access-control-allow-origin"), h.get("vary"), h.get("access-control-expose-headers"),
                       h.get("access-control-allow-credentials")),
                      (status, origin, "Origin", EXPOSED, None), "%s for %s" % (what, origin))
        s, h, b = ask(d, "GET", "/v1/models", key)
        equal((s, h.get("access-control-allow-origin"), h.get("vary")), (200, None, "Origin"),
              "without Origin: a cache must know that it varies")
        for own in (head(Origin="http://test"), head(Origin="https://test", Sec_Fetch_Site="same-origin")):
            s, h, b = ask(d, "POST", "/v1/completions", key + own, BODY)
            equal((s, h.get("access-control-allow-origin")), (200, None), "the daemon's own page needs no list")
            equal(ask(d, "DELETE", "/v1/sequences/seq_0", head(Authorization="Bearer " + ROOT_KEY) + own)[0], 404,
                  "whatever the method")
        for origin in ("http://app.example.com", APP + ":8443", APP + ".evil.example", "null"):
            equal(ask(d, "POST", "/v1/completions", key + head(Origin=origin), BODY)[0], 403, origin)
            equal(preflight(d, "/v1/completions", origin)[0], 403, "preflight of " + origin)
    with Daemon("server.cors_origins=*") as d:
        for origin in (APP, "null"):
            s, h, b = ask(d, "POST", "/v1/completions", head(Origin=origin), BODY)
            equal((s, h.get("access-control-allow-origin"), h.get("access-control-allow-credentials")),
                  (200, origin, None), "any: " + origin)


def test_hosts():
    def at(d, host, path="/v1/models"):
        with d.connect() as s:
            s.sendall(("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (path, host)).encode())
            data = b""
            while block := s.recv(65536):
                data += block
        return int(data.split()[1]), data

    d = shared("log.level=info")
    for host in ("localhost", "localhost:%d" % d.port, "127.0.0.1:8080", "[::1]:8080", "deqd", "10.0.0.1",
                 "x.localhost", ""):
        equal(at(d, host)[0], 200, "Host: " + host)
    for host in ("evil.example", "evil.example:%d" % d.port, "127.0.0.1.evil.example", "localhost.evil.example"):
        s, data = at(d, host)
        check(s == 421 and b'"host_not_allowed"' in data and b"server.hosts" in data, "Host: %s: %s" % (host, data))
        equal(at(d, host, "/health")[0], 200, "a probe of " + host)
    with Daemon("server.hosts=api.example.com", "server.admin_listen=127.0.0.1:0", listen="0.0.0.0:0") as d:
        equal([at(d, h)[0] for h in ("api.example.com", "API.example.com:443", "other.example.com", "127.0.0.1")],
              [200, 200, 421, 200], "a list, on every address")
        equal([at(d.admin(), h, "/metrics")[0] for h in ("api.example.com", "other.example.com")], [200, 421],
              "the admin address")
    with Daemon(listen="0.0.0.0:0") as d:
        equal(at(d, "other.example.com")[0], 200, "without a list, on every address")
    for setting, words in (("server.cors_origins=app.example.com",
                            ("server.cors_origins", "app.example.com", "SCHEME://")),
                           ("server.hosts=http://a.example", ("server.hosts", "a.example"))):
        code, _, err = run([DEQD, "--set", setting, "--print-config"])
        check(code == 2 and all(w in err for w in words), "%s: %d %s" % (setting, code, err))
    code, out, _ = run([DEQD, "--set", "server.cors_origins=https://a.example, http://b:1", "--print-config"])
    check(re.search(r'cors_origins: \["https://a.example", "http://b:1"\]', out), "a list with commas: %s" % out[:200])
