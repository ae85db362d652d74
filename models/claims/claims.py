#!/usr/bin/env python3
"""The paper's three claims, measured with this trainer: models/claims/README.md says what and how.

    make claims DATA=DIR             the whole list (hours); stopped, the same command goes on
    make claims DATA=DIR PLAN=1      the list, and how long it takes here
    make claims DATA=DIR MEMORY=1    memory over depth alone (minutes)
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
            self.results["models"][plan.model_name(m)] = w.size(self.plan.first(m))
        plan.refuse_unequal({(m.kind, m.form): self.results["models"][plan.model_name(m)]["non_embedding_parameters"]
                             for m in self.plan.models})

    def recipe_of(self, run, key):
        return int(run.over.get(key, self.recipe[plan.model_name(run.model)][key]))

    def tokens(self, run):
        """That it trains on."""
        steps, batch, length = (self.recipe_of(run, "train." + key) for key in ("steps", "batch", "seq_len"))
        return steps * batch * length

    def seconds(self, run):
        """Training, and what is read in between and in the end at three times that speed, for nothing goes back."""
        every, texts_ = self.recipe_of(run, "train.eval_every"), self.results["texts"]
        steps, part = self.recipe_of(run, "train.steps"), self.recipe_of(run, "train.eval_tokens")
        valid = texts_["valid"]["tokens"]
        read = valid + (part or valid) * ((steps - 1) // every if every else 0)
        read += 0 if run.search else texts_["test"]["tokens"]
        return (self.tokens(run) + read / 3) / self.speed[plan.model_name(run.model)]

    def rate(self, model, search):
        """The best one, of the results of the search; None: none leads anywhere."""
        return report.best_rate(search) if search else self.plan.rates[model.kind][0]

    def runs_of(self, model):
        """All runs of a model; those behind the search stand for others while the rate is not known."""
        search = self.plan.search(model)
        done = [self.work.finished(r) for r in search]
        rate = None if None in done else self.rate(model, done)
        return search + self.plan.finals(model, self.plan.rates[model.kind][0] if rate is None else rate)

    def measure_speeds(self):
        for m in self.plan.models:
            name = plan.model_name(m)
            self.work.show.progress("measuring the speed of %s" % name)
            self.speed[name] = self.work.speed(self.plan, m)

    def print_plan(self):
        self.measure_speeds()
        print("%-20s %20s %20s %9s %7s" % ("model", "search, tokens", "runs, tokens", "tokens/s", "hours"))
        total = 0.0
        for m in self.plan.models:
            runs = self.runs_of(m)
            hours = sum(map(self.seconds, runs)) / 3600
            total += hours
            counts = ["%d of %s" % (len(some), format(self.tokens(some[0]), ",")) if some else "none"
                      for some in ([r for r in runs if r.search == search] for search in (True, False))]
            print("%-20s %20s %20s %9.0f %7.2f" % (plan.model_name(m), *counts, self.speed[plan.model_name(m)], hours))
        print("%-20s %20s %20s %9s %7.2f\nMemory over depth comes before them, some minutes. Finished runs in %s are "
              "not repeated.%s" % ("all", "", "", "", total, self.work.dir,
                                   " Of one thread, hours are CPU time." if self.work.threads == 1 else ""))

    # --- The work ---

    def left(self, run, share):
        """Seconds that the list still takes; share: of the run under way that is done."""
        runs = [r for m in self.plan.models for r in self.runs_of(m) if self.work.finished(r) is None]
        return sum(map(self.seconds, runs)) - share * self.seconds(run)

    def look(self, run, at):
        """What shows a run's progress."""
        steps = self.recipe_of(run, "train.steps")

        def told(events, seconds):
            here = [e for e in events if e["event"] == "step"]
            if not here:
                return
            e = here[-1]
            share = e["step"] / steps
            left = self.work.seconds_of(e) * (1 - share) / share
            valid = [v["nll_per_token"] for v in events if v["event"] == "valid"]
            if seconds > 60:  # better known now than by some steps
                self.speed[plan.model_name(run.model)] = e["tokens"] / self.work.seconds_of(e)
            self.work.show.progress(
                "%s %s  step %d/%d  loss %.3f%s  %.0f tok/s  %.1f evaluations  left: %s, all runs %s"
                % (at, plan.run_name(run), e["step"], steps, e["loss"],
                   "  valid %.3f" % valid[-1] if valid and valid[-1] else "", e["tokens_per_second"],
                   e["evaluations"], work.clock(left), work.clock(self.left(run, share))))
        return told

    def run(self, run, at):
        begun = time.monotonic()
        known = self.work.finished(run)
        result = self.work.train(run, self.look(run, at))
        if not run.search and not result["diverged"]:
            self.work.show.progress("%s test text: %s" % (at, plan.run_name(run)))
            result = self.work.test(run, result)
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

    def memory_alone(self, publish):
        self.memory()
        known = [self.work.finished(r) for m in self.plan.models for r in self.runs_of(m)]
        self.results["runs"] = [r for r in known if r]
        publish()

    def everything(self, publish):
        self.memory()
        publish()
        self.measure_speeds()
        for i, m in enumerate(self.plan.models):
            at = "[%d/%d]" % (i + 1, len(self.plan.models))
            rate = self.rate(m, [self.run(r, at) for r in self.plan.search(m)])
            if rate is None:
                self.work.show.line("%s: no rate of %s leads anywhere" % (plan.model_name(m),
                                                                          list(self.plan.rates[m.kind])))
                continue
            for r in self.plan.finals(m, rate):
                self.run(r, at)
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
    p.add_argument("--memory", action="store_true", help="measure memory over depth alone")
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
        if a.memory:
            session.memory_alone(session.publish)
        else:
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
