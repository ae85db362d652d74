#!/usr/bin/env python3
"""Mutation testing: python3 tests/tools/mutate.py BUILD COUNT SEED [MODULE...]

Changes one relation, constant, sign or branch of one source at a time, compiles that file alone, links the unit tests
with it and runs those of the module, the file's own first. What no test notices is compiled once more with ASan and
UBSan and run again, as make check does; a mutant that leaves other memory behind counts as caught for the same reason.
What is left shows what is not tested. Mutants come from the modules in turn and are drawn by SEED; one that compiles to
the same object as the source is no mutant, one of tests/tools/equivalent_mutants.txt is told apart. Exit code 1 when
less than 90 % of the others were caught, or when the list names a line that is gone.

make mutate does all of it: BUILD is a directory of objects that it filled, and the environment has the commands
(COMPILE, LINK) and what is linked (OBJECTS, LIBRARIES). VERBOSE=1: what caught each."""
import os
import random
import re
import resource
import shlex
import shutil
import subprocess
import sys
import threading
import time

MUST = 90  # percent
LIST = "tests/tools/equivalent_mutants.txt"

# Sources, and the unit tests that are theirs: the quickest first.
MODULES = {
    "request": (
        ["server/api/request.c", "server/api/request_completion.c", "server/api/request_completion_fields.c",
         "server/api/request_equilibria.c", "server/api/request_form.c", "server/api/request_messages.c",
         "server/api/request_solve.c", "server/api/request_state.c", "server/api/fields.c"],
        ["test_request.c", "test_request_completion.c", "test_request_completion_fields.c", "test_request_equilibria.c",
         "test_request_form.c", "test_request_messages.c", "test_request_solve.c", "test_request_state.c",
         "test_fields.c", "test_neutral.c", "test_completion.c", "test_ep_equilibria.c", "test_ep_logits.c",
         "test_ep_states.c", "test_ep_tokens.c"]),
    "safetensors": (
        ["core/data/safetensors.c", "core/data/safetensors_write.c"],
        ["test_safetensors.c", "test_safetensors_write.c", "test_weights.c"]),
    "scheduler": (
        ["server/work/sched.c", "server/work/fair.c", "server/work/admission.c", "server/work/engine_thread.c",
         "server/work/elastic.c", "server/work/depth.c", "server/work/flush.c"],
        ["test_fair.c", "test_elastic.c", "test_depth.c", "test_flush.c", "test_sched.c", "test_admission.c",
         "test_engine_thread.c"]),
    "sampler": (
        ["core/engine/sampler.c", "core/engine/allowed.c"],
        ["test_allowed.c", "test_sampler.c", "test_readout.c"]),
    "engine": (
        ["core/engine/engine.c", "core/engine/engine_open.c", "core/engine/fill.c", "core/engine/pages.c",
         "core/engine/readout.c", "core/engine/sequence.c", "core/engine/rules.c", "core/engine/check.c",
         "core/engine/prefix.c", "core/engine/blocks.c"],
        ["test_check.c", "test_pages.c", "test_engine_open.c", "test_prefix.c", "test_blocks.c", "test_fill.c",
         "test_rules.c", "test_readout.c", "test_sequence.c", "test_engine.c", "test_state.c"]),
    "stop strings": (["core/text/stream.c"], ["test_stream.c"]),
}

RELATIONS = {"<": ["<="], "<=": ["<"], ">": [">="], ">=": [">"], "==": ["!="], "!=": ["=="], "&&": ["||"], "||": ["&&"],
             "+": ["-"], "-": ["+"], "+=": ["-="], "-=": ["+="]}
TOKEN = re.compile(r"->|\+\+|--|<<=?|>>=?|\.\.\.|[-+*/%&|^=!<>]=|&&|\|\||\bif \(|0[xX][0-9a-fA-F]+[uUlL]*|"
                   r"\d+\.?\d*(?:[eE][-+]?\d+)?[uUlLf]*|[A-Za-z_]\w*|[-+<>!]")
DECLARES = re.compile(r"^\s*(static |const |unsigned )*(char|u?int\w*|struct \w+|float|double|size_t|bool)\b[^=]*$")


def blank(text):
    """The source with comments, strings, characters and preprocessor lines as blanks: every byte keeps its place."""
    pattern = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|^[ \t]*#(?:\\\n|[^\n])*"
    return re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S | re.M)


def closing(code, at):
    depth = 0
    for i in range(at, len(code)):
        depth += (code[i] == "(") - (code[i] == ")")
        if not depth:
            return i
    raise ValueError("a parenthesis stays open")


def line_of(code, at):
    begin = code.rfind("\n", 0, at) + 1
    return code[begin : code.find("\n", at)]


def binary(code, at):
    """Whether the + or - at `at` stands between two operands."""
    before = code[:at].rstrip()
    return before and (before[-1].isalnum() or before[-1] in "_)]") and not re.search(r"\breturn$", before)


ROW = re.compile(r"^\s*\{\s+, (OTHER|BOOL|INT|NUMBER)\b")


def sites(text):
    """All mutants of a source: (from, to, replacement). Constants of field tables are left out: tests/e2e/fields.py
    compares them with the openapi.json."""
    code, found = blank(text), []
    for m in TOKEN.finditer(code):
        word, at = m.group(), m.start()
        if word in RELATIONS and (word not in "+-" or binary(code, at)):
            found += [(at, m.end(), new) for new in RELATIONS[word]]
        elif word == "if (":
            end = closing(code, m.end() - 1)
            found.append((at, end + 1, "if (!" + text[m.end() - 1 : end + 1] + ")"))
        elif word == "!" and code[at + 1] not in "=":
            found.append((at, at + 1, ""))
        elif re.fullmatch(r"\d+[uUlL]*", word):
            sized = code[at - 1] == "[" and DECLARES.match(line_of(code, at)[: at - code.rfind("\n", 0, at) - 1])
            digits = re.match(r"\d+", word).group()
            if not sized and not ROW.match(line_of(code, at)) and not (digits[0] == "0" and len(digits) > 1):
                found.append((at, m.end(), str(int(digits) + 1) + word[len(digits) :]))
                if int(digits) > 1:
                    found.append((at, m.end(), str(int(digits) - 1) + word[len(digits) :]))
    return found


def one_line(text, begin, end):
    """The lines that hold a change, with single blanks."""
    return " ".join(text[text.rfind("\n", 0, begin) + 1 : (text + "\n").find("\n", end)].split())


def listed():
    """{(path, line as it is, line as mutated): reason}"""
    known, path = {}, None
    if not os.path.exists(LIST):
        return known
    for line in open(LIST, encoding="utf-8"):
        line = line.rstrip("\n")
        if line.startswith("- "):
            was = line[2:]
        elif line.startswith("+ "):
            new = line[2:]
        elif line.startswith("= "):
            known[(path, was, new)] = line[2:]
        elif line.endswith(".c"):
            path = line
    return known


SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


class Mutants:
    def __init__(self, build):
        self.build = build
        self.compile = shlex.split(os.environ["COMPILE"]) + ["-O1", "-g0", "-w"]
        self.link, self.objects, self.libraries = (shlex.split(os.environ[k]) for k in ("LINK", "OBJECTS", "LIBRARIES"))
        self.link += ["-Wl,-S"] + (["-fuse-ld=gold"] if shutil.which("ld.gold") else [])  # the link is most of the time
        self.dir = os.path.join(build, "mutants")
        os.makedirs(self.dir, exist_ok=True)
        self.plain, self.left, self.limits = {}, {}, {}

    def compiled(self, path, text, *options):
        """The object of a source's text, or None where it does not compile."""
        source, target = os.path.join(self.dir, os.path.basename(path)), os.path.join(self.dir, "mutant.o")
        with open(source, "w", encoding="utf-8") as f:
            f.write(text)
        done = subprocess.run(self.compile + [*options, "-c", source, "-o", target], capture_output=True)
        return open(target, "rb").read() if done.returncode == 0 else None

    def same(self, path, text, mutated):
        """None: does not compile; True: it is the same program."""
        if path not in self.plain:
            self.plain[path] = self.compiled(path, text)
            if self.plain[path] is None:
                sys.exit(f"{path} does not compile: {' '.join(self.compile)}")
        code = self.compiled(path, mutated)
        return None if code is None else code == self.plain[path]

    def linked(self, path, *options):
        """The unit tests with the object compiled last in the place of path's."""
        own = os.path.join(self.build, path[:-2] + ".o")
        mutant, program = os.path.join(self.dir, "mutant.o"), os.path.join(self.dir, "unit")
        objects = [mutant] + [o for o in self.objects if o != own]
        done = subprocess.run(self.link + [*options] + objects + self.libraries + ["-o", program], capture_output=True,
                              text=True)
        if done.returncode:
            sys.exit(f"{path}: the tests do not link:\n{done.stderr}")
        return program

    def run(self, program, tests, cpu_s, wall_s, sanitized=False):
        """(a test's first complaint, or how the tests ended, or None; bytes of memory that they left)"""
        def bounded():
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
            if not sanitized:  # ASan reserves what it will not use
                resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))

        run = subprocess.Popen([program] + tests, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", preexec_fn=bounded,
                               env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "DEQ_TIMES": "1",
                                                 "ASAN_OPTIONS": "detect_leaks=0"})
        watch = threading.Timer(wall_s, run.kill)
        watch.start()
        complaint = left = None
        for line in run.stdout:
            if ": failed: " in line:
                complaint = line.strip()
                run.kill()
                break
            if line.endswith("bytes of memory left\n"):
                left = line.strip()
        run.stdout.close()
        run.wait()
        watch.cancel()
        return complaint or (f"ends with {run.returncode}" if run.returncode else None), left

    def measure(self, name):
        """Runs a module's tests as they are: what they leave, and what they take, which bounds those of mutants."""
        first, tests = MODULES[name][0][0], MODULES[name][1]
        self.compiled(first, open(first, encoding="utf-8").read())
        program = self.linked(first)
        used, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        bad, self.left[name] = self.run(program, tests, 600, 3600)
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        self.limits[name] = int(5 + 5 * cpu_s), 60 + 10 * (time.monotonic() - begin)
        if bad:
            sys.exit(f"{name}: its tests fail as it is: {bad}")

    def caught(self, name, path, mutated):
        """What noticed the mutant, which was compiled last, or None."""
        program, own = self.linked(path), "test_" + os.path.basename(path)
        bad = own in MODULES[name][1] and self.run(program, [own], *self.limits[name])[0]
        if not bad:
            bad, left = self.run(program, MODULES[name][1], *self.limits[name])
            if not bad and left != self.left[name]:
                bad = f"{left}, not {self.left[name]}"
        if not bad and self.compiled(path, mutated, *SANITIZE):
            tests, (cpu_s, wall_s) = [own] if own in MODULES[name][1] else MODULES[name][1], self.limits[name]
            bad = self.run(self.linked(path, *SANITIZE), tests, 3 * cpu_s, 3 * wall_s, True)[0]
            bad = bad and "sanitized: " + bad
        return bad


def tell(path, text, change):
    begin, end, new = change
    mutated = text[:begin] + new + text[end:]
    was, now = one_line(text, begin, end), one_line(mutated, begin, begin + len(new))
    return mutated, text.count("\n", 0, begin) + 1, was, now


def main():
    build, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chosen = sys.argv[4:] or list(MODULES)
    rng, known, m = random.Random(seed), listed(), Mutants(build)
    texts = {p: open(p, encoding="utf-8").read() for name in MODULES for p in MODULES[name][0]}
    gone = [(p, was) for p, was, _ in known if was not in [one_line(texts[p], i.start(), i.start())
                                                            for i in re.finditer(r"^", texts[p], re.M)]
            and was not in " ".join(texts[p].split())]
    for p, was in gone:
        print(f"{LIST}: {p} has no line: {was}")
    order = {}
    for name in chosen:
        order[name] = [(p, c) for p in MODULES[name][0] for c in sites(texts[p])]
        rng.shuffle(order[name])
        m.measure(name)
    score = {name: [0, 0, 0] for name in chosen}  # caught, survived, known to be the same
    tried, at = 0, 0
    while tried < count and any(order.values()):
        name = chosen[at % len(chosen)]
        at += 1
        if not order[name]:
            continue
        path, change = order[name].pop()
        mutated, line, was, now = tell(path, texts[path], change)
        if m.same(path, texts[path], mutated) is not False:
            at -= 1
            continue
        tried += 1
        if (path, was, now) in known:
            score[name][2] += 1
            continue
        bad = m.caught(name, path, mutated)
        score[name][0 if bad else 1] += 1
        if not bad:
            print(f"survived: {path}:{line}\n- {was}\n+ {now}", flush=True)
        elif os.environ.get("VERBOSE"):
            print(f"caught: {path}:{line}: {now}\n    {bad[:100]}", flush=True)
    caught, survived, same = (sum(s[i] for s in score.values()) for i in range(3))
    for name in chosen:
        print("%-14s %4d caught, %3d survived, %3d known to be equivalent" % (name, *score[name]))
    share = 100 * caught / max(1, caught + survived)
    print(f"mutate: seed {seed}, {tried} mutants, {caught} caught, {survived} survived, {same} known to be equivalent: "
          f"{share:.1f} % caught, {MUST} wanted")
    sys.exit(bool(gone) or share < MUST)


main()
