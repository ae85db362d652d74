// A prompt and its settings, the text as it comes, and what is known of each token.
import {EVERYTHING, complete, toCurl} from "./api.js";
import {byId, count, el, facts, ms, num, table, tableWhenOpened} from "./dom.js";
import {Settings, hideError, mark, showError, startStop} from "./settings.js";
import {SCALES, TokenText, legend, nameOf, percent, tokenDetail} from "./tokens.js";

const SAMPLING = ["max_tokens", "temperature", "top_p", "seed", "stop"];
const SOLVING = ["deq.tol", "deq.solver", "deq.window", "deq.warm_start", "deq.max_iter", "cache"];
const PHONE = "(max-width: 760px)";

export function tokenTable(answer) {
    return table("Tokens", ["Token", "Evaluations", "Residual", "Start", "Probability", "Guessed"],
                 answer.tokens.map((t, i) => [
                     `${i + 1}  ${nameOf(t.name)}`, num(t.iters), num(t.residual), t.warm ?? "–",
                     t.logprob === null ? "–" : percent(Math.exp(t.logprob)),
                     t.trace ? (t.trace.guessed ? "yes" : "no") : "–",
                 ]));
}

export function answerFacts(answer) {
    const {report, usage, tokens, steps} = answer;
    const cached = usage?.prompt_tokens_details.cached_tokens;
    return facts([
        ["Tokens", `${num(tokens.length)}${answer.finish === "stop" ? ", ended" : ""}`,
         "Ended: the model or a stop text said so"],
        ["Evaluations a token", num(answer.evaluations / tokens.length), "Of the cell, on average"],
        steps === null ? null : ["Steps a token", num(steps / tokens.length), "Passes through the weights, on average"],
        ["First token", ms(answer.firstMs - answer.sentMs), "As seen by this page"],
        ["Tokens/s", num(tokens.length / answer.ms * 1000), "Prompt and text, as the server measured"],
        report && ["Seed", String(report.seed), "With it the same request gives the same text again"],
        report && ["Converged", report.converged ? "all" : "not all", `Largest residual ${num(report.residual_max)}`],
        usage && ["Prompt tokens", `${num(usage.prompt_tokens)}${cached ? `, ${num(cached)} cached` : ""}`,
                  report && `${num(report.prompt_iters_mean)} evaluations a token`],
    ]);
}

// Works where the clipboard's own interface does not: on a page that came without TLS.
async function copy(text, button) {
    try {
        await navigator.clipboard.writeText(text);
    } catch {
        const area = el("textarea", {class: "visually-hidden"});
        area.value = text;
        document.body.append(area);
        area.select();
        document.execCommand("copy");
        area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

export function playground(app) {
    const prompt = byId("prompt"), hint = byId("playground-hint"), said = byId("playground-said");
    const settings = new Settings([...SAMPLING, ...SOLVING]);
    const text = new TokenText(byId("playground-tokens"), {label: "The text, token by token; arrow keys choose one",
                                                           onChoose: chosen});
    let answer = null, frame = 0;
    byId("sampling-fields").append(...settings.nodes(...SAMPLING));
    byId("solving-fields").append(...settings.nodes(...SOLVING));
    byId("playground-legend").append(legend(SCALES.iters));
    if (matchMedia(PHONE).matches) for (const id of ["sampling", "solving"]) byId(id).open = false;
    app.onModel.push(model => settings.own(model));

    function chosen(i) {
        byId("token").hidden = false;
        byId("token").replaceChildren(...tokenDetail(i, answer));
    }

    function draw() {
        frame = 0;
        text.update(answer);
        hint.textContent = answer.finish ? "Choose a token to see how its state converged." : "Writing …";
    }

    function failPrompt(message) {
        mark(prompt, byId("prompt-error"), message);
        if (message) prompt.focus();
    }

    function begin(request) {
        settings.clear();
        failPrompt("");
        hideError(byId("playground-error"));
        text.clear();
        byId("token").hidden = true;
        byId("playground-facts").replaceChildren();
        byId("playground-table").replaceChildren();
        byId("playground-more").hidden = false;
        byId("curl").textContent = toCurl(request);
        byId("playground-prompt").textContent = request.prompt;
        hint.textContent = "Asking …";
        said.textContent = "Writing";
    }

    function end(how) {
        cancelAnimationFrame(frame);
        if (!answer?.tokens.length) {
            hint.textContent = how;
        } else {
            draw();
            if (!answer.finish) hint.textContent = how;
            const show = el("button", {type: "button", class: "quiet", onclick: () => app.show(answer)},
                            "See how it converged");
            byId("playground-facts").replaceChildren(answerFacts(answer), el("div", {class: "actions"}, show));
            byId("playground-table").replaceChildren(
                tableWhenOpened("All tokens as a table", () => tokenTable(answer)));
        }
        const n = answer?.tokens.length ?? 0;
        said.textContent =
            `${how} ${count(n, "token")}${n ? `, ${num(answer.evaluations / n)} evaluations each` : ""}.`;
    }

    async function work(signal) {
        const request = settings.into({prompt: prompt.value, ...EVERYTHING});
        answer = null;
        begin(request);
        try {
            await complete(request, {signal, onNews: a => {
                answer = a;
                if (!frame && a.tokens.length) frame = requestAnimationFrame(draw);
            }});
            end(answer.tokens.length ? "Done." : "The model ended the text at once.");
        } catch (e) {
            if (e.name === "AbortError") return end("Stopped.");
            end("Not finished.");
            if (e.param === "prompt") failPrompt(e.message);
            else if (!settings.fail(e)) showError(byId("playground-error"), e);
        }
    }

    const button = startStop(byId("generate"), work);
    byId("playground-form").addEventListener("submit", e => e.preventDefault());
    byId("playground").addEventListener("keydown", e => {
        if (e.key === "Enter" && (e.ctrlKey || e.metaKey) && !button.running()) button.run();
        if (e.key === "Escape") button.stop();
    });
    byId("copy-curl").addEventListener("click", () => copy(byId("curl").textContent, byId("copy-curl")));
}
