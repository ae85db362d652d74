"""The completions contract beyond one plain prompt: shapes of prompts, choices, echo, sampling extensions, telemetry,
the prefix cache, chat."""
import math
import threading
import time

from lib import PATIENCE_S, SLOW, Daemon, check, check_error, equal, events_text, raw_request, shared, usual

CHAT = ("chat.message={role}: {content}\\n", "chat.stop=\\nuser:")
LONG = ("What shall I say more than I have inferred? Remember whom you are to cope withal; a sort of vagabonds, "
        "rascals, and runaways, a scum of Bretons. ")


def ids_of(d, text):
    return d.post("/tokenize", {"prompt": text})[2]["tokens"]


def texts(o):
    return [c["text"] for c in o["choices"]]


def without(o, *keys):
    return {k: v for k, v in o.items() if k not in keys}


def same_answer(a, b, what):
    keys = ("id", "created")
    return equal(without(a, *keys), without(b, *keys), what)


def test_prompt_shapes():
    d = usual()
    one, two = ids_of(d, "The king"), ids_of(d, "O")
    alone = [texts(d.complete(p, max_tokens=9))[0] for p in ("The king", "O")]
    for prompt, want in (("The king", alone[:1]), (one, alone[:1]), (["The king"], alone[:1]), ([one], alone[:1]),
                         (["The king", "O"], alone),
                         ([one, two], alone), (["O", "The king", "O"], [alone[1], alone[0], alone[1]])):
        o = d.complete(prompt, max_tokens=9)
        equal(texts(o), want, "prompt %r" % (prompt,))
        equal([c["index"] for c in o["choices"]], list(range(len(want))), "indices")
    o = d.complete([one, two], max_tokens=9)
    equal((o["usage"]["prompt_tokens"], o["usage"]["completion_tokens"]), (len(one) + len(two), 18),
          "usage of two prompts")
    start = texts(d.complete("", max_tokens=5))
    s, _, absent = d.post("/v1/completions", {"max_tokens": 5, "temperature": 0})
    equal((s, texts(absent), texts(d.complete([0], max_tokens=5))), (200, start, start),
          "empty, absent and <|endoftext|> are the start of a document")
    # many prompts stream interleaved; together they say the same
    _, _, events, done = d.stream(["The king", "O"], max_tokens=9)
    equal(done, True, "[DONE]")
    equal(["".join(e["choices"][0]["text"] for e in events if e["choices"] and e["choices"][0]["index"] == i)
           for i in (0, 1)], alone, "two prompts, streamed")


def test_choices():
    d = usual()
    sampled = {"temperature": 1.0, "seed": 5, "max_tokens": 12, "logprobs": 1}
    one = d.complete("First Citizen:", **sampled)
    five = d.complete("First Citizen:", n=5, **sampled)
    equal([c["index"] for c in five["choices"]], [0, 1, 2, 3, 4], "n=5: indices")
    equal(without(five["choices"][0], "index"), without(one["choices"][0], "index"),
          "choice 0 is what n=1 gives, logprobs and all")
    equal(len(set(texts(five))), 5, "five different texts: %s" % texts(five))
    three = d.complete("First Citizen:", n=3, **sampled)
    equal(three["choices"], five["choices"][:3], "choice k does not depend on n")
    equal((five["usage"]["prompt_tokens"], five["usage"]["completion_tokens"]), (one["usage"]["prompt_tokens"], 60),
          "the prompt counts once")
    both = d.complete(["First Citizen:", "O"], n=2, **sampled)
    equal(both["choices"][:2], three["choices"][:2], "prompt-major order")
    _, _, events, done = d.stream("First Citizen:", n=3, stream_options={"include_usage": True}, **sampled)
    for k in range(3):
        mine = [e["choices"][0] for e in events if e["choices"] and e["choices"][0]["index"] == k]
        equal("".join(c["text"] for c in mine), three["choices"][k]["text"], "choice %d streamed" % k)
        equal([c["finish_reason"] for c in mine][-1], "length", "one reason each")
        equal(sum(c["finish_reason"] is not None for c in mine), 1, "one reason each")
        equal(sum((c["logprobs"]["token_logprobs"] for c in mine), []),
              three["choices"][k]["logprobs"]["token_logprobs"], "logprobs streamed")
    equal((done, events[-1]["usage"]), (True, three["usage"]), "usage of a stream of three")


def test_best_of():
    d = usual()
    sampled = {"temperature": 1.0, "seed": 11, "max_tokens": 10, "logprobs": 0}
    four = d.complete("My lord,", n=4, **sampled)
    best = d.complete("My lord,", n=2, best_of=4, **sampled)
    mean = lambda c: sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"])
    want = sorted(four["choices"], key=lambda c: -mean(c))[:2]
    equal(texts(best), [c["text"] for c in want], "the two of the best mean logprob, best first")
    equal(best["usage"]["completion_tokens"], 40, "all four were generated")
    equal(texts(d.complete("My lord,", n=2, best_of=4, temperature=1.0, seed=11, max_tokens=10)), texts(best),
          "without logprobs too")
    s, _, o = d.post("/v1/completions", {"prompt": "a", "n": 3, "best_of": 2})
    check_error(s, o, 400, "invalid_value", "best_of", "best_of below n")
    s, _, o = d.post("/v1/completions", {"prompt": "a", "best_of": 2, "stream": True})
    check_error(s, o, 400, "invalid_value", "best_of", "best_of with stream")


def test_echo_and_scoring():
    d = usual()
    prompt = "The king is dead."
    ids = ids_of(d, prompt)
    plain = d.complete(prompt, max_tokens=6, logprobs=3)["choices"][0]
    full = d.complete(prompt, max_tokens=6, logprobs=3, echo=True)["choices"][0]
    equal(full["text"], prompt + plain["text"], "echo: the prompt, then the answer")
    lp = full["logprobs"]
    equal([len(lp[k]) for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset")], [len(ids) + 6] * 4,
          "one entry a token, of the prompt too")
    equal((lp["token_logprobs"][0], lp["top_logprobs"][0]), (None, None), "nothing predicts the first token")
    equal("".join(lp["tokens"]), full["text"], "the tokens are the text")
    equal(lp["token_logprobs"][len(ids):], plain["logprobs"]["token_logprobs"],
          "the answer's logprobs are those without echo")
    equal([full["text"][a:b] for a, b in zip(lp["text_offset"], lp["text_offset"][1:] + [None])], lp["tokens"],
          "text_offset cuts the text at its tokens")
    for k in (0, 1):
        o = d.complete(prompt, max_tokens=k, logprobs=3, echo=True)
        equal(o["choices"][0]["logprobs"]["token_logprobs"][:len(ids)], lp["token_logprobs"][:len(ids)],
              "max_tokens %d: the same scores" % k)
        equal((o["usage"]["completion_tokens"], o["choices"][0]["finish_reason"]), (k, "length"), "max_tokens %d" % k)
    for t, top in zip(lp["token_logprobs"][1:], lp["top_logprobs"][1:]):
        check(t in top.values() and t <= max(top.values()),
              "the token's own logprob is among the top ones, to the digit")
    # against the logits themselves
    _, _, logits = d.post("/v1/logits", {"prompt": ids, "positions": "all"})
    for i in range(len(ids) - 1):
        row = logits["logits"][i]
        norm = max(row) + math.log(sum(math.exp(x - max(row)) for x in row))
        check(abs(lp["token_logprobs"][i + 1] - (row[ids[i + 1]] - norm)) < 1e-5,
              "position %d: logprob from the logits" % i)
    many = d.complete([ids, ids[:5]], max_tokens=1, logprobs=1, echo=True)  # as lm-eval asks
    equal([len(c["logprobs"]["tokens"]) for c in many["choices"]], [len(ids) + 1, 6],
          "scores of two prompts of ids, 1:1")
    _, _, events, done = d.stream(prompt, max_tokens=6, logprobs=3, echo=True)
    equal((events_text(events), done), (full["text"], True), "echo streamed")
    equal(sum((e["choices"][0]["logprobs"]["token_logprobs"] for e in events if e["choices"]), []),
          lp["token_logprobs"], "its logprobs streamed")
    _, _, events, done = d.stream(prompt, max_tokens=0, echo=True)
    equal((events_text(events), done, events[-1]["choices"][0]["finish_reason"]), (prompt, True, "length"),
          "max_tokens 0 streamed")
    two = d.complete(prompt, max_tokens=4, echo=True, n=2, temperature=1)
    check(all(t.startswith(prompt) for t in texts(two)), "every choice has the prompt's text")
    check(o["deq"]["prompt_iters_mean"] > 1 and o["deq"]["residual_max"] > 0,
          "scoring reports what the solver did: %s" % o["deq"])
    s, _, o = d.post("/v1/completions", {"prompt": "a", "max_tokens": 0})
    check_error(s, o, 400, "invalid_value", "max_tokens", "max_tokens 0 without echo")


def test_penalties_and_bias():
    d = usual()
    base = d.complete("O", max_tokens=60, logprobs=0)["choices"][0]
    repeats = lambda c: len(c["logprobs"]["tokens"]) - len(set(c["logprobs"]["tokens"]))
    for field, value in (("presence_penalty", 2), ("frequency_penalty", 1.5), ("repetition_penalty", 1.5)):
        c = d.complete("O", max_tokens=60, logprobs=0, **{field: value})["choices"][0]
        check(repeats(c) < repeats(base), "%s %s: %d repeats, %d without" % (field, value, repeats(c), repeats(base)))
        equal(c["logprobs"]["token_logprobs"][0], base["logprobs"]["token_logprobs"][0],
              "%s: logprobs are the model's own" % field)
    less = d.complete("O", max_tokens=60, logprobs=0, presence_penalty=-2)["choices"][0]
    check(repeats(less) >= repeats(base), "a negative penalty repeats more")
    o = d.complete("O", max_tokens=5, logit_bias={"70": 100}, return_token_ids=True)
    equal(o["choices"][0]["token_ids"], [70] * 5, "+100 forces")
    first = d.complete("O", max_tokens=1, return_token_ids=True)["choices"][0]["token_ids"][0]
    second = d.complete("O", max_tokens=1, return_token_ids=True,
                        logit_bias={str(first): -100})["choices"][0]["token_ids"][0]
    check(first != second, "-100 forbids")
    equal(d.complete("O", max_tokens=60, repetition_penalty=1, logit_bias={}, presence_penalty=0)["choices"][0]["text"],
          base["text"], "neutral values change nothing")
    big = {str(i): 0.001 for i in range(384)}
    equal(d.post("/v1/completions", {"prompt": "O", "max_tokens": 1, "logit_bias": big})[0], 200,
          "a bias for every token")


def test_stop_tokens_and_min_tokens():
    d = usual()
    ids = d.complete("O", max_tokens=30, return_token_ids=True)["choices"][0]["token_ids"]
    at = next(i for i in range(5, 30) if ids[i] not in ids[:i])
    c = d.complete("O", max_tokens=30, stop_token_ids=[ids[at]], return_token_ids=True)["choices"][0]
    equal((c["token_ids"], c["finish_reason"], c["stop_reason"]), (ids[:at + 1], "stop", ids[at]), "stop_token_ids")
    c = d.complete("O", max_tokens=30, stop_token_ids=[ids[at]], min_tokens=at + 3, return_token_ids=True)["choices"][0]
    check(ids[at] not in c["token_ids"][:at + 3], "min_tokens: not picked before")
    check(len(c["token_ids"]) >= at + 3, "min_tokens: at least so many")
    forced = d.complete("O", max_tokens=10, logit_bias={"0": 100})
    equal((forced["choices"][0]["finish_reason"], forced["usage"]["completion_tokens"]), ("stop", 0),
          "<|endoftext|> at once")
    forced = d.complete("O", max_tokens=10, logit_bias={"0": 100}, min_tokens=4)
    equal((forced["choices"][0]["finish_reason"], forced["usage"]["completion_tokens"]), ("stop", 4),
          "<|endoftext|> after min_tokens")


def test_ids_and_truncation():
    d = usual()
    ids = ids_of(d, LONG)
    o = d.complete(LONG, max_tokens=3, return_token_ids=True, truncate_prompt_tokens=7)
    equal((o["choices"][0]["prompt_token_ids"], o["usage"]["prompt_tokens"]), (ids[-7:], 7),
          "truncate_prompt_tokens keeps the end")
    equal(texts(o), texts(d.complete(ids[-7:], max_tokens=3)), "and answers as to that")
    with Daemon("engine.max_positions=64") as small:
        s, _, o = small.post("/v1/completions", {"prompt": LONG * 3, "max_tokens": 4})
        equal(s, 400, "never cut without being asked")
        o = small.complete(LONG * 3, max_tokens=4, truncate_prompt_tokens=-1)
        equal(o["usage"]["prompt_tokens"], 60, "-1: as much as fits")
    c = d.complete("O", max_tokens=4, logprobs=2, return_tokens_as_token_ids=True, return_token_ids=True)["choices"][0]
    equal(c["logprobs"]["tokens"], ["token_id:%d" % t for t in c["token_ids"]], "return_tokens_as_token_ids")
    check(all(k.startswith("token_id:") for top in c["logprobs"]["top_logprobs"] for k in top),
          "also among the top ones")
    c = d.complete("O", max_tokens=2, logprobs=0, logprob_token_ids=[65, 66],
                   return_tokens_as_token_ids=True)["choices"][0]
    check(all({"token_id:65", "token_id:66"} <= set(top) for top in c["logprobs"]["top_logprobs"]),
          "logprob_token_ids are always in: %s" % c["logprobs"])


def test_telemetry():
    d = usual()
    o = d.complete("The king", max_tokens=12, include=["deq.tokens"])
    t = o["choices"][0]["deq"]
    equal([len(t[k]) for k in ("iters", "residual", "warm")], [12] * 3, "one entry a token")
    equal((max(t["iters"]), round(sum(t["iters"]) / 12, 4)), (o["deq"]["iters_max"], round(o["deq"]["iters_mean"], 4)),
          "they sum up to the deq object")
    check(all(0 < r < o["deq"]["tol"] for r in t["residual"]) and set(t["warm"]) == {"predictor"},
          "residuals below tol, started by the predictor")
    zero = d.complete("The king", max_tokens=12, include=["deq.tokens"],
                      deq={"warm_start": "zero"})["choices"][0]["deq"]
    check(set(zero["warm"]) == {"zero"} and sum(zero["iters"]) > sum(t["iters"]),
          "a warm start saves evaluations: %d instead of %d" % (sum(t["iters"]), sum(zero["iters"])))
    _, _, events, _ = d.stream("The king", max_tokens=12, include=["deq.tokens"])
    for k in ("iters", "residual", "warm"):
        equal(sum((e["choices"][0]["deq"][k] for e in events), []), t[k], "streamed %s" % k)
    check("deq" not in d.complete("The king", max_tokens=2)["choices"][0], "only where asked for")
    tight = [d.complete("The king", max_tokens=12, deq={"preset": p})["deq"] for p in ("fast", "balanced", "exact")]
    check(tight[0]["iters_mean"] < tight[1]["iters_mean"] < tight[2]["iters_mean"],
          "presets cost more as they are tighter: %s" % [x["iters_mean"] for x in tight])
    models = d.get("/v1/models")[2]["data"][0]["deqd"]
    equal([x["tol"] for x in tight], [models["presets"][p]["tol"] for p in ("fast", "balanced", "exact")],
          "presets as /v1/models says")
    equal(d.complete("a", max_tokens=1, deq={"preset": "exact", "tol": 0.05})["deq"]["tol"], 0.05,
          "tol is the last word")


def test_telemetry_of_a_prompt():
    """With echo and logprobs: of the position that foresaw each of its tokens; the last one foresaw the answer."""
    d = usual()
    ask = {"echo": True, "logprobs": 0, "max_tokens": 3, "include": ["deq.tokens"], "return_token_ids": True}
    o = d.complete("The king and the queen", **ask)
    c = o["choices"][0]
    t, n = c["deq"]["prompt"], len(c["prompt_token_ids"])
    equal({k: len(v) for k, v in t.items()}, {"iters": n, "residual": n, "warm": n}, "one entry a token of the prompt")
    equal(len(c["deq"]["iters"]), 3, "apart from the answer's")
    equal([v[0] for v in t.values()], [None] * 3, "nothing foresaw the first")
    equal(round((sum(t["iters"][1:]) + c["deq"]["iters"][0]) / n, 4), round(o["deq"]["prompt_iters_mean"], 4),
          "they sum up to the deq object")
    check(all(0 < r < o["deq"]["tol"] for r in t["residual"][1:]), "residuals below tol: %s" % t["residual"])
    score = d.complete("The king and the queen", **dict(ask, max_tokens=0))["choices"][0]["deq"]
    equal(score, {"iters": [], "residual": [], "warm": [], "prompt": t}, "a prompt that is only scored")
    _, _, events, _ = d.stream("The king and the queen", **ask)
    got = [e["choices"][0]["deq"].get("prompt") for e in events]
    equal(got, [t] + [None] * (len(events) - 1), "in the first chunk")
    for more in ({"echo": False}, {"logprobs": None}, {"include": []}):
        got = d.complete("The king and the queen", **dict(ask, **more))["choices"][0].get("deq", {})
        check("prompt" not in got, "not with %s" % more)


def test_prefix_cache():
    with Daemon("engine.max_positions=4096") as d:
        prompt = LONG * 6
        n = len(ids_of(d, prompt))
        fresh = d.complete(prompt, max_tokens=20, logprobs=1, cache="off")
        equal(fresh["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "off takes nothing")
        first = d.complete(prompt, max_tokens=20, logprobs=1)
        equal((first["usage"]["prompt_tokens_details"]["cached_tokens"], first["deq"]["cache"]), (0, "none"),
              "and leaves nothing")
        second = d.complete(prompt, max_tokens=20, logprobs=1)
        equal((second["usage"]["prompt_tokens_details"]["cached_tokens"], second["deq"]["cache"]),
              ((n - 1) // 128 * 128, "exact"), "the second time: whole blocks of 128")
        equal((first["choices"], second["choices"]), (fresh["choices"], fresh["choices"]),
              "a hit gives the same, to the digit")
        other = d.complete(prompt[:-30] + "and something else", max_tokens=5)
        check(other["usage"]["prompt_tokens_details"]["cached_tokens"] >= 128,
              "another text with the same beginning hits too")
        shared_hit = d.complete(prompt, max_tokens=20, logprobs=1, n=3, temperature=1, seed=3)
        alone = d.complete(prompt, max_tokens=20, logprobs=1, n=3, temperature=1, seed=3, cache="off")
        equal(shared_hit["choices"], alone["choices"], "three choices behind a hit")
        salted = d.complete(prompt, max_tokens=2, cache_salt="mine")
        equal(salted["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "another salt, another cache")
        check(d.complete(prompt, max_tokens=2,
                         cache_salt="mine")["usage"]["prompt_tokens_details"]["cached_tokens"] > 0, "the same salt")
        scored = d.complete(prompt, max_tokens=0, echo=True, logprobs=0)
        equal(scored["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "scoring solves everything")
        # the next turn: what generation produced
        turn = d.complete("O", max_tokens=300, ignore_eos=True)["choices"][0]["text"]
        follow = "O" + turn + " And now"
        exact = d.complete(follow, max_tokens=8)
        equal(exact["usage"]["prompt_tokens_details"]["cached_tokens"], 0, "generated states are not taken unasked")
        with Daemon() as e:
            e.complete("O", max_tokens=300, ignore_eos=True)
            near = e.complete(follow, max_tokens=8, cache="approximate")
            check(near["usage"]["prompt_tokens_details"]["cached_tokens"] >= 128 and
                  near["deq"]["cache"] == "approximate",
                  "asked for, they are, and it is said: %s %s" % (near["usage"], near["deq"]))
        m = d.metrics()
        check(m["deqd_state_cache_entries"] > 0 and m["deqd_state_cache_bytes"] > 0 and
              m["deqd_prompt_tokens_cached_total"] >= (n - 1) // 128 * 128, "metrics of the cache")
        equal(m["vllm:prefix_cache_hits_total{model_name=\"tiny\",engine=\"0\"}"], m["deqd_prompt_tokens_cached_total"],
              "and their alias")
        equal((m["deqd_cache_pages_used"], m["deqd_cache_pages_reserved"]), (0, 0), "nobody holds a page")


def test_only_the_same_salt_meets_a_prompt():
    """Whatever solved it: what a prompt leaves in the prefix cache is told by time to those who share it alone."""
    with Daemon("engine.max_positions=4096") as d:
        for i, (path, field, more) in enumerate((("/v1/completions", "prompt", {"max_tokens": 1}),
                                                 ("/v1/logits", "prompt", {}), ("/v1/equilibria", "prompt", {}),
                                                 ("/v1/embeddings", "input", {}), ("/v1/states", "prompt", {}))):
            prompt = "%d " % i + LONG * 6
            equal(d.request("POST", path, {field: prompt, "cache_salt": "mine", **more})[0], 200, path)
            cached = [d.complete(prompt, max_tokens=1, **salt)["usage"]["prompt_tokens_details"]["cached_tokens"]
                      for salt in ({"cache_salt": "yours"}, {}, {"cache_salt": "mine"})]
            check(cached[:2] == [0, 0] and cached[2] >= 128, "%s: hits %s" % (path, cached))


def test_deadlines():
    with Daemon("engine.max_sequences=1", "engine.max_positions=200000") as d:
        slow = {"prompt": "A", "max_tokens": 190000, "temperature": 0, "ignore_eos": True}
        t = time.monotonic()
        s, _, o = d.post("/v1/completions", dict(slow, deadline_ms=int(300 * SLOW)))
        took = time.monotonic() - t
        equal((s, o["choices"][0]["finish_reason"], o["deq"]["converged"], o["deq"]["deadline_exceeded"]),
              (200, "length", False, True), "at the deadline: what there is")
        check(0.3 * SLOW <= took and 0 < o["usage"]["completion_tokens"] < 190000,
              "in time: %.2f s, %d tokens" % (took, o["usage"]["completion_tokens"]))
        s, _, o = d.post("/v1/completions", slow, headers={"X-Request-Timeout-Ms": str(int(200 * SLOW))})
        equal((s, o["deq"].get("deadline_exceeded")), (200, True), "X-Request-Timeout-Ms")
        _, _, events, done = d.stream(**dict(slow, deadline_ms=int(200 * SLOW)))
        equal((done, events[-1]["choices"][0]["finish_reason"], events[-1]["deq"]["deadline_exceeded"]),
              (True, "length", True), "streamed")
        long_prompt = [70] * 150000
        s, _, o = d.post("/v1/completions", {"prompt": long_prompt, "deadline_ms": int(300 * SLOW)})
        check_error(s, o, 504, "deadline_exceeded", None, "nothing produced before the deadline")
        blocker = d.connect()
        blocker.sendall(raw_request(dict(slow, stream=True)))
        d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
        s, _, o = d.post("/v1/completions", {"prompt": "B", "max_tokens": 1, "deadline_ms": int(200 * SLOW)})
        check_error(s, o, 504, "deadline_exceeded", None, "in the queue")
        equal(d.metrics()["deqd_requests_running"], 1, "it does not wait for a place first")
        blocker.close()
        for bad in ("0", "x", "-1", "99999999999", ""):
            s, _, b = d.request("POST", "/v1/completions", {"prompt": "a"}, headers={"X-Request-Timeout-Ms": bad})
            equal(s, 400, "X-Request-Timeout-Ms: %r" % bad)
        d.alive()


def test_priority_and_order():
    with Daemon("engine.max_sequences=1", "engine.max_positions=200000") as d:
        done = []
        lock = threading.Lock()

        def ask(name, **more):
            d.post("/v1/completions",
                   dict({"prompt": "A", "max_tokens": 2000, "temperature": 0, "ignore_eos": True}, **more))
            with lock:
                done.append(name)

        blocker = d.connect()  # runs until all are in line, then leaves
        blocker.sendall(raw_request({"prompt": "A", "max_tokens": 190000, "ignore_eos": True, "stream": True}))
        d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
        threads = []
        for i, (name, priority) in enumerate((("usual 1", 0), ("last", 20), ("usual 2", 0), ("first", -20))):
            threads.append(threading.Thread(target=ask, args=(name,), kwargs={"priority": priority}))
            threads[-1].start()
            d.wait_metric(lambda m: m["deqd_requests_waiting"] == i + 1, 5)
        blocker.close()
        for t in threads:
            t.join()
        equal(done, ["first", "usual 1", "usual 2", "last"], "lower numbers first, then in order of arrival")


def test_chat():
    d = shared(*CHAT)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who is there?"}]
    text = "system: Be brief.\nuser: Who is there?\nassistant:"
    body = {"messages": messages, "max_tokens": 20, "temperature": 0}
    s, _, o = d.post("/v1/chat/completions", body)
    equal((s, o["object"], o["choices"][0]["message"]["role"]), (200, "chat.completion", "assistant"), "chat")
    check(o["id"].startswith("chatcmpl-"), "id")
    plain = d.complete(text, max_tokens=20, stop="\nuser:")
    equal((o["choices"][0]["message"]["content"], o["usage"]), (plain["choices"][0]["text"].lstrip(), plain["usage"]),
          "the template, then a completion")
    parts = [dict(messages[0]),
             {"role": "user", "content": [{"type": "text", "text": "Who is "}, {"type": "text", "text": "there?"}]}]
    equal(d.post("/v1/chat/completions", dict(body, messages=parts))[2]["choices"], o["choices"], "content in parts")
    s, h, b = d.request("POST", "/v1/chat/completions", dict(body, stream=True, stream_options={"include_usage": True}))
    from lib import parse_sse
    events, done = parse_sse(b)
    deltas = [e["choices"][0]["delta"] for e in events if e["choices"]]
    equal((s, done, "".join(x.get("content", "") for x in deltas)), (200, True, o["choices"][0]["message"]["content"]),
          "streamed")
    equal((deltas[0]["role"], [x.get("role") for x in deltas[1:]]), ("assistant", [None] * (len(deltas) - 1)),
          "the role once, first")
    equal((set(e["object"] for e in events), events[-1]["usage"]), ({"chat.completion.chunk"}, o["usage"]),
          "chunks and usage")
    s, _, o2 = d.post("/v1/chat/completions", dict(body, logprobs=True, top_logprobs=2))
    content = o2["choices"][0]["logprobs"]["content"]
    equal(("".join(c["token"] for c in content).lstrip(), len(content[0]["top_logprobs"])),
          (o["choices"][0]["message"]["content"], 2), "logprobs")
    check(all(bytes(c["bytes"]).decode() == c["token"] and
              c["logprob"] == c["top_logprobs"][0]["logprob"] for c in content),
          "each with its bytes; greedy takes the most probable")
    s, _, o3 = d.post("/v1/chat/completions", dict(body, n=2, temperature=1))
    equal([c["index"] for c in o3["choices"]], [0, 1], "n")
    s, _, o4 = d.post("/v1/chat/completions", {"messages": messages, "max_completion_tokens": 3, "temperature": 0})
    equal(o4["usage"]["completion_tokens"], 3, "max_completion_tokens")
    for bad, code, param in (({"messages": []}, "invalid_type", "messages"), ({}, "missing_parameter", "messages"),
                             ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_value", "messages[0].role"),
                             ({"messages": [{"role": "user"}]}, "missing_parameter", "messages[0].content"),
                             ({"messages": [1]}, "invalid_type", "messages"),
                             ({"messages": "x"}, "invalid_type", "messages"),
                             ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "invalid_type",
                              "messages[0].content"), (dict(body, prompt="x"), "unknown_parameter", "prompt"),
                             (dict(body, top_logprobs=1), "invalid_value", "top_logprobs"),
                             (dict(body, tools=[{"type": "function"}]), "unsupported_parameter", "tools"),
                             (dict(body, max_tokens=0), "invalid_value", "max_tokens"),
                             (dict(body, logprobs=1), "invalid_type", "logprobs")):
        s, _, o = d.post("/v1/chat/completions", bad)
        check_error(s, o, 400, code, param, "chat %r" % (bad,))


def test_identical_everywhere():
    """Alone, among others, streamed or not, as text or ids, through n, behind a hit: the same bytes."""
    prompts = ["First Citizen:", "My lord, I", LONG * 3, "O", "The king is dead. Long live"]
    fields = {"max_tokens": 24, "temperature": 0.9, "seed": 7, "logprobs": 1}
    with Daemon() as d:
        alone = [without(d.complete(p, cache="off", **fields)["choices"][0], "index") for p in prompts]
        got = []

        def ask(i):
            got.append((i % 5, without(d.complete(prompts[i % 5], **fields)["choices"][0], "index")))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(40)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        equal((len(got), [i for i, c in got if c != alone[i]]), (40, []), "40 at once: answers that differ")
        equal([without(c, "index") for c in d.complete(prompts, **fields)["choices"]], alone,
              "as prompts of one request")
        for i, p in enumerate(prompts):
            _, _, events, _ = d.stream(p, **fields)
            equal(events_text(events), alone[i]["text"], "streamed")


def test_slow_reader_is_paused():
    """A stream that nobody reads stops its own sequence only, goes on when it is read, and loses nothing; unread for
    too long, it is cancelled. With log-probabilities, since what is unread is sent in few chunks: plain text would fit
    into the system's buffers."""
    fields = {"prompt": "A", "max_tokens": 6000, "temperature": 0, "ignore_eos": True, "logprobs": 2}
    from lib import parse_sse, raw_request, read_response
    with Daemon("engine.max_positions=200000", "stream.flush_ms=0", "stream.buffer_bytes=4096",
                "stream.stall_ms=60000") as d:
        whole = d.complete(**fields)["choices"][0]["text"]
        s = d.connect(60)
        s.sendall(raw_request(dict(fields, stream=True)))
        ok, m = d.wait_metric(lambda m: m["deqd_stream_paused_total"] >= 1, 20)
        check(ok, "it pauses")

        def beside():
            """Tokens while a good request gets 20, which one that is not paused would have from the same steps."""
            begin = d.metrics()["deqd_generation_tokens_total"]
            d.complete("A", max_tokens=20, ignore_eos=True)
            return d.metrics()["deqd_generation_tokens_total"] - begin

        # it goes on, with pauses, while the system's own buffers take more; then no more
        until, still = time.monotonic() + PATIENCE_S * SLOW, 0
        while still < 5 and time.monotonic() < until:
            still = still + 1 if beside() == 20 else 0
        equal(still, 5, "requests in a row beside which the paused one makes no tokens")
        equal(d.metrics()["deqd_requests_running"], 1, "and is not ended")
        st, _, body, _ = read_response(s)
        events, done = parse_sse(body)
        equal((st, done, events_text(events) == whole), (200, True, True), "read after all: whole, and the same")
        s.close()
    with Daemon("engine.max_positions=200000", "stream.flush_ms=0", "stream.buffer_bytes=4096",
                "stream.stall_ms=%d" % (500 * SLOW)) as d:
        s = d.connect(60)
        s.sendall(raw_request(dict(fields, stream=True, max_tokens=100000)))
        ok, m = d.wait_metric(lambda m: m["deqd_requests_running"] == 0 and
                              m["deqd_requests_cancelled_total{phase=\"decode\"}"] == 1 and
                              (m["deqd_cache_pages_used"], m["deqd_cache_pages_reserved"]) == (0, 0), 20)
        check(ok, "unread for stall_ms: cancelled, and its pages are back")
        s.close()


def test_half_closed_client_gets_its_stream():
    """A client that ends its sending half after the request is there all the same; one that closed is not."""
    import socket
    from lib import parse_sse, raw_request, read_response
    d = usual()
    for _ in range(5):
        with d.connect() as s:
            s.sendall(raw_request({"prompt": "O", "max_tokens": 300, "temperature": 0, "ignore_eos": True,
                                   "stream": True}))
            s.shutdown(socket.SHUT_WR)
            st, _, body, _ = read_response(s)
            events, done = parse_sse(body)
            equal((st, done, events[-1]["choices"][0]["finish_reason"]), (200, True, "length"), "half-closed")


def test_answers_that_would_be_too_large():
    d = usual()
    s, _, o = d.post("/v1/completions",
                     {"prompt": [[70] * 1500] * 100, "n": 16, "echo": True, "logprobs": 20, "max_tokens": 1})
    check_error(s, o, 400, "invalid_value", "logprobs", "hundreds of megabytes of scores")
    s, _, o = d.post("/v1/logits", {"prompt": [70] * 1000, "positions": "all"})
    check_error(s, o, 400, "invalid_value", "positions", "megabytes of numbers as JSON")
    check("octet-stream" in o["error"]["message"], "and what to do")


def test_a_default_is_cut_for_each_prompt():
    with Daemon("engine.max_positions=64", *CHAT) as d:
        o = d.complete([[70] * 60, [70]], ignore_eos=True)
        equal(o["usage"]["completion_tokens"], 4 + 16, "each prompt by itself")
        s, _, o = d.post("/v1/chat/completions",
                         {"messages": [{"role": "user", "content": "x" * 200}], "truncate_prompt_tokens": -1})
        equal((s, o["usage"]["prompt_tokens"]), (200, 63), "-1 leaves room for a token")
