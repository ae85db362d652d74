#!/usr/bin/env python3
"""The Debian packages of build/deb, from installation to purge, in a Debian root of their own. Started by run.sh, in
namespaces of mounts and processes of its own; the root is made anew of build/docker/base.tar and removed at the end.
    packages.py DIRECTORY-OF-PACKAGES"""
import ctypes
import fcntl
import glob
import gzip
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from lib import check, counts, equal, main  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEBS = os.path.abspath(sys.argv[1])
SYSTEM = os.path.join(DEBS, "root")
STORIES, ONCE = "/usr/share/deqd/models/stories", "Once upon a time"
CONF, UNIT = "/etc/deqd/deqd.yaml", "/lib/systemd/system/deqd.service"
DYNAMIC_USER = 61184  # the first of those that systemd takes for DynamicUser=
OURS = ("deq", "deq-model-stories", "deqd", "libdeq-dev", "libdeq")


def run(*args, timeout=600, **more):
    p = subprocess.run(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       timeout=timeout, **more)
    return p.returncode, p.stdout, p.stderr


def inside(*args):
    """A command in the root, as its root: (exit code, output, errors)."""
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    env.update({k: v for k, v in os.environ.items() if k.lower().endswith("_proxy")})
    return run("chroot", SYSTEM, *args, env=env)


def done(*args):
    """Its output; a failure is one of the test and ends it."""
    code, out, err = inside(*args)
    if not check(code == 0, "%s: exit %d\n%s%s" % (" ".join(args), code, out[-2000:], err[-2000:])):
        raise RuntimeError("nothing to go on with")
    return out


def at(path):
    return SYSTEM + path


def there(path):
    return os.path.lexists(at(path))


def package(name):
    """Its file; libdeq's name has the soname's version."""
    (found,) = [f for f in os.listdir(DEBS) if re.fullmatch(name + r"[\d.]*_[^-]*\.deb", f)]
    return found


def state(name):
    code, out, _ = inside("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", name)
    return out.strip() if code == 0 else None


def everything():
    """Every path of the root but for what apt and dpkg keep of what passed, logs and caches."""
    own = re.compile(r"/(proc|dev|packages|tmp)(/|$)|/var/(cache|log|lib/apt|lib/dpkg)/|"
                     # before a package of another's is removed, dpkg has made these
                     r"/etc/(ld\.so\.cache|\.pwd\.lock)$")
    found = set()
    for folder, folders, files in os.walk(SYSTEM):
        here = folder[len(SYSTEM):]
        folders[:] = [f for f in folders if not own.match("%s/%s" % (here, f))]
        found.update(p for p in ("%s/%s" % (here, f) for f in folders + files) if not own.match(p))
    return found


# --- The packages, before anything is installed ---

def test_baseline():
    """Instructions that not every x86-64 has stand in the objects of their CPU level alone, chosen at run time."""
    (build,) = glob.glob(os.path.join(DEBS, "deqd-*", "build", "release"))
    of_levels = re.compile(r"core/math/(kern|peak)_(avx2|avx512|vnni|amx)\.o$")
    beyond = re.compile(r"\t(?:v(?!err|erw)[a-z]\w+|tile\w+|tdp\w+|k(?:mov|or|and|test)[bwdq]|"       # AVX and on
                        r"andn|bextr|pext|pdep|bls[ir]|bzhi|mulx|[rs][oah][rl]x|popcnt|crc32|"         # BMI
                        r"lddqu|h(?:add|sub)p[sd]|pshufb|phadd\w+|palignr|pmaddubsw|pmulld|ptest|"      # SSE3, SSSE3
                        r"round[ps][sd]|d?pp[sd]|p?blendv?\w+|pm(?:in|ax)(?:sb|uw|[su]d)|pmov[sz]x\w+|"  # SSE4
                        r"p(?:ins|ext)r[bdq]|insertps|extractps|pcmp(?:eqq|gtq|[ei]str\w)) [^#\n]*$|%[yz]mm", re.M)
    objects = glob.glob(os.path.join(build, "**", "*.o"), recursive=True)
    check(len(objects) > 100, "objects of the packages' build: %d" % len(objects))
    levels = 0
    for path in objects:
        found = beyond.search(run("objdump", "--no-show-raw-insn", "-d", path)[1])
        if of_levels.search(path):
            levels += bool(found)
        else:
            check(not found, "%s: %s" % (os.path.relpath(path, build), found and found[0].strip()))
    equal(levels, 8, "objects of CPU levels that this would find fault with, were they not of one")


def test_fields():
    """Each says what it depends on; the library's package is named after its soname."""
    for name in OURS:
        fields = dict(re.findall(r"^(\S+): (.*)$", run("dpkg-deb", "-f", os.path.join(DEBS, package(name)))[1], re.M))
        wanted = {"deq": "libopenblas0", "deqd": "deq-model-stories", "libdeq-dev": "libdeq", "libdeq": "libjansson4"}
        check(wanted.get(name, "") in fields.get("Depends", ""), "%s depends on %s" % (name, fields.get("Depends")))
        # it would start threads of its own before main
        check(name == "deq" or "openblas" not in fields.get("Depends", ""), "%s is without OpenBLAS" % name)


# --- In the root, in this order ---

def test_install():
    done("apt-get", "update", "-q")
    done("apt-get", "install", "-qy", "--no-install-recommends",
         *("/packages/" + package(n) for n in ("deqd", "deq", "deq-model-stories")))
    for name in ("deqd", "deq"):
        equal(state(name), "ii", name)
        check(re.fullmatch(name + r" \d+\.\d+\.\d+\n", done("/usr/bin/" + name, "--version")), name + " --version")
    wants = "/etc/systemd/system/multi-user.target.wants/deqd.service"
    check(there(wants), "deqd.service is enabled")
    check(not there("/etc/systemd/system/sockets.target.wants/deqd.socket"), "deqd.socket is left to who wants it")
    equal(os.stat(at("/etc/deqd/credentials")).st_mode & 0o7777, 0o700, "mode of /etc/deqd/credentials")
    equal(done("dpkg-query", "-W", "-f", "${Conffiles}", "deqd").split()[:1], [CONF], "its configuration")
    done("deqd", "--check-config")


def test_readme():
    """What the unit's Documentation= leads to names places that are there, and leads nowhere else."""
    with open(at(UNIT)) as f:
        (path,) = re.findall(r"^Documentation=file:(\S+)$", f.read(), re.M)
    with open(at(path)) as f:
        text = f.read()
    told = set(re.findall(r"`(?:[^`]* )?(/[^ `]+)", text))
    check({CONF, STORIES} <= told, "%s tells %s" % (path, told))
    equal([p for p in told if not there(p)], [], "places that are not there")
    check("](" not in text, "it has no links")


def test_man_pages():
    for name in ("man8/deqd.8", "man1/deq.1", "man1/deq-generate.1", "man1/deq-bench-serve.1"):
        path = at("/usr/share/man/%s.gz" % name)
        if check(os.path.exists(path), name):
            text = gzip.open(path, "rt").read()
            check(re.search(r"^\.TH ", text, re.M) and not re.search("@[A-Z]+@", text),
                  "%s has a head, and nothing left to fill in" % name)
    check(CONF in gzip.open(at("/usr/share/man/man8/deqd.8.gz"), "rt").read().replace("\\-", "-"), CONF + " in deqd(8)")


def serve():
    """As the unit starts it, with no network but a loopback of its own: one completion, then SIGTERM."""
    with open(at(UNIT)) as f:
        argv = shlex.split(re.search(r"^ExecStart=(.*)$", f.read(), re.M)[1])
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()  # whose network it is
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    counts["failed"], code = 0, 1
    try:
        if libc.unshare(0x40000000):  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "unshare")
        with socket.socket() as s:  # lo is up: SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
            fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
        started = subprocess.Popen(["setpriv", "--reuid", str(DYNAMIC_USER), "--regid", str(DYNAMIC_USER),
                                    "--clear-groups", "--no-new-privs", "--bounding-set=-all", *argv],
                                   preexec_fn=lambda: os.chroot(SYSTEM), cwd="/", env={"PATH": "/usr/bin"},
                                   stderr=subprocess.PIPE, text=True)
        line = started.stderr.readline()
        if check('"listening"' in line and '"127.0.0.1:8080"' in line, "its first line: " + line):
            h = http.client.HTTPConnection("127.0.0.1", 8080, timeout=120)
            h.request("POST", "/v1/completions", json.dumps({"prompt": ONCE, "max_tokens": 8, "temperature": 0}))
            answer = h.getresponse()
            text = answer.read().decode()
            check(answer.status == 200 and json.loads(text)["choices"][0]["text"], "%d %s" % (answer.status, text))
        started.send_signal(signal.SIGINT)
        err = started.communicate(timeout=120)[1]
        equal(started.returncode, 0, "its exit code: " + err[-500:])
        code = counts["failed"]
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(min(code, 1))


def test_serves():
    equal(serve(), 0, "the installed daemon, by its unit's line and the installed configuration")


def test_generates():
    text = done("deq", "generate", STORIES, ONCE, "--max-tokens", "8")
    check(text.startswith(ONCE) and len(text) > len(ONCE) + 8, text)


def test_library():
    """The examples against the installed library alone, shared and static."""
    done("apt-get", "install", "-qy", "--no-install-recommends", "gcc", "libc6-dev", "pkgconf",
         *("/packages/" + package(n) for n in ("libdeq", "libdeq-dev")))
    source = "/usr/share/doc/libdeq-dev/examples/generate.c"
    for program, link in (("/tmp/shared", ""), ("/tmp/static", "--static")):
        flags = done("pkg-config", "--cflags", "--libs", *link.split(), "deq").split()
        flags = ["-l:libdeq.a" if link and f == "-ldeq" else f for f in flags]
        done("cc", "-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Werror", source, *flags, "-lm", "-o", program)
        linked = "libdeq.so." in done("ldd", program)
        equal(linked, not link, "%s is linked with the shared library" % program)
        equal(done(program, STORIES, ONCE), done("deq", "generate", STORIES, ONCE, "--max-tokens", "40"), program)


def test_upgrade():
    """Over itself: what the administrator wrote stays as it is."""
    with open(at(CONF), "a") as f:
        f.write("# mine\n")
    with open(at(CONF)) as f:
        before = f.read()
    done("dpkg", "--install", "/packages/" + package("deqd"))
    equal(state("deqd"), "ii", "deqd")
    with open(at(CONF)) as f:
        equal(f.read(), before, CONF)
    equal([f for f in os.listdir(at("/etc/deqd")) if f != "credentials"], ["deqd.yaml"], "nothing beside it")


def test_remove():
    """The configuration stays, and everything that is not ours."""
    mine = ("/etc/deqd/credentials/api_keys", "/var/lib/deqd/models/mine/config.json")
    states = "/var/lib/private/deqd-states/states/a"
    for path in (*mine, states):
        os.makedirs(os.path.dirname(at(path)), exist_ok=True)
        with open(at(path), "w") as f:
            f.write("x\n")
    done("apt-get", "remove", "-qy", "deqd")
    equal(state("deqd"), "rc", "deqd")
    for path in (CONF, *mine, states):
        check(there(path), path + " is still there")
    for path in ("/usr/bin/deqd", UNIT, "/usr/share/deqd/etc", "/usr/share/man/man8/deqd.8.gz"):
        check(not there(path), path + " is gone")


def test_purge():
    """The configuration and what the daemon wrote go; keys and models of the administrator's own do not."""
    mine = ("/etc/deqd/credentials/api_keys", "/var/lib/deqd/models/mine/config.json")
    done("dpkg", "--purge", "deqd")
    check(state("deqd") in (None, "un"), "deqd: %s" % state("deqd"))
    for path in (CONF, "/var/lib/private/deqd-states", "/etc/systemd/system/multi-user.target.wants/deqd.service"):
        check(not there(path), path + " is gone")
    for path in mine:
        check(there(path), path + " is still there")
    for path in ("/etc/deqd", "/var/lib/deqd"):
        shutil.rmtree(at(path))
    done("apt-get", "autoremove", "-qy", "--purge", "deq", "deq-model-stories", "libdeq-dev",
         package("libdeq").split("_")[0], "gcc", "libc6-dev", "pkgconf")
    shutil.rmtree(at("/var/lib/private"), ignore_errors=True)  # systemd's, of whose making ours was
    equal(sorted(everything() - first), [], "what is left")


if __name__ == "__main__":
    shutil.rmtree(SYSTEM, ignore_errors=True)
    os.mkdir(SYSTEM)
    subprocess.run(["tar", "-xf", os.path.join(ROOT, "build", "docker", "base.tar"), "-C", SYSTEM], check=True)
    os.mkdir(at("/packages"))
    for deb in glob.glob(os.path.join(DEBS, "*.deb")):
        shutil.copy(deb, at("/packages"))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", at("/proc")], check=True)
    first = everything()
    try:
        failed = main("deb")
    finally:
        subprocess.run(["umount", at("/proc")], check=True)
        shutil.rmtree(SYSTEM)
    sys.exit(failed)
