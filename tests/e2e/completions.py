"""POST /v1/completions, whole answers: text, usage, stop strings, seeds, sampling, logprobs, the deq object."""
import json
import math
import threading

from lib import (DEQ, TINY, check, check_error, close, equal, events_text, run, shared, short, usual)

PROMPT = "First Citizen:\nWe are"
# At this length the greedy text of the test model has line ends, commas and repetitions, and it slides past the window
# of 48.
LONG = 80

_cache = {}


def long_run():
    """The greedy text that many tests look at, with its tokens."""
    if "long" not in _cache:
        _cache["long"] = usual().complete(PROMPT, max_tokens=LONG, logprobs=0)["choices"][0]
    return _cache["long"]


def test_greedy_is_what_deq_generate_says():
    d = usual()
    for prompt, n in ((PROMPT, 40), ("The", 1), ("", 12), ("é😀 x", 20)):
        code, out, err = run([DEQ, "generate", TINY, prompt, "--json", "--max-tokens", str(n)])
        equal(code, 0, "deq generate: " + err)
        want = json.loads(out)
        o = d.complete(prompt, max_tokens=n)
        c = o["choices"][0]
        equal(c["text"], want["text"], "text after %r" % prompt)
        equal(o["usage"], {"prompt_tokens": want["prompt_tokens"], "completion_tokens": want["completion_tokens"],
                           "total_tokens": want["prompt_tokens"] + want["completion_tokens"],
                           "prompt_tokens_details": {"cached_tokens": 0}}, "usage after %r" % prompt)
        equal(c["finish_reason"], want["finish_reason"], "finish_reason after %r" % prompt)


def test_shape():
    o = usual().complete("The", max_tokens=3)
    equal(set(o), {"id", "object", "created", "model", "system_fingerprint", "choices", "usage", "deq"},
          "keys of the answer")
    check(o["id"].startswith("cmpl-") and len(o["id"]) > 5, "id: %r" % o["id"])
    equal((o["object"], o["model"]), ("text_completion", "tiny"), "object, model")
    check(isinstance(o["created"], int) and o["created"] > 1600000000, "created is a time: %r" % o["created"])
    equal(len(o["choices"]), 1, "choices")
    equal(set(o["choices"][0]), {"index", "text", "logprobs", "finish_reason"},
          "keys of a choice without a stop string")
    equal((o["choices"][0]["index"], o["choices"][0]["logprobs"], o["choices"][0]["finish_reason"]),
          (0, None, "length"), "choice")
    equal(set(o["deq"]),
          {"tol", "tol_effective", "depth", "stop", "solver", "warm_start", "window", "prefill_window", "iters_mean",
           "iters_max", "prompt_iters_mean", "residual_max", "converged", "cache", "seed"}, "keys of deq")
    a, b = usual().complete("The", max_tokens=1), usual().complete("The", max_tokens=1)
    check(a["id"] != b["id"], "two answers have two ids")
    equal(a["system_fingerprint"], b["system_fingerprint"], "system_fingerprint of two answers")


def test_defaults():
    d = usual()
    equal(d.complete("The")["usage"]["completion_tokens"], 16, "max_tokens when absent")
    equal(d.complete("The", max_tokens=None)["usage"]["completion_tokens"], 16, "max_tokens null")
    want = d.complete(PROMPT, temperature=1, seed=0, max_tokens=12)["choices"][0]["text"]
    s, _, o = d.post("/v1/completions", {"prompt": PROMPT, "max_tokens": 12, "seed": 0})
    equal((s, o["choices"][0]["text"]), (200, want), "temperature is 1 when absent")
    nulls = {k: None for k in ("model", "temperature", "top_p", "n", "best_of", "stream", "stream_options", "logprobs",
                               "echo", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "user", "suffix",
                               "top_k", "min_p", "ignore_eos", "deq")}
    s, _, o = d.post("/v1/completions", dict(nulls, prompt=PROMPT, max_tokens=12, seed=0))
    equal((s, o.get("choices", [{}])[0].get("text")), (200, want), "null is the default in every field")
    neutral = {"n": 1, "best_of": 1, "echo": False, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {},
               "suffix": "", "user": "someone", "top_k": -1, "top_p": 1, "min_p": 0, "model": "tiny", "stop": [],
               "deq": {}}
    s, _, o = d.post("/v1/completions", dict(neutral, prompt=PROMPT, max_tokens=12, seed=0))
    equal((s, o.get("choices", [{}])[0].get("text")), (200, want), "neutral values of fields that are not served")


def test_prompts():
    d = usual()
    ids = d.post("/tokenize", {"prompt": PROMPT})[2]["tokens"]
    want = d.complete(PROMPT, max_tokens=10)
    got = d.complete(ids, max_tokens=10)
    equal(got["choices"][0]["text"], want["choices"][0]["text"], "prompt as tokens")
    equal(got["usage"], want["usage"], "usage of a prompt as tokens: nothing is added")
    empty = d.complete("", max_tokens=10)
    equal(empty["usage"]["prompt_tokens"], 1, "an empty prompt is the start of a document")
    equal(d.complete([0], max_tokens=10)["choices"][0]["text"], empty["choices"][0]["text"],
          "empty prompt == end-of-text token")
    s, _, o = d.post("/v1/completions", {"max_tokens": 10, "temperature": 0})
    equal((s, o["choices"][0]["text"]), (200, empty["choices"][0]["text"]), "no prompt == empty prompt")


def test_past_the_attention_window():
    d = usual()
    words = "First Citizen:\nBefore we proceed any further, hear me speak. And then some more words"
    ids = d.post("/tokenize", {"prompt": words})[2]["tokens"][:30]
    o = d.complete(ids, max_tokens=200, ignore_eos=True)
    equal(o["usage"],
          {"prompt_tokens": 30, "completion_tokens": 200, "total_tokens": 230,
           "prompt_tokens_details": {"cached_tokens": 0}},
          "30 + 200 tokens through a window of 48")
    check(len(o["choices"][0]["text"]) > 100, "a text comes out")
    o2 = d.complete(ids, max_tokens=200, ignore_eos=True)
    equal(o2["choices"][0]["text"], o["choices"][0]["text"], "the same again")


def test_length_limit():
    d = shared("engine.max_positions=64")
    ids = [70] * 60
    o = d.complete(ids, max_tokens=4)
    equal(o["usage"]["completion_tokens"], 4, "60 + 4 of 64 positions")
    for prompt, n, what in ((ids, 5, "60 + 5"), ([70] * 65, 1, "65 + 1"), ([70] * 64, 1, "64 + 1"),
                            ([70] * 200, None, "200 + default")):
        body = {"prompt": prompt, "max_tokens": n}
        s, _, o = d.post("/v1/completions", body)
        check_error(s, o, 400, "context_length_exceeded", "prompt" if len(prompt) > 64 else "max_tokens", what)
        equal((o["error"].get("n_prompt_tokens"), o["error"].get("n_ctx")), (len(prompt), 64), what + ": both numbers")
    equal(d.complete(ids)["usage"]["completion_tokens"], 4, "the default of max_tokens is cut to what fits")
    equal(d.get("/v1/models")[2]["data"][0]["max_model_len"], 64, "max_model_len")
    d.alive()


def test_stop_strings():
    d = usual()
    c = long_run()
    text, tokens, offsets = c["text"], c["logprobs"]["tokens"], c["logprobs"]["text_offset"]
    equal("".join(tokens), text, "the greedy text is its tokens")
    tried = 0
    stops = []
    for i in range(3, len(tokens) - 1):
        if len(tokens[i]) >= 1 and len(tokens[i + 1]) >= 1:
            stops.append(tokens[i][-1] + tokens[i + 1][:2])                      # across a border
    stops += [t[1:-1] for t in tokens[5:] if len(t) >= 3]                        # inside a token
    stops += [text[offsets[20] - 3:offsets[20] + 6], text[40:60], text[-1:]]     # across several; one character
    seen = set()
    for s in stops:
        if s in seen or len(seen) >= 14:
            continue
        seen.add(s)
        cut = text[:text.find(s)]
        o = d.complete(PROMPT, max_tokens=LONG, stop=s)
        got = o["choices"][0]
        equal((got["text"], got["finish_reason"], got.get("stop_reason")), (cut, "stop", s), "stop %r" % s)
        check(o["usage"]["completion_tokens"] <= LONG and o["usage"]["completion_tokens"] >= 1,
              "tokens until stop %r" % s)
        _, _, events, done = d.stream(PROMPT, max_tokens=LONG, stop=s)
        last = events[-1]["choices"][0]
        equal((events_text(events), last["finish_reason"], last.get("stop_reason"), done), (cut, "stop", s, True),
              "stream, stop %r" % s)
        tried += 1
    check(tried >= 10, "the greedy text gives at least 10 different stop strings")
    o = d.complete(PROMPT, max_tokens=LONG, stop=["\u0001never", text[50:54], text[10:13]])["choices"][0]
    first = min((text.find(s), s) for s in (text[50:54], text[10:13]))
    equal((o["text"], o.get("stop_reason")), (text[:first[0]], first[1]),
          "of a list, the one that comes first in the text")
    o = d.complete(PROMPT, max_tokens=LONG, stop="never\u0001there")["choices"][0]
    equal((o["text"], o["finish_reason"], "stop_reason" in o), (text, "length", False),
          "a stop string that does not come")
    # what is held back because it may begin a stop string comes out at the end
    o = d.complete(PROMPT, max_tokens=LONG, stop=text[-4:] + "\u0001")["choices"][0]
    equal((o["text"], o["finish_reason"]), (text, "length"), "held back, then shown")
    equal(len(d.complete(PROMPT, max_tokens=2, stop=["s%d\u0001" % i for i in range(16)])["choices"]), 1,
          "16 stop strings are allowed")
    equal(len(d.complete(PROMPT, max_tokens=2, stop="\u0001" * 256)["choices"]), 1, "256 bytes are allowed")


def seeded(d, stream, seed, temperature=1.0, n=24, prompt=PROMPT, **more):
    """(text, tokens, token_logprobs) of a sampled run."""
    if stream:
        _, _, events, done = d.stream(prompt, temperature=temperature, seed=seed, max_tokens=n, logprobs=2, **more)
        parts = [e["choices"][0]["logprobs"] for e in events]
        return (events_text(events), sum((p["tokens"] for p in parts), []),
                sum((p["token_logprobs"] for p in parts), []))
    c = d.complete(prompt, temperature=temperature, seed=seed, max_tokens=n, logprobs=2, **more)["choices"][0]
    return c["text"], c["logprobs"]["tokens"], c["logprobs"]["token_logprobs"]


def test_seeds():
    d = usual()
    alone = seeded(d, False, 7)
    equal(seeded(d, False, 7), alone, "the same seed again")
    equal(seeded(d, True, 7), alone, "the same seed as a stream")
    others = [seeded(d, False, s)[0] for s in (8, 9, -1, 2**63 - 1)]
    check(len(set(others + [alone[0]])) == 5, "other seeds, other texts: %s" % short(others))
    # among 20 others, of different lengths, prompts and solver settings: bit for bit the same
    results, errors = {}, []
    barrier = threading.Barrier(24)

    def one(i):
        try:
            barrier.wait()
            if i < 20:
                d.complete("Some other text %d" % i, temperature=1, seed=i, max_tokens=10 + 2 * i,
                           deq={"window": 1 + i % 8, "solver": ("anderson", "picard", "broyden")[i % 3]})
            else:
                results[i] = seeded(d, i % 2 == 0, 7)
        except Exception as e:
            errors.append(repr(e))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    equal(errors, [], "24 requests at once")
    for i in range(20, 24):
        r = results.get(i)
        equal(r and r[0], alone[0], "text of seed 7 among 20 others (request %d)" % i)
        equal(r and r[1], alone[1], "tokens of seed 7 among 20 others (request %d)" % i)
        equal(r and r[2], alone[2], "logprobs of seed 7 among 20 others, bit for bit (request %d)" % i)
    code, out, _ = run([DEQ, "generate", TINY, PROMPT, "--json", "--max-tokens", "24", "--temperature", "1", "--seed",
                        "7"])
    equal(json.loads(out)["text"], alone[0], "deq generate with the same seed")


def test_sampling():
    d = usual()
    greedy = long_run()["text"]
    text = {}
    for name, more in (("top_k 1", {"top_k": 1}), ("top_p 0", {"top_p": 0}), ("min_p 1", {"min_p": 1})):
        got = d.complete(PROMPT, temperature=1.3, seed=5, max_tokens=LONG, **more)["choices"][0]["text"]
        equal(got, greedy, name + " is greedy")
    for name, more in (("plain", {}), ("top_k 5", {"top_k": 5}), ("top_p .5", {"top_p": 0.5}),
                       ("min_p .3", {"min_p": 0.3}), ("hot", {"temperature": 2})):
        text[name] = seeded(d, False, 5, n=40, **dict({"temperature": 1.0}, **more))
    check(text["plain"][0] != greedy[:len(text["plain"][0])], "temperature 1 is not greedy")
    equal(len({t[0] for t in text.values()}), 5, "five settings, five texts")
    check(sum(text["top_p .5"][2]) > sum(text["plain"][2]) > sum(text["hot"][2]),
          "narrower sampling gives more probable text")
    for off in (0, -1):
        equal(seeded(d, False, 5, n=40, top_k=off), text["plain"], "top_k %d is off" % off)
    # what the filters promise, on every token: 5 most probable, at least .3 of the best
    c = d.complete(PROMPT, temperature=1, seed=5, max_tokens=40, top_k=5, logprobs=5)["choices"][0]["logprobs"]
    check(all(v >= min(sorted(t.values())[-5:]) for v, t in zip(c["token_logprobs"], c["top_logprobs"])),
          "top_k 5 takes from the first 5")
    c = d.complete(PROMPT, temperature=1, seed=5, max_tokens=40, min_p=0.3, logprobs=1)["choices"][0]["logprobs"]
    # 1e-5: the filter compares expf() of float32 logits, the answer gives rounded logarithms
    check(all(v >= max(t.values()) + math.log(0.3) - 1e-5 for v, t in zip(c["token_logprobs"], c["top_logprobs"])),
          "min_p .3 holds")


def test_logprobs():
    d = usual()
    for k in (0, 1, 5):
        c = d.complete(PROMPT, temperature=1, seed=3, max_tokens=20, logprobs=k)["choices"][0]
        lp = c["logprobs"]
        equal(set(lp), {"tokens", "token_logprobs", "top_logprobs", "text_offset"}, "keys of logprobs %d" % k)
        equal([len(lp[x]) for x in ("tokens", "token_logprobs", "top_logprobs", "text_offset")], [20] * 4,
              "entries of logprobs %d" % k)
        for i, (tok, v, top) in enumerate(zip(lp["tokens"], lp["token_logprobs"], lp["top_logprobs"])):
            best = sorted(top.values(), reverse=True)
            ok = top.get(tok) == v and v <= 0 and (len(top) == max(k, 1) if v in best[:k] else len(top) == k + 1)
            if not check(ok, "logprobs %d, token %d: %r %r %s" % (k, i, tok, v, short(top))):
                break
        off = lp["text_offset"]
        ok = all(c["text"][o:o + len(t)] == t for o, t in zip(off, lp["tokens"]) if not t.startswith("bytes:"))
        check(ok, "text_offset points at the token: %s %s" % (off, short(lp["tokens"])))
    # the whole distribution: every token of the vocabulary once, its probabilities sum to 1
    V = 384
    lp = d.complete(PROMPT, max_tokens=3, logprobs=V)["choices"][0]["logprobs"]
    names = set()
    for i in range(V):
        b = d_token_name(d, i)
        names.add(b)
    for top in lp["top_logprobs"]:
        equal(len(top), V, "entries of the whole distribution")
        equal(set(top) ^ names, set(), "names of the whole distribution (each token's text, or bytes:\\x..)")
        # 384 values of 24 bits, logarithms near -7: each e^x is off by at most 5e-7 of itself
        close(sum(math.exp(v) for v in top.values()), 1, 2e-6, "sum of the whole distribution")
        check(sum(math.exp(v) for v in sorted(top.values())[-20:]) <= 1 + 2e-6, "a part sums to at most 1")
    first = lp["top_logprobs"][0]
    equal(first[lp["tokens"][0]], max(first.values()), "the greedy token is the most probable, digit for digit")
    # raw logarithms: temperature does not change them
    hot = d.complete(PROMPT, temperature=2, seed=1, max_tokens=1,
                     logprobs=V)["choices"][0]["logprobs"]["top_logprobs"][0]
    equal(hot, first, "logprobs are those before the temperature")


_names = {}


def d_token_name(d, i):
    """A token's name in logprobs, from /detokenize and the tokenizer's file."""
    if not _names:
        # GPT-2's map of bytes to characters, as the tokenizer's file has it
        keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
        chars, extra = {}, 0
        for b in range(256):
            if b in keep:
                chars[chr(b)] = b
            else:
                chars[chr(256 + extra)] = b
                extra += 1
        with open(TINY + "/tokenizer.json", encoding="utf-8") as f:
            tok = json.load(f)
        special = {t["id"]: t["content"] for t in tok["added_tokens"]}
        for text, k in tok["model"]["vocab"].items():
            raw = special[k].encode() if k in special else bytes(chars[c] for c in text)
            try:
                _names[k] = raw.decode("utf-8")
            except UnicodeDecodeError:
                _names[k] = "bytes:" + "".join("\\x%02x" % b for b in raw)
    return _names[i]


def test_eos():
    """At temperature 2 the end-of-text token comes up now and then; the seed decides where."""
    d = usual()
    for seed in range(60):
        o = d.complete(PROMPT, temperature=2, seed=seed, max_tokens=150, logprobs=0)
        c = o["choices"][0]
        if c["finish_reason"] == "stop":
            break
    if not check(c["finish_reason"] == "stop", "some seed of 60 ends with the end-of-text token"):
        return
    n = o["usage"]["completion_tokens"]
    check(n < 150 and "stop_reason" not in c, "it ends early, without stop_reason: %d" % n)
    equal((len(c["logprobs"]["tokens"]), "<|endoftext|>" in c["text"]), (n, False), "the end is not part of the text")
    e = d.complete(PROMPT, temperature=2, seed=seed, max_tokens=150, logprobs=0, ignore_eos=True)
    ce = e["choices"][0]
    equal((ce["finish_reason"], e["usage"]["completion_tokens"]), ("length", 150), "ignore_eos goes on")
    equal(ce["logprobs"]["tokens"][:n + 1], c["logprobs"]["tokens"] + ["<|endoftext|>"],
          "ignore_eos: the same tokens, then the end-of-text token")
    check("<|endoftext|>" not in ce["text"], "the special token has no text")
    _, _, events, done = d.stream(PROMPT, temperature=2, seed=seed, max_tokens=150)
    equal((events_text(events), events[-1]["choices"][0]["finish_reason"], done), (c["text"], "stop", True),
          "as a stream")


def test_deq_tolerance():
    d = usual()
    means = []
    for tol in (0.5, 0.1, 0.01, 0.001, 1e-4, 1e-5):
        o = d.complete(PROMPT, max_tokens=20, deq={"tol": tol, "max_iter": 64})["deq"]
        close(o["tol"], tol, tol * 1e-6, "tol is reported (float32)")
        check(o["converged"], "tol %g converges in 64 evaluations: %s" % (tol, o))
        check(0 < o["residual_max"] <= tol, "residual_max <= tol %g: %r" % (tol, o["residual_max"]))
        check(1 <= o["iters_mean"] <= o["iters_max"] <= 64, "iters: %s" % o)
        means.append(o["iters_mean"])
    check(all(a <= b for a, b in zip(means, means[1:])) and means[0] < means[-1],
          "a smaller tol takes more evaluations: %s" % means)
    o = d.complete(PROMPT, max_tokens=20, deq={"max_iter": 1, "tol": 1e-5})
    equal((o["deq"]["converged"], o["usage"]["completion_tokens"]), (False, 20), "max_iter 1: answered, not converged")
    # max_iter counts from when all positions before are final; a window of 8 evaluates a position up to 7 times before
    # that
    check(o["deq"]["iters_max"] <= 8, "max_iter 1, window 8: at most 8 evaluations of a position, %s" % o["deq"])
    w = d.complete(PROMPT, max_tokens=20, deq={"max_iter": 1, "tol": 1e-5, "window": 1})["deq"]
    equal((w["iters_max"], w["iters_mean"], w["converged"]), (1, 1, False), "max_iter 1, window 1")
    check(o["deq"]["residual_max"] > 1e-5, "max_iter 1: the residual says so")
    o = d.complete(PROMPT, max_tokens=20, deq={"min_iter": 9, "tol": 0.5})["deq"]
    check(o["iters_mean"] >= 9, "min_iter 9: %s" % o)


def test_deq_agreement():
    d = usual()
    base = d.complete(PROMPT, max_tokens=60, deq={"tol": 1e-4, "max_iter": 64})
    for solver in ("picard", "anderson", "broyden"):
        o = d.complete(PROMPT, max_tokens=60, deq={"tol": 1e-4, "max_iter": 64, "solver": solver})
        equal((o["choices"][0]["text"], o["deq"]["solver"], o["deq"]["converged"]),
              (base["choices"][0]["text"], solver, True), solver + " at tol 1e-4")
    base = d.complete(PROMPT, max_tokens=60, deq={"tol": 1e-5, "max_iter": 64, "window": 8})
    for window in (1, 3, 8, 32):
        o = d.complete(PROMPT, max_tokens=60, deq={"tol": 1e-5, "max_iter": 64, "window": window})
        equal((o["choices"][0]["text"], o["deq"]["window"]), (base["choices"][0]["text"], window),
              "window %d at tol 1e-5" % window)
    for warm in ("zero", "previous", "predictor"):
        o = d.complete(PROMPT, max_tokens=60, deq={"tol": 1e-5, "max_iter": 64, "warm_start": warm})
        equal((o["choices"][0]["text"], o["deq"]["warm_start"]), (base["choices"][0]["text"], warm),
              warm + " at tol 1e-5")


def test_deq_stop():
    """By whichever rule a position counts as solved: from zero by plain steps a change is a residual; what reads every
    evaluation takes windows of one row, and argmax six evaluations at least."""
    d = usual()
    plain = {"solver": "picard", "warm_start": "zero", "window": 1, "max_iter": 64}
    base = d.complete(PROMPT, max_tokens=30, deq=dict(plain, tol=0.03))
    for stop, tol, least in (("residual", 0.03, 1), ("latent", 0.03, 1), ("kl", 0.001, 2), ("argmax", None, 6)):
        asked = dict(plain, stop=stop, **({"tol": tol} if stop == "residual" else {}))
        o = d.complete(PROMPT, max_tokens=30, deq=asked)
        equal((o["deq"]["stop"], o["deq"]["window"], o["deq"]["converged"]), (stop, 1, True), stop)
        check(tol is None or abs(o["deq"]["tol"] - tol) < 1e-6, "%s: its tolerance, %s" % (stop, o["deq"]))
        check(o["deq"]["iters_mean"] >= least, "%s: %s" % (stop, o["deq"]))
        check(stop in ("kl", "argmax") or (o["choices"][0]["text"], o["deq"]["iters_mean"]) ==
              (base["choices"][0]["text"], base["deq"]["iters_mean"]), "%s as by the residual" % stop)


def test_deq_bounds():
    d = usual()
    for field, value, code, param in (
            ("tol", 1e-6, "invalid_value", "deq.tol"), ("tol", 0.6, "invalid_value", "deq.tol"),
            ("tol", 0, "invalid_value", "deq.tol"),
            ("tol", -1, "invalid_value", "deq.tol"), ("tol", "x", "invalid_type", "deq.tol"),
            ("max_iter", 0, "invalid_value", "deq.max_iter"),
            ("max_iter", 65, "invalid_value", "deq.max_iter"), ("max_iter", 3.5, "invalid_type", "deq.max_iter"),
            ("window", 0, "invalid_value", "deq.window"), ("window", 65, "invalid_value", "deq.window"),
            ("min_iter", 33, "invalid_value", "deq.min_iter"), ("solver", "newton", "invalid_value", "deq.solver"),
            ("solver", 1, "invalid_type", "deq.solver"), ("warm_start", "hot", "invalid_value", "deq.warm_start"),
            ("warm_start", "proposal", "invalid_value", "deq.warm_start"),
            ("stop", "entropy", "invalid_value", "deq.stop"), ("stop", 1, "invalid_type", "deq.stop"),
            ("warm_start", [], "invalid_type", "deq.warm_start"),
            ("tolerance", 1, "unknown_parameter", "deq.tolerance")):
        s, _, o = d.post("/v1/completions", {"prompt": "A", "deq": {field: value}})
        check_error(s, o, 400, code, param, "deq.%s %r" % (field, value))
    # a limit itself is allowed, whatever its nearest float32 is
    d = shared("limits.tol_min=0.001", "limits.tol_max=0.7", "engine.max_sequences=1")
    for tol in (0.001, 0.7):
        s, _, o = d.post("/v1/completions", {"prompt": "A", "max_tokens": 1, "deq": {"tol": tol}})
        equal(s, 200, "tol %g when it is the limit itself (%s)" % (tol, short(o)))
