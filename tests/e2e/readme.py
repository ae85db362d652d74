#!/usr/bin/env python3
"""Runs the commands of README.md, of the rooms' READMEs and of CONTRIBUTING.md as they stand there: the set-up lines
are CI's business, `make` targets are this suite's callers and must exist, everything else runs here. Training runs with
small text and few steps. Closes with one line of totals. The front page's examples are front.py's; --write renews what
it shows of them, and does nothing else."""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import front

# in the order in which a reader comes to them; core/python/README.md is tests/python's
CHAPTERS = ("models/cli/README.md", "models/README.md", "models/FORMAT.md", "models/recipes/README.md",
            "server/README.md", "core/README.md", "core/import/README.md", "etc/README.md", "docker/README.md",
            "tests/bench/README.md")
HERE, KEYED = "127.0.0.1:8080", "127.0.0.1:8081"
passed = failed = skipped = 0


def check(ok, what):
    global passed, failed
    if ok:
        passed += 1
    else:
        failed += 1
        print("failed:", what)


def commands_of(path):
    """The indented lines outside of fences, each with those behind it that are indented further; what they and the text
    in backticks say to make stands in the Makefile, with its help."""
    text = re.sub(r"^```.*?^```$", "", open(path).read(), flags=re.M | re.S)
    lines = [re.sub(r"\\\n *", "", c) for c in re.findall(front.COMMAND, text, re.M)]
    targets = set(re.findall(r"^([a-z0-9-]+):.*## ", open("Makefile").read(), re.M))
    said = [t for l in lines if l.startswith("make ") for t in re.findall(r"^make ([a-z0-9-]+)(?= |$)", l)]
    said += re.findall(r"`make ([a-z0-9-]+)(?=[ `])[^`]*`", text)
    check(not set(said) - targets, f"{path}: make {sorted(set(said) - targets)}: not in make help")
    return lines


def contributors():
    """Their commands are quick parts of the suite."""
    commands = [c for path in ("tests/README.md", ".github/CONTRIBUTING.md") for c in commands_of(path)]
    for c in dict.fromkeys(c for c in commands if not c.startswith("make")):
        print("readme:", c, flush=True)
        r = subprocess.run(c, shell=True, capture_output=True, text=True, timeout=600)
        check(r.returncode == 0, f"{c}: status {r.returncode}\n{r.stdout[-400:]}{r.stderr[-400:]}")


def main():
    global skipped
    # python3 in a command is the one that runs this, which has pytest
    os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--write", action="store_true", help="put into README.md what its examples print today")
    if flags.parse_args().write:
        front.examples(check, write=True)
        front.picture(check, write=True)
        front.figures(check, write=True)
        sys.exit(failed != 0)
    commands_of(front.PAGE)
    front.examples(check, write=False)
    front.picture(check, write=False)
    front.figures(check, write=False)
    lines = [line for chapter in CHAPTERS for line in commands_of(chapter)]
    commands = [l for l in lines if not l.startswith("make")]
    check(len(commands) >= 15, f"{len(commands)} commands found")
    work = tempfile.mkdtemp()
    text = open("tests/golden/tokenizer/sample.txt").read()
    for name in ("train.txt", "train-recased.txt", "valid.txt", "fairytales.txt", "children-fiction.txt"):
        open(f"{work}/{name}", "w").write(text[:60000])
    case = "tests/golden/authors/locuslab-postln-adaptive"
    open(f"{work}/vocab.txt", "w").write("".join(f"{w}\n" for w in ["<eos>", "<unk>"] + [f"w{i}" for i in range(158)]))
    open(f"{work}/wiki.test.tokens", "w").write(" w1 w2 w7 <unk> w90 \n" * 400)
    theirs = {" checkpoint.pth": f" {case}/checkpoint.pth", " config.json": f" {case}/config.json",
              " golden.safetensors": f" {case}/golden.safetensors", " models/mine": f" {work}/mine",
              " models/tiny": f" {work}/tiny", " wiki.test.tokens": f" {work}/wiki.test.tokens",
              "--vocab vocab.txt": f"--vocab {work}/vocab.txt", " words train.txt": f" words {work}/train.txt",
              "--out tokenizer.json": f"--out {work}/tokenizer.json",
              "--vocab-out vocab.txt": f"--vocab-out {work}/counted.txt"}
    # few steps: how well it learns is the user's affair
    small = (" --set train.steps=2 --set train.shallow_steps=1 --set data.vocab_size=300 --set train.seq_len=32"
             " --set train.batch=2 --set train.micro_batch=1 --set predictor.steps=1 --set model.hidden_size=32"
             " --set tune.loss_budget=0")
    smaller = {"trellis.yaml": " --set model.state_size=32"}  # of the kind's own sizes; a transformer's else
    daemon = keyed = served = mine = None
    shown = re.findall(r"```text\n(.*?)```", open("models/README.md").read(), re.S)
    contributors()
    try:
        for c in commands:
            if c.startswith("build/deqd --config"):
                check(HERE in c, f"{c}: {HERE}")
                run = c.replace(HERE, "127.0.0.1:0").replace("=build/states", f"={work}/states")
                daemon = subprocess.Popen(run.split(), stderr=subprocess.PIPE, text=True)
                line = daemon.stderr.readline()
                check('"listening"' in line, f"{c}: {line}")
                there = json.loads(line)["address"]  # what the README calls HERE may be taken on this machine
        for c in commands:
            if c.startswith("build/deqd --config"):
                continue
            if c.startswith(("systemctl", "journalctl")):
                skipped += 1
                print("skipped: concerns this machine's own services (tests/e2e/supervise.py runs the units in "
                      "namespaces of their own):", c)
                continue
            if c.startswith("apt-get"):
                skipped += 1
                print("skipped: installs on this machine (make test-deb does it in a root of its own):", c)
                continue
            if c.startswith("curl") and not shutil.which("curl"):
                skipped += 1
                print("skipped: curl is not installed:", c)
                continue
            print("readme:", c[:110], flush=True)
            if served and not c.startswith("curl"):  # the ones behind a daemon are asked of it
                served.send_signal(signal.SIGINT)
                check(served.wait(timeout=60) == 0, "the exit code of a daemon for one model")
                served = None
            run = c.replace(HERE, mine if served else there).replace("build/keys", f"{work}/keys")
            if c.startswith("build/deqd") and KEYED in c:
                keyed = subprocess.Popen(run.replace(KEYED, "127.0.0.1:0").split(), stderr=subprocess.PIPE, text=True)
                line = keyed.stderr.readline()
                check('"listening"' in line, f"{c}: {line}")
                with_keys = json.loads(line)["address"]
                continue
            if KEYED in c:
                check("-H 'Authorization: Bearer " in c, f"{c}: a key")
                run = run.replace(KEYED, with_keys)
            run = run.replace("--out build/stories", f"--out {work}/out")
            run = run.replace("--out build/trellis", f"--out {work}/trellis")
            run = run.replace("--out build/attractor", f"--out {work}/attractor")
            run = run.replace("--out build/tales", f"--out {work}/tales")
            run = run.replace("--data DIR", f"--data {work}")
            run = re.sub(r" -o (logits.f32|ball.safetensors)", rf" -o {work}/\1", run)
            run = run.replace(" -T ball", f" -T {work}/ball")
            for name, path in theirs.items():
                run = run.replace(name, path)
            if c in ("build/deqd --model models/mine", "build/deqd --model models/tiny"):
                served = subprocess.Popen(run.split() + ["--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
                line = served.stderr.readline()
                check('"listening"' in line, f"{c}: {line}")
                mine = json.loads(line)["address"]
                continue
            if run.startswith("build/deq train"):
                kinds = [more for recipe, more in smaller.items() if recipe in run]
                run += small + (kinds[0] if kinds else " --set model.inner_size=32")
            probe = {"DEQD_SERVER_LISTEN": there} if c.endswith("--health-probe") else {}
            r = subprocess.run(run, shell=True, capture_output=True, text=True, timeout=600,
                               env={**os.environ, **probe})
            check(r.returncode == 0 and not r.stdout.startswith('{"error"'),
                  f"{c}: status {r.returncode}\n{r.stdout[-400:]}{r.stderr[-400:]}")
            if c.startswith(("build/deq import checkpoint.pth", "build/deq check models/mine ")):
                printed = (r.stderr + r.stdout).replace(f"{work}/mine", "models/mine")
                check(any(front.agree(block, printed) for block in shown), f"{c}: not shown as it prints: {printed}")
            if "/v1/completions" in c and "stream" not in c:
                check(json.loads(r.stdout)["choices"][0]["text"], c)
            if "deq.trace" in c:
                trace = json.loads(r.stdout)["choices"][0]["deq"]["trace"]
                check(trace["tokens"] and {x["why"] for x in trace["dropped"]} <= {"guess", "end", "not_finite"} and
                      "guess" in {x["why"] for x in trace["dropped"]}, f"{c}: {trace}")
            if "/v1/responses" in c and '"stream": true' in c:
                check("event: response.completed" in r.stdout or "event: response.incomplete" in r.stdout,
                      f"{c}: events to the last: {r.stdout[-200:]}")
        check(os.path.getsize(f"{work}/logits.f32") % (4 * 4096) == 0, "logits.f32")
    finally:
        if daemon:
            daemon.send_signal(signal.SIGINT)  # SIGTERM would wait for a load balancer first
            check(daemon.wait(timeout=60) == 0, "the daemon's exit code")
        if served:
            served.kill()
            served.wait()
        if keyed:
            keyed.send_signal(signal.SIGINT)
            check(keyed.wait(timeout=60) == 0, "the exit code of the daemon with keys")
        shutil.rmtree(work)
    print(f"{passed} passed, {failed} failed, {skipped} skipped (READMEs)")
    sys.exit(failed != 0)


main()
