"""The malformed-HTTP corpus: tests/http/*.http (format: tests/http/README.md), run over raw sockets and over TLS.

Each case alone, eight at once, and cut into small writes; five good requests cut at every byte. The expected replies
and the fate of the connection are checked, and that a good request is answered at once afterwards. run_corpus(daemon,
connect) runs all of it against any server: connect() returns a fresh connected socket or TLS socket. It prints which
cases are not yet answered as they should be (pytest -s shows it).

Over TLS a body that comes late is cut without the 408, for the watcher of the deadline holds the socket and not the
session: Case.over_tls(). A client that closes its half only is not played there (after close_notify most stacks,
Python's too, read no more)."""
import collections
import glob
import json
import os
import queue
import random
import re
import shutil
import socket
import ssl
import statistics
import struct
import tempfile
import threading
import time

from lib import (ERROR_TYPES, ROOT, SLOW, check, closed_within, equal, raw_request, read_response, run, shared, short,
                 skip)

DEADLINE = 0.7  # seconds, of headers and of bodies
IDLE = 1.0
SETTINGS = ("server.header_timeout_ms=700", "server.body_timeout_ms=700", "server.idle_timeout_ms=1000",
            "server.max_connections=1000")
AT_ONCE = 0.35  # a connection that ends sooner than this was closed, later: waited until a deadline
# the deadline, idle time too when a request's first bytes came along with the one before, and the noise of a busy
# machine
PATIENCE = DEADLINE + IDLE + 1.5 * max(SLOW, 1)
GOOD_WITHIN = AT_ONCE * SLOW
GOOD = {"prompt": "A", "max_tokens": 1, "temperature": 0}
PROBE = b"GET /version HTTP/1.1\r\nHost: x\r\nX-Request-Id: probe\r\n\r\n"

TIMEOUT = (408, "request_timeout", None)
NOTHING = [(None, None, None)]


class Case(collections.namedtuple("Case", "name data expect future")):  # expect, future: (replies, fates) or None
    def late(self):
        """Something is missing that the server waits for, until a deadline."""
        return "waits" in self.expect[1] or TIMEOUT in self.expect[0][-1]

    def over_tls(self):
        """A late body is cut without the 408."""
        def cut(expect):
            if not expect or TIMEOUT not in expect[0][-1]:
                return expect
            replies, fates = expect
            others = [a for a in replies[-1] if a != TIMEOUT]
            if others:
                return replies[:-1] + [others + NOTHING], fates | {"waits"}
            return replies[:-1] or [NOTHING], {"waits"}
        return self._replace(expect=cut(self.expect), future=cut(self.future))


# --- The files ---

def unescape(text, words, length):
    """The bytes of a line: \\r \\n \\t \\\\ \\xHH, \\{text*N}, \\{length} and \\{hex} (each with +N or -N),
    \\{word}."""
    out, at = [], 0
    for m in re.finditer(r"\\(?:x([0-9a-fA-F]{2})|([rnt\\])|\{([^}]*)\}|)", text):
        out.append(text[at:m.start()].encode("ascii"))
        at = m.end()
        code, letter, special = m.groups()
        if code:
            out.append(bytes([int(code, 16)]))
        elif letter:
            out.append({"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}[letter])
        elif special is None:
            raise ValueError("not an escape: %s" % short(text[m.start():m.start() + 20]))
        elif special in words:
            out.append(words[special])
        elif n := re.match(r"^(length|hex)([+-]\d+)?$", special):
            out.append(("%d" if n.group(1) == "length" else "%x").__mod__(length + int(n.group(2) or 0)).encode())
        elif n := re.match(r"^(.*)\*(\d+)$", special):
            out.append(unescape(n.group(1), words, length) * int(n.group(2)))
        else:
            raise ValueError("unknown: \\{%s}" % special)
    return b"".join(out) + text[at:].encode("ascii")


def parse_expect(text):
    """"200@one 400/invalid_json closed" -> ([[alternatives (status, code, id)] per reply], {fates})"""
    *replies, fates = text.split()
    if set(fates.split("|")) - {"closed", "open", "waits"} or not replies:
        raise ValueError("not an expectation: " + text)
    parsed = []
    for r in replies:
        alternatives = []
        for a in r.split("|"):
            m = re.match(r"^(none|\d{3})(?:/([a-z_]+))?(?:@([a-z0-9-]+))?$", a)
            if not m:
                raise ValueError("not a reply: " + a)
            alternatives.append((None if m.group(1) == "none" else int(m.group(1)), m.group(2), m.group(3)))
        parsed.append(alternatives)
    return parsed, set(fates.split("|"))


def read_cases(path):
    cases, words, current = [], {}, None

    def finish():
        if not current:
            return
        parts = current["parts"]
        data, done, run = [], [], 0  # run: bytes of the next run of "+" lines
        for kind, text in reversed(parts):
            if kind == "+":
                piece = unescape(text, words, 0)
                run = run + len(piece) if done and done[-1] == "+" else len(piece)
            else:
                piece = unescape(text, words, run)
            done.append(kind)
            data.append(piece)
        expect = current.get("expect")
        if not expect or not (parts or current["name"].endswith("nothing at all")):
            raise ValueError("case without expect or bytes: " + current["name"])
        cases.append(Case(current["name"], b"".join(reversed(data)), expect, current.get("expect-future")))

    with open(path, encoding="ascii", newline="\n") as f:
        for number, line in enumerate(f, 1):
            line = line[:-1]
            try:
                if line.endswith(" ") or "\t" in line or "\r" in line:
                    raise ValueError("a blank at the end, a tab or a carriage return: write \\x20, \\t, \\r")
                if not line or line.startswith("#"):
                    continue
                if line.startswith("let "):
                    name, text = line[4:].split(" = ", 1)
                    words[name] = unescape(text, words, 0)
                elif line.startswith("case: "):
                    finish()
                    current = {"name": os.path.basename(path)[:-5] + ": " + line[6:], "parts": []}
                elif line.startswith(("expect: ", "expect-future: ")):
                    key, text = line.split(": ", 1)
                    current[key] = parse_expect(text)
                elif line[:2] in ("| ", "+ "):
                    current["parts"].append((line[0], line[2:]))
                else:
                    raise ValueError("not a line of a case")
            except Exception as e:
                raise ValueError("%s:%d: %s" % (path, number, e)) from e
    finish()
    return cases


def all_cases():
    cases = [c for path in sorted(glob.glob(os.path.join(ROOT, "tests", "http", "*.http"))) for c in read_cases(path)]
    twice = [n for n, k in collections.Counter(c.name for c in cases).items() if k > 1]
    if twice:
        raise ValueError("cases of the same name: %s" % twice)
    return cases


# --- One case ---

class Tap:
    """A socket's receiving half that remembers everything."""

    def __init__(self, sock):
        self.sock, self.seen = sock, b""

    def recv(self, n):
        got = self.sock.recv(n)
        self.seen += got
        return got

    def settimeout(self, seconds):
        self.sock.settimeout(seconds)


def send(sock, data, cuts):
    """cuts: None for one write, 1 for single bytes, or a random.Random. A server that has refused already does not read
    on: no error."""
    try:
        if cuts is None:
            sock.sendall(data)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        at = 0
        while at < len(data):
            n = 1 if cuts == 1 else cuts.choice((1, 2, 3, 7, 40, 400))
            sock.sendall(data[at:at + n])
            at += n
            if cuts != 1:
                time.sleep(cuts.choice((0, 0.0005, 0.002)))
    except OSError:
        pass


def take_reply(tap, rest, head_only, wants_100=False):
    """One reply: ((status, headers, body), rest); None when the connection ends or stays silent instead."""
    try:
        while len(rest) < 13:
            got = tap.recv(65536)
            if not got:
                return (("part", {}, rest) if rest else None), b""
            rest += got
        if rest.startswith(b"HTTP/1.1 100 "):  # may come or not when the body has come already
            while b"\r\n\r\n" not in rest:
                rest += tap.recv(65536) or b"\r\n\r\n"
            rest = rest.split(b"\r\n\r\n", 1)[1]
            return ((100, {}, b""), rest) if wants_100 else take_reply(tap, rest, head_only)
        status, headers, body, rest = read_response(tap, rest, head_only)
        # a bug of libmicrohttpd: the head twice. The body is as much longer as the second head
        if body.startswith(b"HTTP/1.1 "):
            twice = (body + rest).index(b"\r\n\r\n") + 4
            while len(rest) < twice:
                rest += tap.recv(65536) or bytes(twice)
            body, rest = body + rest[:twice], rest[twice:]
        return (status, headers, body), rest
    except EOFError:
        return ("part", {}, tap.seen), b""
    except socket.timeout:
        return ("silence", {}, b""), rest
    except OSError:
        return (("part", {}, rest) if rest else None), b""


def wrong_reply(got, alternatives):
    """None, or what is wrong with a reply."""
    status, headers, body = got or (None, {}, b"")
    said = "none" if got is None else "%s %r" % (status, body[:160])
    for want, code, request_id in alternatives:
        if want != status or (request_id and headers.get("x-request-id") != request_id):
            continue
        if code == "head" or status is None or status < 400:
            return None
        ours = headers.get("content-type", "").startswith("application/json")
        if not code or code == "twice":
            if not ours and body.startswith(b"HTTP/1.1 ") == (code == "twice"):
                return None
            continue
        try:
            o = json.loads(body.decode("utf-8"))
            e = o["error"]
            more = {"n_prompt_tokens", "n_ctx"} if e["code"] == "context_length_exceeded" else set()
            if (set(o) == {"error"} and set(e) == {"message", "type", "param", "code"} | more and
                e["type"] == ERROR_TYPES.get(status, e["type"]) and
                    isinstance(e["message"], str) and e["message"] and
                    (e["param"] is None or isinstance(e["param"], str)) and
                    e["code"] == code):
                return None
        except (ValueError, KeyError, TypeError):
            pass
    return "got %s%s" % (said, " id %s" % headers["x-request-id"] if "x-request-id" in headers else "")


def play(*args, **more):
    """As play_once. What ends at once and what ends at a deadline are told apart by time, and a busy machine only ever
    adds: the best of some tries."""
    for _ in range(5):
        wrong = play_once(*args, **more)
        if wrong is None or "(ended after" not in wrong:
            break
    return wrong


def play_once(connect, data, expect, cuts=None, behind=b"", end=None):
    """Sends a case's bytes; returns what is wrong with the replies or the connection's fate, or None. end: what to do
    to the socket after sending."""
    replies, fates = expect
    with connect() as s:
        s.settimeout(PATIENCE)
        tap, rest = Tap(s), b""
        send(s, data + behind, cuts)
        if end:
            end(s)
        sent = time.monotonic()
        for i, alternatives in enumerate(replies):
            if alternatives == NOTHING:
                continue  # the fate tells: nothing may come
            got, rest = take_reply(tap, rest, alternatives[0][1] == "head", alternatives[0][0] == 100)
            if error := wrong_reply(got, alternatives):
                return "reply %d: %s" % (i + 1, error)
            if got is None:
                if i + 1 < len(replies):
                    return "no reply %d" % (i + 2)
                break
        if rest:
            return "bytes after the last reply: %r" % rest[:200]
        if "open" in fates:
            send(s, PROBE, None)
            got, _ = take_reply(tap, b"", False)
            alive = got and got[0] == 200 and got[1].get("x-request-id") == "probe"
            fate = "open" if alive else "closed" if got is None else "not open: %s" % short(got)
            return None if fate in fates else "the connection: " + fate
        begin, before = time.monotonic() if got_any(replies) else sent, len(tap.seen)
        s.settimeout(PATIENCE if "waits" in fates else 2 * AT_ONCE)
        try:
            while time.monotonic() < begin + PATIENCE and tap.recv(65536):
                pass
        except socket.timeout:
            return "the connection: open after %.2f s" % (time.monotonic() - begin)
        except OSError:
            pass
        took = time.monotonic() - begin
        if more := re.sub(rb"^HTTP/1\.1 100 [^\r\n]*\r\n\r\n", b"", tap.seen[before:]):
            return "more than the replies expected: %r" % more[:300]
        fate = "closed" if took < AT_ONCE else "waits"
        return None if fate in fates else "the connection: %s (ended after %.2f s)" % (fate, took)


def half_close(sock):
    sock.shutdown(socket.SHUT_WR)


def got_any(replies):
    return replies[0] != NOTHING


class Corpus:
    """Plays cases against one server and keeps the time of the good requests in between."""

    def __init__(self, connect):
        self.connect, self.times, self.pending, self.lock = connect, [], set(), threading.Lock()
        with connect() as s:
            self.tls = isinstance(s, ssl.SSLSocket)

    def good(self, name):
        """A good request on a connection of its own is answered at once, in the best of some tries: on a busy machine
        one measurement may be anybody's fault."""
        for last in (False, False, False, False, True):
            begin = time.monotonic()
            try:
                with self.connect() as s:
                    s.settimeout(PATIENCE)
                    s.sendall(raw_request(GOOD))
                    status = read_response(s)[0]
            except (OSError, EOFError, ValueError) as e:
                status = repr(e)
            took = time.monotonic() - begin
            if status == 200 and took <= GOOD_WITHIN or last:
                break
        with self.lock:
            self.times.append(took)
        check(status == 200 and took <= GOOD_WITHIN,
              "a good request after %s: %s in %.0f ms" % (name, status, 1000 * took))

    def case(self, c, cuts=None, behind=b"", end=None, after=True):
        """One case. A wrong fate is tried twice, because whether a connection was closed or ran into its deadline is
        told by a clock; a wrong reply is not."""
        for _ in range(2):
            wrong = play(self.connect, c.data, c.expect, cuts, behind, end)
            if wrong and c.future:  # what should be, once the server is mended
                wrong = wrong if play(self.connect, c.data, c.future, cuts, behind, end) else None
            elif c.future:
                with self.lock:
                    self.pending.add(c.name)
            if not wrong or not wrong.startswith("the connection: "):
                break
        check(not wrong, "%s%s: %s; sent %s" %
              (c.name, {None: "", 1: ", byte by byte"}.get(cuts, ", cut at random") +
               (", with a request behind" if behind else ""),
                                               wrong, short(c.data)))
        if after:
            self.good(c.name)

    def together(self, jobs, threads):
        """Calls all jobs, so many at once."""
        q = queue.SimpleQueue()
        for j in jobs:
            q.put(j)

        def work():
            while True:
                try:
                    job = q.get_nowait()
                except queue.Empty:
                    return
                try:
                    job()
                except Exception as e:  # a thread's exception would be lost
                    check(False, "%r" % e)

        ts = [threading.Thread(target=work) for _ in range(threads)]
        for t in ts:
            t.start()
        for t in ts:
            t.join()

    def alone(self, cases):
        """One at a time; only those that wait for their deadline wait together. What stands behind a refused request is
        never answered."""
        self.together([lambda c=c: self.case(c, after=False) for c in cases if c.late()], 64)
        for c in cases:
            if c.late():
                continue
            self.case(c)
            if c.expect[1] == {"closed"}:
                self.case(c, behind=raw_request(GOOD, extra="X-Request-Id: behind\r\n"), after=False)
        self.good("the cases that wait")

    def eight_at_once(self, cases):
        cases = cases[:]
        random.Random(1).shuffle(cases)
        self.together([lambda c=c: self.case(c) for c in cases if len(c.data) <= LARGE], 8)
        # the server's HTTP threads tokenize: two of these at once keep both from everybody else, for tenths of a second
        self.together([lambda c=c: self.case(c) for c in cases if len(c.data) > LARGE], 2)

    def cut(self, cases):
        """In writes of one byte and of random sizes: the same verdict."""
        cases = [c for c in cases if len(c.data) <= CUT_MAX]
        self.together([lambda c=c, cuts=cuts: self.case(c, cuts=cuts, after=False)
                       for i, c in enumerate(cases) for cuts in (1, random.Random(i))], 8)
        self.good("cut cases")

    def truncated(self):
        """Good requests, ended at every byte: no answer but the deadline; and no trace of them afterwards, whether the
        client stays, half-closes or resets."""
        nothing = parse_expect("none waits")
        late = parse_expect("408/request_timeout closed")
        gone = parse_expect("none|400|408/request_timeout closed|waits")
        jobs = []
        for name, data in TRUNCATED:
            for i in range(len(data)):
                c = Case("%s, the first %d bytes" % (name, i), data[:i],
                         nothing if b"\r\n\r\n" not in data[:i] else late, None)
                if name == "Expect" and b"\r\n\r\n" in data[:i] and i < len(data) - len(_BODY) + 1:
                    c = c._replace(expect=([[(100, None, None)]] + late[0], late[1]))
                stays = c.over_tls() if self.tls else c
                jobs.append(lambda c=stays: self.case(c, after=False))
                if not self.tls:
                    ended = c._replace(name=c.name + ", half-closed", expect=gone)
                    jobs.append(lambda c=ended: self.case(c, end=half_close, after=False))
                jobs.append(lambda c=c: self.reset(c.data))
            check(play(self.connect, data, parse_expect("200 open")) is None, name + ": whole, it is answered")
        self.together(jobs, 192)
        self.good("truncated requests")
        if self.tls:
            skip("half-closed requests: a TLS client cannot send the end and read on")

    def reset(self, data):
        with self.connect() as s:
            send(s, data, None)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def nothing_left(self):
        want = ("deqd_requests_running", "deqd_requests_waiting", "deqd_http_connections")
        until = time.monotonic() + 5 * max(SLOW, 1)
        while True:
            with self.connect() as s:
                s.settimeout(PATIENCE)
                s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                text = read_response(s)[2].decode("utf-8")
            m = {k: float(re.search("^%s (.*)$" % k, text, re.M).group(1)) for k in want}
            if m[want[0]] == 0 and m[want[1]] == 0 and m[want[2]] <= 2 or time.monotonic() > until:
                break
            time.sleep(0.05)
        check(m[want[0]] == 0 and m[want[1]] == 0 and m[want[2]] <= 2,
              "no request and no connection is left over: %s" % m)

    def report(self):
        # a median of one or two is whatever else this machine did in that moment
        check(len(self.times) < 5 or statistics.median(self.times) <= GOOD_WITHIN / 2,
              "the median good request takes %.1f ms" % (1000 * statistics.median(self.times)))
        print("    good requests: %d, median %.1f ms, longest %.1f ms" % (len(self.times),
                                                                          1000 * statistics.median(self.times),
                                                                          1000 * max(self.times)))
        for name in sorted(self.pending):
            print("    not yet as specified: " + name)


CUT_MAX = 4096
LARGE = 100000
_BODY = json.dumps(GOOD).encode()
TRUNCATED = (
    ("GET", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\nConnection: keep-alive\r\n\r\n"),
    ("POST", raw_request(GOOD)),
    ("stream", raw_request(dict(GOOD, stream=True, stream_options={"include_usage": True}),
                           extra="Accept: text/event-stream\r\n")),
    ("chunked", b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
                b"chunked\r\n\r\n5;a=b\r\n{\"pro\r\n9\r\nmpt\":\"A\"}\r\n0\r\nX-T: y\r\n\r\n"),
    ("Expect", raw_request(GOOD, extra="Expect: 100-continue\r\n")),
)


def run_corpus(daemon, connect, parts=("alone", "eight_at_once", "cut", "truncated")):
    """Everything, against the server behind connect(), with deadlines of 0.7 s and idle_timeout_ms 1000. daemon: its
    process, to see that it lives."""
    cases, corpus = all_cases(), Corpus(connect)
    if corpus.tls:
        cases = [c.over_tls() for c in cases]
    for part in parts:
        if part == "truncated":
            corpus.truncated()
        else:
            getattr(corpus, part)(cases)
        corpus.nothing_left()
        check(daemon.p.poll() is None, "the daemon lives")
    corpus.report()


def plain(*parts):
    d = shared(*SETTINGS)
    run_corpus(d, lambda: d.connect(5), parts)


_pair = []  # the temporary directory, while the tests run


def certificate():
    """(certificate, key): files of a self-signed pair; None, and a skip, when it cannot be made."""
    if not shutil.which("openssl"):
        skip("there is no openssl to make a certificate with")
        return None
    if not _pair:
        folder = tempfile.TemporaryDirectory()
        cert, key = (os.path.join(folder.name, n) for n in ("cert.pem", "key.pem"))
        code, _, err = run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                            "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
                            "-keyout", key, "-out", cert])
        if code:
            raise RuntimeError("openssl: " + err)
        _pair.append((folder, cert, key))
    return _pair[0][1:]


def tls_daemon():
    """(daemon, connect), or None."""
    pair = certificate()
    if not pair:
        return None
    d = shared(*SETTINGS, "tls.cert=" + pair[0], "tls.key=" + pair[1])
    context = ssl.create_default_context(cafile=pair[0])
    # the deadline of headers runs from the first byte: two hundred handshakes at once would all miss it
    turns = threading.Semaphore(2)

    def connect():
        with turns:
            s = d.connect(5)
            # else the request waits 40 ms for the handshake's last acknowledgement
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                return context.wrap_socket(s, server_hostname="localhost")
            except BaseException:
                s.close()
                raise

    return d, connect


def encrypted(*parts):
    if both := tls_daemon():
        run_corpus(*both, parts)


def test_number_of_cases():
    check(len(all_cases()) >= 500, "%d cases, expected at least 500" % len(all_cases()))


def test_alone():
    plain("alone")


def test_eight_at_once():
    plain("eight_at_once")


def test_cut_into_small_writes():
    plain("cut")


def test_truncated_at_every_byte():
    plain("truncated")


def test_tls_alone():
    encrypted("alone")


def test_tls_eight_at_once():
    encrypted("eight_at_once")


def test_tls_cut_into_small_writes():
    encrypted("cut")


def test_tls_truncated_at_every_byte():
    encrypted("truncated")


def test_tls_half_a_handshake():
    """The client's hello cut at every byte, and what is no hello: not a byte of HTTP, and the end by
    server.header_timeout_ms."""
    both = tls_daemon()
    if not both:
        return
    d, connect = both
    corpus, out = Corpus(connect), ssl.MemoryBIO()
    half = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    try:
        half.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello = out.read()

    def play_raw(name, data, at_once):
        with d.connect(5) as s:
            send(s, data, None)
            tap = Tap(s)
            took = closed_within(tap, PATIENCE)
            check(took is not None and (took >= AT_ONCE or at_once), "%s: ended after %s s" % (name, took))
            check(b"HTTP" not in tap.seen, "%s: no HTTP in the clear: %r" % (name, tap.seen[:100]))

    jobs = [lambda n=n: play_raw("a hello's first %d bytes" % n, hello[:n], False) for n in range(len(hello) + 1)]
    jobs += [lambda b=b: play_raw("a request in the clear", b, True) for b in (PROBE, raw_request(GOOD),
                                                                               b"GET / HTTP/1.0\r\n\r\n")]
    jobs += [lambda n=n: play_raw("a hello with byte %d flipped" % n,
                                  hello[:n] + bytes([hello[n] ^ 0xff]) + hello[n + 1:],
                                  True) for n in range(len(hello))]
    corpus.together(jobs, 192)
    corpus.good("half handshakes")
    corpus.nothing_left()
    equal(d.p.poll(), None, "the daemon lives")
