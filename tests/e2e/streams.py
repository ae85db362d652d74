"""Server-sent events, byte by byte."""
import json
import re
import time

from lib import (Daemon, SLOW, check, equal, events_text, parse_sse, raw_request, read_response, usual)
from completions import LONG, PROMPT, long_run


def test_headers_and_framing():
    d = usual()
    body = {"prompt": PROMPT, "max_tokens": 120, "temperature": 0, "stream": True}
    s, h, b = d.request("POST", "/v1/completions", body)
    equal(s, 200, "status")
    equal(h.get("content-type"), "text/event-stream; charset=utf-8", "Content-Type")
    equal(h.get("cache-control"), "no-cache", "Cache-Control")
    equal(h.get("x-accel-buffering"), "no", "X-Accel-Buffering")
    check(bool(h.get("x-request-id")), "X-Request-Id")
    equal(h.get("transfer-encoding"), "chunked", "Transfer-Encoding")
    check(re.fullmatch(rb"(data: [^\r\n]+\n\n)+", b),
          "every event is one line \"data: ...\" and a blank line: %r" % b[:200])
    check(b.endswith(b"\n\ndata: [DONE]\n\n") and b.count(b"[DONE]") == 1, "[DONE] once, last: %r" % b[-80:])
    events, done = parse_sse(b)
    check(done and len(events) >= 3, "several events")
    whole = d.complete(PROMPT, max_tokens=120)
    equal(events_text(events), whole["choices"][0]["text"], "concatenation == the whole text")
    equal(len({e["id"] for e in events}), 1, "one id in all chunks")
    equal(events[0]["id"], "cmpl-" + h["x-request-id"], "id is of the request id")
    for e in events:
        equal(set(e) - {"deq"}, {"id", "object", "created", "model", "system_fingerprint", "choices"},
              "keys of a chunk")
        equal(set(e["choices"][0]), {"index", "text", "logprobs", "finish_reason"}, "keys of a chunk's choice")
    last = events[-1]["choices"][0]
    equal((last["text"], last["finish_reason"]), ("", "length"), "the last chunk: no text, the reason")
    check(all(e["choices"][0]["finish_reason"] is None and e["choices"][0]["text"] for e in events[:-1]),
          "the others: text, no reason")
    check("usage" not in events[0] and "deq" not in events[0], "no usage when not asked for")
    equal(set(events[-1].get("deq", {})), set(whole["deq"]), "the last chunk has the deq object")
    s, h, events, done = d.stream(PROMPT, max_tokens=3, stream_options={"include_usage": False})
    check(done and all("usage" not in e for e in events), "include_usage false")


def test_include_usage():
    d = usual()
    _, _, events, done = d.stream(PROMPT, max_tokens=12, stream_options={"include_usage": True})
    check(done, "[DONE]")
    equal(events[-1]["choices"], [], "the usage chunk has no choices")
    equal(events[-1]["usage"], d.complete(PROMPT, max_tokens=12)["usage"], "usage")
    check(all("usage" in e and e["usage"] is None for e in events[:-1]), "usage is null in all other chunks")
    equal(events[-2]["choices"][0]["finish_reason"], "length", "the chunk before has the reason")
    check("finish_reason" not in json.dumps(events[-1]["choices"]), "and the usage chunk none")


def test_stream_logprobs():
    d = usual()
    whole = d.complete(PROMPT, temperature=1, seed=11, max_tokens=15, logprobs=3)["choices"][0]["logprobs"]
    _, _, events, _ = d.stream(PROMPT, temperature=1, seed=11, max_tokens=15, logprobs=3)
    parts = [e["choices"][0]["logprobs"] for e in events]
    check(all(p is not None for p in parts), "every chunk has logprobs")
    for k in whole:
        equal(sum((p[k] for p in parts), []), whole[k], "logprobs." + k + " of all chunks")


def token_bytes(name):
    if name.startswith("bytes:"):
        return bytes(int(x, 16) for x in re.findall(r"\\x([0-9a-f]{2})", name))
    return b"" if name == "<|endoftext|>" else name.encode("utf-8")


def test_characters_across_tokens():
    """At temperature 2 single bytes come up: whole characters made of several tokens, and bytes that never become
    one."""
    d = usual()
    replaced = joined = 0
    for seed in range(12):
        _, _, b = d.request("POST", "/v1/completions",
                            {"prompt": PROMPT, "max_tokens": 120, "temperature": 2, "seed": seed, "stream": True,
                                                        "ignore_eos": True})
        events, done = parse_sse(b)  # decodes each byte strictly
        text = events_text(events)
        c = d.complete(PROMPT, temperature=2, seed=seed, max_tokens=120, logprobs=0, ignore_eos=True)["choices"][0]
        if not equal((text, done), (c["text"], True), "stream == whole, seed %d" % seed):
            return
        raw = b"".join(token_bytes(t) for t in c["logprobs"]["tokens"])
        # Python replaces maximal subparts too, as the Unicode standard recommends
        if not equal(c["text"], raw.decode("utf-8", "replace"), "text == the bytes of the tokens, seed %d" % seed):
            return
        replaced += "\ufffd" in text
        joined += any(ord(x) > 127 and x != "\ufffd" for x in text)
    check(replaced >= 3, "bytes that are no character came up: %d of 12" % replaced)
    # two bytes that happen to be a character are rare: one in about 4,000 tokens
    for seed in range(40):
        whole = d.complete(PROMPT, temperature=2, seed=seed, max_tokens=1500, ignore_eos=True)["choices"][0]["text"]
        if any(ord(x) > 127 and x != "\ufffd" for x in whole):
            joined += 1
            _, _, events, done = d.stream(PROMPT, temperature=2, seed=seed, max_tokens=1500, ignore_eos=True)
            equal((events_text(events), done), (whole, True),
                  "stream == whole, with a character of several tokens, seed %d" % seed)
            break
    check(joined >= 1, "a character of several tokens came up")
    # no chunk ends inside a character, with logprobs too (then every token has its chunk, also one without whole text)
    _, _, b = d.request("POST", "/v1/completions",
                        {"prompt": PROMPT, "max_tokens": 120, "temperature": 2, "seed": 1, "stream": True,
                         "logprobs": 0})
    events, done = parse_sse(b)
    check(done and sum(len(e["choices"][0]["logprobs"]["tokens"]) for e in events) >= 1, "stream with logprobs")


def test_stop_in_stream_is_held_back():
    d = usual()
    text = long_run()["text"]
    s = text[30:36]
    cut = text[:text.find(s)]
    for n in range(2, len(s) + 1):
        _, _, events, done = d.stream(PROMPT, max_tokens=LONG, stop=[s[:n]])
        equal(events_text(events), text[:text.find(s[:n])], "stop %r" % s[:n])
        shown = ""
        for e in events:
            shown += e["choices"][0]["text"]
            if not check(text.startswith(shown), "what was shown is never taken back"):
                break
    check(len(cut) > 0, "the stop string is inside")


def test_chunked_coding_by_hand():
    d = usual()
    with d.connect() as s:
        s.sendall(raw_request({"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "stream": True}))
        status, h, body, rest = read_response(s)
        equal((status, h["transfer-encoding"], rest), (200, "chunked", b""),
              "chunked, and nothing after the last chunk")
        check("content-length" not in h, "no Content-Length beside it")
        events, done = parse_sse(body)
        equal((events_text(events), done), (d.complete(PROMPT, max_tokens=8)["choices"][0]["text"], True), "text")
        s.sendall(raw_request({"prompt": PROMPT, "max_tokens": 2, "temperature": 0}))  # the connection goes on
        status, h, body, rest = read_response(s)
        equal((status, json.loads(body)["usage"]["completion_tokens"]), (200, 2),
              "the next request on the same connection")


def test_chunks_come_while_it_runs():
    """The first chunk arrives long before the last: nothing gathers the stream."""
    with Daemon("engine.max_positions=20000") as d:
        with d.connect() as s:
            s.sendall(raw_request({"prompt": "A", "max_tokens": 1500, "temperature": 0, "stream": True,
                                   "ignore_eos": True}))
            begin = time.monotonic()
            data = b""
            while b"data: " not in data:
                data += s.recv(65536)
            first = time.monotonic() - begin
            while not data.endswith(b"0\r\n\r\n"):
                data += s.recv(65536)
            last = time.monotonic() - begin
            check(first < 0.5 * last, "first chunk after %.3f s, the last after %.3f s" % (first, last))


def test_ping_while_queued_and_before():
    """A silent stream is kept open by comments; they are no events. With one place, the second stream is silent until
    the first ends: it has no headers yet, so its status can still be an error; then it runs like any other."""
    with Daemon("engine.max_sequences=1", "engine.max_positions=20000", "stream.ping_ms=100") as d:
        with d.connect() as a, d.connect() as b:
            a.sendall(raw_request({"prompt": "A", "max_tokens": 800, "temperature": 0, "stream": True,
                                   "ignore_eos": True}))
            d.wait_metric(lambda m: m["deqd_requests_running"] == 1, 5)
            b.sendall(raw_request({"prompt": PROMPT, "max_tokens": 4, "temperature": 0, "stream": True}))
            status, _, body, _ = read_response(a)
            events, done = parse_sse(body)
            check(done and status == 200 and events[-1]["choices"][0]["finish_reason"] == "length",
                  "the long stream ends well")
            status, _, body, _ = read_response(b)
            events, done = parse_sse(body)
            equal((status, done, events_text(events)),
                  (200, True, d.complete(PROMPT, max_tokens=4)["choices"][0]["text"]), "the one that waited")
        # a prompt of 16,000 tokens is silent while it is read: at least one comment in at least 100 ms
        with d.connect() as s:
            begin = time.monotonic()
            s.sendall(raw_request({"prompt": [70, 71, 72, 73] * 4000, "max_tokens": 1, "temperature": 0,
                                   "stream": True}))
            status, _, body, _ = read_response(s)
            took = time.monotonic() - begin
            events, done = parse_sse(body)
            equal((status, done), (200, True), "a long prompt")
            if took > 0.5 * SLOW:
                check(b": ping\n\n" in body, "comments during a prompt that took %.2f s" % took)
            check(body.replace(b": ping\n\n", b"").startswith(b"data: "), "nothing but comments before the first event")
