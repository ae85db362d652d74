"""HAProxy with the repository's own etc/haproxy/haproxy.cfg, retargeted to free ports of this machine, before replicas
of deqd; and what is read from it."""
import csv
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "e2e"))
sys.dont_write_bytecode = True
import lib  # noqa: E402
from lib import SLOW  # noqa: E402

CONFIG = os.path.join(lib.ROOT, "etc", "haproxy", "haproxy.cfg")
STORIES = os.path.join(lib.ROOT, "models", "stories-transformer")


def free_ports(n):
    socks = [socket.socket() for _ in range(n)]
    for s in socks:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


def retarget(ports, replicas, directory, edits=()):
    """The shipped configuration with other addresses and nothing that needs root. Every edit must find its line, so the
    file cannot drift from its test. edits: further (line, replacement), to turn one thing of the configuration."""
    with open(CONFIG, encoding="utf-8") as f:
        lines = f.read().split("\n")
    changes = [("log /dev/log local0", "log stdout format raw local0"), ("chroot /var/lib/haproxy", None),
               ("user haproxy", None), ("group haproxy", None),
               ("daemon", None),
               ("stats socket /run/haproxy/admin.sock mode 660 level admin",
                "stats socket %s/admin.sock mode 600 level admin" % directory),
               ("bind :8080", "bind 127.0.0.1:%d" % ports[0]), ("bind 127.0.0.1:8405", "bind 127.0.0.1:%d" % ports[1])]
    for i in range(3):
        old = "server deqd%d 127.0.0.1:%d id %d" % (i + 1, 8081 + i, i + 1)
        changes.append((old, old.replace(str(8081 + i), str(replicas[i])) if i < len(replicas) else None))
    for old, new in changes + list(edits):
        at = [i for i, line in enumerate(lines) if line.strip() == old]
        if len(at) != 1:
            raise RuntimeError("%s: the line \"%s\" stands %d times in it, expected once" % (CONFIG, old, len(at)))
        lines[at[0]] = "    " + new if new else ""
    return "\n".join(lines)


class Proxy:
    """lib.Daemon's methods that talk HTTP work on it. edits: as retarget's."""
    host, unix, tls, key = "127.0.0.1", None, None, None
    connect, http = lib.Daemon.connect, lib.Daemon.http
    request, post, get = lib.Daemon.request, lib.Daemon.post, lib.Daemon.get
    complete, stream = lib.Daemon.complete, lib.Daemon.stream

    def __init__(self, replicas, edits=()):
        self.dir = tempfile.mkdtemp(prefix="deqd-haproxy-")  # short: it holds a unix socket
        self.port, self.stats_port = free_ports(2)
        path = os.path.join(self.dir, "haproxy.cfg")
        with open(path, "w", encoding="utf-8") as f:
            f.write(retarget((self.port, self.stats_port), [d.port for d in replicas], self.dir, edits))
        self.out = open(os.path.join(self.dir, "log"), "w+b")
        self.p = subprocess.Popen(["haproxy", "-db", "-f", path], stdin=subprocess.DEVNULL, stdout=self.out,
                                  stderr=subprocess.STDOUT)
        until = time.monotonic() + 10 * SLOW
        while True:
            try:
                self.connect().close()
                break
            except OSError:
                if time.monotonic() > until or self.p.poll() is not None:
                    self.p.kill()
                    raise RuntimeError("haproxy did not start: %s" % self.log())
                time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.p.terminate()
        try:
            self.p.wait(5 * SLOW)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait(10)
        self.out.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def log(self):
        return os.pread(self.out.fileno(), 1 << 28, 0).decode("utf-8", "replace")

    def lines(self):
        """The requests of the log as it is by now."""
        return [json.loads(x) for x in self.log().split("\n")[:-1] if x.startswith("{")]

    def servers(self):
        """{server or BACKEND: its row of `show stat`}"""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(os.path.join(self.dir, "admin.sock"))
            s.sendall(b"show stat\n")
            text = b""
            while part := s.recv(65536):
                text += part
        rows = csv.DictReader(text.decode().lstrip("# ").strip().split("\n"))
        return {r["svname"]: r for r in rows if r["pxname"] == "deqd"}

    def idle(self):
        """Until nothing is under way. HAProxy counts a request for a moment longer than its client does, and the
        bounded load goes by that count."""
        until = time.monotonic() + 5 * SLOW
        while int(self.servers()["BACKEND"]["scur"]) and time.monotonic() < until:
            time.sleep(0.002)

    def wait_status(self, server, status, seconds):
        """Seconds until the server is UP or DOWN, or None."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds * SLOW:
            if self.servers()[server]["status"].split()[0] == status:
                return time.monotonic() - begin
            time.sleep(0.02)
        return None


class Replicas:
    """Three deqds on ports that they keep when they are started again. rep[0] is server deqd1."""

    def __init__(self, *settings, model=lib.TINY, n=3, threads=1):
        self.settings, self.model = ("engine.threads=%d" % threads,) + settings, model
        self.rep = [lib.Daemon(*self.settings, model=model) for _ in range(n)]

    def start(self, i):
        self.rep[i] = lib.Daemon(*self.settings, model=self.model, listen="127.0.0.1:%d" % self.rep[i].port)

    def kill(self, i):
        self.rep[i].p.kill()
        self.rep[i].p.wait()
        self.rep[i].checked = True  # its log may end within a line

    def __getitem__(self, i):
        return self.rep[i]

    def __iter__(self):
        return iter(self.rep)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, tb):
        for d in self.rep:
            d.__exit__(kind, value, tb)
