// openapi-fetch with the types of openapi-typescript: completes, streams, scores, chats, is
// refused; a JSON line with what it got. Argument: the server's URL.
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/schema.js";

const client = createClient<paths>({ baseUrl: process.argv[2]! });

async function complete(fields: components["schemas"]["CompletionRequest"]) {
    const { data, error } = await client.POST("/v1/completions", { body: { prompt: "ROMEO:", ...fields } });
    if (!data || !("choices" in data)) throw new Error(error?.error.message);
    return data;
}

const whole = await complete({ max_tokens: 12, temperature: 0, stop: "@@" });
const scores = await complete({ max_tokens: 0, echo: true, logprobs: 1 });
const chat = (await client.POST("/v1/chat/completions", {
    body: { messages: [{ role: "user", content: "Hello" }], max_tokens: 4, temperature: 0 },
})).data!;
const { data } = await client.POST("/v1/completions", {
    body: { prompt: "ROMEO:", max_tokens: 12, temperature: 0, stream: true }, parseAs: "stream",
});
let streamed = "", events = "";
for await (const piece of data!.pipeThrough(new TextDecoderStream())) events += piece;
for (const line of events.split("\n"))
    if (line.startsWith("data: {")) streamed += JSON.parse(line.slice(6)).choices[0].text;
const { error } = await client.POST("/v1/completions", { body: { max_tokens: -1 } });
console.log(JSON.stringify({
    text: whole.choices[0]!.text, streamed, scores: scores.choices[0]!.logprobs!.token_logprobs,
    chat: "choices" in chat ? chat.choices[0]!.message.content : null, refused: error!.error.param, seed: whole.deq.seed,
}));
