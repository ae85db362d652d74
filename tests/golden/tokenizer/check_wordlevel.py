#!/usr/bin/env python3
"""Compares tokenizer.json files of `deq tokenizer words` with the `tokenizers` library and with the DEQ authors' ids.

    check_wordlevel.py [--deq "build/deq tokenizer"] [TRAIN_FILE OTHER_FILE...]
    check_wordlevel.py --write-golden   writes wordlevel/*.txt, which the C unit test compares with

The vocabulary is counted from TRAIN_FILE and must be that of authors_vocabulary() below; every file must encode to
authors_ids(), by ours and by the library, and decode to the library's text. Beside this file: wordlevel/sample.txt,
which is the TRAIN_FILE when none is given. Needs the `tokenizers` package. Exit status 1 when anything differs."""
import argparse
import json
import os
import random
import shlex
import sys
import tempfile
from collections import Counter

import check_hf
from check_hf import HERE, ROOT, check, compare, deq, scalars
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

GOLDEN = os.path.join(HERE, "wordlevel")
SAMPLE = os.path.join(GOLDEN, "sample.txt")


def authors_vocabulary(path):
    """locuslab/deq, utils/vocabulary.py, for WikiText-103: count_file() without <eos>, then build_vocab() with special
    ["<eos>"]."""
    counter = Counter()
    with open(path, encoding="utf-8") as f:
        for line in f:
            counter.update(line.strip().split())
    return [("<eos>", counter["<eos>"])] + [(w, n) for w, n in counter.most_common() if w != "<eos>"]


def authors_ids(path, vocabulary):
    """encode_file(): <eos> behind every line. A word that is not there ends their program; here it is <unk>."""
    index = {w: i for i, (w, _) in enumerate(vocabulary)}
    ids = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            ids += [index.get(w, index["<unk>"]) for w in line.strip().split()] + [0]
    return ids


def text_of(path):
    with open(path, encoding="utf-8", newline="") as f:
        return f.read()


def by_white_space(text):
    """The library does not cut at U+001C..U+001F, Python does. WikiText has none."""
    return text.translate({c: " " for c in range(0x1C, 0x20)})


def texts(words, n, seed):
    rng = random.Random(seed)
    between = [" "] * 8 + ["", "  ", "\n", "\r", "\r\n", "\n\n", "\t", "\v\f", "\u0085", "\u00a0", "\u2028", "\u3000",
                           "\u200b", "\x1c", "\ufeff"]
    pools = [lambda: rng.choice(words), lambda: rng.choice(["<eos>", "<unk>", "<pad>", "a<eos>b", "Brinmoor"]),
             lambda: chr(rng.choice([rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000)]))]
    for _ in range(n):
        yield "".join(rng.choice(pools)() + rng.choice(between) for _ in range(rng.randrange(0, 20)))


def id_lists(size, joined, n, seed):
    rng = random.Random(seed)
    for _ in range(n):
        yield [rng.choice(joined) if rng.random() < 0.6 else rng.randrange(size) for _ in range(rng.randrange(0, 30))]


def compare_decoding(command, path, hf, label, lists):
    for skip in (False, True):
        flags = ["--skip-special"] if skip else []
        out = deq(command, "decode", path, "--hex", *flags,
                  stdin="".join(" ".join(map(str, ids)) + "\n" for ids in lists).encode())
        ours = out.decode().split("\n")[:-1]
        check(len(ours) == len(lists), f"{label}: {len(ours)} answers to {len(lists)} lists")
        for ids, mine in zip(lists, ours):
            theirs = hf.decode(ids, skip_special_tokens=skip)
            check(bytes.fromhex(mine).decode() == theirs,
                  f"{label}: {ids[:20]}: ours {bytes.fromhex(mine).decode()[:60]!r}, theirs {theirs[:60]!r}")


def joined_ids(tok):
    words = [s["pattern"]["Regex"][2:-1].replace("\\", "")
             for s in (tok["decoder"] or {"decoders": []})["decoders"][1:-3]]
    return [tok["model"]["vocab"][w] for w in words if w in tok["model"]["vocab"]] or [0]


def plain_of_library(vocabulary):
    """As somebody would build it with the library alone: no decoder, "\\n" only."""
    t = Tokenizer(models.WordLevel({w: i for i, (w, _) in enumerate(vocabulary)}, unk_token="<unk>"))
    t.normalizer = normalizers.Replace("\n", " <eos> ")
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    t.add_special_tokens([AddedToken("<eos>", normalized=False, special=True),
                          AddedToken("<pad>", normalized=False, special=True, lstrip=True)])
    return t


def write_golden(command):
    vocabulary = authors_vocabulary(SAMPLE)
    with open(os.path.join(GOLDEN, "vocab.txt"), "w", encoding="utf-8", newline="") as f:
        f.writelines(f"{w} {n}\n" for w, n in vocabulary)
    with open(os.path.join(GOLDEN, "ids.txt"), "w") as f:
        f.write(" ".join(map(str, authors_ids(SAMPLE, vocabulary))) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "tokenizer.json")
        deq(command, "words", "--vocab", os.path.join(GOLDEN, "vocab.txt"), "--out", path)
        hf = Tokenizer.from_file(path)
        with open(os.path.join(GOLDEN, "decode.txt"), "w") as f:  # the library's text in hexadecimal, ids
            for ids in id_lists(len(vocabulary), joined_ids(json.load(open(path, encoding="utf-8"))), 300, 1):
                f.write(" ".join([hf.decode(ids, skip_special_tokens=False).encode().hex() or
                                  "-"] + list(map(str, ids))) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--deq", default=os.path.join(ROOT, "build", "deq") + " tokenizer", help="the command to test")
    p.add_argument("--write-golden", action="store_true")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("files", nargs="*")
    args = p.parse_args()
    command = shlex.split(args.deq)
    if args.write_golden:
        return write_golden(command)

    files = args.files or [SAMPLE]
    with tempfile.TemporaryDirectory() as folder:
        counted, listed, resaved, plain = (os.path.join(folder, n) for n in ("counted.json", "vocab.txt",
                                                                             "resaved.json", "plain.json"))
        vocabulary = authors_vocabulary(files[0])
        words = [w for w, _ in vocabulary]
        deq(command, "words", files[0], "--out", counted, "--vocab-out", listed)
        ours = json.load(open(counted, encoding="utf-8"))
        check(list(ours["model"]["vocab"].items()) == [(w, i) for i, w in enumerate(words)],
              "the counted vocabulary is not the authors'")
        check(text_of(listed) == "".join(f"{w} {n}\n" for w, n in vocabulary),
              "the listed vocabulary is not the authors'")
        deq(command, "words", "--vocab", listed, "--out", plain)
        check(text_of(plain) == text_of(counted), "tokenizer.json from the list differs from the counted one")
        Tokenizer.from_file(counted).save(resaved)
        plain_of_library(vocabulary).save(plain)

        for name, path in (("counted", counted), ("saved by the library", resaved), ("plain", plain)):
            before = check_hf.passed, check_hf.failed
            hf = Tokenizer.from_file(path)
            for special in (False, True):
                label = f"{name}, special {special}"
                if name == "counted" and not special:
                    compare(command, path, hf, label + ", scalar between words",
                            ["apple" + c + "mango" for c in scalars()], lossless=False)
                compare(command, path, hf, label + ", random", list(texts(words, 10000, args.seed)), special=special,
                        lossless=False)
            for f in files:
                compare(command, path, hf, f"{name}, {f}", [text_of(f)], lossless=False)
                mine = list(map(int, deq(command, "encode", path, "--hex",
                                         stdin=by_white_space(text_of(f)).encode().hex().encode() + b"\n").split()))
                want = authors_ids(f, vocabulary)
                if name != "plain" or "\r" not in text_of(f).replace("\r\n", "\n"):  # "plain" knows no line end "\r"
                    check(mine == want, f"{name}, {f}: not the authors' ids")
                compare_decoding(command, path, hf, f"{name}, {f}", [want])
                if name == "plain":  # words joined by blanks are those words again
                    text = deq(command, "decode", path, stdin=" ".join(map(str, want)).encode())
                    again = list(map(int, deq(command, "encode", path, stdin=text).split()))
                    check(again == want, f"{name}, {f}: encode(decode(ids)) != ids")
            compare_decoding(command, path, hf, name,
                             list(id_lists(len(words), joined_ids(json.load(open(path, encoding="utf-8"))), 10000,
                                           args.seed)))
            print(f"word level, {name}: {check_hf.passed - before[0]} passed, {check_hf.failed - before[1]} failed",
                  flush=True)
    print(f"{check_hf.passed} passed, {check_hf.failed} failed")
    return check_hf.failed != 0


if __name__ == "__main__":
    sys.exit(main())
