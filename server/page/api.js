// The server's own API: requests, errors, streams. The key lives in a variable here and nowhere else.

let key = "";
let asking = null; // one question at a time, whoever needs the key

// Set by main.js: shows the dialog; resolves with the key, or null when nobody gives one.
export const keyDialog = {ask: async () => null, changed: () => {}};

export const hasKey = () => key !== "";

export function setKey(text) {
    key = text;
    keyDialog.changed();
}

// Every error of the API has this shape; what never reached it has status 0.
export class ApiError extends Error {
    constructor(status, {message, code = null, param = null}, retryAfterMs = 0) {
        super(message);
        Object.assign(this, {status, code, param, retryAfterMs});
    }
}

async function errorOf(response) {
    const retry = Number(response.headers.get("retry-after-ms")) || 0;
    let error = null;
    try {
        ({error} = await response.json());
    } catch {
        // a proxy's page, not the server's answer
    }
    return new ApiError(response.status, error ?? {message: `${response.status} ${response.statusText}`}, retry);
}

function send(method, path, body, signal) {
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (key) headers.Authorization = `Bearer ${key}`;
    return fetch(path, {method, headers, body, signal, cache: "no-store", credentials: "omit", redirect: "error"})
        .catch(e => {
            if (e.name === "AbortError") throw e;
            throw new ApiError(0, {message: "The server cannot be reached."});
        });
}

// quiet: nobody is waiting for this answer, so that a missing key is an error instead of a question.
export async function ask(method, path, {body, signal, quiet = false} = {}) {
    for (let refused = key !== ""; ; refused = true) {
        const used = key;
        const response = await send(method, path, body, signal);
        if (response.ok) return response;
        if (response.status !== 401 || quiet) throw await errorOf(response);
        if (used !== key) continue; // another request has asked meanwhile
        asking ??= keyDialog.ask(refused).finally(() => { asking = null; });
        const given = await asking;
        if (given === null) throw await errorOf(response);
        if (key !== given) setKey(given);
    }
}

export async function getJson(path, options) {
    return (await ask("GET", path, options)).json();
}

// Server-sent events by hand, since EventSource cannot POST: yields the data of each event.
export async function* events(response) {
    const reader = response.body.getReader(), decoder = new TextDecoder();
    let rest = "", data = [];
    for (;;) {
        const {value, done} = await reader.read().catch(e => {
            if (e.name === "AbortError") throw e;
            throw new ApiError(0, {message: "The connection ended before the answer did."});
        });
        if (done) return;
        const lines = (rest + decoder.decode(value, {stream: true})).split("\n");
        rest = lines.pop();
        for (const raw of lines) {
            const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
            if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
            if (line === "" && data.length) {
                yield data.join("\n");
                data = [];
            }
        }
    }
}

// What a completion has told so far. tokens[i]: {id, name, offset, logprob, top, iters, residual, warm, trace}; chars:
// the text as code points, in which offsets count.
export class Answer {
    tokens = [];
    dropped = [];
    droppedMore = 0;
    chars = [];
    finish = null;
    report = null;
    usage = null;
    timings = null;
    sentMs = performance.now();
    firstMs = null;
    lastMs = null;

    constructor(request) {
        this.request = request;
    }

    get text() {
        return this.chars.join("");
    }

    // The text of token i: from where it begins to where the next one does. Of the tokens that a character is made of,
    // the last one has it.
    textOf(i) {
        const end = i + 1 < this.tokens.length ? this.tokens[i + 1].offset : this.chars.length;
        return this.chars.slice(this.tokens[i].offset, end).join("");
    }

    // An event of a stream, or a whole answer.
    add(event) {
        const now = performance.now();
        const choice = event.choices[0];
        this.usage = event.usage ?? this.usage;
        this.report = event.deq ?? this.report;
        this.timings = event.timings ?? this.timings;
        if (!choice) return;
        this.chars.push(...choice.text);
        this.finish = choice.finish_reason ?? this.finish;
        const {logprobs, deq} = choice, trace = deq?.trace?.tokens ?? [];
        // an echoed prompt stands before the text
        const of = name => [...deq?.prompt?.[name] ?? [], ...deq?.[name] ?? []];
        const iters = of("iters"), residual = of("residual"), warm = of("warm");
        const fresh = (logprobs?.tokens ?? []).map((name, i) => ({
            name,
            id: choice.token_ids?.[i],
            offset: logprobs.text_offset[i],
            logprob: logprobs.token_logprobs[i],
            top: Object.entries(logprobs.top_logprobs?.[i] ?? {}).sort((a, b) => b[1] - a[1]),
            iters: iters[i],
            residual: residual[i],
            warm: warm[i],
            trace: trace[i],
        }));
        this.tokens.push(...fresh);
        this.dropped.push(...deq?.trace?.dropped ?? []);
        this.droppedMore += deq?.trace?.dropped_more ?? 0;
        if (fresh.length) {
            this.firstMs ??= now;
            this.lastMs = now;
        }
    }

    // Steps of the engine from the first row's entry to the last token; null without a trace.
    get steps() {
        const traced = this.tokens.filter(t => t.trace);
        if (!traced.length) return null;
        return traced.at(-1).trace.committed - traced[0].trace.entered + 1;
    }

    // Prompt and text, as the server measured; until it has told, as this page sees it.
    get ms() {
        return this.timings ? this.timings.prompt_ms + this.timings.predicted_ms : this.lastMs - this.sentMs;
    }

    get evaluations() {
        return this.tokens.reduce((sum, t) => sum + (t.iters ?? 0), 0);
    }
}

export const EVERYTHING = {
    logprobs: 5, return_token_ids: true, include: ["deq.tokens", "deq.trace", "timings"], stream: true,
    stream_options: {include_usage: true},
};

// Runs a streaming completion; onNews(answer) after every event. Throws ApiError, or AbortError when it was stopped.
export async function complete(request, {signal, onNews = () => {}}) {
    const answer = new Answer(request);
    const response = await ask("POST", "/v1/completions", {body: toJson(request), signal});
    answer.requestId = response.headers.get("x-request-id");
    onNews(answer);
    for await (const data of events(response)) {
        if (data === "[DONE]") return answer;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(response.status, event.error);
        answer.add(event);
        onNews(answer);
    }
    throw new ApiError(0, {message: "The connection ended before the answer did."});
}

// A number that a double cannot hold (a large seed) goes out as it was written: within texts quotes are escaped, so
// that this matches the field alone.
export function toJson(request) {
    return JSON.stringify(request).replace(/"seed":"(-?\d+)"/, '"seed":$1');
}

// The same request for a shell. The key is not in it: who copies it may paste it anywhere.
export function toCurl(request, path = "/v1/completions") {
    const lines = [`curl -sN ${location.origin}${path}`, "-H 'Content-Type: application/json'"];
    if (key) lines.push("-H \"Authorization: Bearer $DEQD_KEY\"");
    lines.push(`-d '${toJson(request).replaceAll("'", "'\\''")}'`);
    return lines.join(" \\\n  ");
}
