#!/usr/bin/env python3
"""/metrics as Prometheus' own tools read it: promtool's linter and the parser of prometheus_client."""
import subprocess

from prometheus_client.parser import text_string_to_metric_families

from clients import lib, main
from lib import check, equal

# what the boards that ship with vLLM ask for
BOARD = ("num_requests_running num_requests_waiting kv_cache_usage_perc prompt_tokens_total generation_tokens_total "
         "e2e_request_latency_seconds time_to_first_token_seconds inter_token_latency_seconds request_prompt_tokens "
         "request_generation_tokens "
         "request_success_total request_queue_time_seconds request_prefill_time_seconds request_decode_time_seconds "
         "request_max_num_generation_tokens").split()


def scrape(d):
    s, h, b = d.request("GET", "/metrics",
                        headers={"Accept": "application/openmetrics-text;version=1.0.0,"
                                           "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"})
    equal((s, h["content-type"]), (200, "text/plain; version=0.0.4; charset=utf-8"), "status, Content-Type")
    return b.decode("utf-8")


def families(text):
    return {f.name: f for f in text_string_to_metric_families(text)}


def value(fams, name):
    """The sum of a family's samples of that name."""
    return sum(s.value for f in fams.values() for s in f.samples if s.name == name)


def lint(text):
    p = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
    # a colon is against the rules for exporters, but vLLM's names have one
    found = [x for x in (p.stdout + p.stderr).splitlines() if x and not x.startswith("vllm:")]
    check(not found and p.returncode in (0, 3), "promtool: exit code %d: %s" % (p.returncode, found))


def test_metrics():
    with lib.Daemon() as d:
        idle = scrape(d)
        lint(idle)
        for n in (3, 4):
            d.complete(max_tokens=n, ignore_eos=True)
        d.stream(max_tokens=5, ignore_eos=True)
        d.request("GET", "/nothing")
        text = scrape(d)
        lint(text)
        was, now = families(idle), families(text)
        equal(set(was), set(now), "the same families before and after traffic")
        for name, f in now.items():
            check(f.documentation and f.type in ("counter", "gauge", "histogram"), "%s has help and a type" % name)
            check(all(s.value == s.value for s in f.samples), "%s is never NaN" % name)
        equal(value(now, "deqd_generation_tokens_total") - value(was, "deqd_generation_tokens_total"), 12,
              "generated tokens")
        equal(value(now, "deqd_e2e_seconds_count"), 3, "requests that ended")
        aliases = {n for n in now if n.startswith("vllm:")}
        check(aliases, "metrics named as vLLM's")
        for name in BOARD:
            f = now.get("vllm:" + name.removesuffix("_total"))
            check(f and all(s.labels.keys() >= {"model_name", "engine"} for s in f.samples),
                  "vllm:%s, with model_name and engine" % name)
        equal(value(now, "vllm:generation_tokens_total"), value(now, "deqd_generation_tokens_total"),
              "vllm:generation_tokens_total")
        equal(value(now, "vllm:num_requests_running"), 0, "vllm:num_requests_running")
        equal(value(now, "vllm:request_success_total"), 3, "vllm:request_success_total")
        equal(value(now, "vllm:e2e_request_latency_seconds_count"), 3, "vllm:e2e_request_latency_seconds")


if __name__ == "__main__":
    main("prometheus")
