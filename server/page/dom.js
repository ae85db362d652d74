// Elements and numbers. Nothing here parses text as HTML: what a model writes is shown, never run.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
        if (value === undefined || value === null || value === false) continue;
        if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
        else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(Infinity).filter(c => c !== null && c !== undefined && c !== false));
    return node;
}

// el("p", {class: "hint", onclick: f}, "text", node, [nodes])
export function el(tag, attributes, ...children) {
    return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes, ...children) {
    return fill(document.createElementNS(SVG, tag), attributes, children);
}

export const byId = id => document.getElementById(id);

// 0.0325, 1.2e-5, 1,234: as many digits as say something.
export function num(x, digits = 3) {
    if (x === null || x === undefined || Number.isNaN(x)) return "–";
    const size = Math.abs(x);
    if (size && (size < 1e-3 || size >= 1e7))
        return x.toExponential(Math.min(digits, 2) - 1).replace(/\.0(?=e)/, "").replace("e+", "e");
    if (size >= 1000) return Math.round(x).toLocaleString("en");
    return String(+x.toPrecision(digits));
}

export function ms(x) {
    return x === null || x === undefined ? "–" : x < 1000 ? `${num(x, 3)} ms` : `${num(x / 1000, 3)} s`;
}

export function bytes(x) {
    const units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let i = 0;
    for (; x >= 1024 && i < units.length - 1; i++) x /= 1024;
    return `${num(x)} ${units[i]}`;
}

export const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// <dl> of [what, value, what it means].
export function facts(rows) {
    return el("dl", {class: "facts"}, rows.filter(Boolean).map(([name, value, hint]) =>
        el("div", {title: hint}, el("dt", {}, name), el("dd", {}, value))));
}

// rows: arrays of cells; the first cell of each names the row.
export function table(caption, head, rows, attributes = {}) {
    return el("table", attributes, el("caption", {}, caption),
              el("thead", {}, el("tr", {}, head.map(h => el("th", {scope: "col"}, h)))),
              el("tbody", {}, rows.map(row => el("tr", {}, row.map((cell, i) =>
                  i ? el("td", {}, cell) : el("th", {scope: "row"}, cell))))));
}

// A table is made only when somebody opens it: of a long answer it is large.
export function tableWhenOpened(summary, make) {
    const details = el("details", {class: "as-table"}, el("summary", {}, summary));
    details.addEventListener("toggle", () => {
        if (details.open && details.childElementCount === 1)
            details.append(el("div", {class: "scroll", tabindex: "0", role: "group", "aria-label": summary}, make()));
    });
    return details;
}

// A drawing follows the width of what it stands in.
export function redrawn(place, draw) {
    let width = 0;
    const watch = new ResizeObserver(() => {
        if (!place.isConnected) return watch.disconnect();
        const now = Math.floor(place.clientWidth);
        if (!now || now === width) return;
        width = now;
        place.replaceChildren(draw(width));
    });
    watch.observe(place);
    return place;
}
