"""deq: eval, generate, inspect, train."""
import itertools
import json
import math
import os
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import xml.etree.ElementTree

from lib import (DEQ, ROOT, SLOW, TINY, check, clean_env, close, equal, run, skip, usual)

RECIPE = os.path.join(ROOT, "tests", "golden", "tiny.yaml")
DATA = os.path.join(ROOT, "tests", "golden", "tokenizer")
SAMPLE = os.path.join(DATA, "sample.txt")


def part_of_sample(n, start=0):
    with open(SAMPLE, encoding="utf-8") as f:
        return f.read()[start:start + n]


def test_eval():
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "text.txt")
        text = part_of_sample(1500, 2000)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        code, out, err = run([DEQ, "eval", TINY, path, "--json"])
        equal(code, 0, "deq eval: " + err)
        o = json.loads(out)
        equal(set(o), {"tokens", "bytes", "nll_per_token", "perplexity", "bits_per_byte", "evaluations_per_token",
                       "steps_per_token", "residual_max", "not_converged", "seconds", "tokens_per_second", "tol",
                       "max_iter", "numeric_class", "solver", "window", "warm_start"}, "keys")
        d = usual()
        ids = d.post("/tokenize", {"prompt": text})[2]["tokens"]
        # the text, stripped or not, and the end-of-text token
        check(o["tokens"] in (len(ids) + 1, len(ids)) and o["tokens"] > 300,
              "tokens: %d for a text of %d" % (o["tokens"], len(ids)))
        check(0 < len(text.encode()) - o["bytes"] + 2 <= 4, "bytes: %d of %d" % (o["bytes"], len(text.encode())))
        close(o["perplexity"], math.exp(o["nll_per_token"]), 1e-5 * o["perplexity"], "perplexity")
        close(o["bits_per_byte"], o["nll_per_token"] * o["tokens"] / math.log(2) / o["bytes"], 1e-5, "bits_per_byte")
        check(1 < o["perplexity"] < 100, "a trained model is better than 384: %r" % o["perplexity"])
        equal((o["not_converged"], o["solver"], o["window"], o["warm_start"], o["max_iter"]),
              (0, "anderson", 8, "predictor", 32), "settings")
        check(0 < o["residual_max"] <= o["tol"] and o["evaluations_per_token"] >= o["steps_per_token"] > 0,
              "solver: %s" % o)
        # the same number from the daemon's logits; the text is longer than the attention window of 48
        raw = d.request("POST", "/v1/logits", {"prompt": [0] + ids, "positions": "all"},
                        {"Accept": "application/octet-stream"})[2]
        numbers = struct.unpack("<%df" % (len(raw) // 4), raw)
        rows = [numbers[i:i + 384] for i in range(0, len(numbers), 384)]
        want = (ids + [0])[:o["tokens"]]
        nll = 0.0
        for row, t in zip(rows, want):
            top = max(row)
            nll += math.log(sum(math.exp(x - top) for x in row)) + top - row[t]
        # six digits are printed; the sums differ by float32 rounding
        close(o["nll_per_token"], nll / len(want), 3e-6, "nll_per_token == from /v1/logits")
        code, out, _ = run([DEQ, "eval", TINY, path, "--json", "--tol", "1e-5", "--max-iter", "64", "--solver",
                            "picard", "--window", "1", "--warm-start", "zero", "--threads", "1"])
        p = json.loads(out)
        equal((p["solver"], p["window"], p["warm_start"], p["max_iter"]), ("picard", 1, "zero", 64), "flags")
        code, out, _ = run([DEQ, "eval", TINY, path, "--json", "--tol", "1e-5", "--max-iter", "64", "--solver",
                            "broyden", "--threads", "2"])
        # both within 1e-5 of the same equilibria
        close(json.loads(out)["nll_per_token"], p["nll_per_token"], 1e-3, "two solvers, one equilibrium")
        check(abs(p["nll_per_token"] - o["nll_per_token"]) < 0.05,
              "tol 1e-2 costs little: %r %r" % (p["nll_per_token"], o["nll_per_token"]))
        # documents
        with open(path, "w", encoding="utf-8") as f:
            f.write("First text.\n<|endoftext|>\nSecond text.\n")
        a = json.loads(run([DEQ, "eval", TINY, path, "--json"])[1])
        docs = [len(d.post("/tokenize", {"prompt": t})[2]["tokens"]) for t in ("First text.\n", "Second text.\n")]
        check(abs(a["tokens"] - sum(docs) - 2) <= 2 and a["bytes"] <= 26, "documents: %s" % a)
        for content, words in (("", "empty"), ("\n", "empty"), (None, "none.txt")):
            if content is not None:
                with open(path, "w") as f:
                    f.write(content)
            code, out, err = run([DEQ, "eval", TINY, path if content is not None else os.path.join(tmp, "none.txt"),
                                  "--json"])
            if content == "\n" and code == 0:
                continue  # a line end is a text of one byte
            check(code == 1 and out == "" and words in err and err.count("\n") == 1,
                  "eval of %r: %d %r" % (content, code, err))
        for flags in (["--tol", "-1"], ["--tol", "x"], ["--solver", "newton"], ["--window", "65"], ["--max-iter", "-1"],
                      ["--nothing"], ["a", "b"]):
            code, out, err = run([DEQ, "eval", TINY, path] + flags)
            check(code == 2 and flags[0].lstrip("-")[:4] in err + "a b", "eval %s: %d %r" % (flags, code, err))


def test_eval_budget():
    """No evaluation of a budget is thrown away: each of the first ones lowers the loss."""
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "text.txt")
        with open(path, "w", encoding="utf-8") as f:
            f.write("One day, a girl named Mia found a small red boat near the lake. She was happy and wanted to show "
                    "it to her brother. \"Look, Sam! I found a boat,\" she said. Sam smiled and they put the boat in "
                    "the water. The wind was strong and the boat went far away. Mia was sad and began to cry. Then a "
                    "big duck came and pushed the boat back to them. Mia and Sam said, \"Thank you, duck!\" They gave "
                    "the duck some bread and went home.\n")
        model = os.path.join(ROOT, "models", "stories-transformer")
        runs = [json.loads(run([DEQ, "eval", model, path, "--json", "--window", "1", "--tol", "1e-3", "--max-iter",
                                n])[1]) for n in "123"]
        loss = [o["nll_per_token"] for o in runs]
        equal([o["evaluations_per_token"] for o in runs[:2]], [1, 2], "budgets are used")
        check(loss[0] > loss[1] > loss[2], "loss at 1, 2, 3 evaluations: %s" % loss)


def test_eval_evaluations():
    """--evaluations: each line is the run with that budget alone; what cannot be is refused before anything is read."""
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "text.txt")
        with open(path, "w", encoding="utf-8") as f:
            f.write(part_of_sample(600, 2000))
        code, out, err = run([DEQ, "eval", TINY, path, "--evaluations", "3,1", "--json"])
        equal((code, err), (0, ""), "deq eval --evaluations")
        o = json.loads(out)
        equal([b["evaluations"] for b in o["budgets"]], [3, 1], "the order is the caller's")
        for b in o["budgets"]:  # no residual is below 1e-9, so that the budget ends these too
            one = json.loads(run([DEQ, "eval", TINY, path, "--json", "--max-iter", str(b["evaluations"]), "--window",
                                  "1", "--tol", "1e-9"])[1])
            equal([b[k] for k in ("nll_per_token", "bits_per_byte", "perplexity")] + [o["tokens"], o["bytes"]],
                  [one[k] for k in ("nll_per_token", "bits_per_byte", "perplexity", "tokens", "bytes")], "the same run")
            equal(one["evaluations_per_token"], b["evaluations"], "evaluations")
        check(o["budgets"][0]["nll_per_token"] < o["budgets"][1]["nll_per_token"], "more evaluations lose less: " + out)
        lines = run([DEQ, "eval", TINY, path, "--evaluations", "3,1"])[1].split("\n")
        equal([x.split()[0] for x in lines[1:-1]], ["evaluations", "3", "1"], "a table")
        equal(lines[2].split()[1], "%.4f" % o["budgets"][0]["nll_per_token"], "of the same figures")
        code, out, err = run([DEQ, "eval", TINY, path, "--evaluations", "0,1"])
        check(code == 1 and not out and "0 reads out where states begin, which is a proposal's or zero, not " in err,
              "0: %d %r" % (code, err))
        for value in ("1,,2", "1,", ",1", "x", "1 2", "-1", "100001", "99999999999999999999", ",".join("1" * 33)):
            code, out, err = run([DEQ, "eval", TINY, path, "--evaluations", value])
            check(code == 2 and not out and '--evaluations: "%s" is not a list of at most 32 integers' % value in err,
                  "%s: %d %r" % (value, code, err))
        for flag, value in (("--tol", "1"), ("--max-iter", "3"), ("--window", "2"), ("--preset", "fast"),
                            ("--prefill-window", "4"), ("--tgt-len", "8")):
            code, out, err = run([DEQ, "eval", TINY, path, "--evaluations", "1", flag, value])
            check(code == 2 and not out and flag + ": goes not with --evaluations" in err, "%s: %r" % (flag, err))


def test_tune():
    """The chosen setting is in config.json afterwards, and nothing else there has changed."""
    with tempfile.TemporaryDirectory() as tmp:
        model, text, svg = (os.path.join(tmp, n) for n in ("model", "text.txt", "plot.svg"))
        shutil.copytree(TINY, model)
        with open(text, "w", encoding="utf-8") as f:
            f.write(part_of_sample(4000, 2000))
        path = os.path.join(model, "config.json")

        def config():
            with open(path, encoding="utf-8") as f:
                return json.load(f)

        before = config()
        args = [DEQ, "tune", model, text, "--limit", "600", "--repeat", "1", "--threads", "1"]
        code, out, err = run(args + ["--json", "--dry-run", "--svg", svg])
        equal((code, err, config()), (0, "", before), "--dry-run")
        o = json.loads(out)
        chosen = [p for p in o["points"] if p["chosen"]]
        check(len(chosen) <= 1 and not o["written"] and len(o["points"]) > 20, "at most one is chosen: %s" % chosen)
        for p in o["points"][1:]:  # 4 blocks: the interval's ends are at least 1.64 standard errors away
            ends = [p["loss_percent"] + x * p["loss_percent_error"] for x in (1.64, -1.64)]
            check(p["verdict"] == "open" or (ends[0] <= 0.1 if p["verdict"] == "within" else ends[1] > 0.1),
                  "what is said of it is known: %s" % p)
        check(all(p["verdict"] == "within" for p in chosen), "the choice is within: %s" % chosen)
        check({p["varied"] for p in o["points"]} >= {"exact", "as it is", "solver, tolerance", "window",
                                                     "prefill window", "numeric class"}, "what is varied")
        with open(svg, encoding="utf-8") as f:
            drawn = xml.etree.ElementTree.parse(f).getroot()
        equal(len([e for e in drawn if e.tag.endswith("circle")]), len(o["points"]), "points drawn")
        code, out, err = run(args + ["--budget", "100"])  # the fastest there is: its loss does not matter
        after = config()
        check(code == 0 and "<- chosen" in out and "has the chosen settings now" in out, "table: %r %r" % (out, err))
        equal({k: v for k, v in before.items() if k != "deq"},
              {k: v for k, v in after.items() if k in before and k != "deq"}, "all but the settings stays")
        check(after["deq"]["tol"] > before["deq"]["tol"], "settings: %s" % after["deq"])
        check(after["deq"]["presets"]["fast"] >= after["deq"]["tol"] >= after["deq"]["presets"]["exact"] > 0, "presets")
        e = json.loads(run([DEQ, "eval", model, text, "--json", "--preset", "exact"])[1])
        close(e["tol"], after["deq"]["presets"]["exact"], 1e-6, "--preset exact")
        with open(text, "w", encoding="utf-8") as f:
            f.write("Too short.")
        fixed = json.loads(json.dumps(before))
        fixed["deq"] = {"tol": 0, "window": 1}
        for settings, words in ((before, "too few"), (fixed, "a fixed number of steps")):
            with open(path, "w", encoding="utf-8") as f:
                json.dump(settings, f)
            code, out, err = run(args)
            check(code == 1 and out == "" and words in err and err.count("\n") == 1, "bad input: %r" % err)
            equal(config(), settings, "nothing is written")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(before, f)
        for wrong in ([text, text], [model, text + "x"]):
            code, out, err = run([DEQ, "tune"] + wrong)
            check(code == 1 and out == "" and err.count("\n") == 1 and wrong[1 if wrong[0] == model else 0] in err,
                  "tune %s: %r" % (wrong, err))
        code, out, err = run([DEQ, "tune", model])
        check(code == 2 and out == "", "no text: %d %r" % (code, err))


def test_generate():
    code, out, err = run([DEQ, "generate", TINY, "First Citizen:\n", "--max-tokens", "20"])
    text = json.loads(run([DEQ, "generate", TINY, "First Citizen:\n", "--max-tokens", "20", "--json"])[1])["text"]
    equal((code, out), (0, "First Citizen:\n" + text + "\n"), "plain output: prompt and text")
    check("20 tokens (length)" in err, "statistics go to stderr: %r" % err)
    o = json.loads(run([DEQ, "generate", TINY, "First Citizen:\n", "--max-tokens", "20", "--json", "--stop",
                        text[4:8]])[1])
    equal((o["text"], o["finish_reason"]), (text[:text.find(text[4:8])], "stop"), "--stop")
    equal(json.loads(run([DEQ, "generate", TINY, "First Citizen:\n", "--max-tokens", "20", "--json", "--stop-rule",
                          "residual"])[1])["text"], text, "--stop-rule, the model's own")
    code, out, err = run([DEQ, "generate", TINY, "x", "--stop-rule", "near"])
    check(code == 2 and '"near" is not one of residual|' in err, "--stop-rule: %r" % err)
    a, b = (run([DEQ, "generate", TINY, "x", "--max-tokens", "30", "--json", "--temperature", "1", "--seed", "4",
                 "--threads", t])[1] for t in "12")
    equal(json.loads(a)["text"], json.loads(b)["text"], "1 and 2 threads")
    for flags, word in ((["--max-tokens", "0"], "--max-tokens"), (["--temperature", "-1"], "--temperature"),
                        (["--top-p", "2"], "--top-p"), (["--bogus"], "--bogus")):
        code, _, err = run([DEQ, "generate", TINY, "x"] + flags)
        check(code == 2 and word in err, "generate %s: %d %r" % (flags, code, err))
    code, _, err = run([DEQ, "generate", os.path.join(TINY, "nowhere"), "x"])
    check(code == 1 and "nowhere" in err and err.count("\n") == 1, "no model: %d %r" % (code, err))
    code, _, err = run([DEQ, "nothing"])
    check(code == 2 and "nothing" in err, "unknown command: %d" % code)
    code, _, err = run([DEQ, "genrate"])
    check(code == 2 and "did you mean generate?" in err, "a command mistyped: %r" % err)
    for words, said in ((["bench", "serv"], 'unknown kind "serv" (did you mean serve?)'),
                        (["tokenizer", "wrods"], "(did you mean words?)"),
                        (["--verison"], "unknown flag --verison (did you mean --version?)"), ([], "Usage: deq ")):
        code, out, err = run([DEQ] + words)
        check(code == 2 and said in err and not out, "deq %s: %d %r" % (words, code, err))
    for words in ([], ["bench"], ["tokenizer"]):
        code, out, err = run([DEQ] + words + ["--version"])
        check(code == 0 and re.fullmatch(r"deq [0-9.]+\n", out) and not err, "deq %s --version: %r" % (words, out))
    code, out, _ = run([DEQ, "--help"])
    check(code == 0 and all(c in out for c in ("generate", "eval", "inspect", "train", "tokenizer")), "deq --help")
    for c in ("generate", "eval", "inspect", "train"):
        code, out, err = run([DEQ, c, "--help"])
        check(code == 0 and out.startswith("Usage: deq " + c) and not err, "deq %s --help" % c)
        named = re.findall(r"^ +(--[a-z-]+)", out, re.M)
        check(len(named) > 1 and len(set(named)) == len(named), "deq %s: a flag has one meaning: %s" % (c, named))


def test_numbers_of_flags():
    """Every number of every command is checked before anything is loaded, and the message says flag, value and
    range."""
    flags = {("generate", "m", "x"): {"--max-tokens": "1..16777216", "--top-k": "0..16777216",
                                      "--seed": "0..9007199254740992", "--window": "1..64", "--prefill-window": "1..64",
                                      "--max-iter": "0..100000",
                                      "--threads": "1..256"},
             ("tune", "m", "x"): {"--limit": "513..16777216", "--repeat": "1..8", "--seconds": "1..16777216",
                                  "--threads": "1..256"},
             ("eval", "m", "x"): {"--max-iter": "0..100000", "--window": "1..64", "--prefill-window": "1..64",
                                  "--threads": "1..256",
                                  "--tgt-len": "1..65536", "--mem-len": "0..65536",
                                  "--streams": "1..4096", "--limit": "2..1000000000000"},
             ("check", "m", "x"): {"--max-iter": "1..100000", "--mem-len": "0..65536"},
             ("train", "r"): {"--threads": "1..256"},
             ("tokenizer", "train", "x"): {"--vocab-size": "257..1048576"},
             ("bench", "serve", "http://127.0.0.1:1"): {"--num-prompts": "1..1000000",
                                                        "--max-concurrency": "1..1000000", "--input-len": "1..1000000",
                                                        "--output-len": "1..1000000", "--window": "1..64",
                                                        "--seed": "0..9007199254740992", "--timeout-ms": "1..86400000"}}
    # the unit tests have them all
    values = itertools.cycle(("1.9", "0x10", "-1", "1e3", "", "5x", "nan", "99999999999999999999"))
    for command, whole in flags.items():
        for flag, span in whole.items():
            value = next(values)
            code, out, err = run([DEQ, *command, flag, value])
            check(code == 2 and not out and '%s: "%s" is not an integer in %s' % (flag, value, span) in err,
                  "%s %s %r: %d %r" % (command[0], flag, value, code, err))
    for command, flag in ((("generate", "m", "x"), "--temperature"), (("generate", "m", "x"), "--top-p"),
                          (("generate", "m", "x"), "--min-p"), (("eval", "m", "x"), "--tol"),
                          (("check", "m", "x"), "--atol"), (("check", "m", "x"), "--tol"),
                          (("bench", "serve", "http://127.0.0.1:1"), "--temperature")):
        value = next(values) + "x"
        code, out, err = run([DEQ, *command, flag, value])
        check(code == 2 and not out and '%s: "%s" is not a number in ' % (flag, value) in err,
              "%s %s %r: %d %r" % (command[0], flag, value, code, err))
    for command in (("generate", "m", "x"), ("eval", "m", "x"), ("check", "m", "x")):
        code, _, err = run([DEQ, *command, "--solver", "anderso"])
        check(code == 2 and '"anderso" is not one of picard|anderson|broyden' in err, "%s: %r" % (command[0], err))
    for command, flag, near in ((("generate", "m", "x"), "--max-token", "--max-tokens"),
                                (("import", "m"), "--vocob", "--vocab"), (("inspect", "m"), "--tensor", "--tensors"),
                                (("tokenizer", "encode", "m"), "--specal", "--special"),
                                (("tokenizer", "words"), "--vocab-ot", "--vocab-out")):
        code, _, err = run([DEQ, *command, flag])
        check(code == 2 and "unknown flag %s (did you mean %s?)" % (flag, near) in err, "%s: %r" % (flag, err))


def test_openblas_fits():
    """OpenBLAS takes its oldest kernels on a CPU that it does not know; whoever names others gets those."""
    def cores(**env):
        r = subprocess.run([DEQ, "--version"], capture_output=True, text=True,
                           env={**os.environ, "OPENBLAS_VERBOSE": "2", **env})
        check(r.returncode == 0 and r.stdout.startswith("deq "), r.stdout)
        return re.findall("^Core: (.*)", r.stderr, re.M)
    with open("/proc/cpuinfo") as f:
        able = " avx2 " in f.read()
    found = cores()
    check(len(found) in (1, 2) and (not able or found[-1] not in ("Prescott", "Nehalem", "Sandybridge")), found)
    equal(cores(OPENBLAS_CORETYPE="Nehalem"), ["Nehalem"], "the core that was asked for")


def test_started_otherwise():
    """The loader as a program, a program without a file: it does what it is asked."""
    with open(DEQ, "rb") as f:
        interpreter = re.search(rb"/lib[^\0]*/ld-linux[^\0]*", f.read())[0].decode()
        f.seek(0)
        memory = os.memfd_create("deq", 0)
        with open(memory, "wb", closefd=False) as copy:
            shutil.copyfileobj(f, copy)
    try:
        for command in ([interpreter, DEQ], ["/proc/self/fd/%d" % memory]):
            code, out, err = run([*command, "--version"], pass_fds=[memory])
            check(code == 0 and out.startswith("deq "), "%s: %d %s%s" % (command, code, out, err))
    finally:
        os.close(memory)


def test_inspect():
    code, out, err = run([DEQ, "inspect", TINY, "--json", "--tensors"])
    equal(code, 0, "deq inspect: " + err)
    o = json.loads(out)
    with open(TINY + "/config.json") as f:
        c = json.load(f)
    equal({k: o[k] for k in ("vocab_size", "hidden_size", "num_attention_heads", "head_dim", "intermediate_size",
                             "num_blocks", "attention_window", "norm")},
          {k: c[k] for k in ("vocab_size", "hidden_size", "num_attention_heads", "head_dim", "intermediate_size",
                             "num_blocks", "attention_window", "norm")}, "shape")
    equal({k: o["deq"][k] for k in ("solver", "max_iter", "memory", "window", "warm_start")},
          {k: c["deq"][k] for k in ("solver", "max_iter", "memory", "window", "warm_start")}, "solver")
    equal(sum(math.prod(t["shape"]) for t in o["tensors"]), o["parameters"], "parameters are the sum of the tensors")
    sums = [sum(math.prod(t["shape"]) for t in o["tensors"] if t["name"].startswith(names))
            for names in (("blocks.", "final_norm."), "predictor.")]
    equal([o["non_embedding_parameters"], o["predictor_parameters"]], sums, "of these, the cell's and the predictor's")
    equal(o["fingerprint"], usual().get("/v1/models")[2]["data"][0]["deqd"]["fingerprint"],
          "fingerprint, as the daemon says")
    code, out, _ = run([DEQ, "inspect", TINY])
    check(code == 0 and o["fingerprint"] in out, "deq inspect without --json")


# --- Training ---

SHORT = ["--set", "train.steps=20", "--set", "train.shallow_steps=8", "--set", "train.warmup=5", "--set",
         "train.log_every=1", "--set", "predictor.steps=6"]


def train(out, *more, data=DATA, recipe=RECIPE, **kw):
    return run([DEQ, "train", recipe, "--data", data, "--out", out] + list(more), timeout=600, **kw)


def weights(out):
    with open(os.path.join(out, "model.safetensors"), "rb") as f:
        return f.read()


def test_train_refusals():
    with tempfile.TemporaryDirectory() as tmp:
        out = os.path.join(tmp, "m")
        recipe = os.path.join(tmp, "r.yaml")
        with open(RECIPE) as f:
            good = f.read()
        for edit, words in ((good.replace("  steps: 500", "  stepz: 500"), ["line", "train.stepz", "train.steps"]),
                            (good.replace("  lr: 4e-3", "  lr: fast"), ["line", "train.lr", "fast"]),
                            (good.replace("  batch: 8", "  batch: 7"), ["train.batch", "train.micro_batch"]),
                            (good.replace("  seq_len: 48", "  seq_len: 49"), ["train.seq_len: 49 exceeds 48"]),
                            (good.replace("  valid: sample.txt\n", ""), ["data.valid"]), ("", ["data.train"]),
                            (good + "\n  bad: [\n", ["line"])):
            with open(recipe, "w") as f:
                f.write(edit)
            code, o, err = train(out, recipe=recipe)
            check(code == 1 and err.count("\n") == 1 and recipe in err and all(w in err for w in words),
                  "recipe: %d %r, expected %s" % (code, err, words))
            check(not os.path.exists(out), "nothing is written")
        line = good.split("\n").index("  steps: 500") + 1
        with open(recipe, "w") as f:
            f.write(good.replace("  steps: 500", "  stepz: 500"))
        check("line %d, column 3" % line in train(out, recipe=recipe)[2], "the line of the unknown key")
        for sets, words, code in ((["--set", "train.micro_batch=3"], ["train.batch", "train.micro_batch"], 1),
                                  (["--set", "train.stepz=1"], ["train.stepz", "did you mean train.steps?"], 2),
                                  (["--set", "train.steps=x"], ["train.steps", "x"], 2),
                                  (["--set", "train.steps=1.9"], ["train.steps", "1.9"], 2),
                                  (["--set", "data.train=[nowhere.txt, other.txt]"], ["nowhere.txt:"], 1),
                                  (["--set", "train.steps=5"], ["train.shallow_steps", "train.steps 5",
                                                                "write train.shallow_steps: 1, or 0"], 1)):
            c, o, err = train(out, *sets)
            check(c == code and all(w in err for w in words), "train %s: %d %r" % (sets, c, err))
        empty = os.path.join(tmp, "data")
        os.mkdir(empty)
        for content, words in ((None, ["data.train: ", "sample.txt"]), ("", ["sample.txt", "no text"]),
                               ("too short", ["sample.txt"])):
            if content is not None:
                with open(os.path.join(empty, "sample.txt"), "w") as f:
                    f.write(content)
            c, o, err = train(out, *SHORT, data=empty)
            last = err.strip().split("\n")[-1]
            check(c == 1 and last.startswith("deq train: ") and all(w in last for w in words),
                  "training text %r: %d %r" % (content, c, err))
        c, o, err = train(out, *SHORT, "--resume")
        check(c == 1 and "checkpoint.safetensors" in err, "--resume of nothing: %d %r" % (c, err))
        c, o, err = run([DEQ, "train", RECIPE, "--print-recipe"])
        check(c == 0 and "steps: 500" in o, "--print-recipe")
        with open(recipe, "w") as f:
            f.write(o)
        c, again, err = run([DEQ, "train", recipe, "--print-recipe"])
        equal((c, again == o, err), (0, True, ""), "--print-recipe is loadable and prints the same")


def stopped(out, args, at_step, sig, data=DATA):
    """Starts a run and sends a signal when its log shows at_step. Returns the exit code and what it wrote to stderr."""
    p = subprocess.Popen([DEQ, "train", RECIPE, "--data", data, "--out", out] + args, stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, env=clean_env())
    until = time.monotonic() + 60 * SLOW
    log = os.path.join(out, "train.jsonl")
    while p.poll() is None and time.monotonic() < until:
        try:
            with open(log) as f:
                if '"step": %d,' % at_step in f.read():
                    break
        except OSError:
            pass
        time.sleep(0.001)
    if p.poll() is None:
        p.send_signal(sig)
    err = p.communicate(timeout=60 * SLOW)[1].decode()
    return p.returncode, err


def test_train_tiny():
    """models/recipes/tiny.yaml on one text file: plain lines without a terminal, no number that is not one, the result
    and what to do next."""
    with tempfile.TemporaryDirectory() as tmp:
        out, text = os.path.join(tmp, "tom's tiny"), os.path.join(tmp, "any text.txt")
        with open(os.path.join(DATA, "sample.txt"), "rb") as f, open(text, "wb") as g:
            g.write(f.read(8000))
        few = ["--set", "train.steps=12", "--set", "train.shallow_steps=6", "--set", "predictor.steps=2"]
        code, _, err = train(out, *few, data=text, recipe=os.path.join(ROOT, "models", "recipes", "tiny.yaml"))
        lines = err.split("\n")
        check(code == 0 and "\r" not in err and
              any(x.startswith("step 10/12 ") and " valid - bits/byte" in x for x in lines),
              "plain lines: %d %s" % (code, err))
        said = re.search(r"tiny: \d\.\d\d\d bits a byte of validation text, after 0:\d\d:\d\d\. Next:\n    (.*)\n"
                         r"    (.*)\n$", err)
        equal([shlex.split(c) for c in said.groups()] if said else err,
              [[DEQ, "generate", out, "The", "--max-tokens", "100", "--temperature", "0.7"],
               [DEQ + "d", "--model", out]], "the result, and commands that a shell reads so")
        said = re.search(r"\nnot tuned, its settings are the recipe's: \d+ tokens are too few to compare settings by: "
                         r"at least 513 are needed\. Later: (.*)\n", err)
        equal(shlex.split(said[1]) if said else err, [DEQ, "tune", out, "TEXT_FILE"], "a text too short to tune by")
        with open(os.path.join(out, "train.jsonl")) as f:
            check("nan" not in err and not re.search(r"\b(nan|inf)\b", f.read()), "no nan")
        equal(run([DEQ, "generate", out, "The", "--max-tokens", "3"])[0], 0, "it is a model")
        both = subprocess.run([DEQ, "generate", out, "The", "--max-tokens", "3", "--ignore-eos"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60 * SLOW).stdout
        check(b"\n3 tokens (" in both, "text and statistics in one file: a line each: %s" % both)
        code, _, err = train(os.path.join(tmp, "other"), *few, "--set", "data.train=" + text, data=tmp + "/nowhere",
                             recipe=os.path.join(ROOT, "models", "recipes", "tiny.yaml"))
        equal(code, 0, "the same file by --set data.train: " + err[-200:])
        code, _, err = train(os.path.join(tmp, "none"), recipe=os.path.join(ROOT, "models", "recipes", "tiny.yaml"))
        check(code == 1 and "data.train: missing" in err and "--data FILE" in err, "no text: %s" % err)
        code, _, err = train(os.path.join(tmp, "none"), data=tmp + "/READMEE.md",
                             recipe=os.path.join(ROOT, "models", "recipes", "tiny.yaml"))
        check(code == 1 and "--data: no file or directory" in err and "READMEE.md" in err,
              "a text that is not there: %s" % err)
        code, _, err = train(os.path.join(tmp, "none"), "--set", "train.stepss=3", data=text,
                             recipe=os.path.join(ROOT, "models", "recipes", "tiny.yaml"))
        check(code == 2 and "--set: unknown key train.stepss (did you mean train.steps?)" in err,
              "a misspelt key: %s" % err)


def test_train_attractor():
    """models/recipes/attractor-tiny.yaml: layers before the loop make a proposal. The trained model is tuned in pieces
    as long as the positions it has, scored after any number of evaluations, and writes."""
    recipe = os.path.join(ROOT, "models", "recipes", "attractor-tiny.yaml")
    with tempfile.TemporaryDirectory() as tmp:
        text, out = os.path.join(tmp, "text.txt"), os.path.join(tmp, "m")
        with open(text, "w", encoding="utf-8") as f:
            f.write(part_of_sample(9000))
        few = ["--set", "train.steps=24", "--set", "train.warmup=4", "--set", "train.log_every=1", "--set",
               "data.vocab_size=300", "--set", "tune.text=" + text, "--set", "tune.tokens=1024", "--set",
               "tune.loss_budget=5", "--set", "tune.seconds=1", "--threads", "1"]
        code, _, err = train(out, *few, data=text, recipe=recipe)
        check(code == 0 and "\ntuning: " in err and "not tuned" not in err, "trained and tuned: %d %s" % (code, err))
        with open(os.path.join(out, "train.jsonl")) as f:
            steps = [e for e in map(json.loads, f) if e["event"] == "step"]
        equal({e["evaluations"] for e in steps}, {1, 2, 3, 4}, "evaluations drawn, and the recorded one")
        check(steps[-1]["loss"] < 0.9 * steps[0]["loss"], "it learns: %s" % [e["loss"] for e in steps])
        with open(os.path.join(out, "config.json")) as f:
            config = json.load(f)
        equal((config["model_type"], config["injection"], config["deq"]["warm_start"]),
              ("deq_looped", "proposal", "proposal"), "its kind")
        code, table, err = run([DEQ, "eval", out, text, "--limit", "200", "--evaluations", "0,1,4", "--json"])
        equal(code, 0, "deq eval: " + err)
        losses = [b["nll_per_token"] for b in json.loads(table)["budgets"]]
        check(max(losses) < math.log(300), "better than chance after any number of evaluations: %s" % losses)
        code, said, err = run([DEQ, "generate", out, "The", "--max-tokens", "8", "--ignore-eos", "--json"])
        check(code == 0 and said, "it writes: %d %s" % (code, err))
        with open(os.path.join(out, "config.json"), "w") as f:
            json.dump(dict(config, max_position_embeddings=48), f)
        code, _, err = run([DEQ, "tune", out, text])
        check(code == 1 and "of 48 positions a text has at most there is not room for the 64 that" in err,
              "too few positions: %d %s" % (code, err))


def test_train_tunes():
    """A run ends by tuning its model, by a text that the recipe names or the validation text; one that is cut there has
    left a whole model with the recipe's settings, and resumed it gives the same weights and tunes them."""
    recipe = os.path.join(ROOT, "models", "recipes", "tiny.yaml")
    with tempfile.TemporaryDirectory() as tmp:
        text = os.path.join(tmp, "text.txt")
        with open(text, "w", encoding="utf-8") as f:
            f.write(part_of_sample(9000))
        with open(os.path.join(tmp, "other.txt"), "w", encoding="utf-8") as f:
            f.write(part_of_sample(3000, 9000))
        # a budget that little text allows as well
        few = ["--set", "train.steps=4", "--set", "train.shallow_steps=2", "--set", "predictor.steps=2", "--set",
               "model.hidden_size=32", "--set", "model.inner_size=32", "--set", "tune.text=" + tmp + "/other.txt",
               "--set", "tune.tokens=1024", "--set", "tune.loss_budget=1", "--set", "tune.seconds=2",
               "--threads", "1"]
        out = os.path.join(tmp, "m")

        def settings():
            with open(os.path.join(out, "config.json")) as f:
                return json.load(f)["deq"]

        def events():
            with open(os.path.join(out, "train.jsonl")) as f:
                return [e for e in map(json.loads, f) if e["event"] == "tune"]

        p = subprocess.Popen([DEQ, "train", recipe, "--data", text, "--out", out] + few, stdout=subprocess.DEVNULL,
                             stderr=subprocess.PIPE, env=clean_env(), text=True)
        err = ""
        for line in p.stderr:
            err += line
            if line.startswith("tuning: "):
                p.send_signal(signal.SIGINT)
                break
        err += p.communicate(timeout=60 * SLOW)[1]
        check(p.returncode == 0 and "not tuned, its settings are the recipe's: tuning was stopped" in err,
              "stopped: %d %s" % (p.returncode, err))
        equal((settings()["tol"], settings()["window"], events()), (0.01, 8, []), "the recipe's settings")
        want = weights(out)
        code, _, err = train(out, *few, "--resume", data=text, recipe=recipe)
        check(code == 0 and "\nchosen: " in err, "resumed: %d %s" % (code, err))
        equal(weights(out) == want, True, "the same weights")
        tuned, said = settings(), events()
        equal([{k: e[k] for k in ("solver", "tol", "numeric_class", "window", "prefill_window")} for e in said],
              [{k: tuned[k] for k in ("solver", "tol", "numeric_class", "window", "prefill_window")}], "log and config")
        check(tuned["presets"]["fast"] >= tuned["tol"] >= tuned["presets"]["exact"], "settings: %s" % tuned)
        code, _, err = train(os.path.join(tmp, "n"), *few, "--set", "tune.loss_budget=0", data=text, recipe=recipe)
        check(code == 0 and "tun" not in err.replace("deq tune", ""), "skipped: %d %s" % (code, err))
        code, _, err = train(os.path.join(tmp, "no"), *few, "--set", "tune.text=none.txt", data=text, recipe=recipe)
        check(code == 1 and "tune.text: " in err and "none.txt" in err and not os.path.exists(os.path.join(tmp, "no")),
              "a text that is not there: %s" % err)


def test_train_explicit():
    """An untied network is served as it was trained. A run that diverges ends with code 1, and what was saved stays."""
    with tempfile.TemporaryDirectory() as tmp:
        text, out = os.path.join(tmp, "text.txt"), os.path.join(tmp, "m")
        with open(os.path.join(DATA, "sample.txt"), "rb") as f, open(text, "wb") as g:
            g.write(f.read(4000))
        with open(os.path.join(tmp, "v.txt"), "w") as f:
            f.write("the model and the text of the file\n")
        few = ["--f32", "--set", "train.grad=explicit", "--set", "solver.max_iter=1", "--set", "model.blocks=3",
               "--set", "train.warmup=1", "--set", "train.seq_len=16", "--set", "data.valid=" + tmp + "/v.txt"]
        tiny = os.path.join(ROOT, "models", "recipes", "tiny.yaml")
        code, _, err = train(out, *few, "--set", "train.steps=4", data=text, recipe=tiny)
        equal(code, 0, "an untied network: " + err)
        with open(os.path.join(out, "train.jsonl")) as f:
            lines = [json.loads(x) for x in f]
        o = json.loads(run([DEQ, "inspect", out, "--json"])[1])
        equal({k: lines[0][k] for k in ("event", "grad", "depth", "recompute_every", "parameters",
                                        "non_embedding_parameters", "predictor_parameters")},
              {"event": "start", "grad": "explicit", "depth": 1, "recompute_every": 0, "parameters": o["parameters"],
               "non_embedding_parameters": o["non_embedding_parameters"], "predictor_parameters": 0}, "the first line")
        equal([o["deq"][k] for k in ("solver", "tol", "max_iter", "window", "warm_start")], ["picard", 0, 1, 1, "zero"],
              "how it is served")
        valid = [x for x in lines if x["event"] == "valid"][-1]
        pieces = len(json.loads(run([DEQ, "tokenizer", "encode", out, tmp + "/v.txt", "--json"])[1])["tokens"]) // 16
        equal(pieces, 1, "one piece, so that validation and a stream read the same")
        e = json.loads(run([DEQ, "eval", out, tmp + "/v.txt", "--limit", "17", "--json"])[1])
        check(abs(e["nll_per_token"] - valid["nll_per_token"]) < 2e-5,  # five digits in the log
              "served as it was trained: %r, %r" % (e, valid))
        path = os.path.join(out, "checkpoint.safetensors")
        with open(path, "rb") as f:
            saved = bytearray(f.read())
        n = int.from_bytes(saved[:8], "little")
        begin, end = json.loads(saved[8:8 + n])["blocks.0.inject.weight"]["data_offsets"]
        saved[8 + n + begin:8 + n + end] = struct.pack("<f", 1e38) * ((end - begin) // 4)
        with open(path, "wb") as f:
            f.write(saved)
        code, _, err = train(out, *few, "--set", "train.steps=60", "--resume", data=text, recipe=tiny)
        check(code == 1 and "step 24: 20 steps in a row" in err and
              "last good checkpoint is %s, of step 4" % path in err, "it diverges: %d %s" % (code, err))
        with open(path, "rb") as f:
            equal(f.read() == saved, True, "the checkpoint stays")


def test_train_resume_is_exact():
    """A run that was stopped and went on gives the weights of one that was not, bit for bit; so do 1 and 2 threads."""
    steps = 80  # enough that the signals come before the end
    args = ["--set", "train.steps=%d" % steps, "--set", "train.shallow_steps=%d" % (steps // 4), "--set",
            "train.warmup=5", "--set", "train.log_every=1", "--set", "predictor.steps=6", "--set",
            "predictor.hidden_size=16", "--f32"]
    with tempfile.TemporaryDirectory() as tmp:
        data = os.path.join(tmp, "data")  # the head of the sample: tokenized and validated in no time
        os.mkdir(data)
        with open(os.path.join(DATA, "sample.txt"), "rb") as f, open(os.path.join(data, "sample.txt"), "wb") as g:
            g.write(f.read(16000))
        straight = os.path.join(tmp, "straight")
        code, _, err = train(straight, *args, "--threads", "2", data=data)
        equal(code, 0, "a run of %d steps: %s" % (steps, err[-300:]))
        want = weights(straight)
        with open(os.path.join(straight, "train.jsonl")) as f:
            lines = [json.loads(x) for x in f]
        steps_of = [x for x in lines if x["event"] == "step"]
        equal([x["step"] for x in steps_of], list(range(1, steps + 1)), "the log has every step")
        check("data.valid: sample.txt shares 1 of its 1 documents with the training text, the first at line 1: " in err,
              "validation by a text that was trained on is named: %s" % err[:600])
        check(any(x["event"] == "valid" for x in lines) and steps_of[0]["loss"] > steps_of[-1]["loss"],
              "it learns: %r to %r" % (steps_of[0]["loss"], steps_of[-1]["loss"]))
        code, out, err = run([DEQ, "inspect", straight, "--json"])
        equal((code, json.loads(out or "{}").get("deq", {}).get("predictor")), (0, True),
              "what it wrote is a model: " + err)
        one = os.path.join(tmp, "one")
        equal(train(one, *args, "--threads", "1", data=data)[0], 0, "one thread")
        equal(weights(one) == want, True, "1 and 2 threads: identical model.safetensors")
        for name, sig, more in (("SIGTERM", signal.SIGTERM, []), ("SIGINT", signal.SIGINT, []),
                                ("SIGKILL", signal.SIGKILL, ["--set", "train.checkpoint_every=7"])):
            for step in (steps // 5, steps // 2, 1) if name == "SIGTERM" else (steps // 3,):
                out = os.path.join(tmp, name + str(step))
                code, err = stopped(out, args + more, step, sig, data)
                if os.path.exists(os.path.join(out, "model.safetensors")):
                    skip("%s at step %d came after the end" % (name, step))
                    continue
                equal(code, 0 if sig != signal.SIGKILL else -signal.SIGKILL, "%s at step %d: exit code" % (name, step))
                if sig != signal.SIGKILL:
                    check("--resume goes on" in err, "it says how to go on: %r" % err[-200:])
                elif not os.path.exists(os.path.join(out, "checkpoint.safetensors")):
                    check(False, "SIGKILL after step %d with a checkpoint every 7 steps: there is one" % step)
                    continue
                left = [x for x in os.listdir(out) if x not in ("checkpoint.safetensors", "train.jsonl",
                                                                "tokenizer.json", "tokenizer_config.json")]
                check(sig == signal.SIGKILL or not left,
                      "only the checkpoint, the log and the tokenizer are there: %s" % left)
                code, _, err = train(out, *args, *more, data=data)
                check(code == 1 and "--resume" in err,
                      "without --resume it does not overwrite: %d %r" % (code, err[-200:]))
                code, _, err = train(out, *args, *more, "--resume", "--threads", "1", data=data)
                equal(code, 0, "resume: " + err[-300:])
                equal(weights(out) == want, True,
                      "%s at step %d, then --resume: identical model.safetensors" % (name, step))
        # while the predictor is fitted: as everywhere else
        out, few = os.path.join(tmp, "tom's own"), ["--set", "train.steps=10", "--set", "train.shallow_steps=2"]
        code, err = stopped(out, args + few + ["--set", "predictor.steps=100000"], 20, signal.SIGINT, data)
        said = re.search(r"^stopped; (.*) goes on$", err, re.M)
        words = shlex.split(said[1]) if said else []
        check(code == 0 and words[:2] == [DEQ, "train"] and {data, out, "predictor.steps=100000"} <= set(words) and
              words[-1] == "--resume" and not os.path.exists(os.path.join(out, "model.safetensors")),
              "stopped while the predictor is fitted: %d %r" % (code, err[-300:]))
        code, _, err = train(out, *args, *few, "--resume", data=data)
        check(code == 0 and os.path.exists(os.path.join(out, "model.safetensors")), "and resumed: %s" % err[-300:])
        # resuming a finished run changes nothing
        equal(train(straight, *args, "--resume", data=data)[0], 0, "resume of a finished run")
        equal(weights(straight) == want, True, "resume of a finished run: identical model.safetensors")
        # a damaged checkpoint is refused
        ck = os.path.join(straight, "checkpoint.safetensors")
        os.truncate(ck, os.path.getsize(ck) // 2)
        code, _, err = train(straight, *args, "--resume", data=data)
        check(code == 1 and "checkpoint.safetensors" in err.strip().split("\n")[-1],
              "a cut checkpoint: %d %r" % (code, err[-300:]))
        equal(weights(straight) == want, True, "and the model is untouched")
        # --init
        code, _, err = train(os.path.join(tmp, "init"), *args[:-1], "--init", one, "--set", "train.lr=0", "--set",
                             "train.muon_lr=0", data=data)
        check(code in (0, 1), "--init ends: %s" % err[-200:])


def test_failed_write_of_a_checkpoint():
    """A checkpoint that cannot be written ends the run with a clear message; the one before stays whole. Twice: with a
    limit on the size of files, and on a file system that is really full."""
    def attempt(out, what, **kw):
        code, _, err = train(out, *SHORT, **{k: v for k, v in kw.items() if k != "then"})
        return code, err

    with tempfile.TemporaryDirectory() as tmp:
        out = os.path.join(tmp, "m")
        code, err = stopped(out, ["--set", "train.steps=300", "--set", "train.log_every=1", "--set",
                                  "train.checkpoint_every=5"], 12, signal.SIGTERM)
        ck = os.path.join(out, "checkpoint.safetensors")
        check(code == 0 and os.path.exists(ck), "a checkpoint: %d %r" % (code, err[-200:]))
        with open(ck, "rb") as f:
            before = f.read()

        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200000, 200000))

        args = ["--set", "train.steps=300", "--set", "train.log_every=1", "--set", "train.checkpoint_every=5",
                "--resume"]
        p = subprocess.run([DEQ, "train", RECIPE, "--data", DATA, "--out", out] + args, env=clean_env(),
                           capture_output=True, timeout=60 * SLOW, preexec_fn=limit, restore_signals=False)
        last = p.stderr.decode().strip().split("\n")[-1]
        check(p.returncode == 1 and last.startswith("deq train: ") and "checkpoint.safetensors" in last and
              "File too large" in last, "file size limit: %d %r" % (p.returncode, last))
        with open(ck, "rb") as f:
            equal(f.read() == before, True, "the last checkpoint is intact")
        equal(sorted(os.listdir(out)),
              ["checkpoint.safetensors", "tokenizer.json", "tokenizer_config.json", "train.jsonl"],
              "no rest of the failed one is left")

        mount = os.path.join(tmp, "small")
        os.mkdir(mount)
        # a checkpoint takes 417 KB, so the second one, written beside it, does not fit
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "none", mount],
                                               capture_output=True).returncode:
            skip("a full disk needs the right to mount a tmpfs")
            return
        try:
            small = os.path.join(mount, "m")
            shutil.copytree(out, small)
            os.unlink(os.path.join(small, "train.jsonl"))
            p = subprocess.run([DEQ, "train", RECIPE, "--data", DATA, "--out", small] + args, env=clean_env(),
                               capture_output=True, timeout=60 * SLOW)
            last = p.stderr.decode().strip().split("\n")[-1]
            check(p.returncode == 1 and last.startswith("deq train: ") and "checkpoint.safetensors" in last and
                  "No space left" in last, "full disk: %d %r" % (p.returncode, last))
            with open(os.path.join(small, "checkpoint.safetensors"), "rb") as f:
                equal(f.read() == before, True, "full disk: the last checkpoint is intact")
            check(not [x for x in os.listdir(small) if "tmp" in x or x.endswith("~")],
                  "full disk: no rest: %s" % os.listdir(small))
        finally:
            subprocess.run(["umount", mount], capture_output=True)
