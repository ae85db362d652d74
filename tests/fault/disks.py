"""Full and read-only disks, each a file system of 1 MiB in memory that is mounted in a namespace of our own: log,
states, prefix cache, checkpoints. The daemon serves on and says what it cannot keep; what was there before stays whole;
with room again everything is kept again."""
import contextlib
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from lib import DEQ, check, equal, run, skip  # noqa: E402
from served import Served, good, texts
from training import Training

ASK = {"prompt": "What shall I say", "max_tokens": 4, "temperature": 0}
LONG = {"prompt": "What shall I say more than I have inferred? Remember whom you are to cope withal; " * 6,
        "max_tokens": 1, "temperature": 0}
BEHIND = {"state": "a", "max_tokens": 4, "temperature": 0}


@contextlib.contextmanager
def disk(dir, name, size="1m"):
    path = os.path.join(dir, name)
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=" + size, "none", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(path):
    """To the last byte; what gives the room back."""
    filler = os.path.join(path, "filler")
    with open(filler, "wb", buffering=0) as f:
        with contextlib.suppress(OSError):
            while f.write(bytes(1 << 16)) == 1 << 16:
                pass
        with contextlib.suppress(OSError):
            while f.write(b"x"):
                pass
    return lambda: os.unlink(filler)


def read_only(path, on):
    subprocess.run(["mount", "-o", "remount,%s" % ("ro" if on else "rw"), path], check=True)


def dropped(d):
    text = d.request("GET", "/metrics")[1].decode()
    return float(text.split("\ndeqd_log_lines_dropped_total ")[1].split("\n")[0])


def log_on_a_full_disk():
    with tempfile.TemporaryDirectory() as dir, disk(dir, "disk") as full:
        d = Served(dir, "log.level=debug", log=os.path.join(full, "log"))
        check(d.up(), "it starts")
        want = texts(d.request("POST", "/v1/completions", ASK))
        free = fill(full)
        for _ in range(50):
            equal(texts(d.request("POST", "/v1/completions", ASK)), want, "served while the log's disk is full")
        check(dropped(d) > 0, "lines that are lost are counted")
        free()
        for _ in range(5):
            equal(texts(d.request("POST", "/v1/completions", ASK)), want, "served with room again")
        equal(d.end(), 0, "it ends as asked")
        lines = d.text().split("\n")
        check(any('"log lines dropped"' in x for x in lines), "and told")
        check('"stopped"' in lines[-2], "with room again lines are written again: %s" % lines[-3:])


def states_and_cache():
    for how in ("full", "read-only"):
        with tempfile.TemporaryDirectory() as dir, disk(dir, "disk") as full:
            settings = ("state.dir=%s/states" % full, "engine.cache_dir=%s/cache" % full)
            d = Served(dir, *settings)
            check(d.up(), "it starts: " + d.text())
            good(d.request("POST", "/v1/states", {"name": "a", "prompt": "The king"}), "a state is saved")
            want, plain = (texts(d.request("POST", "/v1/completions", body)) for body in (BEHIND, ASK))
            d.request("POST", "/v1/completions", LONG)
            equal(d.end(), 0, "it ends with its cache saved")
            files = {p: os.stat(p) for p in (full + "/states/a.safetensors", full + "/cache/prefix.safetensors")}
            free = fill(full) if how == "full" else lambda: None
            if how == "read-only":
                read_only(full, True)
            d = Served(dir, *settings)
            check(d.up(), "on a %s disk it starts: %s" % (how, d.text()))
            for name in ("a", "b"):
                status, body = d.request("POST", "/v1/states", {"name": name, "prompt": "What shall I say"})
                check(status in (500, 507) and b'"error"' in body, "%s: a state cannot be saved: %d" % (how, status))
            equal(texts(d.request("POST", "/v1/completions", BEHIND)), want, how + ": the old state is what it was")
            equal(texts(d.request("POST", "/v1/completions", ASK)), plain, how + ": others are served")
            d.request("POST", "/v1/completions", dict(LONG, prompt=LONG["prompt"][7:]))
            equal(d.end(), 0, how + ": it ends as asked")
            for told in ("prefix cache not saved", "states cannot be saved"):
                check('"%s"' % told in d.text(), "%s: the log says: %s" % (how, told))
            for p, was in files.items():
                now = os.stat(p)
                equal((now.st_size, now.st_mtime_ns), (was.st_size, was.st_mtime_ns), how + ": untouched: " + p)
            equal([n for n in os.listdir(full + "/states") + os.listdir(full + "/cache") if n.endswith(".tmp")], [],
                  how + ": nothing unfinished stays")
            if how == "read-only":
                read_only(full, False)
            free()
            with open(d.log, "w"):
                pass
            d = Served(dir, *settings)
            check(d.up(), "with room again it starts")
            good(d.request("POST", "/v1/states", {"name": "b", "prompt": "What"}), "with room again a state is saved")
            equal(texts(d.request("POST", "/v1/completions", BEHIND)), want, "and the old one still there")
            equal(d.end(), 0, "it ends as asked")
            check('"prefix cache restored"' in d.text(), how + ": the old cache was whole: " + d.text())
            check("not saved" not in d.text(), "and the cache is saved again")


def checkpoints():
    with tempfile.TemporaryDirectory() as dir, disk(dir, "disk") as full:
        t = Training(dir, **{"train.steps": 30, "train.shallow_steps": 5})
        model = t.undisturbed()
        for how in ("full", "read-only"):
            t.out = os.path.join(full, how)
            t.settings["train.steps"] = 10
            code, said = t.finish()
            check(code == 0, "trained with room: %s" % said[-400:])
            t.settings["train.steps"] = 30
            free = fill(full) if how == "full" else lambda: None
            if how == "read-only":
                read_only(full, True)
            code, said = t.finish()
            word = "No space left" if how == "full" else "Read-only file system"
            check(code == 1 and word in said, "%s: it ends and says why: %d %s" % (how, code, said[-400:]))
            code, _, err = run([DEQ, "inspect", t.out])
            check(code == 0, "%s: the model of before is whole: %s" % (how, err[-300:]))
            if how == "read-only":
                read_only(full, False)
            free()
            code, said = t.finish()
            check(code == 0 and t.model() == model, "%s: goes on to the same bytes: %d %s" % (how, code, said[-400:]))


def test_disks():
    """In namespaces of its own, where it may mount."""
    for how in (["-m", "--propagation", "private"], ["-rm"]):
        probe = ["unshare", *how, "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            p = subprocess.run(["unshare", *how, sys.executable, os.path.abspath(__file__)])
            check(p.returncode == 0, "full and read-only disks: the failures above")
            return
    skip("no file system can be mounted here: neither as root nor in a namespace of one's own")


if __name__ == "__main__":
    import lib
    log_on_a_full_disk()
    states_and_cache()
    checkpoints()
    print("  disks: %(passed)d checks passed, %(failed)d failed" % lib.counts)
    sys.exit(lib.counts["failed"] != 0)
