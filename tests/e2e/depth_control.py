"""How deep answers are solved: a budget of evaluations for a whole text, and tolerances that open under load."""
import hashlib
import tempfile
import threading

from lib import DEQD, Daemon, check, check_error, equal, run, shared, usual

ASK = {"prompt": "The king said", "max_tokens": 40, "seed": 5, "temperature": 1, "ignore_eos": True,
       "include": ["deq.tokens"]}


def answer(d, **deq):
    o = d.complete(**dict(ASK, deq=dict(deq, tol=1e-3)))
    return o["choices"][0], o["deq"]


def test_budget():
    """The text is that of window 1, to its last whole token; what the budget paid for is told; any window, one text."""
    d = usual()
    whole, _ = answer(d, window=1, prefill_window=8)
    all_of_it = sum(whole["deq"]["iters"][1:])
    for budget in (1, 7, 40, all_of_it - 1):
        c, deq = answer(d, max_evaluations=budget)
        equal((deq["max_evaluations"], deq["evaluations"], deq["budget_exhausted"], c["finish_reason"]),
              (budget, budget, True, "length"), "budget %d" % budget)
        equal(sum(c["deq"]["iters"][1:]), budget, "budget %d: evaluations behind the prompt" % budget)
        check(whole["text"].startswith(d.post("/detokenize", {"tokens": ids(d, c)[:-1]})[2]["prompt"]),
              "budget %d: %r of %r" % (budget, c["text"], whole["text"]))
        for window in (1, 2, 8, 16):
            again, other = answer(d, max_evaluations=budget, window=window)
            equal((again, other), (c, deq), "budget %d, window %d" % (budget, window))
            equal(other["window"], 1, "what it was solved with")
        _, _, events, done = d.stream(**dict(ASK, deq={"tol": 1e-3, "max_evaluations": budget}))
        equal(("".join(e["choices"][0]["text"] for e in events), events[-1]["deq"], done), (c["text"], deq, True),
              "budget %d, streamed" % budget)
    c, deq = answer(d, max_evaluations=all_of_it)
    equal((c, deq["evaluations"], deq["budget_exhausted"]), (whole, all_of_it, True), "just enough")
    equal(answer(d, max_evaluations=all_of_it + 1)[1]["budget_exhausted"], False, "one more than enough")
    check("max_evaluations" not in answer(d)[1], "only where asked for")


def ids(d, choice):
    return d.complete(**dict(ASK, deq={"tol": 1e-3, "max_evaluations": sum(choice["deq"]["iters"][1:])},
                             return_token_ids=True))["choices"][0]["token_ids"]


def test_budget_of_each_choice():
    d = usual()
    o = d.complete(**dict(ASK, n=3, deq={"max_evaluations": 30, "tol": 1e-3}))
    equal([sum(c["deq"]["iters"][1:]) for c in o["choices"]], [30] * 3, "each has its own")
    equal(o["deq"]["evaluations"], 30, "of the choice that took most")


def test_bad_budget():
    d = shared("chat.message={role}: {content}\\n")
    for path, body in (("/v1/completions", {"prompt": "a"}),
                       ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
                       ("/v1/responses", {"input": "a"})):
        for value, code in ((0, "invalid_value"), (-1, "invalid_value"), (2e9, "invalid_value"), ("1", "invalid_type"),
                            (1.5, "invalid_type")):
            s, _, o = d.post(path, dict(body, deq={"max_evaluations": value}))
            check_error(s, o, 400, code, "deq.max_evaluations", "%s %r" % (path, value))


def depth_of(d, headers=None, **deq):
    s, _, o = d.post("/v1/completions", {"prompt": "a", "max_tokens": 1, "deq": deq}, headers)
    equal(s, 200, "depth with %s" % deq)
    equal(o["deq"]["tol_effective"], o["deq"]["tol"], "at rest it is what was asked")
    return o["deq"]["depth"]


def test_who_allows_elastic_depth():
    """The request says, else its tolerance, else its key, else the configuration."""
    with tempfile.NamedTemporaryFile("w", suffix=".keys") as f:
        for name, words in (("plain", ""), ("stiff", "depth=fixed"), ("supple", "weight=2 depth=elastic")):
            f.write("%s %s %s\n" % (name, hashlib.sha256(name.encode()).hexdigest(), words))
        f.flush()
        for mode in ("fixed", "elastic"):
            with Daemon("auth.keys_file=" + f.name, "depth.mode=" + mode, key="plain") as d:
                stiff, supple = {"Authorization": "Bearer stiff"}, {"Authorization": "Bearer supple"}
                equal((depth_of(d), depth_of(d, stiff), depth_of(d, supple)), (mode, "fixed", "elastic"),
                      mode + ": keys")
                equal((depth_of(d, stiff, depth="elastic"), depth_of(d, supple, depth="fixed")), ("elastic", "fixed"),
                      mode + ": the request's own word")
                equal((depth_of(d, supple, tol=0.1), depth_of(d, supple, preset="fast"),
                       depth_of(d, supple, tol=0.1, depth="elastic"), depth_of(d, supple, max_iter=3)),
                      ("fixed", "fixed", "elastic", "elastic"), mode + ": a tolerance by name is what is given")
                equal(depth_of(d, supple, stop="argmax", depth="elastic"), "fixed", mode + ": there is none to open")
    for setting in ("depth.mode=deep", "depth.objective_ms=0"):
        code, _, err = run([DEQD, "--set", setting, "--print-config"])
        check(code == 2 and setting.split("=")[0] in err, "%s: %d %s" % (setting, code, err))
    s, _, o = usual().post("/v1/completions", {"prompt": "a", "deq": {"depth": "deep"}})
    check_error(s, o, 400, "invalid_value", "deq.depth", "a word that is none")


def test_depth_gives_way_under_load():
    """Tokens that take some twenty evaluations of as many texts cannot come within a millisecond: what allows it opens,
    what does not has the text that it has alone, and both say so."""
    body = {"prompt": "The king", "max_tokens": 150, "temperature": 0, "ignore_eos": True}
    slow = {"tol": 1e-5, "solver": "picard", "window": 1}
    with Daemon("depth.objective_ms=1") as d:
        alone = d.complete(**dict(body, deq=slow))
        equal((alone["deq"]["depth"], d.metrics()["deqd_depth_tolerance_factor"]), ("fixed", 1), "alone")
        got = {}

        def ask(i):
            depth = "fixed" if i % 8 == 0 else "elastic"
            got[i] = d.complete(**dict(body, deq=dict(slow, depth=depth)))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(32)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for i, o in got.items():
            if i % 8 == 0:
                equal((o["choices"], o["deq"]), (alone["choices"], alone["deq"]), "a fixed depth is one")
        elastic = [o["deq"] for i, o in got.items() if i % 8]
        check(all(x["depth"] == "elastic" and x["tol"] == 1e-5 <= x["tol_effective"] <= 0.5 for x in elastic),
              "within limits.tol_max")
        opened = [x for x in elastic if x["tol_effective"] > 1e-5]
        check(opened and all(x["converged"] for x in opened), "some opened, and converged to that: %s" % elastic[:1])
        m = d.metrics()
        check(m["deqd_depth_tolerance_factor"] > 1 and m['deqd_depth_changes_total{direction="open"}'] > 0 and
              m["deqd_depth_opened_tokens_total"] > 0, "metrics say so")
