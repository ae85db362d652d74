"""DEQ_FAULT over a daemon's whole life: it starts or says why not, answers what it can with what is right or with an
error, ends when it is asked to, and what it leaves on disk serves the next one. DEQ_FAULTS=all: every place of files,
threads, short and interrupted calls; of allocations, which tests/fault/*.c walks one by one, every 40th."""
import json
import os
import shutil
import tempfile

from lib import check, equal, short
from served import Served, good, texts

ALL = os.environ.get("DEQ_FAULTS") == "all"
ASK = {"prompt": "What shall I say", "max_tokens": 8, "temperature": 0}
LONG = {"prompt": "What shall I say more than I have inferred? Remember whom you are to cope withal; " * 4,
        "max_tokens": 1, "temperature": 0}
reference = {}


def session(d, faulty):
    """A few requests; whatever is answered with 200 must be right. Returns how many were not."""
    lost = 0
    for name, method, path, body in (
            ("completion", "POST", "/v1/completions", ASK), ("long", "POST", "/v1/completions", LONG),
            ("stream", "POST", "/v1/completions", dict(ASK, stream=True)),
            ("save", "POST", "/v1/states", {"name": "a", "prompt": "The king"}),
            ("restore", "POST", "/v1/completions", {"state": "a", "max_tokens": 4, "temperature": 0}),
            ("metrics", "GET", "/metrics", None)):
        status, body = d.request(method, path, body)
        if name == "stream":
            parts = body.decode().split("\n\n")
            whole = status == 200 and "data: [DONE]" in parts
            got = "".join(json.loads(p[6:])["choices"][0]["text"] for p in parts if p.startswith("data: {")
                          and "choices" in p and '"error"' not in p) if whole else None
        elif name in ("completion", "long", "restore"):
            got = texts((status, body))
        else:
            got = status == 200 or None
        if got is None:
            lost += 1
            check(faulty and status in (0, 200, 404, 500, 503, 507), "%s: an error in its place: %d %s" %
                  (name, status, short(body)))
        else:
            equal(got, reference.setdefault(name, got), name)
    return lost


def one(dir, fault):
    """A life under a fault, and one without behind it. Returns whether the fault was met, or not known to be."""
    settings = ["state.dir=" + os.path.join(dir, "states"), "engine.cache_dir=" + os.path.join(dir, "cache")]
    with open(os.path.join(dir, "log"), "w"):
        pass
    d = Served(dir, *settings, env={"DEQ_FAULT": fault})
    up = d.up()
    if up:
        session(d, True)
    code = d.end()
    text = d.text()
    check(code in ((0, 1) if not up else (0,)), "%s: exit code %s\n%s" % (fault, code, text[-1500:]))
    check(up or code == 0 or '"cannot start"' in text or "deqd: " in text or fault.endswith("+"),
          "%s: says why it does not start: %s" % (fault, text[-500:]))
    met = '"message":"faults met","n":0' not in text
    if met and not fault.startswith(("short", "eintr")) and not up:
        return met
    d = Served(dir, *settings)
    if check(d.up(), "%s: the next one starts: %s" % (fault, d.text()[-500:])):
        status, body = d.request("GET", "/v1/states")
        names = [s["id"] for s in json.loads(body)["data"]] if good((status, body), "states are listed") else []
        check(set(names) <= {"a"}, "%s: nothing but what was saved: %s" % (fault, names))
        for name in names:
            equal(texts(d.request("POST", "/v1/completions", {"state": name, "max_tokens": 4, "temperature": 0})),
                  reference["restore"], "%s: the state left behind" % fault)
        equal(texts(d.request("POST", "/v1/completions", ASK)), reference["completion"], "%s: the next one" % fault)
        check("prefix cache not restored" not in d.text(), "%s: the cache left behind: %s" % (fault, d.text()[-500:]))
    equal(d.end(), 0, "%s: exit code of the next one" % fault)
    return met


def test_life_under_faults():
    with tempfile.TemporaryDirectory() as dir:
        d = Served(dir, "state.dir=" + os.path.join(dir, "states"))
        check(d.up(), "it starts: " + d.text())
        equal((session(d, False), d.end()), (0, 0), "a life without faults")
        shutil.rmtree(os.path.join(dir, "states"))
        for kind in ("io", "thread", "short", "eintr", "alloc"):
            n, tried = 1, 0
            while True:
                met = one(dir, "%s:%d" % (kind, n))
                if not met:
                    break
                one(dir, "%s:%d+" % (kind, n))
                tried += 2
                if not ALL:
                    n += 1 + 3 * n
                else:
                    n += 40 if kind == "alloc" and n > 40 else 1
                for name in ("states", "cache"):
                    shutil.rmtree(os.path.join(dir, name), ignore_errors=True)
            print("  start to end, %-6s fewer than %5d places, %5d runs" % (kind + ":", n, tried), flush=True)
