"""deq import and deq check of trellis networks: locuslab/deq's, solved for its fixed point, and locuslab/trellisnet's,
which runs its levels. authors_trellis.py is the judge where the committed goldens do not reach."""
import json
import math
import os
import shutil

import authors
import authors_trellis
import torchzip
from imports import GOLDEN, SOLVERS, agrees, compare, config_of, golden_of, logits_of, place, refused, some_tokens
from lib import DEQ, ROOT, TINY, Daemon, check, equal, run, short
from torchzip import Tensor, floats

FOLDERS = sorted(f for f in os.listdir(GOLDEN) if "trellis" in f)
SPLIT, PLAIN, EXPLICIT = "trellis-split", "trellis-plain", "trellis-explicit"


def is_explicit(config):
    return config["model_type"] == "locuslab-trellisnet"


def solvers_of(config):
    """Levels are counted; a fixed point is the same whoever finds it."""
    return [()] if is_explicit(config) else [("--solver", s, "--tol", "1e-6") for s in SOLVERS]


def test_goldens():
    for folder in FOLDERS:
        config = config_of(folder)
        with place() as p:
            shutil.copy(os.path.join(GOLDEN, folder, "checkpoint.pth"), p.path("checkpoint.pth"))
            code, out, err = p.imported(config)
            equal((code, err), (0, ""), folder)
            check("locuslab/" in out and "0 entries ignored" in out, "what was read is told: %s" % out)
            for flags in solvers_of(config):
                o = agrees(p.path("model"), golden_of(folder), "%s %s" % (folder, flags), *flags)
                equal((o["segments"] * config["tgt_len"], o["sequences"]), (24, 3), "all segments of all sequences")
                if is_explicit(config):
                    equal((o["solver"], o["evaluations"], o["tol"]), ("picard", config["nlevels"], 0), "its levels")
            other = golden_of(PLAIN if folder != PLAIN else "trellis-wnorm")
            equal(compare(p.path("model"), other)[0], 1, "another model's golden")


def test_the_judge_agrees_with_the_goldens():
    for folder in FOLDERS:
        config, theirs = config_of(folder), authors.safetensors(golden_of(folder))
        entries = authors.checkpoint(os.path.join(GOLDEN, folder, "checkpoint.pth"))
        mine = authors_trellis.golden(config, entries, [theirs["tokens"][1][:24]])
        for name in sorted(mine.keys() - {"tokens"}):
            worst = max(abs(a - b) for a, b in zip(mine[name][2], theirs[name][1]))
            check(worst < 1e-6 and mine[name][2], "%s %s: %g" % (folder, name, worst))  # theirs are rounded to float32


BASE = dict(model_type="locuslab-deq-trellisnet", n_token=23, n_layer=40, ninp=6, nhid=5, nout=6, kernel_size=2,
            dilation=1, tie_weights=True, wnorm=False, tgt_len=4, cutoffs=[])
LEVELS = dict(model_type="locuslab-trellisnet", ntoken=23, ninp=6, nhid=6, nout=6, nlevels=5, kernel_size=2,
              dilation=[1], tie_weights=True, wnorm=True, tgt_len=4)
DEFAULTS = ("kernel_size", "dilation", "wnorm", "tie_weights", "cutoffs", "tgt_len")
VARIANTS = {
    "one segment": dict(BASE, tgt_len=12),
    "three taps": dict(BASE, kernel_size=3),
    "taps apart": dict(BASE, dilation=2),
    "four taps apart, weight norm, one segment": dict(BASE, kernel_size=4, dilation=2, wnorm=True, tgt_len=12),
    "three taps apart, longer than a segment": dict(BASE, kernel_size=3, dilation=3, wnorm=True),
    "weight dropout": dict(BASE, wdrop=0.2),
    "weight dropout and norm": dict(BASE, wdrop=0.2, wnorm=True),
    "defaults": {k: v for k, v in BASE.items() if k not in DEFAULTS},
    "head of its own": dict(BASE, tie_weights=False),
    "head of its own, of another width": dict(BASE, tie_weights=False, nout=9),
    "nothing hidden": dict(BASE, nhid=0),
    "cutoffs": dict(BASE, cutoffs=[7, 12, 20]),
    "cutoffs, head of its own": dict(BASE, cutoffs=[7], tie_weights=False, nout=4),
    "levels": LEVELS,
    "levels, no norm": dict(LEVELS, wnorm=False),
    "levels, weights unwrapped": dict(LEVELS, wnorm=False, unwrapped=True),
    "levels, normed weights unwrapped": dict(LEVELS, unwrapped=True, wdrop=0.3, repack=True),
    "levels, three taps": dict(LEVELS, kernel_size=3, dilation=[1, 1]),
    "levels, cutoffs, head of its own": dict(LEVELS, cutoffs=[5, 11], tie_weights=False),
}


def written(p, config, seed, edit=None):
    """Writes a checkpoint; its entries, and the configuration that belongs to it."""
    entries = authors_trellis.random_checkpoint(config, seed)
    tree = authors.tensors(entries)
    torchzip.save(p.path("checkpoint.pth"), (edit(tree) if edit else None) or tree)
    return entries, {k: v for k, v in config.items() if k != "unwrapped"}


def made(p, config, seed, edit=None):
    """And its golden."""
    entries, config = written(p, config, seed, edit)
    tokens = some_tokens(config["ntoken" if is_explicit(config) else "n_token"], 2, 12)
    golden = p.path("golden.safetensors")
    authors.write_safetensors(golden, authors_trellis.golden(config, entries, tokens))
    return golden, config


def test_variants():
    """Shapes and arguments that the committed goldens do not have, by one of the solvers each."""
    for i, (name, config) in enumerate(VARIANTS.items()):
        with place() as p:
            golden, config = made(p, config, 300 + i)
            code, _, err = p.imported(config)
            if equal((code, err), (0, ""), name):
                of = solvers_of(config)
                agrees(p.path("model"), golden, name, *of[i % len(of)])


def test_forms():
    """Under a prefix, beside an optimiser's state, and told apart from what is tied by name only."""
    moments = {"state": {0: {"step": 12, "exp_avg": Tensor([2], [floats([1, 2])])}}}

    def under(tree):
        return {"model": {"module." + k: v for k, v in tree.items()}, "optimizer": moments}

    def untie(tree):
        tree["decoder.weight"] = Tensor([23, 6], [floats([0.01 * i for i in range(138)])])

    with place() as p:
        golden, config = made(p, BASE, 41, under)
        code, _, err = p.imported(config)
        check(code == 0 and "optimizer" in err, "what was ignored is told: %s" % err)
        agrees(p.path("model"), golden, "under a prefix")
    with place() as p:
        golden, config = made(p, BASE, 42, untie)
        code, out, err = p.imported(config)
        check(code == 0 and "decoder.weight differs" in err and "of its own" in out, "both are kept: %s%s" % (out, err))
        equal(compare(p.path("model"), golden)[0], 1, "the head is not the embedding")


def test_served_rows_agree():
    """Token by token through the row engine, which has no segments: the authors' log-probabilities of the first."""
    cases = [(config_of(f), authors.checkpoint(os.path.join(GOLDEN, f, "checkpoint.pth"))) for f in (PLAIN, SPLIT)]
    wide = dict(BASE, kernel_size=3, dilation=2, tgt_len=12)
    cases.append((wide, authors_trellis.random_checkpoint(wide, 43)))
    for config, entries in cases:
        tokens = some_tokens(config["n_token"], 1, config["tgt_len"])
        want = authors_trellis.golden(config, entries, tokens)["segment0.logprobs"][2]
        with place() as p:
            torchzip.save(p.path("checkpoint.pth"), authors.tensors(entries))
            equal(p.imported(config)[0], 0, "imported")
            with Daemon(model=p.path("model")) as d:
                got, V = logits_of(d, tokens[0]), config["n_token"]
        equal(len(got), len(want), "positions")
        norms = [math.log(math.fsum(math.exp(x) for x in got[i:i + V])) for i in range(0, len(got), V)]
        worst = max(abs(x - norms[i // V] - y) for i, (x, y) in enumerate(zip(got, want)))
        check(worst < 1e-3, "log-probabilities by rows: %g" % worst)  # residuals are below 1e-5 relative here
        check(not config["cutoffs"] or max(abs(n) for n in norms) < 1e-5, "log-probabilities: %s" % short(norms))


# --- Bad input ---

def test_bad_entries():
    def put(name, *shape):
        return lambda tree: tree.__setitem__(name, Tensor(list(shape), [floats([0.5] * 4096)], count=4096))

    def drop(*names):
        return lambda tree: [tree.__delitem__(n) for n in names] and None

    conv, inject, again = "trellisnet.func.full_conv.", "trellisnet.inject_conv.", "trellisnet.deqback.func.full_conv."
    tails, dir_raw = ["criterion.tail_vectors", "criterion.tail_bias"], "trellisnet.module.inject_conv.weight_v_raw"
    normed, cut, dropped = dict(BASE, wnorm=True), dict(BASE, cutoffs=[7, 12]), dict(BASE, wnorm=True, wdrop=0.5)
    cases = [
        (BASE, put(conv + "weight", 44, 11), [conv + "weight", "[44, 11]", "[44, 11, 2]"]),
        (BASE, put(conv + "weight", 44, 11, 3), [conv + "weight", "[44, 11, 3]", "[44, 11, 2]"]),
        (BASE, put(conv + "bias", 45), [conv + "bias", "[45]", "[44]"]),
        (BASE, put(inject + "weight", 44, 7, 2), [inject + "weight", "[44, 7, 2]", "[44, 6, 2]"]),
        (BASE, put("decoder.bias", 22), ["decoder.bias", "[22]", "[23]"]),
        (BASE, put("encoder.weight", 23, 7), ["encoder.weight", "[23, 7]", "[23, 6]"]),
        (BASE, put("decoder.weight", 23, 7), ["decoder.weight", "[23, 7]", "[23, 6]"]),
        (BASE, drop(inject + "bias"), [inject + "bias", "missing"]),
        (BASE, drop(inject + "weight"), [inject + "weight", "missing", "[44, 6, 2]"]),
        (BASE, drop("encoder.weight"), ["encoder.weight", "missing", "at its top: trellisnet, decoder"]),
        (BASE, drop("decoder.weight"), ["decoder.weight", "missing"]),
        (normed, drop(conv + "weight_g"), [conv + "weight_g", "missing"]),
        (normed, drop(conv + "weight_v"), [conv + "weight_v", "missing"]),
        (normed, put(conv + "weight_g", 44, 11), [conv + "weight_g", "[44, 11]", "[44]"]),
        (dropped, drop(dir_raw), [dir_raw, "missing"]),
        (BASE, put(conv + "weight_raw", 44, 11, 2), [conv + "weight", "not part of"]),
        (BASE, put("mixsoft.prior.weight", 2, 6), ["mixsoft.prior.weight", "not part of"]),
        (BASE, put("trellisnet.deq.func.extra", 2), ["trellisnet.deq.func.extra", "not part of"]),
        (BASE, put("trellisnet.func_copy.full_conv.weight", 44, 11, 3), ["func_copy.full_conv.weight", "[44, 11, 2]"]),
        (BASE, put("trellisnet.deqback.func_copy.full_conv.bias", 45), ["deqback.func_copy.full_conv.bias", "[44]"]),
        (BASE, put(again + "bias", 44), [again + "bias", "differs from", conv + "bias"]),
        (BASE, put(again + "weight", 44, 11, 3), [again + "weight", "differs from", conv + "weight"]),
        (BASE, put("criterion.tail_vectors", 2, 6), ["criterion.tail_vectors", "not part of"]),
        (cut, drop(*tails), tails + ["missing", "criterion.state_dict()"]),
        (cut, drop("criterion.tail_bias"), ["criterion.tail_bias", "missing"]),
        (cut, put("criterion.tail_vectors", 3, 6), ["criterion.tail_vectors", "[3, 6]", "[2, 6]"]),
        (LEVELS, drop("tnet.module.full_conv.weight2_g"), ["tnet.module.full_conv.weight2_g", "missing"]),
        (LEVELS, drop("tnet.module.full_conv.weight1_v_raw"), ["tnet.module.full_conv.weight1_v_raw", "missing"]),
        (LEVELS, put("network.0.module.full_conv.bias2", 48), ["network.0.module.full_conv.bias2", "differs from"]),
        (LEVELS, put("network.1.prior.weight", 2, 6), ["network.1.prior.weight", "not part of"]),
        (LEVELS, put("tnet.module.full_conv.bias1", 48), ["tnet.module.full_conv.bias1", "not part of"]),
    ]
    for config, edit, words in cases:
        with place() as p:
            refused(p, ["entry "] + words, config=written(p, config, 51, edit)[1])
    for folder in FOLDERS:
        for other in FOLDERS + ["locuslab-preln-plain"]:
            if other != folder:
                with place() as p:
                    shutil.copy(os.path.join(GOLDEN, folder, "checkpoint.pth"), p.path("checkpoint.pth"))
                    refused(p, ["entry "], config=config_of(other))


def test_bad_configs():
    def bad(of, words, **change):
        refused(p, words, config={k: v for k, v in dict(of, **change).items() if v != "gone"})

    with place() as p:
        written(p, BASE, 52)
        for key in ("n_token", "ninp", "nhid", "nout"):
            bad(BASE, [key, "missing"], **{key: "gone"})
        bad(BASE, ["n_hid", "not an argument"], n_hid=5)
        bad(BASE, ["d_model", "not an argument"], d_model=5)
        bad(BASE, ["model_type: trellisnet", "torchdeq-lm, locuslab-deq-trellisnet"], model_type="trellisnet")
        bad(BASE, ["n_experts", "mixture of softmaxes"], n_experts=2)
        bad(BASE, ["nout", "ninp", "tie_weights"], nout=8)
        bad(BASE, ["kernel_size"], kernel_size=1)
        bad(BASE, ["kernel_size"], kernel_size=9)
        bad(BASE, ["dilation"], dilation=[1])
        bad(BASE, ["dilation"], dilation=0)
        bad(BASE, ["cutoffs"], cutoffs=[12, 7])
        bad(BASE, ["cutoffs[0]"], cutoffs=[23])
        bad(BASE, ["wdrop"], wdrop="0.1")
        bad(BASE, ["entry "], kernel_size=3)
        written(p, LEVELS, 53)
        for key in ("ntoken", "nlevels"):
            bad(LEVELS, [key, "missing"], **{key: "gone"})
        bad(LEVELS, ["n_token", "not an argument"], n_token=23)
        bad(LEVELS, ["dilation[1]", "2", "not supported"], dilation=[1, 2])
        bad(LEVELS, ["dilation"], dilation=1)
        bad(LEVELS, ["n_experts", "mixture of softmaxes"], n_experts=15)
        bad(LEVELS, ["nlevels"], nlevels=0)
        shutil.copy(os.path.join(GOLDEN, "..", "torchfile", "module.pth"), p.path("model.pt"))
        refused(p, ["model.pt", "state_dict()"], config=BASE, checkpoint="model.pt")  # torch.save(model)


def test_help_names_the_sources():
    code, out, _ = run([DEQ, "import", "--help"])
    families = {config_of(f).get("model_type") or config_of(f)["model_class_name"].lower()
                for f in os.listdir(GOLDEN) if "." not in f}
    check(code == 0 and all(f in out for f in families), "%s in %s" % (families, out))


def test_segments_that_know_nothing_of_each_other():
    """--mem-len 0: every segment from an empty context, as deq train validates; else from the last one's state."""
    model = os.path.join(os.path.dirname(TINY), "tiny-trellis")

    def nats(limit, length, *more):
        code, out, err = run([DEQ, "eval", model, os.path.join(ROOT, "LICENSE"), "--json", "--streams", "1",
                              "--tol", "1e-4", "--limit", str(limit), "--tgt-len", str(length),
                              *more])
        equal(code, 0, err)
        return json.loads(out)["nll_per_token"]

    whole, carried, apart = nats(201, 200), nats(201, 8), nats(201, 8, "--mem-len", "0")
    check(apart > carried + 1e-3 and carried > whole, "less context, more nats: %g, %g, %g" % (apart, carried, whole))
    equal(nats(9, 8, "--mem-len", "0"), nats(9, 8), "of one segment the same")
