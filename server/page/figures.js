// How one answer's states converged, drawn: the wavefront, residuals, evaluations and steps a token.
import {count, el, num, redrawn} from "./dom.js";
import {bars, curves, wavefront} from "./plot.js";
import {SCALES, level, residualsOf, shown} from "./tokens.js";

const ROWS = 40;    // of the wavefront, at once
const PLAY_MS = 140;

// Steps from one token to the next; null without a trace.
export const stepsOf = answer => answer.tokens.map((t, i, all) =>
    t.trace ? t.trace.committed - (i ? all[i - 1].trace.committed : t.trace.entered - 1) : null);

const FATES = {
    guess: "stood on a wrong guess",
    end: "was open when the text ended",
    nan: "stood behind a state that was not finite",
};

// Rows as plot.js draws them: positions and steps counted from the answer's first.
export function rowsOf(answer) {
    const {tokens} = answer;
    if (!tokens.length || !tokens[0].trace) return [];
    const p0 = tokens[0].trace.position - 1, s0 = tokens[0].trace.entered - 1;
    const rows = tokens.map((t, i) => {
        const entered = t.trace.entered - s0, left = t.trace.committed - s0, text = shown(answer.textOf(i), t.name);
        const front = i ? tokens[i - 1].trace.committed + 1 - s0 : entered;
        return {
            position: i + 1, entered, left, front, fate: "committed", text,
            name: `${i + 1} “${text}”: entered at step ${entered}, final at ${left}`,
        };
    });
    return rows.concat(answer.dropped.map(d => {
        const position = d.position - p0, entered = d.entered - s0, left = d.left - s0;
        return {
            position, entered, left, front: Infinity, fate: d.why,
            name: `${position} ${FATES[d.why]}, steps ${entered} to ${left}`,
        };
    }));
}

function figure(title, plot, words, more = null) {
    return el("figure", {class: "card"}, el("h3", {}, title), more, plot, el("figcaption", {}, words));
}

const plotted = draw => redrawn(el("div", {class: "plot"}), draw);

const named = (answer, i) => `${i + 1} “${shown(answer.textOf(i), answer.tokens[i].name)}”`;

// range: {low, high, last} of residuals, of the answers side by side; choose(i): a token was clicked
export function residualFigure(answer, range, choose) {
    const series = answer.tokens.map((t, i) => {
        const values = residualsOf(t);
        return {
            values, level: level(SCALES.iters, t.iters), first: Math.max(1, (t.iters ?? 1) - values.length + 1),
            name: `${named(answer, i)}: ${count(t.iters ?? 0, "evaluation")}, residual ${num(t.residual)}`,
        };
    });
    const most = Math.max(...answer.tokens.map(t => t.iters ?? 0));
    return figure("Residual after each evaluation", plotted(width => curves(series, {
        width, height: 240, tol: answer.report?.tol, range, onChoose: choose, title: "Residuals of all tokens",
        desc: `${count(series.length, "token")}, up to ${count(most, "evaluation")}, ` +
            `largest last residual ${num(answer.report?.residual_max)}`,
    })), "A line is a token: every evaluation moves its state less, until that is below the tolerance (dashed) and " +
        "the state is at its equilibrium.");
}

function barFigure(answer, title, unit, values, most, words, choose) {
    const known = values.filter(v => v !== null && v !== undefined);
    const list = values.map((value, i) => ({
        value, level: level(SCALES.iters, value ?? 0), name: `${named(answer, i)}: ${num(value)}`,
    }));
    return figure(title, plotted(width => bars(list, {
        width, height: 140, unit, most, title, onChoose: choose,
        desc: `From ${num(Math.min(...known))} to ${num(Math.max(...known))}, ` +
            `${num(known.reduce((a, b) => a + b, 0) / known.length)} on average`,
    })), words);
}

export function evaluationFigure(answer, most, choose) {
    return barFigure(answer, "Evaluations a token", "evaluations", answer.tokens.map(t => t.iters), most,
                     "A bar is a token: as deep as it needed the model to be.", choose);
}

export function stepFigure(answer, most, choose) {
    const steps = stepsOf(answer);
    return steps[0] === null ? null : barFigure(
        answer, "Steps a token", "steps", steps, most,
        "Passes through the weights until the next token was there: fewer than evaluations, since a step evaluates " +
        "several positions; none where two became final in the same.", choose);
}

// --- The wavefront ---

// What happened in one step, in words.
function sentence(rows, step) {
    const open = rows.filter(r => r.entered <= step && r.left >= step), ends = open.filter(r => r.left === step);
    const final = ends.filter(r => r.fate === "committed"), wrong = ends.filter(r => r.fate === "guess").length;
    const from = Math.min(...open.map(r => r.position)), to = Math.max(...open.map(r => r.position));
    return `Step ${step}: ` +
        (from === to ? `position ${from} is evaluated. ` : `positions ${from} to ${to} are evaluated together. `) +
        (final.length ? `Final: ${final.map(r => `“${r.text}”`).join(", ")}. ` : "") +
        (wrong ? `${count(wrong, "row")} stood on a wrong guess and ${wrong === 1 ? "begins" : "begin"} again.` : "");
}

// A slider over the steps, and a button that moves it. onMove(step)
function player(last, at, onMove) {
    const slider = el("input", {type: "range", min: "1", max: String(last), step: "1", "aria-label": "Step"});
    const play = el("button", {type: "button", class: "quiet"}, "Play");
    let timer = 0;
    slider.value = String(at);

    function stop() {
        clearInterval(timer);
        timer = 0;
        play.textContent = "Play";
    }

    function tick() {
        slider.value = String(Number(slider.value) + 1);
        if (Number(slider.value) === last || !slider.isConnected) stop();
        onMove(Number(slider.value));
    }

    slider.addEventListener("input", () => {
        stop();
        onMove(Number(slider.value));
    });
    play.addEventListener("click", () => {
        if (timer) return stop();
        if (Number(slider.value) === last) slider.value = "1";
        play.textContent = "Pause";
        timer = setInterval(tick, PLAY_MS);
    });
    return el("div", {class: "slide"}, play, slider);
}

const KEY = [["k-front", "all before it is final"], ["k-ahead", "on a guess"], ["k-dropped", "the guess was wrong"]];

export function wavefrontFigure(answer) {
    const rows = rowsOf(answer);
    if (!rows.length) return null;
    const done = rows.filter(r => r.fate === "committed"), last = done.at(-1).left;
    const wrong = rows.filter(r => r.fate === "guess").length, ahead = done.filter(r => r.entered < r.front).length;
    const told = `${count(done.length, "token")} in ${count(last, "step")}: ` +
        `${ahead} began on a guess that was right, ${count(wrong, "row")} on one that was wrong.`;
    const words = el("output", {}), plot = plotted(draw);
    const key = el("ul", {class: "key"}, KEY.map(([name, text]) => el("li", {class: name}, text)));
    let step = done[Math.min(ROWS, done.length) - 1].left;

    // The rows that are in sight at this step, and the steps in which they were open.
    function draw(width) {
        const reached = Math.max(...rows.filter(r => r.entered <= step).map(r => r.position));
        const low = Math.max(1, Math.min(reached, done.length) - ROWS + 1);
        const high = Math.min(done.length, low + ROWS - 1);
        return wavefront(rows, {
            width, until: step, positions: [low, high], steps: [done[low - 1].entered, done[high - 1].left],
            title: "The wavefront", desc: `${told} ${sentence(rows, step)}`,
        });
    }

    function move(to) {
        step = to;
        words.textContent = sentence(rows, step);
        if (plot.clientWidth) plot.replaceChildren(draw(plot.clientWidth));
    }

    words.textContent = told;
    return figure("Wavefront", plot,
                  "A row is a position of the text, a column a step. Rows enter on guesses, are evaluated together " +
                  "and become final from the left; what is crossed out stood on a wrong guess and began again.",
                  el("div", {class: "play"}, key, player(last, step, move), words));
}
