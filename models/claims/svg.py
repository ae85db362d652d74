"""Line charts as SVG, without a library."""
import html
import math

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 78, 190, 40, 56
# told apart by those who see colours otherwise, too (Okabe and Ito)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLE = "font-family='sans-serif' font-size='12' fill='#222'"


def _ticks(low, high, log):
    if log:
        steps = (1, 2, 5) if high / low < 100 else (1,)
        first = math.floor(math.log10(low))
        every = [m * 10.0 ** e for e in range(first, math.ceil(math.log10(high)) + 1) for m in steps]
        return [t for t in every if low <= t <= high]
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
    first = math.ceil(low / step)
    return [i * step for i in range(first, int(high / step + 1e-9) + 1)]


class _Axis:
    def __init__(self, values, log, at, size):
        low, high = min(values), max(values)
        if low == high:
            low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
        margin = 0.04
        if log:
            factor = (high / low) ** margin
            low, high = low / factor, high * factor
        else:
            low, high = low - margin * (high - low), high + margin * (high - low)
        self.low, self.high, self.log, self.at, self.size = low, high, log, at, size

    def place(self, value):
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.at + share * self.size

    def ticks(self):
        return _ticks(self.low, self.high, self.log)


def _text(x, y, text, more=""):
    return "<text x='%.1f' y='%.1f' %s %s>%s</text>" % (x, y, STYLE, more, html.escape(text))


def chart(title, x_label, y_label, series, log_x=False, log_y=False):
    """series: [(label, [(x, y)], colour, dashed)], colour an index. Values on a log axis are above 0."""
    points = [p for _, line, _, _ in series for p in line]
    x = _Axis([p[0] for p in points], log_x, LEFT, WIDTH - LEFT - RIGHT)
    y = _Axis([p[1] for p in points], log_y, HEIGHT - BOTTOM, TOP + BOTTOM - HEIGHT)
    out = ["<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' width='%d' height='%d'>"
           % (WIDTH, HEIGHT, WIDTH, HEIGHT),
           "<rect width='%d' height='%d' fill='#fff'/>" % (WIDTH, HEIGHT),
           _text(LEFT, 24, title, "font-weight='bold'")]
    grid = "<line x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f' stroke='#ddd'/>"
    for t in x.ticks():
        at = x.place(t)
        out.append(grid % (at, TOP, at, HEIGHT - BOTTOM))
        out.append(_text(at, HEIGHT - BOTTOM + 18, "%g" % t, "text-anchor='middle'"))
    for t in y.ticks():
        at = y.place(t)
        out.append(grid % (LEFT, at, WIDTH - RIGHT, at))
        out.append(_text(LEFT - 8, at + 4, "%g" % t, "text-anchor='end'"))
    out.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, x_label, "text-anchor='middle'"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(_text(20, middle, y_label, "text-anchor='middle' transform='rotate(-90 20 %.1f)'" % middle))
    for i, (label, line, colour, dashed) in enumerate(series):
        drawn = "stroke='%s' stroke-width='2' fill='none'%s" % (COLOURS[colour % len(COLOURS)],
                                                               " stroke-dasharray='6 4'" if dashed else "")
        out.append("<polyline points='%s' %s/>"
                   % (" ".join("%.1f,%.1f" % (x.place(a), y.place(b)) for a, b in line), drawn))
        at = TOP + 12 + 18 * i
        out.append("<line x1='%d' y1='%d' x2='%d' y2='%d' %s/>"
                   % (WIDTH - RIGHT + 12, at - 4, WIDTH - RIGHT + 36, at - 4, drawn))
        out.append(_text(WIDTH - RIGHT + 42, at, label))
    out.append("</svg>")
    return "\n".join(out) + "\n"


def stack(charts):
    """One picture of several, two side by side."""
    columns = min(len(charts), 2)
    rows = -(-len(charts) // columns)
    placed = [c.replace("<svg ", "<svg x='%d' y='%d' " % (i % columns * WIDTH, i // columns * HEIGHT), 1)
              for i, c in enumerate(charts)]
    return ("<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' width='%d' height='%d'>\n%s</svg>\n"
            % ((columns * WIDTH, rows * HEIGHT) * 2 + ("".join(placed),)))
