#!/usr/bin/env python3
"""Depth that costs one evaluation: what lets a deep equilibrium model be read out after few evaluations, each thing
alone and together, by loss after 0, 1, 2, 4 evaluations a token and converged. README.md says what and how.

    make claims DEPTH=1 DATA=DIR     the whole list; stopped, the same command goes on
    make claims DEPTH=1              the same on a text of this repository

Exit code: 0; 1 when a run fails; 3 stopped."""
import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import claims
import plan
import report
import texts
import work

COUNTS = (1, 2, 4)
# Residual that counts as converged, and evaluations that it may take: the second number is how many are given.
TOL, SOON, AT_MOST = 1e-3, 16, 64
# Of a text only so much: what the steps of a run see once, and some thousand tokens to read.
TRAIN_BYTES, VALID_BYTES, READ_TOKENS = 4 << 20, 1 << 17, 8193

# --- The list: (name, what it is, what is set over recipes/depth.yaml) ---

BARE = {"model.prelude_layers": 0, "model.core_layers": 3}
ONE_STEP = {"train.grad": "unroll"}


def drawn(n):
    """Plain evaluations, for that is what they are at so few."""
    return {**ONE_STEP, "train.drawn_evaluations": n, "solver.method": "picard"}


def penalty(weight):
    return {"train.jac_every": 3, "train.jac_weight": weight}


def solved_to(tol, most):
    return {"solver.tol": tol, "solver.max_iter": most, "solver.adjoint_tol": tol, "solver.adjoint_max_iter": most}


def losses_after(*evaluations):
    return {"train.indexing": "[%s]" % ", ".join(map(str, evaluations))}


PREDICTOR = {"predictor.hidden_size": 64, "serve.warm_start": "predictor"}
# what a vector of the decay and a matrix of the injection add is taken from the feed-forward network
DECAY = {"model.injection": "diagonal", "model.inner_size": 368, "serve.warm_start": "zero"}
UNTIED = {"model.tie_embeddings": "false"}
ROWS = (
    ("bare", "three weight-tied layers from the embedding, solved, implicit gradient", BARE),
    ("bare-onestep", "bare, one-step gradient", {**BARE, **ONE_STEP}),
    ("bare-drawn", "bare, 0 to 3 evaluations drawn, one recorded", {**BARE, **drawn(3)}),
    ("bare-jac", "bare, Jacobian penalty 0.5", {**BARE, **penalty(0.5)}),
    ("bare-jac2", "bare, Jacobian penalty 2", {**BARE, **penalty(2)}),
    ("bare-correction", "bare, losses after 1 and 2 evaluations too", {**BARE, **losses_after(1, 2)}),
    ("bare-predictor", "bare, a predictor fitted behind", {**BARE, **PREDICTOR, "predictor.steps": 200}),
    ("bare-joint", "bare, a predictor trained with it", {**BARE, **PREDICTOR, "predictor.joint": "true"}),
    ("bare-untied", "bare, a head of its own", {**BARE, **UNTIED}),
    ("proposal", "two layers propose, one is tied: solved, implicit gradient", {}),
    ("proposal-onestep", "proposal, one-step gradient", ONE_STEP),
    ("proposal-jac", "proposal, Jacobian penalty 0.5", penalty(0.5)),
    ("proposal-correction", "proposal, losses after 0 and 1 evaluations too", losses_after(0, 1)),
    ("proposal-tight", "proposal, solved to 1e-3 in at most 24", solved_to(1e-3, 24)),
    ("proposal-loose", "proposal, solved to 0.2", solved_to(0.2, 8)),
    ("proposal-schedule", "proposal, a tolerance that goes from 0.2 to 1e-3", {**solved_to(1e-3, 24),
                                                                              "solver.tol_start": 0.2}),
    ("proposal-drawn1", "proposal, 0 or 1 evaluations drawn, one recorded", drawn(1)),
    ("proposal-drawn", "proposal, 0 to 3 evaluations drawn, one recorded", drawn(3)),
    ("proposal-drawn7", "proposal, 0 to 7 evaluations drawn, one recorded", drawn(7)),
    ("proposal-drawn-jac", "proposal, 0 to 3 drawn, Jacobian penalty 0.5", {**drawn(3), **penalty(0.5)}),
    ("proposal-drawn-untied", "proposal, 0 to 3 drawn, a head of its own", {**drawn(3), **UNTIED}),
    ("decay-drawn", "two layers before the loop, a decayed state from zero, 0 to 3 drawn", {**drawn(3), **DECAY}),
    ("explicit", "three layers, one evaluation each: no loop", plan.explicit(1)),
)
# How much of a difference is chance: these once more.
AGAIN = ("bare", "proposal-drawn")
SEEDS = (1, 2)


def runs():
    for seed in SEEDS:
        for name, _, over in ROWS:
            if seed == SEEDS[0] or name in AGAIN:
                model = plan.Model("depth", name, over)
                yield plan.Run(model, 1.5e-3, seed, False, {**over, "train.seed": seed})


# --- The work ---


def cut(text, most):
    """At most so many characters, whole documents, or paragraphs where there is no mark between them."""
    if len(text) <= most:
        return text
    mark = "\n%s\n" % texts.DOCUMENT_END
    at = text.rfind(mark, 0, most)
    return text[:at + len(mark)] if at > 0 else text[:text.rfind("\n", 0, most) + 1]


def read_texts(directory):
    found = {split: texts.read(directory, split) for split in ("train", "valid")} if directory else \
        {split: text for split, text in texts.quick(claims.QUICK_TEXT).items() if split != "test"}
    return {"train": cut(found["train"], TRAIN_BYTES), "valid": cut(found["valid"], VALID_BYTES)}


def look(w, at, run, steps):
    def told(events, _):
        here = [e for e in events if e["event"] == "step"]
        if here:
            e = here[-1]
            w.show.progress("%s %s  step %d/%d  loss %.3f  %.0f tok/s  %.1f evaluations  left: %s"
                            % (at, plan.run_name(run), e["step"], steps, e["loss"], e["tokens_per_second"],
                               e["evaluations"],
                               work.clock(w.seconds_of(e) * (steps - e["step"]) / e["step"])))
    return told


def read_out(w, run, result):
    """Adds what deq eval says of the validation text."""
    if result.get("read"):
        return result
    directory = w.path("runs", plan.run_name(run))

    def evaluate(*flags):
        _, said = w.ask(["eval", os.path.join(directory, "out"), w.path("data", "valid.txt"), "--limit",
                         str(READ_TOKENS), "--threads", str(w.threads), "--json", *flags],
                        os.path.join(directory, "deq.log"))
        return json.loads(said)

    # where a start is not known before the position behind is there, it cannot be read out
    counts = COUNTS if run.over.get("serve.warm_start") == "predictor" else (0, *COUNTS)
    table = evaluate("--evaluations", ",".join(map(str, counts)))
    solved = [evaluate("--tol", str(TOL), "--max-iter", str(most), "--window", "1") for most in (SOON, AT_MOST)]
    result["read"] = {
        "after": {str(b["evaluations"]): b["nll_per_token"] for b in table["budgets"]},
        "converged": solved[1]["nll_per_token"], "bits_per_byte": solved[1]["bits_per_byte"],
        "evaluations": solved[1]["evaluations_per_token"],
        "tokens": solved[0]["tokens"], "not_soon": solved[0]["not_converged"], "never": solved[1]["not_converged"],
    }
    work.replace(os.path.join(directory, "result.json"), json.dumps(result, indent=1) + "\n")
    return result


def everything(w, data, publish):
    found = read_texts(data)
    texts.refuse_shared(found)
    recipe = w.recipe_values("depth", {})
    w.prepare(found, recipe["data.vocab_size"])
    results = {"machine": report.machine(), "text": data and os.path.basename(os.path.abspath(data)), "runs": []}
    every = list(runs())
    refuse_unequal(w, every)
    for i, run in enumerate(every):
        at = "[%d/%d]" % (i + 1, len(every))
        result = w.train(run, look(w, at, run, int(recipe["train.steps"])))
        if not result["diverged"]:
            w.show.progress("%s %s: reading the validation text" % (at, plan.run_name(run)))
            result = read_out(w, run, result)
        results["runs"].append(result)
        publish(results)
    return results


def refuse_unequal(w, every):
    """Rows are of one size, outside embeddings, heads and predictors: before any of them takes long."""
    w.show.progress("measuring the sizes of %d models" % len(every))
    plan.refuse_unequal({("depth", "deq" if i == 0 else run.model.form):
                         (w.finished(run) or w.size(run))["non_embedding_parameters"]
                         for i, run in enumerate(every)})


# --- What is shown ---


def table(results):
    """Nats a token, means over seeds; `explicit` has one evaluation, which is all of it."""
    rows = []
    for name, words, _ in ROWS:
        mine = [r for r in results["runs"] if r["form"] == name]
        read = [r["read"] for r in mine if r.get("read")]
        after = [report.mean(r["after"].get(str(n)) for r in read) for n in (0, *COUNTS)]
        converged = report.mean(r["converged"] for r in read) if name != "explicit" else after[1]
        apart = None if None in (converged, after[1]) else 100 * (after[1] / converged - 1)
        shown = name != "explicit"
        rows.append([
            "`%s`" % name, words, *(report.number(x, "%.3f") if x or not read else "" for x in after),
            report.number(converged, "%.3f"), report.number(apart, "%+.1f %%") if shown else "",
            report.number(report.mean(r["evaluations"] for r in read), "%.1f") if shown else "",
            report.number(report.mean(100 * r["not_soon"] / r["tokens"] for r in read), "%.2f %%") if shown else "",
            ", ".join("%.3f" % r["converged"] for r in read) if len(read) > 1 else "",
            report.number(report.mean(r["seconds"] / 60 for r in mine), "%.1f min"),
        ])
    return report.table(["", "what", "0", "1", "2", "4", "converged", "one above converged", "evaluations to 1e-3",
                         "positions that take over %d" % SOON, "by seed", "training"], rows)


def show(results):
    path = os.path.join(work.HERE, "README.md")
    with open(path, encoding="utf-8") as f:
        readme = f.read()
    work.replace(path, report.fill(readme, {"depth": table(results)}))


def publish(results):
    work.replace(os.path.join(work.HERE, "depth.json"), json.dumps(results, indent=1) + "\n")
    show(results)


def arguments(argv):
    p = argparse.ArgumentParser(prog="depth.py", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", help="where train.txt and valid.txt (or .txt.xz) are; else a text of this repository")
    p.add_argument("--work", help="where runs are kept (build/depth, without DATA build/depth-own)")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of deq (all cores)")
    return p.parse_args(argv)


def main(argv):
    a = arguments(argv)
    build = os.path.join(claims.ROOT, os.environ.get("DEQ_BUILD", "build"))
    directory = a.work or os.path.join(claims.ROOT, "build", "depth" if a.data else "depth-own")
    try:
        w = work.Work(directory, os.path.join(build, "deq"), a.threads)
        results = everything(w, a.data, publish if a.data else lambda _: None)
        w.show.line(table(results))
        return 0
    except work.Stopped:
        w.show.line("stopped; the same command goes on")
        return 3
    except (texts.BadText, plan.Unequal, work.Failed) as e:
        print("depth: %s" % e, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
