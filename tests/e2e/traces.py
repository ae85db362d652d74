"""include deq.trace: the rows behind a text, whole and in streams; a function of the request alone."""
import threading

from lib import TINY, Daemon, check, check_error, equal, shared, usual

CHAT = "chat.message={role}: {content}\\n"
PROMPT = "The king said that " * 30  # longer than a block of the prefix cache
ASK = {"max_tokens": 40, "seed": 3, "temperature": 1, "include": ["deq.tokens", "deq.trace"]}


def rows_of(choice):
    return choice["deq"]["trace"]["tokens"], choice["deq"]["trace"]["dropped"]


def check_rows(tokens, dropped, text):
    """Positions in order, one behind the other; each evaluated in every step that it was in, and in the window before
    the one in front of it was final exactly where that was guessed."""
    equal([t["position"] for t in tokens],
          list(range(tokens[0]["position"], tokens[0]["position"] + len(tokens))), text + ": positions")
    check(all(len(t["residual"]) == t["committed"] - t["entered"] + 1 for t in tokens), text + ": a residual a step")
    check(all(a["guessed"] == (b["entered"] <= a["committed"]) for a, b in zip(tokens, tokens[1:])),
          text + ": what was guessed is there already")
    check(all(a["committed"] <= b["committed"] for a, b in zip(tokens, tokens[1:])), text + ": in order")
    check(all(r["entered"] <= r["left"] and r["why"] in ("guess", "end") for r in dropped), text + ": what was dropped")
    again = [(r["position"], r["left"]) for r in dropped if r["why"] == "guess"]
    entered = {}
    for r in tokens + dropped:
        entered.setdefault(r["position"], []).append(r["entered"])
    last = tokens[-1]["position"]
    check(all(any(e > left for e in entered[p]) for p, left in again if p <= last), text + ": it enters again")


def test_whole():
    d = usual()
    o = d.complete(PROMPT, **ASK)
    choice = o["choices"][0]
    tokens, dropped = rows_of(choice)
    equal(len(tokens), 40, "a row a token")
    equal(tokens[0]["position"], o["usage"]["prompt_tokens"] - 1, "the first is picked at the prompt's last position")
    check_rows(tokens, dropped, "window 8")
    equal([len(t["residual"]) for t in tokens], choice["deq"]["iters"], "deq.tokens: evaluations")
    equal([t["residual"][-1] for t in tokens], choice["deq"]["residual"], "deq.tokens: the last residual")
    equal([t["start"] for t in tokens], choice["deq"]["warm"], "deq.tokens: starts")
    check(any(r["why"] == "guess" for r in dropped) and any(t["guessed"] for t in tokens), "some guesses held")
    one = d.complete(PROMPT, **dict(ASK, deq={"window": 1}))["choices"][0]
    tokens, dropped = rows_of(one)
    check_rows(tokens, dropped, "window 1")
    equal((dropped, any(t["guessed"] for t in tokens)), ([], False), "window 1 guesses nothing")
    alone = d.complete(PROMPT, **dict(ASK, include=["deq.trace"]))["choices"][0]["deq"]
    equal(alone, {"trace": choice["deq"]["trace"]}, "without deq.tokens, and again")
    check("deq" not in d.complete(PROMPT, max_tokens=3)["choices"][0], "only where asked for")
    two = d.complete(PROMPT, **dict(ASK, n=2))["choices"]
    first = choice["deq"]["trace"]["tokens"][0]
    equal([c["deq"]["trace"]["tokens"][0]["committed"] for c in two], [first["committed"]] * 2,
          "choices begin with one row")
    for c in two:
        check_rows(*rows_of(c), "n 2")


def test_streamed():
    """Each chunk has the rows of its own tokens, and together they are those of the whole answer."""
    d = shared(CHAT)
    whole = d.complete(PROMPT, **ASK)["choices"][0]["deq"]
    _, _, events, done = d.stream(PROMPT, **ASK)
    chunks = [e["choices"][0]["deq"] for e in events]
    check(done and all(len(c["trace"]["tokens"]) == len(c["iters"]) for c in chunks), "a chunk's own tokens")
    for key in ("tokens", "dropped"):
        equal(sum((c["trace"][key] for c in chunks), []), whole["trace"][key], key)
    body = {"messages": [{"role": "user", "content": PROMPT}], **ASK}
    s, _, o = d.post("/v1/chat/completions", body)
    tokens, dropped = rows_of(o["choices"][0])
    equal((s, len(tokens)), (200, o["usage"]["completion_tokens"]), "a chat")
    check_rows(tokens, dropped, "chat")


def test_company_changes_nothing():
    """Neither in steps nor in residuals: others beside it, more threads, a cached prompt."""
    def trace(d, **more):
        return rows_of(d.complete(PROMPT, **dict(ASK, **more))["choices"][0])

    with Daemon("engine.threads=1") as d:
        alone = trace(d, cache="off")
    with Daemon("engine.threads=2") as d:
        got = []
        others = [threading.Thread(target=lambda i=i: d.complete("A" * i, max_tokens=300, seed=i, temperature=1))
                  for i in range(1, 6)]
        mine = [threading.Thread(target=lambda: got.append(trace(d))) for _ in range(4)]
        for t in others + mine:
            t.start()
        for t in others + mine:
            t.join()
        check(len(got) == 4 and all(x == alone for x in got), "the same among others, and from the cache")


def test_bad_include():
    d = usual()
    for path, body in (("/v1/completions", {"prompt": "a"}),
                       ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})):
        s, _, o = d.post(path, dict(body, include=["deq.trace", "deq.traces"]))
        check_error(s, o, 400, "invalid_value", "include", path)


def test_proposals_have_no_residuals():
    with Daemon(model=TINY + "-looped") as d:
        o = d.complete([1, 2, 3], max_tokens=4, include=["deq.trace"], deq={"max_iter": 0})
        tokens, _ = rows_of(o["choices"][0])
        equal([(t["residual"], t["start"], t["committed"] - t["entered"]) for t in tokens], [([], "proposal", 0)] * 4,
              "nothing is evaluated")
