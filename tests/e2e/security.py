"""Who may do what, over which socket: API keys, TLS, unix sockets, the second address; what logs tell; limits below, at
and above."""
import atexit
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import tempfile
import threading
import time
import warnings

from lib import (DEQD, MARK, ROOT, SLOW, TINY, Daemon, check, check_error, clean_env, closed_within, equal, events_text,
                 parse_metrics, parse_sse, raw_request, read_response, run, send, short, skip)
from life import fails

ALICE, BOB, ROOT_KEY, OTHER = "sk-Alice-4f1c9a77", "sk-Bob-90bd13e5", "sk-Root-7a61c0de", "sk-Other-52f7aa01"
LONG = {"prompt": "A", "max_tokens": 190000, "temperature": 0, "ignore_eos": True, "stream": True}


def sha(key):
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = "# who may\n\nalice %s\nbob\t%s  weight=3 # three shares\r\nroot %s admin weight=2" % (sha(ALICE),
                                                                                              sha(BOB).upper(),
                                                                                              sha(ROOT_KEY))


def write(path, text):
    """Replaces a file at once, as who writes it for a running server should."""
    with open(path + ".new", "wb") as f:
        f.write(text.encode() if isinstance(text, str) else text)
    os.rename(path + ".new", path)


class Place:
    """A directory with a file of keys in it."""

    def __enter__(self):
        self.tmp = tempfile.TemporaryDirectory()
        self.keys = os.path.join(self.tmp.name, "keys")
        write(self.keys, KEYS)
        return self

    def __exit__(self, *_):
        self.tmp.cleanup()

    def path(self, name):
        return os.path.join(self.tmp.name, name)

    def daemon(self, *settings, **more):
        return Daemon("auth.keys_file=" + self.keys, *settings, **more)


def routes():
    """[(method, path, what is special about it)], as the server's own table has it."""
    code, out, err = run([DEQD, "--print-routes"])
    equal((code, err), (0, ""), "--print-routes")
    rows = [(line.split() + [""])[:3] for line in out.splitlines()]
    methods = ("GET", "POST", "PUT", "DELETE")
    check(len(rows) >= 16 and all(len(r) == 3 and r[0] in methods and r[1].startswith("/") for r in rows),
          "the table of routes: %s" % rows)
    more = {"/": "", "/page/": "style.css"}
    return [(m, p + more.get(p, "tiny") if p.endswith("/") else p, flag) for m, p, flag in rows]


def ask(d, method, path, extra="", body=None, sock=None):
    """One request with raw header lines: (status, headers, body)."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = "%s %s HTTP/1.1\r\nHost: test\r\n%s" % (method, path, extra)
    if body is not None:
        head += "Content-Type: application/json\r\nContent-Length: %d\r\n" % len(data)
    s = sock or d.connect()
    try:
        send(s, head.encode("latin-1") + b"\r\n" + data)
        status, headers, got, _ = read_response(s, head_only=method == "HEAD")
        return status, headers, got
    finally:
        if not sock:
            s.close()


def bearer(key):
    return "Authorization: Bearer %s\r\n" % key


# --- API keys ---

def test_keys_that_are_none():
    with Place() as place, place.daemon() as d:
        bodies = set()
        for what, extra in (
                ("none", ""), ("an empty header", "Authorization:\r\n"), ("an empty key", "Authorization: Bearer\r\n"),
                ("a blank key", "Authorization: Bearer \r\n"),
                ("another key", bearer(OTHER)), ("a prefix", bearer(ALICE[:-1])), ("one character", bearer(ALICE[:1])),
                ("one more character", bearer(ALICE + "7")),
                ("twice itself", bearer(ALICE + ALICE)), ("upper case", bearer(ALICE.upper())),
                ("lower case", bearer(ALICE.lower())),
                ("the hash", bearer(sha(ALICE))),
                ("the name", bearer("alice")), ("a quoted key", bearer('"%s"' % ALICE)),
                ("two keys with a comma", bearer(ALICE + "," + BOB)),
                ("without Bearer", "Authorization: %s\r\n" % ALICE), ("Basic", "Authorization: Basic %s\r\n" % ALICE),
                ("Bearer:", "Authorization: Bearer: %s\r\n" % ALICE),
                ("the same twice", bearer(ALICE) * 2), ("a good and a bad one", bearer(ALICE) + bearer(OTHER)),
                ("a bad and a good one", bearer(OTHER) + bearer(ALICE)),
                ("both headers, both bad", bearer(OTHER) + "x-api-key: %s\r\n" % OTHER),
                ("a good one of each, and one again", bearer(ALICE) + "x-api-key: %s\r\n" % ALICE * 2),
                ("Authorization twice, and a good x-api-key", bearer(OTHER) * 2 + "x-api-key: %s\r\n" % ALICE),
                ("x-api-key twice", "x-api-key: %s\r\n" % ALICE * 2), ("x-api-key, empty", "x-api-key:\r\n"),
                ("x-api-key, other", "x-api-key: %s\r\n" % OTHER),
                ("x-api-key with Bearer", "x-api-key: Bearer %s\r\n" % ALICE),
                ("Proxy-Authorization", "Proxy-Authorization: Bearer %s\r\n" % ALICE),
                ("a cookie", "Cookie: api_key=%s\r\n" % ALICE),
                ("x-api-key with a path behind", "x-api-key: %s/../%s\r\n" % (ALICE, ALICE)),
                ("5,000 bytes", bearer("k" * 5000)), ("20,000 bytes that begin well", bearer(ALICE + "k" * 20000))):
            for method, path, body in (("POST", "/v1/completions", {"prompt": "A", "max_tokens": 1}),
                                       ("GET", "/v1/models", None)):
                s, h, b = ask(d, method, path, extra, body)
                check_error(s, b, 401, "invalid_api_key", None, "%s %s with %s" % (method, path, what))
                equal(h.get("www-authenticate"), "Bearer", "WWW-Authenticate, %s" % what)
                bodies.add(b)
        equal(len(bodies), 1, "bodies of 401: all the same")
        # a client's own header beside the one that a proxy or a library adds; blanks round a value are no part of it
        for what, extra in (("both headers, the same", bearer(ALICE) + "x-api-key: %s\r\n" % ALICE),
                            ("both headers, the second good", bearer(OTHER) + "x-api-key: %s\r\n" % ALICE),
                            ("both headers, the first good", "x-api-key: %s\r\n" % OTHER + bearer(ALICE)),
                            ("Basic, and a good x-api-key", "Authorization: Basic eA==\r\nx-api-key: %s\r\n" % ALICE),
                            ("an empty one, and a good x-api-key", "Authorization:\r\nx-api-key: %s\r\n" % ALICE),
                            ("blanks behind the key", "Authorization: Bearer %s \t\r\n" % ALICE),
                            ("blanks before it", "Authorization: \tBearer  \t%s\r\n" % ALICE),
                            ("in other letters", "AUTHORIZATION: bEARER %s\r\n" % ALICE),
                            ("blanks round x-api-key", "x-api-key:\t %s \t \r\n" % ALICE)):
            equal(ask(d, "GET", "/v1/models", extra)[0], 200, what)
        check(not any(k in b for b in bodies for k in (b"alice", b"bob", b"root")), "the refusal names nobody")
        equal(ask(d, "GET", "/v1/models?api_key=" + ALICE)[0], 401, "a key in the query")
        for what, extra in (("Bearer", bearer(ALICE)), ("bearer", "authorization: bearer %s\r\n" % BOB),
                            ("BEARER", "AUTHORIZATION: BEARER %s\r\n" % BOB),
                            ("x-api-key", "x-api-key: %s\r\n" % ALICE), ("X-Api-Key", "X-Api-Key: %s\r\n" % ROOT_KEY)):
            equal(ask(d, "POST", "/v1/completions", extra, {"prompt": "A", "max_tokens": 1})[0], 200,
                  "a good key as %s" % what)


def test_refusal_comes_first():
    """Who has no key learns nothing and costs nothing: not whether a body is good or how large it may be; and the
    connection stays usable."""
    with Place() as place, place.daemon("server.max_body_bytes=4K") as d:
        for what, body in (("not JSON", b"{"), ("no prompt there", {"nonsense": 1}), ("another model", {"model": "x"}),
                           ("too large", b" " * 5000)):
            s, h, b = ask(d, "POST", "/v1/completions", "", body)
            check_error(s, b, 401, "invalid_api_key", None, what)
        with d.connect() as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
                      b"4000\r\n\r\n")
            data = s.recv(4096)
            check(data.startswith(b"HTTP/1.1 401 "), "Expect: 100-continue without a key: %r" % data[:60])
        with d.connect() as s:
            for extra, want in (("", 401), (bearer(ALICE), 200), (bearer(OTHER), 401), (bearer(BOB), 200)):
                equal(ask(d, "POST", "/v1/completions", extra, {"prompt": "A", "max_tokens": 1}, s)[0], want,
                      "on one connection, a key each: %r" % extra)
        m = ask(d, "GET", "/metrics", bearer(ALICE))[2].decode()
        equal(parse_metrics(m)["deqd_positions_total"] > 0, True, "metrics with a key")


def test_every_route():
    """Deny by default, from the server's own table: a route that somebody adds is in here."""
    with Place() as place, place.daemon() as d:
        rows = routes()
        equal({p for _, p, f in rows if f == "open"}, {"/health", "/health/live", "/health/ready", "/health/startup"},
              "what asks for no key")
        equal({p for _, p, f in rows if f == "page"}, {"/", "/page/style.css"}, "nor do the page's files")
        equal({p for _, p, f in rows if f == "metrics"}, {"/metrics"}, "what is open by choice")
        equal({p for _, p, f in rows if f == "admin"},
              {p for _, p, _ in rows if p.startswith("/admin/") or p.startswith("/v1/sequences")},
              "what needs an admin key")
        for method, path, flag in rows:
            body = {} if method == "POST" else None
            got = 404 if path == "/v1/states/tiny" else 200  # no state was saved
            takes = ", ".join(m for m, p, _ in rows if p == path)
            what = "%s %s" % (method, path)
            for m in ("GET", "HEAD") if method == "GET" else (method,):
                for key in ("", bearer(OTHER)):
                    s, h, b = ask(d, m, path, key, body)
                    if flag in ("open", "page"):
                        equal(s, 200, "%s %s, no key" % (m, path))
                    else:
                        equal((s, h.get("www-authenticate")), (401, "Bearer"), "%s %s, no key" % (m, path))
            s, h, b = ask(d, method, path, bearer(ALICE), body)
            if flag == "admin":
                check_error(s, b, 403, "admin_only", None, what + ", a key that is no admin's")
                check("www-authenticate" not in h, what + ": 403 has no WWW-Authenticate")
            else:
                want = (404,) if method == "DELETE" else (got,) if method == "GET" else (200, 400)  # PUT: no state.dir
                check(s in want, "%s with a key: %d %s" % (what, s, short(b)))
            s, h, b = ask(d, method, path, bearer(ROOT_KEY), body)
            want = (404,) if method == "DELETE" else (got,) if method == "GET" or flag == "admin" else (200, 400)
            check(s in want, "%s with an admin key: %d %s" % (what, s, short(b)))
            # another method: nobody without a key learns which
            other = "DELETE" if takes == "POST" else "PATCH"
            s, h, b = ask(d, other, path, "")
            equal((s, h.get("allow")), (401, None), "%s %s, no key" % (other, path))
            s, h, b = ask(d, other, path, bearer(ALICE))
            equal((s, h.get("allow")), (405, takes), "%s %s with a key" % (other, path))
            check_error(s, b, 405, "method_not_allowed", None, "%s %s with a key" % (other, path))
            check("this path takes " + takes in str(b), "%s %s says which: %s" % (other, path, short(b)))
        for path in ("/page", "/page/", "/admin", "/admin/", "/admin/x", "/admin/reload/", "/v1", "/v1/nothing",
                     "/v1/completions/", "/v1/modelsx/a", "//health", "/health/", "/health/live/x",
                     "/HEALTH", "/healthz", "/metrics/", "/health/../v1/models", "/%68ealth", "/health%2f", "/health;x",
                     "/favicon.ico"):
            for method in ("GET", "POST"):
                s, h, b = ask(d, method, path, "", {} if method == "POST" else None)
                check_error(s, b, 401, "invalid_api_key", None,
                            "%s %s, no key: it is not told whether it exists" % (method, path))
                s, h, b = ask(d, method, path, bearer(ALICE), {} if method == "POST" else None)
                check_error(s, b, 404, "unknown_path", None, "%s %s with a key" % (method, path))


def test_metrics_without_a_key():
    with Place() as place:
        with place.daemon("auth.open_metrics=true", "server.admin_listen=127.0.0.1:0") as d:
            s, h, b = ask(d, "GET", "/metrics")
            equal(s, 200, "auth.open_metrics: /metrics without a key")
            parse_metrics(b.decode())
            equal(ask(d, "GET", "/v1/models")[0], 401, "auth.open_metrics opens nothing else")
        with place.daemon("server.admin_listen=127.0.0.1:0") as d:
            equal(ask(d, "GET", "/metrics")[0], 401, "/metrics at the main address")
            equal(ask(d.admin(), "GET", "/metrics")[0], 200, "/metrics at server.admin_listen")
            equal(ask(d.admin(), "GET", "/version")[0], 401, "/version at server.admin_listen asks for a key")
            equal(ask(d.admin(), "GET", "/version", bearer(ALICE))[0], 200,
                  "/version at server.admin_listen with a key")


def test_admin_key():
    with Place() as place, place.daemon("server.admin_listen=127.0.0.1:0") as d:
        for at, where in ((d, "main"), (d.admin(), "admin")):
            s, h, b = ask(at, "POST", "/admin/reload")
            check_error(s, b, 401, "invalid_api_key", None, where + ": reload without a key")
            for key in (ALICE, BOB):
                s, h, b = ask(at, "POST", "/admin/reload", bearer(key))
                check_error(s, b, 403, "admin_only", None, where + ": reload with a key that is no admin's")
        equal(parse_metrics(ask(d, "GET", "/metrics", bearer(BOB))[2].decode())['deqd_reloads_total{result="done"}'], 0,
              "nothing was reloaded by those")
        for at, extra in ((d, bearer(ROOT_KEY)), (d.admin(), "x-api-key: %s\r\n" % ROOT_KEY)):
            s, h, b = until(5, lambda: (got := ask(at, "POST", "/admin/reload", extra))[0] != 503 and
                            got) or (None, None, b"{}")
            equal((s, json.loads(b)), (200, {"status": "ok", "fingerprint": d.first["fingerprint"]}),
                  "reload with an admin key")
        equal(ask(d, "POST", "/v1/completions", bearer(ROOT_KEY), {"prompt": "A", "max_tokens": 1})[0], 200,
              "an admin may do what others may")
    with Daemon("server.admin_listen=127.0.0.1:0") as d:
        for at in (d, d.admin()):
            for extra in ("", bearer(ROOT_KEY), "x-api-key: %s\r\n" % ROOT_KEY):
                s, h, b = ask(at, "POST", "/admin/reload", extra)
                check_error(s, b, 403, "admin_only", None, "reload when there are no keys")
        for extra in (bearer("sk-whatever"), "x-api-key: x\r\n", bearer("a") + "x-api-key: b\r\n",
                      "Authorization: Basic eDp5\r\n"):
            equal(ask(d, "POST", "/v1/completions", extra, {"prompt": "A", "max_tokens": 1})[0], 200,
                  "without a file of keys any key does: %r" % extra)


def until(seconds, cond):
    """Polls cond; the last value."""
    end = time.monotonic() + max(seconds, 60) * SLOW
    while True:
        got = cond()
        if got or time.monotonic() > end:
            return got
        time.sleep(0.01)


def test_keys_are_read_again():
    with Place() as place, place.daemon() as d:
        def status(key, sock=None):
            return ask(d, "GET", "/v1/models", bearer(key), sock=sock)[0]

        with d.connect() as kept:
            equal((status(ALICE, kept), status(BOB), status(OTHER)), (200, 200, 401), "before")
            write(place.keys, "alice %s\nroot %s admin\n" % (sha(OTHER), sha(ROOT_KEY)))
            equal((status(ALICE), status(OTHER)), (200, 401), "a file that changed is not read unasked")
            d.p.send_signal(signal.SIGHUP)
            check(until(5, lambda: status(OTHER) == 200), "SIGHUP: the new key is taken")
            equal((status(ALICE), status(BOB), status(ALICE, kept)), (401, 401, 401),
                  "the old ones are refused, also on a connection that was there")
        # what is no file of keys leaves the old ones, and says so
        n = 0
        for what, text, word in (("a line that is none", "alice %s\nbob xyz\n" % sha(ALICE), "line 2"),
                                 ("no key in it", "# nobody\n", place.keys),
                                 ("gone", None, place.keys)):
            before = len([x for x in d.lines() if x["message"].startswith("keys not reloaded")])
            if text is None:
                os.unlink(place.keys)
            else:
                write(place.keys, text)
            d.p.send_signal(signal.SIGHUP)
            n += 1
            check(until(5, lambda: len([x for x in d.lines()
                                        if x["message"].startswith("keys not reloaded")]) > before),
                  what + ": a line in the log")
            line = [x for x in d.lines() if x["message"].startswith("keys not reloaded")][-1:] or [{}]
            check(line[0].get("level") == "error" and "auth.keys_file" in line[0].get("reason", "") and
                  word in line[0].get("reason", ""), "%s: %s" % (what, line))
            equal((status(OTHER), status(ALICE)), (200, 401), what + ": the keys that were stay")
        write(place.keys, KEYS)
        until(5, lambda: ask(d, "POST", "/admin/reload", bearer(ROOT_KEY))[0] == 200)
        equal((status(OTHER), status(ALICE), status(BOB)), (401, 200, 200), "POST /admin/reload reads the keys too")
        # an admin who no longer is one
        write(place.keys, KEYS.replace(" admin", ""))
        d.p.send_signal(signal.SIGHUP)
        check(until(5, lambda: ask(d, "POST", "/admin/reload", bearer(ROOT_KEY))[0] == 403),
              "who is an admin is read again too")


def test_bad_key_files():
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "keys")
        a, b = sha(ALICE), sha(BOB)

        def refused(text, *words):
            write(path, text)
            if not fails(["--model", TINY, "--listen", "127.0.0.1:0", "--set", "auth.keys_file=" + path], 1,
                         "auth.keys_file", path, *words, timeout=1):
                print("     the file was %s" % short(text), flush=True)

        for text, line in (("alice\n", 1), ("# x\n\nalice %s\n" % a[:-1], 3), ("alice %s0\n" % a, 1),
                           ("alice %sg\n" % a[:-1], 1), ("%s\n" % a, 1),
                           ("%s alice\n" % a, 1),
                           ("alice %s\nbob %s Admin\n" % (a, b), 2), ("alice %s root\n" % a, 1),
                           ("alice %s weight=0\n" % a, 1), ("alice %s weight=1001\n" % a, 1),
                           ("alice %s weight=\n" % a, 1), ("alice %s weight=1x\n" % a, 1),
                           ("alice %s weight=-1\n" % a, 1), ("alice %s weight= 2\n" % a, 1),
                           ("alice %s Weight=2\n" % a, 1), ("alice %s weight=99999999999999999999\n" % a, 1),
                           ("alice %s\nalice %s\n" % (a, b), 2),
                           ("alice %s\n\n# x\nbob %s\n" % (a, a), 4), ("alice %s\nbob %s\n" % (a, a.upper()), 2),
                           ("alice: %s\nbob=%s\n" % (a, b), 2),
                           ("alice %s admin admin admin admin admin nonsense\n" % a, 1),
                           ("alice %s weight=-18446744073709551615\n" % a, 1)):
            refused(text, "line %d" % line)
        for text in ("", "\n\n", "# alice %s\n" % a, b"alice %s\n\0bob %s\n" % (a.encode(), b.encode()),
                     "x" * (1 << 20) + "\n" + "alice %s\n" % a,
                     "".join("k%d %064x\n" % (i, i + 1) for i in range(1025))):
            refused(text)
        # a key instead of its hash: the message must not show it
        write(path, "alice %s\n" % ALICE)
        code, out, err = run([DEQD, "--model", TINY, "--listen", "127.0.0.1:0", "--set", "auth.keys_file=" + path])
        check(code == 1 and "line 1" in err and ALICE not in out + err, "a key in the file as it is: %r" % err)
        fails(["--model", TINY, "--listen", "127.0.0.1:0", "--set", "auth.keys_file=" + os.path.join(tmp, "none")], 1,
              "auth.keys_file", os.path.join(tmp, "none"))
        fails(["--model", TINY, "--listen", "127.0.0.1:0", "--set", "auth.keys_file=" + tmp], 1, "auth.keys_file", tmp)
        # as many as may be, and blanks of any kind
        write(path, "".join("k%d\t %s  admin\tweight=1000\r\n" % (i, sha("key%d" % i)) for i in range(1024)))
        with Daemon("auth.keys_file=" + path) as d:
            equal([ask(d, "GET", "/v1/models", bearer("key%d" % i))[0] for i in (0, 511, 1023, 1024)],
                  [200, 200, 200, 401], "1,024 keys")


def test_secrets_stay():
    with Place() as place, place.daemon("log.level=debug", "server.admin_listen=127.0.0.1:0") as d:
        secrets = [ALICE, BOB, ROOT_KEY, OTHER]
        for key in secrets:
            for extra in (bearer(key), "x-api-key: %s\r\n" % key, bearer(key) * 2, "Authorization: %s\r\n" % key):
                for method, path, body in (("GET", "/v1/models", None),
                                           ("POST", "/v1/completions", {"prompt": MARK, "max_tokens": 1}),
                                           ("POST", "/v1/completions", b"{"),
                                           ("GET", "/v1/models/" + key, None), ("GET", "/v1/models?key=" + key, None),
                                           ("GET", "/nothing?key=" + key, None)):
                    ask(d, method, path, extra, body)
            with d.connect() as s:
                s.sendall(("%s\r\nAuthorization: Bearer %s\r\n\r\n" % (key, key)).encode())
                closed_within(s, 2)
        ask(d, "POST", "/admin/reload", bearer(ROOT_KEY))
        write(place.keys, "alice %s %s\n" % (sha(OTHER), OTHER))
        d.p.send_signal(signal.SIGHUP)
        check(d.wait_line(5, message=re.compile("keys not reloaded")), "a broken file is told of")
        secrets += [sha(k) for k in secrets]
        check(d.wait_line(2, message="completion"), "the log holds something")
        log = d.stderr().lower()
        equal([k for k in secrets if k.lower() in log or k.lower()[:16] in log], [], "keys and hashes in the log")
        code, out, _ = run([DEQD, "--set", "auth.keys_file=" + place.keys, "--print-config"])
        check(code == 0 and place.keys in out and not any(k.lower() in out.lower() for k in secrets),
              "keys and hashes in --print-config")
        with open("/proc/%d/cmdline" % d.p.pid, "rb") as f:
            line = f.read().decode().lower()
        check(place.keys.lower() in line and not any(k.lower() in line for k in secrets),
              "keys and hashes in the command line")
        with open("/proc/%d/limits" % d.p.pid) as f:
            check(re.search(r"(?m)^Max core file size +0 +0 ", f.read()),
                  "no core is written: it would hold keys and prompts")


def filters(pid):
    """[(Seccomp, NoNewPrivs)] of every thread: 2 is a filter."""
    found = set()
    for t in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/status" % (pid, t)) as f:
            text = f.read()
        found.add(tuple(int(re.search(r"(?m)^%s:\s+(\d+)" % k, text).group(1)) for k in ("Seccomp", "NoNewPrivs")))
    return sorted(found)


def test_sandbox():
    """All threads are inside, those of a reload too; every other test runs inside as well, since it is the default."""
    with tempfile.TemporaryDirectory() as tmp, Daemon("server.sandbox=always", "state.dir=" + tmp) as d:
        equal((d.first["sandbox"], filters(d.p.pid)), ("on", [(2, 1)]), "filtered, and without new privileges")
        d.p.send_signal(signal.SIGHUP)
        check(d.wait_line(10, message="reloaded"), "a reload works inside")
        equal(filters(d.p.pid), [(2, 1)], "the threads that came with it")
        equal(d.post("/v1/states", {"name": "x", "prompt": "A"})[0], 200, "states are written from inside")
        d.alive()
    with Daemon("server.sandbox=never") as d:
        equal((d.first["sandbox"], filters(d.p.pid)), ("off", [(0, 1)]), "never is none")
    code, _, err = run([DEQD, "--model", TINY, "--set", "server.sandbox=maybe", "--check-config"])
    check(code == 2 and "server.sandbox" in err and "auto|always|never" in err, "what it may be: %s" % err)


def test_requests_of_one_key():
    """limits.max_requests_per_key: running and waiting ones count."""
    with Place() as place, place.daemon("limits.max_requests_per_key=2", "engine.max_sequences=1",
                                        "engine.max_positions=200000", "auth.open_metrics=true") as d:
        def begin(key, body=LONG):
            s = d.connect()
            s.sendall(raw_request(body, extra=bearer(key)))
            return s

        one = {"prompt": "A", "max_tokens": 1}
        first = begin(ALICE, dict(LONG, stream=False))
        d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
        second = begin(ALICE, one)
        ok, _ = d.wait_metric(lambda m: m["deqd_requests_waiting"] == 1, 5)
        check(ok, "the second request of a key waits")
        for path, body in (("/v1/completions", one), ("/v1/completions", dict(one, stream=True)),
                           ("/v1/logits", {"prompt": "A"})):
            s, h, b = ask(d, "POST", path, bearer(ALICE), body)
            check_error(s, b, 429, "key_rate_limited", None, "a third of the same key, " + path)
            check(h.get("retry-after", "").isdigit() and h.get("retry-after-ms", "").isdigit(), "Retry-After")
        equal(ask(d, "GET", "/v1/models", bearer(ALICE))[0], 200, "what is no work is not counted")
        third = begin(BOB, one)
        ok, m = d.wait_metric(lambda m: m["deqd_requests_waiting"] == 2, 5)
        check(ok, "another key waits beside it")
        equal(m['deqd_requests_rejected_total{reason="key_rate_limited"}'], 3, "deqd_requests_rejected_total")
        first.close()
        for s in (second, third):
            equal(read_response(s)[0], 200, "served when the long one left")
            s.close()
        with d.connect() as s:
            equal([ask(d, "POST", "/v1/completions", bearer(ALICE), one, s)[0] for _ in range(5)], [200] * 5,
                  "what ended is counted no more")
            # what was refused is not counted either
            equal([ask(d, "POST", "/v1/completions", bearer(ALICE), {"prompt": 1}, s)[0] for _ in range(5)], [400] * 5,
                  "refused ones")
            equal(ask(d, "POST", "/v1/completions", bearer(ALICE), one, s)[0], 200, "after refused ones")
    with Daemon("limits.max_requests_per_key=1", "engine.max_sequences=1", "engine.max_positions=200000") as d:
        with d.connect() as s:
            s.sendall(raw_request(dict(LONG, stream=False)))
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            w = d.connect()
            w.sendall(raw_request({"prompt": "A", "max_tokens": 1}))
            ok, _ = d.wait_metric(lambda m: m["deqd_requests_waiting"] == 1, 5)
            check(ok, "callers without keys are not limited")
        equal(read_response(w)[0], 200, "and served")
        w.close()


# --- TLS ---

@functools.lru_cache(None)
def pair(name, bits="ec"):
    """(certificate, key): self-signed, for 127.0.0.1; None without openssl."""
    if not shutil.which("openssl"):
        return None
    tmp = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, tmp, True)
    cert, key = os.path.join(tmp, "cert.pem"), os.path.join(tmp, "key.pem")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if bits == "ec" else ["-newkey", "rsa:2048"]
    p = subprocess.run(["openssl", "req", "-x509", *kind, "-nodes", "-days", "2", "-subj", "/CN=" + name, "-addext",
                        "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert], capture_output=True, timeout=60)
    return (cert, key) if p.returncode == 0 else None


def have_pairs():
    if pair("one") and pair("two", "rsa"):
        return True
    skip("no openssl here that makes certificates")
    return False


def trust(*certs, highest=None):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for cert in certs:
        c.load_verify_locations(cert)
    if highest:
        c.maximum_version = highest
    return c


def old_client(version):
    """A client that offers no more than this version, and does shake hands with a server that takes it; else None."""
    c, s = trust(pair("one")[0]), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    s.load_cert_chain(*pair("one"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x in (c, s):
            x.set_ciphers("ALL:@SECLEVEL=0")
            x.minimum_version = x.maximum_version = version
    to_s, to_c = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [c.wrap_bio(to_c, to_s, server_hostname="127.0.0.1"), s.wrap_bio(to_s, to_c, server_side=True)]
    for end in ends * 4:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            return None
    return c if ends[0].version() else None


def tls_daemon(place, *settings, name="one", **more):
    cert, key = place.path("cert.pem"), place.path("key.pem")
    for source, at in zip(pair(name), (cert, key)):
        shutil.copy(source, at)
    return Daemon("tls.cert=" + cert, "tls.key=" + key, *settings, tls=trust(pair("one")[0], pair("two", "rsa")[0]),
                  **more)


def test_tls():
    if not have_pairs():
        return
    with Daemon() as plain:
        want = plain.complete(MARK, max_tokens=60)["choices"][0]["text"]
    with Place() as place, tls_daemon(place) as d:
        equal(d.complete(MARK, max_tokens=60)["choices"][0]["text"], want, "a completion over TLS")
        s, h, events, done = d.stream(MARK, max_tokens=60)
        equal((s, done, events_text(events)), (200, True, want), "a stream over TLS")
        s, _, events, done = d.stream("A", max_tokens=1000, logprobs=20, ignore_eos=True)
        equal((s, done, sum(len(e["choices"][0]["logprobs"]["tokens"]) for e in events)), (200, True, 1000),
              "a wide stream over TLS")
        got = []
        threads = [threading.Thread(target=lambda: got.append(d.complete(MARK, max_tokens=60)["choices"][0]["text"]))
                   for _ in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        equal(got, [want] * 12, "12 at once")
    with Place() as place, tls_daemon(place, "server.admin_listen=127.0.0.1:0", "server.header_timeout_ms=500",
                                      "server.body_timeout_ms=500") as d:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            c = trust(pair("one")[0], highest=version)
            with socket.create_connection((d.host, d.port),
                                          10 * SLOW) as s, c.wrap_socket(s, server_hostname=d.host) as t:
                equal(t.version(), version.name.replace("_", "."), "a handshake of at most %s" % version.name)
                equal(ask(d, "GET", "/health", sock=t)[0], 200, "and an answer")
        for old in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            c = old_client(old)
            if not c:
                skip("this machine's OpenSSL speaks no " + old.name)
                continue
            try:
                with socket.create_connection((d.host, d.port),
                                              10 * SLOW) as s, c.wrap_socket(s, server_hostname=d.host) as t:
                    check(False, "%s was taken: %s" % (old.name, t.version()))
            except (ssl.SSLError, ConnectionError) as e:
                check(True, repr(e))
        # an anonymous or an untrusted server would not do
        try:
            with socket.create_connection((d.host, d.port), 10 * SLOW) as s, \
                    trust(pair("two", "rsa")[0]).wrap_socket(s, server_hostname=d.host):
                check(False, "a client that trusts another certificate connected")
        except ssl.SSLCertVerificationError:
            check(True, "")
        # plain HTTP at the TLS port, nothing at all, half a request
        for what, data in (("plain HTTP", raw_request({"prompt": MARK})),
                           ("plain GET", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"), ("nothing", b""),
                           ("half a hello", b"\x16\x03\x01\x02\x00\x01")):
            with socket.create_connection((d.host, d.port), 10 * SLOW) as s:
                s.sendall(data)
                s.settimeout(10 * SLOW)
                got = b""
                begin = time.monotonic()
                try:
                    while part := s.recv(4096):
                        got += part
                except ConnectionError:
                    pass
                except socket.timeout:
                    check(False, what + " at the TLS port: not cut")
                check(b"HTTP/1" not in got and b"{" not in got and len(got) < 100,
                      "%s at the TLS port: %r" % (what, got))
                check(time.monotonic() - begin < 60 * SLOW,
                      "%s at the TLS port: cut after %.1f s" % (what, time.monotonic() - begin))
        with d.connect() as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            begin, got = time.monotonic(), b""
            try:
                s.settimeout(10 * SLOW)
                while part := s.recv(4096):
                    got += part
                ok = True
            except ssl.SSLEOFError:
                ok = True  # shut without a word
            except OSError as e:
                ok = isinstance(e, ConnectionError)
            check(ok and time.monotonic() - begin < 60 * SLOW,
                  "a body that does not come: cut, and no plain text between the records: %r" % got)
        # a client that leaves
        s = d.connect()
        s.sendall(raw_request(dict(LONG, max_tokens=1500)))
        s.recv(100)
        s.close()
        ok, m = d.wait_metric(lambda m: m["deqd_requests_running"] == 0 and m["deqd_rows_open"] == 0, 2)
        check(ok, "a client that leaves frees what it had, over TLS too")
        # the second address has no TLS
        equal(ask(d.admin(), "GET", "/health/ready")[0], 200, "the second address speaks plain HTTP")
        d.alive()


def test_certificate_replaced():
    if not have_pairs():
        return

    def der(d):
        with d.connect() as s:
            return s.getpeercert(True)

    def replace(place, cert, key):
        for source, name in ((cert, "cert.pem"), (key, "key.pem")):
            with open(source) as f:
                write(place.path(name), f.read())

    one, two = pair("one"), pair("two", "rsa")
    want = [ssl.PEM_cert_to_DER_cert(open(p[0]).read()) for p in (one, two)]
    with Place() as place, tls_daemon(place, "engine.max_positions=200000") as d:
        equal(der(d), want[0], "the first certificate")
        stream, kept = d.connect(), d.connect()
        equal(ask(d, "GET", "/version", sock=kept)[0], 200, "a connection that is kept")
        stream.sendall(raw_request(dict(LONG, max_tokens=5000)))
        data = b""
        while b"data: " not in data:
            data += stream.recv(4096)
        answer = []
        reader = threading.Thread(target=lambda: answer.append(read_response(stream, data)))
        reader.start()
        replace(place, *two)
        equal(der(d), want[0], "files that changed are not read unasked")
        d.p.send_signal(signal.SIGHUP)
        check(until(5, lambda: der(d) == want[1]), "SIGHUP: new handshakes get the new certificate")
        check(not answer, "the stream still runs")
        equal((kept.getpeercert(True), ask(d, "GET", "/version", sock=kept)[0]), (want[0], 200),
              "the kept connection goes on with the old one")
        # files that do not fit leave the new ones
        d.wait_line(5, message="reloaded")
        for what, cert, key, word in (("another's key", one[0], two[1], "tls.key"),
                                      ("no certificate", two[1], two[1], "tls.cert")):
            before = len(d.lines())
            replace(place, cert, key)
            d.p.send_signal(signal.SIGHUP)
            line = until(5, lambda: [x for x in d.lines()[before:]
                                     if x["message"].startswith("certificate not reloaded")])
            check(line and line[0]["level"] == "error" and word in line[0]["reason"],
                  "%s: a line in the log: %s" % (what, line))
            equal(der(d), want[1], what + ": the one that was stays")
        reader.join()
        s, _, body, _ = answer[0]
        events, done = parse_sse(body)
        equal((s, done, events[-1]["choices"][0]["finish_reason"]), (200, True, "length"),
              "the stream that ran comes to its end")
        stream.close()
        kept.close()


def test_bad_certificates():
    if not have_pairs():
        return
    one, two = pair("one"), pair("two", "rsa")
    with Place() as place:
        def refused(cert, key, *words, code=1):
            args = ["--model", TINY, "--listen", "127.0.0.1:0"]
            for k, v in (("tls.cert", cert), ("tls.key", key)):
                args += ["--set", "%s=%s" % (k, v)] if v else []
            fails(args, code, *words)

        none, text, empty = place.path("none.pem"), place.path("text.pem"), place.path("empty.pem")
        write(text, "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
        write(empty, "")
        refused(one[0], two[1], "tls.key", two[1])
        refused(two[0], one[1], "tls.key", one[1])
        refused(none, one[1], "tls.cert", none)
        refused(one[0], none, "tls.key", none)
        refused(text, one[1], "tls.cert", text)
        refused(empty, one[1], "tls.cert", empty)
        refused(one[0], empty, "tls.key", empty)
        refused(one[0], one[0], "tls.key", one[0])
        refused(one[1], one[0], "tls.cert")
        refused(place.tmp.name, one[1], "tls.cert", place.tmp.name)
        refused(one[0], "", "tls.key", "tls.cert", code=2)
        refused("", one[1], "tls.key", "tls.cert", code=2)
        locked = place.path("locked.pem")
        p = subprocess.run(["openssl", "ec", "-aes128", "-passout", "pass:x", "-in", one[1], "-out", locked],
                           capture_output=True)
        if p.returncode == 0:
            refused(one[0], locked, "tls.key", locked)  # nobody is there to type the password
        # the probe speaks no TLS and says so
        equal(run([DEQD, "--listen", "127.0.0.1:1", "--set", "tls.cert=" + one[0], "--set", "tls.key=" + one[1],
                   "--health-probe"])[0], 2, "--health-probe with TLS only")


# --- Unix sockets ---

def test_unix_socket():
    with Place() as place:
        path = place.path("deqd.sock")
        for mode in (0o600, 0o660, 0o666, None):
            listen = "unix:%s%s" % (path, ",mode=%04o" % mode if mode is not None else "")
            with Daemon("engine.max_positions=200000", listen=listen) as d:
                st = os.lstat(path)
                equal((stat.S_ISSOCK(st.st_mode), oct(stat.S_IMODE(st.st_mode))),
                      (True, oct(0o660 if mode is None else mode)), "the socket's file, " + listen[-10:])
                d.alive("over " + listen[-10:])
                if mode != 0o600:
                    continue
                _, _, events, done = d.stream(MARK, max_tokens=50)
                equal((done, events_text(events)), (True, d.complete(MARK, max_tokens=50)["choices"][0]["text"]),
                      "a stream over a unix socket")
                with d.connect() as s:
                    equal([ask(d, "GET", "/version", sock=s)[0] for _ in range(3)], [200] * 3,
                          "a connection that is kept")
                with d.connect() as s:
                    s.sendall(raw_request(LONG))
                    d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
                ok, _ = d.wait_metric(lambda m: m["deqd_requests_running"] == 0 and m["deqd_rows_open"] == 0, 2)
                check(ok, "a client that leaves frees what it had")
                equal(run([DEQD, "--listen", listen, "--health-probe"])[0], 0, "--health-probe over a unix socket")
                # a second daemon must not take it away
                fails(["--model", TINY, "--listen", listen], 1, "server.listen", path, "in use")
                check(os.path.exists(path), "its file stays")
                d.alive("a second daemon was refused, the first answers")
            check(not os.path.lexists(path), "the file is gone at exit")
        # a daemon that was killed leaves its file; the next one takes the place
        d = Daemon(listen="unix:" + path)
        d.p.kill()
        d.p.wait(10)
        check(os.path.exists(path), "a killed daemon leaves its file")
        equal(run([DEQD, "--listen", "unix:" + path, "--health-probe"])[0], 1, "--health-probe of nobody")
        with Daemon(listen="unix:" + path + ",mode=0600") as d:
            equal(stat.S_IMODE(os.lstat(path).st_mode), 0o600, "its mode is the new one's")
            d.alive("in place of a stale socket")
        # what is no socket is nobody's to remove
        write(path, "precious")
        fails(["--model", TINY, "--listen", "unix:" + path], 1, "server.listen", path)
        equal(open(path).read(), "precious", "a file that is no socket stays")
        os.unlink(path)
        os.symlink(place.path("elsewhere"), path)
        fails(["--model", TINY, "--listen", "unix:" + path], 1, "server.listen", path)
        check(os.path.islink(path), "a link stays")
        os.unlink(path)
        fails(["--model", place.path("nothing"), "--listen", "unix:" + path], 1, "nothing")
        check(not os.path.lexists(path), "a start that fails leaves no file")
        fails(["--model", TINY, "--listen", "unix:" + place.path("none/deqd.sock")], 1, "server.listen",
              "none/deqd.sock")
        for bad in ("unix:", "unix:deqd.sock", "unix:" + path + ",mode=", "unix:" + path + ",mode=8",
                    "unix:" + path + ",mode=1777", "unix:" + path + ",mode=rw", "unix:/" + "x" * 107):
            fails(["--listen", bad, "--check-config"], 2, "server.listen")


def test_unix_socket_of_one_who_hangs():
    """Somebody listens and takes no more: looking whether the file is stale must not wait for him."""
    with Place() as place:
        path = place.path("deqd.sock")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            s.listen(0)
            full = []
            while len(full) < 10:
                c = socket.socket(socket.AF_UNIX)
                c.setblocking(False)
                full.append(c)
                try:
                    c.connect(path)
                except BlockingIOError:
                    break
            try:
                p = subprocess.run([DEQD, "--model", TINY, "--listen", "unix:" + path], capture_output=True,
                                   timeout=3 * SLOW, env=clean_env())
                check(p.returncode == 1 and b"in use" in p.stderr, "refused: %d %r" % (p.returncode, p.stderr))
            except subprocess.TimeoutExpired:
                check(False, "deqd hangs at start when the socket's owner accepts nobody")
            for c in full:
                c.close()
            check(os.path.exists(path), "its file stays")


# --- The second address ---

def test_admin_address():
    there = {"/health", "/health/live", "/health/ready", "/health/startup", "/metrics", "/version", "/admin/reload",
             "/v1/sequences", "/v1/sequences/tiny"}
    with Place() as place:
        for listen in ("127.0.0.1:0", "unix:" + place.path("admin.sock") + ",mode=0600"):
            with Daemon("server.admin_listen=" + listen) as d:
                a = d.admin()
                for method, path, flag in routes():
                    s, h, b = ask(a, method, path, "", {} if method == "POST" else None)
                    if path not in there:
                        check_error(s, b, 404, "unknown_path", None, "%s at the second address" % path)
                    else:
                        equal(s, 403 if flag == "admin" else 200, "%s at the second address" % path)
                s, h, b = ask(a, "POST", "/v1/completions", "", {"prompt": MARK})
                check_error(s, b, 404, "unknown_path", None, "completions at the second address")
                s, h, b = ask(a, "PUT", "/metrics")
                equal((s, h.get("allow")), (405, "GET"), "another method at the second address")
                parse_metrics(ask(a, "GET", "/metrics")[2].decode())
                d.alive("the first address")
                address = d.first["admin_address"]
                equal(run([DEQD, "--listen", "127.0.0.1:1", "--set", "server.admin_listen=" + address,
                           "--health-probe"])[0], 0, "--health-probe asks there")
        check(not os.path.exists(place.path("admin.sock")), "its socket is gone at exit")
        with Daemon() as d:
            fails(["--model", TINY, "--listen", "127.0.0.1:0", "--set", "server.admin_listen=%s:%d" % (d.host, d.port)],
                  1, "server.admin_listen", "in use")
        fails(["--set", "server.admin_listen=nowhere", "--check-config"], 2, "server.admin_listen")
        # while the daemon drains, its probes answer there to the end
        d = Daemon("server.admin_listen=127.0.0.1:0", "engine.max_positions=200000", "server.shutdown_timeout_ms=60000")
        s = d.connect()
        s.sendall(raw_request(dict(LONG, stream=False, max_tokens=6000)))
        d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
        d.p.send_signal(signal.SIGTERM)
        check(until(2, lambda: ask(d.admin(), "GET", "/health/ready")[0] == 503), "not ready at the second address")
        equal((ask(d.admin(), "GET", "/health/live")[0], ask(d.admin(), "GET", "/metrics")[0]), (200, 200),
              "live, and metrics, while it drains")
        equal(read_response(s)[0], 200, "the request that ran")
        s.close()
        d.stop()


def test_probes_when_all_connections_are_taken():
    with Daemon("server.max_connections=8", "server.admin_listen=127.0.0.1:0") as d:
        one = {"prompt": "A", "max_tokens": 1}
        idle = [d.connect() for _ in range(7)]
        for s in idle:
            equal(ask(d, "GET", "/version", sock=s)[0], 200, "one of seven")
        equal(ask(d, "POST", "/v1/completions", "", one)[0], 200, "the eighth connection is served")

        def one_more():  # when the server has seen that the one before has left
            s = d.connect()
            if ask(d, "GET", "/version", sock=s)[0] == 200:
                idle.append(s)
                return True
            s.close()
        check(until(3, one_more), "and may stay")
        for what in ("8 idle connections", "40 more that say nothing", "100 more"):
            if what != "8 idle connections":
                idle += [d.connect() for _ in range(40 if what.startswith("40") else 100)]
            for at, where in ((d, "main"), (d.admin(), "second")):
                for path in ("/health", "/health/live", "/health/ready", "/health/startup", "/metrics"):
                    begin = time.monotonic()
                    try:
                        got = ask(at, "GET", path)[0]
                    except (OSError, EOFError) as e:
                        got = repr(e)
                    took = time.monotonic() - begin
                    check(got == 200 and took < 20 * SLOW,  # none waits for an idle connection to end, which takes 30 s
                          "%s at the %s address with %s: %s after %.2f s" % (path, where, what, got, took))
            if what.startswith("100"):
                continue
            s, h, b = ask(d, "POST", "/v1/completions", "", one)
            check_error(s, b, 503, "too_many_connections", None, "a completion with " + what)
            check(h.get("retry-after", "").isdigit() and h.get("connection") == "close",
                  "Retry-After, and the connection ends: %s" % h)
            equal(ask(d, "POST", "/v1/completions", "", one, idle[0])[0], 200, "who was there is served")
        for s in idle:
            s.close()
        check(until(5, lambda: ask(d, "POST", "/v1/completions", "", one)[0] == 200),
              "when they have left there is room again")


def test_connections_of_one_address():
    with Daemon("server.max_connections_per_address=3", "server.admin_listen=127.0.0.1:0") as d:
        kept = []
        for i in range(3):
            kept.append(d.connect())
            equal(ask(d, "GET", "/version", sock=kept[-1])[0], 200, "connection %d of 3" % (i + 1))
        try:
            got = ask(d, "GET", "/version")[0]
        except (OSError, EOFError):
            got = None
        check(got in (None, 503, 429), "the fourth is refused: %s" % got)
        equal([ask(d.admin(), "GET", "/metrics")[0] for _ in range(5)], [200] * 5, "not counted at the second address")
        equal([ask(d, "GET", "/version", sock=s)[0] for s in kept], [200] * 3, "the others go on")
        kept.pop().close()

        def again():
            try:
                return ask(d, "GET", "/version")[0] == 200
            except (OSError, EOFError):
                return False
        check(until(3, again), "when one left there is room")
        for s in kept:
            s.close()
        until(3, again)


# --- Logs ---

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_traceparent():
    good = ["00-%s-%s-%s" % (TRACE, SPAN, flags) for flags in ("01", "00",
                                                               "ff")] + ["00-%s1-%s1-01" % ("0" * 31, "0" * 15),
                                                                         "00-1%s-1%s-01" % ("0" * 31, "0" * 15)]
    bad = ["00-%s-%s-01" % ("0" * 32, SPAN), "00-%s-%s-01" % (TRACE, "0" * 16), "00-%s-%s-01" % (TRACE.upper(), SPAN),
           "00-%s-%s-01" % (TRACE, SPAN.upper()), "ff-%s-%s-01" % (TRACE, SPAN), "00-%s-%s-FF" % (TRACE, SPAN),
           "00-%s-%s-1" % (TRACE, SPAN), "00-%s-%s" % (TRACE, SPAN), "00-%s-%s-01" % (TRACE[1:], SPAN),
           "00-%s-%s-01" % (TRACE, SPAN[1:]), "00-%s-%s-01-x" % (TRACE, SPAN), "00-%s-%s-01 " % (TRACE, SPAN) + "x",
           "00-%sg-%s-01" % (TRACE[1:], SPAN), "00-%s-%sg-01" % (TRACE, SPAN[1:]), "00_%s_%s_01" % (TRACE, SPAN),
           "00-%s-%s-0g" % (TRACE, SPAN), "0-%s-%s-001" % (TRACE, SPAN), "00-%s-%s--1" % (TRACE, SPAN),
           "00%s-%s-01-" % (TRACE, SPAN), "00-%s%s-01--" % (TRACE, SPAN), "", "x", "-" * 55, "00-" + "a" * 52]
    with Daemon() as d:
        for i, value in enumerate(good + bad):
            for kind, method, path, body in (("request", "GET", "/v1/models", None),
                                             ("completion", "POST", "/v1/completions",
                                              {"prompt": MARK, "max_tokens": 1}),
                                             ("request", "GET", "/nothing", None)):
                ask(d, method, path, "X-Request-Id: t%d-%s\r\ntraceparent: %s\r\n" % (i, path, value), body)
        lines = {}

        def all_there():
            lines.update({x["request_id"]: x for x in d.lines() if x["message"] in ("request", "completion")})
            return len(lines) == 3 * len(good + bad)
        check(until(3, all_there), "a line each: %d" % len(lines))
        for i, value in enumerate(good + bad):
            for path in ("/v1/models", "/v1/completions", "/nothing"):
                line = lines.get("t%d-%s" % (i, path), {})
                want = (value[3:35], value[36:52]) if value in good else (None, None)
                equal((line.get("trace_id"), line.get("parent_id")), want,
                      "trace_id and parent_id of %s with traceparent %r" % (path, value))
        ask(d, "GET", "/v1/models", "X-Request-Id: none\r\n")
        line = d.wait_line(2, request_id="none") or {"trace_id": 1}
        check("trace_id" not in line and "parent_id" not in line, "without traceparent: %s" % line)


def test_request_ids():
    """One id goes through the header, the answer's id and the log's line; what may not stand in a log is replaced."""
    with Daemon() as d:
        seen = set()
        for sent, kept in (("rid-1", True), ("a" * 128, True), ("a" * 129, False), ("{%s}" % "b" * 3, True),
                           ('q"q', False), ("b\\b", False), ("sp ace", False),
                           ("\xe9", False), ("", False),
                           ("%s%n%x", True)):
            s, h, b = ask(d, "POST", "/v1/completions", "X-Request-Id: %s\r\n" % sent, {"prompt": "A", "max_tokens": 1})
            got = h.get("x-request-id")
            equal((s, json.loads(b).get("id"), got == sent), (200, "cmpl-%s" % got, kept), "X-Request-Id %r" % sent)
            check(d.wait_line(2, message="completion", request_id=got), "a line with the id %r" % got)
            check(got not in seen and re.fullmatch(r"[!-~]{1,128}", got), "an id of its own: %r" % got)
            seen.add(got)
        for path in ("/nothing", "/v1/models/none"):
            s, h, b = ask(d, "GET", path, "X-Request-Id: err%s\r\n" % path)
            equal((s, h.get("x-request-id")), (404, "err" + path), "an error keeps it too")
        s, h, _, _ = d.stream("A", max_tokens=2)
        check(d.wait_line(2, message="completion", request_id=h["x-request-id"], stream=True), "a stream's line")


def test_logs_tell_no_text():
    with Daemon("log.level=debug", "chat.message={role}: {content}\\n") as d:
        text = d.complete(MARK + " said", max_tokens=80, ignore_eos=True)["choices"][0]["text"]
        check(len(text) > 20, "there is text: %r" % text)
        for body in ({"prompt": MARK, "stop": [MARK]}, {"prompt": MARK, "cache_salt": MARK},
                     {"prompt": MARK, "user": MARK}, {"prompt": MARK, "model": MARK},
                     {MARK: 1}, {"prompt": {MARK: 1}},
                     {"prompt": MARK, "stream": True}, {"prompt": MARK, "echo": True, "logprobs": 2, "max_tokens": 4},
                     {"prompt": MARK, "logit_bias": {MARK: 1}}):
            d.post("/v1/completions", body) if not body.get("stream") else d.stream(MARK)
        equal(d.post("/v1/chat/completions", {"messages": [{"role": "user", "content": MARK}], "max_tokens": 4})[0],
              200, "a chat")
        d.post("/tokenize", {"prompt": MARK})
        d.post("/v1/logits", {"prompt": MARK})
        ask(d, "GET", "/nothing?" + MARK, "User-Agent: %s\r\nReferer: %s\r\nCookie: %s\r\n" % (MARK, MARK, MARK))
        with d.connect() as s:
            s.sendall(("%s / %s\r\n%s\r\n\r\n" % (MARK, MARK, MARK)).encode())
            closed_within(s, 1)
        # `user` only as a hash, the same for the same
        hashes = []
        for user in ("Ursula-" + MARK, "Ursula-" + MARK, "Ulrich-" + MARK, "", None):
            s, h, _ = d.post("/v1/completions",
                             {"prompt": "A", "max_tokens": 1, **({} if user is None else {"user": user})})
            line = d.wait_line(2, message="completion", request_id=h["x-request-id"]) or {}
            hashes.append(line.get("user"))
        check(re.fullmatch("[0-9a-f]{16}", hashes[0] or "") and hashes[0] == hashes[1] and hashes[2] != hashes[0] and
              hashes[4] is None,
              "user in the log: %s" % hashes)
        log = d.stderr()
        equal([x for x in log.splitlines() if MARK.lower() in x.lower()], [], "lines with text of a request")
        check("Ursula" not in log and "Ulrich" not in log, "no user in the log")
        words = [w for w in re.findall(r"[A-Za-z' ]{12,}", text)]
        equal([w for w in words if w in log], [], "no text of completions in the log")


def test_methods_in_the_log():
    """A method is the client's text too: a line for every request, and nothing in it that is no method."""
    with Daemon() as d:
        for i, method in enumerate((b"BREW", b"G\xffT", b"G\x01T", b'G"T', b"\xc3\xa9", b"X" * 9000, b"GET\x1b[2J",
                                    b"DELETE")):
            with d.connect() as s:
                s.sendall(method + b" /v1/models HTTP/1.1\r\nHost: x\r\nX-Request-Id: m%d\r\n\r\n" % i)
                try:
                    status = read_response(s)[0]
                except (OSError, EOFError):
                    status = None
            if not check(status in (None, 400, 405, 414, 431, 501),
                         "method %s: %s" % (short(method)[:60], status)) or status is None:
                continue
            line = d.wait_line(0.5, message="request", request_id="m%d" % i)
            check(line and re.fullmatch("[!-~]{1,32}", line.get("method", "")) and line.get("status") == status,
                  "method %s in the log: %s" % (short(method)[:60], short(line)))
        d.alive()


# --- Limits ---

def test_limits():
    """Below, at and above each limit that an option sets."""
    settings = ("limits.max_n=3", "limits.max_prompts=3", "limits.max_stop=3", "limits.max_stop_bytes=6",
                "limits.max_logprobs=3", "limits.max_window=4", "limits.tol_min=0.002",
                "limits.tol_max=0.2", "limits.max_iter=10", "limits.max_logits_bytes=%d" % (3 * 384 * 4),
                "engine.max_positions=40", "chat.message={role}: {content}\\n")
    V = "invalid_value"
    with Daemon(*settings) as d:
        chat = {"messages": [{"role": "user", "content": "A"}], "max_tokens": 1}
        for path, field, below, at, above in (
                ("/v1/completions", "n", 2, 3, 4), ("/v1/completions", "best_of", 2, 3, 4),
                ("/v1/chat/completions", "n", 2, 3, 4),
                ("/v1/completions", "prompt", ["a"] * 2, ["a"] * 3, ["a"] * 4),
                ("/v1/completions", "prompt", [[70]] * 2, [[70]] * 3, [[70]] * 4),
                ("/v1/completions", "stop", ["#1", "#2"], ["#1", "#2", "#3"], ["#1", "#2", "#3", "#4"]),
                ("/v1/chat/completions", "stop", ["#"] * 2, ["#"] * 3, ["#"] * 4),
                ("/v1/completions", "stop", "x" * 5, "x" * 6, "x" * 7),
                ("/v1/completions", "stop", ["éé"], ["ééé"], ["éééx"]),
                ("/v1/completions", "logprobs", 2, 3, 4), ("/v1/chat/completions", "top_logprobs", 2, 3, 4),
                ("/v1/completions", "logprob_token_ids", [1, 2], [1, 2, 3], [1, 2, 3, 4]),
                ("/v1/completions", "deq.window", 3, 4, 5), ("/v1/completions", "deq.max_iter", 9, 10, 11),
                ("/v1/completions", "deq.tol", 0.0021, 0.002, 0.0019),
                ("/v1/completions", "deq.tol", 0.199, 0.2, 0.201), ("/v1/logits", "deq.window", 3, 4, 5),
                ("/v1/logits", "deq.max_iter", 9, 10, 11),
                ("/v1/logits", "deq.tol", 0.199, 0.2, 0.201),
                ("/v1/chat/completions", "deq.max_iter", 9, 10, 11),
                ("/v1/completions", "cache_salt", "s" * 1023, "s" * 1024, "s" * 1025),
                ("/v1/completions", "cache_salt", "é" * 511, "é" * 512, "é" * 512 + "s")):
            base = {"prompt": "A",
                    "max_tokens": 1} if path == "/v1/completions" else dict(chat) if "chat" in path else {"prompt": "A"}
            if field == "logprob_token_ids":
                base["logprobs"] = 0
            if field == "top_logprobs":
                base["logprobs"] = True
            for what, value, want in (("below", below, 200), ("at", at, 200), ("above", above, 400)):
                body = dict(base, **({"deq": {field[4:]: value}} if field.startswith("deq.") else {field: value}))
                s, _, b = d.request("POST", path, body)
                what = "%s %s %s: %s" % (path, field, what, short(value)[:60])
                if want == 200:
                    equal(s, 200, what + " %s" % short(b))
                else:
                    check_error(s, b, 400, V, field, what)
        for n, want in ((2, 200), (3, 200), (4, 400)):
            s, _, b = d.request("POST", "/v1/logits", {"prompt": [70] * n, "positions": "all"})
            equal(s, 200, "logits of %d positions" % n) if want == 200 else check_error(s, b, 400, V, "positions",
                                                                                        "logits of %d positions" % n)
        for n, most, param in ((20, 19, None), (20, 20, None), (20, 21, "max_tokens"), (39, 1, None),
                               (40, 1, "max_tokens"), (41, 1, "prompt")):
            s, _, b = d.request("POST", "/v1/completions", {"prompt": [70] * n, "max_tokens": most})
            what = "%d and %d tokens of 40" % (n, most)
            if not param:
                equal(s, 200, what)
            elif check_error(s, b, 400, "context_length_exceeded", param, what):
                e = json.loads(b)["error"]
                equal((e["n_prompt_tokens"], e["n_ctx"]), (n, 40), what)
        d.alive()
    with Daemon("limits.max_stop=0", "limits.max_logprobs=0", "limits.max_stop_bytes=1") as d:
        for field, value in (("stop", "a"), ("stop", ["a"]), ("logprobs", 1)):
            s, _, b = d.request("POST", "/v1/completions", {"prompt": "A", "max_tokens": 1, field: value})
            check_error(s, b, 400, V, field, "%s when its limit is 0" % field)
        for field, value in (("stop", []), ("stop", None), ("logprobs", 0)):
            equal(d.post("/v1/completions", {"prompt": "A", "max_tokens": 1, field: value})[0], 200,
                  "%s %r when its limit is 0" % (field, value))
    with Daemon("limits.max_n=16", "engine.max_sequences=4") as d:
        for n, want in ((4, 200), (5, 400)):
            equal(d.post("/v1/completions", {"prompt": "A", "max_tokens": 1, "n": n})[0], want,
                  "n %d with 4 sequences" % n)


def test_limit_of_logit_bias():
    with Daemon(model=os.path.join(ROOT, "models", "stories")) as d:  # its vocabulary is larger than the limit
        for n, want in ((1023, 200), (1024, 200), (1025, 400)):
            s, _, b = d.request("POST", "/v1/completions",
                                {"prompt": "A", "max_tokens": 1, "logit_bias": {str(i): -1 for i in range(n)}})
            equal(s, 200, "logit_bias of %d" % n) if want == 200 else check_error(s, b, 400, "invalid_value",
                                                                                  "logit_bias", "logit_bias of %d" % n)
        for n, want in ((4095, 200), (4096, 200), (4097, 400)):
            s, _, b = d.request("POST", "/v1/completions",
                                {"prompt": "A", "max_tokens": 1, "stop_token_ids": [i % 4096 for i in range(n)]})
            equal(s, 200, "stop_token_ids of %d" % n) if want == 200 else check_error(s, b, 400, "invalid_value",
                                                                                      "stop_token_ids",
                                                                                      "stop_token_ids of %d" % n)


def test_limits_of_the_queue():
    with Daemon("engine.max_sequences=1", "queue.max_tokens=100", "queue.max_requests=4",
                "engine.max_positions=200000") as d:
        def tokens(n):
            """A prompt of n tokens."""
            text = ("\xe9" * n)[:n // 2] + ("~" if n % 2 else "")
            equal(d.post("/tokenize", {"prompt": text})[2]["count"], n, "a prompt of %d tokens" % n)
            return raw_request('{"prompt":"%s","max_tokens":1}' % text)

        with d.connect() as running:
            running.sendall(raw_request(dict(LONG, stream=False)))
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            waiting = [d.connect() for _ in range(3)]
            # 60, 90, 100; the place is taken by an estimate from the body's bytes, so the last is not the smallest
            for i, n in enumerate((60, 30, 10)):
                waiting[i].sendall(tokens(n))
                ok, m = d.wait_metric(lambda m: m["deqd_requests_waiting"] == i + 1, 3)
                check(ok, "%d tokens more fit: %s wait" % (n, m["deqd_requests_waiting"]))
            with d.connect() as s:
                s.sendall(tokens(1))
                status, h, b, _ = read_response(s)
                check_error(status, b, 429, "tokens_queue_full", None, "100 tokens wait, and one more")
        for s in waiting:
            equal(read_response(s)[0], 200, "who waited is served")
            s.close()
        # one request alone may be larger than the queue takes
        s, _, b = d.request("POST", "/v1/completions", {"prompt": [70] * 150, "max_tokens": 1})
        equal(s, 200, "150 tokens when nobody waits")
        # four prompts are four places
        with d.connect() as running:
            running.sendall(raw_request(dict(LONG, stream=False)))
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            with d.connect() as four:
                s, _, b = d.request("POST", "/v1/completions", {"prompt": ["a"] * 5, "max_tokens": 1})
                check_error(s, b, 429, "queue_full", None, "five prompts, four places")
                four.sendall(raw_request({"prompt": ["a"] * 4, "max_tokens": 1}))
                ok, _ = d.wait_metric(lambda m: m["deqd_requests_waiting"] == 4, 3)
                check(ok, "four prompts, four places")
                s, _, b = d.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})
                check_error(s, b, 429, "queue_full", None, "one more")
                running.close()
                status, _, b, _ = read_response(four)
                equal((status, len(json.loads(b)["choices"])), (200, 4), "the four are served")
