#!/usr/bin/env python3
"""The paper's three claims, measured with this trainer: models/claims/README.md says what and how.

    make claims DATA=DIR             the whole list (hours); stopped, the same command goes on
    make claims DATA=DIR PLAN=1      the list, and how long it takes here
    make claims QUICK=1              a small version in ten minutes, on a text of this repository

Exit code: 0 when every claim holds; 1 when one does not, by name, or a run fails; 2 usage; 3 stopped."""
import argparse
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import plan
import report
import texts
import work

ROOT = os.path.dirname(os.path.dirname(work.HERE))
QUICK_TEXT = os.path.join(ROOT, "tests", "golden", "tokenizer", "sample.txt")


class Session:
    def __init__(self, the_plan, quick, w):
        self.plan, self.quick, self.work = the_plan, quick, w
        self.results = {"machine": report.machine(), "wanted": [plan.model_name(m) for m in the_plan.models],
                        "texts": {}, "models": {}, "runs": [], "memory": []}
        self.recipe = {}  # {model name: values of its recipe}
        self.speed = {}  # {model name: tokens a second of training}

    # --- What is known before anything takes long ---

    def prepare(self, found):
        w = self.work
        texts.refuse_shared(found)
        for m in self.plan.models:
            self.recipe[plan.model_name(m)] = w.recipe_values(m.kind, self.plan.first(m).over)
        vocabulary = {r["data.vocab_size"] for r in self.recipe.values()}
        if len(vocabulary) > 1:
            raise plan.Unequal("recipes with different data.vocab_size: %s" % sorted(vocabulary))
        self.results["texts"] = w.prepare(found, vocabulary.pop())
        for m in self.plan.models:
            self.results["models"][plan.model_name(m)] = w.size(self.plan, m)
        plan.refuse_unequal({(m.kind, m.form): self.results["models"][plan.model_name(m)]["non_embedding_parameters"]
                             for m in self.plan.models})

    def tokens(self, model):
        """Of one run."""
        r = self.recipe[plan.model_name(model)]
        return int(r["train.steps"]) * int(r["train.batch"]) * int(r["train.seq_len"])

    def runs_of(self, model):
        """Those of a model that are known to be wanted: the search, then its best rate with other seeds."""
        search = self.plan.search(model)
        done = [self.work.finished(r) for r in search]
        rate = None if None in done else report.best_rate(done)
        return search + (self.plan.repeats(model, rate) if rate is not None else [])

    def measure_speeds(self):
        for m in self.plan.models:
            name = plan.model_name(m)
            self.work.show.progress("measuring the speed of %s" % name)
            self.speed[name] = self.work.speed(self.plan, m)

    def seconds(self, model, runs):
        """So many runs of a model: their training, and a test text at three times that speed."""
        test = self.results["texts"]["test"]["tokens"] * len(self.plan.seeds) / 3
        return (self.tokens(model) * runs + test) / self.speed[plan.model_name(model)]

    def print_plan(self):
        self.measure_speeds()
        every = len(self.plan.seeds) - 1
        print("%-24s %5s %12s %9s %7s" % ("model", "runs", "tokens each", "tokens/s", "hours"))
        total = 0.0
        for m in self.plan.models:
            runs = len(self.plan.search(m)) + every
            hours = self.seconds(m, runs) / 3600
            total += hours
            print("%-24s %5d %12s %9.0f %7.2f" % (plan.model_name(m), runs, format(self.tokens(m), ","),
                                                  self.speed[plan.model_name(m)], hours))
        print("%-24s %5s %12s %9s %7.2f\nMemory over depth comes before them, some minutes. Finished runs in %s are "
              "not repeated." % ("all", "", "", "", total, self.work.dir))

    # --- The work ---

    def left(self, model, done_here):
        """Seconds that the list still takes, as far as it is known; done_here: tokens of the run under way."""
        total = -done_here / self.speed[plan.model_name(model)]
        for m in self.plan.models:
            wanted = len(self.plan.search(m)) + len(self.plan.seeds) - 1
            finished = sum(self.work.finished(r) is not None for r in self.runs_of(m))
            total += max(wanted - finished, 0) * self.tokens(m) / self.speed[plan.model_name(m)]
        return total

    def look(self, run, at):
        """What shows a run's progress."""
        steps = int(self.recipe[plan.model_name(run.model)]["train.steps"])

        def told(events, seconds):
            here = [e for e in events if e["event"] == "step"]
            if not here:
                return
            e = here[-1]
            share = e["step"] / steps
            left = e["seconds"] * (1 - share) / share
            valid = [v["nll_per_token"] for v in events if v["event"] == "valid"]
            if seconds > 60:  # better known now than by some steps
                self.speed[plan.model_name(run.model)] = e["tokens"] / e["seconds"]
            self.work.show.progress(
                "%s %s  step %d/%d  loss %.3f%s  %.0f tok/s  %.1f evaluations  left: %s, all runs %s"
                % (at, plan.run_name(run), e["step"], steps, e["loss"],
                   "  valid %.3f" % valid[-1] if valid and valid[-1] else "", e["tokens_per_second"],
                   e["evaluations"], work.clock(left), work.clock(self.left(run.model, e["tokens"]))))
        return told

    def run(self, run, at):
        begun = time.monotonic()
        known = self.work.finished(run)
        result = self.work.train(run, self.look(run, at))
        self.results["runs"].append(result)
        if not known:
            nats = report.perplexity(self.results, result, "valid")
            self.work.show.line("%s %s: %s, %s" % (at, plan.run_name(run),
                                                   result["diverged"] or "validation %.1f a word" % nats,
                                                   work.clock(time.monotonic() - begun)))
        return result

    def memory(self):
        steps = [(kind, form, depth) for kind in plan.KINDS if any(m.kind == kind for m in self.plan.models)
                 for form in plan.MEMORY_FORMS[kind] for depth in plan.DEPTHS[kind]]
        path = self.work.path("memory.json")
        done = json.load(open(path, encoding="utf-8")) if os.path.exists(path) else []
        for i, (kind, form, depth) in enumerate(steps):
            if not any((m["kind"], m["form"], m["depth"]) == (kind, form, depth) for m in done):
                self.work.show.progress("memory %d/%d: %s, %s, depth %d" % (i + 1, len(steps), kind, form, depth))
                done.append(self.work.memory(self.plan, kind, form, depth))
                work.replace(path, json.dumps(done, indent=1) + "\n")
        self.results["memory"] = done

    def everything(self, publish):
        self.memory()
        publish()
        self.measure_speeds()
        for i, m in enumerate(self.plan.models):
            at = "[%d/%d]" % (i + 1, len(self.plan.models))
            for r in self.plan.search(m):
                self.run(r, at)
            rate = report.best_rate(report.of_model(self.results, m.kind, m.form))
            if rate is None:
                self.work.show.line("%s: no rate of %s leads anywhere" % (plan.model_name(m),
                                                                          list(self.plan.rates[m.kind])))
                continue
            for r in self.plan.repeats(m, rate):
                self.run(r, at)
            for r in [self.plan.run(m, rate, seed) for seed in self.plan.seeds]:
                self.work.show.progress("%s test text: %s" % (at, plan.run_name(r)))
                tested = self.work.test(r, self.work.finished(r))
                self.results["runs"] = [tested if (x["kind"], x["form"], x["rate"], x["seed"]) ==
                                        (m.kind, m.form, r.rate, r.seed) else x for x in self.results["runs"]]
            publish()

    # --- What is shown ---

    def publish(self):
        """Of the whole list beside this program, of the quick one where it works."""
        where = self.work.dir if self.quick else work.HERE
        work.replace(os.path.join(where, "results.json"), json.dumps(self.results, indent=1) + "\n")
        show(self.results, where)

    def verdict(self):
        """Prints every claim that was measured; the exit code."""
        failed = []
        for claim, value, bound, holds in report.verdicts(self.results, self.quick):
            if holds is None:
                continue
            print("%-32s %6.3f, at most %g: %s  (%s)" % (claim.name, value, bound, "holds" if holds else
                                                         "DOES NOT HOLD", claim.text))
            if not holds:
                failed.append(claim.name)
        if failed:
            print("claims that do not hold: " + ", ".join(failed), file=sys.stderr)
        return 1 if failed else 0


def show(results, where):
    """Plots, and the README's tables where one stands there."""
    for name, text in report.plots(results).items():
        work.replace(os.path.join(where, name), text)
    path = os.path.join(where, "README.md")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            readme = f.read()
        work.replace(path, report.fill(readme, report.tables(results, plan.FULL)))


def show_again():
    """From the results that are published."""
    with open(os.path.join(work.HERE, "results.json"), encoding="utf-8") as f:
        show(json.load(f), work.HERE)


def arguments(argv):
    p = argparse.ArgumentParser(prog="claims.py", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", help="where train, valid and test .txt (or .txt.xz) of WikiText-2 are")
    p.add_argument("--quick", action="store_true", help="the small version")
    p.add_argument("--plan", action="store_true", help="print the list and its hours, and stop")
    p.add_argument("--tables", action="store_true", help="make tables and plots anew from results.json, and stop")
    p.add_argument("--work", help="where runs are kept (build/claims, build/claims-quick)")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of deq (all cores)")
    a = p.parse_args(argv)
    if not a.quick and not a.data and not a.tables:
        p.error("WikiText-2 is not in the repository: DATA=DIR, with train, valid and test .txt or .txt.xz; or QUICK=1")
    return a


def main(argv):
    a = arguments(argv)
    if a.tables:
        show_again()
        return 0
    build = os.path.join(ROOT, os.environ.get("DEQ_BUILD", "build"))
    directory = a.work or os.path.join(ROOT, "build", "claims-quick" if a.quick else "claims")
    w = None
    try:
        w = work.Work(directory, os.path.join(build, "deq"), a.threads)
        if a.quick:
            w.begin_anew()
        session = Session(plan.QUICK if a.quick else plan.FULL, a.quick, w)
        session.prepare(texts.quick(QUICK_TEXT) if a.quick else texts.wikitext(a.data))
        if a.plan:
            session.print_plan()
            return 0
        session.everything(session.publish)
        session.work.show.line("tables, plots and results.json are in %s" % (w.dir if a.quick else work.HERE))
        return session.verdict()
    except work.Stopped:
        w.show.line("stopped; the same command goes on")
        return 3
    except (texts.BadText, plan.Unequal, work.Failed) as e:
        print("claims: %s" % e, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
