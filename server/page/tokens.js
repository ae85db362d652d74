// A text token by token: each coloured by what it took, each to be chosen by click or arrow keys; and what is known of
// the one that was chosen.
import {count, el, facts, num, redrawn, table} from "./dom.js";
import {curves} from "./plot.js";

// Steps of the palette: the least value of each. Fixed, so that a colour means the same in every answer.
export const SCALES = {
    iters: {
        from: [0, 2, 3, 4, 5, 7, 10, 16],
        labels: ["1", "2", "3", "4", "5–6", "7–9", "10–15", "16+"],
        title: "Evaluations a token",
        of: t => t.iters,
        say: n => count(n, "evaluation"),
    },
    bits: {
        from: [0, 0.5, 1, 2, 4, 6, 8, 11],
        labels: ["<½", "<1", "<2", "<4", "<6", "<8", "<11", "11+"],
        title: "Surprise, in bits a token",
        of: t => t.logprob === null ? null : bitsOf(t.logprob),
        say: n => `${num(n)} bits`,
    },
};

export const bitsOf = logprob => -logprob / Math.LN2;

export function level(scale, value) {
    return value === null || value === undefined ? -1 : scale.from.findLastIndex(from => value >= from);
}

export function legend(scale) {
    return el("div", {class: "legend"}, el("span", {class: "legend-title"}, scale.title),
              el("ol", {}, scale.labels.map((label, i) => el("li", {class: `e${i}`}, label))));
}

// What has no shape of its own is shown by a sign.
export function shown(text, name) {
    if (text === "" && name)
        return name.startsWith("bytes:") ? `‹${name.slice(6).replaceAll("\\x", " ").trim()}›` : "‹›";
    return text.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/^ /, "␣");
}

// The name that the API gives a token: its text, or the bytes of a part of a character.
export const nameOf = name => shown(name.startsWith("bytes:") ? "" : name, name);

let lists = 0;

export class TokenText {
    #shown = 0;    // tokens that are in the document
    #chosen = -1;
    #id = `list${lists++}`;

    // onChoose(index): a token was chosen; parts(index): true where this text first differs from another
    constructor(node, {label, scale = SCALES.iters, onChoose = () => {}}) {
        Object.assign(this, {node, label, scale, onChoose});
        node.classList.add("tokens");
        node.addEventListener("click", e => {
            const at = e.target.closest("[data-i]");
            if (at && getSelection().isCollapsed) this.choose(Number(at.dataset.i));
        });
        node.addEventListener("keydown", e => this.#key(e));
    }

    clear() {
        this.#shown = 0;
        this.#chosen = -1;
        for (const name of ["role", "tabindex", "aria-label", "aria-activedescendant"]) this.node.removeAttribute(name);
        this.node.replaceChildren();
    }

    // Takes over what is new in the answer. A token's text may still grow as long as it is the last that has any.
    update(answer, partsAt = -1) {
        const {tokens} = answer;
        this.answer = answer;
        if (!tokens.length) return;
        if (!this.#shown) {
            this.node.setAttribute("role", "listbox");
            this.node.setAttribute("tabindex", "0");
            this.node.setAttribute("aria-label", this.label);
        }
        let from = this.#shown;
        while (from > 0 && (from === this.#shown || this.node.children[from].hasAttribute("data-open"))) from--;
        for (let i = from; i < tokens.length; i++) this.#put(i, partsAt >= 0 && i >= partsAt);
        this.#shown = tokens.length;
    }

    #put(i, apart) {
        const t = this.answer.tokens[i], text = this.answer.textOf(i);
        const value = this.scale.of(t), step = level(this.scale, value);
        const node = this.node.children[i] ?? this.node.appendChild(
            el("span", {role: "option", "aria-selected": "false", id: `${this.#id}-${i}`, "data-i": i}));
        node.className = ["t", step < 0 ? "unknown" : `e${step}`, apart && "apart", text === "" && "empty",
                          text.includes("\n") && "nl"].filter(Boolean).join(" ");
        node.textContent = text === "" ? shown(text, t.name) : text;
        node.toggleAttribute("data-open", i + 1 === this.answer.tokens.length || text === "");
        node.setAttribute("aria-label", `${shown(text, t.name)}, ${step < 0 ? "unknown" : this.scale.say(value)}`);
    }

    recolour(scale) {
        this.scale = scale;
        if (this.answer) for (let i = 0; i < this.#shown; i++) this.#put(i, false);
        if (this.#chosen >= 0) this.#mark();
    }

    choose(i) {
        if (i < 0 || i >= this.#shown) return;
        this.node.children[this.#chosen]?.setAttribute("aria-selected", "false");
        this.#chosen = i;
        this.#mark();
        this.onChoose(i, this.answer);
    }

    #mark() {
        const node = this.node.children[this.#chosen];
        node.setAttribute("aria-selected", "true");
        this.node.setAttribute("aria-activedescendant", node.id);
    }

    #key(e) {
        const to = {ArrowRight: this.#chosen + 1, ArrowDown: this.#chosen + 1, Home: 0, End: this.#shown - 1,
                    ArrowLeft: Math.max(this.#chosen - 1, 0), ArrowUp: Math.max(this.#chosen - 1, 0)}[e.key];
        if (to === undefined || e.ctrlKey || e.metaKey || e.altKey) return;
        e.preventDefault();
        this.choose(Math.min(to, this.#shown - 1));
    }
}

// --- One token ---

const STARTS = {
    zero: "from zero", previous: "from the state before", predictor: "from the predictor’s guess",
    proposal: "from the proposal of the layers before the loop", prefix: "from a state of the prefix cache",
};

function candidates(t, picked) {
    if (!t.top.length) return null;
    const most = Math.exp(t.top[0][1]);
    return table("Candidates, as the model rates them before temperature", ["Token", "Probability", "Beside the first"],
                 t.top.map(([name, logprob]) => {
                     const p = Math.exp(logprob), bar = el("span", {class: "bar"});
                     bar.style.width = `${Math.max(1, 100 * p / most)}%`;
                     const mine = name === picked;
                     return [el("code", {class: mine ? "picked" : ""}, nameOf(name), mine ? " ◂ taken" : ""),
                             percent(p), bar];
                 }), {class: "candidates"});
}

export const percent = p => p >= 0.9995 ? "100 %" : p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`;

function guess(trace) {
    if (!trace) return null;
    return ["Wavefront", trace.guessed ? "guessed it right" : "had not guessed it",
            "Whether the row behind had begun with this token already, before it was final"];
}

// residuals: of a trace, else the last one alone.
export function residualsOf(t) {
    return t.trace?.residual?.length ? t.trace.residual : t.residual === null || t.residual === undefined ? []
        : [t.residual];
}

export function tokenDetail(i, answer) {
    const t = answer.tokens[i], tol = answer.report?.tol ?? null, residuals = residualsOf(t);
    const name = shown(answer.textOf(i), t.name);
    const plot = el("div", {class: "plot"});
    redrawn(plot, width => curves([{values: residuals, level: level(SCALES.iters, t.iters), first: first(t)}], {
        width, height: 200, tol, title: `Residual of “${name}” after each evaluation`,
        desc: residuals.map((r, k) => `${first(t) + k}: ${num(r)}`).join(", "), marks: true,
    }));
    const lp = t.logprob;
    return [
        el("h3", {}, "Token ", el("code", {}, name),
           el("span", {class: "muted"}, ` ${i + 1} of ${answer.tokens.length}`)),
        el("div", {class: "detail"},
           el("div", {},
              facts([
                  ["Evaluations", num(t.iters), "How often the cell was evaluated until this state was final"],
                  ["Residual", num(t.residual), "How far the state still moved, relative to its size"],
                  ["Start", STARTS[t.warm] ?? t.warm ?? "–", "Where the iterates began"],
                  guess(t.trace),
                  lp === null || lp === undefined ? null :
                      ["Probability", percent(Math.exp(lp)), `Log-probability ${num(lp, 4)}`],
                  t.id === undefined ? null : ["Id", String(t.id), "In the model’s vocabulary"],
              ]),
              candidates(t, t.name)),
           residuals.length ? el("figure", {}, plot, el("figcaption", {},
               "Each point is one evaluation of the cell: the state is an ", el("em", {}, "equilibrium"),
               " once it moves less than the tolerance",
               residuals.length === 1 && t.iters > 1 ? `; of ${count(t.iters, "evaluation")} the last one is known.`
                   : " (dashed).")) : null),
    ];
}

const first = t => t.trace?.residual?.length ? 1 : t.iters ?? 1;
