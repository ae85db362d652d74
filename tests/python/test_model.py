"""What a model says through Python is, bit for bit, what it says through the program and the daemon."""
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import deq
from conftest import ROOT, STORIES, TINY, TRANSFORMER
from deq._native import PROGRAM, lib

TEXT = "Tom had a red ball. “Où ?” said Lucy."
ONCE = "Once upon a time"
GREEDY = {"max_tokens": 30, "temperature": 0}  # unless a request says otherwise, the daemon's is 1, as OpenAI's
SETTINGS = [
    {},
    {"temperature": 0.8, "seed": 7, "top_k": 40, "top_p": 0.9},
    {"stop": ["ing", "a "]},
    {"tol": 1e-4, "window": 1, "solver": "picard"},
    {"ignore_eos": True, "temperature": 1.0, "min_p": 0.05, "seed": 3},
]


def by_program(directory, prompt, options):
    flags = []
    for name, value in {"max_tokens": 30, **options}.items():
        flag = "--" + name.replace("_", "-")
        for v in value if isinstance(value, list) else [value]:
            flags += [flag] if v is True else [flag, str(v)]
    out = subprocess.run([PROGRAM, "generate", directory, prompt, "--json", *flags], capture_output=True, check=True)
    return json.loads(out.stdout)


@pytest.mark.parametrize("options", SETTINGS, ids=lambda o: ",".join(o) or "defaults")
def test_generate_is_what_the_program_writes(model, directory, options):
    g = model.generate(TEXT, max_tokens=30, **options)
    theirs = by_program(directory, TEXT, options)
    assert g.text == theirs["text"] and str(g) == g.text
    assert (len(g.prompt_tokens), len(g.tokens)) == (theirs["prompt_tokens"], theirs["completion_tokens"])
    assert g.finish == theirs["finish_reason"] and bool(g.converged.all()) == theirs["converged"]
    assert "".join(model.stream(TEXT, max_tokens=30, **options)) == g.text


def test_generate_is_what_the_daemon_writes(model, daemon):
    for options in SETTINGS[:3]:
        status, _, answer = daemon.post("/v1/completions", {"prompt": TEXT, **GREEDY, **options})
        assert status == 200
        assert model.generate(TEXT, max_tokens=30, **options).text == answer["choices"][0]["text"]
    _, _, answer = daemon.post("/v1/completions", {"prompt": TEXT, **GREEDY, "deq": {"stop": "kl"}})
    assert model.generate(TEXT, max_tokens=30, stop_rule="kl").text == answer["choices"][0]["text"]


def test_logprobs_are_the_daemons(model, daemon):
    ours = model.logprobs(TEXT, top=5)
    _, _, answer = daemon.post("/v1/completions", {"prompt": TEXT, "max_tokens": 0, "echo": True, "logprobs": 5})
    theirs = answer["choices"][0]["logprobs"]["token_logprobs"]
    assert theirs[0] is None and np.isnan(ours.logprobs[0])
    # which prints float32 with nine digits
    assert ours.logprobs[1:].tobytes() == np.array(theirs[1:], np.float32).tobytes()
    assert ours.nats == pytest.approx(-sum(theirs[1:]), rel=1e-6)  # sums of rounded numbers
    best = [max(t.values()) for t in answer["choices"][0]["logprobs"]["top_logprobs"][1:]]
    assert ours.top_logprobs[1:, 0].tobytes() == np.array(best, np.float32).tobytes()
    logits = model.logits(TEXT)
    assert (logits[:-1].argmax(axis=1) == ours.top_tokens[1:, 0]).all()
    assert logits.shape == (len(ours.tokens), model.info.vocab_size)


def test_equilibria_are_the_daemons(model, daemon):
    ours = model.equilibria(TEXT)
    body = {"prompt": TEXT, "positions": "all"}
    _, _, raw = daemon.request("POST", "/v1/equilibria", body, {"Accept": "application/octet-stream"})
    assert ours.states.tobytes() == raw
    _, _, answer = daemon.post("/v1/equilibria", {**body, "jacobian": True})
    assert ours.evaluations.tolist() == answer["evaluations"] and ours.converged.all()
    assert ours.residuals.tobytes() == np.array(answer["residuals"], np.float32).tobytes()
    assert np.isnan(ours.spectral_radius)
    again = model.equilibria(ours.tokens, jacobian=True)
    assert again.states.tobytes() == raw and again.spectral_radius > 0


def test_solve_tells_how(model):
    s = model.solve(TEXT, max_tokens=20)
    assert s.text == model.generate(TEXT, max_tokens=20).text
    assert s.states.shape == (len(s.tokens), model.info.state_dim)
    picked = [row for row in s.rows if row.fate == "committed"]
    assert [row.token for row in picked] == s.tokens.tolist()
    assert [len(row.residuals) for row in picked] == s.evaluations.tolist()
    assert [row.residuals[-1] for row in picked] == s.residuals.tolist()
    assert all(row.left - row.entered + 1 == len(row.residuals) for row in s.rows)
    assert model.solve(TEXT, max_tokens=20, trace=False).rows == []


def test_prompts(model):
    ids = model.encode(TEXT)
    assert model.decode(ids) == TEXT
    assert model.encode("").size == 0
    of_text = model.generate(TEXT, max_tokens=5)
    for same in (of_text.prompt_tokens, of_text.prompt_tokens.tolist(), of_text.prompt_tokens.astype(np.int64)):
        assert model.generate(same, max_tokens=5).text == of_text.text
    a, b = model.generate([TEXT, ONCE], max_tokens=5)
    assert (a.text, b.text) == (of_text.text, model.generate(ONCE, max_tokens=5).text)
    assert len(model.generate("", max_tokens=3).tokens) <= 3
    token = int(of_text.tokens[0])
    assert token not in model.generate(TEXT, max_tokens=1, logit_bias={token: -100}).tokens


def test_stream_stops_early(stories):
    with stories.stream(ONCE, max_tokens=1000, ignore_eos=True) as pieces:
        text = next(pieces) + next(pieces)
        assert stories.logprobs(ONCE).nats > 0  # between two of its pieces
    assert lib.deq_active(stories._engine._engine) == 0
    assert len(pieces._job.tokens) < 100
    assert text and stories.generate(ONCE, max_tokens=50).text.startswith(text)
    with pytest.raises(deq.Error, match="left before its end"):
        pieces.result()
    for _ in stories.stream(ONCE, max_tokens=1000, ignore_eos=True):
        break
    gc.collect()
    assert lib.deq_active(stories._engine._engine) == 0


def test_threads_share_the_engine(stories):
    prompts = [ONCE, "Tom had a red ball.", "The cat", "Lucy was sad because"] * 3
    alone = [stories.generate(p, max_tokens=20).text for p in prompts]
    got = [None] * len(prompts)

    def work(i):
        got[i] = "".join(stories.stream(prompts[i], max_tokens=20))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert got == alone


def test_more_requests_than_sequences():
    with deq.load(STORIES, max_sequences=2) as model:
        texts = model.generate([ONCE] * 5, max_tokens=5)
        assert len({g.text for g in texts}) == 1


@pytest.mark.parametrize("options, field", [
    ({"tol": "small"}, "tol"), ({"window": 65}, "window"), ({"window": -1}, "window"), ({"solver": "newton"}, "solver"),
    ({"top_k": 1 << 40}, "top_k"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 1 << 31}, "prompt"),
    ({"stop": [""]}, "stop"), ({"logit_bias": {1 << 20: 1.0}}, "logit_bias"),
    ({"warm_start": "proposal"}, "warm_start"),
    ({"stop_rule": "never"}, "stop_rule"),
])
def test_wrong_options_are_named(transformer, options, field):
    with pytest.raises(deq.RequestError) as e:
        transformer.generate(ONCE, **options)
    assert e.value.field == field and isinstance(e.value, ValueError), str(e.value)


def test_other_errors(stories, tmp_path):
    with pytest.raises(TypeError, match="'temprature'"):
        stories.generate(ONCE, temprature=1)
    with pytest.raises(TypeError, match="'temperature'"):
        stories.equilibria(ONCE, temperature=1)
    for wrong in ([-1], [1 << 20], np.zeros((2, 2), np.uint32), ["a", 1], 1.5):
        with pytest.raises(deq.RequestError) as e:
            stories.logprobs(wrong)
        assert e.value.field == "prompt"
    with pytest.raises(deq.NotFound, match="/nowhere: not a directory"):
        deq.load("/nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(deq.FormatError, match="config.json"):
        deq.load(tmp_path)
    with pytest.raises(deq.RequestError, match="float64"):
        deq.load(STORIES, numeric="float64")
    closed = deq.load(STORIES)
    closed.close()
    closed.close()
    with pytest.raises(deq.Error, match="closed"):
        closed.generate(ONCE)


def test_who_reads_the_model_keeps_it_while_others_close_it():
    model = deq.load(STORIES, threads=1)
    with model._engine:
        model.close()
        assert model._engine._finalizer.alive
        with pytest.raises(deq.Error, match="closed"):
            model.encode(ONCE)
    assert not model._engine._finalizer.alive
    # a call that lets go of the interpreter's lock for a while: where it freed what is read, Python ended
    model = deq.load(STORIES, threads=1)
    read = []
    thread = threading.Thread(target=lambda: read.append(len(model.encode(ONCE * 50000))))
    thread.start()
    while not model._engine._users and thread.is_alive():
        pass
    model.close()
    thread.join()
    assert read and not model._engine._finalizer.alive


def test_a_fork_has_no_engine(stories):
    """Its threads stay behind: who waited for them waited for ever."""
    child = os.fork()
    if child == 0:
        try:
            stories.generate(ONCE, **GREEDY)
        except deq.Error as e:
            os._exit(0 if "fork" in str(e) and len(deq.load(STORIES, threads=1).encode(ONCE)) > 1 else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stories.generate(ONCE, **GREEDY).tokens.size == 30


class CtrlC(BaseException):
    pass


def interrupted(call, at):
    """Runs it, with an exception behind the at-th call or return of its Python, where one of a signal may come; says
    how many there were before its end, or None where the exception came out."""
    seen = 0

    def look(frame, event, _):
        nonlocal seen
        # between a call of C and what comes before it, no signal comes; and _failed keeps what came
        if event != "c_call" and frame.f_code.co_filename.endswith("_engine.py") and frame.f_code.co_name != "_failed":
            seen += 1
            if seen == at:
                sys.setprofile(None)
                raise CtrlC

    sys.setprofile(look)
    try:
        call()
    except (CtrlC, deq.Error) as e:  # the latter where it came within a callback of another's
        assert isinstance(e, CtrlC) or isinstance(e.__cause__, CtrlC)
        return None
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it comes in destructors, too
def test_an_interrupt_anywhere_leaves_nothing_behind():
    """Not the engine's lock, which others would wait for, and no request."""
    with deq.load(TINY, threads=1) as model:
        calls = {
            "generate": lambda: model.generate("The", max_tokens=1),
            "stream": lambda: next(model.stream("The", max_tokens=1)),
            "logprobs": lambda: model.logprobs("The cat", top=2),
        }
        expected = model.generate("The", max_tokens=1).text
        for name, call in calls.items():
            places = interrupted(call, 0)
            came = 0
            for at in range(1, places + 1):
                came += interrupted(call, at) is None
                got = []
                other = threading.Thread(target=lambda: got.append(
                    model.generate("The", max_tokens=1).text), daemon=True)
                other.start()
                other.join(20)
                assert got == [expected], f"{name}, interrupted at {at} of {places}"
                assert lib.deq_active(model._engine._engine) == 0, f"{name}, interrupted at {at} of {places}"
            assert came > places / 2, (name, came, places)


def test_other_threads_run_while_the_library_computes(stories):
    """With an interpreter that takes its lock from nobody, another thread gets it where it is given away."""
    for call in (lambda: stories.encode(ONCE * 20000), lambda: stories.generate(ONCE, **GREEDY)):
        begin, ran = threading.Event(), []
        thread = threading.Thread(target=lambda: (begin.wait(), ran.append(True)))
        thread.start()
        usual = sys.getswitchinterval()
        sys.setswitchinterval(1000)
        try:
            begin.set()
            before = bool(ran)
            call()
            assert ran and not before
        finally:
            sys.setswitchinterval(usual)
            thread.join()


LONG = """
import deq, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell has its background programs ignore
model = deq.load(sys.argv[1], max_positions=1 << 20)
stream = model.stream("Once upon a time", max_tokens=1000000, ignore_eos=True, temperature=1)
print(next(stream), flush=True)
try:
    stream.result()
except KeyboardInterrupt:
    print("interrupted", len(model.generate("Once", max_tokens=5).tokens))
"""


def test_ctrl_c_ends_a_long_text():
    with subprocess.Popen([sys.executable, "-c", LONG, TRANSFORMER], stdout=subprocess.PIPE, text=True, cwd=ROOT) as p:
        assert p.stdout.readline()
        time.sleep(0.3)
        os.kill(p.pid, signal.SIGINT)
        assert p.stdout.read() == "interrupted 5\n" and p.wait() == 0
