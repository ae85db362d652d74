"""/v1/logits, /tokenize, /detokenize, /v1/models, /version, the probes, /metrics, HEAD."""
import json
import math
import os
import re
import struct
import time

from lib import (SLOW, TINY, Daemon, check, check_error, close, equal, floats32, parse_metrics, raw_request,
                 read_response, shared, usual)

TEXT = ("First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak. And so on, past the "
        "window of 48 tokens!")
V = 384


def log_softmax(row):
    top = max(row)
    norm = math.log(sum(math.exp(x - top) for x in row))
    return [x - top - norm for x in row]


def test_logits_forms():
    d = usual()
    n = d.post("/tokenize", {"prompt": TEXT})[2]["count"]
    check(n > 60, "the text is longer than the window: %d tokens" % n)
    rows = {}
    for positions in ("last", "all"):
        body = {"prompt": TEXT, "positions": positions}
        s, h, o = d.post("/v1/logits", body)
        equal((s, h["content-type"]), (200, "application/json"), positions)
        equal(set(o), {"object", "model", "vocab_size", "positions", "deq", "logits"}, positions + ": keys")
        want = n if positions == "all" else 1
        equal((o["object"], o["model"], o["vocab_size"], o["positions"], len(o["logits"])),
              ("logits", "tiny", V, want, want), positions + ": head")
        check(all(len(r) == V for r in o["logits"]), positions + ": rows of the vocabulary")
        check(o["deq"]["converged"] and 0 < o["deq"]["residual_max"] <= o["deq"]["tol"], positions + ": %s" % o["deq"])
        s, h, raw = d.request("POST", "/v1/logits", body, {"Accept": "application/octet-stream"})
        equal((s, h["content-type"], len(raw)), (200, "application/octet-stream", 4 * V * want),
              positions + ": as bytes")
        equal(b"".join(floats32(r) for r in o["logits"]) == raw, True,
              positions + ": 9 digits give the same float32, bit for bit")
        rows[positions] = [struct.unpack("<%df" % V, raw[4 * V * i:4 * V * (i + 1)]) for i in range(want)]
    # one engine, the same window: what is computed beside a row does not change its bits
    equal(rows["last"][0] == rows["all"][-1], True, "last == all[-1], bit for bit")
    equal(d.post("/v1/logits", {"prompt": TEXT})[2]["logits"] == d.post("/v1/logits",
                                                                        {"prompt": TEXT,
                                                                         "positions": "last"})[2]["logits"], True,
          "last is the default, and a second run has the same digits")
    # JSON floats of a token array's prompt: the same
    ids = d.post("/tokenize", {"prompt": TEXT})[2]["tokens"]
    octets, json_ = "application/octet-stream", "application/json"
    for accept, want in ((None, json_), ("*/*", json_), ("application/*", json_), (octets + ";q=0", json_),
                         (octets + " ; q=0.000", json_), ("text/html", json_),
                         ("application/json, application/octet-stream;q=0.5", json_),
                         ("application/octet-stream;q=0.5, application/json;q=0.4", octets),
                         ("application/octet-stream, */*", octets),
                         ("text/html, Application/Octet-Stream ; q=1.0", octets),
                         ("*/*;q=0.8, application/json;q=0.1", octets),
                         ("application/octet-stream, application/json", octets), ("application/octet-stream-x", json_),
                         ('x/y;a="application/octet-stream"', json_)):
        s, h, _ = d.request("POST", "/v1/logits", {"prompt": ids}, {"Accept": accept} if accept else None)
        equal((s, h["content-type"]), (200, want), "Accept: %s" % accept)
    _, _, raw = d.request("POST", "/v1/logits", {"prompt": ids, "positions": "all"},
                          {"Accept": "application/octet-stream"})
    equal(struct.unpack("<%df" % V, raw[-4 * V:]) == rows["all"][-1], True, "prompt as tokens")


def test_logits_are_what_completions_use():
    d = usual()
    row = d.post("/v1/logits", {"prompt": TEXT})[2]["logits"][0]
    lp = d.complete(TEXT, max_tokens=1, logprobs=V)["choices"][0]["logprobs"]["top_logprobs"][0]
    want = sorted(log_softmax(row))
    # a logarithm of up to 16 has float32 steps of 1e-6, half of which is its rounding; the daemon sums 384 floats
    close(max(abs(a - b) for a, b in zip(sorted(lp.values()), want)), 0, 1e-6 + 5e-7, "log_softmax(logits) == logprobs")
    greedy = d.complete(TEXT, max_tokens=1, logprobs=0)["choices"][0]["logprobs"]["token_logprobs"][0]
    close(greedy, max(want), 1e-6, "the greedy token is the largest logit")
    # teacher forcing: all positions of prompt + continuation predict the continuation's tokens
    ids = d.post("/tokenize", {"prompt": TEXT})[2]["tokens"]
    c = d.complete(ids, max_tokens=5, logprobs=0, deq={"tol": 1e-5, "max_iter": 64})["choices"][0]
    more = d.post("/tokenize", {"prompt": TEXT + c["text"]})[2]["tokens"]
    if more[:len(ids)] == ids and len(more) == len(ids) + 5:  # the text may tokenize otherwise at the border
        rows = d.post("/v1/logits",
                      {"prompt": more, "positions": "all", "deq": {"tol": 1e-5, "max_iter": 64}})[2]["logits"]
        for i in range(5):
            # both are within 1e-5 of the equilibrium, relatively; logits of this model are below 30
            close(log_softmax(rows[len(ids) - 1 + i])[more[len(ids) + i]], c["logprobs"]["token_logprobs"][i], 2e-3,
                  "position %d, forced" % i)
    # logits do not depend on what follows (causality), nor on a start outside the window and its reach
    a = d.post("/v1/logits", {"prompt": ids[:20], "positions": "all"})[2]["logits"]
    b = d.post("/v1/logits", {"prompt": ids[:19] + [5], "positions": "all"})[2]["logits"]
    equal(a[:16] == b[:16], True, "a token has no influence on the blocks of positions before it")
    check(a[19] != b[19], "but on its own")


def test_logits_limits():
    d = shared("engine.max_positions=64", "limits.max_logits_bytes=10K")
    s, _, o = d.post("/v1/logits", {"prompt": [70] * 64})
    equal((s, o["positions"]), (200, 1), "a prompt of all positions")
    s, _, o = d.post("/v1/logits", {"prompt": [70] * 65})
    check_error(s, o, 400, "context_length_exceeded", "prompt", "one more")
    equal((o["error"].get("n_prompt_tokens"), o["error"].get("n_ctx")), (65, 64), "both numbers")
    equal(d.post("/v1/logits", {"prompt": [70] * 6, "positions": "all"})[0], 200, "6 x 384 x 4 bytes")
    s, _, o = d.post("/v1/logits", {"prompt": [70] * 7, "positions": "all"})
    check_error(s, o, 400, "invalid_value", "positions", "7 x 384 x 4 bytes exceed 10K")
    for body, code, param in (({"positions": 1}, "invalid_type", "positions"),
                              ({"positions": "first"}, "invalid_value", "positions"),
                              ({"max_tokens": 1}, "unknown_parameter", "max_tokens"),
                              ({"prompt": {}}, "invalid_type", "prompt"),
                              ({"prompt": [384]}, "invalid_token_id", "prompt"),
                              ({"deq": {"tol": 9}}, "invalid_value", "deq.tol"),
                              ({"deq": []}, "invalid_type", "deq")):
        s, _, o = d.post("/v1/logits", dict({"prompt": "A"}, **body))
        check_error(s, o, 400, code, param, "logits %s" % body)
    s, _, o = d.post("/v1/logits", {"prompt": "A", "model": "gpt-2"})
    check_error(s, o, 404, "model_not_found", "model", "logits of another model")


def test_tokenize():
    d = usual()
    for text in ("", "a", "\0", "a\0b\0", TEXT, "  two  blanks ", "é😀👩‍👩‍👧 日本語 \u0301",
                 "<|endoftext|>", "a<|endoftext|>b", "\t\r\n\u0001\u007f", "'s 's' 12345 x_y"):
        s, _, o = d.post("/tokenize", {"prompt": text})
        equal((s, set(o)), (200, {"tokens", "count", "max_model_len"}), "tokenize %r" % text)
        equal((o["count"], o["max_model_len"]), (len(o["tokens"]), 2048), "count, max_model_len")
        check(all(0 <= t < V for t in o["tokens"]) and o["tokens"].count(0) == text.count("<|endoftext|>"),
              "names of special tokens are those tokens: %r: %s" % (text, o["tokens"]))
        plain = d.post("/tokenize", {"prompt": text, "parse_special": False})[2]["tokens"]
        check(all(0 < t < V for t in plain), "no special token is parsed from %r: %s" % (text, plain))
        equal(d.post("/tokenize", {"content": text, "add_special": True, "add_special_tokens": False})[2], o,
              "content, add_special: the same")
        s, _, back = d.post("/detokenize", {"tokens": o["tokens"]})
        equal((s, back), (200, {"prompt": text, "content": text}), "and back")
    equal(d.post("/tokenize", {"prompt": "<|endoftext|>", "parse_special": True})[2]["tokens"], [0], "parse_special")
    o = d.post("/tokenize", {"prompt": "a<|endoftext|>b", "parse_special": True})[2]["tokens"]
    equal(o, d.post("/tokenize", {"prompt": "a"})[2]["tokens"] + [0] + d.post("/tokenize",
                                                                              {"prompt": "b"})[2]["tokens"],
          "parse_special inside")
    equal(d.post("/detokenize", {"tokens": [0]})[2]["content"], "<|endoftext|>", "a special token's text")
    smile = d.post("/tokenize", {"prompt": "😀"})[2]["tokens"]
    check(len(smile) >= 2, "an emoji is several tokens")
    equal(d.post("/detokenize", {"tokens": smile[:-1]})[2]["content"], "\ufffd", "a cut character: U+FFFD once")
    equal(d.post("/detokenize", {"tokens": []})[2]["content"], "", "no tokens, no text")
    for path, body, status, code, param in (
            ("/tokenize", {}, 400, "missing_parameter", "prompt"),
            ("/tokenize", {"prompt": 1}, 400, "invalid_type", "prompt"),
            ("/tokenize", {"content": [1]}, 400, "invalid_type", "content"),
            ("/tokenize", {"prompt": "a", "x": 1}, 400, "unknown_parameter", "x"),
            ("/tokenize", {"prompt": "a", "parse_special": 1}, 400, "invalid_type", "parse_special"),
            ("/tokenize", {"prompt": "a", "model": "b"}, 404, "model_not_found", "model"),
            ("/detokenize", {}, 400, "missing_parameter", "tokens"),
            ("/detokenize", {"tokens": "a"}, 400, "invalid_type", "tokens"),
            ("/detokenize", {"tokens": ["a"]}, 400, "invalid_type", "tokens"),
            ("/detokenize", {"tokens": [1.5]}, 400, "invalid_type", "tokens"),
            ("/detokenize", {"tokens": [V]}, 400, "invalid_token_id", "tokens"),
            ("/detokenize", {"tokens": [-1]}, 400, "invalid_token_id", "tokens"),
            ("/detokenize", {"tokens": [2**40]}, 400, "invalid_token_id", "tokens"),
            ("/detokenize", {"tokens": [1], "skip": 1}, 400, "unknown_parameter", "skip")):
        s, _, o = d.post(path, body)
        check_error(s, o, status, code, param, "%s %s" % (path, body))


def test_models_and_version():
    d = usual()
    s, _, o = d.get("/v1/models")
    equal((s, o["object"], len(o["data"])), (200, "list", 1), "models")
    m = o["data"][0]
    equal((m["id"], m["object"], m["max_model_len"], m["attention_window"]), ("tiny", "model", 2048, 48), "the model")
    check(not os.path.isabs(m["id"]) and TINY not in json.dumps(o), "no path is shown")
    with open(TINY + "/config.json") as f:
        config = json.load(f)
    want = config["deq"]
    got = m["deqd"]
    equal({k: got[k] for k in ("solver", "max_iter", "window", "warm_start")},
          {k: want[k] for k in ("solver", "max_iter", "window", "warm_start")}, "the solver's settings are the model's")
    close(got["tol"], want["tol"], 1e-9, "tol")
    equal(got["predictor"], True, "predictor")
    s, _, v = d.get("/version")
    equal((s, set(v)), (200, {"version", "kernels", "model", "model_fingerprint"}), "version")
    equal((v["model_fingerprint"], v["version"], v["kernels"]),
          (got["fingerprint"], d.first["version"], d.first["kernels"]), "version agrees with the log")
    equal(d.complete("A", max_tokens=1)["system_fingerprint"], got["fingerprint"], "system_fingerprint")


def test_models_of_any_kind():
    """What a model is stands under its config.json's own keys, whatever the kind of its cell."""
    common = {"model_type", "format_version", "vocab_size", "predictor_hidden_size", "tie_word_embeddings", "head_bias",
              "eos_token_id", "deq", "training"}  # the vocabulary's, what stands elsewhere in the answer, or for people
    with Daemon(model=TINY + "-trellis") as trellis:
        for d, directory in ((usual(), TINY), (trellis, TINY + "-trellis")):
            with open(directory + "/config.json") as f:
                config = json.load(f)
            got = d.get("/v1/models")[2]["data"][0]["deqd"]
            equal(got["model_type"], config["model_type"], "model_type")
            equal(got["architecture"], {"state_size": config["hidden_size"],
                                        **{k: v for k, v in config.items() if k not in common}}, "architecture")


def test_health_and_head():
    d = usual()
    for path in ("/health", "/health/live", "/health/ready", "/health/startup"):
        s, h, o = d.get(path)
        equal((s, o["status"], o["state"], h["content-type"]), (200, "ok", "ready", "application/json"), path)
        equal(set(o), {"status", "state", "running", "waiting", "last_step_age_ms"}, path + ": keys")
        check(0 <= o["last_step_age_ms"] < 5000,
              path + ": an idle engine shows that it lives: %r ms" % o["last_step_age_ms"])
    for path in ("/health/ready", "/v1/models", "/metrics", "/version"):
        with d.connect() as s:
            s.sendall(("HEAD %s HTTP/1.1\r\nHost: x\r\n\r\n" % path).encode())
            status, h, _, rest = read_response(s, head_only=True)
            equal((status, rest), (200, b""), "HEAD " + path)
            check(int(h["content-length"]) > 0, "HEAD %s: the length of the body that GET has" % path)
            s.sendall(("GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path).encode())
            equal(read_response(s)[0], 200, "GET %s after HEAD on one connection: no body was sent" % path)
    with d.connect() as s:
        s.sendall(b"HEAD /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        equal(read_response(s, head_only=True)[0], 404, "HEAD of nothing")


def test_request_id():
    d = usual()
    for sent, kept in (("abc-123", True), ("x" * 128, True), ("x" * 129, False), ('a"b', False), ("a b", False),
                       ("a\\b", False), ("\x7f", False)):
        with d.connect() as s:
            s.sendall(raw_request({"prompt": "A", "max_tokens": 1}, extra="X-Request-Id: %s\r\n" % sent))
            status, h, body, _ = read_response(s)
        if sent == "\x7f":
            equal(status, 400, "a control character in a header")
            continue
        got = h["x-request-id"]
        check((got == sent) == kept and re.fullmatch(r"[!-~]{1,128}", got), "X-Request-Id %r: got %r" % (sent, got))
        equal(json.loads(body)["id"], "cmpl-" + got, "id of %r" % sent)
    ids = {d.get("/version")[1]["x-request-id"] for _ in range(5)}
    equal(len(ids), 5, "five requests, five ids")


def test_metrics():
    with Daemon() as d:
        _, h, b = d.request("GET", "/metrics")
        equal(h["content-type"], "text/plain; version=0.0.4; charset=utf-8", "Content-Type")
        a = parse_metrics(b.decode())
        p = d.complete(TEXT, max_tokens=7)["usage"]["prompt_tokens"]
        text = d.complete(TEXT, max_tokens=20)["choices"][0]["text"]
        st = d.complete(TEXT, max_tokens=20, stop=text[3:6])
        _, _, events, _ = d.stream("A", max_tokens=5, stream_options={"include_usage": True})
        pa = events[-1]["usage"]["prompt_tokens"]
        equal(d.post("/v1/completions", {"prompt": 1})[0], 400, "a bad one")
        equal(d.request("GET", "/nothing")[0], 404, "nothing there")
        equal(st["choices"][0]["finish_reason"], "stop", "a stop string")
        gen = 7 + 20 + st["usage"]["completion_tokens"] + 5
        m = d.at_rest()

        def moved(name, by):
            equal(m.get(name, 0) - a.get(name, 0), by, name)

        moved("deqd_prompt_tokens_total", 3 * p + pa)
        moved("deqd_generation_tokens_total", gen)
        moved('deqd_requests_total{finish_reason="length"}', 3)
        moved('deqd_requests_total{finish_reason="stop"}', 1)
        moved('deqd_requests_total{finish_reason="cancelled"}', 0)
        moved('deqd_http_responses_total{code="400"}', 1)
        moved('deqd_http_responses_total{code="404"}', 1)
        moved('deqd_http_responses_total{code="200"}', 4)  # scrapes and probes are not among them
        check(m['deqd_http_probe_responses_total{code="200"}'] > a['deqd_http_probe_responses_total{code="200"}'],
              "scrapes are counted apart")
        moved("deqd_e2e_seconds_count", 4)
        moved("deqd_queue_seconds_count", 4)
        moved("deqd_time_to_first_token_seconds_count", 4)
        moved("deqd_inter_token_latency_seconds_count", gen - 4)
        moved('deqd_solver_iterations_count{phase="decode"}', gen)
        moved("deqd_solver_residual_count", gen)
        decoded = 'deqd_solver_iterations_sum{phase="decode"}'
        for what, total in (("tokens", gen), ("evaluations", m[decoded] - a[decoded])):
            names = ['deqd_start_%s_total{source="%s"}' % (what, s) for s in ("zero", "previous", "predictor")]
            equal(sum(m[n] - a[n] for n in names), total, "deqd_start_%s_total of all sources" % what)
        zero = d.complete(TEXT, max_tokens=6, ignore_eos=True, deq={"warm_start": "zero"})
        n = d.at_rest()
        equal(n['deqd_start_tokens_total{source="zero"}'] - m['deqd_start_tokens_total{source="zero"}'], 6,
              "tokens of a request that starts at zero")
        close((n['deqd_start_evaluations_total{source="zero"}'] - m['deqd_start_evaluations_total{source="zero"}']) / 6,
              zero["deq"]["iters_mean"], 1e-5, "their evaluations == its iters_mean (six digits on the wire)")
        moved("deqd_positions_total", 3 * p + pa + gen - 4)  # a request's last token needs no state of its own
        moved("deqd_solver_nonconverged_total", 0)
        moved("deqd_requests_rejected_total{reason=\"queue_full\"}", 0)
        equal(m["deqd_step_seconds_count"] - a["deqd_step_seconds_count"],
              m["deqd_steps_total"] - a["deqd_steps_total"], "steps, counted twice")
        equal(m["deqd_batch_rows_sum"] - a["deqd_batch_rows_sum"], m["deqd_rows_total"] - a["deqd_rows_total"],
              "rows, counted twice")
        check(m["deqd_rows_total"] >= m["deqd_positions_total"] > 0, "at least one evaluation a position")
        equal((m["deqd_requests_running"], m["deqd_requests_waiting"], m["deqd_cache_pages_used"], m["deqd_rows_open"]),
              (0, 0, 0, 0), "idle gauges")
        equal(m['deqd_build_info{version="%s"}' % d.first["version"]], 1, "build info")
        check(m["deqd_http_connections"] >= 1, "the connection that asks is open")
        equal((m["deqd_ready"], m["deqd_max_requests_waiting"], m["deqd_max_http_connections"]), (1, 256, 1024),
              "readiness and limits, of the defaults")
        equal((m["deqd_sequences"], m["deqd_max_sequences"], m["deqd_max_rows"]), (0, 36, 288),
              "the engine's limits: an eighth is for callers who have nothing running")
        check(abs(time.time() - m["process_start_time_seconds"]) < 60 * SLOW, "process_start_time_seconds")
        check(3 < m["process_open_fds"] < m["process_max_fds"],
              "descriptors: %g of %g" % (m["process_open_fds"], m["process_max_fds"]))
        check(m['deqd_solver_iterations_sum{phase="decode"}'] >= gen, "iterations")
        check(m["process_resident_memory_bytes"] > 1e6 and m["process_cpu_seconds_total"] > 0, "process")
        one = d.complete(TEXT, max_tokens=10)
        s = [n['deqd_solver_iterations_sum{phase="decode"}'], d.at_rest()['deqd_solver_iterations_sum{phase="decode"}']]
        close((s[1] - s[0]) / 10, one["deq"]["iters_mean"], 1e-6, "iterations of one request == its iters_mean")
