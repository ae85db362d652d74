"""deq at work on a plan: tokenizer, recipes, runs that go on where they stopped, test texts, steps whose memory is
measured. Everything is kept below one directory:

    data/*.txt  tokenizer.json  lock
    runs/NAME/recipe.yaml, deq.log, result.json (once it is finished), out/ (the model directory)
    probes/NAME/..."""
import collections
import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import plan
import texts

HERE = os.path.dirname(os.path.abspath(__file__))
# Streams that a test text is read in: part of the number, not of the machine.
STREAMS = 8
LOOK_S = 2
# How often a line is told where there is no terminal to overwrite one in.
PLAIN_LINE_S = 60


# What a command took: of all its threads; the most that was resident.
Used = collections.namedtuple("Used", "cpu_seconds resident_bytes")


def resident_bytes(pid):
    """The most that was resident so far; 0 once it has ended. (getrusage of a child begins with what this program had
    when it started it.)"""
    with contextlib.suppress(OSError), open("/proc/%d/status" % pid, encoding="utf-8") as f:
        return max((1024 * int(line.split()[1]) for line in f if line.startswith("VmHWM:")), default=0)
    return 0


class Stopped(Exception):
    """Asked to stop by a signal."""


class Failed(Exception):
    """deq failed, in its own words."""


def read_json_lines(path):
    """The events of a log; a line that is being written is left out."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.endswith("\n")]
    return []


def replace(path, text):
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        f.write(text)
    os.replace(path + ".tmp", path)


def clock(seconds):
    minutes = int(seconds) // 60
    return "%d:%02d h" % (minutes // 60, minutes % 60) if minutes >= 60 else "%d:%02d min" % (minutes, seconds % 60)


class Show:
    """One line of progress: overwritten on a terminal, else told now and then."""

    def __init__(self):
        self.tty, self.told, self.open = sys.stderr.isatty(), 0.0, False

    def progress(self, text):
        if self.tty:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\033[K" + text[:width])
            sys.stderr.flush()
            self.open = True
        elif time.monotonic() - self.told >= PLAIN_LINE_S:
            self.told = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def line(self, text):
        if self.open:
            sys.stderr.write("\r\033[K")
            self.open = False
        print(text, file=sys.stderr, flush=True)


class Work:
    def __init__(self, directory, deq, threads):
        self.dir, self.deq, self.threads = os.path.abspath(directory), deq, threads
        self.show, self.stop, self.child = Show(), False, None
        os.makedirs(self.dir, exist_ok=True)
        # deq holds it too: whatever becomes of this program, nobody else begins while one is at work
        self.lock = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT, 0o644)
        os.set_inheritable(self.lock, True)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise Failed("%s is at work for another `make claims`" % self.dir) from e
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, self._on_signal)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def _on_signal(self, *_):
        self.stop = True
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, signal.SIGTERM)

    def begin_anew(self):
        """Forgets what was done."""
        for name in ("runs", "probes", "data"):
            shutil.rmtree(self.path(name), ignore_errors=True)
        for name in ("tokenizer.json", "memory.json"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path(name))

    # --- deq ---

    def run(self, args, log, look=None, stdout=subprocess.DEVNULL):
        """deq to its end: what it took. look() is called every LOOK_S seconds."""
        if self.stop:
            raise Stopped
        with open(log, "a", encoding="utf-8") as err:
            begin = err.tell()
            # in a session of its own, so that Ctrl-C comes to this program alone, which passes it on
            p = subprocess.Popen([self.deq, *args], stdin=subprocess.DEVNULL, stdout=stdout, stderr=err,
                                 start_new_session=True, pass_fds=(self.lock,))
            self.child = p.pid
            pid, looked, resident = 0, time.monotonic(), 0
            while not pid:
                time.sleep(0.02)
                resident = max(resident, resident_bytes(p.pid))
                pid, status, used = os.wait4(p.pid, os.WNOHANG)
                if look and not pid and time.monotonic() - looked >= LOOK_S:
                    look()
                    looked = time.monotonic()
            self.child = None
        p.returncode = os.waitstatus_to_exitcode(status)
        if self.stop:
            raise Stopped
        if p.returncode:
            with open(log, encoding="utf-8", errors="replace") as f:
                f.seek(begin)
                said = f.read().strip().split("\n")[-1]
            raise Failed("%s (exit code %d, %s)" % (said or "deq %s failed" % args[0], p.returncode, log))
        return Used(used.ru_utime + used.ru_stime, resident)

    def ask(self, args, log):
        """What it took, and its standard output."""
        answer = log + ".out"
        with open(answer, "w+b") as f:
            used = self.run(args, log, stdout=f)
            f.seek(0)
            return used, f.read().decode()

    # --- What all runs share ---

    def prepare(self, found, vocab_size):
        """Lays out the texts and trains the tokenizer; sizes of the texts."""
        texts.lay_out(found, self.path("data"))
        tokenizer = self.path("tokenizer.json")
        if not os.path.exists(tokenizer):
            self.run(["tokenizer", "train", "--vocab-size", str(vocab_size), "--out", tokenizer,
                      self.path("data", "train.txt")], self.path("deq.log"))
        sizes = {}
        for split, text in found.items():
            _, said = self.ask(["tokenizer", "encode", tokenizer, "--file", self.path("data", split + ".txt"),
                                "--json"], self.path("deq.log"))
            sizes[split] = {"bytes": len(text.encode()), "words": texts.official_tokens(text),
                            "tokens": len(json.loads(said)["ids"])}
        return sizes

    def whole_recipe(self, kind, over, log):
        """The recipe with every default, as text."""
        sets = [word for key, value in over.items() for word in ("--set", "%s=%s" % (key, value))]
        return self.ask(["train", os.path.join(HERE, "recipes", kind + ".yaml"), *sets, "--print-recipe"], log)[1]

    def recipe_values(self, kind, over):
        """{"section.key": value as text}"""
        values, section = {}, ""
        for line in self.whole_recipe(kind, over, self.path("deq.log")).split("\n"):
            key, colon, value = line.partition("#")[0].strip().partition(":")
            if colon and not line.startswith(" "):
                section = key
            elif colon:
                values["%s.%s" % (section, key)] = value.strip()
        return values

    def recipe(self, directory, kind, over):
        """Writes recipe.yaml; what is there already must be the same."""
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, "recipe.yaml")
        text = self.whole_recipe(kind, over, os.path.join(directory, "deq.log"))
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                if f.read() != text:
                    raise Failed("%s is another recipe than it would be now: remove %s to run it anew"
                                 % (path, directory))
        else:
            replace(path, text)
        return path

    # --- Probes: a few steps on a little text ---

    def probe_text(self):
        """Of the training text as much as a step needs; returns its directory."""
        directory = self.path("probes", "data")
        os.makedirs(directory, exist_ok=True)
        with open(self.path("data", "train.txt"), encoding="utf-8") as f:
            text = f.read(1 << 16)
        for split, share in (("train", text), ("valid", text[:1 << 12])):
            replace(os.path.join(directory, split + ".txt"), share)
        return directory

    def probe(self, name, kind, over, tokenizer=True, threads=1):
        """Trains as the recipe says: (its log, largest resident bytes)."""
        directory = self.path("probes", name)
        shutil.rmtree(directory, ignore_errors=True)
        out = os.path.join(directory, "out")
        os.makedirs(out)
        if tokenizer:
            shutil.copy(self.path("tokenizer.json"), out)
        recipe = self.recipe(directory, kind, over)
        used = self.run(["train", recipe, "--data", self.probe_text(), "--out", out, "--threads", str(threads)],
                        os.path.join(directory, "deq.log"))
        events = read_json_lines(os.path.join(out, "train.jsonl"))
        shutil.rmtree(out)
        return events, used.resident_bytes

    def size(self, run):
        """The parameters of a run's model, without training it."""
        over = {**run.over, "train.steps": 1, "train.shallow_steps": 0, "train.batch": 1, "train.micro_batch": 1,
                "train.jac_every": 0, "train.eval_every": 0, "predictor.steps": 0}
        events, _ = self.probe("size-" + plan.model_name(run.model), run.model.kind, over)
        return {key: events[0][key] for key in ("parameters", "non_embedding_parameters")}

    def seconds_of(self, event):
        """When something of a log was: of one thread in CPU time, which others on the machine do not change."""
        return event["cpu_seconds" if self.threads == 1 else "seconds"]

    def speed(self, the_plan, model):
        """Tokens a second of training, of some steps."""
        over = {**the_plan.first(model).over, "train.steps": 8, "train.shallow_steps": 0, "train.warmup": 0,
                "train.eval_every": 0, "train.eval_tokens": 1, "train.log_every": 2}
        events, _ = self.probe("speed-" + plan.model_name(model), model.kind, over, threads=self.threads)
        steps = [e for e in events if e["event"] == "step"]
        return ((steps[-1]["tokens"] - steps[0]["tokens"])
                / (self.seconds_of(steps[-1]) - self.seconds_of(steps[0])))

    def memory(self, the_plan, kind, form, depth):
        """A step at that depth."""
        name = "memory-%s-%s-%d" % (kind, form, depth)
        events, resident = self.probe(name, kind, plan.memory_over(the_plan, kind, form, depth), tokenizer=False)
        return {"kind": kind, "form": form, "depth": depth, "activation_bytes": events[0]["activation_bytes"],
                "parameter_bytes": events[0]["parameter_bytes"], "resident_bytes": resident}

    # --- Runs ---

    def finished(self, run):
        """The result of a run that is finished, or None."""
        path = self.path("runs", plan.run_name(run), "result.json")
        if not os.path.exists(path):
            return None
        with open(path, encoding="utf-8") as f:
            return json.load(f)

    def train(self, run, look):
        """The result of a run, which begins, goes on, or was finished before. look(events) as it goes."""
        directory = self.path("runs", plan.run_name(run))
        recipe = self.recipe(directory, run.model.kind, run.over)
        result = self.finished(run)
        if result:
            return result
        out = os.path.join(directory, "out")
        log = os.path.join(out, "train.jsonl")
        os.makedirs(out, exist_ok=True)
        if not os.path.exists(os.path.join(out, "tokenizer.json")):
            shutil.copy(self.path("tokenizer.json"), out)
        resume = ["--resume"] if os.path.exists(os.path.join(out, "checkpoint.safetensors")) else []
        begun, diverged = time.monotonic(), None
        try:
            self.run(["train", recipe, "--data", self.path("data"), "--out", out, "--threads", str(self.threads),
                      "--f32", *resume], os.path.join(directory, "deq.log"),
                     lambda: look(read_json_lines(log), time.monotonic() - begun))
        except Failed as e:
            if "not finite" not in str(e):
                raise
            diverged = str(e)  # a rate that is too high is an outcome, not an accident
        result = summary(run, read_json_lines(log), diverged, self.seconds_of)
        replace(os.path.join(directory, "result.json"), json.dumps(result, indent=1) + "\n")
        return result

    def test(self, run, result):
        """Adds what deq eval says of the test text."""
        if result.get("test"):
            return result
        directory = self.path("runs", plan.run_name(run))
        length = self.recipe_values(run.model.kind, run.over)["train.seq_len"]
        used, said = self.ask(["eval", os.path.join(directory, "out"), self.path("data", "test.txt"), "--tgt-len",
                               length, "--mem-len", "0", "--streams", str(STREAMS), "--threads", str(self.threads),
                               "--json"], os.path.join(directory, "deq.log"))
        result["test"] = json.loads(said)
        if self.threads == 1:
            result["test"]["tokens_per_second"] = result["test"]["tokens"] / used.cpu_seconds
        replace(os.path.join(directory, "result.json"), json.dumps(result, indent=1) + "\n")
        return result


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else 0.0


def summary(run, events, diverged, seconds_of):
    """Of a log what the tables and plots need."""
    start = next(e for e in events if e["event"] == "start")
    steps = [e for e in events if e["event"] == "step"]
    # of a run that was stopped the lines behind its last checkpoint are there twice
    curve = {e["step"]: [e["step"], e["tokens"], seconds_of(e), e["nll_per_token"]]
             for e in events if e["event"] == "valid" and e["nll_per_token"] is not None}
    late = steps[len(steps) // 2:]
    return {
        "kind": run.model.kind, "form": run.model.form, "rate": run.rate, "seed": run.seed, "search": run.search,
        "diverged": diverged,
        "parameters": start["parameters"], "non_embedding_parameters": start["non_embedding_parameters"],
        "activation_bytes": start["activation_bytes"], "peak_bytes": max((e["peak_bytes"] for e in steps), default=0),
        "threads": start["threads"], "tokens": steps[-1]["tokens"] if steps else 0,
        "seconds": seconds_of(steps[-1]) if steps else 0.0,
        "evaluations": mean(e["evaluations"] for e in late),
        "adjoint_evaluations": mean(e["adjoint_evaluations"] for e in late),
        "curve": [curve[step] for step in sorted(curve)],
    }
