"""What clients send beside what they ask for: nulls, values of other servers' fields that ask for nothing, their own
last answer, numbers of any size; and the seed that a request without one gets. The fields are those of deqd
--print-fields."""
import hashlib
import json

from lib import DEQD, TINY, Daemon, check, check_error, equal, parse_sse, run, shared, usual

CHAT = "chat.message={role}: {content}\\n"
USER = {"role": "user", "content": "Tell me"}
C, H, R = "/v1/completions", "/v1/chat/completions", "/v1/responses"
BODIES = {C: {"prompt": "The", "max_tokens": 4, "seed": 5}, H: {"messages": [USER], "max_tokens": 4, "seed": 5},
          R: {"input": "Tell me", "max_output_tokens": 4, "seed": 5}, "/v1/logits": {"prompt": "The"},
          "/v1/equilibria": {"prompt": "The"}, "/v1/embeddings": {"input": "The"}, "/v1/states": {"prompt": "The"},
          "/tokenize": {"prompt": "The"}, "/detokenize": {"tokens": [70]}}
# nested objects: the path to send to, how the body holds one, and what their fields are called in errors
NESTED = {"deq": (C, lambda x: {"deq": x}, "deq."),
          "stream_options": (C, lambda x: {"stream": True, "stream_options": x}, "stream_options."),
          "messages": (H, lambda x: {"messages": [dict(USER, **x)]}, "messages[0]."),
          # an answer that fits a form is another one: streamed, so that it is not compared
          "response_format": (C, lambda x: {"response_format": x, "stream": True}, "response_format."),
          "json_schema": (C, lambda x: {"stream": True, "response_format": {
              "type": "json_schema", "json_schema": dict({"schema": {}}, **x)}}, "response_format.json_schema."),
          "text": (R, lambda x: {"text": x, "stream": True}, "text."),
          "format": (R, lambda x: {"stream": True, "text": {"format": x if "type" in x else dict(
              {"type": "json_schema", "name": "x", "schema": {}}, **x)}}, "text.format."),
          "structured_outputs": (C, lambda x: {"structured_outputs": x}, "structured_outputs."),
          "input": (R, lambda x: {"input": [dict(USER, **x)]}, "input[0].")}
PLACES = [(p, lambda x: x, "") for p in BODIES] + list(NESTED.values())


def rows():
    code, out, _ = run([DEQD, "--print-fields"])
    equal(code, 0, "--print-fields")
    for line in out.splitlines():
        table, name, kind, lo, hi = line.split("\t")
        path, wrap, prefix = NESTED.get(table, (table, lambda x: x, ""))
        yield path, wrap, prefix, name, kind


def read(b):
    """An answer; the bytes of a state are none of JSON."""
    return json.loads(b) if b[:1] in b"{[" else hashlib.sha256(b).hexdigest()


def text_of(o):
    if isinstance(o, str):
        return o
    if "output" in o:
        return [c["text"] for m in o["output"] for c in m["content"]]
    return [c.get("text", c.get("message")) for c in o["choices"]] if "choices" in o else o


def test_null_is_absent():
    """Every field, and a name that nobody knows, in every object."""
    d = shared(CHAT)
    plain = {path: text_of(read(d.request("POST", path, body)[2])) for path, body in BODIES.items()}
    # what the bodies here hold
    needed = {"schema", "messages", "input", "max_output_tokens", "tokens", "role", "prompt", "content", "max_tokens",
              "seed"}
    tried = 0
    strangers = [(*where, "never_heard_of", "") for where in PLACES]
    for path, wrap, prefix, name, _ in list(rows()) + strangers:
        if name in needed:
            continue
        body = dict(BODIES[path], **wrap({name: None}))
        s, _, b = d.request("POST", path, body)
        if not equal(s, 200, "%s%s null: %r" % (prefix, name, b[:200])):
            continue
        if not body.get("stream"):
            equal(text_of(read(b)), plain[path], "%s: %s%s null changes nothing" % (path, prefix, name))
        tried += 1
    check(tried > 150, "%d fields were tried" % tried)
    everything = {name: None for path, _, prefix, name, _ in rows() if (path, prefix) == (H, "") and name not in needed}
    s, _, o = d.post(H, dict(everything, **BODIES[H]))
    equal((s, text_of(o)), (200, plain[H]), "all of them at once")
    for path, name in ((H, "messages"), ("/detokenize", "tokens"), ("/tokenize", "prompt"),
                       ("/v1/embeddings", "input")):
        s, _, o = d.post(path, dict(BODIES[path], **{name: None}))
        check_error(s, o, 400, "missing_parameter", name, "%s: %s null is missing" % (path, name))


def test_neutral_values():
    """They change nothing; other values are refused with a reason, and hints are taken as they are."""
    d = shared(CHAT)
    plain = {path: text_of(read(d.request("POST", path, body)[2])) for path, body in BODIES.items()}
    tried = 0
    for path, wrap, prefix, name, kind in rows():
        if kind.startswith("neutral: "):
            good, bad = json.loads(kind[len("neutral: "):]), [{"a": 1}, "robot", -3, [1]]
        elif kind.startswith("hint: "):
            good, bad = {"object": [{"a": "b"}, {}], "string": ["x", ""],
                         "integer": [1, 0, 1.0]}[kind[len("hint: "):]], []
            s, _, o = d.post(path, dict(BODIES[path], **wrap({name: True})))
            check_error(s, o, 400, "invalid_type", prefix + name, "a hint of another type")
        else:
            continue
        tried += 1
        for v in good:
            s, _, b = d.request("POST", path, dict(BODIES[path], **wrap({name: v})))
            if equal(s, 200, "%s%s %r: %r" % (prefix, name, v, b[:200])) and not prefix:
                equal(text_of(json.loads(b)), plain[path], "%s %r changes nothing" % (name, v))
        for v in bad:
            s, _, o = d.post(path, dict(BODIES[path], **wrap({name: v})))
            check_error(s, o, 400, "unsupported_parameter", prefix + name, "%s %r" % (name, v))
            check(len(o["error"]["message"].split(": ")[-1]) > 10, "%s: a reason: %s" % (name, o["error"]["message"]))
    check(tried > 80, "%d rows were tried" % tried)
    s, _, o = d.post(C, dict(BODIES[C], length_penalty=1.0, stop="", n=1.0, best_of=1e0, top_k=0.0))
    equal((s, text_of(o)), (200, plain[C]), "1 and 1.0 are the same number, an empty stop string is none")


def test_the_answer_comes_back():
    """A second turn with the first one's message: as it is, and as clients dump it."""
    d = shared(CHAT)

    def talk(*messages):
        return d.post(H, {"messages": messages, "max_tokens": 4, "seed": 5})

    answer = talk(USER)[2]["choices"][0]["message"]
    check(answer["refusal"] is None, "the answer's own null")
    want = talk(USER, {"role": "assistant", "content": answer["content"]}, USER)[2]
    for more in ({}, {"annotations": None, "audio": None, "function_call": None, "tool_calls": None},
                 {"tool_calls": [], "annotations": []}, {"name": "deqd", "refusal": "", "reasoning_content": None}):
        s, _, o = talk(USER, dict(answer, **more), USER)
        equal((s, text_of(o) if s == 200 else o), (200, text_of(want)), "with %s" % more)
    parts = [{"type": "text", "text": "Tell ", "cache_control": {"type": "ephemeral"}},
             {"type": "text", "text": "me", "annotations": None}]
    s, _, o = talk(dict(USER, content=parts))
    equal((s, text_of(o)), (200, text_of(talk(USER)[2])), "parts with keys of others")
    for turn in ({"role": "assistant"}, {"role": "assistant", "content": None}, {"role": "assistant", "content": ""}):
        equal(talk(USER, turn, USER)[0], 200, "a turn without text: %s" % turn)
    for i, turn, code, param in (
            (0, {"role": "user", "content": None}, "missing_parameter", "content"),
            (1, {"content": "x"}, "missing_parameter", "role"),
            (1, {"role": "assistant", "tool_calls": [{"id": "1"}]}, "unsupported_parameter", "tool_calls"),
            (2, {"role": "tool", "content": "x"}, "invalid_value", "role"),
            (1, dict(USER, mood="x"), "unknown_parameter", "mood"),
            (0, dict(USER, content=[{"type": "image_url", "image_url": {}}]), "invalid_type", "content")):
        s, _, o = talk(*[USER] * i, turn)
        check_error(s, o, 400, code, "messages[%d].%s" % (i, param), "%s" % turn)
        check(not code.startswith("invalid") or "not supported" in o["error"]["message"], "what is not served: %s" % o)


def test_numbers_of_any_size():
    """Out of range is 400 with the field's name, also where no machine type holds the number."""
    d = shared(CHAT)
    tried = 0
    for path, wrap, prefix, name, kind in rows():
        if kind not in ("integer", "number"):
            continue
        for text in ("1e30", "-1e30", "9223372036854775808", "-9223372036854775809", "9" * 100, "1e999", "-1e999",
                     "1" + "0" * 400 + ".5"):
            body = json.dumps(dict(BODIES[path], **wrap({name: "@"})))
            s, _, b = d.request("POST", path, body.replace('"@"', text).encode())
            check_error(s, b, 400, "invalid_value", prefix + name, "%s%s: %.20s" % (prefix, name, text))
            check(b"between" in b, "its range is told: %r" % b)
            tried += 1
    check(tried > 150, "%d were tried" % tried)
    for path, body in ((C, '{"prompt": [%s]}'), (C, '{"stop_token_ids": [%s]}'), (C, '{"prompt": [[1], [%s]]}'),
                       ("/detokenize", '{"tokens": [1, %s]}'), ("/v1/logits", '{"prompt": [%s]}'),
                       ("/v1/equilibria", '{"prompt": [%s]}'), ("/v1/embeddings", '{"input": [[%s]]}')):
        for text in ("9223372036854775808", "1e999", "-1e30", "-" + "9" * 50):
            s, _, b = d.request("POST", path, (body % text).encode())
            check_error(s, b, 400, "invalid_token_id", body.split('"')[1], "%s: %.20s" % (body, text))
    s, _, b = d.request("POST", C, b'{"logit_bias": {"1": 1e999}}')
    check_error(s, b, 400, "invalid_value", "logit_bias", "a bias")
    # such a number beside a good one, and in texts, is not touched
    s, _, b = d.request("POST", C, b'{"prompt": "1e999, \\"99999999999999999999", "metadata": {"x": 1e999},'
                                   b' "seed": 9007199254740993, "echo": true, "max_tokens": 1}')
    o = json.loads(b)
    equal((s, o["deq"]["seed"], o["choices"][0]["text"][:28]), (200, 9007199254740993, '1e999, "99999999999999999999'),
        "the others stay as they are")
    for text in ("16.0", "1.6e1", "160e-1"):
        s, _, b = d.request("POST", C, b'{"prompt": "The", "ignore_eos": true, "max_tokens": %s}' % text.encode())
        equal((s, json.loads(b)["usage"]["completion_tokens"]), (200, 16), "max_tokens %s" % text)
    s, _, o = d.post(C, {"prompt": "The", "max_tokens": 16.5})
    check_error(s, o, 400, "invalid_type", "max_tokens", "but 16.5")


def test_unknown_fields_can_be_ignored():
    with Daemon(CHAT, "limits.unknown_fields=ignore") as d:
        for path, wrap, prefix in PLACES:
            s, _, b = d.request("POST", path, dict(BODIES[path], **wrap({"never_heard_of": [1]})))
            equal(s, 200, "%s %s: %r" % (path, prefix, b[:200]))
        s, _, o = d.post(C, {"prompt": "The", "suffix": "x", "never_heard_of": 1})
        check_error(s, o, 400, "unsupported_parameter", "suffix", "what is known and not served is not ignored")
    s, _, o = usual().post(C, {"prompt": "The", "never_heard_of": 1})
    check_error(s, o, 400, "unknown_parameter", "never_heard_of", "refused by default")


def test_seed_is_drawn_and_told():
    """Without a seed answers differ, and each can be asked for again by the one it tells."""
    with Daemon(CHAT, "sampling.seed=random") as d:
        for path, body in ((C, {"prompt": "The", "max_tokens": 20}),
                           (C, {"prompt": ["The", "A"], "n": 2, "max_tokens": 12}),
                           (C, {"prompt": "The", "n": 1, "best_of": 3, "max_tokens": 12, "seed": None}),
                           (H, {"messages": [USER], "max_tokens": 20, "logprobs": True})):
            got = [d.post(path, body)[2] for _ in range(4)]
            seeds = [o["deq"]["seed"] for o in got]
            held = all(0 <= x < 2**53 for x in seeds)
            check(len(set(seeds)) == 4 and held, "four seeds that doubles hold: %s" % seeds)
            check(len({json.dumps(text_of(o)) for o in got}) > 1, "not one answer for ever")
            for o in got[:2]:
                seed = o["deq"]["seed"]
                again = d.post(path, dict(body, seed=seed))[2]
                equal((again["choices"], again["deq"]["seed"]), (o["choices"], seed), "%s again, by its seed" % path)
        s, _, b = d.request("POST", C, {"prompt": "The", "max_tokens": 20, "n": 2, "stream": True})
        events, done = parse_sse(b)
        seeds = {e["deq"]["seed"] for e in events if "deq" in e}
        check(done and len(seeds) == 1, "a stream tells one seed: %s" % seeds)
        whole = d.post(C, {"prompt": "The", "max_tokens": 20, "n": 2, "seed": seeds.pop()})[2]
        streamed = ["".join(c["text"] for e in events for c in e["choices"] if c["index"] == i) for i in range(2)]
        equal(streamed, [c["text"] for c in whole["choices"]], "and the same again, not streamed")
        # which is written behind the answer
        check(d.wait_line(5, message="completion", seed=whole["deq"]["seed"]), "the log has it")
    with Daemon("sampling.seed=77") as d:
        a, b = (d.complete("The", max_tokens=12) for _ in range(2))
        equal((a["deq"]["seed"], a["choices"]), (77, b["choices"]), "one for ever, where the configuration has one")
        equal(a["choices"], d.complete("The", max_tokens=12, seed=77)["choices"], "it is a seed as any")
        equal(d.complete("The", max_tokens=1, seed=-5)["deq"]["seed"], -5, "a request's own goes before it")
    for bad in ("-1", "1.5", "", "never", "9" * 17):
        code, _, err = run([DEQD, "--model", TINY, "--set", "sampling.seed=" + bad, "--check-config"])
        check(code == 2 and "sampling.seed" in err, "sampling.seed %r is refused: %d %s" % (bad, code, err))
