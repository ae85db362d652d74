// The official openai client for Node, as openai_client.py has it for Python; and what the client's own retry does on a 429.
import {spawn} from "node:child_process";
import {once} from "node:events";
import {createRequire} from "node:module";
import {createInterface} from "node:readline";

const require = createRequire(process.env.CLIENTS_NODE + "/");
const OpenAI = require("openai");
const BUILD = process.env.DEQ_BUILD ?? "build";
let passed = 0, failed = 0;

function check(ok, what) {
    if (ok) return void passed++;
    failed++;
    console.log("failed:", what);
}

async function start(...sets) {
    const flags = sets.flatMap(s => ["--set", s]);
    const d = spawn(`${BUILD}/deqd`, ["--model", "tests/golden/tiny", "--listen", "127.0.0.1:0", ...flags], {stdio: ["ignore", "ignore", "pipe"]});
    const lines = createInterface({input: d.stderr});
    const [first] = await once(lines, "line");
    return [d, new OpenAI({baseURL: `http://${JSON.parse(first).address}/v1`, apiKey: "any", maxRetries: 0})];
}

async function stop(d) {
    const end = once(d, "exit");
    d.kill("SIGTERM");
    check((await end)[0] === 0, "exit code");
}

async function refused(kind, promise) {
    try {
        await promise;
    } catch (e) {
        if (e instanceof kind) return e;
        throw e;
    }
    return null;
}

async function expect(what, promise, checks) {
    try {
        await checks(await promise);
    } catch (e) {
        if (!(e instanceof OpenAI.OpenAIError)) throw e;
        check(false, `${what}: ${e.message}`);
    }
}

let [d, client] = await start("server.drain_delay_ms=0");
const make = more => client.completions.create({model: "tiny", prompt: "ROMEO:", max_tokens: 24, temperature: 0, ...more});
const whole = await make();
const text = whole.choices[0].text;
check(whole.object === "text_completion" && whole.model === "tiny" && whole.id.startsWith("cmpl-"), "head");
check(whole.choices[0].finish_reason === "length" && whole.usage.completion_tokens === 24 &&
      whole.usage.total_tokens === whole.usage.prompt_tokens + 24, "usage");
const chunks = [];
for await (const c of await make({stream: true, stream_options: {include_usage: true}})) chunks.push(c);
const choices = chunks.flatMap(c => c.choices);
check(choices.map(c => c.text).join("") === text, "streamed text");
check(chunks.at(-1).usage.completion_tokens === 24 && chunks.at(-1).choices.length === 0, "streamed usage");
check(choices.at(-1).finish_reason === "length", "streamed reason");
const cut = (await make({stop: [text.slice(8, 12)]})).choices[0];
check(cut.finish_reason === "stop" && cut.text === text.slice(0, text.indexOf(text.slice(8, 12))), "stop");
const [s7, again7, s8] = await Promise.all([7, 7, 8].map(async seed => (await make({temperature: 1, seed})).choices[0].text));
check(s7 === again7 && s7 !== s8, "seed");
const lp = (await make({logprobs: 3})).choices[0].logprobs;
check([lp.tokens, lp.token_logprobs, lp.top_logprobs, lp.text_offset].every(a => a.length === 24) && lp.tokens.join("") === text, "logprobs");
check(lp.token_logprobs.every((x, i) => x === Math.max(...Object.values(lp.top_logprobs[i]))), "greedy picks the most probable");
const extra = await make({deq: {tol: 1e-3, window: 1}, top_k: 5});
check(extra.deq.tol === 0.001 && extra.deq.window === 1 && extra.deq.residual_max < 0.001 && extra.deq.converged, "deq object");
check((await make({prompt: [72, 73]})).usage.prompt_tokens === 2, "prompt of token ids");
let e = await refused(OpenAI.BadRequestError, make({temperature: 9}));
check(e?.param === "temperature" && e.code === "invalid_value", "bad field");
e = await refused(OpenAI.BadRequestError, make({max_tokens: 100000}));
check(e?.code === "context_length_exceeded", "too long");
check(await refused(OpenAI.NotFoundError, make({model: "other"})), "unknown model");
const models = [];
for await (const m of await client.models.list()) models.push(m.id);
check(models.join() === "tiny", "models");
const abort = new AbortController();
const long = await client.completions.create({model: "tiny", prompt: "A", max_tokens: 2000, stream: true, ignore_eos: true}, {signal: abort.signal});
let seen = 0;
for await (const c of long) if (++seen === 3) abort.abort();
check(seen >= 3 && seen < 1500, `abort ends the stream, after ${seen} events`); // what has been read already may still come

await expect("two prompts", make({prompt: ["ROMEO:", "A"]}), o =>
    check(o.choices.length === 2 && o.choices[0].text === text && o.choices[1].index === 1, "two prompts"));
await expect("n", make({n: 2, temperature: 1}), o => check(o.choices.length === 2 && o.choices[0].text !== o.choices[1].text, "n"));
await expect("echo", make({echo: true, logprobs: 1, max_tokens: 1}), o => {
    const l = o.choices[0].logprobs;
    check(o.choices[0].text.startsWith("ROMEO:") && l.token_logprobs[0] === null && l.tokens.length === o.usage.prompt_tokens + 1, "echo");
});
await expect("chat", client.chat.completions.create({model: "tiny", messages: [{role: "user", content: "Hello"}], max_tokens: 4}), o =>
    check(o.object === "chat.completion" && o.choices[0].message.role === "assistant" && typeof o.choices[0].message.content === "string", "chat"));
await expect("embeddings", client.embeddings.create({model: "tiny", input: ["ROMEO:", "A"]}), async o => {
    const one = (await client.embeddings.create({model: "tiny", input: "ROMEO:", encoding_format: "float"})).data[0].embedding;
    check(o.data[1].index === 1 && o.data[0].embedding.length === one.length &&
          one.every((x, i) => Math.abs(x - o.data[0].embedding[i]) < 1e-8), "embeddings");
});
const ask = {model: "tiny", input: "First Citizen:", temperature: 0, max_output_tokens: 12};
await expect("responses", client.responses.create(ask), async o => {
    const said = o.output_text;
    check(said && o.object === "response" && o.usage.total_tokens === o.usage.input_tokens + o.usage.output_tokens, "response");
    const events = [];
    for await (const e of await client.responses.create({...ask, stream: true})) events.push(e);
    check(events.every((e, i) => e.sequence_number === i) && events[0].type === "response.created", "numbered events");
    check(events.filter(e => e.type === "response.output_text.delta").map(e => e.delta).join("") === said, "deltas");
    check(events.at(-1).type === `response.${o.status}` && events.at(-1).response.output[0].content[0].text === said, "the last event");
    const final = await client.responses.stream({...ask, max_output_tokens: 60, stop: said[2]}).finalResponse();
    check(final.status === "completed" && final.output[0].content[0].text === said.slice(0, 2), "stream helper");
    const input = [{role: "user", content: "First Citizen:"}, ...o.output, {role: "user", content: "And?"}];
    check((await client.responses.create({...ask, input})).usage.input_tokens > o.usage.input_tokens, "its own items come back");
});
const hello = {role: "user", content: "Hello"};
const talk = messages => client.chat.completions.create(
    {model: "tiny", messages, max_tokens: 4, store: false, metadata: {}, parallel_tool_calls: true, service_tier: "auto", tools: []});
await expect("second turn", talk([hello]).then(o => talk([hello, o.choices[0].message, hello])), o =>
    check(o.choices[0].message.role === "assistant", "second turn"));
const drawn = await make({temperature: 1});
const repeated = await make({temperature: 1, seed: drawn.deq.seed});
check(repeated.choices[0].text === drawn.choices[0].text, "again by the seed that the answer told");
await stop(d);

// one place, no queue: a second request gets 429, and the client's own retry succeeds once the first is done
[d, client] = await start("server.drain_delay_ms=0", "engine.max_sequences=1", "queue.max_requests=0", "engine.max_positions=100000");
const first = await client.completions.create({model: "tiny", prompt: "A", max_tokens: 20000, stream: true, ignore_eos: true});
await first[Symbol.asyncIterator]().next();
e = await refused(OpenAI.RateLimitError, client.completions.create({model: "tiny", prompt: "B", max_tokens: 4}));
check(e?.headers.get("retry-after") >= 1 && e.headers.get("retry-after-ms") > 0, "429");
const tries = []; // status, what the server asked for, time
const watched = async (...args) => {
    const r = await fetch(...args);
    tries.push([r.status, Number(r.headers.get("retry-after-ms")), performance.now()]);
    return r;
};
setTimeout(() => first.controller.abort(), 500);
const again = await client.withOptions({maxRetries: 8, fetch: watched}).completions.create({model: "tiny", prompt: "B", max_tokens: 4, ignore_eos: true});
check(again.usage.completion_tokens === 4, "retry");
check(tries.length >= 2 && tries.slice(0, -1).every(t => t[0] === 429) && tries.at(-1)[0] === 200, "429s, then 200");
check(tries.slice(1).every((t, i) => t[2] - tries[i][2] >= tries[i][1] - 5), "the client waited as long as retry-after-ms says");
await stop(d);
console.log(`openai (node ${process.versions.node}): ${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
