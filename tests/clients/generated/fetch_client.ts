// The fetch client of openapi-generator: completes, streams, scores, chats, is
// refused; a JSON line with what it got. Argument: the server's URL.
import { Configuration, GenerationApi, ResponseError } from "./generated/index.js";
import type { CompletionRequest } from "./generated/index.js";

const api = new GenerationApi(new Configuration({ basePath: process.argv[2]! }));
const request = (fields: CompletionRequest) => ({ completionRequest: { prompt: "ROMEO:", ...fields } });

const whole = await api.createCompletion(request({ maxTokens: 12, temperature: 0, stop: "@@" }));
const scores = await api.createCompletion(request({ maxTokens: 0, echo: true, logprobs: 1 }));
const chat = await api.createChatCompletion({
    chatCompletionRequest: { messages: [{ role: "user", content: "Hello" }], maxTokens: 4, temperature: 0 },
});
const answer = await api.createCompletionRaw(request({ maxTokens: 12, temperature: 0, stream: true }));
let streamed = "", events = "";
for await (const piece of answer.raw.body!.pipeThrough(new TextDecoderStream())) events += piece;
for (const line of events.split("\n"))
    if (line.startsWith("data: {")) streamed += JSON.parse(line.slice(6)).choices[0].text;
let refused: string | null = null;
try {
    await api.createCompletion(request({ maxTokens: -1 }));
} catch (e) {
    if (!(e instanceof ResponseError)) throw e;
    refused = (await e.response.json()).error.param;
}
console.log(JSON.stringify({
    text: whole.choices[0]!.text, streamed, scores: scores.choices[0]!.logprobs!.tokenLogprobs,
    chat: chat.choices[0]!.message.content, refused, seed: whole.deq.seed,
}));
