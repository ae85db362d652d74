#!/usr/bin/env python3
"""What a byte costs, whatever it is: growing inputs of every shape through every endpoint, loader and tokenizer, their
processor time and memory fitted over size. Standard library only.

    tests/cost/cost.py [PART...] [--only TEXT] [--verbose] [--slower X] [--most BYTES]

Parts: endpoints heads files attacks (all, when none is named).

endpoints, heads, files: the exponent of time over size, from how what is added grows as the size doubles, is at most
1.35 (n log n gives 1.1 here, caches that no longer hold everything a little more; a product of two sizes gives 2), and
a byte costs at most what BOUNDS says, in ns of processor time and in bytes held at the peak. The bounds are about four
times what a machine of 2021 took (Zen 3); --slower 2 doubles those of time. A target to which the last doubling adds
less than 5 ms is not fitted: nothing grows. What is too much is measured again, up to four times; on a busy machine
some are too much even so, and --only looks at one of them alone.

attacks: of each endpoint, the most that a request of at most 8 KiB made it compute which asks for no more tokens,
positions and choices than an ordinary request, beside that one: at most 100 to 1. One of them asks for the least
tolerance and the most evaluations of a position, in the widest window.

Endpoints: all threads of a daemon whose limits on sizes are raised, so that inputs get further than they would; compute
threads: one. Files: the programs themselves, by what the kernel says of an ended child. The best of two tries: other
load only ever adds."""
import argparse
import contextlib
import http.client
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "e2e")]
sys.dont_write_bytecode = True
import lib  # noqa: E402
import shapes  # noqa: E402

STORIES = os.path.join(lib.ROOT, "models", "stories")
TRIES, ROUNDS, EXPONENT, FIT_NS = 2, 4, 1.35, 5e6
BOUNDS = {  # of a group of targets: (ns a byte, bytes a byte)
    "text": (900, 80), "JSON": (400, 80), "heads": (50, 8), "tokenizer": (900, 80), "training": (8000, 200),
    "YAML": (500, 60), "model": (500, 60), "pickle": (500, 100),
}
RATIO = 100

options = None
broken, rows = [], []


def say(text):
    print(text, flush=True)


# --- Measuring ---

class Served:
    """A daemon, and what its threads cost."""

    def __init__(self, *settings):
        self.d = lib.Daemon("engine.threads=1", *settings, model=STORIES)

    def __enter__(self):
        self.d.__enter__()
        return self

    def __exit__(self, *error):
        return self.d.__exit__(*error)

    def cpu_ns(self):
        total = 0
        base = "/proc/%d/task/" % self.d.p.pid
        for t in os.listdir(base):
            with contextlib.suppress(OSError), open(base + t + "/schedstat") as f:
                total += int(f.read().split()[0])
        return total

    def peak_begin(self):
        with open("/proc/%d/clear_refs" % self.d.p.pid, "w") as f:
            f.write("5")
        return self.memory("VmRSS")

    def memory(self, key):
        with open("/proc/%d/status" % self.d.p.pid) as f:
            return next(int(x.split()[1]) << 10 for x in f if x.startswith(key + ":"))

    def cost(self, method, path, body, headers=None):
        """(ns, bytes above what was held before, status) of one request, the least of some tries."""
        best = (math.inf, math.inf)
        for _ in range(TRIES):
            rss, before = self.peak_begin(), self.cpu_ns()
            try:
                status = self.d.request(method, path, body() if callable(body) else body, headers, timeout=300)[0]
            except (OSError, http.client.HTTPException):  # it was closed without a word
                status = 0
            time.sleep(0.002)  # what follows the answer
            best = (min(best[0], self.cpu_ns() - before), min(best[1], self.memory("VmHWM") - rss))
        return (*best, status)


def program(argv, stdin=None):
    """The same of a program."""
    best = (math.inf, math.inf)
    for _ in range(TRIES):
        with open(stdin or os.devnull, "rb") as f:
            p = subprocess.Popen(argv, stdin=f, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                 env=lib.clean_env({"OPENBLAS_NUM_THREADS": "1"}))
            _, status, used = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        best = (min(best[0], 1e9 * (used.ru_utime + used.ru_stime)), min(best[1], used.ru_maxrss << 10))
    return (*best, p.returncode)


def fit(points):
    """points: [(size, ns, bytes)], each size twice the one before: (exponent or None, ns a byte, bytes held a byte).
    What every input costs falls out of differences: of a + b n^k the last step to that of the steps before is as
    (8^k - 4^k) : (4^k - 1)."""
    (first, ns0, held0), (last, ns, held) = points[0], points[-1]
    step, before = ns - points[-2][1], points[-2][1] - ns0
    exponent = None
    if step >= max(FIT_NS, 0.1 * ns):
        exponent, ratio = 0.01, step / max(before, 1)
        while exponent < 4 and (8 ** exponent - 4 ** exponent) < ratio * (4 ** exponent - 1):
            exponent += 0.01
    return exponent, max(0, (ns - ns0) / (last - first)), max(0, (held - held0) / (last - first))


def judge(group, target, shape, lengths, measure):
    """measure(n): (size, ns, bytes). What seems too much is measured again: other load only ever adds."""
    if options.only not in "%s, %s" % (target, shape):
        return
    points, most_ns, most_held = [], *BOUNDS[group]
    for _ in range(ROUNDS):
        more = [measure(n) for n in lengths]
        points = [(a[0], min(a[1], b[1]), min(a[2], b[2])) for a, b in zip(points or more, more)]
        exponent, ns, held = fit(points)
        wrong = ["time grows as n^%.2f" % exponent] if exponent is not None and exponent > EXPONENT else []
        wrong += ["%.0f ns a byte, at most %g" % (ns, most_ns * options.slower)] * (ns > most_ns * options.slower)
        wrong += ["%.0f bytes held a byte, at most %g" % (held, most_held)] * (held > most_held)
        if not wrong:
            break
    rows.append((group, target, shape, ns, held, exponent))
    if options.verbose or wrong:
        say("%-10s %-22s %-28s to %8d bytes: %7.1f ns, %5.1f bytes a byte, %s%s" % (
            group, target, shape, points[-1][0], ns, held,
            "n^%.2f" % exponent if exponent is not None else "nothing to fit", "  BROKEN" if wrong else ""))
    broken.extend("%s, %s: %s" % (target, shape, w) for w in wrong)


def sizes(most, steps=4):
    return [min(most, options.most) >> (steps - 1 - i) for i in range(steps)]


def summary(group):
    mine = [r for r in rows if r[0] == group]
    if mine:
        worst = max(mine, key=lambda r: r[3])
        fitted = [r for r in mine if r[5] is not None]
        steep = max(fitted, key=lambda r: r[5]) if fitted else None
        say("%-10s %4d targets and shapes: at most %.0f ns a byte (%s, %s), %.1f bytes held a byte%s" % (
            group, len(mine), worst[3], worst[1], worst[2], max(r[4] for r in mine),
            ", n^%.2f (%s, %s)" % (steep[5], steep[1], steep[2]) if steep else ""))


# --- Bodies ---

def takers():
    """{path: body of a text}: endpoints that take texts, asked for as little as they can be."""
    return {
        "/tokenize": lambda t: {"prompt": t},
        "/v1/completions": lambda t: {"prompt": t, "max_tokens": 1},
        "/v1/chat/completions": lambda t: {"messages": [{"role": "user", "content": t}], "max_tokens": 1},
        "/v1/responses": lambda t: {"input": t, "max_output_tokens": 1},
        "/v1/logits": lambda t: {"prompt": t, "positions": "last"},
        "/v1/equilibria": lambda t: {"prompt": t, "positions": "last"},
        "/v1/embeddings": lambda t: {"input": [t]},
        "/v1/states": lambda t: {"prompt": t},
    }


def endpoints():
    """Texts are longer than the model's context, so that they are tokenized and refused, and nothing is solved."""
    most = sizes(1 << 19)
    with Served("server.max_body_bytes=16M", "limits.answer_bytes=1G") as s:
        def judged(group, path, shape, body):
            judge(group, path, shape, most, lambda n: (n, *s.cost("POST", path, body(n))[:2]))

        for path, body in takers().items():
            for shape, make in shapes.shapes().items():
                judged("text", path, shape, lambda n, make=make, body=body: shapes.dump(body(make(n))))
            for shape, make in shapes.STRUCTURES.items():
                judged("JSON", path, shape, make)
        for path, field in (("/v1/chat/completions", "messages"), ("/v1/responses", "input")):
            judged("JSON", path, "many messages", lambda n, field=field: shapes.dump(
                {field: [{"role": "user", "content": "a"}] * (n // 34 + 1)}))
        for shape, ids in (("one id", "70,"), ("many ids", ",".join(map(str, range(256))) + ",")):
            judged("text", "/detokenize", shape, lambda n, ids=ids: b'{"tokens":[%s70]}' % (
                ids * (n // len(ids))).encode())
    summary("text")
    summary("JSON")


# --- Heads ---

def heads():
    """Up to the limits of a head: 8 KiB of target, 32 KiB of headers."""
    makers = {
        "a long header": lambda n: ("/version", {"X-A": "a" * n}),
        "many headers": lambda n: ("/version", {"X-%d" % i: "a" * (n // 90) for i in range(90)}),
        "a long key": lambda n: ("/version", {"Authorization": "Bearer " + "k" * n}),
        "accept": lambda n: ("/v1/models", {"Accept": "a/b," * (n // 4)}),
        "traceparent": lambda n: ("/version", {"traceparent": "0" * n}),
        "request id": lambda n: ("/version", {"X-Request-Id": "a" * n}),
        "origin": lambda n: ("/version", {"Origin": "http://" + "a" * n}),
        "cookies": lambda n: ("/version", {"Cookie": "a=b; " * (n // 6)}),
        "a long target": lambda n: ("/" + "a" * (n // 4), {}),
        "slashes": lambda n: ("/" * (n // 4 + 1), {}),
        "a long query": lambda n: ("/version?" + "a=b&" * (n // 16), {}),
        "escapes": lambda n: ("/%41" * (n // 16 + 1), {}),
        "a model's name": lambda n: ("/v1/models/" + "a" * (n // 4), {}),
    }
    with Served() as s:
        for shape, make in makers.items():
            def measure(n, make=make):
                path, more = make(n)
                return n, *s.cost("GET", path, None, more)[:2]
            judge("heads", "GET", shape, sizes(28000), measure)
    summary("heads")


# --- Files ---

def put(path, data):
    with open(path, "wb") as f:
        f.write(data)
    return path


def of_file(path, make, argv):
    """measure of judge: the size and the costs of a program that reads such a file."""
    def measure(n):
        made = make(n)
        made = made.encode() if isinstance(made, str) else made
        put(path, made)
        return len(made), *program(argv)[:2]
    return measure


def tokenizers(tmp):
    golden = os.path.join(lib.ROOT, "tests", "golden")
    file, out = os.path.join(tmp, "text"), os.path.join(tmp, "trained.json")
    for name, path in (("stories", STORIES), ("gpt2", os.path.join(golden, "tokenizer", "gpt2")),
                       ("word level", os.path.join(golden, "tokenizer", "wordlevel")),
                       ("parcae", os.path.join(golden, "tokenizer", "parcae"))):
        for shape, make in shapes.shapes().items():
            judge("tokenizer", "encode, " + name, shape, sizes(1 << 22),
                  of_file(file, make, [lib.DEQ, "tokenizer", "encode", path, "--file", file, "--hex"]))
        judge("tokenizer", "decode, " + name, "ids", sizes(1 << 22), lambda n, path=path: (n, *program(
            [lib.DEQ, "tokenizer", "decode", path], put(file, b"7 " * (n // 2)))[:2]))
    for shape, make in shapes.shapes().items():
        judge("training", "tokenizer train", shape, sizes(1 << 20),
              of_file(file, make, [lib.DEQ, "tokenizer", "train", "--vocab-size", "400", "--out", out, file]))
    summary("tokenizer")
    summary("training")


def yaml(tmp):
    file = os.path.join(tmp, "c.yaml")
    for shape, make in shapes.YAMLS.items():
        judge("YAML", "deqd --config", shape, sizes(250000),
              of_file(file, make, [lib.DEQD, "--config", file, "--print-config"]))
        judge("YAML", "deq train", shape, sizes(250000),
              of_file(file, make, [lib.DEQ, "train", file, "--print-recipe"]))
    summary("YAML")


def header(entries):
    h = ("{" + ",".join(entries) + "}").encode()
    h += b" " * (-len(h) % 8)
    return struct.pack("<Q", len(h)) + h


def tensor(name, at, size=4):
    return '"%s":{"dtype":"F32","shape":[%d],"data_offsets":[%d,%d]}' % (name, size // 4, at, at + size)


def models(tmp):
    """Directories whose one file grows; whether they are refused does not matter."""
    weights = {
        "small tensors": lambda n: (lambda k: header(tensor("t%06d" % i, 4 * i) for i in range(k)) + bytes(4 * k))(
            n // 70 + 1),
        "tensors in reverse": lambda n: (lambda k: header(tensor("t%06d" % i, 4 * (k - 1 - i)) for i in range(k)) +
                                         bytes(4 * k))(n // 70 + 1),
        "empty tensors": lambda n: header(tensor("t%06d" % i, 0, 0) for i in range(n // 70 + 1)),
        "names alike": lambda n: (lambda k: header(tensor("a" * 200 + "%06d" % i, 4 * i) for i in range(k)) +
                                  bytes(4 * k))(n // 270 + 1),
        "metadata": lambda n: header(['"__metadata__":{%s}' % ",".join('"k%06d":"v"' % i for i in range(n // 14 + 1))]),
        "a long name": lambda n: header([tensor("a" * n, 0)]) + bytes(4),
        "open objects": lambda n: header(['"a":{' * (n // 5)]),
        "dimensions": lambda n: header(['"a":{"dtype":"F32","shape":[%s1],"data_offsets":[0,4]}' % ("1," * (n // 2))]),
        "blanks": lambda n: header([tensor("a", 0) + " " * n]) + bytes(4),
    }
    with open(os.path.join(lib.TINY, "config.json")) as f:
        config = f.read().rstrip().rstrip("}")
    configs = {
        "unknown keys": lambda n: config + "".join(',"k%06d":0' % i for i in range(n // 12)) + "}",
        "nested arrays": lambda n: config + ',"x":' + "[" * (n // 2) + "]" * (n // 2) + "}",
        "a long string": lambda n: config + ',"x":"' + "a" * n + '"}',
        "a list": lambda n: config + ',"x":[' + ",".join(["0"] * (n // 2 + 1)) + "]}",
    }
    with open(os.path.join(lib.TINY, "tokenizer.json")) as f:
        tokenizer = json.load(f)

    def with_added(n):
        first = len(tokenizer["model"]["vocab"])
        return json.dumps({**tokenizer, "added_tokens": [
            {"id": first + i, "content": "a%07d" % i, "special": i % 2 == 0} for i in range(n // 60 + 1)]})

    def with_merges(n):
        k = n // 40 + 1
        vocab = {"%c" % (97 + i): i for i in range(26)}
        vocab.update({"a%07d" % i: 100 + 2 * i for i in range(k)})
        vocab.update({"%07d" % i: 101 + 2 * i for i in range(k)})
        return json.dumps({**tokenizer, "added_tokens": [], "model": {**tokenizer["model"], "vocab": vocab, "merges": [
            "a %07d" % i for i in range(k)]}})

    def with_rules(n):
        rule = {"type": "Replace", "pattern": {"String": "ab"}, "content": "c"}
        return json.dumps({**tokenizer, "decoder": {"type": "Sequence", "decoders": [rule] * (n // 70 + 1)}})
    jsons = {"added tokens": with_added, "tokens and merges": with_merges, "rules": with_rules,
             "nested": lambda n: '{"decoder":' * (n // 11) + "1" + "}" * (n // 11),
             "added tokens of one beginning": lambda n: json.dumps({**tokenizer, "added_tokens": [
                 {"id": 1000 + i, "content": "a" * 100 + "%05d" % i} for i in range(n // 150 + 1)]})}
    model = os.path.join(tmp, "model")
    for file, makers, most in (("model.safetensors", weights, 1 << 20), ("config.json", configs, 1 << 19),
                               ("tokenizer.json", jsons, 1 << 22)):
        argv = [lib.DEQ, "tokenizer", "encode", model, "a"] if file == "tokenizer.json" else [lib.DEQ, "inspect", model]
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(lib.TINY, model)
        for shape, make in makers.items():
            judge("model", file, shape, sizes(most), of_file(os.path.join(model, file), make, argv))
    keys = os.path.join(tmp, "keys")
    argv = [lib.DEQD, "--model", lib.TINY, "--set", "auth.keys_file=" + keys, "--check-config"]
    for shape, line in (("keys", "k%06d " + "0" * 58 + "%06d\n"), ("bad keys", "%06d%06d\n"), ("comments", "#%d%d\n")):
        judge("model", "keys", shape, sizes(80000), of_file(keys, lambda n, line=line: "".join(
            line % (i, i) for i in range(n // len(line % (0, 0)) + 1)), argv))
    summary("model")


def pickles(tmp):
    file = os.path.join(tmp, "x.pth")
    config = os.path.join(lib.ROOT, "tests", "golden", "authors", "locuslab-preln-plain", "config.json")
    argv = [lib.DEQ, "import", file, "--config", config, "--out", os.path.join(tmp, "imported")]
    for shape, make in shapes.PICKLES.items():
        judge("pickle", "import", shape, sizes(1 << 20), of_file(file, lambda n, make=make: shapes.checkpoint(make(n)),
                                                                 argv))
    summary("pickle")


def files():
    with tempfile.TemporaryDirectory() as tmp:
        yaml(tmp)
        models(tmp)
        pickles(tmp)
        tokenizers(tmp)


# --- Attacks ---

_count = [0]


def fresh():
    """A word that no request had: what is kept for those that come again is not found."""
    _count[0] += 1
    return "x%d" % _count[0]


def form(**kind):
    return {"prompt": "Tom", "max_tokens": 16, "structured_outputs": kind}


def completion_attacks():
    text = "Tom had a red ball and"
    common = {"prompt": text, "max_tokens": 16, "ignore_eos": True, "seed": 1}
    schema = {"type": "object", "required": ["p%d" % i for i in range(40)],
              "properties": {"p%d" % i: {"type": "string", "maxLength": 20} for i in range(40)}}
    return {
        "logprobs": lambda: {**common, "logprobs": 20},
        "trace and tokens": lambda: {**common, "include": ["deq.tokens", "deq.trace"], "logprobs": 20},
        "biases": lambda: {**common, "logit_bias": {str(i): 1 for i in range(300)}},
        "penalties": lambda: {**common, "repetition_penalty": 1.5, "presence_penalty": 1, "frequency_penalty": 1},
        "stop strings": lambda: {**common, "stop": ["a" * 250 + str(i) for i in range(16)]},
        "top_p at temperature 2": lambda: {**common, "temperature": 2, "top_p": 0.999, "min_p": 1e-6},
        "repetition": lambda: form(regex="(%s|[a-z ]{1,%d})" % (fresh(), 7000)),
        "alternatives": lambda: form(regex="(" + "|".join(fresh() + "a" * (i % 9) for i in range(300)) + ")+"),
        "stars": lambda: form(regex=fresh() + "?" + "(a*b*c*)*" * 300),
        "subsets": lambda: form(regex="%s?[ab]*a[ab]{13}" % fresh()),
        "classes": lambda: form(regex="%s?" % fresh() + "[^a-zé-ÿ中-丽]" * 60 + ".*"),
        "nested repetition": lambda: form(regex="%s?((a{1,20}b?){1,20}c?){1,20}" % fresh()),
        "any text": lambda: form(regex="(%s|.*)" % fresh()),
        "choices": lambda: form(choice=[fresh() + " and so on" for _ in range(150)]),
        "grammar": lambda: form(grammar="root ::= (a0 | \"%s\")+\n" % fresh() + "".join(
            'a%d ::= "x" a%d "y" | [a-z]{1,9}\n' % (i, i + 1) for i in range(60)) + 'a60 ::= "z"\n'),
        "grammar, recursive": lambda: form(grammar='root ::= v\nv ::= "(" v ")" | "[" v "]" | v2 | "%s"\n'
                                                   'v2 ::= "{" v "}" | [a-z]+\n' % fresh()),
        "schema": lambda: form(json={**schema, "title": fresh()}),
        "schema, alternatives": lambda: form(json={"title": fresh(), "anyOf": [
            {"type": "object", "properties": {"p%d" % i: {"type": "integer"}}} for i in range(60)]}),
        "schema, numbers": lambda: form(json={"title": fresh(), "type": "array", "maxItems": 40, "items": {
            "type": "integer", "minimum": -987654321, "maximum": 987654321}}),
        "schema, pattern": lambda: form(json={"title": fresh(), "type": "string",
                                              "pattern": "^([a-z]{1,60}-){1,40}$"}),
    }


def attacks():
    sentence = "Once upon a time there was a little girl named Lily. She liked to play in the park with her dog."
    messages = [{"role": "user", "content": sentence}]
    deep = {"tol": 1e-5, "max_iter": 64, "warm_start": "zero", "window": 16, "prefill_window": 16}
    found = {
        "/v1/completions": ({"prompt": sentence, "max_tokens": 16, "ignore_eos": True, "cache": "off"},
                            completion_attacks()),
        "/v1/chat/completions": ({"messages": messages, "max_tokens": 16, "cache": "off"}, {
            "many messages": lambda: {"messages": [{"role": "user", "content": ""}] * 99, "max_tokens": 16}}),
        "/v1/responses": ({"input": sentence, "max_output_tokens": 16}, {
            "many messages": lambda: {"input": [{"role": "user", "content": ""}] * 99, "max_output_tokens": 16}}),
        "/v1/logits": ({"prompt": sentence, "positions": "last"}, {
            "all": lambda: {"prompt": sentence, "positions": "all"}}),
        "/v1/equilibria": ({"prompt": sentence, "positions": "last"}, {
            "all": lambda: {"prompt": sentence, "positions": "all"}}),
        "/v1/embeddings": ({"input": sentence}, {"twice the same": lambda: {"input": [sentence] * 2}}),
        "/v1/states": ({"prompt": sentence}, {"marks": lambda: {"prompt": "\u0323\u0301" * 50}}),
        "/tokenize": ({"prompt": sentence}, {
            "marks": lambda: {"prompt": "\u0323\u0301" * 1000}, "letter": lambda: {"prompt": "a" * 4000},
            "blanks": lambda: {"prompt": " " * 4000}, "special": lambda: {"prompt": "<|endoftext|>" * 300}}),
        "/detokenize": ({"tokens": [70] * 30}, {"many": lambda: {"tokens": [300] * 1000}}),
    }
    with Served() as s:
        for path, (ordinary, bad) in found.items():
            if path.startswith("/v1/"):
                bad["64 evaluations"] = lambda ordinary=ordinary: {**ordinary, "deq": deep}
            beside(s, path, ordinary, bad)


def beside(s, path, ordinary, bad):
    fair, _, status = s.cost("POST", path, lambda: shapes.dump(ordinary))
    if status != 200:
        broken.append("%s: the ordinary request gets %d" % (path, status))
    costs = [(*s.cost("POST", path, lambda make=make: shapes.dump(make()))[::2], name) for name, make in bad.items()]
    for ns, got, name in costs:
        if options.verbose:
            say("attacks    %-24s %-24s %8.2f ms, status %d, %6.1f to 1" % (path, name, ns / 1e6, got, ns / fair))
        if ns / fair > RATIO:
            broken.append("%s, %s: %.1f ms, %.0f times an ordinary request's %.2f ms" % (
                path, name, ns / 1e6, ns / fair, fair / 1e6))
    ns, _, name = max(costs)
    say("attacks    %-24s ordinary %6.2f ms, worst %8.2f ms (%s): %.1f to 1" % (path, fair / 1e6, ns / 1e6, name,
                                                                                ns / fair))


PARTS = {f.__name__: f for f in (endpoints, heads, files, attacks)}


def main():
    global options
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("parts", nargs="*", metavar="part", choices=[[], *PARTS])
    p.add_argument("--only", default="", help="targets and shapes with this in \"target, shape\"")
    p.add_argument("--verbose", action="store_true", help="every target and shape")
    p.add_argument("--slower", type=float, default=1, help="a factor on the bounds of time")
    p.add_argument("--most", type=int, default=1 << 30, help="no input is larger")
    options = p.parse_args()
    begin = time.monotonic()
    for name in options.parts or PARTS:
        PARTS[name]()
    for text in broken:
        say("BROKEN " + text)
    say("cost: %d targets and shapes, %d broken, %.0f s" % (len(rows), len(broken), time.monotonic() - begin))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
