#!/usr/bin/env python3
"""Writes what READMEs say that programs say themselves, between `<!-- NAME -->` and `<!-- end -->`: every command's
--help in models/cli/README.md, every key of a recipe in models/recipes/README.md. python3 tests/tools/printed.py, after
make; tests/e2e/model_chapters.py compares."""
import os
import re
import subprocess
import sys
import tempfile
import textwrap

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DEQ = os.path.join(ROOT, os.environ.get("DEQ_BUILD", "build"), "deq")
CLI, RECIPES = "models/cli/README.md", "models/recipes/README.md"
KINDS = ("transformer", "trellis", "looped")
WIDTH = 120


def said(*args):
    return subprocess.run([DEQ, *args], check=True, capture_output=True, text=True).stdout


def help_of(command):
    return "```text\n%s```" % said(*command.split(), "--help")


def keys_of(kind):
    """(key, default, meaning) of every row of a kind's recipe, as --print-recipe has them."""
    with tempfile.TemporaryDirectory() as tmp:
        recipe = os.path.join(tmp, "recipe.yaml")
        with open(recipe, "w") as f:
            f.write("model:\n  type: %s\n" % kind)
        text = said("train", recipe, "--out", os.path.join(tmp, "out"), "--print-recipe")
    section, help_text, rows = None, "", []
    for line in text.split("\n"):
        if re.match(r"\w+:$", line):
            section = line[:-1]
        elif line.startswith("  # "):
            help_text = line[4:]
        elif row := re.match(r"  (\w+): (.*)", line):
            rows.append(("%s.%s" % (section, row[1]), row[2], help_text))
    return rows


def yaml_of(rows):
    lines, section = ["```yaml"], None
    for key, default, meaning in rows:
        if section != key.split(".")[0]:
            section = key.split(".")[0]
            lines.append(section + ":")
        lines += textwrap.wrap("  # " + meaning, WIDTH, subsequent_indent="  # ", break_long_words=False,
                               break_on_hyphens=False)
        lines.append("  %s: %s" % (key.split(".")[1], default))
    return "\n".join(lines + ["```"])


def recipe_keys():
    """Of all kinds, and what each has of its own under model."""
    of = {kind: keys_of(kind) for kind in KINDS}
    names = {kind: {k for k, _, _ in rows} for kind, rows in of.items()}
    shared = set.intersection(*(set(rows) for rows in of.values()))
    shared |= {r for r in of["transformer"] if r[0] == "model.type"}
    found = {}
    for section in sorted({k.split(".")[0] for k in names["transformer"]}):
        found["recipe: %s" % section] = yaml_of([r for r in of["transformer"] if r in shared and
                                               r[0].startswith(section + ".")])
    for kind, rows in of.items():
        found["recipe: model of a %s" % kind] = yaml_of([r for r in rows if r not in shared and r[0] != "model.type"])
    return found


def fill(text, found):
    """The text with each of these between its markers; one without a place, and a place without one, is a mistake."""
    places = set(re.findall(r"<!-- ((?:help|recipe): .*?) -->", text))
    if places != set(found):
        raise ValueError("no place for %s; nothing for %s" % (sorted(set(found) - places), sorted(places - set(found))))
    for name, new in found.items():
        text = re.sub(r"(<!-- %s -->\n).*?(<!-- end -->)" % re.escape(name),
                      lambda m, new=new: "%s%s\n%s" % (m[1], new, m[2]), text, flags=re.S)
    return text


def listed(*args, section="Commands|Kinds"):
    """{name: what it is} of a section of `deq ARGS --help`."""
    section = re.search(r"^(?:%s):\n((?:  .*\n)+)" % section, said(*args, "--help"), re.M)[1]
    return {name: " ".join(about.split()) for name, about in
            re.findall(r"^  (\w+) +(\S.*\n(?: {4,}.*\n)*)", section, re.M)}


def commands():
    """Every command that has flags."""
    for name in listed():
        yield from ("%s %s" % (name, kind) for kind in listed(name)) if name in ("bench", "tokenizer") else (name,)


def made():
    """{file: what stands between its markers}"""
    yield CLI, {"help: " + c: help_of(c) for c in commands()}
    yield RECIPES, recipe_keys()


def main():
    for path, found in made():
        path = os.path.join(ROOT, path)
        with open(path, encoding="utf-8") as f:
            text = f.read()
        with open(path, "w", encoding="utf-8") as f:
            f.write(fill(text, found))


if __name__ == "__main__":
    sys.exit(main())
