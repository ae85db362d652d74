"""A load whose every answer is known: each request's answer was asked of a replica directly before, and answers are
bitwise reproducible."""
import collections
import http.client
import json
import re
import threading
import time

import lib
from lib import SLOW


def merged(events):
    """The one answer that a stream's events (logprobs and usage among them) say together, in the shape of a whole
    one."""
    text, lists, finish, deq, usage = "", collections.defaultdict(list), None, None, None
    for e in events:
        usage, deq = e.get("usage") or usage, e.get("deq") or deq
        for c in e["choices"]:
            text += c["text"]
            finish = c["finish_reason"] or finish
            for k, v in (c["logprobs"] or {}).items():
                lists[k] += v
    return {"text": text, "logprobs": dict(lists) or None, "finish_reason": finish, "deq": deq, "usage": usage,
            "fingerprint": events[0]["system_fingerprint"]}


class Failure(Exception):
    """What a client may meet with: retry says whether the request may be asked again."""

    def __init__(self, kind, retry):
        super().__init__(kind)
        self.kind, self.retry = kind, retry


def ask(at, body, request_id, headers=None, on_part=None):
    """The answer as bytes that two equal answers share, or Failure. on_part: called when bytes of the answer are
    there."""
    c = at.http(120)
    try:
        c.request("POST", "/v1/completions", json.dumps(body),
                  dict(headers or {}, **{"Content-Type": "application/json", "X-Request-Id": request_id}))
        r = c.getresponse()
        got = b""
        while part := r.read1(65536):
            got += part
            if on_part:
                on_part()
    except http.client.RemoteDisconnected:
        raise Failure("closed without an answer", True) from None
    except (http.client.HTTPException, OSError) as e:
        raise Failure("cut short: %s" % type(e).__name__ if "got" in locals() else type(e).__name__, True) from None
    finally:
        c.close()
    if r.status != 200:
        raise Failure("status %d %s" % (r.status, got[:200]), r.status in (502, 503))
    if not body.get("stream"):
        try:
            json.loads(got)
        except ValueError:  # fewer bytes than Content-Length says are no error to read1
            raise Failure("cut short: whole answer", True) from None
        return re.sub(rb'"created": ?\d+', b'"created":0', got, count=1)
    try:
        events, done = lib.parse_sse(got)
    except ValueError:
        events, done = [], False
    if not done:
        raise Failure("cut short: no [DONE]", True)
    return json.dumps(merged(events), sort_keys=True).encode()


def ask_again(at, body, request_id, tries=20, pause=0.1, **more):
    """ask, with the patience of a usual client. Returns (answer or None, failures)."""
    failures = []
    for _ in range(tries):
        try:
            return ask(at, body, request_id, **more), failures
        except Failure as e:
            failures.append(e.kind)
            if not e.retry:
                break
            time.sleep(pause)
    return None, failures


def requests(n, max_tokens=250):
    """Different prompts, every other one streamed; sampled, with logprobs: a wrong bit shows."""
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    return [dict({"prompt": "%d: The %s %d" % (i * 7919, "old house " * (i % 5), i), "max_tokens": max_tokens,
                  "temperature": 0.9, "seed": i, "logprobs": 1, "ignore_eos": True},
                 **(streamed if i % 2 == 0 else {})) for i in range(n)]


def id_of(i):
    return "known-%d" % i  # part of the answer: the same for every asking of one request


class Load:
    """Threads that ask for the same known requests over and over, each with a short rest after an answer."""

    def __init__(self, at, bodies, known, threads=8, tries=20, rest=0.01):
        self.at, self.bodies, self.known, self.tries, self.rest = at, bodies, known, tries, rest
        self.asked = self.lost = self.wrong = 0
        self.failures = collections.Counter()
        self.slowest = 0.0
        self._next, self._lock, self._stop = 0, threading.Lock(), False
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self):
        while not self._stop:
            with self._lock:
                i = self._next % len(self.bodies)
                self._next += 1
            begin = time.monotonic()
            answer, failures = ask_again(self.at, self.bodies[i], id_of(i), self.tries)
            took = time.monotonic() - begin
            with self._lock:
                self.asked += 1
                self.lost += answer is None
                self.wrong += answer is not None and answer != self.known[i]
                self.failures.update(failures)
                self.slowest = max(self.slowest, took)
            time.sleep(self.rest)

    def wait(self, n, seconds=30):
        """Until n more requests were asked."""
        until, target = time.monotonic() + seconds * SLOW, self.asked + n
        while self.asked < target and time.monotonic() < until:
            time.sleep(0.02)

    def __enter__(self):
        for t in self._threads:
            t.start()
        return self

    def __exit__(self, *unused):
        self._stop = True
        for t in self._threads:
            t.join()

    def summary(self):
        return "%d requests, %d lost, %d wrong, client retries %s, slowest %.2f s" % (self.asked, self.lost, self.wrong,
                                                                                      dict(self.failures) or 0,
                                                                                      self.slowest)
