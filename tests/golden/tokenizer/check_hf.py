#!/usr/bin/env python3
"""Compares `deq tokenizer` with the Hugging Face `tokenizers` library, token by token.

    check_hf.py [--deq "build/deq tokenizer"] [--only NAME] [CORPUS_FILE...]
    check_hf.py --write-golden      writes the small files that the C unit test compares with, from the library alone

Needs the `tokenizers` package. Vocabularies: GPT-2's, one of 4096 tokens trained here by ours and by the library's
trainer (the two files must agree), and the 4096 one again behind the cl100k/Llama-3 and Qwen2 splitters and with
ignore_merges. Every case is one text; each text is also decoded again and must come back byte for byte. Exit status 1
when anything differs.

Beside this file: gpt2/ is GPT-2's vocabulary (OpenAI, MIT licence), sample.txt the beginning of Shakespeare's plays."""
import argparse
import functools
import itertools
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "..", "..", ".."))
EOT = "<|endoftext|>"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| "
          r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = CL100K.replace("{1,3}", "")
BLANKS = " \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b\u180e"

passed = failed = 0


def check(ok, what):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        if failed <= 40:
            print("failed:", what)


def deq(command, *args, stdin=None):
    r = subprocess.run(command + list(args), input=stdin, capture_output=True)
    if r.returncode:
        sys.exit(f"{' '.join(command + list(args))}: status {r.returncode}: {r.stderr.decode(errors='replace')}")
    return r.stdout


def compare(command, model, hf, label, texts, special=False, lossless=True):
    """Ours and theirs on every text, and ours decoded again (lossless: to the same bytes)."""
    if hf.normalizer:
        newer = newer_characters()
        texts = [t for t in texts if newer.isdisjoint(t)]
    raw = [t.encode("utf-8") for t in texts]
    flags = ["--special"] if special else []
    out = deq(command, "encode", model, "--hex", *flags, stdin=b"".join(t.hex().encode() + b"\n" for t in raw))
    ours = [list(map(int, line.split())) for line in out.decode().split("\n")[:-1]]
    back = deq(command, "decode", model, "--hex", stdin=out).decode().split("\n")[:-1]
    hf.encode_special_tokens = not special
    check(len(ours) == len(texts) and len(back) == len(texts), f"{label}: {len(ours)} answers to {len(texts)} texts")
    for i in range(0, len(texts), 20000):
        theirs = hf.encode_batch(texts[i:i + 20000], add_special_tokens=False)
        for text, mine, b, e in zip(texts[i:i + 20000], ours[i:], back[i:], theirs):
            check(mine == e.ids, f"{label}: {text[:60]!r}: ours {mine[:20]}, theirs {e.ids[:20]}")
            if lossless:
                check(b == text.encode().hex(), f"{label}: {text[:60]!r}: decoded to {b[:60]}")


def scalars():
    return (chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)


@functools.cache
def newer_characters():
    """Those whose place among marks, or decomposition, came after the library's tables for normal forms (about Unicode
    10): it takes them for characters that nothing is known of, so that texts with them have another form there. (U+0345
    has the highest class and goes behind every mark.)"""
    nfd, nfkd = normalizers.NFD().normalize_str, normalizers.NFKD().normalize_str
    return {c for c in scalars() if nfd(c) != unicodedata.normalize("NFD", c) or
            nfkd(c) != unicodedata.normalize("NFKD", c) or
            0 < unicodedata.combining(c) < 240 and not nfd("\u0345" + c).endswith("\u0345")}


def two_byte_strings():
    for a in range(256):
        for b in range(256):
            try:
                yield bytes((a, b)).decode("utf-8")
            except UnicodeDecodeError:
                pass


def random_texts(n, seed):
    rng = random.Random(seed)
    pools = [
        lambda: chr(rng.randrange(0x20, 0x7F)),
        lambda: rng.choice(BLANKS),
        lambda: rng.choice(" \n"),
        lambda: rng.choice("'stremdlvSTREMDLV\u017f"),
        lambda: rng.choice("0123456789\u0661\u00bd\u2163\U0001d7d8"),
        lambda: chr(rng.randrange(0xA0, 0x800)),
        lambda: chr(rng.randrange(0x4E00, 0xA000)),
        lambda: chr(rng.randrange(0x1F300, 0x1FB00)),
        lambda: rng.choice("\u200d\ufe0f\u0301\u0e31\u093f"),
        lambda: chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])),
        lambda: rng.choice([" the", "ing", " and", "'ll", "'re", "'S", "!!", "...", "\r\n", "\n\n", EOT, EOT[:-1],
                            "<|"]),
    ]
    for _ in range(n):
        mine = rng.sample(pools, rng.randrange(1, 6))
        yield "".join(rng.choice(mine)() for _ in range(rng.randrange(1, 60)))


def handmade():
    contractions = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'vE", "'Ll", "'\u017f", "'", "''",
                    "'l", "'r", "\u2019s"]
    for c in contractions:
        for before in ("", "I", "I ", " ", "1", ".", "\n", "'", "\u00e9"):
            for after in ("", "x", " x", "1", ".", "\n", "'", "s"):
                yield before + c + after
    for n in range(1, 5):  # every run of up to four blanks, alone and between words
        for run in itertools.product(" \t\n\r\u00a0\u3000" if n < 4 else " \n\t", repeat=n):
            run = "".join(run)
            yield from (run, "a" + run, run + "a", "a" + run + "b", "." + run + "1", run + ".", run + "'s")
    for blank in BLANKS:
        for n in (1, 2, 3, 17):
            yield from (blank * n, "a" + blank * n + "b", blank * n + "!", " " + blank * n + "x", blank * n + " x")
    yield from ["\U0001F468\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466", "\U0001F3F4\u200d\u2620\ufe0f",
                "\U0001F1E9\U0001F1EA\U0001F1EB\U0001F1F7",
                "\u2764\ufe0f \u2764", "\U0001F44D\U0001F3FD!", "a\u0301e\u0308", "e\u0301\u0301 \u0301",
                "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
                "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3002\u4e2d\u6587\uff0c\u6d4b\u8bd5 123",
                "\ud55c\uad6d\uc5b4 \ubb38\uc7a5",
                "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0661\u0662\u0663",
                "\u0939\u093f\u0928\u094d\u0926\u0940", "x\u200by", "\ufeffBOM", "1234567890 12 1234",
                "\u00bd\u00be \u2460\u2461 \u2167", "$1,000.00",
                "a_b__c", "http://x.y/?q=1&r=%20",
                "<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>",
                " <|endoftext|> ", "<|endoftext|", "<<|endoftext|>>", "", " ", "\0", "a\0b", "\0\0"]
    yield from ("a" * n for n in (47, 48, 49, 50, 100, 1000, 4097))
    yield from ("ab" * n + "\u00e9" for n in (23, 24, 25, 300))
    rng = random.Random(7)
    for n in (45, 48, 49, 51, 64, 200, 3000):  # one long word: the heap instead of the scan
        for _ in range(60):
            yield "".join(rng.choice("etaoinshrdlu") for _ in range(n))
            yield "".join(rng.choice("aab") for _ in range(n))


def slices(path):
    with open(path, encoding="utf-8", newline="") as f:
        text = f.read()
    return [text[i:i + 100000] for i in range(0, len(text), 100000)]


def train_theirs(text, vocab_size):
    documents = re.split(r"(?m)(?:\n|\A)<\|endoftext\|>(?:\n|\Z)", text)
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[EOT],
                                                         show_progress=False,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return json.loads(t.to_str())


def gpt2_of_library():
    t = Tokenizer(models.BPE.from_file(os.path.join(HERE, "gpt2", "vocab.json"),
                                       os.path.join(HERE, "gpt2", "merges.txt")))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(EOT, normalized=False, special=True)])
    return t


def write_golden():
    """encode-gpt2.txt: text in hexadecimal, ids. pretok.txt: splitter, pieces in hexadecimal. sample-merges.txt: what
    the library's trainer makes of sample.txt, by ids."""
    rng = random.Random(3)
    texts = [t for t in list(handmade()) + list(random_texts(3000, 2)) if t]
    texts = rng.sample([t for t in texts if len(t) < 200], 1200) + [t for t in texts if len(t) > 200][::20]
    hf = gpt2_of_library()
    hf.encode_special_tokens = True
    with open(os.path.join(HERE, "encode-gpt2.txt"), "w") as f:
        for t in texts:
            f.write(" ".join([t.encode().hex()] + [str(i) for i in hf.encode(t, add_special_tokens=False).ids]) + "\n")
    with open(os.path.join(HERE, "pretok.txt"), "w") as f:
        for name, regex in (("cl100k", CL100K), ("qwen2", QWEN2)):
            split = pre_tokenizers.Split(Regex(regex), "isolated")
            for t in rng.sample([t for t in texts if len(t) < 100], 700):
                f.write(" ".join([name] + [piece.encode().hex() for piece, _ in split.pre_tokenize_str(t)]) + "\n")
    model = train_theirs(open(os.path.join(HERE, "sample.txt"), encoding="utf-8", newline="").read(), 1024)["model"]
    with open(os.path.join(HERE, "sample-merges.txt"), "w") as f:
        for a, b in model["merges"]:
            f.write(f"{model['vocab'][a]} {model['vocab'][b]} {model['vocab'][a + b]}\n")


def variants(trained, folder):
    """The trained vocabulary with other settings around it."""
    def split(regex, behavior="Isolated", invert=False):
        return {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}]}

    def added(i, content, **kw):
        return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": False, **kw}

    def write(name, change):
        file = json.loads(json.dumps(trained))
        change(file)
        path = os.path.join(folder, name + ".json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(file, f)
        return name, path

    yield write("cl100k", lambda f: f.update(pre_tokenizer=split(CL100K)))
    yield write("cl100k-removed", lambda f: f.update(pre_tokenizer=split(CL100K, "Removed", True)))
    yield write("qwen2", lambda f: f.update(pre_tokenizer=split(QWEN2)))
    yield write("ignore-merges", lambda f: f["model"].update(ignore_merges=True, merges=f["model"]["merges"][:300]))
    yield write("no-regex", lambda f: f["pre_tokenizer"].update(use_regex=False))
    yield write("merges-as-text", lambda f: f["model"].update(merges=[" ".join(m) for m in f["model"]["merges"]]))
    yield write("prefix-space", lambda f: f["pre_tokenizer"].update(add_prefix_space=True))
    def digits(each):
        return {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": each},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]}

    yield write("smollm", lambda f: f.update(pre_tokenizer=digits(True)))
    yield write("digits", lambda f: f.update(pre_tokenizer=digits(False)))
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield write(form.lower(), lambda f: f.update(pre_tokenizer=split(QWEN2), normalizer={"type": form}))
    extra = [("<a>", {}), ("<a><b>", {"normalized": True}), ("<|pad|>", {"special": True, "lstrip": True}),
             ("ing", {"normalized": True}),
             ("<r>", {"rstrip": True}), ("<lr>", {"lstrip": True, "rstrip": True}), ("in", {}), ("\u00e9t\u00e9", {}),
             ("  ", {}),
             ("<|endo", {"normalized": True})]
    vocab = trained["model"]["vocab"]
    # the library numbers these in order, whatever the file says
    new = [content for content, _ in extra if content not in vocab]
    yield write("added-tokens", lambda f: f["added_tokens"].extend(
        added(vocab[content] if content in vocab else len(vocab) + new.index(content), content, **kw) for content,
        kw in extra))


def added_texts(seed):
    rng = random.Random(seed)
    parts = ["<a>", "<b>", "<a><b>", "<|pad|>", "ing", "in", "<r>", "<lr>", "\u00e9t\u00e9", " ",
             "  ", "\u3000", "\n", "x", "go", "<", EOT, "<|endo", "1"]
    for _ in range(10000):
        yield "".join(rng.choice(parts) for _ in range(rng.randrange(1, 12)))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--deq", default=os.path.join(ROOT, "build", "deq") + " tokenizer", help="the command to test")
    p.add_argument("--write-golden", action="store_true")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--only", help="one vocabulary, such as gpt2 or qwen2")
    p.add_argument("--file", action="append", default=[], help="a tokenizer.json to compare as well; may be repeated")
    p.add_argument("corpus", nargs="*")
    args = p.parse_args()
    command = shlex.split(args.deq)
    if args.write_golden:
        return write_golden()

    with tempfile.TemporaryDirectory() as folder:
        trained = os.path.join(folder, "trained.json")
        corpus = args.corpus or [os.path.join(HERE, "sample.txt")]
        deq(command, "train", "--vocab-size", "4096", "--out", trained, *corpus)
        ours = json.load(open(trained, encoding="utf-8"))
        text = ("\n" + EOT + "\n").join(open(c, encoding="utf-8", newline="").read() for c in corpus)
        theirs = train_theirs(text, 4096)
        check(ours["model"]["vocab"] == theirs["model"]["vocab"], "training: vocabulary differs")
        check(ours["model"]["merges"] == theirs["model"]["merges"], "training: merges differ")

        sets = [("gpt2", os.path.join(HERE, "gpt2"), gpt2_of_library()),
                ("trained", trained, Tokenizer.from_file(trained))]
        sets += [(name, path, Tokenizer.from_file(path)) for name, path in variants(ours, folder)]
        for path in args.file:  # real ones: 100,000 texts each
            hf = Tokenizer.from_file(path)
            before = passed, failed
            compare(command, path, hf, path, list(handmade()) + list(random_texts(100000, args.seed)), lossless=False)
            for c in corpus:
                compare(command, path, hf, path + ", corpus", slices(c), lossless=False)
            print(f"{path}: {passed - before[0]} passed, {failed - before[1]} failed", flush=True)
        for name, path, hf in sets:
            if args.only not in (None, name):
                continue
            before = passed, failed
            # these take blanks away, add one, or give back another form
            lossless = name not in ("added-tokens", "prefix-space", "nfc", "nfd", "nfkc", "nfkd")
            if name in ("gpt2", "trained", "cl100k", "qwen2"):
                compare(command, path, hf, name + ", scalar alone", list(scalars()))
                compare(command, path, hf, name + ", scalar between letters", ["a" + c + "b" for c in scalars()])
                compare(command, path, hf, name + ", scalar after blank", [" " + c + "1" for c in scalars()])
                compare(command, path, hf, name + ", contraction", ["'" + c for c in scalars()])
            if name == "added-tokens":
                compare(command, path, hf, name + ", mixed", list(added_texts(args.seed)), lossless=False)
                compare(command, path, hf, name + ", mixed, special", list(added_texts(args.seed)), special=True,
                        lossless=False)
            compare(command, path, hf, name + ", two bytes", list(two_byte_strings()), lossless=lossless)
            compare(command, path, hf, name + ", by hand", list(handmade()), lossless=lossless)
            compare(command, path, hf, name + ", by hand, special", list(handmade()), special=True, lossless=lossless)
            compare(command, path, hf, name + ", random", list(random_texts(10000, args.seed)), lossless=lossless)
            compare(command, path, hf, name + ", random, special", list(random_texts(10000, args.seed + 1)),
                    special=True, lossless=lossless)
            for c in corpus:
                compare(command, path, hf, name + ", corpus", slices(c), lossless=lossless)
            print(f"{name}: {passed - before[0]} passed, {failed - before[1]} failed", flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
