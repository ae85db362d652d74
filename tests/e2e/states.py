"""What outlives the daemon: the prefix cache (engine.cache_dir), which really gives its hits and its bits after a
restart, and saved states (/v1/states, state.dir), which go on here, after a restart and elsewhere. What is damaged,
foreign, too large or half written is refused or removed; directories that cannot be used leave the daemon serving."""
import json
import os
import shutil
import signal
import stat
import struct
import tempfile
import time

from lib import SLOW, TINY, Daemon, check, check_error, equal

TINY_TRELLIS, TINY_LOOPED = TINY + "-trellis", TINY + "-looped"
LONG = ("What shall I say more than I have inferred? Remember whom you are to cope withal; a sort of vagabonds, "
        "rascals, and runaways, ")
CACHE, BLOCK = "prefix.safetensors", 128
LEFT = ".%s.0123456789abcdef.tmp"


def cached(o):
    return o["usage"]["prompt_tokens_details"]["cached_tokens"]


def said(d, message):
    return [x for x in d.lines() if x["message"] == message]


def flip(path, at):
    with open(path, "r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 16]))


def foreign(path):
    """A small file of safetensors that holds something else."""
    head = b'{"__metadata__":{"format":"pt"},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + bytes(4))


def kept(dir):
    return sorted(os.listdir(dir))


# --- The prefix cache ---

def test_cache_survives_a_restart():
    for model in (TINY, TINY_TRELLIS, TINY_LOOPED):
        with tempfile.TemporaryDirectory() as dir:
            cache = os.path.join(dir, "cache")  # made by the daemon
            file = os.path.join(cache, CACHE)
            ask = dict(max_tokens=12, logprobs=1)
            with Daemon("engine.cache_dir=" + cache, model=model) as d:
                first = d.complete(LONG * 4, **ask)
                hit = d.complete(LONG * 4, **ask)
                blocks = d.metrics()["deqd_state_cache_entries"]
                equal((cached(first), kept(cache)), (0, []), "nothing is there yet")
                check(cached(hit) >= BLOCK and blocks > 0, "the second time it hits")
                d.stop()
                equal([x["blocks"] for x in said(d, "prefix cache saved")], [blocks], "and is saved at the end")
            equal((kept(cache), stat.S_IMODE(os.stat(file).st_mode)), ([CACHE], 0o600), "in a file of its own")
            with open(file, "rb") as f:
                before = f.read()
            with Daemon("engine.cache_dir=" + cache, model=model) as d:
                equal([x["blocks"] for x in said(d, "prefix cache restored")], [blocks], "it is restored")
                m = d.metrics()
                equal((m["deqd_state_cache_restored_entries"], m["deqd_state_cache_entries"],
                       m["deqd_state_reads_total{result=\"done\"}"]), (blocks, blocks, 1), "and counted")
                again = d.complete(LONG * 4, **ask)
                equal(cached(again), cached(hit), "the first request hits")
                equal((again["choices"], again["deq"]["prompt_iters_mean"]),
                      (hit["choices"], hit["deq"]["prompt_iters_mean"]), "with the same answer, to the digit")
                # killed, it leaves what was there
                d.complete(LONG * 5, **ask)
                d.p.send_signal(signal.SIGKILL)
                d.check_end(d.p.wait(), -signal.SIGKILL)
            with open(file, "rb") as f:
                equal(f.read() == before and kept(cache), [CACHE], "SIGKILL leaves the file as it was")
            with Daemon("engine.cache_dir=" + cache, model=model) as d:
                equal(cached(d.complete(LONG * 4, **ask)), cached(hit), "which the next one takes")


def blocks_in(path):
    if not os.path.exists(path):
        return 0
    with open(path, "rb") as f:
        return json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))["keys"]["shape"][0]


def test_cache_is_saved_meanwhile():
    """Killed, the daemon loses no more than what came since."""
    with tempfile.TemporaryDirectory() as dir:
        settings = ("engine.cache_dir=" + dir, "engine.cache_save_ms=20")
        with Daemon(*settings) as d:
            d.complete(LONG * 4, max_tokens=1)
            hit = d.complete(LONG * 4, max_tokens=1)
            blocks = d.metrics()["deqd_state_cache_entries"]
            patience = time.monotonic() + 60 * SLOW
            while blocks_in(os.path.join(dir, CACHE)) < blocks and time.monotonic() < patience:
                time.sleep(0.02)
            d.p.send_signal(signal.SIGKILL)
            d.check_end(d.p.wait(), -signal.SIGKILL)
        with Daemon(*settings) as d:
            equal([x["blocks"] for x in said(d, "prefix cache restored")], [blocks], "all of it")
            equal(cached(d.complete(LONG * 4, max_tokens=1)), cached(hit), "and it hits")


def test_cache_of_something_else_is_refused():
    with tempfile.TemporaryDirectory() as dir:
        file = os.path.join(dir, CACHE)
        with Daemon("engine.cache_dir=" + dir) as d:
            d.complete(LONG * 4, max_tokens=2)
        with open(file, "rb") as f:
            good = f.read()
        left = os.path.join(dir, LEFT % CACHE)
        for text, change, settings, model, reason in (
                ("another model", None, (), TINY_LOOPED, "of another kind of model"),
                ("another class", None, ("model.numeric_class=int8",), TINY, "of another numeric class"),
                ("a damaged header", lambda: flip(file, 40), (), TINY, ""),
                ("damaged pages", lambda: flip(file, len(good) // 2), (), TINY, "damaged"),
                ("a half", lambda: os.truncate(file, len(good) // 2), (), TINY, ""),
                ("10 GB", lambda: os.truncate(file, 10 << 30), (), TINY, "10737418240 bytes, the limit is"),
                ("a foreign file", lambda: shutil.copy(os.path.join(TINY, "model.safetensors"), file), (), TINY,
                 "of another kind of file")):
            with open(file, "wb") as f:
                f.write(good)
            with open(left, "wb") as f:
                f.write(good[:1000])
            if change:
                change()
            with Daemon("engine.cache_dir=" + dir, *settings, model=model) as d:
                lines = said(d, "prefix cache not restored")
                check(len(lines) == 1 and reason in lines[0]["reason"] and file in lines[0]["reason"],
                      "%s is refused by name: %s" % (text, lines))
                equal([x["files"] for x in said(d, "removed unfinished files of an earlier run")], [1],
                      text + ": what a crash left is removed, and told")
                equal((kept(dir), d.metrics()["deqd_state_cache_entries"]), ([CACHE], 0), text + ": nothing is taken")
                equal(cached(d.complete(LONG * 4, max_tokens=2)), 0, text + ": it serves on, cold")
                d.stop()
                equal(len(said(d, "prefix cache saved")), 1, text + ": and saves its own")


# --- States ---

def save(d, name, prompt, **fields):
    body = dict(fields, prompt=prompt, **({"name": name} if name else {}))
    s, h, b = d.request("POST", "/v1/states", body)
    if s != 200:
        raise RuntimeError("state %s: %d %s" % (name, s, b[:300]))
    return json.loads(b) if name else b


def test_states_go_on_anywhere():
    for model in (TINY, TINY_TRELLIS, TINY_LOOPED):
        with tempfile.TemporaryDirectory() as dir, tempfile.TemporaryDirectory() as elsewhere:
            ask = dict(max_tokens=20, logprobs=1, temperature=0.8, seed=4)
            with Daemon("state.dir=" + dir, model=model) as d:
                whole = d.complete(LONG, **ask)
                n = whole["usage"]["prompt_tokens"]
                told = save(d, "a.b-1", LONG)
                file = os.path.join(dir, "a.b-1.safetensors")
                equal((told["tokens"], told["bytes"], stat.S_IMODE(os.stat(file).st_mode)),
                      (n, os.path.getsize(file), 0o600), "what is told of it")
                on = d.complete("", state="a.b-1", **ask)
                equal(on["choices"][0]["text"], whole["choices"][0]["text"], "the answer behind it")
                equal(on["choices"][0]["logprobs"], whole["choices"][0]["logprobs"], "to the digit")
                equal((on["usage"]["prompt_tokens"], cached(on), on["deq"]["cache"], on["deq"]["prompt_iters_mean"]),
                      (n, n, "state", 0), "all of it came with the state")
                d.at_rest()  # its first token took no step
                s, _, events, done = d.stream([], state="a.b-1", **ask)
                equal((s, done, "".join(e["choices"][0]["text"] for e in events)),
                      (200, True, whole["choices"][0]["text"]), "streamed too")
                more = d.complete("And now", state="a.b-1", **ask)
                equal((more["usage"]["prompt_tokens"] - n, cached(more)),
                      (len(d.post("/tokenize", {"prompt": "And now", "add_special_tokens": False})[2]["tokens"]), n),
                      "and with a further prompt")
                two = d.complete(["And now", ""], state="a.b-1", n=2, **ask)
                equal([c["text"] for c in two["choices"]][0::2],
                      [more["choices"][0]["text"], whole["choices"][0]["text"]], "several prompts behind one state")
                # the bytes are the file's, whoever gives them, and whatever was solved before
                with open(file, "rb") as f:
                    bytes_ = f.read()
                equal(save(d, None, LONG) == bytes_, True, "without a name, the answer is its bytes")
                s, h, b = d.request("GET", "/v1/states/a.b-1")
                equal((s, h["content-type"], b == bytes_), (200, "application/octet-stream", True), "read again")
                longer = save(d, "longer", "And now", state="a.b-1")
                equal((longer["tokens"], longer["cached_tokens"]), (more["usage"]["prompt_tokens"], n),
                      "a state behind a state")
                equal([(x["id"], x["bytes"]) for x in d.get("/v1/states")[2]["data"]],
                      [("a.b-1", len(bytes_)), ("longer", longer["bytes"])], "the list")
                m = d.metrics()
                equal((m["deqd_state_writes_total{result=\"done\"}"], m["deqd_state_writes_total{result=\"failed\"}"]),
                      (2, 0), "counted")
                check(m["deqd_prompt_tokens_state_total"] > 4 * n, "tokens that came with a state")
            shutil.copy(file, os.path.join(elsewhere, "other.safetensors"))
            for where, name in ((dir, "a.b-1"), (elsewhere, "other")):
                with Daemon("state.dir=" + where, "engine.threads=1", model=model) as d:
                    equal(d.complete("", state=name, **ask)["choices"], on["choices"], "after a restart, and elsewhere")
                    equal(d.complete("And now", state=name, **ask)["choices"], more["choices"], "with a prompt too")
                    equal(d.request("DELETE", "/v1/states/" + name)[0], 200, "removed")
                    check_error(*d.post("/v1/completions", {"state": name})[0:3:2], 404, "state_not_found", "state",
                                "then there is none")
                    s, _, o = d.request("DELETE", "/v1/states/" + name)
                    check_error(s, json.loads(o), 404, "state_not_found", None, "to be removed either")


OCTETS = {"Content-Type": "application/octet-stream"}


def put(d, name, bytes_, headers=OCTETS):
    s, _, b = d.request("PUT", "/v1/states/" + name, bytes_, headers)
    return s, json.loads(b)


def test_states_are_uploaded():
    for model in (TINY, TINY_TRELLIS, TINY_LOOPED):
        with tempfile.TemporaryDirectory() as dir, tempfile.TemporaryDirectory() as elsewhere:
            ask = dict(max_tokens=20, logprobs=1, temperature=0.8, seed=4)
            with Daemon("state.dir=" + dir, model=model) as d:
                told, on = save(d, "a", LONG), d.complete("", state="a", **ask)
                s, _, bytes_ = d.request("GET", "/v1/states/a")
                equal((s, len(bytes_)), (200, told["bytes"]), "its bytes")
            with Daemon("state.dir=" + elsewhere, "state.max_states=2", model=model) as d:
                s, o = put(d, "b", bytes_)
                equal((s, o["id"], o["tokens"], o["bytes"], o["fingerprint"], o["deq"]["converged"]),
                      (200, "b", told["tokens"], told["bytes"], told["fingerprint"], told["deq"]["converged"]),
                      "what is told of it")
                equal(d.request("GET", "/v1/states/b")[2] == bytes_, True, "the same bytes again")
                equal(d.complete("", state="b", **ask)["choices"], on["choices"], "which go on as they did there")
                equal(put(d, "b", bytes_)[0], 200, "in place of one of that name")
                for headers in ({"Content-Type": ""}, {"Content-Type": "application/x-www-form-urlencoded"}):
                    equal(put(d, "b", bytes_, headers)[0], 200, "as curl sends it: %s" % headers)
                half = len(bytes_) // 2
                for text, body, status, code in (
                        ("damage", bytes_[:half] + bytes([bytes_[half] ^ 1]) + bytes_[half + 1:], 400, "state_refused"),
                        ("a half", bytes_[:half], 400, "state_refused"), ("nothing", b"", 400, "state_refused"),
                        ("more", bytes_ + b"x", 400, "state_refused"), ("text", b"{}", 400, "state_refused"),
                        ("4 MB", bytes_ + bytes(4 << 20), 413, "body_too_large")):
                    s, o = put(d, "c", body)
                    check_error(s, o, status, code, None, text)
                    check(elsewhere not in str(o), "no path is told")
                for name in (".x", "a%20b", "x" * 97, "..", "x/y"):
                    s, o = put(d, name, bytes_)
                    check_error(s, o, 400, "invalid_value", "name", "the name " + name)
                s, o = put(d, "c", bytes_, {"Content-Type": "application/json"})
                check_error(s, o, 415, "unsupported_media_type", None, "JSON")
                s, o = put(d, "c", bytes_, dict(OCTETS, Origin="https://x.example"))
                check_error(s, o, 403, "origin_not_allowed", None, "a page of another site")
                equal(put(d, "c", bytes_)[0], 200, "a second")
                s, o = put(d, "d", bytes_)
                check_error(s, o, 507, "states_full", "name", "one too many")
                equal(kept(elsewhere), ["b.safetensors", "c.safetensors"], "nothing else was left")
            with Daemon("state.dir=" + elsewhere, "model.numeric_class=int8", model=model) as d:
                s, o = put(d, "e", bytes_)
                if s != 413:  # its states are smaller altogether
                    check_error(s, o, 400, "state_refused", None, "of another model")
                    check("of another numeric class" in o["error"]["message"], o)
    with Daemon() as d:
        s, o = put(d, "a", bytes_)
        check_error(s, o, 400, "invalid_value", "name", "no state.dir")


def test_chats_go_on_behind_a_state():
    """Messages follow the state's text as they follow those before them."""
    with tempfile.TemporaryDirectory() as dir, Daemon("state.dir=" + dir) as d:
        ask, user = {"temperature": 0, "state": "talk"}, {"role": "user", "content": "First Citizen:"}
        n = save(d, "talk", "Be kind.\nFirst Citizen:\nWe know't.\n")["tokens"]
        want = d.complete("First Citizen:\n", max_tokens=40, **ask)
        line, in_all = want["choices"][0]["text"].lstrip(" \n").split("\n")[0], want["usage"]["prompt_tokens"]
        s, _, o = d.post("/v1/chat/completions", dict(ask, messages=[user], max_tokens=40))
        equal((s, o["choices"][0]["message"]["content"], o["usage"]["prompt_tokens"], cached(o), o["deq"]["cache"]),
              (200, line, in_all, n, "state"), "a chat")
        s, _, o = d.post("/v1/responses", dict(ask, input=[user], max_output_tokens=40))
        equal((s, o["output"][0]["content"][0]["text"], o["usage"]["input_tokens"],
               o["usage"]["input_tokens_details"]["cached_tokens"]), (200, line, in_all, n), "a response")
        for path, body in (("/v1/chat/completions", {"messages": [user]}), ("/v1/responses", {"input": "A"})):
            refused(d, dict(body, state="none"), 404, "state_not_found", "state", "an unknown state", path)
            refused(d, dict(body, state="a/b"), 400, "invalid_value", "state", "a bad name", path)


def refused(d, body, status, code, param, text, path="/v1/completions"):
    s, _, o = d.post(path, body)
    check_error(s, o, status, code, param, text)
    return o["error"]["message"]


def test_states_that_are_refused():
    with tempfile.TemporaryDirectory() as dir:
        file = os.path.join(dir, "good.safetensors")
        with Daemon("state.dir=" + dir, "state.max_states=2") as d:
            save(d, "good", LONG)
            for name in ("", ".x", "../x", "a/b", "x" * 97, "é", "a b", "a\\b", "%2e%2e"):
                for field, path in (("state", "/v1/completions"), ("state", "/v1/states"), ("name", "/v1/states")):
                    refused(d, {"prompt": "a", field: name}, 400, "invalid_value", field, "a name like %r" % name, path)
            for field, path in (("state", "/v1/completions"), ("name", "/v1/states")):
                refused(d, {"prompt": "a", field: 1}, 400, "invalid_type", field, "a name that is a number", path)
            for path in ("/v1/states/../good", "/v1/states/%2e%2e%2fgood", "/v1/states/.good", "/v1/states/x/../good",
                         "/v1/states/good.safetensors", "/v1/states/" + "x" * 300):
                for method in ("GET", "DELETE"):
                    equal(d.request(method, path)[0], 404, "%s %s" % (method, path))
            refused(d, {"state": "none"}, 404, "state_not_found", "state", "an unknown state")
            refused(d, {"state": "good", "echo": True}, 400, "invalid_value", "echo", "echo of a state")
            refused(d, {"state": "good", "max_tokens": 0}, 400, "invalid_value", "max_tokens", "no tokens behind it")
            refused(d, {"state": "good", "max_tokens": 2040}, 400, "context_length_exceeded", "max_tokens", "too long")
            refused(d, {"state": "good", "prompt": [1] * 2040}, 400, "context_length_exceeded", "prompt", "too long")
            refused(d, {"name": "x"}, 400, "missing_parameter", "prompt", "the state of nothing", "/v1/states")
            refused(d, {"name": "x", "prompt": [1] * 2049}, 400, "context_length_exceeded", "prompt", "too long",
                    "/v1/states")
            equal(d.complete("", state="good", max_tokens=1)["usage"]["completion_tokens"], 1, "the good one goes on")
            save(d, "second", "a")
            refused(d, {"name": "third", "prompt": "a"}, 507, "states_full", "name", "one too many", "/v1/states")
            save(d, "second", "b")
            equal(kept(dir), ["good.safetensors", "second.safetensors"], "one may be replaced, none is dropped")
            with open(file, "rb") as f:
                good = f.read()
            for text, change, reason in (
                    ("damaged pages", lambda: flip(file, len(good) // 2), "good: damaged"),
                    ("a damaged checksum", lambda: flip(file, len(good) - 1), "good: damaged"),
                    ("a half", lambda: os.truncate(file, len(good) // 2), "good: tensor"),
                    ("nothing", lambda: os.truncate(file, 0), "too few for a safetensors file"),
                    ("10 GB", lambda: os.truncate(file, 10 << 30), "good: 10737418240 bytes, the limit is"),
                    ("a foreign file", lambda: foreign(file), "good: of another kind of file: its format is pt")):
                with open(file, "wb") as f:
                    f.write(good)
                change()
                message = refused(d, {"state": "good"}, 400, "state_refused", "state", text)
                check(reason in message and dir not in message, "%s: %s" % (text, message))
            os.truncate(file, 10 << 30)
            s, _, o = d.request("GET", "/v1/states/good")
            check_error(s, json.loads(o), 400, "state_refused", None, "10 GB are not read")
            with open(file, "wb") as f:
                f.write(good)
            d.alive()
        for settings, model, reason in (((), TINY_TRELLIS, "of another kind of model: its model_type is"),
                                        (("model.numeric_class=int16",), TINY, "of another numeric class: its")):
            with Daemon("state.dir=" + dir, *settings, model=model) as d:
                check(reason in refused(d, {"state": "good"}, 400, "state_refused", "state", "elsewhere"), reason)
        with Daemon("state.dir=" + dir, "state.max_bytes=%d" % (len(good) + 5000)) as d:
            refused(d, {"name": "x", "prompt": LONG}, 507, "states_full", "name", "too many bytes", "/v1/states")
    with Daemon() as d:
        refused(d, {"name": "x", "prompt": "a"}, 400, "invalid_value", "name", "no state.dir", "/v1/states")
        refused(d, {"state": "x"}, 404, "state_not_found", "state", "no state.dir")
        equal((d.get("/v1/states")[2], save(d, None, "a")[8:9]), ({"object": "list", "data": []}, b"{"),
              "bytes are given all the same")


def test_directories_that_cannot_be_used():
    """/proc is one where nobody, root neither, makes a file; a file is no directory."""
    with tempfile.NamedTemporaryFile() as f:
        for dir in ("/proc", f.name, "/proc/none/none"):
            with Daemon("state.dir=" + dir, "engine.cache_dir=" + dir + "/cache") as d:
                for i in range(3):
                    refused(d, {"name": "x", "prompt": "a"}, 507, "state_not_saved", "name", dir, "/v1/states")
                equal(len(said(d, "states cannot be saved")), 1, dir + ": it is said once")
                equal(d.metrics()["deqd_state_writes_total{result=\"failed\"}"], 3, dir + ": and counted")
                d.alive(dir + ": it serves on")
                d.stop()
                equal(len(said(d, "prefix cache not saved")), 1, dir + ": nor is the cache, at the end")
    with tempfile.TemporaryDirectory() as dir:
        for name in (LEFT % "x.safetensors", "notes.txt", "bad name.safetensors"):
            open(os.path.join(dir, name), "w").close()
        os.mkdir(os.path.join(dir, "d.safetensors"))
        with Daemon("state.dir=" + dir) as d:
            equal([x["files"] for x in said(d, "removed unfinished files of an earlier run")], [1], "a leftover")
            equal((kept(dir), d.get("/v1/states")[2]["data"]),
                  (["bad name.safetensors", "d.safetensors", "notes.txt"], []), "nothing else is touched, or listed")
