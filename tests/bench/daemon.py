#!/usr/bin/env python3
"""Memory and throughput of the daemon: resident memory idle, and with 32 streams of 512 tokens; tokens a second through
HTTP."""
import json
import subprocess
import sys
import threading
import time
import urllib.request

STREAMS, TOKENS = 32, 512


def main():
    model = sys.argv[1] if len(sys.argv) > 1 else "models/stories"
    daemon = subprocess.Popen(["build/deqd", "--model", model, "--listen", "127.0.0.1:0", "--set", "log.level=info"],
                              stderr=subprocess.PIPE, text=True)
    url = "http://" + json.loads(daemon.stderr.readline())["address"]
    threading.Thread(target=lambda: [None for _ in daemon.stderr], daemon=True).start()

    def rss():
        text = urllib.request.urlopen(url + "/metrics").read().decode()
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
        return float(values["process_resident_memory_bytes"]) / 1e6, float(values["deqd_engine_memory_bytes"]) / 1e6

    def stream(i):
        body = json.dumps({"prompt": "Once upon a time", "max_tokens": TOKENS, "temperature": 0.8, "seed": i,
                           "ignore_eos": True, "stream": True}).encode()
        request = urllib.request.Request(url + "/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as r:
            for _ in r:
                pass

    idle, reserved = rss()
    threads = [threading.Thread(target=stream, args=(i,)) for i in range(STREAMS)]
    t = time.monotonic()
    for th in threads:
        th.start()
    peak = 0
    while any(th.is_alive() for th in threads):
        peak = max(peak, rss()[0])
        time.sleep(0.2)
    seconds = time.monotonic() - t
    print(f"daemon: resident {idle:.1f} MB idle (engine reserves {reserved:.1f} MB), {peak:.1f} MB with {STREAMS} "
          f"streams of {TOKENS} tokens; {STREAMS * TOKENS / seconds:.0f} tokens/s through HTTP")
    daemon.terminate()
    sys.exit(daemon.wait())


main()
