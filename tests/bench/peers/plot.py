"""The bars beside README.md's table of peers, as SVG, made of the table's last column: how many times as good deqd is.
tests/e2e/readme.py holds the file against the table, and writes it with --write."""
import html
import math

FILE = "tests/bench/peers/beside.svg"
WIDTH, LEFT, RIGHT, TOP, LINE = 760, 330, 60, 34, 30
LOW, HIGH = 0.5, 30  # the axis
STYLE = """
  .paper { fill: #fff; stroke: #d5dfe0 } .ink { fill: #17292d } .faint { fill: #5c6f73 } .line { stroke: #d5dfe0 }
  .one { stroke: #5c6f73 } .better { fill: #2b7d8c } .worse { fill: #d1662b }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #11191b; stroke: #2b3b3f } .ink { fill: #e3edee } .faint { fill: #9fb2b6 } .line { stroke: #2b3b3f }
    .one { stroke: #9fb2b6 } .better { fill: #62a7b3 } .worse { fill: #e08a54 }
  }
"""


def rows(readme):
    """(what, which other one, how many times) of the table whose head begins with "| work |"."""
    lines = readme.split("| work |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    for line in lines:
        what, _, _, other, times = (c.strip() for c in line.strip("|").split("|"))
        yield what, other, float(times.rstrip("x"))


def place(times):
    return LEFT + (WIDTH - LEFT - RIGHT) * math.log(times / LOW) / math.log(HIGH / LOW)


def draw(readme):
    bars = list(rows(readme))
    height = TOP + LINE * len(bars) + 34
    end = height - 30
    out = ["<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' role='img' font-family='system-ui,sans-serif' "
           "font-size='13'>" % (WIDTH, height),
           "<title>How many times as fast as its peers deqd is, or how many times less memory it takes</title>",
           "<style>%s</style>" % STYLE,
           "<rect class='paper' x='.5' y='.5' width='%d' height='%d' rx='10'/>" % (WIDTH - 1, height - 1)]
    for t in (0.5, 1, 2, 5, 10, 20):
        x = place(t)
        out.append("<line class='%s' x1='%.1f' y1='%d' x2='%.1f' y2='%d'/>" % ("one" if t == 1 else "line", x, TOP - 10,
                                                                             x, end))
        out.append("<text class='faint' x='%.1f' y='%d' text-anchor='middle'>%gx</text>" % (x, end + 18, t))
    for i, (what, other, times) in enumerate(bars):
        y = TOP + LINE * i
        left, right = sorted((place(1), place(times)))
        out.append("<text class='ink' x='%d' y='%d' text-anchor='end'>%s</text>"
                   % (LEFT - 14, y + 9, html.escape(what)))
        out.append("<text class='faint' x='%d' y='%d' text-anchor='end' font-size='10'>%s</text>"
                   % (LEFT - 14, y + 21, html.escape("beside " + other)))
        out.append("<rect class='%s' x='%.1f' y='%d' width='%.1f' height='16' rx='2'/>"
                   % ("better" if times >= 1 else "worse", left, y, right - left))
        out.append("<text class='ink' x='%.1f' y='%d'>%s</text>" % (max(right, place(1)) + 6, y + 13, "%gx" % times))
    return "\n".join(out + ["</svg>"]) + "\n"

