"""The page at /, as bytes: its files, their types, what they tell browsers, where it is not. What it does in a browser:
tests/page."""
import os
import re

from lib import DEQD, ROOT, Daemon, check, check_error, equal, run, shared, usual
from origins import head
from security import ALICE, OTHER, Place, ask, bearer

ROOM = os.path.join(ROOT, "server", "page")
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8",
         "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


def files():
    """(path, type, bytes) of every file of the page; pictures of it in the same room are the README's."""
    for name in sorted(os.listdir(ROOM)):
        if name.rsplit(".", 1)[1] in TYPES:
            with open(os.path.join(ROOM, name), "rb") as f:
                yield "/page/" + name, TYPES[name.rsplit(".", 1)[1]], f.read()


def test_files():
    d = usual()
    index = d.request("GET", "/")
    for path, kind, data in files():
        s, h, b = d.request("GET", path)
        equal((s, h["content-type"], b == data, h["content-length"]), (200, kind, True, str(len(data))), path)
        equal((h["x-content-type-options"], h["referrer-policy"], h["cache-control"]),
              ("nosniff", "no-referrer", "no-cache"), path)
        equal(h["content-security-policy"], index[1]["content-security-policy"], path + ": one policy")
        s, h2, b = d.request("HEAD", path)
        equal((s, b, h2["etag"], h2["content-type"], h2["content-length"]),
              (200, b"", h["etag"], kind, str(len(data))), "HEAD " + path)
        if path == "/page/index.html":
            equal((index[0], index[1]["etag"], index[2]), (200, h["etag"], data), "/ is that file")
    check_error(*d.request("GET", "/page/none.js")[::2], 404, "unknown_path", None, "no such file")
    s, h, b = d.request("POST", "/", {})
    equal((s, h["allow"]), (405, "GET"), "POST /")
    d.alive()


def test_policy():
    """Nothing from elsewhere, nothing inline, nothing that a text could become."""
    d = usual()
    policy = dict(p.split(" ", 1) for p in d.request("GET", "/")[1]["content-security-policy"].split("; "))
    equal({k: v for k, v in policy.items() if k.endswith("-src")},
          {"default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'",
           "connect-src": "'self'"}, "where things come from")
    equal((policy["frame-ancestors"], policy["base-uri"], policy["form-action"]), ("'none'",) * 3, "nor goes anywhere")
    for path, _, data in files():
        text = data.decode()
        urls = [u for u in re.findall(r"https?://[^\s\"'`]+", text) if u != "http://www.w3.org/2000/svg"]
        equal(urls, [], path + ": names no other place")
        check(not re.search(r"<script(?![^>]*\bsrc=)|\son[a-z]+=\"|\sstyle=\"|javascript:", text),
              path + ": nothing inline")
        check(not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|"
                            r"localStorage|sessionStorage|document\.cookie|indexedDB", text),
              path + ": text stays text, and nothing is kept")
        if path.endswith(".js"):
            linked = re.findall(r"from \"\./([a-z]+\.js)\"", text)
            check(all(os.path.exists(os.path.join(ROOM, name)) for name in linked), "%s imports %s" % (path, linked))


def test_etag():
    d = usual()
    tag = d.request("GET", "/")[1]["etag"]
    for value, status in ((tag, 304), ("W/" + tag, 304), ("\"x\", " + tag, 304), ("*", 304), ("\"x\"", 200), ("", 200)):
        s, h, b = d.request("GET", "/", headers={"If-None-Match": value})
        equal((s, h["etag"], b == b""), (status, tag, status == 304), "If-None-Match: " + value)
    with d.connect() as s:
        for _ in range(2):  # the connection goes on behind a 304
            equal(ask(d, "GET", "/", head(If_None_Match=tag), sock=s)[0], 304, "on one connection")
        equal(ask(d, "GET", "/version", "", sock=s)[0], 200, "and then")


def test_size():
    total = sum(len(data) for _, _, data in files())
    check(total < 120 * 1024, "the whole page has %d bytes" % total)


def test_off():
    with Daemon("server.page=false") as d:
        for path in ("/", "/page/main.js"):
            check_error(*d.request("GET", path)[::2], 404, "unknown_path", None, path + " with server.page=false")
            equal(d.request("POST", path, {})[0], 404, path + ": nor anything else")
    code, out, _ = run([DEQD, "--print-config"])
    check(code == 0 and re.search(r"^  page: true$", out, re.M), "it is on by default")


def test_with_keys():
    """The files ask for none, what the page asks does."""
    with Place() as place, place.daemon() as d:
        for path, _, data in files():
            s, h, b = ask(d, "GET", path)
            equal((s, b == data), (200, True), path + " without a key")
        for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("POST", "/v1/completions")):
            body = {"prompt": "A", "max_tokens": 1} if method == "POST" else None
            for key, status in (("", 401), (bearer(OTHER), 401), (bearer(ALICE), 200)):
                equal(ask(d, method, path, key + head(Sec_Fetch_Site="same-origin"), body)[0], status, path)
        equal(ask(d, "GET", "/", bearer(OTHER))[0], 200, "a wrong key is not looked at")
    with Place() as place, place.daemon("server.page=false") as d:
        equal(ask(d, "GET", "/")[0], 401, "what is not there asks for a key, as everything else")


def test_other_sites():
    """It may be followed to, and neither read nor shown inside another page."""
    d = shared("log.level=info")
    for extra, status in ((head(Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate"), 200),
                          (head(Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors"), 200),
                          (head(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate"), 200),
                          (head(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors"), 403),
                          (head(Origin="https://evil.example"), 403)):
        s, h, b = ask(d, "GET", "/", extra)
        equal(s, status, extra)
        check(status != 200 or "frame-ancestors 'none'" in h["content-security-policy"], "not in a frame")
    with d.connect() as s:
        s.sendall(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        check(s.recv(65536).startswith(b"HTTP/1.1 421 "), "not under a name that somebody else owns")
