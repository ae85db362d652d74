"""The Python client of openapi-generator: completes, streams, scores, chats, is
refused; a JSON line with what it got. Argument: the server's URL."""
import json
import sys

import openapi_client as deqd

api = deqd.GenerationApi(deqd.ApiClient(deqd.Configuration(host=sys.argv[1])))


def request(**fields):
    return deqd.CompletionRequest(prompt=deqd.CompletionRequestPrompt("ROMEO:"), **fields)


whole = api.create_completion(request(max_tokens=12, temperature=0, stop=deqd.Stop("@@")))
scores = api.create_completion(request(max_tokens=0, echo=True, logprobs=1))
chat = api.create_chat_completion(deqd.ChatCompletionRequest(
    messages=[deqd.Message(role="user", content=deqd.MessageContent("Hello"))], max_tokens=4, temperature=0))
streamed = ""
answer = api.create_completion_without_preload_content(request(max_tokens=12, temperature=0, stream=True))
for line in b"".join(answer.stream()).decode().split("\n"):
    if line.startswith("data: {"):
        streamed += json.loads(line[6:])["choices"][0]["text"]
try:
    api.create_completion(request(suffix="x"))
    refused = None
except deqd.ApiException as e:
    refused = e.data.error.param
print(json.dumps({"text": whole.choices[0].text, "streamed": streamed,
                  "scores": scores.choices[0].logprobs.token_logprobs, "chat": chat.choices[0].message.content,
                  "refused": refused, "seed": whole.deq.seed}))
