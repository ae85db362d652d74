"""Start, stop, configuration, damaged models."""
import contextlib
import fcntl
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

from lib import (DEQ, DEQD, MARK, SLOW, TINY, Daemon, check, check_error, clean_env, closed_within, equal,
                 parse_metrics, parse_sse, raw_request, read_response, run, skip,
                 slow_model)

LONG = {"prompt": "A", "max_tokens": 190000, "temperature": 0, "ignore_eos": True, "stream": True}


def start_stream(d, tokens):
    s = d.connect()
    s.sendall(raw_request(dict(LONG, max_tokens=tokens)))
    data = b""
    while b"data: " not in data:
        data += s.recv(4096)
    return s, data


def status_of(d, path="/health/ready"):
    try:
        return d.request("GET", path)[0]
    except OSError:
        return None


def test_drain():
    d = Daemon("server.drain_delay_ms=%d" % (3000 * SLOW), "engine.max_positions=400000",
               "server.shutdown_timeout_ms=120000")
    # longer decoding than the delay; read meanwhile, since an unread stream would be cut when its buffer is full
    s, data = start_stream(d, 100000)
    answer = []
    reader = threading.Thread(target=lambda: answer.append(read_response(s, data)))
    reader.start()
    d.p.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    while status_of(d) == 200 and time.monotonic() - begin < 60 * SLOW:
        time.sleep(0.005)
    st, _, o = d.get("/health/ready")
    equal((st, o["status"], o["state"]), (503, "unavailable", "draining"), "/health/ready while draining")
    equal((status_of(d, "/health"), status_of(d, "/health/live"), status_of(d, "/health/startup")), (503, 200, 200),
          "/health, live, startup while draining")
    equal(d.metrics()["deqd_ready"], 0, "deqd_ready while draining")
    equal(d.post("/v1/completions", {"prompt": "A", "max_tokens": 1})[0], 200,
          "drain_delay: a new request is still served")
    refused = None
    while time.monotonic() - begin < 20 * SLOW:
        try:
            st, h, b = d.request("POST", "/v1/completions", {"prompt": "A", "max_tokens": 1})
        except OSError:
            break
        if st != 200:
            refused = (st, h, b)
            break
        time.sleep(0.02)
    if check(refused is not None, "after drain_delay a new request is refused while the stream runs"):
        check_error(refused[0], refused[2], 503, "draining", None, "a new request after drain_delay")
        check(refused[1].get("retry-after", "").isdigit(), "Retry-After of a draining server")
    reader.join()
    st, _, body, _ = answer[0]
    events, done = parse_sse(body)
    equal((done, events[-1]["choices"][0]["finish_reason"]), (True, "length"), "the stream that ran comes to its end")
    s.close()
    d.stop()


def test_probes_while_busy():
    """A sign of life between a probe's two looks at the clock once counted as one from the future: not alive, once in a
    few thousand probes."""
    with Daemon("engine.max_positions=200000", "engine.threads=1") as d:
        s, _ = start_stream(d, 150000)
        reader = threading.Thread(target=lambda: closed_within(s, 60 * SLOW))  # an unread stream would be paused
        reader.start()
        bad, asked = [], 0
        probe = d.http()
        while asked < 4000 / SLOW:
            for path in ("/health/live", "/health/ready"):
                if asked % 500 == 499:  # deqd ends a connection after 1,000 requests
                    probe.close()
                probe.request("GET", path)
                r = probe.getresponse()
                body = r.read()
                asked += 1
                if r.status != 200:
                    bad.append((path, r.status, body))
        probe.close()
        check(not bad, "%d probes of a busy daemon, %d said no: %s" % (asked, len(bad), bad[:2]))
        s.shutdown(socket.SHUT_RDWR)
        reader.join()
        s.close()


def test_shutdown_timeout():
    d = Daemon("server.shutdown_timeout_ms=200", "engine.max_positions=200000", "engine.max_sequences=1")
    s, data = start_stream(d, 190000)
    w = d.connect()  # waits in the queue: its answer can still have a status
    w.sendall(raw_request({"prompt": "A", "max_tokens": 1}))
    d.wait_metric(lambda m: m["deqd_requests_waiting"] == 1, 5)
    d.p.send_signal(signal.SIGTERM)
    st, _, body, _ = read_response(s, data)
    events, done = parse_sse(body)
    equal((st, done), (200, False), "ended by shutdown_timeout: no [DONE]")
    check_error(503, events[-1], 503, "draining", None, "the last event is an error")
    check(len(events) > 1 and all("error" not in e for e in events[:-1]), "text came before")
    st, _, body, _ = read_response(w)
    check_error(st, body, 503, "draining", None, "who waited in the queue")
    s.close()
    w.close()
    begin = time.monotonic()
    d.stop()
    check(time.monotonic() - begin < 60 * SLOW, "then it ends soon")


def test_second_signal():
    for first, second in ((signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)):
        d = Daemon("engine.max_positions=200000", "server.drain_delay_ms=600000", "server.shutdown_timeout_ms=600000")
        s, data = start_stream(d, 190000)
        d.p.send_signal(first)
        until = time.monotonic() + 60 * SLOW
        while status_of(d) == 200 and time.monotonic() < until:
            time.sleep(0.01)
        equal(d.p.poll(), None, "draining, not ended")
        begin = time.monotonic()
        d.p.send_signal(second)
        try:
            d.p.wait(60 * SLOW)
        except subprocess.TimeoutExpired:
            pass
        took = time.monotonic() - begin
        check(d.p.poll() is not None and took < 60 * SLOW, "a second signal ends it now: %.2f s" % took)
        try:
            rest = data
            while True:
                part = s.recv(65536)
                if not part:
                    break
                rest += part
        except OSError:
            pass
        check(b"[DONE]" not in rest, "the stream does not pretend to be whole")
        s.close()
        d.stop()


def test_words_for_a_terminal():
    """Who starts it at a terminal reads what it is and how it ends, beside the log; a pipe gets the log alone."""
    ours, theirs = os.openpty()
    with subprocess.Popen([DEQD, "--model", TINY, "--listen", "127.0.0.1:0", "--set", "engine.max_positions=200000"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs, env=clean_env()) as p:
        os.close(theirs)
        seen = b""

        def until(words):
            nonlocal seen
            while words not in seen:
                seen += os.read(ours, 65536)

        until(b"try: curl ")
        address = json.loads(seen.split(b"\n")[0])["address"]
        check(re.search(rb"^deqd [0-9.]+: model tiny on http://%s \(/openapi.json\); Ctrl-C stops\r?$" %
                        address.encode(), seen, re.M), "ready: %r" % seen)
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), 60 * SLOW) as s:
            s.sendall(raw_request(LONG))
            while b"data: " not in s.recv(4096):
                pass
            p.send_signal(signal.SIGINT)
            until(b"a second Ctrl-C ends it now")
            check(b"1 request is running; a second Ctrl-C ends it now, else it may take 30 s" in seen,
                  "draining: %r" % seen[-300:])
            p.send_signal(signal.SIGINT)
            equal(p.wait(60 * SLOW), 0, "the second one ends it")
        os.close(ours)


def test_the_port_is_taken():
    with Daemon() as d:
        code, _, err = run([DEQD, "--model", TINY, "--listen", d.first["address"]])
        check(code == 1 and "Address already in use" in err and "--listen ADDRESS:PORT" in err and
              "make run LISTEN=" in err, "%d %s" % (code, err))


def test_interrupt_skips_the_delay():
    """SIGINT is somebody at a terminal: no load balancer is waited for, but what runs may finish."""
    d = Daemon("server.drain_delay_ms=600000")
    begin = time.monotonic()
    d.p.send_signal(signal.SIGINT)
    # no SIGTERM behind it: a second signal would end it in any case
    with contextlib.suppress(subprocess.TimeoutExpired):
        d.p.wait(60 * SLOW)
    check(d.p.poll() == 0, "an idle daemon ends at once: not after %.2f s" % (time.monotonic() - begin))
    d.stop()
    d = Daemon("server.drain_delay_ms=600000", "engine.max_positions=200000", "server.shutdown_timeout_ms=60000")
    s, data = start_stream(d, 8000)
    answer = []
    reader = threading.Thread(target=lambda: answer.append(read_response(s, data)))
    reader.start()
    d.p.send_signal(signal.SIGINT)
    begin = time.monotonic()
    got = None
    while reader.is_alive() and got != 503:
        try:
            got = d.request("POST", "/v1/completions", {"prompt": "A", "max_tokens": 1})[0]
        except OSError:
            break
    check(got == 503 and time.monotonic() - begin < 60 * SLOW,
          "a new request is refused at once: %s after %.2f s" % (got, time.monotonic() - begin))
    reader.join()
    events, done = parse_sse(answer[0][2])
    equal((done, events[-1]["choices"][0]["finish_reason"]), (True, "length"), "the stream that ran comes to its end")
    s.close()
    d.stop()


def test_terminate_waits_for_the_delay():
    equal(printed()[1]["server.drain_delay_ms"], "5000", "server.drain_delay_ms by default")
    d = Daemon("server.drain_delay_ms=700")
    begin = time.monotonic()
    d.p.send_signal(signal.SIGTERM)
    served = 0
    while d.p.poll() is None and time.monotonic() - begin < 60 * SLOW:
        try:
            if d.request("POST", "/v1/completions", {"prompt": "A", "max_tokens": 1})[0] == 200:
                served = time.monotonic() - begin
        except OSError:
            pass
        time.sleep(0.01)
    took = time.monotonic() - begin
    d.stop()
    check(0.69 <= took < 60 * SLOW, "SIGTERM to an idle daemon: ended after %.2f s, expected 0.7" % took)
    check(served > 0, "requests were served for %.2f s of that" % served)


def starting(*settings, model, then=None):
    """Starts a daemon whose model takes a moment: then(port, ask) is called once while it loads; returns the daemon."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    box = []

    def start():
        try:
            box.append(Daemon(*settings, model=model, listen="127.0.0.1:%d" % port))
        except RuntimeError as e:
            box.append(e)

    def ask(method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=20 * SLOW)
        try:
            c.request(method, path, body=None if body is None else json.dumps(body))
            r = c.getresponse()
            return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
        finally:
            c.close()

    t = threading.Thread(target=start)
    t.start()
    called = False
    while t.is_alive() and not called:
        try:
            if ask("GET", "/health/startup")[0] == 503:
                then(ask)
                called = True
        except OSError:
            time.sleep(0.001)
    t.join()
    check(called, "/health/startup answers 503 while the model is loaded")
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]


def test_starting():
    """The door opens before the model is there: probes are told so, clients are asked to come back."""
    with tempfile.TemporaryDirectory() as tmp:
        model = slow_model(os.path.join(tmp, "slow"))
        got = {}

        def look(ask):
            for method, path in (("GET", "/health/startup"), ("GET", "/health/ready"), ("GET", "/health"),
                                 ("GET", "/health/live"), ("GET", "/metrics"),
                                 ("GET", "/v1/models"),
                                 ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("POST", "/v1/logits"),
                                 ("POST", "/v1/equilibria"), ("POST", "/v1/embeddings"),
                                 ("POST", "/tokenize"),
                                 ("POST", "/detokenize"),
                                 ("GET", "/openapi.json"), ("GET", "/nothing")):
                got[path] = ask(method, path, {"prompt": MARK} if method == "POST" else None)
            got["last"] = ask("GET", "/health/startup")

        with starting(model=model, then=look) as d:
            if got["last"][0] != 503:
                skip("the model was loaded before everything was asked")
            else:
                for path in ("/health/startup", "/health/ready", "/health"):
                    s, h, b = got[path]
                    equal((s, json.loads(b)["state"], json.loads(b)["status"]), (503, "starting", "unavailable"),
                          path + " while the model is loaded")
                    check(h.get("retry-after", "").isdigit(), path + ": Retry-After")
                equal(got["/health/live"][0], 200, "/health/live while the model is loaded")
                equal(got["/metrics"][0], 200, "/metrics while the model is loaded")
                equal(parse_metrics(got["/metrics"][2].decode())["deqd_ready"], 0,
                      "deqd_ready while the model is loaded")
                for path in ("/v1/completions", "/v1/chat/completions", "/v1/logits", "/v1/equilibria",
                             "/v1/embeddings", "/tokenize", "/detokenize", "/v1/models"):
                    s, h, b = got[path]
                    check_error(s, b, 503, "model_loading", None, path + " while the model is loaded")
                    check(h.get("retry-after", "").isdigit() and int(h["retry-after"]) >= 1,
                          path + ": Retry-After %s" % h.get("retry-after"))
                equal((got["/openapi.json"][0], got["/nothing"][0]), (200, 404), "what needs no model")
            s, _, o = d.get("/health/startup")
            equal((s, o["state"]), (200, "ready"), "afterwards")
            equal(d.complete(MARK, max_tokens=1, ignore_eos=True)["usage"]["completion_tokens"], 1,
                  "a completion afterwards")


def test_signals_while_starting():
    with tempfile.TemporaryDirectory() as tmp:
        model = slow_model(os.path.join(tmp, "slow"))
        pid = []

        def send(*signals):
            def go(_):
                me = os.getpid()
                for p in os.listdir("/proc"):  # the child that is being started has no name yet
                    with contextlib.suppress(OSError, ValueError, IndexError):
                        with open("/proc/%s/stat" % p) as f:
                            parent = int(f.read().rsplit(")", 1)[1].split()[1])
                        if parent == me and os.readlink("/proc/%s/exe" % p) == os.path.realpath(DEQD):
                            with open("/proc/%s/cmdline" % p) as f:
                                if model in f.read():
                                    pid.append(int(p))
                for sig in signals:
                    os.kill(pid[-1], sig)
            return go

        if not os.path.isdir("/proc/self"):
            skip("this machine has no /proc")
            return
        with starting(model=model, then=send(signal.SIGHUP)) as d:
            check(d.wait_line(5, message="reloaded"), "SIGHUP while starting: reloaded afterwards")
            equal(d.complete(MARK, max_tokens=1, ignore_eos=True)["usage"]["completion_tokens"], 1,
                  "a completion afterwards")
        begin = time.monotonic()
        d = starting(model=model, then=send(signal.SIGTERM))
        equal(d.p.wait(20 * SLOW), 0, "SIGTERM while starting")
        check(time.monotonic() - begin < 60 * SLOW, "ends soon: %.1f s" % (time.monotonic() - begin))
        d.stop()


def test_no_thread_dies_of_a_signal():
    """The kernel gives a process's signal to any thread that does not block it. Where main() waits for signals instead
    of handling them, a thread that a library started before main() could block them would take SIGTERM's default action
    and end the process, without draining."""
    with Daemon() as d:
        try:
            threads = {}
            for t in os.listdir("/proc/%d/task" % d.p.pid):
                with open("/proc/%d/task/%s/status" % (d.p.pid, t)) as f:
                    threads[int(t)] = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        except OSError:
            skip("this machine has no /proc")
            return
        for sig in (signal.SIGTERM, signal.SIGINT):
            # the thread that waits is shown as if it did not block: its wait takes the signal
            open_to_it = [t for t, x in threads.items() if t != d.p.pid and
                          not (int(x["SigBlk"], 16) | int(x["SigCgt"], 16) | int(x["SigIgn"], 16)) >> (sig - 1) & 1]
            equal(open_to_it, [], "threads in which %s is neither blocked nor handled" % sig.name)


def test_idle_stop_is_quick():
    d = Daemon("server.idle_timeout_ms=600000")
    with d.connect() as s:  # an idle keep-alive connection must not hold it
        s.sendall(raw_request({"prompt": "A", "max_tokens": 1}))
        read_response(s)
        begin = time.monotonic()
        d.stop()
        check(time.monotonic() - begin < 60 * SLOW, "an idle daemon ends at once: %.2f s" % (time.monotonic() - begin))
    try:
        d.connect(1).close()
        check(False, "nobody listens any more")
    except OSError:
        check(True, "")


def fails(args, want_code, *words, env=None, lines=1, timeout=20):
    """The daemon must not start: exit code, one line that holds the words. Usage and values (and --check-config) are
    answered in plain words, what comes after is a line of the log."""
    try:
        p = subprocess.run([DEQD] + args, env=clean_env(env), capture_output=True, timeout=timeout * SLOW,
                           stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return check(False, "deqd %s: started" % " ".join(args))
    err = p.stderr.decode("utf-8", "replace")
    text = err
    if err.startswith("{"):
        line = json.loads(err.split("\n")[0])
        text = line["reason"] if (line["level"], line["message"], line["exit_code"]) == ("error", "cannot start",
                                                                                         p.returncode) else ""
    return check(p.returncode == want_code and err.count("\n") == lines and
                 (err[:1] == "{" or err.startswith("deqd: ")) and all(w in text for w in words) and not p.stdout,
                 "deqd %s: exit %d, %r; expected exit %d, one line with %s" % (" ".join(args)[-200:], p.returncode,
                                                                               err[-600:], want_code, list(words)))


def test_port_in_use():
    with Daemon() as d:
        fails(["--model", TINY, "--listen", "%s:%d" % (d.host, d.port)], 1, "server.listen", "%s:%d" % (d.host, d.port),
              "in use")
        d.alive()


def edit_safetensors(path, change):
    """Rewrites a safetensors file; change(header, data) may edit both (data: a bytearray) and returns the new header's
    bytes or None."""
    with open(path, "rb") as f:
        b = f.read()
    n = struct.unpack("<Q", b[:8])[0]
    header, data = json.loads(b[8:8 + n]), bytearray(b[8 + n:])
    change(header, data)
    h = json.dumps(header).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h + data)


def test_damaged_models():
    with tempfile.TemporaryDirectory() as tmp:
        count = [0]

        def damaged(what, *words):
            """Copies the model, lets the caller damage it, and expects a refusal by both programs."""
            def with_change(change):
                count[0] += 1
                m = os.path.join(tmp, "m%d" % count[0])
                shutil.copytree(TINY, m)
                change(m)
                fails(["--model", m, "--listen", "127.0.0.1:0"], 1, *words)
                code, out, err = run([DEQ, "inspect", m])
                check(code == 1 and err.count("\n") == 1 and all(w in err for w in words),
                      "deq inspect, %s: exit %d %r" % (what, code, err[-400:]))
                shutil.rmtree(m)
            return with_change

        def edit_config(**change):
            def go(m):
                with open(m + "/config.json") as f:
                    o = json.load(f)
                for k, v in change.items():
                    at = o
                    path = k.split("__")
                    for p in path[:-1]:
                        at = at[p]
                    if v is None:
                        del at[path[-1]]
                    else:
                        at[path[-1]] = v
                with open(m + "/config.json", "w") as f:
                    json.dump(o, f)
            return go

        def text(name, edit):
            def go(m):
                with open(os.path.join(m, name), encoding="utf-8") as f:
                    s = f.read()
                with open(os.path.join(m, name), "w", encoding="utf-8") as f:
                    f.write(edit(s))
            return go

        weights = "model.safetensors"
        for name in ("config.json", weights):
            damaged("without " + name, name)(lambda m: os.unlink(os.path.join(m, name)))
        damaged("without tokenizer.json", "tokenizer.json")(lambda m: os.unlink(m + "/tokenizer.json"))
        size = os.path.getsize(os.path.join(TINY, weights))
        for n in (0, 7, 8, 100, 5000, size // 2, size - 1):
            damaged("cut to %d bytes" % n, weights)(lambda m: os.truncate(os.path.join(m, weights), n))
        damaged("longer by one byte", weights)(lambda m: open(os.path.join(m, weights), "ab").write(b"x"))
        damaged("a directory instead",
                weights)(lambda m: (os.unlink(os.path.join(m, weights)), os.mkdir(os.path.join(m, weights))))

        def weights_edit(fn):
            return lambda m: edit_safetensors(os.path.join(m, weights), fn)

        with open(os.path.join(TINY, weights), "rb") as f:
            b = f.read()
        header = json.loads(b[8:8 + struct.unpack("<Q", b[:8])[0]])
        names = sorted(k for k in header if k != "__metadata__")
        two = next(k for k in names if len(header[k]["shape"]) == 2 and header[k]["shape"][0] != header[k]["shape"][1])

        def swap(h, data):
            h[two]["shape"].reverse()

        def nan(h, data):
            at = h[two]["data_offsets"][0]
            data[at + 4:at + 8] = struct.pack("<f", float("nan"))

        def infinite(h, data):
            at = h[two]["data_offsets"][1]
            data[at - 4:at] = struct.pack("<f", float("inf"))

        def rename(h, data):
            h[two + "x"] = h.pop(two)

        def outside(h, data):
            h[two]["data_offsets"][1] += 1 << 40

        def overlap(h, data):
            other = next(k for k in names if k != two and h[k]["data_offsets"][0] > 0)
            h[other]["data_offsets"] = [0, h[other]["data_offsets"][1] - h[other]["data_offsets"][0]]

        def dtype(h, data):
            h[two]["dtype"] = "F9"

        damaged("wrong shape", weights, two)(weights_edit(swap))
        damaged("NaN", weights, two, "finite")(weights_edit(nan))
        damaged("infinity", weights, two, "finite")(weights_edit(infinite))
        damaged("renamed", weights, two)(weights_edit(rename))
        damaged("offsets outside", weights, two)(weights_edit(outside))
        damaged("offsets overlap", weights)(weights_edit(overlap))
        damaged("unknown dtype", weights, two, "F9")(weights_edit(dtype))
        for key, value, words in (("hidden_size", "32", ["hidden_size"]), ("hidden_size", 0, ["hidden_size"]),
                                  ("hidden_size", None, ["hidden_size"]),
                                  ("hidden_size", 34, [weights]), ("hiden_size", 32, ["hiden_size"]),
                                  ("vocab_size", 2**40, ["vocab_size"]),
                                  ("vocab_size", 383, []), ("norm", "rms", ["norm"]),
                                  ("model_type", "llama", ["model_type"]),
                                  ("format_version", 99, ["format_version"]), ("eos_token_id", 384, ["eos_token_id"]),
                                  ("deq", 1, ["config.json", "deq"]), ("deq__solver", "newton", ["deq.solver"]),
                                  ("deq__tol", -1, ["deq.tol"]),
                                  ("deq__window", 0, ["deq.window"]), ("deq__x", 1, ["deq.x"]),
                                  ("attention_window", 0, ["attention_window"]),
                                  ("num_blocks", 1.5, ["num_blocks"]),
                                  ("tie_word_embeddings", 0, ["tie_word_embeddings"])):
            damaged("config %s = %r" % (key, value),
                    *(words if weights in words or not words else ["config.json"] + words))(edit_config(**{key: value}))
        damaged("config cut", "config.json", "line")(text("config.json", lambda s: s[:len(s) // 2]))
        damaged("config empty", "config.json")(text("config.json", lambda s: ""))
        damaged("config an array", "config.json")(text("config.json", lambda s: "[]"))
        damaged("tokenizer cut", "tokenizer.json")(text("tokenizer.json", lambda s: s[:len(s) // 2]))
        damaged("tokenizer empty object", "tokenizer.json")(text("tokenizer.json", lambda s: "{}"))
        damaged("tokenizer of another kind",
                "tokenizer.json")(text("tokenizer.json", lambda s: s.replace('"BPE"', '"Unigram"')))
        damaged("two tokens with one id",
                "tokenizer.json")(text("tokenizer.json", lambda s: s.replace('"!": 1,', '"!": 2,')))
        damaged("a merge of unknown tokens",
                "tokenizer.json")(text("tokenizer.json",
                                       lambda s: re.sub(r'("merges": \[\s*)(\[[^\]]*\]|"[^"]*")', r'\1"Q Z"', s,
                                                        count=1)))
        fails(["--model", os.path.join(tmp, "nothing-here"), "--listen", "127.0.0.1:0"], 1, "nothing-here",
              "config.json")
        fails(["--model", tmp + "/bad name", "--listen", "127.0.0.1:0"], 2, "model.path", "bad name")


def test_configuration_errors():
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "deqd.yaml")

        def file(content, *words):
            with open(path, "w") as f:
                f.write(content)
            fails(["--config", path, "--check-config"], 2, path, *words)

        file("server:\n  lissten: 127.0.0.1:0\n", "line 2, column 3", "server.lissten", "did you mean server.listen?")
        file("listen: 127.0.0.1:0\n", "line 1, column 1", "unknown key listen", "did you mean server.listen?")
        file("server:\n  listen: 127.0.0.1:0\nengin:\n  threads: 1\n", "line 4, column 3", "engin.threads",
             "did you mean engine.threads?")
        file("engine:\n  threads: many\n", "line 2, column 12", "engine.threads", "many")
        file("engine:\n  threads: 257\n", "line 2, column 12", "engine.threads", "0..256")
        file("engine:\n  threads: -1\n", "line 2", "engine.threads")
        file("engine:\n  threads: 1.5\n", "line 2", "engine.threads")
        file("engine:\n  threads: [1]\n", "line 2", "engine.threads", "sequence")
        file("server:\n  max_body_bytes: 1X\n", "line 2", "server.max_body_bytes", "1X")
        file("server:\n  listen: localhost\n  listen: x\n", "line 3", "listen")
        file("log:\n  level: loud\n", "line 2, column 10", "log.level", "error|warn|info|debug")
        file("limits:\n  tol_min: nan\n", "line 2", "limits.tol_min")
        file("server: {\n", "line")
        file("a: &x 1\nb: *x\n", "line 1")
        with open(path, "w") as f:
            f.write("server:\n  listen: nowhere\n")
        fails(["--config", path, "--check-config"], 2, "server.listen", "nowhere")
        fails(["--config", os.path.join(tmp, "none.yaml")], 2, "none.yaml")
        for args, words in ((["--set", "engine.thread=1"], ["engine.thread"]),
                            (["--set", "engine.threads"], ["engine.threads"]),
                            (["--set", "engine.threads=x"], ["engine.threads", "x"]), (["--set"], ["--set"]),
                            (["--lissten", "x"], ["--lissten"]),
                            (["extra"], ["extra"]), (["--listen", "127.0.0.1:65536"], ["server.listen"]),
                            (["--listen", "127.0.0.1"], ["server.listen"]),
                            (["--listen", "example.org:80"], ["server.listen"]),
                            (["--listen", "127.0.0.1:-1"], ["server.listen"]),
                            (["--set", "state.dir=none", "--set", "engine.cache_dir=none"],
                             ["state.dir", "engine.cache_dir"]),
                            (["--set", "limits.tol_min=0.4", "--set", "limits.tol_max=0.3"],
                             ["limits.tol_min", "limits.tol_max"])):
            fails(args + ["--check-config"], 2, *words)
        fails(["--check-config"], 2, "DEQD_ENGINE_THREADS", "x", env={"DEQD_ENGINE_THREADS": "x"})
        fails(["--check-config"], 2, "DEQD_SERVER_LISTN", "did you mean DEQD_SERVER_LISTEN?",
              env={"DEQD_SERVER_LISTN": "x"})
        fails(["--check-config", "--set", "server.listn=x"], 2, "did you mean server.listen?")
        fails(["--check-config", "--set", "server=x"], 2, "server is a section")
        fails(["--check-confg"], 2, "did you mean --check-config?")
        fails(["--listen", "8080"], 2, "did you mean 127.0.0.1:8080?")
        fails(["--listen", ":8080"], 2, "did you mean 127.0.0.1:8080?")
        file("server: [\n", "line 2", "flow")
        fails(["--check-config"], 2, "DEQ_CPU", "foo", env={"DEQ_CPU": "foo"})
        flags = open("/proc/cpuinfo").read()
        for level, flag in (("avx512", "avx512f"), ("vnni", "avx512_vnni"), ("amx", "amx_int8")):
            if flag not in flags:  # a level that the machine lacks
                fails(["--check-config"], 2, "DEQ_CPU", level, "is not a level of this machine", env={"DEQ_CPU": level})
        fails(["--check-config", "--listen", "127.0.0.1:9", "--set", "server.admin_listen=localhost:9"], 2,
              "server.admin_listen", "server.listen")
        for name in ("a/", "/a", "a//b", ".a", "a/.b", "../a", "a b", "caf\u00e9", "x" * 97):
            fails(["--check-config", "--set", "model.name=" + name], 2, "model.name")
        # empty is unset, and a Service that is called like the daemon announces itself by such names
        empty = {"DEQ_CPU": "", "DEQD_CONFIG": "", "DEQD_SERVER_LISTEN": "", "DEQD_ENGINE_THREADS": "",
                 "DEQD_NOTHING": ""}
        links = {"DEQD_SERVICE_HOST": "10.0.0.1", "DEQD_SERVICE_PORT": "80", "DEQD_SERVICE_PORT_HTTP": "80",
                 "DEQD_PORT": "tcp://10.0.0.1:80", "DEQD_PORT_80_TCP": "tcp://10.0.0.1:80",
                 "DEQD_PORT_80_TCP_PROTO": "tcp", "DEQD_PORT_80_TCP_PORT": "80", "DEQD_PORT_80_TCP_ADDR": "10.0.0.1",
                 "DEQD_METRICS_SERVICE_HOST": "10.0.0.2", "DEQD_METRICS_PORT_80_TCP": "x"}
        for env in (empty, links):
            code, out, err = run([DEQD, "--check-config"], env=env)
            equal((code, out, err), (0, "configuration ok\n", ""), "variables %s" % sorted(env))
        code, out, _ = run([DEQD, "--check-config"])
        equal((code, out), (0, "configuration ok\n"), "--check-config of the defaults")


def printed(args=(), env=None):
    code, out, err = run([DEQD] + list(args) + ["--print-config"], env=env)
    equal((code, err), (0, ""), "--print-config")
    values, section = {}, ""
    for line in out.split("\n"):
        if line and not line.lstrip().startswith("#"):
            k, v = line.split(":", 1)
            if line.startswith("  "):
                values[section + "." + k.strip()] = v.strip()
            else:
                section = k
    return out, values


def test_precedence_and_print_config():
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "deqd.yaml")
        with open(path, "w") as f:
            f.write("# a comment\nengine:\n  threads: 3\n  max_sequences: 5\nserver: {listen: '127.0.0.1:1', "
                    "http_threads: 4}\n")
        _, defaults = printed()
        equal((defaults["engine.threads"], defaults["server.listen"], defaults["server.max_body_bytes"]),
              ("0", '"127.0.0.1:8080"', "1M"), "defaults")
        check(len(defaults) >= 30, "all keys are printed: %d" % len(defaults))
        code, out, _ = run([DEQD, "--help"])
        equal(code, 0, "--help")
        check(all(k in out for k in defaults) and "--health-probe" in out and "Exit status" in out,
              "--help names every key and flag")
        env = {"DEQD_ENGINE_THREADS": "7", "DEQD_SERVER_HTTP_THREADS": "9"}
        args = ["--config", path, "--set", "server.http_threads=6"]
        got = printed(args, env)[1]
        equal([got[k] for k in ("server.http_threads", "engine.threads", "engine.max_sequences", "server.listen")],
              ["6", "7", "5", '"127.0.0.1:1"'], "flags over environment over file over defaults")
        got = printed(["--set", "server.http_threads=6", "--config", path], env)[1]
        equal(got["server.http_threads"], "6", "wherever --config stands")
        equal(printed([], dict(env, DEQD_CONFIG=path))[1]["engine.max_sequences"], "5", "DEQD_CONFIG")
        equal(printed(["--set", "engine.max_sequences=null"], dict(env, DEQD_CONFIG=path))[1]["engine.max_sequences"],
              "32", "a null puts the default back")
        code, _, err = run([DEQD, "--print-config"], env=dict(env, DEQD_CONFIG="/nowhere.yaml"))
        check(code == 2 and "DEQD_CONFIG: /nowhere.yaml: cannot open" in err,
              "the variable is named: %d %r" % (code, err))
        equal(printed(["--listen=[::1]:5", "--model", "m"])[1]["server.listen"], '"[::1]:5"', "--listen=, IPv6")
        equal(printed(["--set", "engine.threads=1", "--set", "engine.threads=2"])[1]["engine.threads"], "2",
              "the last flag wins")
        # nulls and sections whose keys are commented out are not there; in quotes it is text
        with open(path, "w") as f:
            f.write("engine:\n  # threads: 3\nserver:\n  listen: ~\n  admin_listen: null\n  http_threads:\nmodel: "
                    "{name: Null}\nauth: null\nlog: {}\ntls:\n  cert: ''\n")
        equal(printed(["--config", path])[1], defaults, "nulls are defaults")
        with open(path, "w") as f:
            f.write("model: {name: 'null'}\n")
        equal(printed(["--config", path])[1]["model.name"], '"null"', "quoted")
        # what is printed can be read again and prints the same
        odd = ["--set", "engine.cache_bytes=12345", "--set", "limits.tol_min=0.00123", "--set",
               "server.max_body_bytes=3K", "--set", "log.level=warn",
               "--set", 'model.path=a b"c\\d #: {é', "--set", "limits.tol_max=0.1"]
        for extra in ([], odd):
            out, values = printed(extra)
            with open(path, "w") as f:
                f.write(out)
            code, again, err = run([DEQD, "--config", path, "--print-config"])
            equal((code, again == out, err), (0, True, ""),
                  "--print-config is loadable and prints the same (%s)" % " ".join(extra))
        code, out, _ = run([DEQD, "--version"])
        check(code == 0 and re.fullmatch(r"deqd \d+\.\d+\.\d+\S*\n", out), "--version: %r" % out)


def test_health_probe():
    with Daemon() as d:
        address = "%s:%d" % (d.host, d.port)
        equal(run([DEQD, "--listen", address, "--health-probe"])[0], 0, "--health-probe of a running daemon")
        equal(run([DEQD, "--listen", "0.0.0.0:%d" % d.port, "--health-probe"])[0], 0, "0.0.0.0 is asked on loopback")
        port = d.port
    equal(run([DEQD, "--listen", "127.0.0.1:%d" % port, "--health-probe"]),
          (1, "", "deqd: --health-probe: 127.0.0.1:%d does not answer\n" % port),
          "--health-probe when nobody listens")
    with socket.socket() as s:  # somebody else listens and says nothing
        s.bind(("127.0.0.1", 0))
        s.listen(1)
        begin = time.monotonic()
        equal(run([DEQD, "--listen", "127.0.0.1:%d" % s.getsockname()[1], "--health-probe"])[0], 1,
              "--health-probe of a port that is silent")
        check(time.monotonic() - begin < 60 * SLOW, "the probe gives up: %.1f s" % (time.monotonic() - begin))
    d = Daemon("server.drain_delay_ms=5000")
    d.p.send_signal(signal.SIGTERM)
    until = time.monotonic() + 60 * SLOW
    while status_of(d) == 200 and time.monotonic() < until:
        time.sleep(0.01)
    equal(run([DEQD, "--listen", "127.0.0.1:%d" % d.port, "--health-probe"]),
          (1, "", "deqd: --health-probe: 127.0.0.1:%d answers 503, not ready\n" % d.port),
          "--health-probe of a draining daemon")
    d.stop()


def test_log_levels():
    with Daemon("log.level=debug") as d:
        d.complete(MARK, max_tokens=2)
        d.request("GET", "/v1/rerank")
        d.request("DELETE", "/v1/models")
        d.request("GET", "/v1/models")
        d.request("GET", "/health")
        d.request("POST", "/v1/completions", '{"prompt": "%s' % MARK)
        until = time.monotonic() + 60 * SLOW
        while sum(x["message"] in ("request", "completion") for x in d.lines()) < 5 and time.monotonic() < until:
            time.sleep(0.01)
        lines = d.lines()
        done = [x for x in lines if x["message"] == "completion"]
        equal(len(done), 1, "one line for a completion")
        equal((done[0]["status"], done[0]["completion_tokens"], done[0]["finish"], done[0]["stream"]),
              (200, 2, "length", False), "its fields")
        requests = [(x["method"], x["path"], x["status"]) for x in lines if x["message"] == "request"]
        equal(requests, [("GET", "/v1/rerank", 404), ("DELETE", "/v1/models", 405), ("GET", "/v1/models", 200),
                         ("POST", "/v1/completions", 400)],
              "one line a request; probes are not shown")
        check(all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", x["time"]) and
                  x["level"] in ("error", "warn", "info", "debug") for x in lines), "time and level")


def test_log_that_nobody_reads():
    """A pipe that is full holds neither requests nor the end."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 4096)
    with open(out, "rb") as log:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        p = subprocess.Popen([DEQD, "--model", TINY, "--listen", "127.0.0.1:%d" % port, "--set",
                              "server.drain_delay_ms=0"], stderr=into, env=clean_env())
        os.close(into)
        try:
            until, answered = time.monotonic() + 20 * SLOW, 0
            while answered < 50 and time.monotonic() < until:  # some 16 KB
                try:
                    c = http.client.HTTPConnection("127.0.0.1", port, timeout=5 * SLOW)
                    c.request("GET", "/v1/models")
                    answered += c.getresponse().status == 200
                except ConnectionRefusedError:
                    time.sleep(0.01)
                finally:
                    c.close()
            equal(answered, 50, "answers while nobody reads the log")
            p.send_signal(signal.SIGTERM)
            equal(p.wait(10 * SLOW), 0, "exit code after SIGTERM")
            check(len(log.read()) <= 4096, "the pipe was full")
        finally:
            p.kill()
            p.wait()


def test_log_file_that_may_grow_no_more():
    """RLIMIT_FSIZE: lines are lost and counted, and told of when there is room again."""
    d = Daemon()
    try:
        size = len(d.stderr())
        resource.prlimit(d.p.pid, resource.RLIMIT_FSIZE, (size + 500, resource.RLIM_INFINITY))
        for _ in range(10):
            equal(d.request("GET", "/v1/models")[0], 200, "while the log may not grow")
        ok, m = d.wait_metric(lambda m: m["deqd_log_lines_dropped_total"] >= 5, 5)
        check(ok, "deqd_log_lines_dropped_total: %s" % m["deqd_log_lines_dropped_total"])
        resource.prlimit(d.p.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        equal(d.request("GET", "/v1/models")[0], 200, "with room again")
        until, told = time.monotonic() + 5 * SLOW, []
        while not told and time.monotonic() < until:
            told = re.findall(r'^{.*"message":"log lines dropped","lines":(\d+)}$', d.stderr(), re.M)
            time.sleep(0.01)
        equal([int(x) for x in told], [int(d.metrics()["deqd_log_lines_dropped_total"])],
              "lines dropped, as the log tells them")
    finally:
        d.p.terminate()
        equal(d.p.wait(20 * SLOW), 0, "exit code after SIGTERM")


def test_log_of_paths():
    """What a client asks for in vain is logged: printable, at most 256 bytes, without its query, and never as another
    line."""
    cases = [("/nothing?key=secret", "/nothing"), ("/nothing#secret", "/nothing"), ('/"},{\\n', '/"},{\\n'),
             ("/%0a{}", "/%0a{}"), ("/" + "a" * 300, "/" + "a" * 255), ("/\xe9", "/%E9"),
             ("/" + "a" * 253 + "\xe9b", "/" + "a" * 253), ("*", "*"), ("/v1/models/?x", "/v1/models/"),
             ("/v1/models/" + "x" * 300, "/v1/models/")]
    with Daemon() as d:
        for target, _ in cases:
            with d.connect() as s:
                s.sendall(("GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target).encode("latin-1"))
                s.recv(65536)
        until = time.monotonic() + 60 * SLOW
        while sum(x["message"] == "request" for x in d.lines()) < len(cases) and time.monotonic() < until:
            time.sleep(0.01)
        equal([x["path"] for x in d.lines() if x["message"] == "request"], [path for _, path in cases],
              "paths of the log")
        check(all("secret" not in json.dumps(x) for x in d.lines()), "no query in the log")


def test_no_descriptors():
    """Connections that cannot be are refused at the start, not later."""
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
    p = subprocess.run([DEQD, "--model", TINY, "--listen", "127.0.0.1:0", "--set", "server.max_connections=1000"],
                       env=clean_env(), capture_output=True, timeout=20 * SLOW, preexec_fn=limit)
    err = p.stderr.decode()
    check(p.returncode == 1 and err.count("\n") == 1 and "server.max_connections" in err and "200" in err,
          "1,000 connections with 200 descriptors: %d %r" % (p.returncode, err))


def test_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
    except OSError:
        skip("this machine has no ::1")
        return
    p = Daemon(listen="[::1]:0")
    check(p.first["address"].startswith("[::1]:"), "address %r" % p.first["address"])
    p.host = "::1"
    p.alive("over IPv6")
    p.stop()
