"""The READMEs as texts: how wide and long they are, and that what links lead to is there. Silent when all is well.

README.md has at most 150 lines of 100 characters, other *.md lines of 120. Not counted are rows of tables, of which a
line is a row whatever it holds, and indented commands, which are copied as they stand and may be broken by who writes
them. A relative link leads to a file or directory, what stands behind # to a heading or an <a id=...> there;
what stands in backticks as a whole path of a file, or as the name of one in C, is there too."""
import os
import re
import sys

FRONT, FRONT_LINES, FRONT_WIDTH, WIDTH = "README.md", 150, 100, 120


def texts():
    for at, rooms, files in os.walk("."):
        rooms[:] = sorted(r for r in rooms if r not in (".git", "build", "node_modules", "__pycache__") and
                          not r.endswith("-venv"))
        yield from (os.path.relpath(os.path.join(at, f)) for f in sorted(files) if f.endswith(".md"))


SOURCES = {f for room in ("core", "server", "models", "tests") for _, _, files in os.walk(room) for f in files}


def prose(text):
    """Without what is code."""
    text = re.sub(r"^( *)```.*?^ *```$", "", text, flags=re.M | re.S)
    return re.sub(r"(`+).*?\1", lambda m: "`" * len(m[0]), re.sub(r"^    .*$", "", text, flags=re.M), flags=re.S)


def anchors(path):
    """Those that GitHub gives headings, and those of one's own."""
    text = open(path).read()
    fenceless = re.sub(r"^( *)```.*?^ *```$", "", text, flags=re.M | re.S)
    found = re.findall(r'<a id="([^"]+)"', text)
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", fenceless, re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        found.append(slug if slug not in found else "%s-%d" % (slug, sum(f.startswith(slug) for f in found)))
    return found


def links(path):
    text = prose(open(path).read())
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"^\[[^\]]+\]: *(\S+)", text, re.M)
    for target in targets + re.findall(r'(?:href|src)="([^"]+)"', text):
        if re.match(r"[a-z][a-z0-9+.-]*:|//", target):
            continue
        name, _, part = target.partition("#")
        there = os.path.normpath(os.path.join(os.path.dirname(path), name)) if name else path
        if not os.path.exists(there):
            yield "%s: %s: %s is not there" % (path, target, there)
        elif part and there.endswith(".md") and part not in anchors(there):
            yield "%s: %s: no heading or id %s" % (path, target, part)


def paths(path):
    """Files of this project that a text names by their whole path, and those in C that it names at all; NAME stands for
    one that is to be made."""
    text = open(path).read()
    for name in re.findall(r"`((?:core|server|models|tests|etc|docker)/[\w./-]+)`", text):
        if not os.path.exists(name) and "NAME" not in name:
            yield "%s: %s is not there" % (path, name)
    for name in re.findall(r"`(?:[\w./-]*/)?(\w+\.[ch])`", text):
        if name not in SOURCES and "NAME" not in name:
            yield "%s: there is no %s" % (path, name)


def widths(path):
    lines, most = open(path).read().splitlines(), FRONT_WIDTH if path == FRONT else WIDTH
    if path == FRONT and len(lines) > FRONT_LINES:
        yield "%s: %d lines, at most %d" % (path, len(lines), FRONT_LINES)
    for i, line in enumerate(lines, 1):
        if len(line) > most and not line.startswith(("|", "    ")):
            yield "%s:%d: %d characters, at most %d" % (path, i, len(line), most)


bad = 0
for text in texts():
    wide = list(widths(text))
    for what in [*wide, *links(text), *paths(text)]:
        print(what)
        bad = 1
sys.exit(bad)
