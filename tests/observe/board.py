"""Draws a Grafana board without Grafana: the panels of its JSON, in its layout, from the answers of a Prometheus to its
queries. It knows the kinds of panels, units and options that etc/grafana/deqd.json has, and no more."""
import datetime
import math
import re

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator  # noqa: E402

WIDTH, CELL, GAP, HEAD = 1600, 32, 5, 46  # pixels: the board, a row of its grid, between panels, above them
DPI = 100
INK, FAINT, EDGE, GROUND = "#24292e", "#6e757c", "#dcdfe3", "#f4f5f7"
PALETTE = ("#56A64B", "#E0B400", "#3274D9", "#FF780A", "#E02F44", "#8F3BB8", "#37872D", "#1F60C4", "#B877D9", "#806EB7")
NAMED = {"green": "#37872D", "orange": "#E0730A", "red": "#C4162A", "text": INK, "semi-dark-red": "#E02F44"}


def human(x, unit):
    """A number as Grafana writes it, in short."""
    if x is None or x != x:
        return "–"
    if unit == "percentunit":
        return "%.3g%%" % (100 * x)
    if unit == "s":
        for factor, name in ((1, " s"), (1e-3, " ms"), (1e-6, " µs")):
            if abs(x) >= factor or name == " µs":
                return "0 s" if not x else "%.3g%s" % (x / factor, name)
    if unit == "bytes":
        for factor, name in ((1 << 30, " GiB"), (1 << 20, " MiB"), (1 << 10, " KiB")):
            if abs(x) >= factor:
                return "%.3g%s" % (x / factor, name)
        return "%.3g B" % x
    tail = "/s" if unit == "reqps" else ""
    for factor, name in ((1e6, "M"), (1e4, "K")):
        if abs(x) >= factor:
            return "%.3g%s%s" % (x / (1e3 if name == "K" else factor), name, tail)
    return ("%.0f" if abs(x) >= 100 else "%.3g") % x + tail


def named(template, labels):
    return re.sub(r"\{\{(\w+)\}\}", lambda m: labels.get(m.group(1), ""), template)


class Panel:
    """One panel: its place on the figure, in pixels from the top left."""

    def __init__(self, fig, height, p):
        g, cell = p["gridPos"], WIDTH / 24
        self.fig, self.full, self.p = fig, height, p
        self.x, self.y = g["x"] * cell + GAP / 2 + 3, g["y"] * CELL + HEAD + GAP / 2
        self.w, self.h = g["w"] * cell - GAP - (6 if g["x"] + g["w"] == 24 else 0), g["h"] * CELL - GAP
        self.defaults = p.get("fieldConfig", {}).get("defaults", {})
        self.unit = self.defaults.get("unit", "short")

    def axes(self, left, top, right, bottom, **more):
        """Axes with these margins inside the panel."""
        return self.fig.add_axes([(self.x + left) / WIDTH, 1 - (self.y + self.h - bottom) / self.full,
                                  (self.w - left - right) / WIDTH,
                                  (self.h - top - bottom) / self.full], **more)

    def text(self, x, y, s, **more):
        return self.fig.text((self.x + x) / WIDTH, 1 - (self.y + y) / self.full, s, va=more.pop("va", "center"), **more)

    def card(self):
        self.fig.add_artist(FancyBboxPatch((self.x / WIDTH, 1 - (self.y + self.h) / self.full), self.w / WIDTH,
                                           self.h / self.full, boxstyle="square,pad=0",
                                           fc="white", ec=EDGE, lw=0.8, zorder=-1))
        self.text(9, 14, self.p["title"], fontsize=9.5, fontweight="bold", color=INK)

    def override(self, name):
        """Properties of the overrides of a series, by id."""
        return {q["id"]: q["value"] for o in self.p["fieldConfig"]["overrides"] if o["matcher"] == {"id": "byName",
                                                                                                    "options": name}
                for q in o["properties"]}

    def plain(self, ax):
        ax.set_facecolor("none")
        for side in ("top", "right", "left", "bottom"):
            ax.spines[side].set_visible(False)
        ax.tick_params(length=0, labelsize=7.5, colors=FAINT, pad=3)

    def clock(self, ax, span):
        ax.set_xlim(*span)
        step = next(s for s in (5, 10, 15, 30, 60, 300, 600, 1800,
                                3600) if (span[1] - span[0]) / s <= max(3, self.w / 85))
        end = span[1] - 0.04 * (span[1] - span[0])  # a label at the edge would leave the panel
        ticks = [t for t in range(int(span[0]) // step * step, int(end) + 1, step) if t >= span[0]]
        ax.set_xticks(ticks, [datetime.datetime.fromtimestamp(t).strftime("%H:%M:%S") for t in ticks])

    def legend(self, entries):
        """Handles and names in lines at the bottom, as many as fit beside each other; returns the height that they
        take."""
        lines, used = [[]], 0
        for color, name, style in entries:
            wide = 26 + 6.6 * len(name)
            if used and used + wide > self.w - 20:
                lines.append([])
                used = 0
            lines[-1].append((used, color, name, style))
            used += wide
        top = self.h - 15 * len(lines)
        for i, line in enumerate(lines):
            for x, color, name, style in line:
                y = top + 15 * i + 5
                self.fig.add_artist(plt.Line2D([(self.x + 11 + x) / WIDTH, (self.x + 24 + x) / WIDTH],
                                               [1 - (self.y + y) / self.full] * 2, color=color, lw=2.2, ls=style))
                self.text(28 + x, y, name, fontsize=7.5, color=INK)
        return 15 * len(lines) + 4


def series_of(panel, prom, span, expand):
    """[(name, times, values)] of all queries, in their order."""
    return [(named(t["legendFormat"], labels), [x for x, _ in points], [v for _, v in points])
            for t in panel.p["targets"] for labels,
            points in sorted(prom.range(expand(t["expr"]), *span), key=lambda s: sorted(s[0].items()))]


def draw_lines(panel, prom, span, expand):
    found = series_of(panel, prom, span, expand)
    custom = panel.defaults["custom"]
    stacked = custom["stacking"]["mode"] == "normal"
    styles = []
    for i, (name, _, _) in enumerate(found):
        o = panel.override(name)
        color = NAMED[o["color"]["fixedColor"]] if "color" in o else PALETTE[i % len(PALETTE)]
        styles.append((o, color, "--" if "custom.lineStyle" in o else "-"))
    twin = [(name, o) for (name, _, _), (o, _, _) in zip(found, styles) if o.get("custom.axisPlacement") == "right"]
    low = panel.legend([(c, name + (" (right)" if o.get("custom.axisPlacement") == "right" else ""),
                         ls) for (name, _, _), (o, c, ls) in zip(found, styles)])
    ax = panel.axes(56, 30, 52 if twin else 14, low + 20)
    right = ax.twinx() if twin else None
    grid = sorted({t for _, ts, _ in found for t in ts})
    base = [0.0] * len(grid)
    for (name, ts, vs), (o, color, ls) in zip(found, styles):
        at = dict(zip(ts, vs))
        ys = [at.get(t, math.nan) for t in grid]
        on = right if o.get("custom.axisPlacement") == "right" else ax
        if stacked:
            top = [b + (0 if y != y else y) for b, y in zip(base, ys)]
            on.fill_between(grid, base, top, color=color, alpha=0.28, lw=0)
            base = ys = top
        on.plot(grid, ys, color=color, lw=1.4, ls=ls)
    for a, unit in ((ax, panel.unit), (right, twin[0][1].get("unit", panel.unit) if twin else "")):
        if not a:
            continue
        panel.plain(a)
        if "min" in panel.defaults:
            a.set_ylim(bottom=0)
        if "max" in panel.defaults and a is ax:
            a.set_ylim(top=panel.defaults["max"])
        if not any(abs(y) > 0 for line in a.get_lines() for y in line.get_ydata()):
            a.set_ylim(0, 1)
        if unit == "bytes":  # round in powers of two
            a.yaxis.set_major_locator(MultipleLocator(2 ** max(0, math.ceil(math.log2(max(a.get_ylim()[1], 1) / 5)))))
        else:
            a.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        a.yaxis.set_major_formatter(FuncFormatter(lambda v, _, u=unit: human(v, u)))
    ax.grid(color="#eceef0", lw=0.8)
    ax.set_axisbelow(True)
    panel.clock(ax, span)


def draw_stat(panel, prom, span, expand):
    found = series_of(panel, prom, span, expand)
    ts, vs = found[0][1:] if found else ([], [])
    last = next((v for v in reversed(vs) if v == v), None)
    color = panel.defaults["color"]
    shade = NAMED[color["fixedColor"]] if color["mode"] == "fixed" else NAMED["green"]
    if color["mode"] == "thresholds" and last is not None:
        shade = NAMED[[s["color"] for s in panel.defaults["thresholds"]["steps"] if s["value"] is None or
                       last >= s["value"]][-1]]
    panel.text(panel.w / 2, 0.46 * panel.h, human(last, panel.unit), fontsize=21, fontweight="bold", color=shade,
               ha="center")
    ax = panel.axes(1, 0.62 * panel.h, 1, 1)
    ax.fill_between(ts, vs, color=shade, alpha=0.16, lw=0)
    ax.plot(ts, vs, color=shade, lw=1.2)
    ax.set_xlim(*span)
    ax.set_ylim(0, 1.15 * max([v for v in vs if v == v] + [1e-9]))
    ax.axis("off")


def draw_heatmap(panel, prom, span, expand):
    """Buckets come cumulative, by le; a cell is what one bucket has more than the one below."""
    found = sorted(((float(name.replace("+Inf", "inf")), dict(zip(ts, vs))) for name, ts,
                    vs in series_of(panel, prom, span, expand)), key=lambda s: s[0])
    grid = sorted({t for _, at in found for t in at})
    below = {t: 0 for t in grid}
    rows = []
    for _, at in found:
        # the exponent of the board's colours
        rows.append([max(0, at.get(t, 0) - below[t]) ** 0.5 or math.nan for t in grid])
        below = {t: at.get(t, 0) for t in grid}
    ax = panel.axes(56, 30, 14, 30)
    ax.pcolormesh(grid, range(len(rows)), rows, cmap="Blues", shading="nearest", rasterized=True, vmin=0)
    panel.plain(ax)
    ax.set_yticks([i + 0.5 for i in range(len(rows))], ["%g" % b if b < math.inf else "" for b, _ in found])
    ax.set_ylim(-0.5, len(rows) - 0.5)
    panel.clock(ax, span)


def draw_table(panel, prom, span, expand):
    order = panel.p["transformations"][0]["options"]["indexByName"]
    names = sorted(order, key=order.get)
    for row, cells in enumerate([names] + [[m.get(n, "") for n in names] for m,
                                           _ in prom.query(expand(panel.p["targets"][0]["expr"]), span[1])]):
        for i, c in enumerate(cells):
            panel.text(14 + i * (panel.w - 28) / len(names), 44 + 24 * row, c, fontsize=8.5,
                       color=INK if row else FAINT, fontweight="normal" if row else "bold")


def draw(board, prom, start, end, expand, path):
    """expand: puts values for the board's variables into a query."""
    kinds = {"timeseries": draw_lines, "stat": draw_stat, "heatmap": draw_heatmap, "table": draw_table}
    height = HEAD + CELL * max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"]) + 8
    fig = plt.figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=GROUND)
    fig.text(12 / WIDTH, 1 - 23 / height, board["title"], fontsize=15, fontweight="bold", color=INK, va="center")
    fig.text(1 - 12 / WIDTH, 1 - 23 / height,
             "the queries of etc/grafana/deqd.json, answered by Prometheus, drawn by tests/observe/board.py "
             "(not a screenshot of Grafana)", fontsize=8.5, color=FAINT, va="center", ha="right")
    for p in board["panels"]:
        panel = Panel(fig, height, p)
        if p["type"] == "row":
            panel.text(6, panel.h / 2 + 2, "▾  " + p["title"], fontsize=11, fontweight="bold", color=INK)
            continue
        panel.card()
        kinds[p["type"]](panel, prom, (start, end), expand)
    fig.savefig(path, dpi=DPI, facecolor=GROUND, pil_kwargs={"optimize": True})
    plt.close(fig)
    shrink(path)


def shrink(path):
    """To a palette: charts have few colours."""
    from PIL import Image  # comes with matplotlib
    with Image.open(path) as im:
        im.convert("RGB").quantize(128, method=Image.Quantize.MEDIANCUT,
                                   dither=Image.Dither.NONE).save(path, optimize=True)
