#!/usr/bin/env python3
"""What users of the official openai client do: complete, stream, stop, seed, log-probabilities, embeddings, errors,
models, a retry after a 429."""
import json
import os
import subprocess
import sys
import threading
import time

import openai

BUILD = os.environ.get("DEQ_BUILD", "build")
MODEL = "tests/golden/tiny"
passed = failed = 0


def check(ok, what):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print("failed:", what)


def start(*sets):
    flags = [x for s in sets for x in ("--set", s)]
    d = subprocess.Popen([f"{BUILD}/deqd", "--model", MODEL, "--listen", "127.0.0.1:0", *flags], stderr=subprocess.PIPE,
                         text=True)
    address = json.loads(d.stderr.readline())["address"]
    threading.Thread(target=lambda: [None for _ in d.stderr], daemon=True).start()
    return d, openai.OpenAI(base_url=f"http://{address}/v1", api_key="any", max_retries=0)


def stop(d):
    d.terminate()
    check(d.wait(timeout=30) == 0, "exit code")


def refused(kind, call):
    try:
        call()
    except kind as e:
        return e
    return None


def expect(what, call, checks):
    try:
        checks(call())
    except openai.OpenAIError as e:
        check(False, f"{what}: {e}")


def responses(client):
    """The Responses API: whole, as events, by the stream helper, and with the last answer's own items in the next
    question."""
    ask = dict(model="tiny", input="First Citizen:", temperature=0, max_output_tokens=12)
    whole = client.responses.create(**ask)
    text = whole.output_text
    check(text and whole.object == "response" and whole.store is False and
          whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens,
          "response")
    check(whole.status == "completed" or whole.incomplete_details.reason == "max_output_tokens", "how a response ends")
    events = list(client.responses.create(**ask, stream=True))
    check([e.sequence_number for e in events] == list(range(len(events))) and events[0].type == "response.created",
          "numbered events")
    check("".join(e.delta for e in events if e.type == "response.output_text.delta") == text, "deltas")
    check(events[-1].type == "response." + whole.status and events[-1].response.output_text == text, "the last event")
    # ends by itself: the helper waits for response.completed
    done = dict(ask, max_output_tokens=60, extra_body={"stop": text[2]})
    with client.responses.stream(**done) as stream:
        snapshots = [e.snapshot for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    check(final.status == "completed" and final.output_text == text[:2] and snapshots[-1] == text[:2], "stream helper")
    again = client.responses.create(**dict(ask, input=[{"role": "user", "content": "First Citizen:"}, *whole.output,
                                                       {"role": "user", "content": "And?"}]))
    check(again.usage.input_tokens > whole.usage.input_tokens, "its own items come back")
    e = refused(openai.BadRequestError, lambda: client.responses.create(**ask, previous_response_id=whole.id))
    check(e is not None and e.param == "previous_response_id", "previous_response_id")


def embeddings(client):
    """As floats, and in base64, which the client asks for where nothing is said and decodes."""
    two = client.embeddings.create(model="tiny", input=["ROMEO:", "A"])
    check([e.index for e in two.data] == [0, 1] and all(isinstance(x, float) for x in two.data[0].embedding) and
          two.usage.total_tokens == two.usage.prompt_tokens > 1, "embeddings")
    check(abs(sum(x * x for x in two.data[0].embedding) - 1) < 1e-6, "of length 1")
    plain = client.embeddings.create(model="tiny", input="ROMEO:", encoding_format="float")
    close = max(abs(a - b) for a, b in zip(plain.data[0].embedding, two.data[0].embedding, strict=True))
    check(close < 1e-8, f"floats as text and in base64: {close}")  # nine digits of float32, of numbers below 1
    e = refused(openai.BadRequestError, lambda: client.embeddings.create(model="tiny", input="A", dimensions=3))
    check(e is not None and e.param == "dimensions", "dimensions")


def main():
    d, client = start("server.drain_delay_ms=0")
    make = client.completions.create
    greedy = dict(model="tiny", prompt="ROMEO:", max_tokens=24, temperature=0)
    whole = make(**greedy)
    choice = whole.choices[0]
    check(whole.object == "text_completion" and whole.model == "tiny" and whole.id.startswith("cmpl-"), "head")
    check(choice.finish_reason == "length" and whole.usage.completion_tokens == 24 and
          whole.usage.total_tokens == whole.usage.prompt_tokens + 24, "usage")
    chunks = list(make(**greedy, stream=True, stream_options={"include_usage": True}))
    check("".join(c.choices[0].text for c in chunks if c.choices) == choice.text, "streamed text")
    check(chunks[-1].usage.completion_tokens == 24 and not chunks[-1].choices, "streamed usage")
    check([c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length", "streamed reason")
    mark = choice.text[8:12]
    cut = make(**greedy, stop=[mark])
    check(cut.choices[0].finish_reason == "stop" and cut.choices[0].text == choice.text[:choice.text.index(mark)],
          "stop")
    sampled = [make(**(greedy | {"temperature": 1.0}), seed=s).choices[0].text for s in (7, 7, 8)]
    check(sampled[0] == sampled[1] != sampled[2], "seed")
    lp = make(**greedy, logprobs=3).choices[0].logprobs
    check(len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset) == 24 and
          "".join(lp.tokens) == choice.text, "logprobs")
    check(all(x == max(t.values()) for x, t in zip(lp.token_logprobs, lp.top_logprobs)),
          "greedy picks the most probable")
    extra = make(**greedy, extra_body={"deq": {"tol": 1e-3, "window": 1}, "top_k": 5})
    check(extra.deq["tol"] == 0.001 and extra.deq["window"] == 1 and extra.deq["residual_max"] < 0.001 and
          extra.deq["converged"], "deq object")
    ids = make(**(greedy | {"prompt": [72, 73]}))
    check(ids.usage.prompt_tokens == 2, "prompt of token ids")
    e = refused(openai.BadRequestError, lambda: make(**(greedy | {"temperature": 9})))
    check(e is not None and e.param == "temperature" and e.code == "invalid_value", "bad field")
    e = refused(openai.BadRequestError, lambda: make(**(greedy | {"max_tokens": 100000})))
    check(e is not None and e.code == "context_length_exceeded", "too long")
    check(refused(openai.NotFoundError, lambda: make(**(greedy | {"model": "other"}))) is not None, "unknown model")
    check([m.id for m in client.models.list()] == ["tiny"], "models")

    expect("two prompts", lambda: make(**(greedy | {"prompt": ["ROMEO:", "A"]})),
          lambda o: check([c.index for c in o.choices] == [0, 1] and o.choices[0].text == choice.text, "two prompts"))
    expect("n", lambda: make(**(greedy | {"temperature": 1.0}), n=2),
           lambda o: check(len({c.text for c in o.choices}) == 2, "n"))
    expect("streamed n", lambda: list(make(**(greedy | {"temperature": 1.0}), n=2, stream=True)),
          lambda cs: check({c.choices[0].index for c in cs} == {0, 1} and
                           sum(bool(c.choices[0].finish_reason) for c in cs) == 2, "streamed n"))
    expect("echo", lambda: make(**(greedy | {"max_tokens": 1}), echo=True, logprobs=1),
          lambda o: check(o.choices[0].text.startswith("ROMEO:") and o.choices[0].logprobs.token_logprobs[0] is None and
                          len(o.choices[0].logprobs.tokens) == o.usage.prompt_tokens + 1, "echo"))
    expect("scoring only", lambda: make(**(greedy | {"max_tokens": 0}), echo=True, logprobs=1),
          lambda o: check(o.choices[0].text == "ROMEO:" and len(o.choices[0].logprobs.tokens) == o.usage.prompt_tokens,
                          "scoring only"))
    expect("chat", lambda: client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hello"}],
                                                          max_tokens=4),
          lambda o: check(o.object == "chat.completion" and o.choices[0].message.role == "assistant", "chat"))
    responses(client)
    embeddings(client)
    hello = {"role": "user", "content": "Hello"}
    talk = dict(model="tiny", max_tokens=4, store=False, metadata={}, parallel_tool_calls=True, service_tier="auto",
                tools=[])
    expect("second turn", lambda: client.chat.completions.create(messages=[hello], **talk).choices[0].message,
           lambda m: expect("the answer comes back",
                            lambda: client.chat.completions.create(messages=[hello, m, hello], **talk),
                            lambda o: check(o.usage.prompt_tokens > 0, "second turn")))
    drawn = make(model="tiny", prompt="ROMEO:", max_tokens=24)
    again = make(model="tiny", prompt="ROMEO:", max_tokens=24, seed=drawn.deq["seed"])
    check(again.choices[0].text == drawn.choices[0].text, "again by the seed that the answer told")
    stop(d)

    # one place, no queue: a second request gets 429, and the client's own retry succeeds once the first is done
    d, client = start("server.drain_delay_ms=0", "engine.max_sequences=1", "queue.max_requests=0",
                      "engine.max_positions=100000")
    first = client.completions.create(model="tiny", prompt="A", max_tokens=20000, stream=True,
                                      extra_body={"ignore_eos": True})
    next(first)
    time.sleep(0.05)
    e = refused(openai.RateLimitError, lambda: client.completions.create(model="tiny", prompt="B", max_tokens=4))
    check(e is not None and int(e.response.headers["retry-after"]) >= 1 and
          int(e.response.headers["retry-after-ms"]) > 0, "429")
    threading.Timer(0.5, first.close).start()
    again = client.with_options(max_retries=8).completions.create(model="tiny", prompt="B", max_tokens=4,
                                                                  extra_body={"ignore_eos": True})
    check(again.usage.completion_tokens == 4, "retry")
    stop(d)
    print(f"openai (python): {passed} passed, {failed} failed")
    sys.exit(failed != 0)


main()
