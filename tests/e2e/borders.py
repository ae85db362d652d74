"""Text where tokens, prompt and answer, or chunks cut a character: what is sent is the bytes of all tokens as one text,
and offsets count its characters."""
import functools
import json
import os
import subprocess

from lib import DEQ, TINY, check, equal, events_text, parse_sse, usual


@functools.cache
def byte_ids():
    """The ids of tokens of one byte, by byte: the alphabet of byte-level BPE stands for bytes that are not printable by
    others from 256 on."""
    with open(os.path.join(TINY, "tokenizer.json"), encoding="utf-8") as f:
        vocab = json.load(f)["model"]["vocab"]
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: vocab[chr(b if b in plain else 256 + others.index(b))] for b in range(256)}


def ids(data):
    return [byte_ids()[b] for b in data]


def forced(byte):
    """Every token of the answer is this byte."""
    return {"logit_bias": {str(byte_ids()[byte]): 100}}


def replaced(data):
    return data.decode("utf-8", "replace")  # maximal subparts, as the Unicode standard recommends


def offsets_of(data):
    """The number of the character that each byte is in."""
    return [len(replaced(data[:i + 1])) - 1 for i in range(len(data))]


DATA = (b"\xfe\xf7\xdfA", b"caf\xc3\xa9", b"a\xe2\x82\xac\xf0\x9f\x98\x80b", b"\xe2\x82A\xf0\x9f\xf0\x9f\x98",
        b"\xed\xa0\x80", b"\xc3", b"\x80\x80x")


def test_offsets_count_what_is_sent():
    d = usual()
    for data in DATA:
        c = d.complete(ids(data), max_tokens=0, echo=True, logprobs=0)["choices"][0]
        equal((c["text"], c["logprobs"]["text_offset"]), (replaced(data), offsets_of(data)), "scoring %r" % data)
        if data[1:]:
            o = d.complete(ids(data), max_tokens=0, echo=True, logprobs=0,
                           truncate_prompt_tokens=len(data) - 1)["choices"][0]
            equal((o["text"], o["logprobs"]["text_offset"]), (replaced(data[1:]), offsets_of(data[1:])),
                  "cut in front: %r" % data)
    for byte in (0xc3, 0xf0, 0x80, 0xff, 0x41):
        whole = bytes([byte]) * 4
        c = d.complete("A", max_tokens=4, logprobs=0, **forced(byte))["choices"][0]
        equal((c["text"], c["logprobs"]["text_offset"]), (replaced(whole), offsets_of(whole)),
              "an answer of 0x%02x" % byte)


def test_prompt_and_answer_are_one_text():
    """The prompt ends within a character, and the answer is, or is not, the rest of it."""
    d = usual()
    for start, byte, n in ((b"caf\xc3", 0xa9, 1), (b"\xc3", 0xa9, 2), (b"\xf0\x9f\x98", 0x80, 1),
                           (b"\xf0\x9f", 0x98, 1), (b"\xe2\x82", 0x41, 2), (b"\xc3", 0xc3, 2),
                           (b"a\xe2", 0x82, 1), (b"\xed", 0xa0, 1), (b"\xc3", 0xa9, 0)):
        data = start + bytes([byte]) * n
        fields = {"max_tokens": n, "echo": True, "logprobs": 1, "return_token_ids": True, **forced(byte)}
        what = "%r and %d times 0x%02x" % (start, n, byte)
        whole = d.complete(ids(start), **fields)["choices"][0]
        lp = whole["logprobs"]
        equal((whole["text"], lp["text_offset"]), (replaced(data), offsets_of(data)), what)
        equal(lp["tokens"], [chr(b) if b < 128 else "bytes:\\x%02x" % b for b in data],
              what + ": tokens are their own bytes")
        named = d.complete(ids(start), **fields, return_tokens_as_token_ids=True)["choices"][0]
        equal((named["text"], named["logprobs"]["tokens"]), (whole["text"], ["token_id:%d" % i for i in ids(data)]),
              what + ": tokens by id")
        _, _, events, done = d.stream(ids(start), **fields)
        equal((events_text(events), done), (whole["text"], True), what + ": streamed")
        equal(sum((e["choices"][0]["logprobs"]["text_offset"] for e in events), []), lp["text_offset"],
              what + ": offsets of all chunks")
        many = d.complete([ids(start), ids(b"x" + start)], **fields, n=2 if n else 1)["choices"]
        equal({c["text"] for c in many}, {replaced(data), replaced(b"x" + data)}, what + ": choices and prompts")
        alone = d.complete(ids(start), **dict(fields, echo=False))["choices"][0]["text"] if n else ""
        equal(alone, replaced(bytes([byte]) * n), what + ": without echo the answer stands alone")


def test_stop_strings_at_the_border():
    """A stop string is looked for in the answer's own bytes; what the prompt left open is shown either way."""
    d = usual()
    for start, byte, stop, text in ((b"\xc3", 0xa9, "\u00e9", "\u00e9\ufffd\ufffd"), (b"\xc3", 0x41, "A", "\ufffd"),
                                    (b"\xc3", 0x41, "AAA", "\ufffd"),
                                    (b"\xc3", 0x41, "AAAB", "\ufffdAAA"), (b"xA", 0x41, "AAAA", "xAAAA")):
        fields = {"max_tokens": 3, "echo": True, "stop": stop, **forced(byte)}
        equal(d.complete(ids(start), **fields)["choices"][0]["text"], text, "%r, stop %r" % (start, stop))
        _, _, events, done = d.stream(ids(start), **fields)
        equal((events_text(events), done), (text, True), "%r, stop %r, streamed" % (start, stop))


def test_ends():
    """An end within a character is one replacement."""
    d = usual()
    for data in DATA:
        equal(d.post("/detokenize", {"tokens": ids(data)})[2]["content"], replaced(data), "detokenize %r" % data)
    _, _, b = d.request("POST", "/v1/completions", {"prompt": "A", "max_tokens": 1, "stream": True, **forced(0xf0)})
    events, done = parse_sse(b)
    equal((events_text(events), done), ("\ufffd", True), "a stream ends within a character")


def test_generate_on_the_command_line():
    """An argument may end within a character, or be none at all; what is printed is text."""
    for argument, shown in ((b"caf\xc3", "caf\ufffd"), (b"a\xffb", "a\ufffdb")):
        for flags in ([], ["--json"]):
            p = subprocess.run([DEQ, "generate", TINY, argument, "--max-tokens", "2", *flags], capture_output=True,
                               check=False)
            equal(p.returncode, 0, "%r %s" % (argument, flags))
            text = p.stdout.decode("utf-8")  # strict
            prompt = json.loads(text)["prompt"] if flags else text
            check(prompt.startswith(shown), "%r %s shows %r" % (argument, flags, prompt))
