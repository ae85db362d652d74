"""What deq and deqd write and read: standard output that fails, --out that is no plain file, text files as other
systems write them."""
import json
import os
import resource
import shutil
import socket
import stat
import subprocess
import tempfile
import time
import urllib.request

from lib import (DEQ, DEQD, ROOT, SLOW, TINY, check, clean_env, equal, run, skip)

DATA = os.path.join(ROOT, "tests", "golden", "tokenizer")
RECIPE = os.path.join(ROOT, "tests", "golden", "tiny.yaml")
GOLDEN = os.path.join(ROOT, "tests", "golden", "authors", "locuslab-preln-plain")


def into(target, args, **more):
    """Runs a program with its standard output in target (a path, or None: closed)."""
    out = os.open(target, os.O_WRONLY) if target else None
    p = subprocess.run(args, env=clean_env(), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE,
                       timeout=60 * SLOW, preexec_fn=None if target else lambda: os.close(1), **more)
    if target:
        os.close(out)
    return p.returncode, p.stderr.decode("utf-8", "replace")


def test_standard_output_that_fails():
    """Whatever was asked for on standard output and did not arrive is an exit code and a word, in every command."""
    with tempfile.TemporaryDirectory() as tmp:
        def path(name, text=None):
            p = os.path.join(tmp, name)
            if text is not None:
                with open(p, "w") as f:
                    f.write(text)
            return p

        text = path("t.txt", "one two three\n" * 20)
        tok = [DEQ, "tokenizer"]
        commands = [[DEQ, "--help"], [DEQ, "--version"], [DEQ, "generate", "--help"],
                    [DEQ, "generate", TINY, "a", "--max-tokens", "2"],
                    [DEQ, "generate", TINY, "a", "--max-tokens", "2", "--json"], [DEQ, "inspect", TINY],
                    [DEQ, "inspect", TINY, "--json"], [DEQ, "inspect", TINY, "--tensors"], [DEQ, "eval", TINY, text],
                    [DEQ, "eval", TINY, text, "--json"],
                    [DEQ, "eval", TINY, text, "--tgt-len", "8", "--mem-len", "8", "--streams", "1"],
                    tok + ["--help"], tok + ["encode", "--help"], tok + ["encode", TINY, "a"],
                    tok + ["encode", TINY, "a", "--json"], tok + ["encode", TINY, "--file", text],
                    tok + ["decode", TINY, "5", "6"],
                    tok + ["train", "--vocab-size", "258", "--out", path("a.json"), text],
                    tok + ["words", text, "--out", path("b.json"), "--json"], [DEQ, "train", RECIPE, "--print-recipe"],
                    [DEQ, "train", RECIPE, "--data", tmp, "--out", path("m"), "--json", "--set", "data.train=t.txt",
                     "--set", "data.valid=t.txt", "--set", "data.vocab_size=257", "--set", "train.steps=2", "--set",
                     "train.shallow_steps=1", "--set", "train.warmup=1", "--set", "predictor.steps=1"],
                    [DEQ, "import", os.path.join(GOLDEN, "checkpoint.pth"), "--config",
                     os.path.join(GOLDEN, "config.json"), "--out", path("i")],
                    [DEQD, "--help"], [DEQD, "--version"], [DEQD, "--print-config"],
                    [DEQD, "--check-config", "--model", TINY]]
        for args in commands:
            name = " ".join(os.path.basename(a) for a in args[:3])
            code, err = into("/dev/full", args)
            last = err.strip().split("\n")[-1]
            check(code == 1 and last.startswith(os.path.basename(args[0]) + ": standard output: ") and
                  "No space left" in last,
                  "%s > /dev/full: %d %r" % (name, code, last))
        for args in (commands[1], commands[5], commands[-1]):
            code, err = into(None, args)
            check(code == 1 and "standard output: " in err, "closed: %d %r" % (code, err))
        equal(into(None, [DEQ, "tokenizer", "train", "--vocab-size", "x"])[0], 2, "closed, and nothing to print")
        # a reader that leaves: the command ends itself, early where there is much to come
        p = subprocess.Popen([DEQ, "generate", TINY, "a", "--max-tokens", "100000", "--ignore-eos"], env=clean_env(),
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdout.read(1)
        p.stdout.close()
        err = p.stderr.read().decode()
        equal(p.wait(60 * SLOW), 1, "a pipe that is left")
        check("Broken pipe" in err and "100000 tokens" not in err, "and it says so: %r" % err[-200:])


def test_out_that_is_no_plain_file():
    with tempfile.TemporaryDirectory() as tmp:
        def path(name):
            return os.path.join(tmp, name)

        def words(out, **more):
            return run([DEQ, "tokenizer", "words", path("w.txt"), "--out", out], **more)

        with open(path("w.txt"), "w") as f:
            f.write("a b c\n")
        for name in ("t.json.tmp", "p"):
            with open(path(name), "w") as f:
                f.write("mine")
        os.symlink("p", path("t.json.part"))
        os.symlink("real", path("link"))
        equal([words(path(n))[0] for n in ("t.json", "link")], [0, 0], "a file and a link to nothing")
        with open(path("t.json")) as f:
            want = f.read()
        with open(path("real")) as f:
            equal((os.readlink(path("link")), f.read() == want), ("real", True), "the link's target is written")
        for name in ("t.json.tmp", "p"):
            with open(path(name)) as f:
                equal(f.read(), "mine", name)
        equal(sorted(os.listdir(tmp)), ["link", "p", "real", "t.json", "t.json.part", "t.json.tmp", "w.txt"],
              "and nothing else is there")
        os.mkfifo(path("fifo"))
        reader = subprocess.Popen(["cat", path("fifo")], stdout=subprocess.PIPE)
        equal(words(path("fifo"))[0], 0, "a pipe")
        equal((reader.communicate(timeout=60 * SLOW)[0].decode() == want,
               stat.S_ISFIFO(os.lstat(path("fifo")).st_mode)), (True, True), "its reader has it all")
        code, _, err = words(path("fifo"))
        check(code == 1 and "nobody reads" in err, "a pipe without a reader: %d %r" % (code, err))
        code, out, _ = words("/dev/stdout")
        equal((code, out), (0, want), "standard output by its name holds the file and no report")
        with open(path("log"), "w") as f:
            f.write("first\n")
            f.flush()
            subprocess.run([DEQ, "tokenizer", "words", path("w.txt"), "--out", "/dev/stdout"], stdout=f,
                           stderr=subprocess.DEVNULL, timeout=60 * SLOW)
        with open(path("log")) as f:
            equal(f.read(), "first\n" + want, "as `>> file`")
        for out, word in ((tmp, "directory"), (path("no/where"), "No such file"), (path("new/"), "directory")):
            code, _, err = words(out)
            check(code == 1 and word in err, "--out %s: %d %r" % (out, code, err))
        code, _, err = words(path("x"), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)))
        check(code == 1 and "File too large" in err and not os.path.exists(path("x")),
              "a limit on file size: %d %r" % (code, err))
        try:
            os.mknod(path("full"), stat.S_IFCHR | 0o600, os.makedev(1, 7))
        except PermissionError:
            skip("a device of one's own needs the right to make one")
            return
        code, _, err = words(path("full"))
        check(code == 1 and "No space left" in err and stat.S_ISCHR(os.lstat(path("full")).st_mode),
              "a full device: %d %r" % (code, err))


def test_line_ends_and_marks_of_text_files():
    """CR LF and a byte order mark change no figure and no vocabulary; UTF-16 is refused by the file's name."""
    text = "the cat\n\nsat\n<|endoftext|>\non the mat. the end\n<|endoftext|>\nthe dog\n" * 8
    with tempfile.TemporaryDirectory() as tmp:
        paths = {}
        for name, data in (("lf", text.encode()), ("crlf", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()),
                           ("utf16", text.encode("utf-16")),
                           ("utf16be", text.encode("utf-16-be"))):
            paths[name] = os.path.join(tmp, name)
            with open(paths[name], "wb") as f:
                f.write(data)

        def both(args, *drop, made=None):
            """The same answer, and the same file, from either; no answer from UTF-16."""
            got = []
            for kind in ("lf", "crlf"):
                code, out, err = run([a.replace("TEXT", paths[kind]) for a in args])
                equal(code, 0, "%s, %s: %s" % (args[1:3], kind, err[-200:]))
                o = {k: v for k, v in json.loads(out).items() if k not in drop}
                if made:
                    with open(made) as f:
                        o["made"] = f.read()
                got.append(o)
            equal(got[0], got[1], "LF and CR LF: %s" % args[1:3])
            for kind in ("utf16", "utf16be"):
                code, _, err = run([a.replace("TEXT", paths[kind]) for a in args])
                check(code == 1 and paths[kind] + ": UTF-16" in err,
                      "%s of UTF-16: %d %r" % (args[1:3], code, err[-200:]))
            return got[0]

        speed = ("seconds", "tokens_per_second")
        o = both([DEQ, "eval", TINY, "TEXT", "--json"], *speed)
        equal(o["bytes"], len(text.encode()) - 8 * (2 * len("\n<|endoftext|>\n") + 1) + 7,
              "bytes of the documents, and of nothing else")
        both([DEQ, "eval", TINY, "TEXT", "--json", "--tgt-len", "8", "--streams", "1"], *speed)
        both([DEQ, "tokenizer", "encode", TINY, "--file", "TEXT", "--json"])
        made = os.path.join(tmp, "made.json")
        both([DEQ, "tokenizer", "train", "TEXT", "--vocab-size", "300", "--out", made, "--json"], *speed, made=made)
        both([DEQ, "tokenizer", "words", "TEXT", "--out", made, "--json"], made=made)


def test_line_ends_and_marks_of_a_model():
    """The JSON files of a model, and GPT-2's pair of tokenizer files, edited on another system."""
    with tempfile.TemporaryDirectory() as tmp:
        def rewrite(name, text):
            with open(os.path.join(model, name), "wb") as f:
                f.write(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())

        model = os.path.join(tmp, "m")
        shutil.copytree(TINY, model)
        want = run([DEQ, "tokenizer", "encode", TINY, "the cat sat"])
        for name in ("config.json", "tokenizer.json"):
            with open(os.path.join(TINY, name), encoding="utf-8") as f:
                rewrite(name, f.read())
        equal(run([DEQ, "inspect", model])[0], 0, "a model with such files")
        equal(run([DEQ, "tokenizer", "encode", model, "the cat sat"]), want, "tokenizer.json")
        with open(os.path.join(TINY, "tokenizer.json"), encoding="utf-8") as f:
            bpe = json.load(f)["model"]
        os.unlink(os.path.join(model, "tokenizer.json"))
        rewrite("vocab.json", json.dumps(bpe["vocab"], indent=1, ensure_ascii=False))
        rewrite("merges.txt",
                "#version: 0.2\n" + "".join((m if isinstance(m, str) else " ".join(m)) + "\n" for m in bpe["merges"]))
        equal(run([DEQ, "tokenizer", "encode", model, "the cat sat"]), want, "vocab.json and merges.txt")


def test_a_closed_stream_is_nobody_elses():
    """What a program opens never gets the number of a stream that its caller closed: lines of the log are no part of an
    answer."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    p = subprocess.Popen([DEQD, "--model", TINY, "--listen", "127.0.0.1:%d" % port, "--set", "server.drain_delay_ms=0"],
                         env=clean_env(), preexec_fn=lambda: [os.close(fd) for fd in (0, 1, 2)])
    try:
        got, until = None, time.monotonic() + 20 * SLOW
        while not got and p.poll() is None and time.monotonic() < until:
            try:
                with urllib.request.urlopen("http://127.0.0.1:%d/health" % port, timeout=5 * SLOW) as r:
                    got = r.read()
            except OSError:
                time.sleep(0.02)
        check(got and json.loads(got), "an answer: %r" % got)
        streams = [os.readlink("/proc/%d/fd/%d" % (p.pid, fd)) for fd in range(3)]
        equal(streams, ["/dev/null"] * 3, "the three streams")
    finally:
        p.terminate()
    equal(p.wait(30 * SLOW), 0, "and it ends as asked")


def test_a_start_that_is_refused_leaves_nothing():
    """A tokenizer of another size than asked for is an error with both numbers, wherever it comes from; a start that
    fails writes none."""
    with tempfile.TemporaryDirectory() as tmp:
        out, text = os.path.join(tmp, "m"), os.path.join(tmp, "t.txt")
        with open(os.path.join(DATA, "sample.txt"), "rb") as f, open(text, "wb") as g:
            g.write(f.read()[:2000])

        def train(*sets, resume=False, out=out):
            more = ["--resume"] * resume + [x for s in ("data.train=t.txt",
                                                        "data.valid=t.txt") + sets for x in ("--set", s)]
            return run([DEQ, "train", RECIPE, "--data", tmp, "--out", out, "--threads", "1", "--set", "train.steps=1",
                        "--set", "train.shallow_steps=1", "--set", "train.warmup=0", "--set",
                        "predictor.steps=0"] + more)

        code, _, err = train("data.valid=missing.txt", "data.vocab_size=280")
        check(code == 1 and "missing.txt" in err and not os.path.exists(out), "no validation text: %d %r" % (code, err))
        os.mkdir(out)
        code, _, err = run([DEQ, "tokenizer", "train", text, "--vocab-size", "280", "--out",
                            os.path.join(out, "tokenizer.json")])
        equal(code, 0, "a tokenizer of one's own: " + err)
        with open(os.path.join(out, "train.jsonl"), "w") as f:
            f.write("of a run that came to nothing\n")
        code, _, err = train("data.vocab_size=300")
        check(code == 1 and "280 tokens" in err and "is 300" in err, "another size: %d %r" % (code, err))
        code, _, err = train("data.vocab_size=280")
        check(code == 0 and "using %s/tokenizer.json, 280 tokens" % out in err,
              "the same size, and it says so: %d %r" % (code, err))
        with open(os.path.join(out, "train.jsonl")) as f:
            check(all(json.loads(line)["event"] for line in f), "the log is of this run alone")
        code, _, err = train("data.vocab_size=270", resume=True)
        check(code == 1 and "data.vocab_size was 280, is 270" in err,
              "a run goes on with the size it began with: %d %r" % (code, err))
        equal(train("data.vocab_size=280", resume=True)[0], 0, "it goes on")
        equal([train("data.vocab_size=9999", resume=again, out=out + "2")[0] for again in (False, True)], [0, 0],
              "a text can give fewer tokens than were asked for, and goes on with those")
