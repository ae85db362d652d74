"""models/claims: its arithmetic on small examples, what it refuses, and a run of it in miniature."""
import contextlib
import json
import math
import os
import signal
import sys
import tempfile
import xml.etree.ElementTree

from lib import DEQ, ROOT, check, close, equal, run

CLAIMS = os.path.join(ROOT, "models", "claims")
sys.path.insert(0, CLAIMS)

import claims
import depth
import plan
import report
import svg
import texts
import work

ARTICLE = " = %s = \n \n %s \n \n %s \n"
PARAGRAPHS = ["The %s %d of the city was built in the year %d , and stood beside the river for long . It was large ."
              % (what, n, 1800 + n) for n, what in enumerate(("church", "bridge", "tower", "mill", "market", "gate"))]


def result(kind, form, seed=1, rate=1e-3, nats=4.0, seconds=100.0, speed=1000.0, diverged=None, search=False):
    curve = [[50, 500, seconds / 2, nats + 1], [100, 1000, seconds, nats]]
    return {"kind": kind, "form": form, "seed": seed, "rate": rate, "search": search, "diverged": diverged,
            "evaluations": 8.0, "adjoint_evaluations": 7.0 if form == "deq" else 0.0,
            "peak_bytes": 10 ** 8, "curve": curve, "test": {"nll_per_token": nats, "tokens_per_second": speed}}


def results(runs, memory=()):
    return {"machine": "a machine", "wanted": ["transformer-deq", "transformer-tied"], "models": {}, "runs": runs,
            "texts": {s: {"bytes": 90, "words": 20, "tokens": 30} for s in texts.SPLITS},
            "memory": [dict(zip(("kind", "form", "depth", "activation_bytes", "parameter_bytes", "resident_bytes"), m))
                       for m in memory]}


def test_perplexity_of_a_word():
    equal(texts.official_tokens(" \n = A B = \n \n c <unk> @-@ d . \n"), 1 + 5 + 1 + 6, "words, and <eos> a line")
    equal(texts.official_tokens("a"), 2, "a last line without an end has an <eos> too")
    # a model that gives each of 5 official tokens, cut into 8, the probability 1/7
    words = texts.official_tokens("a bc\nd\n")
    close(texts.word_perplexity(words * math.log(7) / 8, 8, words), 7, 1e-12, "exp(nats a token * N / W)")
    r = results([result("transformer", "deq", nats=2.0)])
    close(report.perplexity(r, r["runs"][0], "test"), math.exp(2 * 30 / 20), 1e-12, "of a run")


def test_shared_documents_are_named():
    train = "".join(ARTICLE % (n, PARAGRAPHS[i], PARAGRAPHS[i + 1]) for i, n in ((0, "One"), (2, "Two")))
    valid = ARTICLE % ("Three", PARAGRAPHS[4], PARAGRAPHS[5])
    equal(texts.shared_documents(valid, train), [], "nothing shared")
    half = ARTICLE % ("Same again", PARAGRAPHS[1].replace(" ", "  "), PARAGRAPHS[2])
    equal(texts.shared_documents(valid + half, train), ["= Same again ="], "an article of another's paragraphs")
    marked = "\n<|endoftext|>\n".join(PARAGRAPHS[3:])
    equal(texts.shared_documents(marked, train), ["line 1"], "documents between marks")
    try:
        texts.refuse_shared({"train": train, "valid": valid + half, "test": valid})
        check(False, "shared documents are refused")
    except texts.BadText as e:
        check("valid.txt shares 1 of its documents with train.txt, the first: = Same again =" in str(e) and
              "test.txt shares 1 of its documents with valid.txt" in str(e), str(e))


def test_twins_of_another_size_are_named():
    sizes = {("transformer", "deq"): 1000, ("transformer", "tied"): 1020, ("transformer", "untied"): 979,
             ("trellis", "deq"): 500}
    try:
        plan.refuse_unequal(sizes)
        check(False, "2.1 % are refused")
    except plan.Unequal as e:
        check("transformer-untied has 979" in str(e) and "tied has 1,020" not in str(e) and "2.1 %" in str(e), str(e))
    sizes["transformer", "untied"] = 980
    plan.refuse_unequal(sizes)


def test_recipes_that_are_twins():
    """tales.yaml and its explicit twin: the same parameters, text and tokenizer."""
    texts_of = []
    for name in ("tales", "tales-explicit"):
        code, out, err = run([DEQ, "train", os.path.join(ROOT, "models", "recipes", name + ".yaml"), "--print-recipe"])
        equal(code, 0, "%s: %s" % (name, err))
        texts_of.append(out[:out.index("\ntrain:")])
    equal(texts_of[1], texts_of[0], "sections model and data")


def test_times_and_rates():
    curve = [[1, 10, 10.0, 5.0], [2, 20, 20.0, 4.0], [3, 30, 40.0, 3.0]]
    equal([report.seconds_to(curve, x) for x in (6, 4.0, 3.5, 2.9)], [10.0, 20.0, 30.0, None], "between validations")
    runs = [result("transformer", "deq", seed, seconds=60, nats=4.0, speed=3000.0) for seed in (1, 2)]
    runs += [result("transformer", "tied", seed, seconds=200, nats=3.5, speed=1500.0) for seed in (1, 2)]
    search = [result("transformer", "tied", rate=rate, nats=nats, diverged=diverged, search=True)
              for rate, nats, diverged in ((1e-3, 4.5, None), (9.0, 4.6, None), (8.0, 1.0, "x"))]
    r = results(runs + search)
    equal(report.best_rate(search), 1e-3, "the best rate")
    equal([x["seed"] for x in report.chosen(r, "transformer", "tied")], [1, 2], "runs behind the search")
    # the DEQ's 4.0 nats: the twin is there half way from 4.5 after 100 s to 3.5 after 200 s
    close(report.training_time(r, "transformer", "tied"), 60 / 150, 1e-12, "to the loss of the worse of the two")
    close(report.inference_time(r, "transformer", "tied"), 0.5, 1e-12, "time a token")
    equal(report.training_time(results(runs[:2]), "transformer", "tied"), None, "no twin yet")


def test_claims_are_judged():
    memory = [("transformer", "deq", d, 40, 1, 90) for d in (4, 16, 128)]
    memory += [("transformer", "tied", 16, 400, 1, 450)]
    runs = [result("transformer", "deq", nats=4.0), result("transformer", "tied", nats=4.01)]
    found = {c.name: (value, holds) for c, value, _, holds in report.verdicts(results(runs, memory), False)}
    equal((found["memory-transformer"], found["memory-transformer-flat"]), ((0.1, True), (1.0, True)), "memory")
    equal((found["quality-transformer-tied"][1], found["quality-trellis-tied"]), (True, (None, None)), "quality")
    runs[0] = result("transformer", "deq", nats=4.2)
    for quick, held in ((False, False), (True, False)):
        found = {c.name: holds for c, _, _, holds in report.verdicts(results(runs, memory), quick)}
        equal(found["quality-transformer-tied"], held, "a third worse")
    check(all(c.quick >= c.bound for c in report.CLAIMS), "the quick form asks for no more")


def test_tables_and_plots():
    with open(os.path.join(CLAIMS, "README.md"), encoding="utf-8") as f:
        readme = f.read()
    path = os.path.join(CLAIMS, "results.json")
    with open(path, encoding="utf-8") as f:
        published = json.load(f)
    equal(report.fill(readme, report.tables(published, plan.FULL)), readme, "the README's tables are results.json's")
    with open(os.path.join(CLAIMS, "depth.json"), encoding="utf-8") as f:
        equal(report.fill(readme, {"depth": depth.table(json.load(f))}), readme, "and depth.json's")
    memory = [("transformer", "deq", d, 4e7, 1, 9e7) for d in (4, 16)]
    r = results([result("transformer", "deq", nats=2.0, seconds=120.0)], memory)
    found = report.tables(r, plan.FULL)
    row = "| transformer, DEQ | not run | 0.001 | 20.1 | 20.1 | 8.0, 7.0 adjoint | 2 min | 1000 | 100 MB |"
    check(row in found["quality"], found["quality"])
    check("| 16 | 40.0 (90) | not run |" in found["memory-transformer"], found["memory-transformer"])
    plots = report.plots(r)
    equal(sorted(plots), ["curves-transformer.svg", "memory-transformer.svg"], "what there is to plot")
    for text in plots.values():
        xml.etree.ElementTree.fromstring(text)
    equal(svg._ticks(3.9, 130, True), [5, 10, 20, 50, 100], "ticks of a log axis")
    equal([round(t, 9) for t in svg._ticks(-0.1, 1.04, False)], [0, 0.5, 1], "of another")


def test_a_search_is_short():
    model = plan.FULL.models[1]
    search, finals = plan.FULL.search(model), plan.FULL.finals(model, 2e-3)
    equal([r.rate for r in search], list(plan.FULL.rates["transformer"]), "its rates")
    equal([(r.rate, r.seed) for r in finals], [(2e-3, 1), (2e-3, 2)], "runs of the best one")
    check("train.steps" in search[0].over and "train.steps" not in finals[0].over, "fewer steps to find a rate")
    equal(len({plan.run_name(r) for r in search + finals}), 5, "names of their own")
    equal(plan.QUICK.search(plan.QUICK.models[1]), [], "one rate is not looked for")
    wide = plan.memory_over(plan.FULL, "transformer", "tied", 16)
    equal((wide["model.hidden_size"], wide["train.seq_len"]), (192, 150), "memory is measured at its own width")


def read(name, seed, seconds=60.0, **after):
    return {"form": name, "seed": seed, "seconds": seconds,
            "read": {"after": {k[1:]: v for k, v in after.items()}, "converged": 2.0, "bits_per_byte": 1.0,
                     "evaluations": 7.5, "tokens": 1000, "not_soon": 5, "never": 0}}


def test_depth_that_costs_one_evaluation():
    every = list(depth.runs())
    equal(len({plan.run_name(r) for r in every}), len(depth.ROWS) + len(depth.AGAIN), "rows, some with a second seed")
    long = "a\n<|endoftext|>\nbb\n<|endoftext|>\nccc\n"
    equal((depth.cut(long, 25), depth.cut(long, 100), depth.cut("aa\nbb\ncc\n", 7)),
          ("a\n<|endoftext|>\n", long, "aa\nbb\n"), "whole documents, or lines")
    found = depth.table({"runs": [read("bare", 1, _0=9.0, _1=3.0, _2=2.5, _4=2.1),
                                  read("bare", 2, _0=9.0, _1=3.2, _2=2.5, _4=2.1),
                                  read("bare-predictor", 1, _1=2.2, _2=2.0, _4=2.0)]})
    check("| 9.000 | 3.100 | 2.500 | 2.100 | 2.000 | +55.0 % | 7.5 | 0.50 % | 2.000, 2.000 | 1.0 min |" in found, found)
    check("|  | 2.200 | 2.000 | 2.000 | 2.000 | +10.0 % |" in found, "without a start: %s" % found)
    check("| not run | not run |" in found, "the others")


def test_curves_are_drawn():
    tiny = [os.path.join(ROOT, "tests", "golden", d) for d in ("tiny", "tiny-looped", "tiny-trellis")]
    plot = os.path.join(ROOT, "models", "recipes", "plot.py")
    with tempfile.TemporaryDirectory() as tmp:
        out = os.path.join(tmp, "c.svg")
        for some in (tiny[:1], tiny):
            code, _, err = run([sys.executable, plot, *some, "-o", out])
            equal((code, err), (0, ""), "%d runs" % len(some))
            text = "".join(xml.etree.ElementTree.parse(out).getroot().itertext())
            check(("tiny-looped, validation" in text) == (len(some) > 1) and "Bits a byte" in text, text)
        code, _, err = run([sys.executable, plot, *tiny])
        check(code == 2 and "-o FILE.svg" in err, "several need a name: %d %s" % (code, err))
        code, _, err = run([sys.executable, plot, tmp])
        check(code == 2 and "train.jsonl" in err, "no run: %d %s" % (code, err))


def test_what_is_asked_for():
    program = os.path.join(CLAIMS, "claims.py")
    with tempfile.TemporaryDirectory() as tmp:
        code, out, err = run([sys.executable, program, "--work", tmp])
        check(code == 2 and "DATA=DIR" in err and "QUICK=1" in err, "no text: %d %s" % (code, err))
        code, out, err = run([sys.executable, program, "--work", tmp, "--data", tmp])
        check(code == 1 and "%s: neither train.txt nor train.txt.xz is there" % tmp in err, "%d %s" % (code, err))


SMALL = {"model.hidden_size": 16, "model.heads": 2, "model.head_dim": 8, "model.inner_size": 64,
         "model.attention_window": 32, "train.seq_len": 32, "train.batch": 4, "train.micro_batch": 2,
         "train.warmup": 2, "data.vocab_size": 300, "train.checkpoint_every": 5, "train.log_every": 1}


def small(steps, **of_twin):
    return plan.Plan((plan.Model("transformer", "deq", {}),
                      plan.Model("transformer", "tied", plan.explicit(3, **of_twin))),
                     {"transformer": (1e-3,)}, (1, 2),
                     {"transformer": {**SMALL, "train.steps": steps, "train.shallow_steps": steps // 5,
                                      "train.eval_every": steps}}, {}, {"transformer": {}})


def small_texts():
    text = "".join(PARAGRAPHS[i % 3].replace("city", "city of %d" % i) + "\n" for i in range(60))
    return {"train": text, "valid": PARAGRAPHS[3] * 4, "test": PARAGRAPHS[4] * 4}


@contextlib.contextmanager
def handlers():
    """Those of signals are what they were behind it."""
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_unequal_twins_are_refused_before_any_run():
    with handlers(), tempfile.TemporaryDirectory() as tmp:
        w = work.Work(tmp, DEQ, 1)
        try:
            claims.Session(small(5, **{"model.inner_size": 80}), True, w).prepare(small_texts())
            check(False, "a twin of another size is refused")
        except plan.Unequal as e:
            check("transformer-tied has " in str(e) and "at most 2 %" in str(e), str(e))
        vocabulary = {"data.vocab_size": SMALL["data.vocab_size"]}
        rows = [plan.Run(plan.Model("depth", name, over), 1e-3, 1, False, {**over, **vocabulary})
                for name, over in (("bare", depth.BARE), ("joint", {**depth.BARE, **depth.PREDICTOR}),
                                   ("wider", {**depth.BARE, "model.inner_size": 400}))]
        try:
            depth.refuse_unequal(w, rows)
            check(False, "a row of another size is refused")
        except plan.Unequal as e:
            check("depth-wider has " in str(e) and "depth-joint has " not in str(e), str(e))
        check(not os.path.exists(os.path.join(tmp, "runs")), "nothing was trained")
        os.close(w.lock)


def test_runs_stop_and_go_on():
    look_s = work.LOOK_S
    work.LOOK_S = 0.02
    with handlers(), tempfile.TemporaryDirectory() as tmp:
        s = claims.Session(small(120), True, work.Work(tmp, DEQ, 1))
        s.prepare(small_texts())
        equal(s.results["models"]["transformer-deq"], s.results["models"]["transformer-tied"], "of equal size")
        first = s.plan.first(s.plan.models[1])
        out = os.path.join(tmp, "runs", plan.run_name(first), "out")

        def stop_when_saved(events, _):
            if os.path.exists(os.path.join(out, "checkpoint.safetensors")):
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            s.work.train(first, stop_when_saved)
            check(False, "a signal stops the run")
        except work.Stopped:
            check(s.work.finished(first) is None, "it is not finished")
        try:
            work.Work(tmp, DEQ, 1)
            check(False, "one at a time")
        except work.Failed as e:
            check("at work for another" in str(e), str(e))
        os.close(s.work.lock)
        s.work = work.Work(tmp, DEQ, 1)
        found = s.work.train(first, lambda *_: None)
        steps = [e["step"] for e in work.read_json_lines(os.path.join(out, "train.jsonl")) if e["event"] == "step"]
        check(steps[-1] == 120 and steps.count(1) == 1, "it went on where it was: %s" % steps[:10])
        equal(found["curve"][-1][:2], [120, 120 * 4 * 32], "its last validation")
        modified = os.path.getmtime(os.path.join(out, "model.safetensors"))
        equal(s.work.train(first, None), found, "a finished run is not repeated")
        equal(os.path.getmtime(os.path.join(out, "model.safetensors")), modified, "nor written again")
        tested = s.work.test(first, found)
        # as many words of one distribution; what differs is chance
        close(tested["test"]["nll_per_token"], report.final(found), 0.7, "the test text is read as validation is")
        other = s.plan.run(first.model, first.rate, first.seed)._replace(over={**first.over, "train.clip": 2})
        try:
            s.work.train(other, None)
            check(False, "another recipe under the same name is refused")
        except work.Failed as e:
            check("another recipe" in str(e), str(e))
        os.close(s.work.lock)
    work.LOOK_S = look_s
