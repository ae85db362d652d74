"""Seeds of the fuzz targets from the project's own examples: unit tests, tests/http, configurations, golden files.

    python3 tests/fuzz/seeds.py DIR    # DIR/TARGET/NAME

What saved states, prefix caches and checkpoints begin with, their targets make themselves."""
import ast
import glob
import hashlib
import json
import os
import re
import struct
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
LONGEST = 8192


def read(*path):
    with open(os.path.join(ROOT, *path), "rb") as f:
        return f.read()


def literals(pattern):
    """The texts of C's strings in files, neighbours joined; what Python does not read as C does is left out."""
    for path in sorted(glob.glob(os.path.join(ROOT, pattern))):
        source = re.sub(r"/\*.*?\*/", "", read(path).decode(), flags=re.S)
        for m in re.finditer(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*', source):
            try:
                parts = re.findall(r'"(?:[^"\\\n]|\\.)*"', m.group())
                yield "".join(ast.literal_eval(s) for s in parts).encode("latin1")
            except (SyntaxError, ValueError, UnicodeEncodeError):
                pass


def endpoint(body):
    """The letter of fuzz_body.c that the fields point to."""
    for letter, words in ((b"B", b"messages"), (b"C", b"max_output_tokens"), (b"C", b"instructions"),
                          (b"I", b'"tokens"'), (b"E", b"jacobian"), (b"D", b"positions"), (b"F", b'"input"'),
                          (b"H", b'"content"'), (b"G", b'"name"')):
        if words in body:
            return letter
    return b"A"


def bodies():
    for pattern in ("tests/unit/test_request*.c", "tests/unit/test_fields.c", "tests/unit/test_neutral.c",
                    "tests/unit/test_ep_*.c", "tests/unit/test_completion*.c"):
        for text in literals(pattern):
            if text[:1] == b"{" and text[-1:] == b"}":
                yield endpoint(text) + b"A" + text
                yield b"C" * (endpoint(text) == b"F") + b"A" + text
    for path in ("README.md", "server/README.md"):
        for body in re.findall(rb"-d '(\{[^']*\})'", read(path)):
            yield endpoint(body) + b"A" + body


def wire():
    import corpus  # tests/e2e
    for case in corpus.all_cases():
        yield case.data


def heads():
    for data in wire():
        line, _, rest = data.partition(b"\r\n")
        head, end, _ = rest.partition(b"\r\n\r\n")
        if end and b"HTTP/1" in line:
            yield head + end


def configs():
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/golden/*/config.json")) +
                       glob.glob(os.path.join(ROOT, "models/*/config.json")) +
                       glob.glob(os.path.join(ROOT, "tests/golden/authors/*/config.json"))):
        yield read(path)


def smaller(tok):
    """A tokenizer.json with a few of its tokens, and the merges among them."""
    model, vocab = tok["model"], tok["model"]["vocab"]
    kept = sorted(vocab, key=lambda k: (len(k) > 1, vocab[k]))[:40] + [a["content"] for a in tok["added_tokens"]]
    model["vocab"] = {k: i for i, k in enumerate(dict.fromkeys(kept))}
    for a in tok["added_tokens"]:
        a["id"] = model["vocab"][a["content"]]
    merges = [m if isinstance(m, list) else m.split(" ") for m in model.get("merges", [])]
    if "merges" in model:
        model["merges"] = [m for m in merges if all(x in model["vocab"] for x in m + ["".join(m)])]
    return tok


def tokenizers():
    text = "<s> Once upon a time, 12 <|endoftext|>\n\u00e9\U0001f600  x".encode()
    for path in sorted(glob.glob(os.path.join(ROOT, "tests/golden/*/tokenizer.json")) +
                       glob.glob(os.path.join(ROOT, "tests/golden/tokenizer/*/tokenizer.json"))):
        yield b"A" + json.dumps(smaller(json.loads(read(path))), ensure_ascii=False).encode() + b"\0" + text
    for t in literals("tests/unit/test_tokenizer*.c"):
        if t[:1] == b"{" and b"model" in t:
            yield b"A" + t + b"\0" + text
    yield b'B{"a": 0, "b": 1, "ab": 2, "\xc4\xa0": 3}\0#version: 0.2\na b\n'
    for path in sorted(glob.glob(os.path.join(ROOT, "**/tokenizer_config.json"), recursive=True)):
        yield b"C" + read(path)


def texts():
    lines = read("tests/golden/tokenizer/sample.txt").split(b"\n")
    for i, line in enumerate(lines[:: max(1, len(lines) // 30)]):
        yield b"ABCDE"[i % 5: i % 5 + 1] + line[:400]
    for t in (b"it's 123456 I'LL\n\n  \t x", "\u0301\u00e9\u4e2d\U0001f468\u200d\U0001f469".encode(), b"\xff\xfe\0a",
              b"<|endoftext|><|bos|><s>", b"= Robert Boulter = \n , a film @-@ <unk> .\n"):
        for letter in b"ABCDE":
            yield bytes([letter]) + t


def yamls():
    def bare(text):
        lines = (line for line in text.split(b"\n") if line.strip() and not line.strip().startswith(b"#"))
        return b"".join(line + b"\n" for line in lines)
    yield b"A" + bare(read("etc/deqd.yaml"))
    for path in sorted(glob.glob(os.path.join(ROOT, "models/recipes/**/*.yaml"), recursive=True) +
                       glob.glob(os.path.join(ROOT, "tests/golden/*.yaml"))):
        yield b"B" + bare(read(path))
    for text in literals("tests/unit/test_yaml.c"):
        if b"\n" in text or b": " in text:
            yield b"C" + text
    for text in literals("tests/unit/test_conf.c"):
        if b"\n" in text and b":" in text:
            yield b"A" + text


def streams():
    for stops, text in (((b"END",), b"some text END more"), ((b"\n", b"\n\n"), b"a\n\nb"),
                        ((b"ab", b"b", b"aab"), b"aaab"), ((b" ", b"x"), b"  \n x"),
                        ((), "\u00e9\u4e2d\U0001f600".encode() + b"\xf0\x9f"),
                        (("\u00e9".encode(),), "caf\u00e9".encode()), ((b"aaaaab",), b"aaaaaaaaaab")):
        for before in b"ABCF":
            yield bytes([65 + len(stops), before, 66]) + b"".join(s + b"\xff" for s in stops) + text


def forms():
    yield from (b'A["yes", "no", "maybe so"]\0x', b'A["a", "ab", "abc"]\0y', "A[\"\u00e9\"]\0z".encode())
    for t in literals("tests/unit/test_regex.c"):
        yield b"B" + t + b"\0x"
    for t in literals("tests/unit/test_gbnf.c"):
        if b"::=" in t:
            yield b"C" + t + b"\0x"
    for pattern in ("tests/unit/test_schema.c", "tests/unit/test_form.c", "tests/unit/forms.c"):
        for t in literals(pattern):
            if t[:1] == b"{":
                yield b"D" + t + b"\0x"


def templates():
    def walk(v):
        if isinstance(v, str):
            if "{%" in v or "{{" in v:
                yield v.encode()
        else:
            for x in v.values() if isinstance(v, dict) else v if isinstance(v, list) else ():
                yield from walk(x)
    known = json.loads(read("tests/golden/chat/templates.json"))
    for t in list(walk(known)) + list(literals("tests/unit/test_jinja.c")):
        if b"{" in t:
            yield b"A" + t
            yield b"H" + t


def keys():
    h, other = hashlib.sha256(b"secret").hexdigest().encode(), hashlib.sha256(b"x").hexdigest().upper().encode()
    yield b"me " + h + b"\n"
    yield b"# keys\nme " + h + b" admin priority weight=10 depth=elastic\n\nyou\t" + other + b" depth=fixed # x\r\n"
    yield b"me " + h + b" weight=1001\n"
    yield b"me " + h + b"\nme " + other + b"\n"


def shards():
    one, two = "one.safetensors", "two.safetensors"
    for where in ({"a": one, "b": one, "c": two, "d": two}, {"a": one, "b": one}, {"a": two}, {"a": "../" + one},
                  {"a": "three.safetensors"}):
        yield json.dumps({"metadata": {"total_size": 96}, "weight_map": where}).encode()


def tensors():
    def file(header, data):
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data
    yield file({}, b"")
    yield file({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, struct.pack("<2f", 1, 2))
    yield file({"__metadata__": {"format": "pt"}, "a": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [0, 4]},
                "b": {"dtype": "F64", "shape": [], "data_offsets": [4, 12]},
                "c": {"dtype": "U8", "shape": [0, 3], "data_offsets": [12, 12]}}, bytes(12))
    yield file({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
                "b": {"dtype": "I64", "shape": [1], "data_offsets": [2, 10]}}, b"\0\x7c" + bytes(8))


def events():
    for t in (b"data: {}\n\ndata: [DONE]\n\n", b"data: a\r\rdata",
              b"\xef\xbb\xbfdata:a\r\ndata: b\r\n\r\n: ping\n\nevent: x\ndata\n\n"):
        yield b"C" + t


def jsons():
    for data in wire():
        body = data.partition(b"\r\n\r\n")[2]
        if body[:1] in b"{[":
            yield body
    yield from (b'[1e999, -1e999, 99999999999999999999, 1e-999]', b'["\\ud800", "\\u0000", "\\udc00\\ud800"]',
                b'{"\\u0000": "a\\u0000b"}', b"[" * 40 + b"]" * 40)


TARGETS = {"body": bodies, "head": heads, "http": lambda: (b"CA" + d for d in wire()), "config": configs,
           "tokenizer": tokenizers, "encode": texts, "yaml": yamls, "stream": streams, "form": forms,
           "utf8": lambda: (t[1:] for t in texts()), "jinja": templates, "keys": keys, "shards": shards,
           "safetensors": tensors, "json": jsons, "sse": events}


def main(where):
    for target, seeds in TARGETS.items():
        os.makedirs(os.path.join(where, target), exist_ok=True)
        for seed in {s for s in seeds() if len(s) <= LONGEST}:
            with open(os.path.join(where, target, hashlib.sha1(seed).hexdigest()[:16]), "wb") as f:
                f.write(seed)


if __name__ == "__main__":
    main(sys.argv[1])
