"""SIGKILL at random instants: KILLS (500) of training and SERVED_KILLS (200) of serving with saved states and a prefix
cache. Training that goes on each time ends with the bytes of an undisturbed run; every state that a killed daemon has
left says what it was saved for. SEED repeats the instants, as far as a machine can."""
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time

from lib import SLOW, check, equal, short
from served import Served, texts
from training import Training

KILLS = int(os.environ.get("KILLS", "500"))
SERVED_KILLS = int(os.environ.get("SERVED_KILLS", "200"))
SEED = int(os.environ.get("SEED", "1"))
HALVES = ("The king is", "What shall I say more than I have inferred? Remember whom you are to cope withal; a sort")


def left(dir):
    """Files that writers have not finished."""
    return [n for n in (os.listdir(dir) if os.path.isdir(dir) else []) if n.endswith(".tmp")]


def test_training():
    rng, killed, runs, log_dir = random.Random(SEED), 0, 0, tempfile.mkdtemp()
    log = os.path.join(log_dir, "log")
    with tempfile.TemporaryDirectory() as dir:
        t = Training(dir)
        begin = time.monotonic()
        model = t.undisturbed()
        whole_s = time.monotonic() - begin
        while killed < KILLS:
            p = t.begin(log)
            time.sleep(rng.uniform(0, 0.5 * whole_s))
            if p.poll() is None:
                p.send_signal(signal.SIGKILL)
            code = p.wait()
            if code == -signal.SIGKILL:
                killed += 1
                check(len(left(t.out)) <= 3, "unfinished files do not pile up: %s" % left(t.out))
                continue
            with open(log) as f:
                said = f.read()
            if not check(code == 0, "kill %d: what it left serves: exit code %s: %s" % (killed, code, said[-500:])):
                shutil.copytree(t.out, os.path.join(log_dir, "unusable-%d" % killed))
                print("  kept in", log_dir)
            elif not check(t.model() == model, "after %d kills the model is that of an undisturbed run" % killed):
                shutil.copytree(t.out, os.path.join(log_dir, "other-%d" % killed))
            runs += 1
            shutil.rmtree(t.out)
        code, said = t.finish()
        check(code == 0 and t.model() == model, "the last one goes on to the same bytes: %d %s" % (code, said[-500:]))
    print("  training: %d kills over %d runs (SEED=%d)" % (killed, runs + 1, SEED), flush=True)


def ask_for_ever(d, rng, over):
    """Saves and uses states until the daemon is gone."""
    while not over.is_set():
        i, half = rng.randrange(4), rng.randrange(2)
        for body in ({"name": "s%d" % i, "prompt": HALVES[half]}, None):
            if body:
                status, _ = d.request("POST", "/v1/states", body)
            else:
                status, _ = d.request("POST", "/v1/completions", {"prompt": HALVES[1] * 3, "max_tokens": 8})
            if not status:
                return


def test_serving():
    rng, restored, checked = random.Random(SEED), 0, 0
    with tempfile.TemporaryDirectory() as dir:
        states, cache = os.path.join(dir, "states"), os.path.join(dir, "cache")
        settings = ("state.dir=" + states, "engine.cache_dir=" + cache)
        d = Served(dir, *settings)
        check(d.up(), d.text())
        behind = {"max_tokens": 6, "temperature": 0}
        want = []
        for half in HALVES:
            d.request("POST", "/v1/states", {"name": "s0", "prompt": half})
            want.append(texts(d.request("POST", "/v1/completions", dict(behind, state="s0"))))
        d.request("POST", "/v1/completions", {"prompt": HALVES[1] * 3, "max_tokens": 8})
        equal(d.end(), 0, "the first one")
        check(want[0] and want[1] and want[0] != want[1], "two states, two answers: %s" % want)
        for n in range(SERVED_KILLS + 1):
            with open(os.path.join(dir, "log"), "w"):
                pass
            d = Served(dir, *settings)
            if not check(d.up(), "after kill %d it starts: %s" % (n, d.text()[-500:])):
                break
            check("not restored" not in d.text(), "after kill %d the cache is whole: %s" % (n, d.text()[-500:]))
            restored += '"prefix cache restored"' in d.text()
            equal((left(states), left(cache)), ([], []), "after kill %d nothing unfinished stays" % n)
            status, body = d.request("GET", "/v1/states")
            for s in json.loads(body)["data"] if status == 200 else []:
                answer = d.request("POST", "/v1/completions", dict(behind, state=s["id"]))
                check(texts(answer) in want, "after kill %d state %s is one that was saved: %d %s" %
                      (n, s["id"], answer[0], short(answer[1])))
                checked += 1
            if n == SERVED_KILLS:
                equal(d.end(), 0, "the last one ends as asked")
                break
            over = threading.Event()
            clients = [threading.Thread(target=ask_for_ever, args=(d, random.Random(rng.random()), over))
                       for _ in range(3)]
            for c in clients:
                c.start()
            time.sleep(rng.uniform(0, 0.25 * SLOW))
            if n % 3 == 2:  # while it ends, and saves its cache
                d.p.send_signal(signal.SIGTERM)
                time.sleep(rng.uniform(0, 0.03 * SLOW))
            d.p.send_signal(signal.SIGKILL)
            over.set()
            for c in clients:
                c.join()
            d.p.wait()
    print("  serving: %d kills, %d states looked at, the cache restored %d times (SEED=%d)" %
          (SERVED_KILLS, checked, restored, SEED), flush=True)
