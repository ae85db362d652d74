"""What the end-to-end tests share: starting the daemon, talking to it, counting checks.

Environment: DEQ_BUILD, the directory of the binaries (default build); DEQ_SLOW, a factor on every time limit (default
1, or 8 when the directory's name says that it is a sanitizer's)."""
import contextlib
import copy
import http.client
import importlib
import json
import math
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("DEQ_BUILD", "build"))
DEQD = os.path.join(BUILD, "deqd")
DEQ = os.path.join(BUILD, "deq")
TINY = os.path.join(ROOT, "tests", "golden", "tiny")
SANITIZED = "san" in os.path.basename(os.path.normpath(BUILD))
SLOW = float(os.environ.get("DEQ_SLOW", "8" if SANITIZED else "1"))

# Stands in prompts, and must never be seen in a log.
MARK = "Zqxjvprompt"
SANITIZER_WORDS = ("Sanitizer", "runtime error:", "WARNING: ThreadSanitizer", "LeakSanitizer")

# --- Checks ---

counts = {"passed": 0, "failed": 0, "skipped": 0}
_lock = threading.Lock()
_now = ["?"]


def _print(kind, text):
    print("%s %s: %s" % ("FAIL" if kind == "failed" else "SKIP", _now[0], text), flush=True)


# Is told of what failed or was skipped, from any thread; pytest's report takes its place (conftest.py).
tell = [_print]


def note(kind, text):
    with _lock:
        counts[kind] += 1
        if kind != "passed":
            asks = sys._getframe(1)
            while asks.f_code.co_filename == __file__ and asks.f_back:
                asks = asks.f_back
            place = "%s:%d" % (os.path.relpath(asks.f_code.co_filename, ROOT), asks.f_lineno)
            tell[0](kind, "%s: %s" % (place, text))


def check(ok, text):
    """One check. text says what was expected; it is printed only when the check fails."""
    note("passed" if ok else "failed", text)
    return bool(ok)


def equal(got, want, text):
    return check(got == want, "%s: got %s, expected %s" % (text, short(got), short(want)))


def close(got, want, tol, text):
    return check(abs(got - want) <= tol, "%s: got %r, expected %r within %g" % (text, got, want, tol))


def skip(reason):
    note("skipped", reason)


def short(x):
    s = repr(x)
    return s if len(s) <= 400 else s[:250] + " ... " + s[-140:]


# How long is waited for what must come: a bound on a hang, not on speed. Whatever a test tells apart by time must
# differ from it by more.
PATIENCE_S = 60


def stop_shared():
    """Stops and checks the daemons that several tests used."""
    for d in list(_shared.values()):
        d.stop()


def stop_forgotten():
    """Kills the daemons that a test started and left, which nothing was checked of."""
    for p in [p for p in _started if p.poll() is None]:
        p.kill()
        p.wait()
        note("failed", "a daemon was left running: %s" % " ".join(p.args))
    _started.clear()


def main(title, modules=("__main__",), parts=()):
    """For suites with a program of their own: runs the test_* functions of the modules in order, those whose
    module.name contains one of the parts, prints one line of totals and returns the exit code."""
    threading.excepthook = lambda raised: note("failed", "exception in a thread\n" + "".join(
        traceback.format_exception(raised.exc_type, raised.exc_value, raised.exc_traceback)))
    for name in modules:
        module = importlib.import_module(name)
        for test, fn in list(vars(module).items()):
            _now[0] = "%s.%s" % (name, test)
            if test.startswith("test_") and callable(fn) and (not parts or any(p in _now[0] for p in parts)):
                try:
                    fn()
                except (Exception, SystemExit):
                    note("failed", "exception\n" + traceback.format_exc())
        _now[0] = name + ", its daemons"
        stop_shared()
        stop_forgotten()
    tail = ", %d skipped" % counts["skipped"] if counts["skipped"] else ""
    print("%s: %d passed, %d failed%s" % (title, counts["passed"], counts["failed"], tail), flush=True)
    return 1 if counts["failed"] or not counts["passed"] + counts["skipped"] else 0


# --- Processes ---

_started = []


def clean_env(extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith("DEQD_")}
    env.setdefault("ASAN_OPTIONS", "detect_leaks=1")
    env.update(extra or {})
    return env


def run(args, env=None, timeout=300, **more):
    """Runs a program to its end: (exit code, stdout, stderr) as text."""
    p = subprocess.run(args, env=clean_env(env), capture_output=True, timeout=timeout * SLOW, **more)
    out, err = p.stdout.decode("utf-8", "replace"), p.stderr.decode("utf-8", "replace")
    for word in SANITIZER_WORDS:
        if word in err:
            note("failed", "%s: sanitizer report:\n%s" % (os.path.basename(args[0]), err[:4000]))
            break
    return p.returncode, out, err


class _Http(http.client.HTTPConnection):
    """Over whatever Daemon.connect opens: TCP, TLS or a unix socket."""

    def __init__(self, daemon, timeout):
        super().__init__(daemon.host, daemon.port, timeout=timeout * SLOW)
        self.daemon, self.seconds = daemon, timeout

    def connect(self):
        self.sock = self.daemon.connect(self.seconds)


class Daemon:
    """deqd on a free port; requests without a seed repeat. Settings are passed as --set key=value. tls: the
    ssl.SSLContext to connect with; key: sent with every request."""

    def __init__(self, *settings, model=TINY, args=(), env=None, listen="127.0.0.1:0", tls=None, key=None):
        argv = [DEQD, "--model", model, "--listen", listen, "--set", "server.drain_delay_ms=0", "--set",
                "sampling.seed=0"]
        for s in settings:
            argv += ["--set", s]
        self.log = tempfile.TemporaryFile()
        self.p = subprocess.Popen(argv + list(args), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=self.log, env=clean_env(env))
        _started.append(self.p)
        self.checked = False
        until = time.monotonic() + PATIENCE_S * SLOW
        self.first = None
        while not self.first:
            for line in self.stderr().split("\n")[:-1]:
                if '"message":"listening"' in line:
                    self.first = json.loads(line)
            if not self.first and (self.p.poll() is not None or time.monotonic() > until):
                self.p.kill()
                raise RuntimeError("deqd did not start: %s" % self.stderr())
            time.sleep(0.005)
        self._aim(self.first["address"])
        self.tls, self.key = tls, key

    def _aim(self, address):
        if address.startswith("unix:"):
            self.host, self.port, self.unix = "localhost", 80, address[5:].split(",mode=")[0]
        else:
            self.host, port = address.rsplit(":", 1)
            self.port, self.unix = int(port), None

    def admin(self):
        """The same daemon at its server.admin_listen; not for stopping it."""
        other = copy.copy(self)
        other._aim(self.first["admin_address"])
        other.tls = None
        return other

    def stderr(self):
        self.log.flush()
        return os.pread(self.log.fileno(), 1 << 26, 0).decode("utf-8")

    def lines(self):
        """The log as it is by now; a line that is being written is left out."""
        return [json.loads(x) for x in self.stderr().split("\n")[:-1] if x]

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        if kind:
            with contextlib.suppress(Exception):
                self.p.kill()
                self.p.wait(10)
            err = self.stderr()
            if any(w in err for w in SANITIZER_WORDS):
                note("failed", "sanitizer report:\n" + err[:4000])
            return False
        self.stop()

    def stop(self, code=0, timeout=PATIENCE_S):
        """SIGTERM, exit code, and everything that every log must fulfil."""
        for k, v in list(_shared.items()):
            if v is self:
                del _shared[k]
        if self.checked:
            return
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
        try:
            got = self.p.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait(10)
            note("failed", "deqd did not end %g s after SIGTERM" % (timeout * SLOW))
            got = None
        self.check_end(got, code)

    def check_end(self, got, code=0):
        self.checked = True
        equal(got, code, "exit code after SIGTERM")
        text = self.stderr()
        check(not any(w in text for w in SANITIZER_WORDS), "no sanitizer report:\n" + text[:4000])
        bad = []
        for line in text.split("\n"):
            try:
                o = json.loads(line) if line else {"time": 1, "level": 1, "message": 1}
                if not isinstance(o, dict) or not {"time", "level", "message"} <= set(o):
                    bad.append(line)
            except ValueError:
                bad.append(line)
        bug = text.find('"message":"bug"')
        check(bug < 0, "every invariant held: " + short(text[bug:][:300]))
        check(not bad, "every line of the log is a JSON object with time, level, message: %s" % short(bad))
        check(text.endswith("\n"), "the log ends with a whole line")
        check(MARK not in text and MARK.lower() not in text.lower(), "no text of prompts in the log")
        if code == 0:
            equal(json.loads(text.strip().split("\n")[-1])["message"], "stopped", "the last line of the log")

    # --- HTTP ---

    def connect(self, timeout=30):
        if self.unix:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(timeout * SLOW)
            s.connect(self.unix)
        else:
            s = socket.create_connection((self.host, self.port), timeout=timeout * SLOW)
        return self.tls.wrap_socket(s, server_hostname=self.host) if self.tls else s

    def http(self, timeout=60):
        return _Http(self, timeout)

    def request(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers with lower-case names, body as bytes)"""
        c = self.http(timeout)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            if isinstance(body, str):
                body = body.encode("utf-8")
            h = {"Content-Type": "application/json"} if body is not None else {}
            if self.key:
                h["Authorization"] = "Bearer " + self.key
            h.update(headers or {})
            c.connect()
            with contextlib.suppress(ConnectionError):  # as in send
                c.request(method, path, body=body, headers=h)
            r = c.getresponse()
            return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
        finally:
            c.close()

    def post(self, path, body, headers=None, timeout=60):
        """(status, headers, decoded JSON)"""
        s, h, b = self.request("POST", path, body, headers, timeout)
        return s, h, json.loads(b.decode("utf-8"))

    def get(self, path):
        s, h, b = self.request("GET", path)
        return s, h, json.loads(b.decode("utf-8"))

    def complete(self, prompt="The", **fields):
        """A completion that must succeed; greedy unless told otherwise."""
        body = {"prompt": prompt, "temperature": 0}
        body.update(fields)
        s, _, o = self.post("/v1/completions", body)
        if s != 200:
            raise RuntimeError("completion %s: %d %s" % (short(body), s, o))
        return o

    def stream(self, prompt="The", **fields):
        """(status, headers, events without [DONE], whether [DONE] came last)"""
        body = {"prompt": prompt, "temperature": 0, "stream": True}
        body.update(fields)
        s, h, b = self.request("POST", "/v1/completions", body)
        events, done = parse_sse(b)
        return s, h, events, done

    def alive(self, text="answers afterwards"):
        """A good request gets a good answer."""
        try:
            s, _, o = self.post("/v1/completions", {"prompt": "A", "max_tokens": 1, "temperature": 0})
            return check(s == 200 and o["usage"]["completion_tokens"] == 1, "%s: %d %s" % (text, s, short(o)))
        except Exception as e:
            return check(False, "%s: %r" % (text, e))

    def metrics(self):
        s, _, b = self.request("GET", "/metrics")
        if s != 200:
            raise RuntimeError("/metrics: %d" % s)
        return parse_metrics(b.decode("utf-8"))

    def wait_line(self, seconds, **fields):
        """The first line of the log with these fields (a regular expression or a value each), or None after seconds, or
        PATIENCE_S."""
        until = time.monotonic() + max(seconds, PATIENCE_S) * SLOW
        while True:
            for line in self.lines():
                if all(k in line and (v.search(str(line[k])) if isinstance(v, re.Pattern) else line[k] == v) for k,
                       v in fields.items()):
                    return line
            if time.monotonic() > until:
                return None
            time.sleep(0.01)

    def wait_metric(self, cond, seconds):
        """Polls /metrics until cond(values) holds, for seconds or PATIENCE_S; returns (held, the last values)."""
        until = time.monotonic() + max(seconds, PATIENCE_S) * SLOW
        while True:
            m = self.metrics()
            if cond(m):
                return True, m
            if time.monotonic() > until:
                return False, m
            time.sleep(0.02)

    def at_rest(self):
        """The metrics when nothing runs, waits or holds pages: an answer may be there before its last step is over."""
        held, m = self.wait_metric(lambda m: m["deqd_requests_running"] == m["deqd_requests_waiting"] ==
                                   m["deqd_rows_open"] == m["deqd_cache_pages_used"] == 0 and
                                   m["deqd_step_seconds_count"] == m["deqd_steps_total"], PATIENCE_S)
        check(held, "in the end nothing runs, waits or holds pages")
        return m


def slow_model(path):
    """A model whose loading takes a moment: tiny's tokenizer, zeros for weights."""
    hidden, heads = (512, 8) if SANITIZED else (1024, 8)
    shutil.copytree(TINY, path)
    with open(os.path.join(path, "config.json")) as f:
        config = json.load(f)
    del config["predictor_hidden_size"]
    config.update(hidden_size=hidden, num_attention_heads=heads, head_dim=hidden // heads, intermediate_size=4 * hidden)
    config["deq"]["warm_start"] = "previous"
    sizes = {32: hidden, 128: 4 * hidden, 2: heads, 16: hidden // heads}
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f)
    weights = os.path.join(path, "model.safetensors")
    with open(weights, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    at = 0
    for name in list(header):
        if name.startswith("predictor."):
            del header[name]
        elif name != "__metadata__":
            shape = [(3 * hidden if "qkv" in name else 4 * hidden) if x == 96 else sizes.get(x, x)
                     for x in header[name]["shape"]]
            header[name].update(shape=shape, data_offsets=[at, at + 4 * math.prod(shape)])
            at += 4 * math.prod(shape)
    h = json.dumps(header).encode()
    h += b" " * (-len(h) % 8)
    with open(weights, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h)
        f.truncate(8 + len(h) + at)
    return path


_shared = {}


def shared(*settings):
    """A daemon that several tests use; it is stopped and checked after the last test."""
    if settings not in _shared:
        _shared[settings] = Daemon(*settings)
    return _shared[settings]


def usual():
    return shared("limits.max_logprobs=1000", "limits.max_window=64")


# --- Parsers ---

def parse_sse(body):
    """The events of a body, strictly: "data: " and one JSON or [DONE], a blank line, LF; comments are dropped."""
    text = body.decode("utf-8")  # strict: every byte belongs to a whole character
    events, done = [], False
    if not text.endswith("\n\n"):
        raise ValueError("the stream does not end with a blank line: %r" % text[-80:])
    if "\r" in text:
        raise ValueError("the stream holds a carriage return")
    for block in text[:-2].split("\n\n"):
        if block.startswith(":") and "\n" not in block:
            continue
        if done:
            raise ValueError("an event after [DONE]: %r" % block)
        if "\n" in block or not block.startswith("data: ") or block.startswith("data:  "):
            raise ValueError("not one data line: %r" % block)
        if block == "data: [DONE]":
            done = True
        else:
            events.append(json.loads(block[6:]))
    return events, done


def parse_named_sse(body):
    """[(name, JSON)] of a stream of /v1/responses, strictly: two lines each, the name also in the data, numbers from 0
    on."""
    text = body.decode("utf-8")
    if not text.endswith("\n\n") or "\r" in text:
        raise ValueError("the stream does not end with a blank line, or holds a carriage return: %r" % text[-80:])
    events = []
    for block in text[:-2].split("\n\n"):
        if block.startswith(":") and "\n" not in block:
            continue
        m = re.fullmatch(r"event: ([a-z_.]+)\ndata: (\{.*\})", block)
        if not m:
            raise ValueError("not a named event: %r" % block)
        events.append((m[1], json.loads(m[2])))
        if (events[-1][1]["type"], events[-1][1]["sequence_number"]) != (m[1], len(events) - 1):
            raise ValueError("name or number: %r" % block)
    return events


def events_text(events):
    return "".join(e["choices"][0]["text"] for e in events if e.get("choices"))


_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\n"])*"'
_SAMPLE = re.compile(r"^(%s)(?:\{(%s(?:,%s)*)?\})? (\S+)$" % (_NAME, _LABEL, _LABEL))


def parse_metrics(text):
    """Prometheus' text format 0.0.4, strictly. Returns {name{labels}: value}."""
    values, types, helps, family, closed = {}, {}, set(), None, set()
    if not text.endswith("\n"):
        raise ValueError("the last line has no end")
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            if name in helps or len(line.split(" ", 3)) < 4:
                raise ValueError("HELP twice or empty: " + line)
            helps.add(name)
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name in types or kind not in ("counter", "gauge", "histogram"):
                raise ValueError("TYPE twice or unknown: " + line)
            if name not in helps:
                raise ValueError("TYPE without HELP: " + line)
            types[name] = kind
            if family:
                closed.add(family)
            family = name
            continue
        m = _SAMPLE.match(line)
        if not m:
            raise ValueError("not a sample: %r" % line)
        name, labels, number = m.group(1), m.group(2) or "", m.group(3)
        value = float(number)
        base = name
        if types.get(family) == "histogram":
            for suffix in ("_bucket", "_sum", "_count"):
                if name == family + suffix:
                    base = family
        if base != family or base in closed:
            raise ValueError("a sample outside its family: " + line)
        if types[family] == "counter" and (not family.endswith("_total") or value < 0):
            raise ValueError("a counter whose name does not end in _total, or negative: " + line)
        key = name + ("{%s}" % labels if labels else "")
        if key in values:
            raise ValueError("twice: " + line)
        values[key] = value
    for name, kind in types.items():
        if kind != "histogram":
            continue
        series = {}  # labels but le -> [(bound, value)]
        for k, v in values.items():
            if k.startswith(name + "_bucket{"):
                labels = re.sub(r',?le="[^"]+"', "", k[len(name) + 8:-1])
                series.setdefault(labels, []).append((float(re.search(r'le="([^"]+)"',
                                                                      k).group(1).replace("+Inf", "inf")), v))
        if not series:
            raise ValueError("%s: no buckets" % name)
        for labels, buckets in series.items():
            bounds = [b for b, _ in buckets]
            tail = "{%s}" % labels if labels else ""
            if bounds != sorted(set(bounds)) or bounds[-1] != float("inf"):
                raise ValueError("%s: bounds do not rise to +Inf: %s" % (name, bounds))
            if any(a[1] > b[1] for a, b in zip(buckets, buckets[1:])):
                raise ValueError("%s: buckets fall" % name)
            if values[name + "_count" + tail] != buckets[-1][1] or name + "_sum" + tail not in values:
                raise ValueError("%s: _count is not the +Inf bucket, or no _sum" % name)
    return values


ERROR_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
               404: "not_found_error", 405: "invalid_request_error", 408: "timeout_error", 413: "invalid_request_error",
               415: "invalid_request_error", 429: "rate_limit_error", 431: "invalid_request_error",
               500: "server_error", 503: "unavailable_error", 504: "timeout_error", 507: "server_error"}


def check_error(status, body, want_status, code, param, text):
    """The one shape of errors: four keys, more only for context_length_exceeded."""
    try:
        o = json.loads(body.decode("utf-8")) if isinstance(body, bytes) else body
        e = o["error"]
        keys = {"message", "type", "param", "code"}
        if code == "context_length_exceeded":
            keys |= {"n_prompt_tokens", "n_ctx"}
        got = (status, e.get("code"), e.get("param"), e.get("type"), set(o) == {"error"}, set(e) == keys,
               isinstance(e.get("message"), str) and 0 < len(e["message"]) < 600)
        want = (want_status, code, param, ERROR_TYPES[want_status], True, True, True)
        return check(got == want, "%s: got %s %s, expected %s" % (text, got, short(e), want))
    except Exception as x:
        return check(False, "%s: no error object: %d %s (%r)" % (text, status, short(body), x))


def floats32(numbers):
    return struct.pack("<%df" % len(numbers), *numbers)


# --- Raw HTTP ---

def send(sock, data):
    """Sends what may be refused before all of it is there: who has answered may close and read no further. The answer
    is read next, and says how it went."""
    with contextlib.suppress(ConnectionError):
        sock.sendall(data)


def read_response(sock, buffered=b"", head_only=False):
    """Reads one response with the hand: (status, headers, body, rest). Decodes the chunked coding itself, strictly."""
    data = buffered

    def more():
        nonlocal data
        got = sock.recv(65536)
        if not got:
            raise EOFError("the connection ended after %r" % data[:200])
        data += got

    while b"\r\n\r\n" not in data:
        more()
    head, data = data.split(b"\r\n\r\n", 1)
    lines = head.decode("latin-1").split("\r\n")
    m = re.match(r"^HTTP/1\.[01] (\d{3}) ", lines[0])
    if not m:
        raise ValueError("not a status line: %r" % lines[0])
    headers = {}
    for line in lines[1:]:
        k, v = line.split(":", 1)
        headers[k.lower()] = v.strip()
    status = int(m.group(1))
    if status == 100:
        return read_response(sock, data, head_only)
    if head_only:
        return status, headers, b"", data
    if headers.get("transfer-encoding") == "chunked":
        parts, at = [], 0  # at: into data, so that a long body is not copied for every chunk
        while True:
            while (end := data.find(b"\r\n", at)) < 0:
                more()
            line = data[at:end]
            if not re.match(rb"^[0-9A-Fa-f]+$", line):
                raise ValueError("not a chunk size: %r" % line)
            n, at = int(line, 16), end + 2
            while len(data) < at + n + 2:
                data = data[at:]
                at = 0
                more()
            if data[at + n:at + n + 2] != b"\r\n":
                raise ValueError("a chunk does not end with CR LF: %r" % data[at + n:at + n + 2])
            parts.append(data[at:at + n])
            at += n + 2
            if n == 0:
                return status, headers, b"".join(parts), data[at:]
    n = 0 if status == 204 else int(headers["content-length"])
    while len(data) < n:
        more()
    return status, headers, data[:n], data[n:]


def raw_request(body, path="/v1/completions", extra="", method="POST"):
    if isinstance(body, dict):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode("utf-8")
    return ("%s %s HTTP/1.1\r\nHost: test\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
        method, path, extra, len(body))).encode("latin-1") + body


def closed_within(sock, seconds):
    """Seconds until the other side closes (anything it sends is read), or None."""
    begin = time.monotonic()
    sock.settimeout(seconds)
    try:
        while time.monotonic() - begin < seconds:
            if not sock.recv(65536):
                return time.monotonic() - begin
    except socket.timeout:
        return None
    except OSError:
        return time.monotonic() - begin
    return None
