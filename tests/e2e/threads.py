#!/usr/bin/env python3
"""The server under concurrent clients, for the thread sanitizer: streams, whole answers, choices, bad requests,
scrapes, clients that leave or read slowly, deadlines, reloads, then SIGTERM.
The daemon's directory is DEQ_BUILD; any sanitizer report, lost answer or exit code other than 0 is a failure."""
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

CLIENTS, ROUNDS = 32, 8
LONG = "What shall I say more than I have inferred? Remember whom you are to cope withal. " * 5
BUILD = os.environ.get("DEQ_BUILD", "build")
passed = failed = 0
lock = threading.Lock()


def check(ok, what):
    global passed, failed
    with lock:
        if ok:
            passed += 1
        else:
            failed += 1
            print("failed:", what)


def ask(address, method, path, body=None, leave=False):
    c = http.client.HTTPConnection(address, timeout=120)
    c.request(method, path, json.dumps(body) if body is not None else None, {"Content-Type": "application/json"})
    if leave:
        c.close()
        return 0, b""
    r = c.getresponse()
    data = r.read()
    c.close()
    return r.status, data


def client(address, pid, n, reference):
    rng = random.Random(n)
    for _ in range(ROUNDS):
        kind = rng.randrange(9)
        body = {"prompt": "ROMEO: But soft", "max_tokens": 24, "temperature": 0.8, "seed": 5, "ignore_eos": True}
        if kind == 0:
            status, data = ask(address, "POST", "/v1/completions", body)
            check(status == 200 and json.loads(data)["choices"][0]["text"] == reference, f"answer {n}")
        elif kind == 1:
            status, data = ask(address, "POST", "/v1/completions", body | {"stream": True})
            events = [e[6:] for e in data.decode().split("\n\n") if e.startswith("data: ")]
            text = "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1])
            check(status == 200 and events[-1] == "[DONE]" and text == reference, f"stream {n}")
        elif kind == 2:
            ask(address, "POST", "/v1/completions", body | {"max_tokens": 400, "stream": rng.random() < 0.5},
                leave=True)
        elif kind == 3:
            check(ask(address, "POST", "/v1/completions", {"prompt": 3})[0] == 400, f"bad request {n}")
        elif kind == 4:
            check(ask(address, "GET", "/metrics")[0] == 200 and ask(address, "GET", "/health")[0] == 200, f"scrape {n}")
        # choices, echo, a long prompt that hits the prefix cache, deadlines: everything that forks, shares and ends
        elif kind == 5:
            long = body | {"prompt": LONG, "n": rng.randrange(1, 4), "max_tokens": 8,
                           "cache": rng.choice(["exact", "approximate", "off"])}
            check(ask(address, "POST", "/v1/completions", long)[0] == 200, f"choices {n}")
            check(ask(address, "POST", "/v1/completions",
                      body | {"echo": True, "logprobs": 1, "max_tokens": 0})[0] == 200, f"scoring {n}")
            check(ask(address, "POST", "/v1/completions",
                      body | {"max_tokens": 400, "deadline_ms": rng.randrange(1, 60)})[0] in (200, 504),
                  f"deadline {n}")
        elif kind == 6:  # a reader that stops reading for a while
            c = http.client.HTTPConnection(address, timeout=120)
            c.request("POST", "/v1/completions", json.dumps(body | {"max_tokens": 400, "stream": True}),
                      {"Content-Type": "application/json"})
            r = c.getresponse()
            r.read(50)
            time.sleep(0.2)
            check(r.read().endswith(b"data: [DONE]\n\n"), f"slow reader {n}")
            c.close()
        elif kind == 7:
            os.kill(pid, signal.SIGHUP)  # the same weights again: answers stay
        else:
            check(ask(address, "POST", "/v1/logits", {"prompt": "My lord", "positions": "all"})[0] == 200,
                  f"logits {n}")


def main():
    d = subprocess.Popen([f"{BUILD}/deqd", "--model", "tests/golden/tiny", "--listen", "127.0.0.1:0", "--set",
                          "engine.threads=2", "--set", "stream.buffer_bytes=4096",
                          "--set", "server.drain_delay_ms=0", "--set", "queue.max_requests=4096"],
                         stderr=subprocess.PIPE, text=True, errors="replace")
    lines = [d.stderr.readline()]
    address = json.loads(lines[0])["address"]
    reader = threading.Thread(target=lambda: lines.extend(d.stderr))
    reader.start()
    reference = json.loads(ask(address, "POST", "/v1/completions",
                               {"prompt": "ROMEO: But soft", "max_tokens": 24, "temperature": 0.8, "seed": 5,
                                                                    "ignore_eos": True})[1])["choices"][0]["text"]
    threads = [threading.Thread(target=client, args=(address, d.pid, i, reference)) for i in range(CLIENTS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    d.send_signal(signal.SIGTERM)
    check(d.wait(timeout=120) == 0, "exit code")
    reader.join()
    strange = [line for line in lines if not line.startswith("{")]
    check(not strange, "standard error:\n" + "".join(strange[:60]))
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed != 0)


main()
