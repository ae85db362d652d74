"""What tests/e2e/supervise.py runs inside its own namespaces, as root: mounts an installed tree over this machine's,
starts a service manager of systemd on it (a user's, in place of the system's: the same code runs the units), does what
an administrator would, and prints what it saw as JSON.

usage: supervise_inner.py DEST DIR, DEST: what make install PREFIX=/usr put there; DIR: an empty directory outside of
/tmp and /usr."""
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

dest, place = sys.argv[1:]
seen = {}
KEY = {"Authorization": "Bearer secret"}


def mount(*args):
    subprocess.run(("mount",) + args, check=True)


def ctl(*args):
    p = subprocess.run(("systemctl", "--user", "--no-pager") + args, capture_output=True, text=True, timeout=60)
    if p.returncode:
        print("systemctl %s: %s" % (" ".join(args), p.stderr.strip()), file=sys.stderr)
    return p.returncode


def show(unit="deqd.service", *names):
    p = subprocess.run(["systemctl", "--user", "show", unit] + ["-p" + n for n in names], capture_output=True,
                       text=True, timeout=60)
    return dict(line.split("=", 1) for line in p.stdout.split("\n") if "=" in line)


def until(seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = what()
        if got:
            return got
        time.sleep(0.02)
    return None


def ask(path="/v1/models", headers=KEY):
    """Status of an answer, or what went wrong."""
    try:
        with socket.create_connection(("127.0.0.1", 8080), timeout=30) as s:
            lines = "".join("%s: %s\r\n" % x for x in headers.items())
            s.sendall(("GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n" % (path, lines)).encode())
            return int(s.recv(64).split()[1])
    except (OSError, IndexError) as e:
        return repr(e)


def settings(**values):
    """deqd.service.d/test.conf; keys of the environment, but for the unit's own."""
    own = {k: values.pop(k) for k in list(values) if k in ("WatchdogSec",)}
    os.makedirs("/run/units/deqd.service.d", exist_ok=True)
    with open("/run/units/deqd.service.d/test.conf", "w") as f:
        f.write("[Service]\nStandardError=append:/run/deqd.log\n" + "".join("%s=%s\n" % x
                                                                            for x in own.items()) +
                "".join("Environment=DEQD_%s=%s\n" % x for x in values.items()))
    ctl("daemon-reload")


def log():
    with open("/run/deqd.log") as f:
        return [json.loads(x) for x in f if x.startswith("{")]


mount("--make-rshared", "/")  # as on a machine of its own: systemd hands credentials over so
mount("-t", "overlay", "o", "-o", "lowerdir=%s/usr:/usr" % dest, "/usr")
mount("-t", "overlay", "o", "-o", "lowerdir=%s/etc:/etc" % dest, "/etc")
mount("-t", "tmpfs", "t", "/run")
subprocess.run(["umount", "-R", "/sys/fs/cgroup"], capture_output=True)
mount("-t", "cgroup2", "none", "/sys/fs/cgroup")
with socket.socket() as s:  # lo, up
    name = struct.pack("16sh", b"lo", 0)
    flags = struct.unpack("16sh", fcntl.ioctl(s, 0x8913, name))[1]
    fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", flags | 1))
os.chmod("/run", 0o755)
os.makedirs("/run/systemd/system")
os.mkdir("/run/units")
for u in ("deqd.service", "deqd.socket"):
    shutil.copy("/usr/lib/systemd/system/" + u, "/run/units/" + u)
for u in ("basic", "shutdown", "sockets", "paths", "timers", "default", "exit"):
    shutil.copy("/usr/lib/systemd/user/%s.target" % u, "/run/units/")
shutil.copy("/usr/lib/systemd/user/systemd-exit.service", "/run/units/")
os.environ.update(HOME=place, XDG_RUNTIME_DIR="/run", SYSTEMD_UNIT_PATH="/run/units")
manager = subprocess.Popen(["/lib/systemd/systemd", "--user"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    seen["manager"] = until(10, lambda: ctl("show", "-p", "Version") == 0)
    os.chmod("/run/systemd/notify", 0o777)  # as the system's is: the service is another user
    os.chmod("/run/systemd", 0o755)
    usual = {"AUTH_KEYS_FILE": "/run/credentials/deqd.service/deqd_keys", "SERVER_DRAIN_DELAY_MS": "100"}
    settings(**usual)
    seen["start"] = ctl("start", "deqd.service")
    seen["started"] = show("deqd.service", "ActiveState", "StatusText", "NRestarts")
    pid = int(show("deqd.service", "MainPID")["MainPID"])
    with open("/proc/%d/status" % pid) as f:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    seen["process"] = {k: status.get(k, "").split()[0] for k in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}
    seen["answers"] = [ask(), ask(headers={}), ask("/health/ready", {})]
    seen["reload"] = ctl("reload", "deqd.service")
    seen["reloaded"] = bool(until(10, lambda: any(x["message"] == "reloaded" for x in log())))
    seen["stop"] = ctl("stop", "deqd.service")
    seen["stopped"] = show("deqd.service", "ActiveState", "Result", "ExecMainStatus")

    # an engine that hangs: one thread is stopped, and stays so until the process has ended
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import supervise
    settings(WatchdogSec="2", ENGINE_STALL_MS="300", **usual)
    ctl("start", "deqd.service")
    pid = int(show("deqd.service", "MainPID")["MainPID"])
    time.sleep(3)
    seen["watched"] = show("deqd.service", "MainPID", "NRestarts")["NRestarts"]
    held = supervise.Held(supervise.thread_named(pid, "engine"))

    def restarted():
        try:
            os.waitpid(held.tid, 0x40000000 | os.WNOHANG)
        except ChildProcessError:
            pass
        now = show("deqd.service", "MainPID", "NRestarts", "ActiveState")
        return now["NRestarts"] == "1" and now["ActiveState"] == "active" and int(now["MainPID"]) != pid
    seen["hung"] = bool(until(15, restarted))
    seen["after"] = ask()
    ctl("stop", "deqd.service")

    # a configuration that is wrong is not tried again
    settings(ENGINE_THREADS="many")
    seen["wrong"] = ctl("start", "deqd.service")
    time.sleep(3)
    seen["refused"] = show("deqd.service", "ActiveState", "ExecMainStatus", "NRestarts")
    ctl("reset-failed", "deqd.service")

    # the first connection starts it; a restart loses nobody
    settings(**usual)
    seen["socket"] = ctl("start", "deqd.socket")
    seen["asleep"] = show("deqd.service", "ActiveState")["ActiveState"]
    seen["woken"] = ask()
    restart = subprocess.Popen(["systemctl", "--user", "restart", "deqd.service"])
    answers = []
    while restart.poll() is None:
        answers.append(ask())
    seen["restart"] = [restart.returncode, len(answers), [x for x in answers if x != 200][:5]]
    ctl("stop", "deqd.socket", "deqd.service")
except Exception:
    print(json.dumps(seen), file=sys.stderr)
    with open("/run/deqd.log") if os.path.exists("/run/deqd.log") else open(os.devnull) as f:
        print(f.read()[-2000:], file=sys.stderr)
    raise
finally:
    manager.send_signal(signal.SIGTERM)
    try:
        manager.wait(20)
    except subprocess.TimeoutExpired:
        manager.kill()
print(json.dumps(seen))
