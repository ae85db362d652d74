// What the tests of the page share: a daemon, a browser, a page that is watched while it is used, checks.
import {spawn} from "node:child_process";
import {once} from "node:events";
import {createRequire} from "node:module";
import {createInterface} from "node:readline";

const require = createRequire(process.env.PAGE_NODE + "/");
const {chromium} = require("playwright-core");
const AXE = require("axe-core").source;
const BUILD = process.env.DEQ_BUILD ?? "build";
export const PICTURES = process.env.PAGE_PICTURES;
// How long is waited for what must come: a bound on a hang, not on speed.
export const PATIENCE_MS = 30000;

export const counts = {passed: 0, failed: 0};

export function check(ok, what) {
    counts[ok ? "passed" : "failed"]++;
    if (!ok) console.log("FAIL", what);
    return ok;
}

export function equal(got, want, what) {
    const [a, b] = [got, want].map(x => JSON.stringify(x));
    return check(a === b, `${what}: got ${a}, expected ${b}`);
}

// --- The daemon ---

export class Daemon {
    static async start({model = "models/stories-transformer", listen = "127.0.0.1:0", sets = []} = {}) {
        const d = new Daemon();
        const all = ["server.drain_delay_ms=0", ...sets].flatMap(s => ["--set", s]);
        d.process = spawn(`${BUILD}/deqd`, ["--model", model, "--listen", listen, ...all],
                          {stdio: ["ignore", "ignore", "pipe"]});
        d.ended = once(d.process, "exit");
        const lines = createInterface({input: d.process.stderr});
        for await (const line of lines) {
            const said = JSON.parse(line);
            if (said.message === "listening") {
                d.address = said.address;
                break;
            }
        }
        d.process.stderr.resume();
        d.url = `http://${d.address}`;
        return d;
    }

    async stop() {
        this.process.kill("SIGTERM");
        equal((await this.ended)[0], 0, "the daemon's exit code");
    }

    async metric(name) {
        const text = await (await fetch(`${this.url}/metrics`)).text();
        return Number(new RegExp(`^${name} (.*)$`, "m").exec(text)?.[1]);
    }

    async complete(request) {
        const body = JSON.stringify(request), headers = {"Content-Type": "application/json"};
        return (await fetch(`${this.url}/v1/completions`, {method: "POST", headers, body})).json();
    }

    // The paths that the API documents, and the page's own.
    async documented() {
        const {paths} = await (await fetch(`${this.url}/openapi.json`)).json();
        return path => path in paths || path === "/" || /^\/page\/[a-z]+\.(js|css|svg)$/.test(path);
    }
}

export async function until(what, f) {
    const end = Date.now() + PATIENCE_MS;
    while (Date.now() < end) {
        const got = await f();
        if (got) return got;
        await new Promise(resolve => setTimeout(resolve, 50));
    }
    check(false, `in time: ${what}`);
    return null;
}

// --- The browser ---

let browser = null;

export async function openBrowser() {
    const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
    browser = await chromium.launch({executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"]});
}

export const closeBrowser = () => browser?.close();

// A page that is being used: every request it makes and every error it tells is looked at in the end. expected:
// patterns of errors that the test provokes, which the browser tells too. documented(path): whether the API has it.
export class Visit {
    static async to(daemon, more = {}) {
        const {part = "", expected = [], width = 1280, height = 900, dark = false, documented = () => true} = more;
        const v = new Visit();
        v.errors = [];
        v.strangers = [];
        v.expected = expected;
        v.context = await browser.newContext({viewport: {width, height}, colorScheme: dark ? "dark" : "light"});
        const page = v.page = await v.context.newPage();
        page.setDefaultTimeout(PATIENCE_MS);
        page.on("console", m => { if (m.type() === "error" || m.type() === "warning") v.errors.push(m.text()); });
        page.on("pageerror", e => v.errors.push(String(e)));
        page.on("request", r => {
            const url = new URL(r.url());
            if (url.host !== daemon.address || !documented(url.pathname)) v.strangers.push(r.url());
        });
        await page.goto(`${daemon.url}/#${part}`);
        return v;
    }

    async end() {
        const bad = this.errors.filter(e => !this.expected.some(p => p.test(e)));
        equal(bad, [], "errors in the console");
        equal(this.strangers, [], "requests to anywhere else, or to what is not documented");
        await this.context.close();
    }

    $(selector) {
        return this.page.locator(selector);
    }

    text(selector) {
        return this.$(selector).first().innerText();
    }

    async picture(name, more = {}) {
        await this.page.screenshot({path: `${PICTURES}/${name}.png`, ...more});
    }

    // What axe finds wrong in what is shown now.
    async accessible(what) {
        await this.page.evaluate(AXE);
        const {violations} = await this.page.evaluate(() => window.axe.run(document, {resultTypes: ["violations"]}));
        const node = n => `${n.target}: ${n.any[0]?.message ?? ""}`;
        const told = violations.map(x => [x.id, x.nodes.slice(0, 3).map(node)]);
        equal(told, [], `axe, ${what}`);
    }

    async noSidewaysScrolling(what) {
        const [scroll, client] = await this.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        check(scroll <= client, `${what}: ${scroll} pixels wide on a screen of ${client}`);
    }
}
