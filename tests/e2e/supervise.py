"""How the daemon is started and watched: sockets that it inherits, what it tells NOTIFY_SOCKET, the watchdog, the
sandbox of etc/systemd/deqd.service as far as it goes without a running systemd, limits of memory, --check-config, make
install, and the units under systemd-analyze."""
import contextlib
import ctypes
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from lib import (DEQD, MARK, ROOT, SANITIZED, SLOW, TINY, Daemon, check, check_error, clean_env, equal, raw_request,
                 read_response, run, short, skip, slow_model)
from life import printed

UNITS = os.path.join(ROOT, "etc", "systemd")
PYTHON = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else shutil.which("python3")
NOBODY = 65534

# Becomes the daemon: descriptors to 3, 4, ..., LISTEN_PID, limits, and a system call filter, which only the process
# itself can do.
LAUNCHER = r"""
import ctypes, fcntl, json, os, resource, struct, sys
o = json.loads(sys.argv[1])
fds = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in o["fds"]]
for i, fd in enumerate(fds):
    os.dup2(fd, 3 + i, inheritable=True)
    os.close(fd)
if o["cgroup"]:
    with open(o["cgroup"], "w") as f:
        f.write(str(os.getpid()))
env = dict(os.environ)
for k, v in o["env"].items():
    env[k] = v.replace("{pid}", str(os.getpid()))
for k, v in o["limits"].items():
    resource.setrlimit(getattr(resource, k), (v, v))
if o["filter"]:
    class Prog(ctypes.Structure):
        _fields_ = [("n", ctypes.c_ushort), ("code", ctypes.c_void_p)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in o["filter"]))
    prog = Prog(len(o["filter"]), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    # PR_SET_NO_NEW_PRIVS; PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(prog)):
        sys.exit("no system call filter: %s" % os.strerror(ctypes.get_errno()))
os.execve(o["argv"][0], o["argv"], env)
"""


class Listener:
    """NOTIFY_SOCKET: keeps every message, as a dict, with the time it came."""

    def __init__(self, address):
        self.address = address
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.s.bind("\0" + address[1:] if address[0] == "@" else address)
        if address[0] != "@":
            os.chmod(address, 0o666)
        self.messages = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        while True:
            try:
                text = self.s.recv(65536).decode()
            except OSError:
                return
            if not text:
                return
            self.messages.append((time.monotonic(), dict(line.split("=", 1) for line in text.split("\n"))))

    def of(self, key, since=0):
        return [m for m in self.messages[since:] if key in m[1]]

    def wait(self, key, since=0, seconds=10):
        """The first message with this key, or None."""
        until = time.monotonic() + max(seconds, 60) * SLOW
        while time.monotonic() < until:
            got = self.of(key, since)
            if got:
                return got[0][1]
            time.sleep(0.005)
        return None

    def close(self):
        """The reader ends first: it would read from whatever gets this descriptor's number next."""
        self.s.shutdown(socket.SHUT_RDWR)
        self.reader.join()
        self.s.close()


def launch(argv, fds=(), env=None, limits=None, filter=None, wrap=(), cgroup=None, stderr=subprocess.PIPE):
    """A process that becomes argv behind wrap (commands that exec what follows)."""
    o = json.dumps({"argv": list(argv), "fds": list(fds), "env": env or {}, "limits": limits or {}, "filter": filter,
                    "cgroup": cgroup})
    return subprocess.Popen(list(wrap) + [PYTHON, "-c", LAUNCHER, o], stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=stderr, env=clean_env(),
                            pass_fds=list(fds))


class Supervised(Daemon):
    """The daemon under this module's launcher; sockets: what it inherits."""

    def __init__(self, *settings, sockets=(), notify=None, env=None, model=TINY, listen="127.0.0.1:0", binary=DEQD,
                 **more):
        argv = [binary, "--model", model, "--listen", listen, "--set", "server.drain_delay_ms=0"]
        for s in settings:
            argv += ["--set", s]
        env = dict({"NOTIFY_SOCKET": notify.address} if notify else {}, **(env or {}))
        if sockets:
            env = dict({"LISTEN_FDS": str(len(sockets)), "LISTEN_PID": "{pid}"}, **env)
        self.log = tempfile.TemporaryFile()
        self.p = launch(argv, [s.fileno() for s in sockets], env, stderr=self.log, **more)
        self.checked, self.first, self.tls, self.key = False, None, None, None

    def ready(self):
        self.first = self.wait_line(20, message="listening")
        if not self.first:
            self.p.kill()
            raise RuntimeError("deqd did not start: %s" % self.stderr())
        self._aim(self.first["address"])
        return self


def listening(address=("127.0.0.1", 0), family=socket.AF_INET):
    s = socket.socket(family)
    s.bind(address)
    s.listen(64)
    return s


def refused(want_code, *words, sockets=(), settings=(), args=None, **more):
    """Like life.fails, under the launcher."""
    argv = [DEQD] + (args or ["--model", TINY, "--listen", "127.0.0.1:0"])
    for s in settings:
        argv += ["--set", s]
    p = launch(argv, [s.fileno() for s in sockets], **more)
    try:
        _, err = p.communicate(timeout=20 * SLOW)
    except subprocess.TimeoutExpired:
        p.kill()
        p.wait()
        return check(False, "deqd started; expected exit %d with %s" % (want_code, list(words)))
    err = err.decode("utf-8", "replace")
    try:
        line = json.loads(err)
    except ValueError:
        line = {"reason": err}
    return check(p.returncode == want_code and line.get("message") == "cannot start" and
                 line["exit_code"] == want_code and err.count("\n") == 1 and
                 all(w in line["reason"] for w in words),
                 "exit %d, %r; expected exit %d, one line of the log with %s" % (p.returncode, err[-600:], want_code,
                                                                                 list(words)))


@contextlib.contextmanager
def place():
    """A directory that everybody may read, for daemons of another user."""
    tmp = tempfile.mkdtemp(prefix="deqd-supervise-")
    try:
        os.chmod(tmp, 0o755)
        yield tmp
    finally:
        shutil.rmtree(tmp)


# --- Notifications ---

def test_notify():
    for kind in ("path", "abstract"):
        with place() as tmp:
            model = os.path.join(tmp, "tiny")
            shutil.copytree(TINY, model)
            n = Listener(os.path.join(tmp, "notify") if kind == "path" else "@deqd-test-%d" % os.getpid())
            d = Supervised("server.shutdown_timeout_ms=20000", notify=n, model=model).ready()
            ready = n.wait("READY")
            if not check(ready is not None, "READY=1 over the %s socket" % kind):
                d.stop()
                n.close()
                continue
            equal([m[1].get("STATUS") for m in n.messages],
                  ["loading " + model, "serving tiny at " + d.first["address"]], "statuses until it is ready")
            equal(ready["READY"], "1", "READY")
            equal(d.get("/health/ready")[0], 200, "whoever was told READY=1 is served")
            # a reload
            since, before = len(n.messages), time.monotonic()
            d.p.send_signal(signal.SIGHUP)
            n.wait("READY", since)
            equal([sorted(m[1]) for m in n.messages[since:]],
                  [["MONOTONIC_USEC", "RELOADING", "STATUS"], ["READY", "STATUS"]],
                  "SIGHUP: reloading, then ready again")
            usec = int(n.messages[since][1]["MONOTONIC_USEC"])
            check(before * 1e6 - 1e5 < usec < time.monotonic() * 1e6 + 1,
                  "MONOTONIC_USEC is the time of the reload: %d of %d" % (usec, before * 1e6))
            check(d.wait_line(5, message="reloaded"), "and it was a reload")
            # one that fails says so and serves on
            weights = os.path.join(model, "model.safetensors")
            with open(weights, "rb") as f:
                whole = f.read()
            with open(weights, "wb") as f:
                f.write(whole[:-1])
            since = len(n.messages)
            d.p.send_signal(signal.SIGHUP)
            status = (n.wait("READY", since) or {}).get("STATUS", "")
            check(status.startswith("serving tiny at ") and "last reload failed" in status and
                  "model.safetensors" in status, "status after a failed reload: %r" % status)
            d.alive()
            with open(weights, "wb") as f:
                f.write(whole)
            since = len(n.messages)
            d.p.send_signal(signal.SIGHUP)
            equal((n.wait("READY", since) or {}).get("STATUS"), "serving tiny at " + d.first["address"],
                  "status after one that worked")
            since = len(n.messages)
            d.stop()
            equal([m[1] for m in n.messages[since:]],
                  [{"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "40000000", "STATUS": "draining"}],
                  "SIGTERM: stopping, with delay + timeout + engine.stall_ms + 10 s to do it")
            equal(n.of("WATCHDOG"), [], "no watchdog where none was asked for")
            n.close()


def test_notify_of_a_failed_start():
    with place() as tmp:
        n = Listener(os.path.join(tmp, "notify"))
        refused(1, "not a directory", args=["--model", tmp + "/none", "--listen", "127.0.0.1:0"],
                env={"NOTIFY_SOCKET": n.address})
        equal([m[1] for m in n.messages][-1]["STATUS"],
              tmp + "/none: not a directory; expected one with config.json, model.safetensors, tokenizer.json",
              "the status says why")
        equal(n.of("READY"), [], "no READY=1")
        n.close()


class Held:
    """One thread of a process, stopped by ptrace while the others run."""
    SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17

    def __init__(self, tid):
        self.tid, self.libc = tid, ctypes.CDLL(None, use_errno=True)
        self.libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        for request in (self.SEIZE, self.INTERRUPT):
            if self.libc.ptrace(request, tid, None, None):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        os.waitpid(tid, 0x40000000)  # __WALL

    def release(self):
        self.libc.ptrace(self.DETACH, self.tid, None, None)


def thread_named(pid, name):
    for t in os.listdir("/proc/%d/task" % pid):
        with open("/proc/%d/task/%s/comm" % (pid, t)) as f:
            if f.read().strip() == name:
                return int(t)
    raise OSError("no thread " + name)


def test_watchdog():
    with place() as tmp:
        n = Listener(os.path.join(tmp, "notify"))
        ms = int(900 * SLOW)
        with Supervised("engine.stall_ms=%d" % ms, notify=n,
                        env={"WATCHDOG_USEC": str(ms * 1000), "WATCHDOG_PID": "{pid}"}).ready() as d:
            time.sleep(3.0 * SLOW)
            beats = [t for t, _ in n.of("WATCHDOG")]
            gaps = [b - a for a, b in zip(beats, beats[1:])]
            # ten are meant, one each third of the interval; on a loaded machine fewer come, but none later than the
            # interval, or systemd would act
            check(4 <= len(beats) <= 12 and max(gaps) < ms * 1e-3,
                  "a heartbeat every third of the interval: %d in 3 s, at most %.3f s apart" % (len(beats),
                                                                                                max(gaps or [9])))
            check(all("READY" not in m for _, m in n.of("WATCHDOG")), "heartbeats are messages of their own")
            try:
                held = Held(thread_named(d.p.pid, "engine"))
            except OSError as e:
                skip("an engine that hangs: threads cannot be stopped here (ptrace: %s)" % e)
            else:
                time.sleep(2.5 * ms * 1e-3)
                count = len(n.of("WATCHDOG"))
                time.sleep(3 * ms * 1e-3)
                equal(len(n.of("WATCHDOG")), count, "heartbeats while the engine's thread hangs, after engine.stall_ms")
                equal(d.request("GET", "/health/live")[0], 503, "HTTP answers meanwhile: the rest of the daemon runs")
                held.release()
                check(n.wait("WATCHDOG", len(n.messages), 5), "heartbeats again when it goes on")
                d.alive()
        n.close()
        n = Listener(os.path.join(tmp, "other"))
        with Supervised(notify=n, env={"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}).ready():
            n.wait("READY")
            time.sleep(0.3)
        equal(n.of("WATCHDOG"), [], "the watchdog of another process")
        n.close()


def test_end_while_threads_hang():
    """An engine in a step without end, and the reading of a large body: SIGTERM ends the daemon all the same."""
    d = Daemon("server.shutdown_timeout_ms=0")
    try:
        held = [Held(thread_named(d.p.pid, name)) for name in ("engine", "bodies")]
    except OSError as e:
        skip("threads that hang: they cannot be stopped here (ptrace: %s)" % e)
        d.stop()
        return
    with d.connect() as whole, d.connect() as stream, d.connect() as large, d.connect() as left:
        whole.sendall(raw_request({"prompt": "A"}))
        stream.sendall(raw_request({"prompt": "A", "stream": True}))
        for s in (large, left):
            s.sendall(raw_request({"prompt": " a" * 50000}, path="/tokenize"))
        ok, m = d.wait_metric(lambda m: m["deqd_http_connections"] >= 5 and
                              m["deqd_requests_waiting"] + m["deqd_requests_running"] == 2, 5)
        check(ok, "all are there")
        left.close()
        equal(d.get("/health/live")[0], 200, "a client that leaves a large body behind holds no thread of HTTP")
        d.p.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        d.p.send_signal(signal.SIGTERM)  # now
        until = time.monotonic() + 60 * SLOW
        while d.p.poll() is None and time.monotonic() < until:
            for h in held:  # they have ended with the process, once their tracer knows
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(h.tid, 0x40000000 | os.WNOHANG)
            time.sleep(0.01)
        equal(d.p.poll(), 0, "exit code")
        equal(d.lines()[-1]["message"], "ended with threads still at work", "the last line of the log")


def test_end_behind_a_slow_step():
    """The step that the engine is in takes as long as it takes: its request ends behind it, and then the daemon, as
    ever. How long that may be follows engine.stall_ms."""
    with place() as tmp:
        n = Listener(os.path.join(tmp, "notify"))
        d = Supervised("server.shutdown_timeout_ms=0", "engine.stall_ms=600000", notify=n).ready()
        try:
            held = Held(thread_named(d.p.pid, "engine"))
        except OSError as e:
            skip("a step that takes long: threads cannot be stopped here (ptrace: %s)" % e)
        else:
            with d.connect() as s:
                s.sendall(raw_request({"prompt": "A", "max_tokens": 100}))
                d.wait_metric(lambda m: m["deqd_requests_waiting"] + m["deqd_requests_running"] == 1, 5)
                d.p.send_signal(signal.SIGTERM)
                check(d.wait_line(10, message="requests end behind the step at hand", pending=1),
                      "the drain is over, and a request is still there")
                equal((n.wait("STOPPING") or {}).get("EXTEND_TIMEOUT_USEC"), "610000000", "the end may take as long")
                held.release()
                status, _, body, _ = read_response(s)
                check_error(status, body, 503, "draining", None, "who waited for the step")
        d.stop()  # the last line is "stopped": no thread was left at work
        n.close()


def test_loading_takes_long():
    """While loading gets anywhere it is prolonged, every five seconds; when it hangs it is not."""
    with place() as tmp:
        n = Listener(os.path.join(tmp, "notify"))
        d = Supervised(notify=n, model=slow_model(os.path.join(tmp, "slow")))
        try:
            n.wait("STATUS")
            begin, before = time.monotonic(), None
            while time.monotonic() - begin < 60:  # so much of it that the CPU time shows
                with open("/proc/%d/stat" % d.p.pid) as f:
                    ticks = int(f.read().rsplit(")", 1)[1].split()[11])  # of 10 ms
                before = ticks if before is None else before
                if ticks >= before + 5 or n.of("READY"):
                    break
                time.sleep(0.002)
            held = Held(d.p.pid)
        except OSError as e:
            skip("loading that takes long: threads cannot be stopped here (ptrace: %s)" % e)
        else:
            if n.of("READY"):
                skip("the model was loaded before its thread could be held")
            else:
                first = n.wait("EXTEND_TIMEOUT_USEC")
                equal(first, {"EXTEND_TIMEOUT_USEC": "30000000"}, "after five seconds of loading")
                time.sleep(5.5)
                equal(len(n.of("EXTEND_TIMEOUT_USEC")), 1, "prolonged while the loading thread hangs")
            held.release()
        d.ready().stop()
        check(n.of("READY"), "READY=1 in the end")
        n.close()


# --- Inherited sockets ---

def test_inherited_sockets():
    main, admin = listening(), listening()
    address = "127.0.0.1:%d" % main.getsockname()[1]
    with Supervised(sockets=[admin, main], env={"LISTEN_FDNAMES": "admin:http"}, listen="127.0.0.1:1").ready() as d:
        equal((d.first["address"], d.first["admin_address"]), (address, "127.0.0.1:%d" % admin.getsockname()[1]),
              "addresses of the sockets, in place of server.listen")
        d.alive("over the inherited socket")
        equal((d.admin().request("GET", "/metrics")[0], d.admin().request("GET", "/v1/models")[0]), (200, 404),
              "the one named admin serves metrics and nothing else")
        equal(run([DEQD, "--listen", address, "--health-probe"])[0], 0, "--health-probe")
        for fd in (3, 4):
            with open("/proc/%d/fdinfo/%d" % (d.p.pid, fd)) as f:
                flags = int(re.search(r"flags:\s*(\d+)", f.read()).group(1), 8)
            check(flags & os.O_CLOEXEC and flags & os.O_NONBLOCK,
                  "descriptor %d: close-on-exec and not blocking: %o" % (fd, flags))
    # the supervisor still has it: who comes between two daemons waits for the second
    early = socket.create_connection(main.getsockname(), timeout=20 * SLOW)
    early.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    with Supervised(sockets=[main]).ready() as d:
        check(early.recv(64).startswith(b"HTTP/1.1 200 "),
              "a connection made while no daemon ran is served by the next")
        equal((d.first["address"], "admin_address" in d.first), (address, False), "one socket without a name")
    early.close()
    with Supervised(sockets=[main, admin]).ready() as d:
        equal((d.first["address"], d.first.get("admin_address")), (address, "127.0.0.1:%d" % admin.getsockname()[1]),
              "without names the first is the main one")
    with Supervised(sockets=[main], env={"LISTEN_FDNAMES": "deqd.socket"}).ready() as d:
        equal(d.first["address"], address, "the name that systemd gives by itself")
    with Supervised(sockets=[main], env={"LISTEN_PID": "1"}).ready() as d:
        check(d.first["address"] != address, "sockets for another process are left alone")
    with Supervised(env={"LISTEN_PID": "", "LISTEN_FDS": ""}).ready() as d:
        check(d.first["address"] != address, "empty is unset")
    with Supervised(sockets=[admin], env={"LISTEN_FDNAMES": "admin"}).ready() as d:
        check(d.first["address"] != address and "admin_address" in d.first,
              "only an admin socket: server.listen is opened as ever")
    main.close()
    admin.close()
    with place() as tmp:
        path = os.path.join(tmp, "s")
        s = listening(path, socket.AF_UNIX)
        for _ in range(2):
            with Supervised(sockets=[s]).ready() as d:
                equal(d.first["address"], "unix:" + path, "a unix socket")
                d.alive("over an inherited unix socket")
            check(os.path.exists(path), "its file is the supervisor's and stays")
        s.close()
        s = listening("\0deqd-test-listen-%d" % os.getpid(), socket.AF_UNIX)
        with Supervised(sockets=[s]).ready() as d:
            equal(d.first["address"], "unix:@deqd-test-listen-%d" % os.getpid(), "an abstract unix socket")
        s.close()


def test_clients_during_a_restart():
    """A client that connects and asks again and again sees no refusal while one daemon drains, ends, and the next takes
    the socket over."""
    main = listening()
    bad, good, stop = [], [], threading.Event()

    def ask():
        while not stop.is_set():
            try:
                with socket.create_connection(main.getsockname(), timeout=20 * SLOW) as s:
                    s.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    got = s.recv(64)
                    (good if got.startswith(b"HTTP/1.1 200 ") else bad).append(got)
            except OSError as e:
                bad.append(e)
            time.sleep(0.002)

    d = Supervised(sockets=[main]).ready()
    t = threading.Thread(target=ask)
    t.start()
    for _ in range(5):
        time.sleep(0.1 * SLOW)
        d.stop()
        d = Supervised(sockets=[main]).ready()
    time.sleep(0.1 * SLOW)
    stop.set()
    t.join()
    d.stop()
    main.close()
    check(len(good) > 50 and not bad,
          "%d answers, %d refusals in five restarts: %s" % (len(good), len(bad), short(bad[:3])))


def test_bad_supervisors():
    ok, udp, idle = listening(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    closed = {"LISTEN_FDS": "1", "LISTEN_PID": "{pid}"}
    env = {"LISTEN_FDS": "1", "LISTEN_PID": "{pid}"}
    for what, s in (("datagrams", udp), ("a socket that does not listen", idle)):
        refused(2, "LISTEN_FDS", "descriptor 3", "listening stream socket", sockets=[s], env=env)
    with open(DEQD, "rb") as f:
        class File:
            fileno = f.fileno
        refused(2, "LISTEN_FDS", "descriptor 3", "not a socket", sockets=[File], env=env)
    refused(2, "LISTEN_FDS", "descriptor 3", "not open", env=closed)
    refused(2, "LISTEN_FDS", "descriptor 4", "not open", sockets=[ok], env=dict(env, LISTEN_FDS="2"))
    refused(2, "LISTEN_FDS", "2 sockets", "http:http", "at most one", sockets=[ok, ok],
            env=dict(env, LISTEN_FDS="2", LISTEN_FDNAMES="http:http"))
    refused(2, "LISTEN_FDS", "2 sockets", "at most one", sockets=[ok, ok],
            env=dict(env, LISTEN_FDS="2", LISTEN_FDNAMES="admin:admin"))
    refused(2, "LISTEN_FDS", "3 sockets", sockets=[ok, ok, ok], env=dict(env, LISTEN_FDS="3"))
    for v in ("x", "", "-1", "1x", "99999999999999999999"):
        refused(2, "LISTEN_FDS", '"%s"' % v, sockets=[ok], env=dict(env, LISTEN_FDS=v))
        refused(2, "LISTEN_PID", '"%s"' % v, sockets=[ok], env=dict(env, LISTEN_PID=v))
    for s in (ok, udp, idle):
        s.close()
    with place() as tmp:
        n = Listener(os.path.join(tmp, "notify"))
        for v in ("relative", "/", "@", "vsock:2:1", "/" + "x" * 107):
            refused(2, "NOTIFY_SOCKET", '"%s"' % v, "/PATH or @NAME", env={"NOTIFY_SOCKET": v})
        for v in (tmp + "/nobody", "@deqd-test-nobody", DEQD[:100]):
            refused(1, "NOTIFY_SOCKET", '"%s"' % v, env={"NOTIFY_SOCKET": v})
        for v in ("x", "", "0", "-1", "1.5", "99999999999999999999"):
            refused(2, "WATCHDOG_USEC", '"%s"' % v, env={"NOTIFY_SOCKET": n.address, "WATCHDOG_USEC": v})
        n.close()
        # a supervisor that went away is complained of, and served without
        n = Listener(os.path.join(tmp, "gone"))
        with Supervised(notify=n, env={"WATCHDOG_USEC": "100000"}).ready() as d:
            n.wait("READY")
            os.unlink(n.address)
            n.close()
            line = d.wait_line(5, message="the supervisor was not told")
            check(line and line["level"] == "warn" and line["reason"], "a notification that does not arrive: %s" % line)
            d.alive("without its supervisor")


# --- The sandbox ---

def unit_settings():
    """deqd.service as {key: [values]}."""
    out = {}
    with open(os.path.join(UNITS, "deqd.service")) as f:
        for line in f:
            m = re.match(r"(\w+)=(.*)", line)
            if m:
                out.setdefault(m.group(1), []).append(m.group(2))
    return out


def expand(names):
    """System calls of sets like @system-service, by systemd's own lists."""
    calls, left, seen = set(), list(names), set()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        if name[0] != "@":
            calls.add(name)
            continue
        code, out, err = run(["systemd-analyze", "syscall-filter", name])
        if code:
            raise RuntimeError("systemd-analyze syscall-filter %s: %s" % (name, err))
        left += [x.strip() for x in out.split("\n")[1:] if x.startswith("    ") and not x.strip().startswith("#")]
    return calls


def unit_filter():
    """The unit's SystemCallFilter and MemoryDenyWriteExecute as instructions (code, jt, jf, k) for the kernel;
    x86-64."""
    u = unit_settings()
    allowed = expand(["@default"])
    for value in u["SystemCallFilter"]:
        names = expand(value.lstrip("~").split())
        allowed = allowed - names if value[0] == "~" else allowed | names
    numbers = {}
    with open("/usr/include/x86_64-linux-gnu/asm/unistd_64.h") as f:
        for name, number in re.findall(r"#define __NR_(\w+) (\d+)", f.read()):
            numbers[name] = int(number)
    LOAD, EQUAL, AND, RET = 0x20, 0x15, 0x54, 0x06
    ALLOW, EPERM, KILL = 0x7fff0000, 0x00050001, 0x80000000
    equal((u["SystemCallErrorNumber"], u["MemoryDenyWriteExecute"]), (["EPERM"], ["yes"]),
          "the unit's settings that this filter imitates")
    code = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, 0xc000003e), (RET, 0, 0, KILL), (LOAD, 0, 0, 0)]
    prot = 16 + 2 * 8  # the third argument's lower half
    for name, mask in (("mmap", 6), ("mprotect", 4), ("pkey_mprotect", 4)):  # write and execute at once; execute later
        code += [(EQUAL, 0, 5, numbers[name]), (LOAD, 0, 0, prot), (AND, 0, 0, mask), (EQUAL, 0, 1, mask),
                 (RET, 0, 0, EPERM), (LOAD, 0, 0, 0)]
    for name in sorted(allowed):
        if name in numbers:
            code += [(EQUAL, 0, 1, numbers[name]), (RET, 0, 0, ALLOW)]
    return code + [(RET, 0, 0, EPERM)]


def test_sandbox():
    """As the unit has it: a user without rights, no capabilities, no new privileges, a root that cannot be written, the
    unit's system calls."""
    if SANITIZED:
        skip("the sandbox: sanitizers need what it forbids")
        return
    if os.geteuid():
        skip("the sandbox: only root can become another user")
        return
    missing = [x for x in ("unshare", "setpriv", "systemd-analyze") if not shutil.which(x)]
    if missing:
        skip("the sandbox: not installed: %s" % ", ".join(missing))
        return
    if os.uname().machine != "x86_64" or not os.path.exists("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"):
        skip("the sandbox: its filter is built from x86-64 Linux headers")
        return
    inner = ("mount --make-rprivate / && for m in $(awk '{print $2}' /proc/mounts | sort -r); do "
             "mount -o remount,bind,ro \"$m\" 2>/dev/null; done; mount -o remount,bind,ro / && exec \"$@\"")
    wrap = ["unshare", "--mount", "--ipc", "--uts", "sh", "-c", inner, "sh", "setpriv", "--reuid=%d" % NOBODY,
            "--regid=%d" % NOBODY, "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all",
            "--ambient-caps=-all"]
    p = subprocess.run(wrap + ["sh", "-c", "touch /tmp/deqd-test-$$ 2>/dev/null || echo read-only"],
                       capture_output=True)
    if p.returncode or p.stdout != b"read-only\n":
        skip("the sandbox: this machine lets nobody have a read-only root of his own: %s" %
             p.stderr.decode().strip()[-200:])
        return
    with place() as tmp:
        for name in ("deqd",):
            shutil.copy(os.path.realpath(DEQD), os.path.join(tmp, name))
        model = os.path.join(tmp, "tiny")
        shutil.copytree(TINY, model)
        n = Listener(os.path.join(tmp, "notify"))
        main = listening()
        with Supervised(sockets=[main], notify=n, model=model, binary=os.path.join(tmp, "deqd"), wrap=wrap,
                        filter=unit_filter(), listen="127.0.0.1:1",
                        env={"HOME": "/nonexistent", "WATCHDOG_USEC": "%d" % (1000000 * SLOW), "WATCHDOG_PID": "{pid}"},
                        limits={"RLIMIT_NOFILE": 16384, "RLIMIT_CORE": 0}).ready() as d:
            with open("/proc/%d/status" % d.p.pid) as f:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
            equal((status["Uid"].split()[0], status["CapEff"], status["CapBnd"], status["NoNewPrivs"],
                   status["Seccomp"]), (str(NOBODY), "0" * 16, "0" * 16, "1", "2"),
                  "who it is and what it may")
            equal(d.first["sandbox"], "on", "its own filter, inside the unit's")
            check(n.wait("READY"), "READY=1 from inside")
            s, _, events, done = d.stream(MARK, max_tokens=20, ignore_eos=True)
            check(s == 200 and done, "a stream from inside")
            equal(d.metrics()["deqd_requests_running"] if "deqd_requests_running" in d.metrics() else 0, 0,
                  "metrics from inside")
            d.p.send_signal(signal.SIGHUP)
            check(d.wait_line(5, message="reloaded"), "a reload inside")
            check(n.wait("WATCHDOG"), "heartbeats from inside")
            with open("/proc/%d/maps" % d.p.pid) as f:
                equal([x for x in f if "w" in x.split()[1] and "x" in x.split()[1]], [],
                      "memory that can be written and executed")
            written = []
            for fd in os.listdir("/proc/%d/fd" % d.p.pid):
                with contextlib.suppress(OSError):
                    path = os.readlink("/proc/%d/fd/%s" % (d.p.pid, fd))
                    with open("/proc/%d/fdinfo/%s" % (d.p.pid, fd)) as f:
                        flags = int(re.search(r"flags:\s*(\d+)", f.read()).group(1), 8)
                    if path.startswith("/") and not path.startswith("/dev/null") and flags & 3 and int(fd) > 2:
                        written.append(path)
            equal(written, [], "files that it has open to write")
        check(n.of("STOPPING"), "STOPPING=1 from inside")
        main.close()
        n.close()


def test_writes_nothing():
    """No file is ever opened to be written, from start to end, with a reload between."""
    if not shutil.which("strace"):
        skip("files opened to be written: strace is not installed")
        return
    if SANITIZED:
        skip("files opened to be written: not under sanitizers")
        return
    with place() as tmp:
        trace = os.path.join(tmp, "trace")
        p = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True)
        if p.returncode:
            skip("files opened to be written: strace may not trace here: %s" % p.stderr.decode().strip()[-100:])
            return
        calls = "trace=open,openat,creat,mkdir,mkdirat,rename,renameat,unlink,unlinkat,truncate,symlink,link"
        with Supervised(wrap=["strace", "-f", "-qq", "-o", trace, "-e", calls]).ready() as d:
            d.alive()
            with open("/proc/%d/task/%d/children" % (d.p.pid, d.p.pid)) as f:
                pid = int(f.read().split()[0])
            os.kill(pid, signal.SIGHUP)
            d.wait_line(10, message="reloaded")
            os.kill(pid, signal.SIGTERM)
            d.p.wait(20 * SLOW)
        with open(trace) as f:
            lines = f.read().split("\n")
        # what Python did before it became the daemon does not count
        at = next(i for i, x in enumerate(lines) if "config.json" in x)
        first = max(i for i, x in enumerate(lines[:at]) if "ld.so.cache" in x)
        # pthread_setname_np opens /proc/self/task/N/comm, which is no file
        bad = [x for x in lines[first:] if "/proc/self/task/" not in x and
               re.search(r"O_WRONLY|O_RDWR|O_CREAT|"
                         r"\b(creat|mkdir|mkdirat|rename|renameat|unlink|unlinkat|truncate|symlink|link)\(", x)]
        equal(bad, [], "calls that write to files")


# --- Bad beginnings ---

def test_unreadable():
    """Files that the daemon's user may not read, and ports that he may not have."""
    if os.geteuid():
        skip("files of another user: only root can make some")
        return
    if not shutil.which("setpriv"):
        skip("files of another user: setpriv is not installed")
        return
    as_nobody = ["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups", "--bounding-set=-all",
                 "--inh-caps=-all"]
    with place() as tmp:
        binary, model, keys = os.path.join(tmp, "deqd"), os.path.join(tmp, "tiny"), os.path.join(tmp, "keys")
        shutil.copy(os.path.realpath(DEQD), binary)
        shutil.copytree(TINY, model)
        with open(keys, "w") as f:
            f.write("a %064x\n" % 1)
        os.chmod(keys, 0o600)

        def starts_not(code, *words, settings=()):
            argv = [binary, "--model", model, "--listen", "127.0.0.1:0"]
            for s in settings:
                argv += ["--set", s]
            p = launch(argv, wrap=as_nobody)
            try:
                _, err = p.communicate(timeout=20 * SLOW)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
                return check(False, "started: %s" % (words,))
            line = json.loads(err)
            return check((p.returncode, line["message"], line["exit_code"]) == (code, "cannot start", code) and
                         all(w in line["reason"] for w in words),
                         "exit %d, %r; expected %d, %s" % (p.returncode, err, code, words))

        starts_not(1, "auth.keys_file", keys, "Permission denied", settings=["auth.keys_file=" + keys])
        starts_not(1, "tls.cert", keys, "Permission denied", settings=["tls.cert=" + keys, "tls.key=" + keys])
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            os.chmod(os.path.join(model, name), 0o600)
            starts_not(1, os.path.join(model, name), "Permission denied")
            os.chmod(os.path.join(model, name), 0o644)
        os.chmod(model, 0o700)
        starts_not(1, model)
        os.chmod(model, 0o755)
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as f:
            free = int(f.read())
        if free <= 1:
            skip("a port below 1024 without rights: here every user may have it")
        else:
            starts_not(1, "server.listen", "127.0.0.1:1", "Permission denied", settings=["server.listen=127.0.0.1:1"])


LARGE = ["engine.max_sequences=1000", "engine.max_positions=2048", "engine.cache_bytes=400M"]


def test_limits_of_memory():
    with place():
        if SANITIZED:
            skip("RLIMIT_AS: sanitizers take terabytes of addresses")
        else:
            # so low that a library which wants memory of its own before main() would not let the process end
            refused(2, "memory:", "RLIMIT_AS is 60.0 MiB", settings=LARGE, limits={"RLIMIT_AS": 60 << 20})
            refused(2, "memory:", "are needed", "RLIMIT_AS is 512.0 MiB", "engine.cache_bytes", settings=LARGE,
                    limits={"RLIMIT_AS": 512 << 20})
            # a start and --check-config mean the same: arenas of the allocator, which grow with threads, are no part of
            # the need
            argv = [DEQD, "--model", TINY, "--listen", "127.0.0.1:0"]
            needs = []
            for more in ((), ("--check-config",)):
                p = launch(argv + list(more), limits={"RLIMIT_AS": 64 << 20})
                needs.append(float(re.search(r"memory: ([\d.]+) MiB are needed",
                                             p.communicate(timeout=20 * SLOW)[1].decode()).group(1)))
            # what the process took meanwhile: a few pages, and the libraries' own
            check(abs(needs[0] - needs[1]) < 2, "MiB that a start and --check-config need: %s" % needs)
            enough = {"RLIMIT_AS": int(max(needs) + 2) << 20}
            equal(launch(argv + ["--check-config"], limits=enough).wait(20 * SLOW), 0,
                  "--check-config with what is needed")
            with Supervised(limits=enough).ready() as d:
                d.alive("with what is needed")
            with Supervised(*LARGE, limits={"RLIMIT_AS": 2 << 30}).ready() as d:
                d.alive("within a limit that fits")
                # a reload takes both models at once: it must not happen rather than end the daemon
                with open("/proc/%d/statm" % d.p.pid) as f:
                    size = int(f.read().split()[0]) * resource.getpagesize()
                resource.prlimit(d.p.pid, resource.RLIMIT_AS, (size + (64 << 20), size + (64 << 20)))
                d.p.send_signal(signal.SIGHUP)
                line = d.wait_line(10, message=re.compile("reload failed"))
                check(line and line["reason"].startswith("memory: ") and "RLIMIT_AS" in line["reason"],
                      "a reload without room: %s" % line)
                d.alive("after a reload that had no room")
        # the kernel's own figure, where this machine lets us make a cgroup
        made, file, limit = None, "", 300 << 20
        with open("/proc/self/cgroup") as f:
            groups = [x.rstrip("\n").split(":", 2) for x in f]
        for number, controllers, path in groups:
            base, file = ("/sys/fs/cgroup/memory",
                          "memory.limit_in_bytes") if "memory" in controllers.split(",") else ("/sys/fs/cgroup",
                                                                                               "memory.max")
            where = os.path.join(base + (path if os.path.isdir(base + path) else ""), "deqd-test-%d" % os.getpid())
            if number != "0" and "memory" not in controllers.split(","):
                continue
            try:
                os.mkdir(where)
                made = where
                with open(os.path.join(where, file), "w") as f:
                    f.write(str(limit))
                break
            except OSError as e:
                why = e
                if made:
                    os.rmdir(made)
                made = None
        if not made:
            skip("the limit of a cgroup: none can be made here: %s" % why)
        else:
            try:
                refused(2, "memory:", "are needed", "the cgroup's %s is 300.0 MiB" % file, settings=LARGE,
                        cgroup=os.path.join(made, "cgroup.procs"))
                with Supervised(cgroup=os.path.join(made, "cgroup.procs")).ready() as d:
                    d.alive("within a cgroup that is large enough")
            finally:
                for _ in range(100):
                    try:
                        os.rmdir(made)
                        break
                    except OSError:
                        time.sleep(0.02)
        with open("/proc/meminfo") as f:
            total = sum(int(x.split()[1]) for x in f if x.startswith(("MemTotal", "SwapTotal"))) << 10
        refused(2, "memory:", "this machine has", settings=["engine.cache_bytes=%d" % (2 * total)])


# --- --check-config ---

def test_check_config_reads_what_it_names():
    with place() as tmp:
        keys, model = os.path.join(tmp, "keys"), os.path.join(tmp, "tiny")
        shutil.copytree(TINY, model)

        def answer(*settings, flag="--check-config"):
            args = [DEQD, "--model", model, flag]
            for s in settings:
                args += ["--set", s]
            return run(args)

        def wrong(*words, settings=()):
            code, out, err = answer(*settings)
            check(code == 2 and not out and err.startswith("deqd: ") and err.count("\n") == 1 and
                  all(w in err for w in words), "exit %d, %r: expected 2 and %s" % (code, err, words))

        equal(answer(), (0, "configuration ok\n", ""), "a good one")
        wrong("auth.keys_file", keys, "No such file", settings=["auth.keys_file=" + keys])
        equal(answer("auth.keys_file=" + keys, flag="--print-config")[0], 0, "--print-config looks at values alone")
        with open(keys, "w") as f:
            f.write("a %064x\nb\n" % 1)
        wrong("auth.keys_file", "line 2", settings=["auth.keys_file=" + keys])
        with open(keys, "w") as f:
            f.write("a %064x\n" % 1)
        equal(answer("auth.keys_file=" + keys)[:2], (0, "configuration ok\n"), "keys that are good")
        wrong("tls.cert", keys, settings=["tls.cert=" + keys, "tls.key=" + keys])
        wrong("max_rows", settings=["engine.max_rows=8"])
        wrong("cache of 4096 bytes", settings=["engine.cache_bytes=4096"])
        wrong("memory:", "this machine has", settings=["engine.cache_bytes=8000G"])
        wrong("model.path", "bad name", settings=["model.path=%s/bad name" % tmp])
        weights = os.path.join(model, "model.safetensors")
        os.truncate(weights, os.path.getsize(weights) - 1)
        wrong(weights)
        os.unlink(weights)
        wrong(weights, "No such file")
        shutil.copy(os.path.join(TINY, "model.safetensors"), weights)
        os.unlink(os.path.join(model, "tokenizer.json"))
        wrong("tokenizer.json")
        shutil.rmtree(model)
        wrong(model, "not a directory")


# --- Installation and units ---

def test_install_and_units():
    if SANITIZED:
        skip("make install: it installs the release build")
        return
    u = unit_settings()
    values = printed()[1]
    parts = "server.drain_delay_ms", "server.shutdown_timeout_ms", "engine.stall_ms"
    drain_s = sum(int(values[k]) for k in parts) / 1000
    check(int(u["TimeoutStopSec"][0]) >= drain_s + 10,
          "TimeoutStopSec %s covers a drain and its last step, %g s, and 10 s" % (u["TimeoutStopSec"], drain_s))
    check(int(u["WatchdogSec"][0]) * 1000 > 2 * int(values["engine.stall_ms"]),
          "WatchdogSec %s leaves engine.stall_ms its time" % u["WatchdogSec"])
    check(int(u["LimitNOFILE"][0]) >= int(values["server.max_connections"]) + 256,
          "LimitNOFILE %s is enough for the default" % u["LimitNOFILE"])
    with place() as tmp:
        for prefix in ("/usr", "/opt/deqd"):
            dest = os.path.join(tmp, "dest")
            env = clean_env()
            for k in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "SAN"):
                env.pop(k, None)
            make = ["make", "-s", "DESTDIR=" + dest, "PREFIX=" + prefix]
            p = subprocess.run(make + ["install"], cwd=ROOT, env=env, capture_output=True)
            if not check(p.returncode == 0, "make install: %s" % p.stderr.decode()[-400:]):
                return
            unit, config = dest + prefix + "/lib/systemd/system/deqd.service", dest + "/etc/deqd/deqd.yaml"
            model = dest + prefix + "/share/deqd/models/stories"
            with open(config) as f:
                text = f.read()
            with open(os.path.join(ROOT, "etc", "deqd.yaml")) as f:
                equal(text, f.read().replace('"models/stories"', '"%s/share/deqd/models/stories"' % prefix),
                      "the installed configuration but for the model's path")
            with open(unit) as f:
                check("\nExecStart=%s/bin/deqd --config /etc/deqd/deqd.yaml\n" % prefix in f.read(),
                      "ExecStart of the installed unit")
            with open(dest + prefix + "/share/doc/deqd/README.md") as f:
                text = f.read()
            told = set(re.findall(r"`(?:[^`]* )?(/[^ `]+)", text))
            check({"/etc/deqd/deqd.yaml", prefix + "/share/deqd/models/stories"} <= told, "its README tells %s" % told)
            equal([p for p in told if not os.path.lexists(dest + p)], [], "places of its README that are not there")
            check("](" not in text, "the installed README has no links, which would lead to what is not installed")
            equal(os.stat(dest + "/etc/deqd/credentials").st_mode & 0o777, 0o700, "mode of the directory of secrets")
            code, out, err = run([dest + prefix + "/bin/deqd", "--config", config, "--model", model, "--check-config"])
            equal((code, out, err), (0, "configuration ok\n", ""),
                  "the installed daemon on the installed configuration and model")
            with open(config, "a") as f:
                f.write("# mine\n")
            subprocess.run(make + ["install"], cwd=ROOT, env=env, capture_output=True)
            with open(config) as f:
                check(f.read().endswith("# mine\n"), "a configuration that is there stays")
            if not shutil.which("systemd-analyze"):
                skip("units: systemd-analyze is not installed")
            else:
                seen = os.path.join(tmp, "units")
                shutil.copytree(os.path.dirname(unit), seen)
                for name in os.listdir(seen):
                    with open(os.path.join(seen, name)) as f:
                        text = f.read()
                    with open(os.path.join(seen, name), "w") as f:  # the programs are there, but not where they will be
                        f.write(text.replace("=%s/bin/deqd" % prefix, "=%s%s/bin/deqd" % (dest, prefix)))
                if os.path.isdir("/lib/systemd/system"):
                    p = subprocess.run(["systemd-analyze",
                                        "verify"] + [os.path.join(seen, x) for x in sorted(os.listdir(seen))],
                                       capture_output=True)
                    equal((p.returncode, p.stdout + p.stderr), (0, b""), "systemd-analyze verify")
                else:
                    skip("systemd-analyze verify: this machine has none of systemd's own units")
                p = subprocess.run(["systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold=15",
                                    os.path.join(seen, "deqd.service")], capture_output=True)
                text = p.stdout.decode()
                level = re.search(r"exposure level for deqd.service: ([\d.]+)", text)
                check(p.returncode == 0 and level and float(level.group(1)) <= 1.5,
                      "exposure at most 1.5: %s" % text[-200:])
                shutil.rmtree(seen)
            p = subprocess.run(make + ["uninstall"], cwd=ROOT, env=env, capture_output=True)
            left = sorted(os.path.join(a, x)[len(dest):] for a, _, files in os.walk(dest) for x in files)
            equal((p.returncode, left), (0, ["/etc/deqd/deqd.yaml"]), "what make uninstall leaves")
            shutil.rmtree(dest)


def test_installed_without_arguments():
    """An installed deqd reads the installed configuration and serves the installed model; one of a build tree knows
    nothing of them."""
    if SANITIZED:
        skip("make install: it installs the release build")
        return
    with place() as tmp:
        prefix, sysconf = os.path.join(tmp, "opt"), os.path.join(tmp, "etc")
        code, _, err = run(["make", "-s", "-C", ROOT, "install", "PREFIX=" + prefix, "SYSCONFDIR=" + sysconf,
                            "STATEDIR=" + os.path.join(tmp, "var")],
                           env={"MAKEFLAGS": "", "MFLAGS": "", "MAKELEVEL": ""})
        equal((code, err), (0, ""), "make install")
        config = os.path.join(sysconf, "deqd", "deqd.yaml")
        with open(config) as f:
            text = f.read()
        with open(config, "w") as f:
            f.write(text.replace('listen: "127.0.0.1:8080"', 'listen: "127.0.0.1:0"').replace('name: ""',
                                                                                              'name: "installed"'))
        p = subprocess.Popen([prefix + "/bin/deqd"], cwd=tmp, env=clean_env(), stderr=subprocess.PIPE)
        first = json.loads(p.stderr.readline())
        equal((first["message"], first.get("model"), first.get("parameters")), ("listening", "installed", 3442944),
              "deqd without arguments")
        p.send_signal(signal.SIGINT)
        p.communicate(timeout=60 * SLOW)
        equal(p.returncode, 0, "its end")
        code, out, err = run([prefix + "/bin/deq", "--help"])
        check("generate %s/share/deqd/models/stories " % prefix in out,
              "deq's help names the installed model: %s" % out[-200:])
        code, out, _ = run([DEQD, "--print-config"])
        check(code == 0 and 'path: "models/stories"' in out, "a build tree's deqd reads no installed configuration")
        code, _, err = run([DEQD], cwd=tmp)
        check(code == 1 and "model.path: models/stories: not a directory" in err and "--model DIR" in err,
              "and says what to give: %s" % err)


def test_under_systemd():
    """The units as they are installed, under a real manager of systemd in namespaces of its own: start, keys, reload,
    the watchdog, a wrong configuration, the socket, a restart."""
    if SANITIZED:
        skip("systemd: the unit's sandbox forbids what sanitizers need")
        return
    needed = ("/lib/systemd/systemd", "/usr/lib/systemd/user/basic.target")
    if os.geteuid() or not shutil.which("unshare") or not all(os.path.exists(p) for p in needed):
        skip("systemd: needs root, unshare and the package systemd")
        return
    with place() as tmp:
        dest, home = os.path.join(tmp, "dest"), os.path.join(tmp, "home")
        os.mkdir(home)
        env = clean_env()
        for k in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "SAN"):
            env.pop(k, None)
        subprocess.run(["make", "-s", "install", "DESTDIR=" + dest, "PREFIX=/usr"], cwd=ROOT, env=env,
                       capture_output=True, check=True)
        with open(dest + "/etc/deqd/credentials/keys", "w") as f:  # printf %s secret | sha256sum
            f.write("ops 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b admin\n")
        os.chmod(dest + "/etc/deqd/credentials/keys", 0o600)
        wrap = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup", "--net"]
        p = subprocess.run(wrap + ["sh", "-c",
                                   "mount -t overlay o -o lowerdir=%s/usr:/usr /usr && umount -R /sys/fs/cgroup; mount "
                                   "-t cgroup2 none /sys/fs/cgroup" % dest],
                           capture_output=True, env=env)
        if p.returncode:
            skip("systemd: this machine gives no namespaces, overlay or cgroups of one's own: %s" %
                 p.stderr.decode().strip()[-200:])
            return
        here = os.path.dirname(os.path.abspath(__file__))
        p = subprocess.run(wrap + [PYTHON, os.path.join(here, "supervise_inner.py"), dest, home], capture_output=True,
                           env=env, timeout=180)
        if not check(p.returncode == 0, "the session under systemd: %s" % p.stderr.decode()[-1500:]):
            return
        o = json.loads(p.stdout.decode().strip().split("\n")[-1])
        if not o["manager"]:
            skip("systemd: its manager does not start here")
            return
        equal((o["start"], o["started"]),
              (0, {"ActiveState": "active", "StatusText": "serving stories at 127.0.0.1:8080", "NRestarts": "0"}),
              "systemctl start")
        check(o["process"]["Uid"] != "0", "a user of its own: %s" % o["process"])
        equal({k: v for k, v in o["process"].items() if k != "Uid"},
              {"CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}, "what it may")
        equal(o["answers"], [200, 401, 200], "with a key of the credentials, without one, the probe")
        equal((o["reload"], o["reloaded"]), (0, True), "systemctl reload")
        equal((o["stop"], o["stopped"]), (0, {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}),
              "systemctl stop")
        equal((o["watched"], o["hung"], o["after"]), ("0", True, 200),
              "the watchdog leaves a healthy one alone, and starts a hung one again")
        equal((o["wrong"] != 0, o["refused"]),
              (True, {"ActiveState": "failed", "ExecMainStatus": "2", "NRestarts": "0"}),
              "a wrong configuration is tried once")
        equal((o["socket"], o["asleep"], o["woken"]), (0, "inactive", 200), "the first connection starts it")
        check(o["restart"][0] == 0 and o["restart"][1] > 3 and not o["restart"][2],
              "a restart behind the socket: exit %s, %s requests, failures %s" % tuple(o["restart"]))
