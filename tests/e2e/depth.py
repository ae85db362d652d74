"""How deep answers are solved: a budget of evaluations for a whole text."""
from lib import check, check_error, equal, shared, usual

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
    equal((c, deq["evaluations"], deq["budget_exhausted"]), (whole, all_of_it, False), "just enough")
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
