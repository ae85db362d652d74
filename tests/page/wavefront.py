#!/usr/bin/env python3
"""The README's moving picture of the wavefront, an SVG without scripts: how one answer of the daemon was solved.

    python3 tests/page/wavefront.py [FILE]        core/wavefront.svg, when nothing is named

It starts a daemon on the shipped model, asks for an answer with its trace, and draws what the trace says: a line a
position of the text, a column a step of the engine; a cell is one evaluation of f, coloured by the residual that it
left. Who prefers reduced motion sees the last picture alone. Standard library only.
"""
import html
import math
import os
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
import lib  # noqa: E402

PROMPT = "Once upon a time"
REQUEST = {"max_tokens": 23, "temperature": 0.5, "seed": 3, "include": ["deq.trace"], "logprobs": 0,
           "deq": {"tol": 1e-2, "window": 8}}
WIDTH, LEFT, TOP, CELL, LINE, RIGHT = 960, 110, 84, 18, 16, 24
LETTER = 9.03  # of 15 pixels
SECONDS_A_STEP, SECONDS_STILL = 0.22, 3.5
# residuals from large to small: told apart in grey too
SHADES = ("#dcebed", "#a9d0d6", "#62a7b3", "#2b7d8c", "#0d525f")
WRONG, INK, FAINT = "#d1662b", "#17292d", "#5c6f73"
FONT = "font-family='system-ui,sans-serif'"


def shade(residual, tol):
    """The last is of what is converged; the others by tenth powers above it."""
    if residual <= tol:
        return SHADES[-1]
    return SHADES[max(0, 3 - int(2 * math.log10(residual / tol)))]


def text(x, y, what, more):
    return "<text x='%.1f' y='%.1f' %s>%s</text>" % (x, y, more, html.escape(what))


def cell(x, y, width, height, paint, more=""):
    """paint None: a row that a wrong guess cost."""
    look = "fill='%s'" % paint if paint else "fill='none' stroke='%s' stroke-width='1.6'" % WRONG
    inset = 1 if paint else 2
    return "<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' rx='2' %s %s/>" % (
        x + inset, y + inset, width - 2 * inset, height - 2 * inset, look, more)


def since(step, last):
    """Not seen before that step."""
    return "class='m s%d'" % min(step, last)


def written(rows, tokens, last):
    """The text, a token when it is final."""
    out, x, y = [], 24, 40
    for row, word in zip((None, *rows), (PROMPT, *tokens)):
        size = LETTER * len(word)
        if x + size > WIDTH - 24:
            x, y, word = 24, y + 24, word.lstrip()
            size = LETTER * len(word)
        out.append(text(x, y, word, "font-size='15' font-family='monospace' xml:space='preserve' textLength='%.1f' "
                        "fill='%s' %s" % (size, INK if row else FAINT, since(row["committed"], last) if row else "")))
        x += size
    return out


def legend(y):
    out, x = [], LEFT
    for label, paint in (("far from its equilibrium", SHADES[0]), ("", SHADES[1]), ("", SHADES[2]), ("", SHADES[3]),
                         ("solved", SHADES[4]), ("on a wrong guess, given up", None)):
        out.append(cell(x, y, 14, 14, paint))
        if label:
            out.append(text(x + 18, y + 11, label, "font-size='12' fill='%s'" % FAINT))
        x += 17 + (6.2 * len(label) + 14 if label else 0)
    return out


def style(first, last):
    """Everything is there at the end; a keyframe a step hides it until then."""
    whole = (last - first + 1) * SECONDS_A_STEP + SECONDS_STILL
    out = [".m{animation-duration:%.1fs;animation-iteration-count:infinite;animation-timing-function:step-end}" % whole]
    for step in range(first, last + 1):
        at = 100 * (step - first) * SECONDS_A_STEP / whole
        out.append("@keyframes k%d{0%%{opacity:0}%.2f%%{opacity:1}}.s%d{animation-name:k%d}" % (step, at, step, step))
    out.append("@media (prefers-reduced-motion:reduce){.m{animation:none}}")
    return "<style>%s</style>" % "".join(out)


def draw(o):
    choice = o["choices"][0]
    trace, tokens = choice["deq"]["trace"], choice["logprobs"]["tokens"]
    tol, rows = o["deq"]["tol"], trace["tokens"]
    first, last = rows[0]["entered"], max(r["committed"] for r in rows)
    begin = rows[0]["position"]
    height, step_width = TOP + LINE * len(rows) + 62, min(CELL, (WIDTH - LEFT - RIGHT) / (last - first + 1))
    out = ["<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' role='img' %s>" % (WIDTH, height, FONT),
           "<title>An answer of %d tokens solved in %d steps: rows of several positions are evaluated together</title>"
           % (len(rows), last - first + 1), style(first, last),
           "<rect width='%d' height='%d' rx='10' fill='#fff' stroke='#d5dfe0'/>" % (WIDTH, height)]
    out += written(rows, tokens, last)
    for i, (row, word) in enumerate(zip(rows, tokens)):
        out.append(text(LEFT - 10, TOP + LINE * i + 11, word.replace(" ", "\u2423"),
                        "font-size='12' text-anchor='end' fill='%s' %s" % (INK, since(row["committed"], last))))
    cells = [(r["position"], r["entered"] + k, shade(x, tol)) for r in rows for k, x in enumerate(r["residual"])]
    cells += [(r["position"], step, None) for r in trace["dropped"] for step in range(r["entered"], r["left"] + 1)]
    for position, step, paint in cells:
        if position < begin + len(rows):  # else behind the last token of the answer
            x, y = LEFT + (step - first) * step_width, TOP + LINE * (position - begin)
            out.append(cell(x, y, step_width, LINE, paint, since(step, last)))
    foot = TOP + LINE * len(rows) + 24
    out.append(text(LEFT, foot, "step of the engine: all cells of a column are evaluated together \u2192",
                    "font-size='12' fill='%s'" % FAINT))
    return "\n".join(out + legend(foot + 12)) + "\n</svg>\n"


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "core", "wavefront.svg")
    with lib.Daemon(model=os.path.join(ROOT, "models", "stories-transformer")) as d:
        picture = draw(d.complete(PROMPT, **REQUEST))
    with open(path, "w", encoding="utf-8") as f:
        f.write(picture)


main()
