"""Bad requests: a status, one shape, the field's name; and a good request after each."""
import json
import re

from lib import (DEQD, MARK, check, check_error, equal, raw_request, read_response, run, shared, usual)

T, V, U, N = "invalid_type", "invalid_value", "unknown_parameter", "unsupported_parameter"

# field, value, code (the param is the field)
FIELDS = [
    # wrong types
    ("model", 1, T), ("model", ["tiny"], T), ("prompt", 1, T), ("prompt", True, T), ("prompt", {}, T),
    ("prompt", [1, "a"], T), ("prompt", [1.5], T), ("prompt", [None], T), ("prompt", [True], T),
    ("max_tokens", "1", T), ("max_tokens", 1.5, T), ("max_tokens", True, T), ("max_tokens", [1], T),
    ("temperature", "0", T), ("temperature", False, T), ("top_p", [], T), ("min_p", {}, T), ("top_k", 1.5, T),
    ("top_k", "1", T),
    ("seed", 1.5, T), ("seed", "x", T), ("logprobs", True, T), ("logprobs", 0.5, T), ("stream", 1, T),
    ("stream", "true", T),
    ("ignore_eos", 0, T), ("stop", 1, T), ("stop", [1], T), ("stop", ["a", None], T), ("stop", {}, T),
    ("stop", [["a"]], T),
    ("n", 1.5, T), ("n", "1", T), ("best_of", True, T), ("echo", 1, T), ("presence_penalty", "0", T),
    ("frequency_penalty", [], T),
    ("logit_bias", [], T), ("logit_bias", 1, T), ("user", 1, T), ("deq", 1, T), ("deq", "fast", T), ("deq", [], T),
    # out of range
    ("max_tokens", -1, V), ("max_tokens", 0, V), ("max_tokens", 2**31, V), ("max_tokens", 2**62, V),
    ("temperature", -0.1, V), ("temperature", 2.1, V), ("temperature", 1e300, V), ("top_p", -0.1, V), ("top_p", 1.1, V),
    ("min_p", -1, V), ("min_p", 2, V), ("top_k", -2, V), ("top_k", 2**40, V), ("logprobs", -1, V), ("logprobs", 21, V),
    ("stop", "x" * 257, V), ("stop", ["s%d" % i for i in range(17)], V), ("prompt", [], V),
    ("n", 0, V), ("n", 129, V), ("best_of", -1, V), ("best_of", 21, V), ("presence_penalty", 2.1, V),
    ("frequency_penalty", -2.1, V),
    # not in the vocabulary
    ("prompt", [384], "invalid_token_id"), ("prompt", [-1], "invalid_token_id"),
    ("prompt", [1, 2**62], "invalid_token_id"),
    ("prompt", [[384]], "invalid_token_id"), ("stop_token_ids", [384], "invalid_token_id"),
    ("logit_bias", {"384": 1}, "invalid_token_id"),
    ("logit_bias", {"-1": 1}, "invalid_token_id"), ("logit_bias", {"x": 1}, "invalid_token_id"),
    ("logit_bias", {"": 1}, "invalid_token_id"),
    ("logit_bias", {"1": 101}, V), ("logit_bias", {"1": "5"}, T), ("prompt", ["a", 1], T), ("prompt", [1, "a"], T),
    ("prompt", [[1], "a"], T),
    ("prompt", [["a"]], T), ("prompt", [[]], V), ("prompt", ["a"] * 129, V), ("min_tokens", 2, V),
    ("repetition_penalty", 0, V),
    ("truncate_prompt_tokens", -2, V), ("priority", 21, V), ("priority", 1.5, T), ("cache", "maybe", V),
    ("cache", 1, T), ("cache_salt", "", V),
    ("cache_salt", "x" * 1025, V), ("deadline_ms", 0, V), ("deadline_ms", "1", T), ("include", ["x"], V),
    ("include", "deq.tokens", T), ("include", [1], T),
    ("logprob_token_ids", [1], V), ("return_token_ids", 1, T),
    # of OpenAI's specification, not for this server
    ("suffix", "x", N), ("suffix", 1, N),
    # never heard of
    ("max_token", 1, U), ("messages", [{"role": "user", "content": "x"}], U), ("", 1, U), ("Prompt", "a", U),
]

# what is no JSON object that we take; code invalid_json and no param
TEXTS = [
    ("empty", b""), ("a blank", b" "), ("array", b"[]"), ("string", b'"a"'), ("number", b"1"), ("null", b"null"),
    ("cut", b'{"prompt":"a"'),
    ("trailing comma", b'{"prompt":"a",}'), ("two objects", b'{"prompt":"a"}{"prompt":"b"}'),
    ("rest behind", b'{"prompt":"a"} x'),
    ("single quotes", b"{'prompt':'a'}"), ("comment", b'{"prompt":"a"/**/}'),
    ("byte order mark", b'\xef\xbb\xbf{"prompt":"a"}'),
    ("duplicate key", b'{"prompt":"a","prompt":"b"}'),
    ("duplicate key inside", b'{"prompt":"a","deq":{"tol":0.1,"tol":0.2}}'),
    ("duplicate key by escape", b'{"prompt":"a","pr\\u006fmpt":"b"}'),
    ("33 deep", b'{"prompt":' + b"[" * 32 + b"]" * 32 + b"}"), ("100,000 deep", b"[" * 100000),
    ("deep objects", b'{"a":' * 5000),
    ("NaN", b'{"prompt":"a","top_p":NaN}'),
    ("Infinity", b'{"prompt":"a","top_p":Infinity}'), ("leading zero", b'{"prompt":"a","max_tokens":01}'),
    ("+1", b'{"prompt":"a","max_tokens":+1}'),
    ("hex", b'{"prompt":"a","max_tokens":0x1}'), ("1e999 and no object", b"[1e999]"),
    ("1e999 and a comma", b'{"prompt":"a","seed":1e999,}'),
    ("1e999 and 01e999", b'{"prompt":"a","user":1e999,"seed":01e999}'),
    ("lone high surrogate", b'{"prompt":"\\ud800"}'), ("lone low surrogate", b'{"prompt":"\\udc00"}'),
    ("surrogate and a letter", b'{"prompt":"\\ud800a"}'),
    ("high, high", b'{"prompt":"\\ud800\\ud800"}'), ("NUL byte", b'{"prompt":"a\0b"}'),
    ("NUL in a key", b'{"prompt":"a","x\\u0000":1}'), ("control character", b'{"prompt":"a\nb"}'),
    ("bad escape", b'{"prompt":"\\x41"}'),
    ("invalid UTF-8", b'{"prompt":"\xff"}'), ("cut UTF-8", b'{"prompt":"\xc3"}'),
    ("overlong UTF-8", b'{"prompt":"\xc0\xaf"}'),
    ("surrogate as UTF-8", b'{"prompt":"\xed\xa0\x80"}'), ("past U+10FFFF", b'{"prompt":"\xf4\x90\x80\x80"}'),
    ("UTF-16", '{"prompt":"a"}'.encode("utf-16-le")),
    ("129 keys", json.dumps(dict({"prompt": "a"}, **{"k%d" % i: 1 for i in range(128)})).encode()),
]


def test_fields():
    d = shared("limits.max_stop=16", "log.level=debug")
    for field, value, code in FIELDS:
        body = dict({"prompt": MARK, "max_tokens": 1}, **{field: value})
        s, _, b = d.request("POST", "/v1/completions", body)
        check_error(s, b, 400, code, field or None, "%s = %.60r" % (field, value))
        d.alive("a good request after %s = %.60r" % (field, value))


def test_fields_of_objects():
    d = shared("limits.max_stop=16", "log.level=debug")
    for more, code, param in (
            ({"stream_options": {"include_usage": True}}, V, "stream_options"),
            ({"stream": False, "stream_options": {"include_usage": True}}, V, "stream_options"),
            ({"stream": True, "stream_options": []}, T, "stream_options"),
            ({"stream": True, "stream_options": True}, T, "stream_options"),
            ({"stream": True, "stream_options": {"include_usage": 1}}, T, "stream_options.include_usage"),
            ({"stream": True, "stream_options": {"usage": True}}, U, "stream_options.usage"),
            ({"deq": {"x" * 500: 1}}, U, "deq." + "x" * 50), ({"é" * 100: 1}, U, "?" * 50)):
        s, _, b = d.request("POST", "/v1/completions", dict({"prompt": MARK}, **more))
        check_error(s, b, 400, code, param, "%.80s" % more)
    d.alive()


def test_other_model():
    d = usual()
    for name in ("gpt-3.5-turbo", "", "TINY", "tiny ", "tiny/../tiny", "é" * 100):
        s, _, b = d.request("POST", "/v1/completions", {"prompt": "a", "model": name})
        check_error(s, b, 404, "model_not_found", "model", "model %.20r" % name)
    equal(d.complete("a", model="tiny", max_tokens=1)["model"], "tiny", "the right model")


def test_not_json():
    d = shared("limits.max_stop=16", "log.level=debug")
    for name, body in TEXTS:
        for path in ("/v1/completions", "/tokenize"):
            s, _, b = d.request("POST", path, body)
            check_error(s, b, 400, "invalid_json", None, "%s: %s" % (path, name))
        d.alive("a good request after " + name)
    for path in ("/v1/logits", "/v1/equilibria", "/v1/embeddings", "/detokenize"):
        for name, body in TEXTS[:5]:
            s, _, b = d.request("POST", path, body)
            check_error(s, b, 400, "invalid_json", None, "%s: %s" % (path, name))
    # at the limits, but good
    ok = [b'{"prompt":"a","max_tokens":1,"deq":null}', b' \r\n\t{"prompt":"a","max_tokens":1}\r\n ',
          b'{"prompt":"\\ud83d\\ude00","max_tokens":1}', b'{"prompt":"\\u00e9\\u0001","max_tokens":1}',
          b'{"prompt":"a","max_tokens":1,"seed":9223372036854775807}',
          b'{"prompt":"a","max_tokens":1,"seed":-9223372036854775808}',
          b'{"prompt":"a","max_tokens":1,"temperature":1e-300}',
          b'{"prompt":"a","max_tokens":1,"temperature":2,"top_p":1e-9}', b'{"pr\\u006fmpt":"a","max_tokens":1}',
          json.dumps({"prompt": "[{" * 30 + '"', "max_tokens": 1}).encode()]
    for body in ok:
        s, _, b = d.request("POST", "/v1/completions", body)
        equal(s, 200, "good: %r %r" % (body, b[:200]))
    s, _, b = d.request("POST", "/v1/completions", b'{"prompt":' + b"[" * 31 + b"]" * 31 + b"}")
    check_error(s, b, 400, T, "prompt", "32 deep is read, and then of the wrong type")


def test_large_bodies():
    d = shared("server.max_body_bytes=4K", "engine.max_positions=20000")
    pad = 4096 - len(json.dumps({"prompt": "", "max_tokens": 1}))
    fits, over = ({"prompt": "a" * n, "max_tokens": 1} for n in (pad, pad + 1))
    equal(d.request("POST", "/v1/completions", fits)[0], 200, "a body of exactly server.max_body_bytes")
    s, _, b = d.request("POST", "/v1/completions", over)
    check_error(s, b, 413, "body_too_large", None, "one byte more, as Content-Length")

    def chunked(body, size):
        body = json.dumps(body).encode()
        out = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        for i in range(0, len(body), size):
            part = body[i:i + size]
            out += b"%x\r\n%s\r\n" % (len(part), part)
        return out + b"0\r\n\r\n"

    for size in (1, 7, 1000, 100000):
        with d.connect() as s:
            s.sendall(chunked(fits, size))
            equal(read_response(s)[0], 200, "chunks of %d bytes" % size)
        with d.connect() as s:
            s.sendall(chunked(over, size))
            status, _, b, _ = read_response(s)
            check_error(status, b, 413, "body_too_large", None, "one byte more, in chunks of %d" % size)
    with d.connect() as s:  # megabytes in chunks are read and thrown away, not kept
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
                  (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 40 + b"0\r\n\r\n")
        status, _, b, _ = read_response(s)
        check_error(status, b, 413, "body_too_large", None, "2.5 MB in chunks")
    d.alive("a good request after 2.5 MB")
    with d.connect() as s:  # refused before the body comes
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n")
        data = s.recv(4096)
        check(data.startswith(b"HTTP/1.1 413 "), "Expect: 100-continue of a body too large: %r" % data[:60])
    with d.connect() as s:
        body = json.dumps({"prompt": "a", "max_tokens": 1}).encode()
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" %
                  len(body))
        data = s.recv(4096)
        check(data.startswith(b"HTTP/1.1 100 "), "Expect: 100-continue of a good one: %r" % data[:60])
        s.sendall(body)
        equal(read_response(s, data)[0], 200, "and then the answer")
    # a huge prompt beside a large enough body: too many positions, not a crash
    with d.connect() as s:
        s.sendall(raw_request({"prompt": "a b c d " * 400}))
        equal(read_response(s)[0], 200, "a long prompt")


def test_paths_and_methods():
    d = usual()
    routes = [(r.split()[0], r.split()[1] + "{id}" * r.split()[1].endswith("/"))
              for r in run([DEQD, "--print-routes"])[1].splitlines() if not r.endswith(" page")]
    for path in ("/page", "/v1", "/v1/", "/v1/completions/", "/v1/models/", "//v1/models", "/V1/models", "/metrics/x",
                 "/v1/completions/../models"):
        for method in ("GET", "POST"):
            s, h, b = d.request(method, path, b"{}" if method == "POST" else None)
            check_error(s, b, 404, "unknown_path", None, "%s %s" % (method, path))
            if method == "GET":
                named = re.findall(r" (/[^ ,;]+)", json.loads(b)["error"]["message"])
                equal(set(named), {p for _, p in routes}, "%s: what there is" % path)
    for path, allow, methods in (("/v1/completions", "POST",
                                  ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW")),
                                 ("/v1/logits", "POST", ("GET",)), ("/tokenize", "POST", ("GET",)),
                                 ("/detokenize", "POST", ("DELETE",)),
                                 ("/v1/models", "GET", ("POST", "PUT", "DELETE")), ("/metrics", "GET", ("POST",)),
                                 ("/health/ready", "GET", ("POST",)), ("/version", "GET", ("PATCH",))):
        for method in methods:
            s, h, b = d.request(method, path, b"{}" if method in ("POST", "PUT", "PATCH") else None)
            equal((s, h.get("allow")), (405, allow), "%s %s: Allow" % (method, path))
            if method != "HEAD":
                check_error(s, b, 405, "method_not_allowed", None, "%s %s" % (method, path))
    equal(d.request("GET", "/v1/models?limit=3")[0], 200, "a query is not part of the path")
    d.alive()
