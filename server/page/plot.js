// Plots as inline SVG: residual curves, bars a token, the wavefront, a quantity over time. Each has a title and a
// description for who cannot see it; colours are classes of style.css.
import {num, svg} from "./dom.js";

const PAD = {left: 44, right: 12, top: 26, bottom: 30};

let drawings = 0;

function frame(width, height, title, desc, kind, ...children) {
    const id = `drawing${drawings++}`;
    return svg("svg", {viewBox: `0 0 ${width} ${height}`, width, height, class: `drawing ${kind}`, role: "img",
                       "aria-labelledby": `${id}t ${id}d`},
               svg("title", {id: `${id}t`}, title), svg("desc", {id: `${id}d`}, desc), children);
}

const line = (x1, y1, x2, y2, kind) => svg("line", {x1, y1, x2, y2, class: kind});

function label(x, y, text, anchor = "middle", kind = "") {
    return svg("text", {x, y, "text-anchor": anchor, class: kind}, text);
}

// A round step that gives at most so many intervals.
function niceStep(span, most) {
    const raw = Math.max(span / most, 1e-12), power = 10 ** Math.floor(Math.log10(raw));
    return [1, 2, 5, 10].map(m => m * power).find(step => step >= raw * 0.999);
}

// Whole numbers along the x axis.
function xTicks(low, high, x, height, most, name) {
    const step = Math.max(1, niceStep(high - low, most)), out = [];
    for (let v = Math.ceil(low / step) * step; v <= high; v += step)
        out.push(label(x(v), height - PAD.bottom + 15, num(v)));
    out.push(label(x(high) + PAD.right, height - 2, name, "end", "axis"));
    return out;
}

// --- Residuals after each evaluation; y is logarithmic ---

// series: [{values, level, first, name}]; first: the evaluation of values[0]. range: {low, high, last} of a plot
// beside it.
export function curves(series, {width, height, tol, title, desc, range, onChoose, marks = false}) {
    const all = series.flatMap(s => s.values).filter(v => v > 0).concat(range ? [range.low, range.high] : []);
    const low = Math.floor(Math.log10(Math.min(...all, tol || 1, 1)) - 0.05);
    const high = Math.max(Math.ceil(Math.log10(Math.max(...all, tol || 0, 1e-9))), low + 1);
    const last = Math.max(2, range?.last ?? 0, ...series.map(s => s.first + s.values.length - 1));
    const x = n => PAD.left + (n - 1) / (last - 1) * (width - PAD.left - PAD.right);
    const y = v => PAD.top + (high - Math.log10(Math.max(v, 10 ** low))) / (high - low) *
                   (height - PAD.top - PAD.bottom);
    const grid = [];
    for (let e = low, step = Math.ceil((high - low) / 5); e <= high; e += step) {
        grid.push(line(PAD.left, y(10 ** e), width - PAD.right, y(10 ** e), "grid"),
                  label(PAD.left - 6, y(10 ** e) + 4, num(10 ** e, 1), "end"));
    }
    const drawn = series.map((s, at) => {
        if (!s.values.length) return null;
        const points = s.values.map((v, i) => v > 0 || v === 0 ? [x(s.first + i), y(v)] : null).filter(Boolean);
        const path = points.map(p => p.map(c => c.toFixed(1)).join(",")).join(" ");
        return svg("g", {class: `curve s${s.level}`, onclick: onChoose && (() => onChoose(at))},
                   s.name ? svg("title", {}, s.name) : null,
                   points.length > 1 ? svg("polyline", {points: path}) : null,
                   (marks ? points : points.slice(-1)).map(([cx, cy]) => svg("circle", {cx, cy, r: marks ? 4 : 2.2})));
    });
    return frame(width, height, title, desc, "curves", grid,
                 xTicks(1, last, x, height, Math.min(last, width / 50), "evaluation"),
                 tol ? [line(PAD.left, y(tol), width - PAD.right, y(tol), "tol"),
                        label(width - PAD.right, y(tol) - 5, `tolerance ${num(tol)}`, "end", "tol-text")] : null,
                 drawn, label(4, 11, "residual", "start", "axis"));
}

// --- A bar a token ---

// list: [{value, level, name}]; most: what the axis reaches to.
export function bars(list, {width, height, title, desc, unit, most, onChoose}) {
    const slot = (width - PAD.left - PAD.right) / Math.max(list.length, 12);
    const x = i => PAD.left + i * slot;
    const y = v => height - PAD.bottom - v / most * (height - PAD.top - PAD.bottom);
    const step = Math.max(1, niceStep(most, 4)), grid = [];
    for (let v = 0; v <= most; v += step)
        grid.push(line(PAD.left, y(v), width - PAD.right, y(v), "grid"), label(PAD.left - 6, y(v) + 4, num(v), "end"));
    const gap = slot > 5 ? 1 : 0;
    const drawn = list.map((b, i) => svg(
        "rect", {x: (x(i) + gap / 2).toFixed(2), width: Math.max(slot - gap, 0.8).toFixed(2),
                 y: y(b.value ?? 0).toFixed(2), height: (height - PAD.bottom - y(b.value ?? 0)).toFixed(2),
                 class: `f${b.level}`, onclick: onChoose && (() => onChoose(i))},
        svg("title", {}, b.name)));
    const xs = n => x(n - 1) + slot / 2;
    return frame(width, height, title, desc, "bars", grid, drawn,
                 xTicks(1, list.length, xs, height, Math.min(list.length, width / 60), "token"),
                 label(4, 11, unit, "start", "axis"));
}

// --- The wavefront: positions downwards, steps to the right ---

// Where a row's boxes stand. from, to: steps, which the view and `until` cut.
function boxOf(r, view, from, to, kind) {
    const begin = Math.max(from, view.steps[0]), end = Math.min(to, view.until, view.steps[1]);
    return end < begin ? null : svg("rect", {
        x: (view.x(begin) + 0.5).toFixed(2), width: Math.max((end - begin + 1) * view.cell - 1, 0.6).toFixed(2),
        y: (view.y(r.position) + 1).toFixed(2), height: (view.tall - 2).toFixed(2), rx: Math.min(2, view.cell / 4),
        class: kind,
    });
}

function cross(r, {x, y, cell, tall}) {
    const cx = x(r.left + 1) - cell / 2, cy = y(r.position) + tall / 2, d = Math.min(cell, tall) / 4;
    return [line(cx - d, cy - d, cx + d, cy + d, "cross"), line(cx - d, cy + d, cx + d, cy - d, "cross")];
}

function waveRow(r, view) {
    const over = r.left <= view.until, wrong = over && r.fate !== "committed" && r.fate !== "end";
    const boxes = wrong ? [boxOf(r, view, r.entered, r.left, "dropped")]
        : [boxOf(r, view, r.entered, Math.min(r.front - 1, r.left), "ahead"),
           boxOf(r, view, Math.max(r.front, r.entered), r.left, "front")];
    return svg("g", {}, svg("title", {}, r.name), boxes,
               wrong && view.cell >= 5 && r.left <= view.steps[1] ? cross(r, view) : null,
               over && r.text && view.names ? label(view.x(r.left + 1) + 4, view.y(r.position) + view.tall - 3.5,
                                                    r.text, "start", "token-name") : null);
}

// rows: [{position, entered, left, front, fate: "committed" | "guess" | "end" | "nan", text, name}]; front: the step
// from which all before it was final. until: what happened later is not drawn. steps, positions: the first and the last
// in sight.
export function wavefront(rows, {width, title, desc, until, steps, positions}) {
    const names = width > 480 ? 96 : 0, left = 40, top = 6, n = steps[1] - steps[0] + 1;
    const cell = Math.min(26, (width - left - names - 8) / n), tall = Math.min(18, Math.max(13, cell));
    const x = s => left + (s - steps[0]) * cell, y = p => top + (p - positions[0]) * tall;
    const bottom = y(positions[1] + 1), height = bottom + PAD.bottom;
    const view = {x, y, cell, tall, until, steps, names}, out = [];
    for (let s = steps[0], by = Math.max(1, niceStep(n, width / 50)); s <= steps[1]; s += by)
        out.push(line(x(s), top, x(s), bottom, "grid"), label(x(s) + cell / 2, bottom + 14, num(s)));
    for (let p = positions[0]; p <= positions[1]; p += 5) out.push(label(left - 6, y(p) + tall - 3, num(p), "end"));
    for (const r of rows)
        if (r.position >= positions[0] && r.position <= positions[1] && r.entered <= until && r.left >= steps[0])
            out.push(waveRow(r, view));
    if (until < steps[1]) out.push(line(x(until + 1), top, x(until + 1), bottom, "now"));
    out.push(label(x(steps[1] + 1), height - 2, "step", "end", "axis"));
    return frame(width, height, title, desc, "wavefront", out);
}

// --- A quantity over the last minutes ---

// lines: [{values, name}] of equal length, null where nothing is known; the newest value stands at the right end.
export function overTime(lines, {width, height, title, desc, most = 0, format = num, slots}) {
    const top = most || niceStep(Math.max(...lines.flatMap(l => l.values).filter(v => v !== null), 1), 1);
    const x = i => 1 + (slots - 1 - i) / (slots - 1) * (width - 2);
    const y = v => height - 1 - v / top * (height - 16);
    const drawn = lines.map((l, k) => {
        const runs = [[]];
        l.values.forEach((v, i) => v === null ? runs.push([]) : runs.at(-1).push([x(l.values.length - 1 - i), y(v)]));
        return runs.filter(r => r.length).map(r => {
            const points = r.map(p => p.map(c => c.toFixed(1)).join(",")).join(" ");
            const under = `${r[0][0].toFixed(1)},${height} ${points} ${r.at(-1)[0].toFixed(1)},${height}`;
            return svg("g", {class: `line l${k}`}, k ? null : svg("polygon", {points: under}),
                       svg("polyline", {points}));
        });
    });
    return frame(width, height, title, desc, "over-time",
                 line(0, height - 0.5, width, height - 0.5, "grid"), line(0, 15.5, width, 15.5, "grid"),
                 label(width, 11, format(top), "end"), drawn);
}
