"""A word-level model: line ends are tokens, and text comes out with blanks where they belong, whole, streamed and on
the command line."""
import contextlib
import json
import os
import shutil
import tempfile

from lib import DEQ, TINY, Daemon, check, check_error, equal, events_text, parse_sse, run

V = 384
WORDS = ["<eos>", ",", ".", "(", ")", "@-@", "'s", "<unk>", "caf\u00e9"]
WORDS += ["w%d" % i for i in range(len(WORDS), V)]
PROMPT = "w9 , w10 ( w11 ) 's\nw12 @-@ caf\u00e9 ( nowhere"
SHOWN = "w9, w10 (w11)'s\nw12-caf\u00e9 (<unk>"


@contextlib.contextmanager
def word_model(words=WORDS):
    """The tiny model's weights behind another vocabulary of the same size."""
    with tempfile.TemporaryDirectory() as tmp:
        model, vocab = os.path.join(tmp, "words"), os.path.join(tmp, "vocab.txt")
        shutil.copytree(TINY, model)
        with open(vocab, "w", encoding="utf-8") as f:
            f.write("\n".join(words) + "\n")
        code, out, err = run([DEQ, "tokenizer", "words", "--vocab", vocab, "--out",
                              os.path.join(model, "tokenizer.json"), "--json"])
        equal((code, json.loads(out)),
              (0, {"vocab_size": V, "eos_token_id": words.index("<eos>") if "<eos>" in words else -1,
                                            "unk_token_id": words.index("<unk>") if "<unk>" in words else -1,
                                            "words": 0}), "made: " + err)
        yield model


def decoded(model, ids):
    code, out, err = run([DEQ, "tokenizer", "decode", model] + [str(i) for i in ids])
    equal(code, 0, "decode: " + err)
    return out


def test_text_of_words():
    with word_model() as model, Daemon(model=model) as d:
        ids = d.post("/tokenize", {"prompt": PROMPT})[2]["tokens"]
        equal(ids, [9, 1, 10, 3, 11, 4, 6, 0, 12, 5, 8, 3, 7], "ids: a line end is <eos>, the end of the text is not")
        equal(d.post("/detokenize", {"tokens": ids})[2]["prompt"], SHOWN, "shown")
        body = {"prompt": PROMPT, "max_tokens": 60, "temperature": 2, "seed": 5, "ignore_eos": True,
                "return_token_ids": True, "logit_bias": {"0": 16, "5": 16, "3": 16}}
        c = d.post("/v1/completions", body)[2]["choices"][0]
        equal(len(c["token_ids"]), 60, "tokens")
        check(all(i in c["token_ids"] for i in (0, 3, 5)), "line ends and joints are among them: %s" % c["token_ids"])
        whole = decoded(model, ids + c["token_ids"])
        equal(SHOWN + c["text"], whole, "prompt and text are what decoding all tokens gives")
        events, done = parse_sse(d.request("POST", "/v1/completions", dict(body, stream=True))[2])
        equal((events_text(events), done), (c["text"], True), "streamed")
        e = d.post("/v1/completions", dict(body, echo=True, logprobs=1))[2]["choices"][0]
        equal(e["text"], whole, "with echo")
        lp = e["logprobs"]
        equal(lp["tokens"], [WORDS[i] for i in ids + c["token_ids"]], "logprobs name the words themselves")
        ends = lp["text_offset"][1:] + [len(whole)]
        wrong = [(whole[a:b], t) for a, b, t in zip(lp["text_offset"], ends, lp["tokens"])
                 if whole[a:b].strip(" ") != {"<eos>": "\n", "@-@": "-"}.get(t, t)]
        equal(wrong, [], "text_offset")


def test_end_of_text():
    """<eos> ends a text and is not shown then; where it does not end it, it is a line end."""
    with word_model() as model, Daemon(model=model) as d:
        forced = {"prompt": "w9", "max_tokens": 3, "logit_bias": {"0": 100}}
        c = d.post("/v1/completions", forced)[2]["choices"][0]
        equal((c["text"], c["finish_reason"]), ("", "stop"), "it ends")
        equal(d.post("/v1/completions", dict(forced, ignore_eos=True))[2]["choices"][0]["text"], "\n\n\n", "it goes on")
        equal(d.post("/v1/completions", dict(forced, ignore_eos=True, stop="\n"))[2]["choices"][0]["text"], "",
              "a stop string sees it")


def test_generate_on_the_command_line():
    with word_model() as model:
        flags = ["--max-tokens", "20", "--temperature", "2", "--seed", "3", "--ignore-eos"]
        code, out, err = run([DEQ, "generate", model, PROMPT] + flags)
        text = json.loads(run([DEQ, "generate", model, PROMPT, "--json"] + flags)[1])["text"]
        equal((code, out), (0, PROMPT + text + "\n"), "generate: " + err)
        with Daemon(model=model) as d:
            c = d.post("/v1/completions",
                       {"prompt": PROMPT, "max_tokens": 20, "temperature": 2, "seed": 3,
                        "ignore_eos": True})[2]["choices"][0]
            equal(text, c["text"], "as the daemon")


def test_words_that_nobody_knows():
    """Without an unknown word in the vocabulary a text may only use what is there; token ids always work."""
    with word_model(["<%d>" % i for i in range(V)]) as model, Daemon(model=model) as d:
        status, _, o = d.post("/v1/completions", {"prompt": "<5> hello", "max_tokens": 1})
        check_error(status, o, 400, "invalid_value", "prompt", "a text")
        check("hello" in o["error"]["message"], "the word is named: %s" % o["error"]["message"])
        c = d.post("/v1/completions",
                   {"prompt": [5, 6], "max_tokens": 3, "echo": True, "return_token_ids": True})[2]["choices"][0]
        equal(c["text"].split(" "), ["<%d>" % i for i in [5, 6] + c["token_ids"]], "ids, with echo")
