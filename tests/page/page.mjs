// The page in a browser: what a person does with it, and that nothing else happens.
import {execFileSync} from "node:child_process";
import {createHash} from "node:crypto";
import {mkdtempSync, rmSync, writeFileSync} from "node:fs";
import {tmpdir} from "node:os";
import {join} from "node:path";
import {Daemon, Visit, check, closeBrowser, counts, equal, openBrowser, until} from "./browser.mjs";

const PARTS = ["playground", "convergence", "scoring", "live"];
let daemon, documented; // shared by the tests that stop none
const visit = more => Visit.to(daemon, {documented, ...more});

async function write(v, prompt, settings = {}) {
    await v.$("#prompt").fill(prompt);
    for (const [name, value] of Object.entries(settings)) {
        const field = v.$(`#playground-form [name="${name}"]`);
        if (!await field.isVisible()) await field.locator("xpath=ancestor::details").locator("summary").click();
        if (await field.evaluate(n => n.tagName) === "SELECT") await field.selectOption(value);
        else await field.fill(value);
    }
    await v.$("#generate").click();
}

const written = v => until("the text is written", async () =>
    /^(Choose|The model ended)/.test(await v.text("#playground-hint")));
const tokensOf = v => v.$("#playground-tokens .t").count();

// A measure of the table that compares, of A and of B.
async function sideBySide(v, measure) {
    const head = await v.$("#convergence-summary thead th").allInnerTexts();
    const rows = await v.$("#convergence-summary tbody tr").allInnerTexts();
    return rows.map(r => Number(r.split("\t")[head.indexOf(measure)]));
}

// Goes to a part and lets it show something.
async function fillPart(v, part) {
    await v.$(`nav a[href='#${part}']`).click();
    if (part === "convergence") {
        await v.$("#compare").click();
        await until("both sides", async () => await v.$("#convergence-summary table").count() === 1);
    } else if (part === "scoring") {
        await v.$("#score").click();
        await until("scored", async () => await v.$("#scoring-results").isVisible());
    } else if (part === "live") {
        await until("values", async () => /[1-9]/.test(await v.text(".tile:has-text('Memory') .now-values")));
    }
}

const TESTS = {
    async playground() {
        const v = await visit();
        equal(await v.page.title(), "Playground · deqd", "title");
        await until("the model is known", async () => (await v.text("#status-text")).includes("stories"));
        await write(v, "Once upon a time", {max_tokens: "120", seed: "7", temperature: "0.7"});
        await written(v);
        equal(await tokensOf(v) > 60, true, "tokens are shown");
        const [shown, colours] = await v.page.evaluate(() => [
            document.getElementById("playground-tokens").textContent,
            new Set([...document.querySelectorAll("#playground-tokens .t")]
                .map(t => getComputedStyle(t).backgroundColor)).size,
        ]);
        check(colours >= 3, `tokens differ in colour by their evaluations: ${colours} colours`);
        // the same from a shell
        const told = execFileSync("sh", ["-c", await v.text("#curl")], {encoding: "utf8"});
        const events = told.split("\n\n").filter(e => e.startsWith("data: {"));
        const same = events.map(e => JSON.parse(e.slice(6)).choices[0]?.text ?? "").join("");
        equal(shown.replaceAll("⏎", ""), same, "the copied request gives the text that is shown");
        for (const name of ["Tokens", "Evaluations a token", "Steps a token", "First token", "Tokens/s", "Seed"])
            check((await v.text("#playground-facts")).includes(name), `${name} is told`);
        await v.picture("playground-written", {fullPage: true});
        await v.accessible("playground");
        await v.end();
    },

    async "a token"() {
        const v = await visit();
        await write(v, "Tom had a red ball.", {max_tokens: "40", seed: "3"});
        await written(v);
        await v.$("#playground-tokens .t").nth(5).click();
        check((await v.text("#token h3")).includes("6 of 40"), "the token that was clicked");
        check(await v.$("#token svg circle").count() >= 2, "its residuals are drawn, one an evaluation");
        equal(await v.$("#token .candidates tbody tr").count() >= 5, true, "its candidates");
        check((await v.text("#token .candidates")).includes("taken"), "the taken one among them");
        check(/guessed/.test(await v.text("#token .facts")), "whether the wavefront had guessed it");
        await v.page.keyboard.press("Tab");
        await v.$("#playground-tokens").focus();
        await v.page.keyboard.press("ArrowRight");
        check((await v.text("#token h3")).includes("7 of 40"), "the right arrow: the next");
        await v.page.keyboard.press("End");
        check((await v.text("#token h3")).includes("40 of 40"), "End: the last");
        const active = await v.$("#playground-tokens").getAttribute("aria-activedescendant");
        equal(await v.$(`#${active}`).getAttribute("aria-selected"), "true", "screen readers are told which is chosen");
        await v.$("#playground-table summary").click();
        await until("a row a token in the table", async () => await v.$("#playground-table tbody tr").count() === 40);
        await v.accessible("a token, the table");
        await v.end();
    },

    async "by keyboard"() {
        const v = await visit();
        await v.$("#prompt").focus();
        await v.page.keyboard.press("Control+End");
        await v.page.keyboard.type(" there was");
        await v.page.keyboard.press("Control+Enter");
        await written(v);
        check((await v.text("#playground-prompt")).endsWith("there was"), "Ctrl+Enter writes what was typed");
        await v.page.keyboard.press("Shift+Tab");
        for (let i = 0; i < 12 && await v.page.evaluate(() => document.activeElement.hash !== "#scoring"); i++)
            await v.page.keyboard.press("Shift+Tab");
        await v.page.keyboard.press("Enter");
        equal(await v.$("#scoring").isVisible(), true, "another part is reached by Tab and Enter");
        await v.page.goBack();
        equal(await v.$("#playground").isVisible(), true, "and left by the browser's Back");
        await v.end();
    },

    async "stop"() {
        const v = await visit();
        await write(v, "Once upon a time", {max_tokens: "1900", "deq.tol": "1e-5", "deq.window": "1",
                                            "deq.max_iter": "64", "deq.solver": "picard"}); // as slow as it gets
        const growing = await until("tokens one after the other", async () => await tokensOf(v) > 10 && tokensOf(v));
        await until("more of them", async () => await tokensOf(v) > growing);
        equal(await v.text("#generate"), "Stop", "the button stops");
        await v.$("#generate").click();
        await until("stopped", async () => await v.text("#playground-hint") === "Stopped.");
        equal(await v.text("#generate"), "Write", "and starts again");
        await until("the server ends it too", async () => await daemon.metric("deqd_requests_running") === 0);
        const n = await tokensOf(v);
        check(n < 1900, `${n} tokens until then`);
        await v.$("#playground-tokens .t").nth(2).click();
        check((await v.text("#token h3")).includes(`3 of ${n}`), "what is there can be looked at");
        await v.end();
    },

    async "errors where the field is"() {
        const v = await visit({expected: [/status of 400/]});
        for (const [name, value, words] of [["top_p", "3", /top_p/], ["deq.tol", "x", /deq\.tol/],
                                            ["deq.window", "99", /deq\.window/], ["max_tokens", "-1", /max_tokens/],
                                            ["seed", "x", /seed/], ["stop", "x\n".repeat(40), /stop/]]) {
            await v.page.reload();
            await write(v, "A", {[name]: value});
            const field = v.$(`#playground-form [name="${name}"]`);
            await until(`${name}: refused`, async () => await field.getAttribute("aria-invalid") === "true");
            const [, error] = (await field.getAttribute("aria-describedby")).split(" ");
            check(words.test(await v.text(`#${error}`)), `${name}: the server's words stand below the field`);
            equal(await field.evaluate(n => n === document.activeElement), true, `${name}: it is where the cursor is`);
            await field.fill("");
            equal(await field.getAttribute("aria-invalid"), null, `${name}: changed, it is no longer wrong`);
        }
        await v.$("#prompt").fill("word ".repeat(3000));
        await v.$("#playground-form [name=max_tokens]").fill("5");
        await v.$("#generate").click();
        await until("a prompt that is too long", async () =>
            await v.$("#prompt").getAttribute("aria-invalid") === "true");
        await v.accessible("with errors");
        await v.end();
    },

    async convergence() {
        const v = await visit({part: "convergence"});
        await v.$("#compare").click();
        await until("both are there", async () => await v.$("#convergence-summary table").count() === 1);
        check(/same text|part at token/.test(await v.text(".verdict")), "whether they part, and where");
        const [a, b] = await sideBySide(v, "Evaluations a token");
        check(a < b, `a tolerance a thousand times smaller takes more evaluations: ${a}, ${b}`);
        equal(await v.$("#convergence-results .side").count(), 2, "two sides");
        for (const name of ["Wavefront", "Residual after each evaluation", "Evaluations a token", "Steps a token"])
            equal(await v.$(`#convergence-results figure h3:text-is("${name}")`).count(), 2, `${name}, twice`);
        const first = v.$("#convergence-results .side").first();
        check(await first.locator(".curve polyline").count() > 20, "a curve a token");
        check(await v.$("#convergence-results .wavefront .front").count() > 20, "rows of the wavefront");
        await v.picture("convergence-light", {fullPage: true});
        await v.accessible("convergence, two settings");
        // windows: the same text in fewer steps
        await v.$("label:has-text('Window 1, 8') input").check();
        await v.$("#compare").click();
        await until("the windows", async () => /window 1/i.test(await v.text("#convergence-results h2")) &&
                                               await v.$("#convergence-summary table").count() === 1);
        const [one, eight] = await sideBySide(v, "Steps a token");
        check(eight < one, `a window of 8 takes fewer steps than one of 1: ${eight}, ${one}`);
        // the slider tells a step in words
        const slider = v.$("#convergence-results input[type=range]").first();
        await slider.focus();
        await v.page.keyboard.press("Home");
        check((await v.text("#convergence-results output")).startsWith("Step 1: "), "the first step, in words");
        // one alone
        await v.$("label:has-text('One setting alone') input").check();
        await v.$("#compare").click();
        await until("one side", async () => await v.$("#convergence-results .side").count() === 1 &&
                                            await v.$("#convergence-results figure").count() >= 4);
        await v.end();
    },

    async "convergence of a written text"() {
        const v = await visit();
        await write(v, "The dog", {max_tokens: "30", seed: "5"});
        await written(v);
        await v.$("button:has-text('See how it converged')").click();
        await until("its plots", async () => await v.$("#convergence-results figure").count() >= 4);
        equal(await v.$("#convergence-prompt").inputValue(), "The dog", "with its prompt");
        await v.end();
    },

    async scoring() {
        const v = await visit({part: "scoring"});
        await v.$("#score").click();
        await until("scored", async () => await v.$("#scoring-results").isVisible());
        const body = {prompt: await v.$("#scored").inputValue(), max_tokens: 0, echo: true, logprobs: 1};
        const answer = await daemon.complete(body);
        const lp = answer.choices[0].logprobs.token_logprobs.filter(x => x !== null);
        const perplexity = Math.exp(-lp.reduce((a, b) => a + b) / lp.length);
        const facts = (await v.text("#scoring-facts")).replaceAll("\n", " ");
        const told = Number(/Perplexity ([0-9.,]+)/.exec(facts)?.[1].replaceAll(",", ""));
        check(Math.abs(told / perplexity - 1) < 0.01, `perplexity: ${told} is ${perplexity} to three digits`);
        check(/Bits a byte [0-9.]+/.test(facts), "bits a byte");
        equal((await v.$("#scoring-tokens").textContent()), body.prompt, "the text as it was pasted");
        await v.$("#scoring-colour label:has-text('Evaluations')").click();
        check(await v.$("#scoring-tokens .unknown").count() <= 1, "every token but the first has its evaluations");
        await v.$("#scoring-tokens .t").nth(20).click();
        equal(await v.$("#scored-token").isVisible(), true, "a token is looked at");
        await v.picture("scoring-light", {fullPage: true});
        await v.accessible("scoring");
        await v.end();
    },

    async live() {
        const v = await visit({part: "live"});
        equal(await v.$(".tile").count(), 8, "plots");
        await until("values", async () => /[1-9]/.test(await v.text(".tile:has-text('Memory') .now-values")));
        const load = Promise.all([1, 2].map(seed => daemon.complete({
            prompt: "Once", max_tokens: 800, seed, ignore_eos: true, deq: {tol: 1e-3},
        })));
        const value = async tile => /[1-9]/.test(await v.text(`.tile:has-text('${tile}') .now-values`));
        await until("rates", async () => await value("Evaluations a token") && await value("Rows a step"));
        await load;
        await until("lines", async () => await v.$(".tile polyline").count() >= 8);
        await v.picture("live-light", {fullPage: true});
        await v.accessible("live");
        await v.end();
    },

    async keys() {
        const dir = mkdtempSync(join(tmpdir(), "deqd-page-")), key = "sk-page-0123";
        writeFileSync(join(dir, "keys"), `page ${createHash("sha256").update(key).digest("hex")}\n`);
        const d = await Daemon.start({model: "tests/golden/tiny", sets: [`auth.keys_file=${dir}/keys`]});
        const v = await Visit.to(d, {expected: [/status of 401/]});
        await v.$("#key-dialog[open]").waitFor();
        await v.accessible("the key is asked for");
        await v.$("#key-cancel").click();
        await write(v, "ROMEO:", {max_tokens: "8"});
        await v.$("#key-dialog[open]").waitFor();
        await v.$("#key").fill("wrong");
        await v.page.keyboard.press("Enter");
        await until("refused", async () => (await v.text("#key-error")).includes("does not know"));
        await v.$("#key").fill(key);
        await v.page.keyboard.press("Enter");
        await written(v);
        equal(await tokensOf(v) > 0, true, "with the key the request goes on by itself");
        equal(await v.text("#key-button"), "API key: set", "it is said that there is one");
        await v.$("nav a[href='#live']").click();
        await until("metrics with the key", async () =>
            /[1-9]/.test(await v.text(".tile:has-text('Memory') .now-values")));
        await v.$("nav a[href='#playground']").click();
        await write(v, "A", {max_tokens: "2"});
        await written(v);
        const curl = await v.text("#curl");
        check(curl.includes("$DEQD_KEY") && !curl.includes(key), "the curl line names a variable, not the key");
        const kept = await v.page.evaluate(() =>
            JSON.stringify([localStorage, sessionStorage, document.cookie, location.href]));
        check(!kept.includes(key), "the key is kept nowhere");
        await v.page.reload();
        await v.$("#key-dialog[open]").waitFor();
        check(true, "a reload forgets it");
        await v.end();
        await d.stop();
        rmSync(dir, {recursive: true});
    },

    async "the daemon restarts"() {
        let d = await Daemon.start({model: "tests/golden/tiny"});
        const v = await Visit.to(d, {expected: [/ERR_CONNECTION|Failed to load resource/]});
        await write(v, "ROMEO:", {max_tokens: "8"});
        await written(v);
        await d.stop();
        await v.$("#generate").click();
        await until("it is said", async () => /cannot be reached/.test(await v.text("#playground-error")));
        await until("the head says it too", async () => /not reachable/.test(await v.text("#status-text")));
        await v.accessible("without its server");
        d = await Daemon.start({model: "tests/golden/tiny", listen: d.address});
        await until("it is back", async () => /ready/.test(await v.text("#status-text")));
        await v.$("#generate").click();
        await written(v);
        equal(await v.$("#playground-error").isHidden(), true, "the same page goes on");
        await v.end();
        await d.stop();
    },

    async "narrow"() {
        const v = await visit({width: 360, height: 740});
        await write(v, "Once upon a time", {max_tokens: "60", seed: "7"});
        await written(v);
        await v.$("#playground-tokens .t").nth(4).click();
        await v.noSidewaysScrolling("playground");
        await v.picture("playground-narrow", {fullPage: true});
        await v.accessible("playground, narrow");
        for (const part of PARTS.slice(1)) {
            await fillPart(v, part);
            await v.noSidewaysScrolling(part);
            await v.picture(`${part}-narrow`, {fullPage: true});
        }
        await v.end();
    },

    async "dark"() {
        const v = await visit({dark: true});
        const ground = await v.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
        check(ground.match(/\d+/g).every(c => Number(c) < 60), `the ground is dark: ${ground}`);
        await write(v, "Once upon a time", {max_tokens: "120", seed: "7", temperature: "0.7"});
        await written(v);
        await v.$("#playground-tokens .t").nth(8).click();
        await v.accessible("playground, dark");
        await v.picture("playground-dark", {fullPage: true});
        for (const part of PARTS.slice(1)) {
            await fillPart(v, part);
            await v.accessible(`${part}, dark`);
            await v.picture(`${part}-dark`, {fullPage: true});
        }
        await v.end();
    },
};

const begin = Date.now(), wanted = process.argv.slice(2);
await openBrowser();
daemon = await Daemon.start();
documented = await daemon.documented();
for (const [name, test] of Object.entries(TESTS)) {
    if (wanted.length && !wanted.some(w => name.includes(w))) continue;
    const from = Date.now();
    try {
        await test();
    } catch (e) {
        check(false, `${name}: ${e.stack}`);
    }
    console.log(`page: ${name.padEnd(32)} ${((Date.now() - from) / 1000).toFixed(1)} s`);
}
await closeBrowser();
await daemon.stop();
console.log(`${counts.passed} passed, ${counts.failed} failed (page, ${Math.round((Date.now() - begin) / 1000)} s)`);
process.exit(counts.failed ? 1 : 0);
