// What /metrics says, every two seconds while somebody looks, over the last five minutes.
import {ask} from "./api.js";
import {byId, bytes, el, num, redrawn} from "./dom.js";
import {overTime} from "./plot.js";
import {hideError, showError} from "./settings.js";
import {percent} from "./tokens.js";

const EVERY_MS = 2000, SLOTS = 150, FEWEST = 30; // samples in a plot

// Prometheus' text format: name or name{labels}, a blank, the value.
export function parseMetrics(text) {
    const values = new Map();
    for (const line of text.split("\n")) {
        const at = line.lastIndexOf(" ");
        if (at > 0 && line[0] !== "#") values.set(line.slice(0, at), Number(line.slice(at + 1)));
    }
    return values;
}

const share = x => x === 0 ? "0 %" : percent(x);
const DECODE = "deqd_solver_iterations_", PHASE = "{phase=\"decode\"}";

// get(name): now; per(name): its growth a second; ratio(a, b): growth of a by growth of b. null where nothing is known.
const PLOTS = [
    {title: "Requests",
     lines: {running: m => m.get("deqd_requests_running"), waiting: m => m.get("deqd_requests_waiting")},
     words: "In the engine, and in the queue before it."},
    {title: "Tokens a second",
     lines: {written: m => m.per("deqd_generation_tokens_total"), read: m => m.per("deqd_prompt_tokens_total")},
     words: "Written, and read of prompts."},
    {title: "Rows a step", lines: {rows: m => m.ratio("deqd_rows_total", "deqd_steps_total")},
     words: "Positions of all requests that one step evaluates together."},
    {title: "Evaluations a token",
     lines: {evaluations: m => m.ratio(`${DECODE}sum${PHASE}`, `${DECODE}count${PHASE}`)},
     words: "Of the cell, until a written token’s state was final."},
    {title: "Steps a second", lines: {steps: m => m.per("deqd_steps_total")}, words: "Passes through the weights."},
    {title: "Cache in use", format: share, most: 1,
     lines: {used: m => m.get("deqd_cache_pages_used") / m.get("deqd_cache_pages"),
             reserved: m => m.get("deqd_cache_pages_reserved") / m.get("deqd_cache_pages")},
     words: "Pages of keys and values that requests hold, or may come to hold."},
    {title: "Memory", format: bytes, lines: {resident: m => m.get("process_resident_memory_bytes"),
                                             reserved: m => m.get("deqd_engine_memory_bytes")},
     words: "Of the process, and in it what the engine reserved at its start."},
    {title: "Connections", lines: {open: m => m.get("deqd_http_connections")}, words: "This page’s own among them."},
];

class Sample {
    constructor(values, before, seconds) {
        Object.assign(this, {values, before, seconds});
    }

    get(name) {
        return this.values.get(name) ?? null;
    }

    #growth(name) {
        const now = this.get(name), then = this.before?.get(name);
        // a counter that fell belongs to another process
        return now === null || then === undefined || now < then ? null : now - then;
    }

    per(name) {
        const grown = this.#growth(name);
        return grown === null ? null : grown / this.seconds;
    }

    ratio(a, b) {
        const x = this.#growth(a), y = this.#growth(b);
        return x === null || !y ? null : x / y;
    }
}

class Tile {
    constructor(spec) {
        this.spec = {format: num, ...spec};
        this.lines = Object.keys(spec.lines).map(name => ({name, values: []}));
        this.value = el("p", {class: "now-values"});
        this.plot = el("div", {class: "plot"});
        this.node = el("figure", {class: "card tile"}, el("h2", {}, spec.title), this.value, this.plot,
                       el("figcaption", {}, spec.words));
    }

    add(sample) {
        for (const line of this.lines) {
            const v = sample === null ? null : this.spec.lines[line.name](sample);
            line.values.push(Number.isFinite(v) ? v : null);
            if (line.values.length > SLOTS) line.values.shift();
        }
        this.value.replaceChildren(...this.lines.map((line, k) =>
            el("span", {class: `v${k}`}, el("strong", {}, this.#say(line.values.at(-1))), ` ${line.name}`)));
        if (this.plot.clientWidth) this.plot.replaceChildren(this.draw(this.plot.clientWidth));
    }

    #say(v) {
        return v === null ? "–" : this.spec.format(v);
    }

    draw(width) {
        const desc = this.lines.map(({name, values}) => {
            const known = values.filter(v => v !== null), {format} = this.spec;
            return known.length ? `${name}: now ${this.#say(values.at(-1))}, ` +
                `from ${format(Math.min(...known))} to ${format(Math.max(...known))}` : `${name}: nothing yet`;
        }).join("; ");
        const slots = Math.max(FEWEST, this.lines[0].values.length);
        return overTime(this.lines, {...this.spec, width, height: 84, desc, slots});
    }
}

export function live(app) {
    const tiles = PLOTS.map(spec => new Tile(spec));
    let timer = 0, before = null, beforeMs = 0;
    byId("plots").append(...tiles.map(t => t.node));
    for (const t of tiles) redrawn(t.plot, width => t.draw(width));

    async function look(quiet) {
        const asked = performance.now();
        try {
            const values = parseMetrics(await (await ask("GET", "/metrics", {quiet})).text());
            const sample = new Sample(values, before, (asked - beforeMs) / 1000);
            for (const t of tiles) t.add(sample);
            before = values;
            beforeMs = asked;
            hideError(byId("live-error"));
        } catch (e) {
            before = null;
            for (const t of tiles) t.add(null);
            showError(byId("live-error"), e);
        }
    }

    app.onPart.push(part => {
        if (part !== "live" || timer) return;
        timer = setInterval(() => { if (document.visibilityState === "visible") look(true); }, EVERY_MS);
        look(false);
    });
}
