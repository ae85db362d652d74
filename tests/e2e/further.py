"""Imported checkpoints are trained further: deq train --init goes on with every kind of the authors' models, whose
architecture the recipe need not repeat, and names what does not fit."""
import json
import os
import random
import shutil
import sys

import authors
from imports import GOLDEN, WORDS, config_of, place
from lib import DEQ, ROOT, check, equal, run, short

sys.path.insert(0, os.path.join(ROOT, "tests", "tools"))
import make_looped_checkpoint as made

EQUILIBRIUM = ["train.grad=implicit"]
# of those that take a fixed number of steps from zero
STEPS = ["train.grad=explicit", "solver.max_iter=4"]
FROM_AUTHORS = {"locuslab-postln-adaptive": EQUILIBRIUM, "locuslab-preln-plain": EQUILIBRIUM,
                "torchdeq-lm-adaptive": STEPS, "trellis-split": EQUILIBRIUM, "trellis-explicit": STEPS}
LOOPED = {"attractor-tiny": ["train.grad=unroll", "train.unroll=1", "train.drawn_evaluations=2",
                             "solver.method=picard"],
          "parcae-tiny": STEPS, "huginn-tiny": STEPS}
RECIPE = """data: {train: [text.txt], valid: text.txt}
train: {batch: 4, micro_batch: 2, seq_len: 8, shallow_steps: 0, warmup: 1, jac_every: 0, eval_every: 0, log_every: 1}
tune: {loss_budget: 0}
"""


def words_of(n):
    """Few of the words, some of every cluster, in an order that can be learnt."""
    some = random.Random(1).sample(range(2, n), 12)
    return " ".join(WORDS[w] if w < len(WORDS) else "w%d" % w for w in some * 40) + "\n"


def imported_words(p, folder):
    """A checkpoint of words, with a vocabulary of its size and a text of it."""
    config = config_of(folder)
    n = config.get("n_token", config.get("ntoken"))
    shutil.copy(os.path.join(GOLDEN, folder, "checkpoint.pth"), p.path("checkpoint.pth"))
    code, _, err = p.imported(config, vocab=p.write("vocab.txt", "\n".join(WORDS[:n]) + "\n"))
    equal(code, 0, "%s: %s" % (folder, err))
    p.write("text.txt", words_of(n))


def imported_looped(p, family):
    """Parcae's tokenizer has 348 tokens, the model more rows: what no token has is trained, too."""
    name = "wide-" + family
    made.MODELS[name] = dict(made.MODELS[family], vocab_size=400, padded_vocab_size=448)
    made.make(name, p.path("in"))
    shutil.copy(os.path.join(ROOT, "tests", "golden", "tokenizer", "parcae", "tokenizer.json"), p.path("in"))
    code, _, err = run([DEQ, "import", p.path("in"), "--out", p.path("model")])
    equal(code, 0, "%s: %s" % (family, err))
    p.write("text.txt", "The loop goes on and on, and round again.\n" * 40)


def train(p, out, sets, *more):
    p.write("recipe.yaml", RECIPE)
    args = [word for s in sets for word in ("--set", s)]
    return run([DEQ, "train", p.path("recipe.yaml"), "--data", p.dir, "--out", p.path(out), "--init", p.path("model"),
                "--threads", "2", "--f32", *args, *more])


def config_in(p, out):
    with open(p.path(out, "config.json")) as f:
        return {k: v for k, v in json.load(f).items() if k not in ("training", "deq")}


def goes_on(p, what, sets):
    """Without a rate the model stays what it was; with one it learns."""
    code, _, err = train(p, "same", sets + ["train.lr=0", "train.steps=1"])
    equal(code, 0, "%s: %s" % (what, short(err)))
    before, after = (authors.safetensors(p.path(d, "model.safetensors")) for d in ("model", "same"))
    equal(sorted(before), sorted(after), what)
    check(all(before[k] == after[k] for k in before), "%s: the same numbers" % what)
    equal(config_in(p, "same"), config_in(p, "model"), what)
    code, _, err = train(p, "further", sets + ["train.lr=5e-3", "train.steps=25"])
    equal(code, 0, "%s: %s" % (what, short(err)))
    with open(p.path("further", "train.jsonl")) as f:
        loss = [e["loss"] for e in map(json.loads, f) if e["event"] == "step"]
    check(loss[-1] < 0.8 * loss[0], "%s learns: %.3f to %.3f" % (what, loss[0], loss[-1]))
    code, out, err = run([DEQ, "inspect", p.path("further"), "--json"])
    equal(code, 0, "%s: what came of it is a model: %s" % (what, err))


def test_models_of_words():
    for folder, sets in FROM_AUTHORS.items():
        with place() as p:
            imported_words(p, folder)
            goes_on(p, folder, sets)


def test_looped_models():
    for family, sets in LOOPED.items():
        with place() as p:
            imported_looped(p, family)
            goes_on(p, family, sets)


def test_what_does_not_fit_is_named():
    with place() as p:
        imported_words(p, "locuslab-postln-adaptive")
        for sets, words in ((["model.head_bias=false"], ["does not fit the recipe", "no place for head.bias"]),
                            (["model.inject_residual=true"], ["of other shapes are blocks.0.inject.weight [96, 32], "
                                                              "not [128, 32], blocks.0.inject.bias"]),
                            (["model.final_norm=true"], ["it needs final_norm.weight, final_norm.bias"]),
                            (["model.cutoffs=[40]"], ["model.tie_projections: 3 of them", "2 clusters"])):
            code, _, err = train(p, "out", sets)
            check(code == 1 and all(w in err for w in words), "%s: %d %s" % (sets, code, short(err)))
            check(not os.path.exists(p.path("out")), "nothing was written")
        p.write("trellis.yaml", "model: {type: trellis}\n" + RECIPE)
        code, _, err = run([DEQ, "train", p.path("trellis.yaml"), "--data", p.dir, "--out", p.path("out"), "--init",
                            p.path("model")])
        check(code == 1 and "model.type: trellis, but the model to start from is a transformer" in err, short(err))
        os.remove(p.path("model", "tokenizer.json"))
        code, _, err = train(p, "out", EQUILIBRIUM)
        check(code == 1 and "tokenizer.json" in err, "without a tokenizer: %s" % short(err))
