#!/usr/bin/env python3
"""The image under test, looked at and run: read-only, arbitrary users, no capabilities, SIGTERM, bad input. Started by
run.sh (which sets DEQ_STORE). Runs it with podman (crun, else runc) where that works, else by confine.py; what a runner
cannot do is skipped with its reason.
    smoke.py [FILTER...]"""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
import lib  # noqa: E402
from lib import check, equal, skip  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.join(ROOT, "tests", "docker")
STORE = os.environ["DEQ_STORE"].split()
IMAGE = os.environ.get("DEQ_IMAGE", "localhost/deqd:test")
MODEL = "/usr/share/deqd/models/stories"
LIMIT_BYTES = 80e6  # of the image, besides the model
NOFILE = 4096       # a limit that any machine lets us set, and that the default configuration fits into


def call(*args, **more):
    return subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=120, **more)


def buildah(*args):
    p = call("buildah", *STORE, *args)
    if p.returncode:
        raise RuntimeError("buildah %s: %s" % (args[0], p.stderr.strip()))
    return p.stdout.strip()


# --- Two ways to run it ---

class Container:
    """A started program: stop() sends the image's stop signal and gives (exit code, seconds)."""

    def __init__(self, process, name=None):
        self.process, self.name = process, name
        self.err = None

    def wait(self, timeout):
        try:
            self.out, self.err = self.process.communicate(timeout=timeout)
            return self.process.returncode
        except subprocess.TimeoutExpired:
            self.kill()
            return None


class Podman:
    """Everything that compose.yaml asks for, by a real runtime."""
    name = "podman"
    memory_limit = True

    def __init__(self, runtime):
        self.base = ["podman", *STORE, "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", runtime,
                     # it complains that no systemd runs the health check's timer; probe() asks by hand
                     "--log-level", "fatal"]
        self.name = "podman with " + runtime
        self.made = []
        # podman asks for more descriptors and processes than a confined root may set
        conf = os.path.join(tmp, "containers.conf")
        with open(conf, "w") as f:
            f.write('[containers]\ndefault_ulimits = ["nofile=%d:%d", "nproc=4096:4096"]\n' % (NOFILE, NOFILE))
        os.environ["CONTAINERS_CONF"] = conf

    def start(self, *args, env=(), user=None, binds=(), program=None, network="host", memory="512m", cpus=None):
        name = "deqd-test-%d-%d" % (os.getpid(), len(self.made))
        self.made.append(name)
        cmd = self.base + ["run", "--rm", "--name", name, "--network", network, "--read-only",
                           "--read-only-tmpfs=false", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
                           "--memory", memory, "--memory-swap", memory, "--pids-limit", "128", "--log-driver", "none"]
        cmd += ["--user", user] if user else []
        cmd += ["--cpus", str(cpus)] if cpus else []
        for e in env:
            cmd += ["--env", e]
        for source, target in binds:
            cmd += ["--volume", "%s:%s:ro" % (source, target)]
        cmd += ["--entrypoint", program] if program else []
        # in tmp, because conmon leaves a file named oom in its directory when the kernel kills
        c = Container(subprocess.Popen(cmd + [IMAGE, *args], cwd=tmp, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=subprocess.PIPE, text=True),
                      name)
        c.kill = lambda: call(*self.base, "kill", "--signal", "KILL", name)
        c.term = lambda: subprocess.Popen(self.base + ["stop", "--time", "60", name], stdout=subprocess.DEVNULL,
                                          stderr=subprocess.DEVNULL)
        return c

    def pid(self, c):
        return int(call(*self.base, "inspect", "--format", "{{.State.Pid}}", c.name).stdout)

    def probe(self, c, env=()):
        """The image's own health check, in the running container."""
        return call(*self.base, "healthcheck", "run", c.name).returncode

    def close(self):
        for name in self.made:
            call(*self.base, "rm", "--force", "--time", "0", "--ignore", name)


class Confined:
    name = "confine.py"
    memory_limit = False

    def __init__(self):
        self.container = buildah("from", "--pull-never", IMAGE)
        self.root = buildah("mount", self.container)
        self.settings = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
        self.running = []

    def start(self, *args, env=(), user=None, binds=(), program=None, network="host", memory=None):
        full = dict(e.split("=", 1) for e in [*self.settings["Env"], *env])
        cmd = [sys.executable, os.path.join(HERE, "confine.py"), self.root, user or self.settings["User"]]
        for source, target in binds:
            # a runtime makes the mount point; the image is read-only only for what runs in it
            os.makedirs(self.root + target, exist_ok=True) if os.path.isdir(source) else open(self.root + target,
                                                                                              "a").close()
            cmd += ["--bind", "%s:%s" % (source, target)]
        p = subprocess.Popen(cmd + [program or self.settings["Entrypoint"][0], *args], env=full,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        c = Container(p)
        c.kill, c.term = p.kill, p.terminate
        c.env, c.user = env, user
        self.running.append(p)
        return c

    def pid(self, c):
        with open("/proc/%d/task/%d/children" % (c.process.pid, c.process.pid)) as f:
            return int(f.read().split()[0])

    def probe(self, c, env=()):
        return self.start("--health-probe", env=c.env, user=c.user).wait(20)

    def close(self):
        for p in self.running:
            p.kill()
            p.wait()
        buildah("umount", self.container)
        buildah("rm", self.container)


def choose_runner():
    want = os.environ.get("DEQ_RUNNER", "")
    if want in ("", "podman"):
        for runtime in ("crun", "runc"):
            if not shutil.which("podman") or not shutil.which(runtime):
                print("docker: no podman with %s: not installed" % runtime)
                continue
            r = Podman(runtime)
            c = r.start("--version")
            code = c.wait(60)
            if code == 0:
                return r
            print("docker: no podman with %s: %s" % (runtime, (c.err or "no end within 60 s").strip().splitlines()[-1]))
            r.close()
    if want == "podman":
        sys.exit("docker: podman was asked for and does not work here")
    return Confined()


# --- Talking to it ---

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Served:
    """A daemon that became ready (or not: then its standard error is in the failure)."""

    def __init__(self, env=(), wait=True, **more):
        self.port = free_port()
        self.c = runner.start(env=["DEQD_SERVER_LISTEN=127.0.0.1:%d" % self.port, *env], **more)
        end = time.monotonic() + 60
        while wait and time.monotonic() < end and self.c.process.poll() is None:
            try:
                if self.get("/health/ready")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)
        if wait:
            self.c.kill()
            raise RuntimeError("not ready: %s" % self.c.process.communicate(timeout=20)[1].strip())

    def request(self, method, path, body=None):
        h = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        h.request(method, path, json.dumps(body) if body else None)
        return h, h.getresponse()

    def get(self, path):
        h, r = self.request("GET", path)
        with r:
            text = r.read().decode()
        h.close()
        return r.status, text

    def complete(self, **body):
        h, r = self.request("POST", "/v1/completions", {"prompt": "Once upon a time", "max_tokens": 16, **body})
        with r:
            text = r.read().decode()
        h.close()
        return r.status, text

    def stop(self, timeout=60):
        """(exit code, seconds from the signal to the end)"""
        begin = time.monotonic()
        self.c.term()
        return self.c.wait(timeout), time.monotonic() - begin


def events(text):
    return [line[6:] for line in text.split("\n") if line.startswith("data: ")]


def reason(line):
    """Of a plain line, or of a line of the log."""
    if line.startswith("{"):
        return json.loads(line)["reason"]
    return line[len("deqd: "):] if line.startswith("deqd: ") else "?" + line


QUICK = ("DEQD_SERVER_DRAIN_DELAY_MS=0",)


# --- The image ---

def with_files(fn):
    container = buildah("from", "--pull-never", IMAGE)
    try:
        return fn(buildah("mount", container))
    finally:
        buildah("umount", container)
        buildah("rm", container)


def test_settings():
    image = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]
    conf = image["config"]
    version = re.search(r"^VERSION := (\S+)", open(os.path.join(ROOT, "Makefile")).read(), re.M).group(1)
    equal(conf["User"], "65532:65532", "user")
    equal(conf["Entrypoint"], ["/usr/bin/deqd"], "entry point")
    equal(conf["StopSignal"], "SIGTERM", "stop signal")
    equal(conf["Healthcheck"]["Test"], ["CMD", "/usr/bin/deqd", "--health-probe"], "health check")
    equal(list(conf["ExposedPorts"]), ["8080/tcp"], "ports")
    label = {k.rsplit(".", 1)[1]: v for k, v in conf["Labels"].items() if k.startswith("org.opencontainers.image.")}
    for key in ("title", "description", "licenses", "source", "version", "revision"):
        check(key in label, "label %s" % key)
    equal(label.get("version"), version, "version's label")
    equal(len(image["rootfs"]["diff_ids"]), 1, "layers")


def test_files():
    def look(root):
        total = model = 0
        for folder, dirs, files in os.walk(root):
            for name in dirs + files:
                path = os.path.join(folder, name)
                inside, st = path[len(root):], os.lstat(path)
                check(not st.st_mode & (stat.S_ISUID | stat.S_ISGID), "%s is set-uid or set-gid" % inside)
                check(stat.S_ISLNK(st.st_mode) or not st.st_mode & 0o022, "%s can be written by others" % inside)
                check(st.st_mode & 0o004, "%s cannot be read by every user" % inside)
                equal((st.st_uid, st.st_gid), (0, 0), "owner of " + inside)
                check(inside in ("/usr/bin/deqd", "/usr/bin/deq") or not inside.startswith("/usr/bin/"),
                      "%s: a program" % inside)
                if stat.S_ISREG(st.st_mode):
                    total += st.st_size
                    model += st.st_size if inside.startswith(MODEL) else 0
        for program in ("deqd", "deq"):
            equal(call("chroot", root, "/usr/bin/" + program, "--version").stdout.split()[0:1], [program],
                  program + " with the image's libraries")
        licences = set(os.listdir(root + "/usr/share/doc"))
        records = os.listdir(root + "/var/lib/dpkg/status.d")
        check({"deq", "deqd", "deq-model-stories", "libc6"} <= set(records), "records of packages: %s" % records)
        for package in records:
            check(package in licences, "licence of " + package)
        print("docker: %.1f MB besides the model (%.1f MB)" % ((total - model) / 1e6, model / 1e6), flush=True)
        check(total - model <= LIMIT_BYTES,
              "%.1f MB besides the model, at most %.0f" % ((total - model) / 1e6, LIMIT_BYTES / 1e6))
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            with open(root + MODEL + "/" + name, "rb") as a, open(os.path.join(ROOT, "models/stories", name),
                                                                  "rb") as b:
                check(a.read() == b.read(), "%s is the sources'" % name)
    with_files(look)


def test_packages_of_the_readme():
    """What the README installs to build, the build stage installs too."""
    readme = open(os.path.join(ROOT, "README.md")).read()
    dockerfile = set(open(os.path.join(ROOT, "docker", "Dockerfile")).read().split())
    line = re.search(r"^    apt-get update .*&& make run$", readme, re.M).group(0)
    needed = [w for w in line.split() if w.endswith("-dev") or w in ("make", "gcc")]
    check(len(needed) > 4, "packages in the README's line")
    for package in needed:
        check(package in dockerfile, "docker/Dockerfile does not install " + package)


# --- The daemon in it ---

def test_as_shipped():
    """No flag, no variable, no mount, no network but loopback: it serves the shipped model, and the image's health
    check says so."""
    if not runner.memory_limit:
        return skip("port 8080 of the machine is not ours: needs podman's own network")
    c = runner.start(network="none")
    end = time.monotonic() + 60
    while (code := runner.probe(c)) and time.monotonic() < end:
        time.sleep(0.1)
    equal(code, 0, "health check")
    with open("/proc/%d/net/tcp" % runner.pid(c)) as f:
        check(" 00000000:1F90 " in f.read(), "listens on 0.0.0.0:8080")
    c.term()
    equal(c.wait(60), 0, "exit code")


def test_users():
    for user in ("65532:65532", "12345:0", "1000650000:0", "0:0"):
        s = Served(env=[*QUICK, "HOME=/nonexistent"], user=user)
        status, text = s.complete(seed=7)
        equal(status, 200, "completion as %s" % user)
        check(len(json.loads(text)["choices"][0]["text"]) > 0, "text as %s: %s" % (user, text))
        status, text = s.complete(seed=7, stream=True)
        equal((status, events(text)[-1:]), (200, ["[DONE]"]), "stream as %s" % user)
        status, text = s.get("/metrics")
        check(status == 200 and "\ndeqd_tokens" in text or "\ndeqd_" in text, "metrics as %s" % user)
        equal(runner.probe(s.c), 0, "health check as %s" % user)
        equal(s.stop()[0], 0, "exit code as %s" % user)
        check('"stopped"' in s.c.err, "the last line of the log: %s" % s.c.err[-300:])


def test_confinement():
    """The tests above mean something only if the walls stand."""
    s = Served(env=QUICK, user="12345:0")
    pid = runner.pid(s.c)
    status = dict(line.rstrip("\n").split(":\t", 1) for line in open("/proc/%d/status" % pid) if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        equal(int(status[name], 16), 0, name)
    equal(status["NoNewPrivs"], "1", "NoNewPrivs")
    equal(status["Uid"].split()[0] + ":" + status["Gid"].split()[0], "12345:0", "user")
    equal(status["NSpid"].split()[-1], "1", "its number in its own namespace")
    root = [line.split()[3].split(",") for line in open("/proc/%d/mounts" % pid) if line.split()[1] == "/"]
    check(root and "ro" in root[-1], "root is read-only: %s" % root)
    opened = [os.readlink("/proc/%d/fd/%s" % (pid, fd)) for fd in os.listdir("/proc/%d/fd" % pid)]
    check(not [p for p in opened if p.startswith("/") and not p.startswith("/dev/")], "no file stays open: %s" % opened)
    equal(s.stop()[0], 0, "exit code")


def test_share_of_processors():
    """Compute threads by the container's quota, not by the machine: threads at a barrier would spend the quota on
    waiting."""
    if not runner.memory_limit:
        return skip("confine.py sets no quota")
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return skip("one processor only")
    for cpus in (None, 1, 1.5):
        s = Served(env=QUICK, cpus=cpus)
        pid = runner.pid(s.c)
        names = [open("/proc/%d/task/%s/comm" % (pid, t)).read().strip() for t in os.listdir("/proc/%d/task" % pid)]
        # the engine's own thread computes too
        equal(names.count("pool") + 1, 1 if cpus else cores, "compute threads with --cpus %s: %s" % (cpus, names))
        equal(s.stop()[0], 0, "exit code")


def test_term_under_a_stream():
    """A running stream may finish; the container ends by itself, long before an orchestrator would kill it."""
    s = Served(env=["DEQD_SERVER_DRAIN_DELAY_MS=300"])
    h, r = s.request("POST", "/v1/completions",
                     {"prompt": "Once upon a time", "max_tokens": 480, "ignore_eos": True, "stream": True,
                      "deq": {"min_iter": 32, "max_iter": 32}})
    first = r.readline()
    s.c.term()
    text = first.decode() + r.read().decode()
    code = s.c.wait(40)
    equal(code, 0, "exit code")
    equal(events(text)[-1:], ["[DONE]"], "the stream's end")
    check('"draining"' in s.c.err and '"stopped"' in s.c.err, "log: %s" % s.c.err[-400:])
    h.close()


def test_term_when_time_is_up():
    s = Served(env=["DEQD_SERVER_DRAIN_DELAY_MS=200", "DEQD_SERVER_SHUTDOWN_TIMEOUT_MS=300",
                    "DEQD_LIMITS_MAX_ITER=1000", "DEQD_ENGINE_THREADS=1"])
    h, r = s.request("POST", "/v1/completions",
                     {"prompt": "Once upon a time", "max_tokens": 480, "ignore_eos": True, "stream": True,
                      "deq": {"min_iter": 1000, "max_iter": 1000}})
    r.readline()
    code, seconds = s.stop(40)
    equal(code, 0, "exit code")
    # 0.5 s of drain, up to 2 s for what is written but not read, and a loaded machine's time to start `podman stop`
    check(seconds < 8, "took %.1f s" % seconds)
    last = events(r.read().decode())[-1]
    check(last != "[DONE]" and "error" in last, "the stream says that it was cut: %s" % last[:200])
    h.close()


def test_signals_of_process_1():
    """The kernel drops signals that process 1 does not take. A second SIGTERM ends the drain; SIGINT waits for no load
    balancer."""
    for second, env in ((signal.SIGTERM, ["DEQD_SERVER_DRAIN_DELAY_MS=60000"]),
                        (None, ["DEQD_SERVER_DRAIN_DELAY_MS=60000"])):
        s = Served(env=env)
        pid = runner.pid(s.c)
        os.kill(pid, signal.SIGTERM if second else signal.SIGINT)
        time.sleep(0.5)
        if second:
            check(s.c.process.poll() is None, "the first SIGTERM drains")
            os.kill(pid, second)
        equal(s.c.wait(20), 0, "exit code")


def test_orphans_are_reaped():
    """Process 1 inherits what debuggers and exec leave behind: nothing may stay as a zombie."""
    s = Served(env=QUICK)
    pid = runner.pid(s.c)
    # in the daemon's process namespace only: a parent that ends before its child
    p = call("nsenter", "--target", str(pid), "--pid", "--", sys.executable, "-c",
             "import os, time; os.fork() or (os.close(1), os.close(2), time.sleep(1))")
    equal(p.returncode, 0, "nsenter: %s" % p.stderr)

    def children():
        found = []
        for task in os.listdir("/proc/%d/task" % pid):
            with open("/proc/%d/task/%s/children" % (pid, task)) as f:
                found += f.read().split()
        return found
    check(children(), "the orphan came to process 1")
    end = time.monotonic() + 10
    while children() and time.monotonic() < end:
        time.sleep(0.1)
    equal(children(), [], "children left")
    equal(s.get("/health/live")[0], 200, "alive")
    equal(s.stop()[0], 0, "exit code")


def test_command_line():
    c = runner.start("generate", MODEL, "Once upon a time", "--max-tokens", "12", program="/usr/bin/deq",
                     user="12345:0")
    equal(c.wait(60), 0, "deq generate")
    check(len(c.out.strip()) > 10, "text: %r" % c.out)


def test_mounted_model():
    """/models is where others go, read-only, under the name of its directory; a configuration file mounted over the
    image's."""
    other = os.path.join(tmp, "deqd.yaml")
    port = free_port()
    with open(other, "w") as f:
        f.write("server:\n  listen: \"127.0.0.1:%d\"\nmodel:\n  path: \"/models/tiny\"\n" % port)
    os.chmod(other, 0o644)
    s = Served(env=[*QUICK, "DEQD_MODEL_PATH=/models/tiny"], user="12345:0",
               binds=[(os.path.join(ROOT, "tests/golden/tiny"), "/models/tiny")])
    equal([m["id"] for m in json.loads(s.get("/v1/models")[1])["data"]], ["tiny"], "model")
    equal(s.stop()[0], 0, "exit code")
    c = runner.start("--print-config", binds=[(other, "/etc/deqd/deqd.yaml")])
    equal(c.wait(60), 0, "deqd --print-config")
    check("127.0.0.1:%d" % port in c.out and "/models/tiny" in c.out, "the mounted file counts: %s" % c.out[:300])


def test_bad_input():
    """One line that says what is wrong, and the documented exit code: an orchestrator's log then shows why it
    restarts."""
    def copy(name, change):
        path = os.path.join(tmp, name)
        shutil.copytree(os.path.join(ROOT, "models/stories"), path)
        change(path)
        return path

    def cut(path):
        with open(path + "/model.safetensors", "r+b") as f:
            f.truncate(1000000)

    def flip(path):
        with open(path + "/model.safetensors", "r+b") as f:
            f.seek(20)
            f.write(b"\xff\xff")

    empty = copy("empty", lambda p: [os.remove(p + "/" + n) for n in os.listdir(p)])
    keys = os.path.join(tmp, "keys")
    with open(keys, "w") as f:
        f.write("me %s\n" % ("0" * 64))
    os.chmod(keys, 0o600)
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    other = "DEQD_MODEL_PATH=/models/m"
    cases = [
        ("no mount", 1, r"/models/m: ", [other], []),
        ("an empty mount", 1, r"/models/m/config\.json: ", [other], [(empty, "/models/m")]),
        ("a model cut short", 1, r"/models/m/model\.safetensors: ", [other], [(copy("cut", cut), "/models/m")]),
        ("a damaged header", 1, r"/models/m/model\.safetensors: ", [other], [(copy("flip", flip), "/models/m")]),
        ("weights that the user may not read", 1, r"/models/m/model\.safetensors: .*[Pp]ermission", [other],
         [(copy("secret", lambda p: os.chmod(p + "/model.safetensors", 0o600)), "/models/m")]),
        ("keys that the user may not read", 1, r"auth\.keys_file: /keys: .*[Pp]ermission",
         ["DEQD_AUTH_KEYS_FILE=/keys"], [(keys, "/keys")]),
        ("no keys", 1, r"auth\.keys_file: /keys: ", ["DEQD_AUTH_KEYS_FILE=/keys"], []),
        ("a taken port", 1, r"server\.listen: .*127\.0\.0\.1:%d: " % port, ["DEQD_SERVER_LISTEN=127.0.0.1:%d" % port],
         []),
        ("a wrong value", 2, r"engine\.max_sequences", ["DEQD_ENGINE_MAX_SEQUENCES=many"], []),
        ("no such file of configuration", 2, r"/nowhere\.yaml: ", ["DEQD_CONFIG=/nowhere.yaml"], []),
        ("more connections than descriptors", 1, r"server\.max_connections: ", ["DEQD_SERVER_MAX_CONNECTIONS=99999"],
         []),
    ]
    for text, code, pattern, env, binds in cases:
        if text.startswith("more") and not runner.memory_limit:
            skip("%s: confine.py sets no such limit" % text)
            continue
        c = runner.start(env=["DEQD_SERVER_LISTEN=127.0.0.1:0", *env], user="12345:12345", binds=binds)
        equal(c.wait(60), code, "%s: exit code (%s)" % (text, c.err))
        lines = c.err.strip().split("\n")
        equal(len(lines), 1, "%s: lines: %s" % (text, c.err))
        check(re.search(pattern, reason(lines[0])), "%s: %s" % (text, lines[0]))
    taken.close()


def test_too_little_memory():
    """Under every limit it either serves or says in one line what it needs; the kernel need not kill it (137), which no
    log would explain."""
    if not runner.memory_limit:
        return skip("confine.py sets no limit")
    ends = []
    for mb in (16, 32, 48, 64, 96, 160, 192, 224, 256, 320):  # with the answers' budget of 128 MiB
        memory = "%dm" % mb
        # as many sequences as it may have at once, so that every reserved page is touched
        s = Served(env=QUICK, memory=memory, wait=False)
        end = time.monotonic() + 30
        ready = False
        while not ready and s.c.process.poll() is None and time.monotonic() < end:
            try:
                ready = s.get("/health/ready")[0] == 200
            except OSError:
                time.sleep(0.05)
        if ready:
            ends.append("serves")
            status, text = s.complete(prompt=["Once upon a time"] * 32, max_tokens=200, ignore_eos=True)
            equal(status, 200, "%s: completions (%s)" % (memory, text[:200]))
            equal(s.stop()[0], 0, memory + ": exit code")
            continue
        ends.append("refuses")
        equal(s.c.wait(30), 2, "%s: exit code (%s)" % (memory, s.c.err))
        lines = s.c.err.strip().split("\n")
        equal(len(lines), 1, "%s: lines: %s" % (memory, s.c.err))
        check("memory" in reason(lines[0]) and re.search(r"[0-9]", lines[0]), "%s: %s" % (memory, lines[0]))
    equal((ends[0], ends[-1]), ("refuses", "serves"), "least and most: %s" % ends)
    equal(ends, sorted(ends), "more memory, better")  # "refuses" < "serves"


if __name__ == "__main__":
    tmp = tempfile.mkdtemp(prefix="deqd-docker-")
    os.chmod(tmp, 0o755)
    runner = choose_runner()
    print("docker: run by %s" % runner.name, flush=True)
    try:
        failed = lib.main("docker", parts=sys.argv[1:])
    finally:
        runner.close()
        shutil.rmtree(tmp)
    sys.exit(failed)
