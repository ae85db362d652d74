"""include timings and Server-Timing: where the time of a request went."""
import re
import tempfile

from lib import Daemon, check, check_error, equal, parse_sse, shared

CHAT = "chat.message={role}: {content}\\n"
HEADER = re.compile(r'queue;dur=([0-9.]+), prompt;dur=([0-9.]+), decode;dur=([0-9.]+), '
                    r'evaluations;desc="(\d+) of (\d+) prompt tokens, (\d+) of (\d+) tokens"')
USER = [{"role": "user", "content": "Tell me"}]


def check_timings(t, usage, deq, text):
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    equal((t["predicted_n"], t["prompt_n"], t["cache_n"]),
          (usage["completion_tokens"], usage["prompt_tokens"] - cached, cached), text + ": tokens")
    check(t["queue_ms"] >= 0 and t["prompt_ms"] > 0 and t["predicted_ms"] > 0, text + ": times: %s" % t)
    # the report has six digits
    check(abs(t["predicted_evaluations"] - deq["iters_mean"] * t["predicted_n"]) < 0.01, text + ": evaluations")
    check(t["prompt_evaluations"] >= t["prompt_n"], text + ": of the prompt")
    for kind in ("prompt", "predicted"):
        n, ms = t[kind + "_n"], t[kind + "_ms"]
        # of times to the microsecond, beside rates of more digits
        check(abs(t[kind + "_per_token_ms"] * n - ms) < 0.01 and abs(t[kind + "_per_second"] * ms / 1e3 / n - 1) < 0.01,
              text + ": rates: %s" % t)


def test_answers():
    d = shared(CHAT)
    for path, body in (("/v1/completions", {"prompt": "The king said", "max_tokens": 30, "ignore_eos": True}),
                       ("/v1/completions", {"prompt": ["The", "A b c"], "n": 2, "max_tokens": 9, "ignore_eos": True}),
                       ("/v1/chat/completions", {"messages": USER, "max_tokens": 12, "ignore_eos": True})):
        s, h, o = d.post(path, dict(body, include=["timings"]))
        t = o["timings"]
        check_timings(t, o["usage"], o["deq"], path)
        got = HEADER.fullmatch(h.get("server-timing", ""))
        if check(got, path + ": Server-Timing: %s" % h.get("server-timing")):
            equal([float(x) for x in got.groups()],
                  [t[k] for k in ("queue_ms", "prompt_ms", "predicted_ms", "prompt_evaluations", "prompt_n",
                                  "predicted_evaluations", "predicted_n")], path + ": the header says the same")
        s, h, o = d.post(path, body)
        check("timings" not in o and HEADER.fullmatch(h["server-timing"]), path + ": the header always, the object not")
    for path, body in (("/v1/responses", {"input": "A", "max_output_tokens": 4}), ("/v1/logits", {"prompt": "The"})):
        s, h, _ = d.post(path, body)
        got = HEADER.fullmatch(h.get("server-timing", ""))
        check(s == 200 and got and int(got[4]) >= int(got[5]) > 0, "%s: %s" % (path, h.get("server-timing")))
    s, h, o = d.post("/v1/completions", {"prompt": 1})
    check(s == 400 and "server-timing" not in h, "an error has none")


def test_behind_a_state():
    """What came with a state was not solved here: none of an empty prompt, all of one that goes on."""
    with tempfile.TemporaryDirectory() as dir, Daemon("state.dir=" + dir) as d:
        n = d.post("/v1/states", {"name": "x", "prompt": "The king said"})[2]["tokens"]
        for prompt in ("", "And now"):
            more = len(d.post("/tokenize", {"prompt": prompt, "add_special_tokens": False})[2]["tokens"])
            s, h, o = d.post("/v1/completions",
                             {"state": "x", "prompt": prompt, "max_tokens": 3, "include": ["timings"]})
            equal((s, o["timings"]["cache_n"], o["timings"]["prompt_n"], HEADER.fullmatch(h["server-timing"])[5]),
                  (200, n, more, str(more)), "behind a state: %r" % prompt)


def test_streams():
    """Headers leave before anything is known but the queue; the last chunk has the rest, and no choices."""
    d = shared(CHAT)
    for path, body in (("/v1/completions", {"prompt": "The king said"}), ("/v1/chat/completions", {"messages": USER})):
        for usage in (False, True):
            more = {"stream_options": {"include_usage": True}} if usage else {}
            s, h, b = d.request("POST", path, dict(body, max_tokens=20, ignore_eos=True, stream=True,
                                                   include=["timings"], **more))
            check(re.fullmatch(r"queue;dur=[0-9.]+", h.get("server-timing", "")), "%s: %s" % (path, h))
            events, done = parse_sse(b)
            equal((done, [e["choices"] for e in events if "timings" in e], "timings" in events[-1]), (True, [[]], True),
                  path + ": in the last chunk alone")
            equal("usage" in events[-1], usage, path + ": beside usage")
            t = events[-1]["timings"]
            check(t["predicted_n"] == 20 and t["predicted_ms"] > 0, path + ": %s" % t)


def test_unknown_include():
    s, _, o = shared(CHAT).post("/v1/completions", {"prompt": "a", "include": ["timing"]})
    check_error(s, o, 400, "invalid_value", "include", "a word that is none")
