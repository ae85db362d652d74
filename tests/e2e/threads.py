#!/usr/bin/env python3
"""The server under concurrent clients, for the thread sanitizer: streams, whole answers, bad requests, scrapes, clients that leave, then SIGTERM.
The daemon's directory is DEQ_BUILD; any sanitizer report, lost answer or exit code other than 0 is a failure."""
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading

CLIENTS, ROUNDS = 32, 6
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


def client(address, n, reference):
    rng = random.Random(n)
    for _ in range(ROUNDS):
        kind = rng.randrange(6)
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
            ask(address, "POST", "/v1/completions", body | {"max_tokens": 400, "stream": rng.random() < 0.5}, leave=True)
        elif kind == 3:
            check(ask(address, "POST", "/v1/completions", {"prompt": 3})[0] == 400, f"bad request {n}")
        elif kind == 4:
            check(ask(address, "GET", "/metrics")[0] == 200 and ask(address, "GET", "/health")[0] == 200, f"scrape {n}")
        else:
            check(ask(address, "POST", "/v1/logits", {"prompt": "My lord", "positions": "all"})[0] == 200, f"logits {n}")


def main():
    d = subprocess.Popen([f"{BUILD}/deqd", "--model", "tests/golden/tiny", "--listen", "127.0.0.1:0", "--set", "engine.threads=2"],
                         stderr=subprocess.PIPE, text=True, errors="replace")
    lines = [d.stderr.readline()]
    address = json.loads(lines[0])["address"]
    reader = threading.Thread(target=lambda: lines.extend(d.stderr))
    reader.start()
    reference = json.loads(ask(address, "POST", "/v1/completions", {"prompt": "ROMEO: But soft", "max_tokens": 24, "temperature": 0.8, "seed": 5,
                                                                    "ignore_eos": True})[1])["choices"][0]["text"]
    threads = [threading.Thread(target=client, args=(address, i, reference)) for i in range(CLIENTS)]
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
