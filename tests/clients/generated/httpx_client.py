"""The client of openapi-python-client: completes, streams, scores, chats, is
refused; a JSON line with what it got. Argument: the server's URL."""
import json
import sys

from deqd_client import Client
from deqd_client.api.generation import create_chat_completion, create_completion
from deqd_client.models import ChatCompletionRequest, CompletionRequest, Message, MessageRole

client = Client(base_url=sys.argv[1])


def ask(**fields):
    return create_completion.sync(client=client, body=CompletionRequest(prompt="ROMEO:", **fields))


whole = ask(max_tokens=12, temperature=0, stop="@@")
scores = ask(max_tokens=0, echo=True, logprobs=1)
chat = create_chat_completion.sync(client=client, body=ChatCompletionRequest(
    messages=[Message(role=MessageRole.USER, content="Hello")], max_tokens=4, temperature=0))
body = CompletionRequest(prompt="ROMEO:", max_tokens=12, temperature=0, stream=True)
streamed = ""
with client.get_httpx_client().stream(**create_completion._get_kwargs(body=body)) as response:
    for line in response.iter_lines():
        if line.startswith("data: {"):
            streamed += json.loads(line[6:])["choices"][0]["text"]
print(json.dumps({"text": whole.choices[0].text, "streamed": streamed,
                  "scores": scores.choices[0].logprobs.token_logprobs, "chat": chat.choices[0].message.content,
                  "refused": ask(max_tokens=-1).error.param, "seed": whole.deq.seed}))
