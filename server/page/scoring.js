// A text that the model reads instead of writing: what each of its tokens surprised it by.
import {Answer, ask, toJson} from "./api.js";
import {byId, count, el, facts, num, table, tableWhenOpened} from "./dom.js";
import {hideError, mark, showError, startStop} from "./settings.js";
import {SCALES, TokenText, bitsOf, legend, nameOf, percent, tokenDetail} from "./tokens.js";

const utf8 = new TextEncoder();

// Of the tokens that something stands before.
export function score(answer) {
    const known = answer.tokens.map((t, i) => ({t, i})).filter(({t}) => t.logprob !== null);
    const nats = known.reduce((sum, {t}) => sum - t.logprob, 0);
    const size = known.reduce((sum, {i}) => sum + utf8.encode(answer.textOf(i)).length, 0);
    return {n: known.length, nats, bytes: size, perplexity: Math.exp(nats / known.length), bits: nats / Math.LN2};
}

export function scoring() {
    const area = byId("scored"), button = byId("score");
    let answer = null;
    const text = new TokenText(byId("scoring-tokens"), {
        label: "The text, token by token; arrow keys choose one", scale: SCALES.bits, onChoose: i => {
            byId("scored-token").hidden = false;
            byId("scored-token").replaceChildren(...tokenDetail(i, answer));
        },
    });

    function paint(scale) {
        text.recolour(scale);
        byId("scoring-legend").replaceChildren(legend(scale));
    }

    for (const [value, name] of [["bits", "Surprise"], ["iters", "Evaluations"]]) {
        const input = el("input", {type: "radio", name: "colour", value, checked: value === "bits",
                                   onchange: () => paint(SCALES[value])});
        byId("scoring-colour").append(el("label", {}, input, name));
    }
    byId("scoring-legend").append(legend(SCALES.bits));

    function fail(message) {
        mark(area, byId("scored-error"), message);
        if (message) area.focus();
    }

    function showScore() {
        const s = score(answer), {report} = answer;
        byId("scoring-results").hidden = false;
        byId("scored-token").hidden = true;
        text.clear();
        text.update(answer);
        byId("scoring-facts").replaceChildren(
            facts([
                ["Tokens", num(answer.tokens.length)],
                ["Perplexity", num(s.perplexity), "As if choosing among so many equal words at each token"],
                ["Bits a byte", num(s.bits / s.bytes), "What a compressor with this model would need"],
                ["Bits a token", num(s.bits / s.n)],
                ["Evaluations a token", num(report.prompt_iters_mean), "Of the cell, on average"],
            ]),
            el("p", {class: "hint"}, "The first token has nothing before it and is not counted. ",
               "Evaluations are those of the state that foresaw the token."));
        byId("scoring-table").replaceChildren(tableWhenOpened("All tokens as a table", () => table(
            "Tokens", ["Token", "Bits", "Probability", "Evaluations"], answer.tokens.map((t, i) => [
                `${i + 1}  ${nameOf(t.name)}`, t.logprob === null ? "–" : num(bitsOf(t.logprob)),
                t.logprob === null ? "–" : percent(Math.exp(t.logprob)), num(t.iters),
            ]))));
        byId("scoring-said").textContent =
            `${count(s.n, "token")}, perplexity ${num(s.perplexity)}, ${num(s.bits / s.bytes)} bits a byte.`;
    }

    async function work(signal) {
        const request = {prompt: area.value, max_tokens: 0, echo: true, logprobs: 5, include: ["deq.tokens"]};
        fail("");
        hideError(byId("scoring-error"));
        try {
            const response = await ask("POST", "/v1/completions", {body: toJson(request), signal});
            answer = new Answer(request);
            answer.add(await response.json());
            showScore();
        } catch (e) {
            if (e.name === "AbortError") return;
            if (e.param === "prompt") fail(e.message);
            else showError(byId("scoring-error"), e);
        }
    }

    const {run, running} = startStop(button, work);
    byId("scoring-form").addEventListener("submit", e => e.preventDefault());
    area.addEventListener("keydown", e => {
        if (e.key === "Enter" && (e.ctrlKey || e.metaKey) && !running()) run();
    });
}
