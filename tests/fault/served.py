"""A daemon that things go wrong for: on a Unix socket, since its log may be lost, and asked by a client that expects
nothing."""
import http.client
import json
import os
import signal
import socket
import subprocess
import time

from lib import DEQD, PATIENCE_S, SANITIZER_WORDS, SLOW, TINY, check, clean_env, short


class _Unix(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout * SLOW)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Served:
    """dir: has its socket; settings: key=value; env: beside the usual; log: a file for standard error."""

    def __init__(self, dir, *settings, env=None, log=None, command=(), model=TINY):
        self.path = os.path.join(dir, "socket")
        self.log = os.path.join(dir, "log") if log is None else log
        self.label = " ".join(command[-1:]) or (env or {}).get("DEQ_FAULT", "deqd")
        argv = list(command) + [DEQD, "--model", model, "--listen", "unix:" + self.path]
        for s in ("server.drain_delay_ms=0", "sampling.seed=0", "engine.threads=2") + settings:
            argv += ["--set", s]
        with open(self.log, "ab") as f:
            self.p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=f,
                                      env=clean_env(env))

    def request(self, method, path, body=None, timeout=2 * PATIENCE_S):
        """(status, body), or (0, why) when the connection is cut: after a minute by the daemon's watcher at the latest,
        where a failing write to libmicrohttpd's eventfd has lost the word that an answer is there."""
        c = _Unix(self.path, timeout)
        try:
            c.request(method, path, json.dumps(body) if body is not None else None,
                      {"Content-Type": "application/json"} if body is not None else {})
            r = c.getresponse()
            return r.status, r.read()
        except TimeoutError:
            check(False, "%s: %s %s is answered, or cut\n%s" % (self.label, method, path, self.text()[-1500:]))
            return 0, b"no answer"
        except (OSError, http.client.HTTPException) as e:
            return 0, repr(e).encode()
        finally:
            c.close()

    def up(self, patience=PATIENCE_S):
        """Ready; False: it has ended."""
        until = time.monotonic() + patience * SLOW
        while self.p.poll() is None:
            if self.request("GET", "/health/ready")[0] == 200:
                return True
            if time.monotonic() > until:
                self.p.kill()
                self.p.wait()
                check(False, "it is ready or ends")
                return False
            time.sleep(0.003)
        return False

    def end(self, sig=signal.SIGTERM):
        """Its exit code, negative for a signal; nothing of it may be a crash."""
        if self.p.poll() is None:
            self.p.send_signal(sig)
        try:
            code = self.p.wait(PATIENCE_S * SLOW)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
            code = None
        text = self.text()
        check(not any(w in text for w in SANITIZER_WORDS), "no sanitizer report: " + text[-3000:])
        check('"message":"bug"' not in text, "every invariant held: " + text[-2000:])
        check(code is not None, "it ends when asked to")
        return code

    def text(self):
        try:
            with open(self.log, "rb") as f:
                return f.read().decode("utf-8", "replace")
        except OSError as e:
            return repr(e)


def good(answer, text):
    return check(answer[0] == 200, "%s: %d %s" % (text, answer[0], short(answer[1])))


def texts(answer):
    """The choices of a completion, or None."""
    return [c["text"] for c in json.loads(answer[1])["choices"]] if answer[0] == 200 else None
