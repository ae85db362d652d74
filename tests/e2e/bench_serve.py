"""deq bench serve: against the daemon, and against a server whose every stream is known."""
import contextlib
import http.server
import json
import os
import resource
import signal
import subprocess
import threading
import time

from lib import DEQ, ROOT, SLOW, Daemon, check, clean_env, close, equal, run, skip, usual

METRICS = ("ttft", "tpot", "itl", "e2el")
KEYS = {"model_id", "num_prompts", "request_rate", "burstiness", "max_concurrency", "seed", "duration", "completed",
        "failed", "total_input_tokens", "total_output_tokens", "request_throughput", "request_goodput",
        "output_throughput", "total_token_throughput", "max_output_tokens_per_s",
        "max_concurrent_requests", "unfinished", "rejected", "refusal_mean_ms", "refusal_max_ms",
        "evaluations_per_token", "residual_max", "errors_by_kind"}
KEYS |= {"%s_%s_ms" % (s, m) for s in ("mean", "median", "std", "p50", "p90", "p95", "p99") for m in METRICS}


def bench(url, *flags, env=None, json_out=True, **more):
    """(exit code, the JSON or None, standard error)"""
    code, out, err = run([DEQ, "bench", "serve", url] + [str(f) for f in flags] + (["--json"] if json_out else []),
                         env=env, **more)
    return code, json.loads(out) if json_out and out.strip() else out, err


def url_of(d):
    return "http://%s:%d" % (d.host, d.port)


class Scripted:
    """Answers the i-th completion with the i-th script: a status and a body, or a list of events with pauses (s)
    between them."""

    def __init__(self, scripts, models=None):
        outer = self
        self.scripts, self.bodies, self.headers, self.lock = list(scripts), [], [], threading.Lock()
        models = models or {"object": "list", "data": [{"id": "known", "object": "model", "deqd": {"vocab_size": 7}}]}

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def whole(self, status, body):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                self.whole(200, json.dumps(models).encode())

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    outer.headers.append(dict(self.headers))
                    script = outer.scripts.pop(0)
                if isinstance(script, tuple):
                    return self.whole(*script)
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.close_connection = True
                with contextlib.suppress(OSError):  # who is interrupted or has waited too long leaves
                    for piece in script:
                        if isinstance(piece, float):
                            time.sleep(piece)
                        else:
                            self.wfile.write(piece if isinstance(piece, bytes)
                                             else b"data: " + json.dumps(piece).encode() + b"\n\n")

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = "http://127.0.0.1:%d" % self.server.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def chunk(text, finish=None, **more):
    return dict({"choices": [{"index": 0, "text": text, "finish_reason": finish}]}, **more)


def end(tokens, iters=3.0, residual=0.001):
    return [chunk("", "length", deq={"iters_mean": iters, "iters_max": 9, "residual_max": residual}),
            {"choices": [], "usage": {"prompt_tokens": 32, "completion_tokens": tokens}}, b"data: [DONE]\n\n"]


# --- The daemon ---

def test_twenty_prompts():
    d = usual()
    before = d.metrics()
    code, o, err = bench(url_of(d), "--num-prompts", 20, "--output-len", 24, "--input-len", 16)
    equal((code, err), (0, ""), "exit code and standard error")
    equal(set(o), KEYS, "keys")
    equal((o["completed"], o["failed"], o["rejected"], o["unfinished"], o["errors_by_kind"]), (20, 0, 0, 0, {}),
          "counts")
    equal((o["total_input_tokens"], o["total_output_tokens"]), (20 * 16, 20 * 24), "tokens")
    equal((o["model_id"], o["request_rate"], o["max_concurrency"], o["request_goodput"], o["num_prompts"]),
          ("tiny", "inf", None, None, 20), "settings")
    after = d.metrics()
    equal(after["deqd_generation_tokens_total"] - before["deqd_generation_tokens_total"], 480,
          "the server counts the same tokens")
    for m in METRICS:
        p = [o["p%d_%s_ms" % (q, m)] for q in (50, 90, 95, 99)]
        check(0 <= p[0] == o["median_%s_ms" % m] and p == sorted(p) and o["std_%s_ms" % m] >= 0 and
              o["mean_%s_ms" % m] > 0, "%s: %s" % (m, p))
    check(0 < o["p50_ttft_ms"] <= o["p50_e2el_ms"] <= 1e3 * o["duration"], "first token, last token, all: %s" % o)
    check(0 < o["max_concurrent_requests"] <= 20 and 0 < o["max_output_tokens_per_s"] <= 500, "peaks: %s" % o)
    check(o["evaluations_per_token"] >= 1 and 0 < o["residual_max"] <= 0.1, "solver: %s" % o)
    for key, n in (("request_throughput", 20), ("output_throughput", 480), ("total_token_throughput", 800)):
        close(o[key] * o["duration"], n, 1e-3 * n, key)
    # the same, for people
    code, text, err = bench(url_of(d) + "/v1/", "--num-prompts", 5, "--output-len", 4, "--percentiles", "10,99.9",
                            json_out=False)
    check(code == 0 and err == "" and "20" not in text.split("\n")[0] and "5 of 5" in text and "TTFT" in text and
          " p10 " in text and " p99.9 " in text,
          "table: %r" % text)


def test_open_loop_keeps_its_rate():
    d = usual()
    for burst in (1, 4, "inf"):
        code, o, err = bench(url_of(d), "--num-prompts", 20, "--request-rate", 20, "--burstiness", burst,
                             "--output-len", 4, "--goodput", "ttft:0 tpot:0 e2el:0")
        equal((code, o["completed"]), (0, 20), "burstiness %s: %s" % (burst, err))
        check(0.99 <= o["duration"] < 1 + 0.5 * SLOW, "20 arrivals at 20/s take about a second: %g" % o["duration"])
        equal(o["request_goodput"], 0.0, "goodput of impossible limits")
    code, o, _ = bench(url_of(d), "--num-prompts", 10, "--output-len", 4, "--goodput", "ttft:1e6 e2el:1e6")
    close(o["request_goodput"], o["request_throughput"], 1e-6, "goodput of easy limits")


def test_concurrency_settings_and_text():
    d = usual()
    sample = os.path.join(ROOT, "tests", "golden", "tokenizer", "sample.txt")
    code, o, err = bench(url_of(d), "--num-prompts", 12, "--max-concurrency", 3, "--output-len", 40, "--text", sample,
                         "--temperature", "0.8", "--window", 1, "--tol", "1e-1")
    equal((code, o["completed"], o["total_input_tokens"], o["max_concurrency"]), (0, 12, 12 * 32, 3), "text: " + err)
    check(o["max_concurrent_requests"] <= 3, "at most 3 open: %d" % o["max_concurrent_requests"])
    check(0.01 < o["residual_max"] <= 0.1, "the tolerance arrived: %g" % o["residual_max"])
    code, o, err = bench(url_of(d), "--text", sample, "--input-len", 900000)
    check(code == 1 and "--input-len 900000" in err, "a text that is too short: " + err)
    code, o, err = bench(url_of(d), "--num-prompts", 2, "--model", "other")
    check(code == 1 and o["errors_by_kind"] == {"http_404": 2} and '"other" is not served here' in err,
          "another model: " + err)


def test_refusals_are_counted_apart():
    with Daemon("engine.max_sequences=1", "queue.max_requests=1") as d:
        code, o, err = bench(url_of(d), "--num-prompts", 30, "--output-len", 200)
        equal((code, o["completed"] + o["rejected"], o["failed"], o["errors_by_kind"]),
              (0, 30, o["rejected"], {"http_429": o["rejected"]}), "counts: " + err)
        check(o["rejected"] > 10 and 0 < o["refusal_mean_ms"] <= o["refusal_max_ms"] < 5000 * SLOW, "refusals: %s" % o)
        check(err.startswith("http_429, "), "standard error: %r" % err)


def test_many_streams():
    """2,000 open at once; the daemon serves them one after the other."""
    n = 2000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < n + 100:
        return skip("open files are limited to %d" % hard)
    with Daemon("server.max_connections=%d" % (n + 50), "queue.max_requests=%d" % (2 * n),
                "engine.max_sequences=2") as d:
        seen, over = [0], threading.Event()

        def watch():
            while not over.wait(0.1):
                seen.append(d.metrics()["deqd_http_connections"])
        t = threading.Thread(target=watch)
        t.start()
        code, o, err = bench(url_of(d), "--num-prompts", n, "--output-len", 16, "--input-len", 4)
        over.set()
        t.join()
        equal((code, o["completed"], o["total_output_tokens"]), (0, n, 16 * n), "2,000 streams: %s" % err)
        equal(o["max_concurrent_requests"], n, "all were due at once")
        check(max(seen) > n / 4,  # it looks every 0.1 s, and streams end meanwhile
               "connections that the daemon saw: %d" % max(seen))


def test_interrupted():
    d = usual()
    before = d.metrics()['deqd_requests_total{finish_reason="length"}']
    p = subprocess.Popen([DEQ, "bench", "serve", url_of(d), "--num-prompts", "1000", "--request-rate", "20",
                          "--output-len", "4", "--json"], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=clean_env())
    d.wait_metric(lambda m: m['deqd_requests_total{finish_reason="length"}'] > before + 3, 60)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=300 * SLOW)
    o = json.loads(out)
    check(p.returncode == 0 and 0 < o["completed"] < 1000 and o["failed"] == 0,
          "what was measured so far: %s %s" % (o, err))
    equal(o["unfinished"], 1000 - o["completed"], "unfinished")


# --- Known streams ---

def test_the_definitions():
    """Two tokens 100 ms apart, then a close after 50: every metric is known; comments, CRLF and events in pieces change
    nothing."""
    stream = [0.1, b": ping\n\n", chunk("a"), 0.1, b'data: {"choices": [{"text": "b", "fin', 0.05,
              b'ish_reason": null}]}\r\n\r\n', 0.05] + end(3)
    with Scripted([stream]) as s:
        code, o, err = bench(s.url, "--num-prompts", 1, "--input-len", 32)
        equal((code, o["completed"], o["total_output_tokens"], o["total_input_tokens"]), (0, 1, 3, 32),
              "counts: " + err)
        slack = 60 * SLOW  # of a busy machine
        for key, ms in (("mean_ttft_ms", 100), ("mean_e2el_ms", 300), ("mean_tpot_ms", 100), ("mean_itl_ms", 100)):
            check(ms - 5 < o[key] < ms + slack, "%s: %g, expected %d" % (key, o[key], ms))
        close(o["mean_tpot_ms"], (o["mean_e2el_ms"] - o["mean_ttft_ms"]) / 2, 1e-6, "TPOT")
        close(o["std_itl_ms"], 50, slack, "ITL: gaps of 150 and 50")
        equal((o["evaluations_per_token"], o["residual_max"]), (3.0, 0.001), "the deq object")
        body = s.bodies[0]
        ids = body.pop("prompt")
        check(len(ids) == 32 and all(isinstance(i, int) and 0 <= i < 7 for i in ids) and len(set(ids)) > 2,
              "ids below the vocabulary: %s" % ids)
        equal(body, {"model": "known", "max_tokens": 64, "temperature": 0.0, "ignore_eos": True, "stream": True,
                     "stream_options": {"include_usage": True}}, "body")


def test_kinds_of_failure():
    good = [chunk("a")] + end(1)
    bad = {"stream_error": [chunk("a"), {"error": {"message": "it\x07broke", "type": "t", "param": None, "code": None}},
                            b"data: [DONE]\n\n"],
           "no_done": [chunk("a"), chunk("", "length")], "no_chunk": [b"data: [DONE]\n\n"],
           "bad_event": [b"data: {\n\n", b"data: [DONE]\n\n"], "http_503": (503, b'{"error": {"message": "not now"}}'),
           "http_400": (400, b"not \xff JSON"), "timeout": [chunk("a"), 2.5] + end(1)}
    with Scripted([good] + list(bad.values())) as s:
        code, o, err = bench(s.url, "--num-prompts", 1 + len(bad), "--max-concurrency", 1, "--timeout-ms", 1500)
        equal((code, o["completed"], o["failed"], o["errors_by_kind"]), (1, 1, len(bad), {k: 1 for k in bad}),
              "kinds: " + err)
        check("stream_error, 1 times; the first: it?broke\n" in err and "not now" in err, "first of each: %r" % err)
        equal((o["total_output_tokens"], o["max_concurrent_requests"]), (1, 1), "the good one alone is measured")
    with Scripted([[chunk("a"), chunk("b"), chunk("", "stop"), b"data: [DONE]\n\n"]],
                  models={"data": [{"id": "m"}]}) as s:
        code, o, err = bench(s.url, "--num-prompts", 1, "--tol", "0.5", "--window", 2)
        equal((code, o["total_output_tokens"], o["evaluations_per_token"], o["residual_max"]), (0, 2, None, None),
              "a server without usage and deq: " + err)
        equal((s.bodies[0]["deq"], max(s.bodies[0]["prompt"]) < 256), ({"window": 2, "tol": 0.5}, True),
              "deq object, ids of bytes")


def test_same_seed_same_prompts():
    def prompts(seed):
        with Scripted([[chunk("a")] + end(1)] * 6) as s:
            bench(s.url, "--num-prompts", 6, "--max-concurrency", 1, "--seed", seed, "--input-len", 8)
            return [b["prompt"] for b in s.bodies]
    a = prompts(3)
    equal(prompts(3), a, "the same seed")
    check(prompts(4) != a and len({tuple(p) for p in a}) == 6, "another seed, other prompts; all differ")


def test_key_is_sent_and_never_shown():
    key = "sk-very-secret"
    for how in (dict(env={"DEQ_API_KEY": key}), dict(flags=("--api-key", key))):
        with Scripted([[chunk("a")] + end(1), (401, b"{}")]) as s:
            code, text, err = bench(s.url, "--num-prompts", 2, "--max-concurrency", 1, *how.get("flags", ()),
                                    env=how.get("env"), json_out=False)
            equal([h.get("Authorization") for h in s.headers], ["Bearer " + key] * 2, "the header")
            check(code == 1 and key not in text + err and "http_401" in err, "never shown: %r %r" % (text, err))


# --- Streams as other servers write them ---

def test_every_valid_stream():
    """Line ends, marks, comments, fields and bytes that the standard allows; all count as completed."""
    def stream(text, line="\n", head=b"", data="data: ", last=None,
               usage='{"prompt_tokens": 3, "completion_tokens": 3}'):
        events = [json.dumps({"choices": [{"index": 0, "text": t, "finish_reason": f}]}) for t,
                  f in (("a", None), (text, None), ("", "length"))]
        events += ['{"choices": [], "usage": %s}' % usage, "[DONE]"]
        body = head + "".join(data + e + line + line for e in events).encode()
        return 200, body[:-len(last)] if last else body
    cases = (("NUL in a text", stream("\0")), ("CR", stream("b", "\r")), ("CRLF", stream("b", "\r\n")),
             ("a mark", stream("b", head=b"\xef\xbb\xbf")),
             ("no blank", stream("b", data="data:")),
             ("comments, fields", stream("b", head=b": hello\n\nretry: 10\n", data="event: chunk\nid: 7\ndata: ")),
             ("the end unclosed", stream("b", last="\n\n")),
             ("NUL in a key", stream("b", usage='{"prompt_tokens": 3, "completion_tokens": 3, "\\u0000": 1}')),
             ("half a character", stream("\ud83d")),
             ("numbers of any size", stream("b", head=b'data: {"created": 18446744073709551615, "x": 1e999}\n\n')),
             ("nothing in an event", stream("b", head=b"data:\n\ndata\n\n")),
             ("blanks", stream("b", data="data: \t ")),
             ("a long comment", stream("b", head=b":" + b"x" * (5 << 20) + b"\n")),
             ("multi-byte", stream("\u20ac\U0001f600")),
             ("whole numbers as reals", stream("b", usage='{"prompt_tokens": 3.0, "completion_tokens": 3.0}')))
    for name, script in cases:
        with Scripted([script]) as s:
            code, o, err = bench(s.url, "--num-prompts", 1)
            equal((code, o and o["completed"], o and o["total_output_tokens"], err), (0, 1, 3, ""), name)
    for name, usage in (("negative", '{"prompt_tokens": -3, "completion_tokens": -1}'),
                        ("null", '{"prompt_tokens": null, "completion_tokens": "x"}')):
        with Scripted([stream("b", usage=usage)]) as s:
            code, o, err = bench(s.url, "--num-prompts", 1, "--input-len", 5)
            equal((code, o["total_input_tokens"], o["total_output_tokens"]), (0, 5, 2),
                  "usage that is %s tells nothing: the chunks are counted" % name)


# --- Wrong usage ---

def test_nobody_there():
    code, out, err = bench("http://127.0.0.1:1", json_out=False)
    check((code, out) == (1, "") and err.count("\n") == 1 and
          err.startswith("deq bench: http://127.0.0.1:1/v1/models: ") and "is the server running" in err,
          "a dead port: %d %r" % (code, err))


def test_wrong_flags():
    url = "http://127.0.0.1:1"
    for flags, word in (((url, "--nope"), "--nope"), ((url, "--num-prompts", "0"), "--num-prompts"),
                        ((url, "--num-prompts", "1.5"), "--num-prompts"),
                        ((url, "--request-rate", "-1"), "--request-rate"), ((url, "--burstiness", "x"), "--burstiness"),
                        ((url, "--window", "65"), "--window"),
                        ((url, "--tol", "0"), "--tol"), ((url, "--goodput", "itl:1"), "--goodput"),
                        ((url, "--percentiles", "99,50"), "--percentiles"),
                        ((url, "--max-concurrency", "0"), "--max-concurrency"),
                        ((url, "--api-key", "a\nb"), "--api-key"), (("127.0.0.1:1",), "URL"), ((), "usage"),
                        ((url, "--timeout-ms"), "--timeout-ms"),
                        ((url, "--model", "a\udcff"), "--model: is not UTF-8")):
        code, out, err = run([DEQ, "bench", "serve"] + list(flags))
        check(code == 2 and not out and word in err, "%s: %d %r" % (flags, code, err))
    code, _, err = run([DEQ, "bench", "latency", url])
    check(code == 2 and '"latency"' in err and "serve" in err, "another kind: %r" % err)


def test_too_few_files():
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with Scripted([[chunk("a"), 0.3] + end(1)] * 60) as s:
        code, out, err = bench(s.url, "--num-prompts", 60, preexec_fn=limit)
        check(code == 1 and not out and "60 streams need 92 open files, and the limit is 64" in err and "ulimit" in err,
              "all at once: %r" % err)
        code, out, err = bench(s.url, "--num-prompts", 60, "--request-rate", 2000, preexec_fn=limit)
        check(code == 1 and "32 streams are open and the limit of open files is reached" in err, "on the way: %r" % err)
