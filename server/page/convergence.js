// Answers and how they converged: one, or two settings side by side over the same prompt.
import {EVERYTHING, complete} from "./api.js";
import {byId, el, ms, num, table, tableWhenOpened} from "./dom.js";
import {evaluationFigure, residualFigure, stepFigure, stepsOf, wavefrontFigure} from "./figures.js";
import {answerFacts, tokenTable} from "./playground.js";
import {FIELDS, Settings, hideError, mark, showError, startStop} from "./settings.js";
import {SCALES, TokenText, legend, residualsOf, shown, tokenDetail} from "./tokens.js";

const SETTINGS = ["deq.tol", "deq.window", "deq.warm_start", "deq.solver"];
const COMMON = ["max_tokens", "temperature", "seed"];
const NONE = Object.fromEntries(SETTINGS.map(name => [name, ""]));

// What differs between A and B; b null: there is no B. needs: what GET /v1/models must say of the model.
const COMPARISONS = [
    {name: "Tolerance 0.1, 0.0001", a: {"deq.tol": "0.1"}, b: {"deq.tol": "1e-4"}},
    {name: "Window 1, 8", a: {"deq.window": "1"}, b: {"deq.window": "8"}},
    {name: "Start from predictor, zero", needs: "predictor",
     a: {"deq.warm_start": "predictor"}, b: {"deq.warm_start": "zero"}},
    {name: "One setting alone", a: {}, b: null},
];

// --- One side ---

class Side {
    constructor(letter) {
        this.tokens = el("div", {});
        this.legend = el("div", {}, legend(SCALES.iters));
        this.facts = el("div", {});
        this.plots = el("div", {class: "figures"});
        this.detail = el("div", {class: "card", role: "group", "aria-label": `The chosen token of ${letter}`});
        this.title = el("h2", {}, letter);
        this.text = new TokenText(this.tokens, {label: `Text of ${letter}, token by token; arrow keys choose one`,
                                                onChoose: i => this.#choose(i)});
        this.node = el("div", {class: "side"},
                       el("div", {class: "card"}, el("div", {class: "card-head"}, this.title, this.legend),
                          el("div", {class: "text"}, this.tokens), this.facts),
                       this.detail, this.plots);
        this.clear("");
    }

    clear(title) {
        this.answer = null;
        this.title.textContent = title;
        this.text.clear();
        this.detail.hidden = true;
        this.facts.replaceChildren();
        this.plots.replaceChildren();
    }

    #choose(i) {
        this.detail.hidden = false;
        this.detail.replaceChildren(...tokenDetail(i, this.answer));
    }

    news(answer) {
        this.answer = answer;
        this.text.update(answer);
    }

    // range: what the plots of both sides have in common; apart: the first token that the other side has not, or -1
    finish(answer, range, apart) {
        const choose = i => this.text.choose(i);
        this.answer = answer;
        if (!answer.tokens.length) return;
        this.text.clear();
        this.text.update(answer, apart);
        this.facts.replaceChildren(answerFacts(answer));
        this.plots.replaceChildren(...[
            wavefrontFigure(answer),
            residualFigure(answer, range, choose),
            evaluationFigure(answer, range.iters, choose),
            stepFigure(answer, range.steps, choose),
            el("div", {class: "card"}, tableWhenOpened("All tokens as a table", () => tokenTable(answer))),
        ].filter(Boolean));
    }
}

// --- Two answers ---

function rangeOf(answers) {
    const tokens = answers.flatMap(a => a.tokens), residuals = tokens.flatMap(residualsOf).filter(r => r > 0);
    const most = values => Math.max(4, ...values.filter(v => v !== null && v !== undefined));
    return {
        low: Math.min(...residuals, ...answers.map(a => a.report?.tol || 1)), high: Math.max(...residuals, 1e-9),
        last: Math.max(...tokens.map(t => t.iters ?? 0)), iters: most(tokens.map(t => t.iters)),
        steps: most(answers.flatMap(stepsOf)),
    };
}

// The first token in which they differ; -1: none.
export function partsAt(a, b) {
    const n = Math.max(a.tokens.length, b.tokens.length);
    for (let i = 0; i < n; i++) if (a.tokens[i]?.id !== b.tokens[i]?.id) return i;
    return -1;
}

const word = (x, i) => i < x.tokens.length ? shown(x.textOf(i), x.tokens[i].name) : "its end";

function verdictOf([a, b]) {
    const at = partsAt(a, b);
    return at < 0 ? "Both wrote the same text, token by token."
        : `They part at token ${at + 1}: A goes on with “${word(a, at)}”, B with “${word(b, at)}”.`;
}

const MEASURES = [
    ["Tokens", a => num(a.tokens.length)],
    ["Evaluations a token", a => num(a.evaluations / a.tokens.length)],
    ["Steps a token", a => num(a.steps === null ? null : a.steps / a.tokens.length)],
    ["Wrong guesses", a => num(a.dropped.filter(d => d.why === "guess").length + a.droppedMore)],
    ["Largest residual", a => num(a.report?.residual_max)],
    ["Time", a => ms(a.ms)],
    ["Tokens/s", a => num(a.tokens.length / a.ms * 1000)],
];

function sideBySide(answers) {
    return el("div", {class: "scroll", tabindex: "0", role: "group", "aria-label": "Side by side"}, table(
        "Side by side", ["Setting", ...MEASURES.map(([name]) => name)],
        answers.map((a, k) => ["AB"[k], ...MEASURES.map(([, f]) => f(a))])));
}

// --- The part ---

// The words of the comparisons, as radio buttons. Returns a function that shows which of them this model has.
function choices(onTake) {
    const inputs = COMPARISONS.map((c, k) => el("input", {type: "radio", name: "comparison", checked: k === 0,
                                                           onchange: () => onTake(c)}));
    byId("comparisons").append(...COMPARISONS.map((c, k) => el("label", {}, inputs[k], c.name)));
    return model => COMPARISONS.forEach((c, k) => { inputs[k].disabled = Boolean(c.needs && !model.deqd[c.needs]); });
}

export function convergence(app) {
    const common = new Settings(COMMON, {max_tokens: "40", temperature: "0", seed: "1"});
    const settings = [new Settings(SETTINGS), new Settings(SETTINGS)], sides = [new Side("A"), new Side("B")];
    const prompt = byId("convergence-prompt"), results = byId("convergence-results");
    let single = false;
    byId("convergence-common").append(...common.nodes());
    byId("convergence-settings").append(...settings.map((s, k) => el(
        "fieldset", {class: "setting"}, el("legend", {}, "AB"[k]), el("div", {class: "fields"}, s.nodes()))));
    app.onModel.push(choices(take), model => settings.forEach(s => s.own(model)));

    function take(c) {
        single = c.b === null;
        settings[0].set({...NONE, ...c.a});
        settings[1].set({...NONE, ...c.b});
        byId("convergence-settings").lastChild.hidden = single;
    }

    function failPrompt(message) {
        mark(prompt, byId("convergence-prompt-error"), message);
        if (message) prompt.focus();
    }

    const say = text => { byId("convergence-said").textContent = text; };

    // What one side asks for, in short.
    function heading(k) {
        const told = SETTINGS.map(name => [FIELDS[name].label, settings[k].get(name).input.value.trim()]);
        const words = told.filter(([, v]) => v).map(([name, v]) => `${name.toLowerCase()} ${v}`).join(", ") ||
            "the model’s own settings";
        return single ? words[0].toUpperCase() + words.slice(1) : `${"AB"[k]}: ${words}`;
    }

    function begin(n) {
        for (const s of [common, ...settings]) s.clear();
        failPrompt("");
        hideError(byId("convergence-error"));
        byId("convergence-summary").replaceChildren();
        results.replaceChildren(...sides.slice(0, n).map(s => s.node));
        results.classList.toggle("single", n === 1);
        sides.forEach((side, k) => side.clear(heading(k)));
        say("Writing");
    }

    function showAll(answers) {
        const two = answers.length === 2, range = rangeOf(answers);
        answers.forEach((a, k) => sides[k].finish(a, range, two ? partsAt(...answers) : -1));
        const verdict = two && verdictOf(answers);
        byId("convergence-summary").replaceChildren(...two ? [
            el("div", {class: "card"}, el("p", {class: "verdict"}, verdict), sideBySide(answers))] : []);
        say(verdict || "Done.");
    }

    function fail(e, k) {
        if (e.name === "AbortError") return say("Stopped.");
        say("Not finished.");
        if (e.param === "prompt") failPrompt(e.message);
        else if (!settings[k].fail(e) && !common.fail(e)) showError(byId("convergence-error"), e);
    }

    async function work(signal) {
        const n = single ? 1 : 2, answers = [];
        begin(n);
        for (let k = 0; k < n; k++) {
            // nothing that the first one left in the cache helps the second
            const request = settings[k].into(common.into({prompt: prompt.value, cache: "off", ...EVERYTHING}));
            try {
                answers.push(await complete(request, {signal, onNews: a => sides[k].news(a)}));
            } catch (e) {
                return fail(e, k);
            }
        }
        showAll(answers);
    }

    const button = startStop(byId("compare"), work);
    byId("convergence-form").addEventListener("submit", e => e.preventDefault());
    byId("convergence").addEventListener("keydown", e => { if (e.key === "Escape") button.stop(); });
    take(COMPARISONS[0]);
    return {
        // An answer that another part has.
        show(answer) {
            results.replaceChildren(sides[0].node);
            results.classList.add("single");
            sides[0].clear("The Playground’s text");
            prompt.value = answer.request.prompt;
            showAll([answer]);
        },
    };
}
