"""How a conversation becomes text: the default template, the model's, the configuration's; and /v1/responses over the
same path."""
import contextlib
import http.client
import json
import os
import shutil
import signal
import tempfile

from lib import SLOW, TINY, Daemon, check, check_error, equal, parse_named_sse, parse_sse, usual

USER = {"role": "user", "content": "First Citizen:"}
TALK = [{"role": "system", "content": "Be kind."}, USER, {"role": "assistant", "content": "We know't."}, USER]
GREEDY = {"temperature": 0}


def chat(d, messages, **more):
    s, _, o = d.post("/v1/chat/completions", dict(GREEDY, messages=messages, **more))
    if s != 200:
        raise RuntimeError("chat: %d %s" % (s, o))
    return o


def respond(d, given, **more):
    s, _, o = d.post("/v1/responses", dict(GREEDY, input=given, **more))
    if s != 200:
        raise RuntimeError("response: %d %s" % (s, o))
    return o


def template_of(d):
    return d.get("/v1/models")[2]["data"][0]["deqd"]["chat_template"]


@contextlib.contextmanager
def model_with(template):
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "tiny")
        shutil.copytree(TINY, path)
        with open(os.path.join(path, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as f:
            json.dump(dict(config, chat=template), f)
        yield path


def test_default_template():
    """Contents are lines, and so is the answer: it begins with its text and ends before the next line."""
    d = usual()
    equal(template_of(d), {"source": "default", "begin": "", "message": "{content}\n", "reply": "", "stop": "\n"},
          "the template in use")
    for messages, prompt in (([USER], "First Citizen:\n"),
                             (TALK, "Be kind.\nFirst Citizen:\nWe know't.\nFirst Citizen:\n")):
        o = chat(d, messages, max_tokens=60)
        plain = d.complete(prompt, max_tokens=60)["choices"][0]["text"].lstrip(" \n")
        got = o["choices"][0]
        equal(got["message"]["content"], plain.split("\n")[0], "a line")
        equal(got["finish_reason"], "stop" if "\n" in plain else "length", "how it ends")
        _, _, b = d.request("POST", "/v1/chat/completions", dict(GREEDY, messages=messages, max_tokens=60, stream=True))
        events, done = parse_sse(b)
        equal(("".join(e["choices"][0]["delta"].get("content", "") for e in events), done),
              (got["message"]["content"], True), "streamed")


def test_template_of_the_model():
    own = {"begin": "A talk.\n", "message": "{role}> {content_trimmed}\n", "reply": "assistant>", "stop": "\nuser>"}
    with model_with(own) as path:
        with Daemon(model=path) as d:
            equal(template_of(d), dict(own, source="model"), "the model's")
            text = chat(d, [dict(USER, content=" First Citizen:\n")], max_tokens=30)["choices"][0]["message"]["content"]
            equal(text, d.complete("A talk.\nuser> First Citizen:\nassistant>", max_tokens=30,
                                   stop="\nuser>")["choices"][0]["text"].lstrip(), "its text")
        with Daemon("chat.stop=e", model=path) as d:
            equal(template_of(d), dict(own, source="model", stop="e"), "chat.stop wins")
        with Daemon("chat.message=<{content}>", "chat.reply=", model=path) as d:
            equal(template_of(d), {"source": "configuration", "begin": "", "message": "<{content}>", "reply": "",
                                  "stop": ""},
                  "chat.message wins")
            text = chat(d, [USER], max_tokens=30)["choices"][0]["message"]["content"]
            equal(text, d.complete("<First Citizen:>", max_tokens=30)["choices"][0]["text"].lstrip(), "its text")


def test_template_that_makes_too_much():
    """The longest conversation by the longest template is too long, by name; one that repeats its content is not
    tried."""
    with Daemon("chat.message=" + "{role}{content}" + "x" * 480) as d:
        s, _, o = d.post("/v1/chat/completions", {"messages": [{"role": "developer", "content": "y" * 150}] * 4096})
        check_error(s, o, 400, "context_length_exceeded", "messages", "4,096 messages")
        d.alive()
    with Daemon("chat.message=" + "{content}" * 50) as d:
        for path, field, value in (("/v1/chat/completions", "messages", [dict(USER, content="y" * 900000)]),
                                   ("/v1/responses", "input", "y" * 900000)):
            s, _, o = d.post(path, {field: value})
            check_error(s, o, 400, "invalid_value", field, "45 MB of text")
            check("chat template" in o["error"]["message"] and "configuration" in o["error"]["message"],
                  "it names the template: %s" % o["error"]["message"])
        d.alive()


def test_responses():
    """Text in and text out: the same as chat gives, in OpenAI's other shape."""
    d = usual()
    o = respond(d, "First Citizen:", max_output_tokens=8, metadata={"a": "b"}, user="me")
    same = chat(d, [USER], max_tokens=8)
    text, usage = same["choices"][0]["message"]["content"], same["usage"]
    equal(o["output"],
          [{"id": o["id"].replace("resp_", "msg_"), "type": "message", "role": "assistant", "status": o["status"],
                         "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]}],
          "output")
    equal((o["usage"]["input_tokens"], o["usage"]["output_tokens"], o["usage"]["total_tokens"]),
          (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]), "usage")
    equal([o[k] for k in ("object", "metadata", "user", "instructions", "max_output_tokens", "store", "error",
                          "temperature", "truncation")],
          ["response", {"a": "b"}, "me", None, 8, False, None, 0, "disabled"], "what it tells of the request")
    check(o["deq"]["converged"] in (True, False), "deq")
    length = respond(d, "First Citizen:", max_output_tokens=2)
    equal((length["status"], length["incomplete_details"]), ("incomplete", {"reason": "max_output_tokens"}),
          "out of tokens")
    stop = respond(d, "First Citizen:", max_output_tokens=60, stop=text[2])
    equal((stop["status"], stop["incomplete_details"], stop["output"][0]["content"][0]["text"]),
          ("completed", None, text[:2]), "an end")
    parts = [dict(m, content=[{"type": "output_text" if m["role"] == "assistant" else "input_text",
                               "text": m["content"]}]) for m in TALK]
    for given, more in ((TALK, {}), (parts, {}), ([dict(m, type="message") for m in TALK], {}),
                        (TALK[1:], {"instructions": "Be kind."})):
        o = respond(d, given, max_output_tokens=8, **more)
        equal(o["output"][0]["content"][0]["text"], chat(d, TALK, max_tokens=8)["choices"][0]["message"]["content"],
              "a conversation")
    again = respond(d, [USER] + o["output"] + [USER], max_output_tokens=8)
    want = chat(d, [USER, {"role": "assistant", "content": o["output"][0]["content"][0]["text"]}, USER], max_tokens=8)
    equal(again["output"][0]["content"][0]["text"], want["choices"][0]["message"]["content"],
          "its own output comes back")
    scored = respond(d, "First Citizen:", max_output_tokens=8, include=["message.output_text.logprobs"], top_logprobs=2)
    equal(scored["output"][0]["content"][0]["logprobs"],
          chat(d, [USER], max_tokens=8, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"], "logprobs")
    long = "a b" * 3000
    s, _, o = d.post("/v1/responses", {"input": long, "max_output_tokens": 4})
    check_error(s, o, 400, "context_length_exceeded", "input", "too long")
    equal(respond(d, long, max_output_tokens=4, truncation="auto")["usage"]["total_tokens"], 2048,
          "truncation: the end stays")


def test_responses_refuses():
    d = usual()
    for more, code, param in (({"previous_response_id": "resp_1"}, "unsupported_parameter", "previous_response_id"),
                              ({"store": True}, "unsupported_parameter", "store"),
                              ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools"),
                              ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format.type"),
                              ({"text": {"verbosity": "low"}}, "unsupported_parameter", "text.verbosity"),
                              ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "unsupported_parameter",
                               "input[0].type"), ({"input": 1}, "invalid_type", "input"),
                              ({"input": [USER, dict(USER, content=[{"type": "input_image"}])]}, "invalid_type",
                               "input[1].content"), ({"input": None}, "missing_parameter", "input"),
                              ({"include": ["file_search_call.results"]}, "invalid_value", "include"),
                              ({"top_logprobs": 1}, "invalid_value", "top_logprobs"),
                              ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
                              ({"max_output_tokens": 9999}, "context_length_exceeded", "max_output_tokens"),
                              ({"max_tokens": 3}, "unknown_parameter", "max_tokens"),
                              ({"background": True}, "unsupported_parameter", "background"),
                              ({"instructions": ["x"]}, "invalid_type", "instructions"),
                              ({"truncation": "middle"}, "invalid_value", "truncation")):
        s, _, o = d.post("/v1/responses", dict({"input": "A"}, **more))
        check_error(s, o, 400, code, param, "%s" % more)


def test_responses_streamed():
    """The events in their order; deltas are the text; the last event has the whole answer."""
    d = usual()
    for more in ({"max_output_tokens": 2}, {"max_output_tokens": 60, "stop": "e"},
                 {"max_output_tokens": 6, "include": ["message.output_text.logprobs"], "top_logprobs": 1,
                  "instructions": "x"}):
        whole = respond(d, "First Citizen:", seed=1, **more)
        s, h, b = d.request("POST", "/v1/responses", dict(GREEDY, input="First Citizen:", seed=1, stream=True, **more))
        equal((s, h["content-type"].split(";")[0]), (200, "text/event-stream"), "a stream")
        events = parse_named_sse(b)
        names = [name for name, _ in events]
        n = names.count("response.output_text.delta")
        equal(names, ["response.created", "response.in_progress", "response.output_item.added",
                      "response.content_part.added"] +
              ["response.output_text.delta"] * n + ["response.output_text.done", "response.content_part.done",
                                                    "response.output_item.done", "response." + whole["status"]],
              "order")
        deltas, part = [e for name,
                        e in events if name == "response.output_text.delta"], whole["output"][0]["content"][0]
        equal("".join(e["delta"] for e in deltas), part["text"], "deltas")
        equal(sum((e["logprobs"] for e in deltas), []), part["logprobs"], "their logprobs")
        text_done, part_done, item_done, end = (e for _, e in events[-4:])
        equal((text_done["text"], text_done["logprobs"], part_done["part"]), (part["text"], part["logprobs"], part),
              "the text as a whole")
        item, response, ids = item_done["item"], end["response"], (events[0][1]["response"]["id"],
                                                                   item_done["item"]["id"])
        equal((item["content"], item["status"], response["output"]), ([part], whole["status"], [item]),
              "the message as a whole")
        equal((response["status"], response["usage"]["total_tokens"], response["instructions"]),
              (whole["status"], whole["usage"]["total_tokens"], whole["instructions"]), "the response as a whole")
        equal({e["item_id"] for _, e in events if "item_id" in e} | {response["id"]}, {ids[0], ids[1]}, "one id each")


def test_responses_that_fail():
    """An error after the headers is two events: one that clients raise, and the end."""
    d = Daemon("chat.message={content}", "server.drain_delay_ms=0", "server.shutdown_timeout_ms=200",
               "engine.max_positions=100000")
    try:
        c = http.client.HTTPConnection(d.host, d.port, timeout=30 * SLOW)
        c.request("POST", "/v1/responses",
                  json.dumps({"input": "A", "max_output_tokens": 90000, "ignore_eos": True, "stream": True}))
        r = c.getresponse()
        first = r.readline()
        check(first.startswith(b"event: response.created"), "it streams: %r" % first)
        d.p.send_signal(signal.SIGINT)
        events = parse_named_sse(first + r.read())
        equal([name for name, _ in events[-2:]], ["error", "response.failed"], "the last two events")
        error, failed = events[-2][1], events[-1][1]["response"]
        equal((error["code"], error["error"]["code"], error["error"]["message"]),
              ("draining", "draining", error["message"]), "the error")
        equal((failed["status"], failed["error"], failed["output"]),
              ("failed", {"code": "server_error", "message": error["message"]}, []), "the response")
    finally:
        d.stop()
