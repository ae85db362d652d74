"""Answers that fit a form, over sockets: response_format and structured_outputs, whole and streamed, at every window,
alone and in company; what is refused, and where the error says so."""
import concurrent.futures
import json
import re

from lib import Daemon, check, check_error, equal, parse_sse, usual
from wordlevel import word_model

C, H, R = "/v1/completions", "/v1/chat/completions", "/v1/responses"
PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age", "tags"], "properties": {
    "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
    "tags": {"type": "array", "items": {"enum": ["kind", "bold"]}, "maxItems": 2}}}
GBNF = 'root ::= "(" (root | [a-z]{1,3}) ")"'


def one_line(text):
    return json.loads(text) if "\n" not in text else None


# what is asked for, and whether a text is what was asked for
FORMS = [
    ({"structured_outputs": {"choice": ["yes", "no, never", "ye"]}}, lambda t: t in ("yes", "no, never", "ye")),
    ({"structured_outputs": {"regex": r"[A-Z][a-z]{2,6}( \d{1,2})?"}},
     lambda t: re.fullmatch(r"[A-Z][a-z]{2,6}( \d{1,2})?", t)),
    ({"structured_outputs": {"grammar": GBNF}}, lambda t: re.fullmatch(r"\(+[a-z]{1,3}\)+", t) and
        t.count("(") == t.count(")")),
    ({"structured_outputs": {"json": PERSON}}, lambda t: set(one_line(t)) == {"name", "age", "tags"}),
    ({"structured_outputs": {"json": json.dumps(PERSON)}}, lambda t: 0 <= one_line(t)["age"] <= 120),
    ({"structured_outputs": {"json": {"const": None}}}, lambda t: t == "null"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}},
     lambda t: len(one_line(t)["name"]) <= 12 and len(one_line(t)["tags"]) <= 2),
]
# objects of any content need not end soon
OPEN = [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}]


def test_answers_fit():
    """Greedy and drawn, of completions and chats: what ends with stop is whole."""
    d = usual()
    ended = 0
    for form, fits in FORMS:
        for more in ({"temperature": 0}, {"temperature": 1.5, "seed": 4}, {"temperature": 1, "seed": 9, "top_p": 0.9}):
            s, _, o = d.post(C, dict(form, prompt="First Citizen:", max_tokens=120, **more))
            equal(s, 200, "%s: %s" % (form, o))
            a = o["choices"][0]
            ended += a["finish_reason"] == "stop"
            check(a["finish_reason"] == "length" or fits(a["text"]), "%s: %r" % (form, a["text"]))
            s, _, o = d.post(H, dict(form, messages=[{"role": "user", "content": "Who?"}], max_tokens=120, **more))
            a = o["choices"][0]
            ended += a["finish_reason"] == "stop"
            check(a["finish_reason"] == "length" or fits(a["message"]["content"]), "%s: %r" % (form, a))
    check(ended > 30, "%d of 42 came to an end" % ended)
    for form in OPEN:
        s, _, o = d.post(C, dict(form, prompt="First Citizen:", max_tokens=60, temperature=1, seed=3, n=4))
        equal(s, 200, str(o))
        for a in o["choices"]:
            check(a["text"].startswith("{"), a["text"])
            check(a["finish_reason"] != "stop" or isinstance(json.loads(a["text"]), dict), a["text"])
    o = d.complete("First", max_tokens=2, **FORMS[3][0])
    equal((o["choices"][0]["finish_reason"], o["usage"]["completion_tokens"]), ("length", 2), "cut by max_tokens")
    o = d.complete("First", max_tokens=1, structured_outputs={"choice": ["a"]})
    equal((o["choices"][0]["text"], o["choices"][0]["finish_reason"]), ("a", "stop"),
        "whole with the last token that there may be")


def test_streams_say_the_same():
    d = usual()
    for form, _ in FORMS:
        asked = dict(form, prompt="First Citizen:", max_tokens=80, temperature=1, seed=2)
        whole = d.post(C, asked)[2]["choices"][0]
        events, done = parse_sse(d.request("POST", C, dict(asked, stream=True))[2])
        text = "".join(c["text"] for e in events for c in e["choices"])
        reasons = [c["finish_reason"] for e in events for c in e["choices"] if c["finish_reason"]]
        equal((done, text, reasons), (True, whole["text"], [whole["finish_reason"]]), "%s streamed" % form)


def test_windows_and_company_change_nothing():
    """One row at a time, eight, and beside others that fit other forms or none."""
    settings = "limits.max_window=16", "limits.tol_min=1e-7"
    with Daemon(*settings) as d:
        def ask(form, window, **more):
            return d.post(C, dict(form, prompt="First Citizen:", max_tokens=60, temperature=0.7, seed=11,
                                  deq={"window": window, "tol": 1e-6}, **more))[2]["choices"][0]["text"]
        alone = [ask(form, 1) for form, _ in FORMS]
        equal([ask(form, 8) for form, _ in FORMS], alone, "window 8")
        equal([ask(form, 8, logprobs=2) for form, _ in FORMS], alone, "with log-probabilities")
        bodies = [dict(form, prompt="First Citizen:", max_tokens=60, temperature=0.7, seed=11,
                       deq={"window": 8, "tol": 1e-6}) for form, _ in FORMS]
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            free = [pool.submit(d.complete, "The", max_tokens=60) for _ in range(4)]
            got = [x[2]["choices"][0]["text"] for x in pool.map(lambda b: d.post(C, b), bodies)]
            for f in free:
                f.result()
        equal(got, alone, "in company")


def test_what_is_refused():
    """By name, never ignored."""
    d = usual()
    base = {"prompt": "The", "max_tokens": 4}
    of, so = (lambda x: {"response_format": x}), (lambda x: {"structured_outputs": x})
    schema = lambda s: of({"type": "json_schema", "json_schema": {"name": "x", "schema": s}})
    for form, code, param, words in (
            (so({"regex": "(?=a)"}), "invalid_form", "structured_outputs.regex", "look-around"),
            (so({"regex": "(a|b)*a(a|b){20}"}), "invalid_form", "structured_outputs.regex", "too large"),
            (so({"grammar": "root ::= root"}), "invalid_form", "structured_outputs.grammar", "left recursion"),
            (so({"choice": []}), "invalid_form", "structured_outputs.choice", "not empty"),
            (so({"choice": [1]}), "invalid_type", "structured_outputs.choice", "strings"),
            (so({"json": "{"}), "invalid_form", "structured_outputs.json", "not JSON"),
            (so({"json": {"type": "array", "uniqueItems": True}}), "invalid_form", "structured_outputs.json",
             "uniqueItems"),
            (so({"regex": "a", "choice": ["a"]}), "invalid_value", "structured_outputs", "only one"),
            (so({"regex": 3}), "invalid_type", "structured_outputs.regex", "string"),
            (so({"colour": 1}), "unknown_parameter", "structured_outputs.colour", "unknown"),
            (so({"whitespace_pattern": "x*"}), "unsupported_parameter", "structured_outputs.whitespace_pattern",
             "blank"),
            (so([]), "invalid_type", "structured_outputs", "object"),
            (of({"type": "xml"}), "invalid_value", "response_format.type", "json_object"),
            (of({"type": "json_schema"}), "missing_parameter", "response_format.json_schema", "missing"),
            (of({"type": "json_schema", "json_schema": {"name": "x"}}), "missing_parameter",
             "response_format.json_schema.schema", "missing"),
            (of({"type": "text", "json_schema": {"name": "x"}}), "invalid_value", "response_format.json_schema",
             "only"),
            (schema({"type": "integer", "multipleOf": 2}), "invalid_form", "response_format.json_schema.schema",
             "multipleOf"),
            (schema({"$ref": "#/$defs/x"}), "invalid_form", "response_format.json_schema.schema", "$ref"),
            (schema([]), "invalid_type", "response_format.json_schema.schema", "JSON Schema"),
            (dict(of({"type": "json_object"}), **so({"regex": "a"})), "invalid_value", "structured_outputs.regex",
             "one"),
            (dict(so({"regex": "a"}), ignore_eos=True), "invalid_value", "ignore_eos", "form"),
            ({"guided_json": {}}, "unsupported_parameter", "guided_json", "structured_outputs")):
        s, _, o = d.post(C, dict(base, **form))
        check_error(s, o, 400, code, param, "%s" % form)
        check(words in o["error"]["message"], "%s: %s" % (form, o))
    before = d.metrics()
    for regex, status in (("counted(", 400), ("count(ed)", 200), ("count(ed)", 200)):
        equal(d.post(C, dict(base, **so({"regex": regex})))[0], status, regex)
    after = d.metrics()
    for what in ("refused", "made", "found"):
        check(after["deqd_forms_%s_total" % what] > before["deqd_forms_%s_total" % what], "counted: " + what)
    check(after["deqd_forms_kept"] > 0, "the last ones are kept")
    for neutral in (of({"type": "text"}), of({}), so({}), so({"disable_fallback": True}), of(None)):
        equal(d.post(C, dict(base, **neutral))[0], 200, "%s asks for nothing" % neutral)
    s, _, o = d.post(R, {"input": "x", "max_output_tokens": 2, "structured_outputs": {"regex": "a"}})
    check_error(s, o, 400, "unsupported_parameter", "structured_outputs", "not of responses")


def test_responses_fit():
    """text.format is for responses what response_format is for chats: the same answer, which the response repeats."""
    d = usual()
    schema = {"type": "json_schema", "name": "person", "strict": True, "schema": PERSON}
    chat = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    for form, of_chat in ((schema, chat), ({"type": "json_object"},) * 2, ({"type": "text"},) * 2, ({}, {}),
                          (None, None)):
        base = {"temperature": 1, "seed": 9}
        s, _, o = d.post(R, dict(base, input="Who?", max_output_tokens=120, text={"format": form}))
        want = d.post(H, dict(base, messages=[{"role": "user", "content": "Who?"}], max_tokens=120,
                              response_format=of_chat))[2]["choices"][0]
        equal((s, o["output"][0]["content"][0]["text"], o["status"]),
              (200, want["message"]["content"], "completed" if want["finish_reason"] == "stop" else "incomplete"),
              "%s: the chat's answer" % form)
        equal(o["text"], {"format": dict({"type": "text"}, **(form or {}))}, "%s is repeated" % form)
    for text, code, param in (({"format": {"type": "json_schema"}}, "missing_parameter", "text.format.schema"),
                              ({"format": {"type": "json_object", "schema": {}}}, "invalid_value",
                               "text.format.schema"),
                              ({"format": {"type": "json_schema", "schema": {"type": "x"}}}, "invalid_form",
                               "text.format.schema"),
                              ({"format": {"type": "json_schema", "schema": 1}}, "invalid_type", "text.format.schema"),
                              ({"format": {"colour": 1}}, "unknown_parameter", "text.format.colour"),
                              ({"format": "text"}, "invalid_type", "text.format"), ("text", "invalid_type", "text"),
                              ({"colour": 1}, "unknown_parameter", "text.colour")):
        s, _, o = d.post(R, {"input": "x", "text": text})
        check_error(s, o, 400, code, param, "%s" % text)


def test_words_spell_no_form():
    with word_model() as model, Daemon(model=model) as d:
        s, _, o = d.post(C, {"prompt": "w9", "max_tokens": 2, "structured_outputs": {"choice": ["a"]}})
        check_error(s, o, 400, "invalid_form", "structured_outputs.choice", "a vocabulary of words")
