#!/usr/bin/env python3
"""lm-eval (model local-completions) against the daemon: its scores must be those of deq eval and those of the raw
logits.

lm-eval sends batches of token ids with echo, logprobs 1 and max_tokens 1, and sums token_logprobs[context:-1]. A
document of loglikelihood_rolling is scored after one end-of-text token, in one window up to max_length - 2 tokens: the
same stream as deq eval's. Called lm_eval_client.py since a script named lm_eval.py would import itself."""
import json
import math
import os
import shutil

from clients import STORIES, lib, main, scratch
from lib import check, close, equal

os.environ["HF_HOME"] = scratch("hf")
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

TASKS = os.path.join(lib.ROOT, "tests", "clients", "lm_eval_task")
NATS = 1e-4  # of a document: at a residual of 1e-5 two ways of solving it are closer than this


def lines(name):
    with open(os.path.join(TASKS, name), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def tight_model():
    """The shipped model with a small tolerance, which integers of 8 bits cannot reach: lm-eval cannot send deq.tol with
    a scoring request."""
    to = scratch("stories")
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(os.path.join(STORIES, name), to)
    with open(os.path.join(STORIES, "config.json")) as f:
        config = json.load(f)
    config["deq"].update(tol=1e-5, max_iter=256, numeric_class="float32")
    with open(os.path.join(to, "config.json"), "w") as f:
        json.dump(config, f)
    return to


def hf_tokenizer():
    to = scratch("tokenizer")
    shutil.copy(os.path.join(STORIES, "tokenizer.json"), to)
    with open(os.path.join(to, "tokenizer_config.json"), "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}, f)
    return to


def lm_eval_run(d, tasks, **args):
    """{task: samples in the data's order}, each with its scores in filtered_resps; and lm-eval's table of results."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    args = dict(model="stories", base_url="http://%s:%d/v1/completions" % (d.host, d.port), tokenized_requests=True,
                max_retries=1, **args)
    out = simple_evaluate(model="local-completions", model_args=args, tasks=tasks, batch_size=8, log_samples=True,
                          bootstrap_iters=0, task_manager=TaskManager(include_path=TASKS, include_defaults=False))
    return {t: sorted(out["samples"][t], key=lambda s: s["doc_id"]) for t in tasks}, out["results"]


def eval_nats(model, text):
    """The document's log-likelihood by deq eval. The perplexity is printed with more digits than the nats."""
    path = os.path.join(scratch(), "document.txt")
    with open(path, "w", encoding="utf-8", newline="") as f:
        f.write(text)
    code, out, err = lib.run([lib.DEQ, "eval", model, path, "--json"])
    if code:
        raise RuntimeError(err)
    o = json.loads(out)
    equal((o["tol"], o["not_converged"]), (1e-5, 0), "deq eval solved tightly")
    return -math.log(o["perplexity"]) * o["tokens"]


def logits_score(d, context, continuation):
    """(log-likelihood, whether greedy decoding would say it) from /v1/logits."""
    import numpy as np
    ids, n = [d.post("/tokenize", {"prompt": x})[2]["tokens"] for x in (context + continuation, context)]
    n = len(n)
    s, _, b = d.request("POST", "/v1/logits", {"prompt": ids, "positions": "all"},
                        {"Accept": "application/octet-stream"})
    x = np.frombuffer(b, "<f4").reshape(len(ids), -1)[n - 1:-1].astype("f8")
    own = x[range(len(x)), ids[n:]]
    return float((own - np.log(np.exp(x).sum(1))).sum()), bool((own == x.max(1)).all())


def compare(d, model, samples, results, name):
    for doc, s in zip(lines("stories.jsonl"), samples["deqd_stories"], strict=True):
        close(float(s["filtered_resps"][0]), eval_nats(model, doc["text"]), NATS,
              "%s: nats of %r" % (name, doc["text"][:30]))
    right = 0
    for doc, s in zip(lines("choices.jsonl"), samples["deqd_choices"], strict=True):
        want = [logits_score(d, doc["context"], " " + c) for c in doc["choices"]]
        for c, (nats, greedy), (w_nats, w_greedy) in zip(doc["choices"], s["filtered_resps"], want, strict=True):
            close(float(nats), w_nats, NATS, "%s: nats of %r after %r" % (name, c, doc["context"]))
            equal(str(greedy), str(w_greedy), "%s: greedy, %r after %r" % (name, c, doc["context"]))
        right += max(range(len(want)), key=lambda i: want[i][0]) == doc["answer"]
    equal(results["deqd_choices"]["acc,none"], right / len(lines("choices.jsonl")), name + ": accuracy")


def test_lm_eval():
    model = tight_model()
    with lib.Daemon(model=model) as d:
        local, results = lm_eval_run(d, ["deqd_stories", "deqd_choices"], tokenizer_backend="huggingface",
                                     tokenizer=hf_tokenizer())
        compare(d, model, local, results, "tokenizer.json")
        s, _, b = d.request("GET", "/tokenizer_info")
        if equal(s, 200, "/tokenizer_info"):
            equal(d.post("/tokenize", {"prompt": json.loads(b)["eos_token"], "add_special_tokens": False})[2]["tokens"],
                  [0], "/tokenize knows the end-of-text token, since lm-eval asks it for the id")
            remote, results = lm_eval_run(d, ["deqd_stories", "deqd_choices"], tokenizer_backend="remote",
                                          num_concurrent=4)
            for t in local:
                for a, b in zip(local[t], remote[t], strict=True):
                    equal(str(b["filtered_resps"]), str(a["filtered_resps"]),
                          "remote tokenizer, four batches at once: the same scores")


def test_generate_until():
    with lib.Daemon(model=STORIES) as d:
        out, _ = lm_eval_run(d, ["deqd_continue"], tokenizer_backend="huggingface", tokenizer=hf_tokenizer())
        for doc, s in zip(lines("choices.jsonl"), out["deqd_continue"], strict=True):
            want = d.complete(doc["context"], max_tokens=40, stop=["\n", "."],
                              deq={"tol": 1e-4, "window": 1})["choices"][0]["text"]
            equal(s["resps"][0][0], want, "generation after %r" % doc["context"])
            check(want, "some text")


if __name__ == "__main__":
    main("lm-eval")
