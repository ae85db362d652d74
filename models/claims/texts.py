"""The texts: official tokens, what is shared between two of them, and where they are laid out for deq.

Perplexity of a word. A subword model gives a text's N tokens a total of nats; the benchmark counts W official tokens:
the words between white space, and one <eos> for the end of every line. The text follows from the official tokens (one
space between them), so its probability is at most theirs, and

    perplexity a word = exp(nats of the text / W) = exp(nats a token * N / W)

is never too good: what the model gives to other spellings of the same words counts as lost. deq eval predicts all but
the first token of each stream (two of N here), which are taken to cost what the others do."""
import lzma
import math
import os
import re

SPLITS = ("train", "valid", "test")
HEADING = re.compile(r" = [^=\n]+ = $")
DOCUMENT_END = "<|endoftext|>"
# a paragraph of fewer characters proves nothing: "The end.", a list's heading
PARAGRAPH_MIN = 80


class BadText(Exception):
    """A text that cannot be used, in a sentence."""


def official_tokens(text):
    """Words, and an <eos> for every line."""
    return sum(len(line.split()) + 1 for line in text.removesuffix("\n").split("\n"))


def word_perplexity(nats_per_token, tokens, words):
    return math.exp(nats_per_token * tokens / words)


def documents(text):
    """[(title, paragraphs)]: between <|endoftext|> lines, else from one heading ` = Title = ` to the next."""
    lines = text.split("\n")
    marked = DOCUMENT_END in lines
    found = [("", [])]
    for number, line in enumerate(lines, 1):
        if line == DOCUMENT_END or not marked and HEADING.match(line):
            found.append(("" if marked else line.strip(), []))
        if len(line) >= PARAGRAPH_MIN:
            found[-1][1].append(" ".join(line.split()))
            if not found[-1][0]:
                found[-1] = ("line %d" % number, found[-1][1])
    return [d for d in found if d[1]]


def shared_documents(text, other):
    """Titles of the text's documents of which the other text has half or more, counted in characters of long
    paragraphs."""
    there = {p for _, paragraphs in documents(other) for p in paragraphs}
    shared = []
    for title, paragraphs in documents(text):
        same = sum(len(p) for p in paragraphs if p in there)
        if 2 * same >= sum(map(len, paragraphs)):
            shared.append(title)
    return shared


def refuse_shared(texts):
    """texts: {split: text}. Names every pair that shares documents."""
    bad = []
    for name, other in (("valid", "train"), ("test", "train"), ("test", "valid")):
        titles = shared_documents(texts[name], texts[other]) if name in texts else []
        if titles:
            bad.append("%s.txt shares %d of its documents with %s.txt, the first: %s"
                       % (name, len(titles), other, titles[0]))
    if bad:
        raise BadText("; ".join(bad))


def read(directory, split):
    """split.txt or split.txt.xz of the directory."""
    for name, opened in ((split + ".txt", open), (split + ".txt.xz", lzma.open)):
        path = os.path.join(directory, name)
        if os.path.exists(path):
            try:
                with opened(path, "rt", encoding="utf-8", newline="\n") as f:
                    text = f.read()
            except (OSError, UnicodeDecodeError, lzma.LZMAError) as e:
                raise BadText("%s: %s" % (path, e)) from e
            if not text.strip():
                raise BadText("%s: no text in it" % path)
            return text
    raise BadText("%s: neither %s.txt nor %s.txt.xz is there" % (directory, split, split))


def wikitext(directory):
    return {split: read(directory, split) for split in SPLITS}


def quick(path):
    """A small text in three parts, cut at empty lines: its last tenths are validation and test."""
    with open(path, encoding="utf-8", newline="\n") as f:
        text = f.read()
    cuts = [text.index("\n\n", len(text) * share // 10) + 2 for share in (8, 9)]
    return {"train": text[:cuts[0]], "valid": text[cuts[0]:cuts[1]], "test": text[cuts[1]:]}


def lay_out(texts, directory):
    """Writes them where deq reads them; what is there already must be the same, for runs have seen it."""
    os.makedirs(directory, exist_ok=True)
    for split, text in texts.items():
        path = os.path.join(directory, split + ".txt")
        if os.path.exists(path):
            with open(path, encoding="utf-8", newline="\n") as f:
                if f.read() != text:
                    raise BadText("%s is not the text that this was begun with: another WORK=, or remove it" % path)
            continue
        with open(path + ".tmp", "w", encoding="utf-8", newline="\n") as f:
            f.write(text)
        os.replace(path + ".tmp", path)
