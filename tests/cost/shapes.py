"""Inputs of every shape and any size. A shape is a function of a number of bytes; what it gives has about as many."""
import io
import json
import struct
import zipfile

TEXTS = {
    "one letter": "a", "capitals": "A", "blanks": " ", "line ends": "\n", "lines of blanks": " \n", "tabs": "\t",
    "digits": "7", "words": "Tom had a red ball. ", "apostrophes": "'s ", "punctuation": ".,;:!?", "brackets": "<",
    "special tokens": "<|endoftext|>", "half a special token": "<|endof", "emoji": "\U0001f600",
    "joined emoji": "\U0001f468‍\U0001f469‍\U0001f467", "combining marks": "̣́", "accents": "é",
    "jamo": "가", "han": "中文", "arabic": "سلام ", "wide blanks": "　", "controls": "\x01",
    "quotes": '"', "backslashes": "\\", "ligatures": "ﷺ",
}


def text(unit):
    """A text of about n bytes as UTF-8."""
    size = len(unit.encode())
    return lambda n: unit * max(1, n // size)


def shapes():
    return {name: text(unit) for name, unit in TEXTS.items()}


def dump(o):
    return json.dumps(o, ensure_ascii=False).encode()


def _field(value):
    """Bodies whose field of unknown name or kind is the value, written by hand."""
    return lambda n: b'{"prompt":"A","max_tokens":1,"user":' + value(n) + b"}"


# Bodies that are about their JSON, not about what it says.
STRUCTURES = {
    "nested arrays": _field(lambda n: b"[" * (n // 2) + b"]" * (n // 2)),
    "nested objects": _field(lambda n: b'{"a":' * (n // 6) + b"1" + b"}" * (n // 6)),
    "open arrays": lambda n: b"[" * n,
    "open objects": lambda n: b'{"a":' * (n // 5),
    "numbers without an end": lambda n: b'{"prompt":[' + b"1," * (n // 2),
    "arrays without an end": lambda n: b'{"prompt":[' + b"[1]," * (n // 4),
    "keys without an end": lambda n: b"{" + b"".join(b'"k%07d":0,' % i for i in range(n // 13)),
    "many keys": lambda n: b"{" + b",".join(b'"k%07d":0' % i for i in range(n // 12)) + b"}",
    "one key again and again": lambda n: b"{" + b",".join([b'"a":0'] * (n // 6)) + b"}",
    "a long key": lambda n: b'{"' + b"a" * n + b'":0}',
    "a long number": _field(lambda n: b"1" * n),
    "a long fraction": _field(lambda n: b"0." + b"1" * n),
    "many numbers": _field(lambda n: b"[" + b",".join([b"1"] * (n // 2)) + b"]"),
    "many empty strings": _field(lambda n: b"[" + b",".join([b'""'] * (n // 3)) + b"]"),
    "escapes": _field(lambda n: b'"' + b"\\u0041" * (n // 6) + b'"'),
    "surrogates": _field(lambda n: b'"' + b"\\ud83d\\ude00" * (n // 12) + b'"'),
    "blanks before": lambda n: b" " * n + b'{"prompt":"A","max_tokens":1}',
    "blanks behind": lambda n: b'{"prompt":"A","max_tokens":1}' + b" " * n,
    "bytes that are no text": _field(lambda n: b'"' + b"\xff" * n + b'"'),
    "no JSON": lambda n: b"x" * n,
    "ids": lambda n: b'{"max_tokens":1,"prompt":[' + b",".join([b"70"] * (n // 3)) + b"]}",
    "prompts": lambda n: b'{"max_tokens":1,"prompt":[' + b",".join([b'"A"'] * (n // 4)) + b"]}",
    "stop strings": lambda n: b'{"max_tokens":1,"prompt":"A","stop":[' + b",".join([b'"ab"'] * (n // 5)) + b"]}",
    "biases": lambda n: b'{"max_tokens":1,"prompt":"A","logit_bias":{' +
                        b",".join(b'"%d":1' % (i % 250) for i in range(n // 8)) + b"}}",
}

YAMLS = {
    "comments": lambda n: b"# a\n" * (n // 4),
    "a long comment": lambda n: b"#" + b"a" * n,
    "blank lines": lambda n: b"\n" * n,
    "open lists": lambda n: b"[" * n,
    "open mappings": lambda n: b"{a: " * (n // 4),
    "nested blocks": lambda n: b"".join(b" " * i + b"a:\n" for i in range(int((2 * n) ** 0.5))),
    "a long value": lambda n: b"model:\n  path: " + b"a" * n,
    "a long quoted value": lambda n: b'model:\n  path: "' + b"\\n" * (n // 2) + b'"',
    "a folded value": lambda n: b"model:\n  path: >\n" + b"    a\n" * (n // 6),
    "unknown keys": lambda n: b"".join(b"k%06d: 1\n" % i for i in range(n // 11)),
    "one section again and again": lambda n: b"log: {level: info}\n" * (n // 19),
    "a list": lambda n: b"server:\n  hosts:\n" + b"    - a\n" * (n // 8),
    "anchors": lambda n: b"a: &a 1\n" + b"".join(b"k%06d: *a\n" % i for i in range(n // 12)),
    "documents": lambda n: b"---\n" * (n // 4),
    "keys of a mapping": lambda n: b"server: {" + b", ".join(b"k%06d: 1" % i for i in range(n // 13)) + b"}",
}


# --- Pickles ---

def _text(b):
    return b"X" + struct.pack("<I", len(b)) + b


PICKLES = {  # programs for the machine that reads pickles, all of protocol 2
    "marks": lambda n: b"(" * n,
    "tuples in tuples": lambda n: b")" + b"\x85" * n,
    "empty lists": lambda n: b"]" * n,
    "memo": lambda n: b"".join(b"K\x01r" + struct.pack("<I", i) for i in range(n // 7)),
    "memo backwards": lambda n: b"".join(b"K\x01r" + struct.pack("<I", n // 7 - i) for i in range(n // 7)),
    "memo gets": lambda n: b"K\x01q\x00" + b"h\x00" * (n // 2),
    "dict": lambda n: b"}(" + b"".join(_text(b"k%06d" % i) + b"K\x01" for i in range(n // 14)) + b"u",
    "dict one by one": lambda n: b"}" + b"".join(_text(b"k%06d" % i) + b"K\x01s" for i in range(n // 15)),
    "same key": lambda n: b"}(" + (_text(b"k") + b"K\x01") * (n // 8) + b"u",
    "list one by one": lambda n: b"]" + b"K\x01a" * (n // 3),
    "tuples of the one before": lambda n: b")q\x00" + b"h\x00h\x00\x86q\x00" * (n // 7),
    "a long string": lambda n: _text(b"a" * n),
    "globals": lambda n: b"ccollections\nOrderedDict\n)R" * (n // 28),
}


def checkpoint(program):
    """A file of torch.save whose pickle is that program."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as z:
        z.writestr("archive/data.pkl", b"\x80\x02" + program + b".")
        z.writestr("archive/version", "3\n")
    return whole.getvalue()
