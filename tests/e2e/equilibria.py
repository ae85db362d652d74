"""/v1/equilibria and /v1/embeddings: the states of a prompt, in every form, against what others computed, alone and in
company."""
import base64
import math
import struct
import threading

import authors
from imports import golden_of, place
from imports_looped import from_authors
from lib import Daemon, check, check_error, close, equal, floats32, shared, usual

TEXT = ("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak. And so on, past the "
        "window of 48 tokens!")
Q, E = "/v1/equilibria", "/v1/embeddings"
OCTETS = {"Accept": "application/octet-stream"}


def states(d, body):
    """(the answer, rows of its states as bytes)"""
    s, h, o = d.post(Q, body)
    equal((s, h["content-type"]), (200, "application/json"), "%s" % body)
    return o, [base64.b64decode(r) if isinstance(r, str) else floats32(r) for r in o["states"]]


def embeddings(d, text, **fields):
    s, _, o = d.post(E, dict({"input": text}, **fields))
    equal(s, 200, "embeddings: %s" % o)
    return [x["embedding"] for x in o["data"]]


def numbers(row):
    return struct.unpack("<%df" % (len(row) // 4), row)


def mean(rows):
    """float32 of the mean that was summed in double, position by position"""
    total = [0.0] * (len(rows[0]) // 4)
    for row in rows:
        total = [a + b for a, b in zip(total, numbers(row))]
    return struct.pack("<%df" % len(total), *(a / len(rows) for a in total))


def unit(row):
    length = math.sqrt(sum(x * x for x in numbers(row)))
    return struct.pack("<%df" % (len(row) // 4), *(x / length for x in numbers(row)))


def test_forms():
    d = usual()
    ids = d.post("/tokenize", {"prompt": TEXT})[2]["tokens"]
    n = len(ids)
    check(n > 60, "the text is longer than the window: %d tokens" % n)
    rows = {}
    for name, body, want, told in (("last", {}, 1, 1), ("all", {"positions": "all"}, n, n),
                                   ("pooled last", {"pooling": "last"}, 1, 1), ("mean", {"pooling": "mean"}, 1, n)):
        o, rows[name] = states(d, dict(body, prompt=TEXT))
        equal(set(o), {"object", "model", "state_dim", "positions", "states", "residuals", "evaluations", "usage",
                       "deq"}, name + ": keys")
        equal((o["object"], o["model"], o["positions"], len(rows[name])), ("equilibria", "tiny", want, want),
              name + ": head")
        D = o["state_dim"]
        check(all(len(r) == 4 * D for r in rows[name]), name + ": rows of a state")
        equal((len(o["residuals"]), len(o["evaluations"])), (told, told), name + ": positions that are told of")
        check(all(0 < r <= o["deq"]["tol"] for r in o["residuals"]) and min(o["evaluations"]) >= 1,
              name + ": %s" % o["deq"])
        equal((o["deq"]["iters_max"], o["deq"]["converged"]), (max(o["evaluations"]), True), name + ": their most")
        # 9 digits of a float32
        close(o["deq"]["residual_max"], max(o["residuals"]), 1e-8, name + ": the largest residual")
        equal(o["usage"], {"prompt_tokens": n, "total_tokens": n}, name + ": usage")
        s, h, raw = d.request("POST", Q, dict(body, prompt=TEXT), OCTETS)
        equal((s, h["content-type"], raw == b"".join(rows[name])), (200, "application/octet-stream", True),
              name + ": as bytes, bit for bit")
        equal(states(d, dict(body, prompt=TEXT, encoding_format="base64"))[1] == rows[name], True,
              name + ": base64 equals float")
        equal(states(d, dict(body, prompt=ids))[1] == rows[name], True, name + ": of token ids")
    equal(rows["last"][0] == rows["pooled last"][0] == rows["all"][-1], True, "last == all[-1], bit for bit")
    equal(rows["mean"][0] == mean(rows["all"]), True, "the mean")
    o, (fine,) = states(d, {"prompt": TEXT, "deq": {"tol": 1e-5, "max_iter": 64}})
    apart = math.dist(numbers(fine), numbers(rows["last"][0])) / math.hypot(*numbers(fine))
    # a residual of 0.01 under a contraction of 0.9
    check(0 < apart < 0.1, "solved finer it is another state, near: %g" % apart)


def test_against_authors():
    """The states that the authors' code has at its equilibrium."""
    golden = authors.safetensors(golden_of("attractor-small"))
    tokens, z = (golden[k][-1] for k in ("tokens", "segment0.equilibrium"))
    with place() as p:
        from_authors(p, "attractor-small")
        with Daemon("limits.tol_min=1e-7", "limits.max_iter=200", "model.numeric_class=float32",
                    model=p.path("model")) as d:
            at = 0
            for i in range(0, len(tokens), 24):
                o, rows = states(d, {"prompt": [int(t) for t in tokens[i:i + 24]], "positions": "all",
                                     "deq": {"tol": 3e-7, "max_iter": 200, "solver": "picard"}})
                for row in rows:
                    # a residual of 3e-7 |z| or the rounding of float32, which a contraction of 0.8 grows five times
                    close(max(abs(a - b) for a, b in zip(numbers(row), z[at:at + len(row) // 4])), 0, 5e-5, "a state")
                    at += len(row) // 4
            equal(at, len(z), "all of them")
            o, rows = states(d, {"prompt": [1, 2, 3], "positions": "all", "deq": {"max_iter": 0}})
            equal((o["residuals"], o["evaluations"], o["deq"]["residual_max"]), ([None] * 3, [0] * 3, None),
                  "the proposal, at which nothing is evaluated")
            s, _, o = d.post(Q, {"prompt": [1], "jacobian": True, "deq": {"max_iter": 0}})
            check_error(s, o, 400, "invalid_value", "jacobian", "where nothing is evaluated")


def test_jacobian():
    """An estimate of the spectral radius: the same whoever else is there, and it changes nothing else."""
    d = usual()
    without, (row,) = states(d, {"prompt": TEXT})
    told = []
    for body in ({}, {"positions": "all"}, {"pooling": "mean"}, {}):
        o, rows = states(d, dict(body, prompt=TEXT, jacobian=True))
        told.append(o.pop("jacobian"))
        if not body:
            equal((o, rows == [row]), (without, True), "what is told besides")
    equal(told, [told[0]] * 4, "at the last position, whatever is shown")
    radius = told[0]["spectral_radius"]
    # it was trained to contract: tests/unit/test_jacobian.c has the value
    check(told[0]["products"] == 32 and 0 < radius < 1, "a radius: %s" % told[0])
    threads = [threading.Thread(target=lambda: d.complete(TEXT, max_tokens=60)) for _ in range(3)]
    for t in threads:
        t.start()
    equal(states(d, {"prompt": TEXT, "jacobian": True})[0]["jacobian"], told[0], "in company")
    for t in threads:
        t.join()
    s, _, b = d.request("POST", Q, {"prompt": "A", "jacobian": True}, OCTETS)
    check_error(s, b, 400, "invalid_value", "jacobian", "in octets")


def test_in_company():
    """While others generate and are embedded, and in one request with others: the same to the bit."""
    d = usual()
    texts = ["A", TEXT, "My lord, I", "The king is dead. Long live the king"]
    alone = [(states(d, {"prompt": t, "positions": "all"})[1], embeddings(d, t)) for t in texts]
    failed = []

    def ask(i):
        for k in range(6):
            t = (i + k) % len(texts)
            if i % 3 == 0:
                d.complete(texts[t], max_tokens=40)
            elif i % 3 == 1:
                failed.extend(["states"] * (states(d, {"prompt": texts[t], "positions": "all"})[1] != alone[t][0]))
            else:
                failed.extend(["embedding"] * (embeddings(d, texts[t]) != alone[t][1]))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(9)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    equal(failed, [], "what differed in company")
    equal(embeddings(d, texts), [e for _, (e,) in alone], "many inputs in one request")


def test_embeddings():
    d = usual()
    s, h, o = d.post(E, {"input": [TEXT, "A"], "model": "tiny", "user": "me"})
    equal((s, set(o), o["object"], o["model"]), (200, {"object", "model", "data", "usage", "deq"}, "list", "tiny"),
          "head")
    equal([(x["object"], x["index"]) for x in o["data"]], [("embedding", 0), ("embedding", 1)], "data")
    ids = [d.post("/tokenize", {"prompt": t})[2]["tokens"] for t in (TEXT, "A")]
    equal(o["usage"], {k: sum(map(len, ids)) for k in ("prompt_tokens", "total_tokens")}, "usage")
    for i, text in enumerate((TEXT, "A")):
        row = floats32(o["data"][i]["embedding"])
        # 32 numbers, each rounded to 6e-8 of itself
        close(math.hypot(*numbers(row)), 1, 1e-7, "length of %d" % i)
        equal(row == unit(states(d, {"prompt": text, "pooling": "mean"})[1][0]), True, "the mean of its states")
        equal([base64.b64decode(x) for x in embeddings(d, text, encoding_format="base64")] == [row], True,
              "base64 equals float")
        equal(embeddings(d, text, pooling="last", dimensions=len(row) // 4)[0],
              list(numbers_of_text(unit(states(d, {"prompt": text})[1][0]))), "the last state")
    equal(embeddings(d, ids), [x["embedding"] for x in o["data"]], "of token ids")
    equal(embeddings(d, ids[0]), [o["data"][0]["embedding"]], "of one text's")
    equal(d.request("POST", E, {"input": "A"}, OCTETS)[1]["content-type"], "application/json", "JSON whatever is asked")


def numbers_of_text(row):
    """The numbers that 9 digits of each are."""
    return (float("%.9g" % x) for x in numbers(row))


def test_refused():
    d = shared("engine.max_positions=5000", "limits.max_logits_bytes=1M", "limits.max_prompts=4")
    D = states(d, {"prompt": "A"})[0]["state_dim"]
    for path, body, code, param in (
            (Q, {"positions": "first"}, "invalid_value", "positions"),
            (Q, {"positions": 1}, "invalid_type", "positions"),
            (Q, {"pooling": "max"}, "invalid_value", "pooling"),
            (Q, {"positions": "all", "pooling": "mean"}, "invalid_value", "positions"),
            (Q, {"encoding_format": "hex"}, "invalid_value", "encoding_format"),
            (Q, {"prompt": ["a"]}, "invalid_type", "prompt"), (Q, {"prompt": [384]}, "invalid_token_id", "prompt"),
            (Q, {"input": "a"}, "unknown_parameter", "input"),
            (Q, {"max_tokens": 1}, "unknown_parameter", "max_tokens"),
            (Q, {"deq": {"tol": 9}}, "invalid_value", "deq.tol"),
            (Q, {"prompt": [70] * 5001}, "context_length_exceeded", "prompt"),
            # with their text in base64 5/2 of their bytes
            (Q, {"prompt": [70] * (2**20 * 2 // 5 // (4 * D) + 1), "positions": "all", "encoding_format": "base64"},
             "invalid_value", "positions"),
            (E, {}, "missing_parameter", "input"), (E, {"input": []}, "invalid_value", "input"),
            (E, {"input": ["a", [1]]}, "invalid_type", "input"), (E, {"input": ["a"] * 5}, "invalid_value", "input"),
            (E, {"input": "a", "dimensions": D - 1}, "unsupported_parameter", "dimensions"),
            (E, {"input": "a", "encoding_format": 1}, "invalid_type", "encoding_format"),
            (E, {"input": [[70], [70] * 5001]}, "context_length_exceeded", "input")):
        s, _, o = d.post(path, body)
        check_error(s, o, 400, code, param, "%s %.80s" % (path, body))
    s, _, o = d.post(E, {"input": "a", "model": "gpt-2"})
    check_error(s, o, 404, "model_not_found", "model", "another model")
    with Daemon("engine.max_positions=9000") as d:
        s, _, o = d.post(Q, {"prompt": [70] * (262144 // D + 1), "positions": "all"})
        check_error(s, o, 400, "invalid_value", "positions", "too many numbers for text")
        d.alive()
