"""Wrong values and types: each is refused by an exception of the package's own that names the parameter, whatever was
given, and nothing of it stays behind."""
import inspect
import math
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import deq
from conftest import ROOT, TINY
from deq import plot
from deq._native import lib
from deq.options import SAMPLE_NAMES, SOLVE_NAMES


class Unwilling:
    """A value that fails at whatever it is asked for."""

    def fail(self, *_):
        raise RuntimeError("asked")

    __index__ = __float__ = __len__ = __iter__ = __repr__ = __bool__ = fail


NUMBERS = [-1, 1.5, 2.0, math.nan, math.inf, -math.inf, 1 << 32, 1 << 64, 10 ** 5000, 1e-60, 1e300, np.float32(0.5),
           np.int64(-3), np.uint64(1 << 63)]
OTHERS = [None, True, False, "", "x", "a\0b", "\ud800", b"abc", [], [1, 2], [1.0], [None], [1 << 70], ["a", 1],
          [[1], [2, 3]], ["\udfff"], {}, {"a": 1}, {1: "a"}, {1, 2}, (i for i in range(3)), range(3), int, object(),
          Unwilling(), [Unwilling()], 1j, np.zeros((2, 2), np.uint32), np.array([0.5, np.nan]),
          np.array([None, 1], object), np.array([True, False]), np.array(["a"]), np.array([1 << 63], np.uint64),
          np.array("2020-01-01", "M8[D]")]
# what is right of these, by parameter: the rest must be refused
FLAGS = [True, False]
RIGHT = {
    "prompt": ["", "x", "a\0b", [], [1, 2], range(3)], "string": ["", "x", "a\0b"], "tokens": [[], [1, 2], range(3)],
    "stop": ["x", "a\0b", [], range(0)], "logit_bias": [{}], "ignore_eos": FLAGS, "special": FLAGS, "trace": FLAGS,
    "jacobian": FLAGS, "numeric": [None], "tol": [1.5, 2.0, 1 << 32, 1 << 64, np.float32(0.5), np.uint64(1 << 63)],
    "temperature": [1.5, 2.0, 1 << 32, 1 << 64, np.float32(0.5), np.uint64(1 << 63)],
    "top_p": [np.float32(0.5)], "min_p": [np.float32(0.5)], "seed": [1 << 32, np.uint64(1 << 63)],
    "repetition_penalty": [1.5, 2.0, 1 << 32, 1 << 64, np.float32(0.5), np.uint64(1 << 63)],
    "cache_bytes": [1 << 32], "on_event": [None, int], "settings": [None, {}], "init": [None], "resume": FLAGS,
}
for penalty in ("presence_penalty", "frequency_penalty"):
    RIGHT[penalty] = [*RIGHT["tol"], -1, np.int64(-3)]


def same(a, b):
    return a is b or type(a) is type(b) and type(a) in (int, float, str, list, dict, range, np.float32, np.uint64,
                                                        np.int64) and a == b


def is_right(parameter, value):
    return any(same(value, right) for right in RIGHT.get(parameter, []))


def refused(parameter, call, value):
    with warnings.catch_warnings(), pytest.raises(deq.Error) as e:
        warnings.simplefilter("error")
        call(value)
        pytest.fail(f"{parameter}: {type(value)} was taken")
    assert isinstance(e.value, deq.RequestError) and e.value.field == parameter, (parameter, str(e.value))
    assert parameter in str(e.value) and len(str(e.value)) < 300


def walk(parameter, call):
    for value in NUMBERS + OTHERS:
        if not is_right(parameter, value):
            refused(parameter, call, value)


@pytest.fixture(scope="module")
def model():
    with deq.load(TINY, threads=1) as loaded:
        yield loaded
        assert lib.deq_active(loaded._engine._engine) == 0


@pytest.mark.parametrize("name", sorted(SAMPLE_NAMES))
def test_options(model, name):
    walk(name, lambda v: model.generate("The", **{"max_tokens": 2, name: v}))
    if name in SOLVE_NAMES:
        walk(name, lambda v: model.equilibria("The", **{name: v}))


@pytest.mark.parametrize("value", [b"0.5", bytearray(b"0.5"), np.bytes_(b"0.5"), np.array("0.5"), np.array(True),
                                   np.complex64(0.5), np.timedelta64(1)], ids=repr)
def test_no_number(model, value):
    """What float() takes, and nobody means."""
    refused("tol", lambda v: model.generate("The", max_tokens=1, tol=v), value)


def test_right_ones_are_taken(model):
    for name in SAMPLE_NAMES:
        for value in RIGHT.get(name, []):
            assert model.generate("The", **{"max_tokens": 1, "temperature": 1, name: value}).tokens.size <= 1
    for name, value in (("max_tokens", np.int64(3)), ("top_k", np.array(3)), ("max_iter", np.uint8(3)),
                        ("ignore_eos", np.True_), ("tol", np.array(0.5)), ("temperature", 0), ("stop", ("a", "b")),
                        ("logit_bias", {np.int32(1): np.float64(-1)}), ("window", 1)):
        assert model.generate("The", **{"max_tokens": 1, name: value}).tokens.size <= 3
    texts = model.generate(("The", "A"), max_tokens=1)
    assert [g.text for g in texts] == [model.generate(p, max_tokens=1).text for p in ("The", "A")]


def test_prompts_and_other_parameters(model):
    for call in (model.generate, lambda p: model.stream(p).result(), model.solve, model.logprobs, model.logits,
                 model.equilibria):
        walk("prompt", call)
    walk("string", model.encode)
    walk("special", lambda v: model.encode("The", special=v))
    walk("tokens", model.decode)
    walk("token", model.token_bytes)
    walk("top", lambda v: model.logprobs("The", top=v))
    walk("trace", lambda v: model.solve("The", trace=v))
    walk("jacobian", lambda v: model.equilibria("The", jacobian=v))
    walk("logit_bias", lambda v: model.generate("The", logit_bias={v: 1.0} if v.__hash__ else v)
         if not isinstance(v, Unwilling) else model.generate("The", logit_bias=v))
    assert model.decode([]) == ""  # and not the token that begins texts


def test_arrays_of_any_layout(model):
    ids = np.arange(20, dtype=np.uint32)
    expected = model.logits(ids[::2].copy()).tobytes()
    frozen = ids[::2].copy()
    frozen.flags.writeable = False
    for same_ids in (ids[::2], frozen, ids[::2].astype(">i8"), ids[::2].tolist(), tuple(ids[::2]), range(0, 20, 2),
                     np.arange(18, -1, -2)[::-1]):
        assert model.logits(same_ids).tobytes() == expected
    with pytest.raises(deq.RequestError, match="prompt"):
        model.logits(ids.astype(np.float32))


def test_load(tmp_path):
    for name in ("numeric", "threads", "max_sequences", "max_positions", "cache_bytes"):
        walk(name, lambda v: deq.load(TINY, **{"threads": 1, name: v}).close())
    for wrong in (None, 1, 1.5, "", "a\0b", [TINY], "\ud800", object(), Unwilling()):
        with pytest.raises(deq.RequestError, match="directory: expected a path"):
            deq.load(wrong)
    with pytest.raises(deq.NotFound, match="config.json"):
        deq.load(tmp_path)
    with pytest.raises(deq.NotFound, match="not a directory"):
        deq.load(__file__)
    with pytest.raises(deq.RequestError, match="^cache_bytes of 1 bytes") as e:
        deq.load(TINY, cache_bytes=1)
    assert e.value.field == "cache_bytes"
    with pytest.raises(TypeError, match="deq.load"):
        deq.Model(TINY)


def test_names_and_what_fits_no_model(model):
    with pytest.raises(TypeError, match="'temprature'; is it 'temperature'"):
        model.generate("The", temprature=1)
    with pytest.raises(TypeError, match="known are.*tol"):
        model.logits("The", qqq=1)
    with pytest.raises(deq.RequestError, match="^stop_rule") as e:
        model.generate("The", stop_rule="kl", tol=0)
    assert e.value.field == "stop_rule"


def test_a_closed_model():
    closed = deq.load(TINY, threads=1)
    stream = closed.stream("The", max_tokens=50, ignore_eos=True)
    next(stream)
    closed.close()
    for call in (closed.generate, closed.stream, closed.solve, closed.logprobs, closed.logits, closed.equilibria,
                 closed.encode, lambda _: closed.decode([1]), lambda _: closed.token_bytes(1),
                 lambda _: stream.result(), lambda _: next(stream), lambda _: closed.__enter__().generate("The")):
        with pytest.raises(deq.Error, match="closed|left before its end"):
            call("The")
    assert closed.info.vocab_size


def test_plots(model):
    import matplotlib

    matplotlib.use("Agg")
    g = model.generate("The", max_tokens=2)
    for draw in (plot.residuals, plot.wavefront):
        for wrong in (g, None, model.solve("The", max_tokens=2, trace=False)):
            with pytest.raises(deq.RequestError, match="solution: .*trace"):
                draw(wrong)
    with pytest.raises(deq.RequestError, match="result"):
        plot.evaluations([1, 2])
    for axes in (3, np.empty(2, object)):
        with pytest.raises(deq.RequestError, match="axes"):
            plot.evaluations(g, axes)
    with pytest.raises(deq.RequestError, match="tol"):
        plot.residuals(model.solve("The", max_tokens=2), tol="small")
    script = "import sys; sys.modules['matplotlib'] = None; from deq import plot; plot._axes(None)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "pip install matplotlib" in done.stderr


def test_training_and_importing(tmp_path):
    recipe, text, out = {"model": {}}, __file__, tmp_path / "out"
    array = np.zeros(3, np.float32)
    paths = [None, 1, 1.5, "", "a\0b", "\ud800", object(), ["a"]]
    wrong = {
        "recipe": (lambda v: deq.train(v, text, out), [*paths, {1: 2}, {"model": object()}, {"model": {1j}}]),
        "data": (lambda v: deq.train(recipe, v, out), paths),
        "out": (lambda v: deq.train(recipe, text, v), paths),
        "on_event": (lambda v: deq.train(recipe, text, out, on_event=v), [1, "f"]),
        "settings": (lambda v: deq.train(recipe, text, out, settings=v),
                     [1, "a=b", [("a", 1)], {1: 2}, {"a": object()}, {"a": "\0"}, {"\ud800": 1}, {"no.such": 1}]),
        "init": (lambda v: deq.train(recipe, text, out, init=v), paths[1:]),
        "threads": (lambda v: deq.train(recipe, text, out, threads=v), [None, -1, 1.0, "2", 1000]),
        "resume": (lambda v: deq.train(recipe, text, out, resume=v), [None, 1, "yes"]),
        "source": (lambda v: deq.import_checkpoint(v, out, config={"model_type": "torchdeq-lm"}),
                   [*paths, {1: array}, {"w": [1.0]}, {"w": None}, {"w": {"v": array}}, {"w": array.astype(complex)},
                    {"w": array.astype(">f4")}, {"w": np.array(["a"])}]),
        "config": (lambda v: deq.import_checkpoint({"w": array}, out, config=v),
                   [*paths, {1: 2}, {"model_type": object()}, {"model_type": "gpt2"}, {}]),
        "vocab": (lambda v: deq.import_checkpoint({"w": array}, out, config={"model_type": "torchdeq-lm"}, vocab=v),
                  [1, "", "a\0b", [1], ["a b"], ["a\n"], [""], ["\ud800"], [b"a"]]),
        "tokenizer": (lambda v: deq.import_checkpoint({"w": array}, out, config={"model_type": "huginn_raven"},
                                                      tokenizer=v), [*paths[1:], {"a": 1}]),
    }
    for parameter, (call, values) in wrong.items():
        for value in values:
            with pytest.raises(deq.RequestError) as e:
                call(value)
            assert e.value.field == parameter and parameter in str(e.value), (parameter, value, str(e.value))
    with pytest.raises(deq.NotFound, match="tokenizer"):
        wrong["tokenizer"][0](tmp_path / "nothing.json")
    with pytest.raises(deq.RequestError, match="state_dict"):
        wrong["source"][0](type("Module", (), {"state_dict": lambda self: {}})())
    assert not out.exists() and not list(tmp_path.iterdir())


def test_the_source_says_how_it_is_installed():
    done = subprocess.run([sys.executable, os.path.join(ROOT, "core", "python", "setup.py"), "--version"],
                          capture_output=True, text=True)
    assert done.returncode and "make wheel" in done.stderr, done.stderr


def test_every_public_name_is_explained():
    for name in deq.__all__:
        thing = getattr(deq, name)
        if name in ("Prompt", "TrainEvent"):  # types, which the methods' help tells of
            continue
        assert inspect.getdoc(thing), name
        if inspect.isclass(thing):
            if thing.__module__ in ("deq.results", "deq.options"):
                told = thing.__doc__ + (deq.SolveOptions.__doc__ if thing is deq.SampleOptions else "")
                for field in inspect.get_annotations(thing):
                    assert f"\n    {field}: " in told, f"{name}.{field}"
            for method, function in vars(thing).items():
                assert method.startswith("_") or not callable(function) or function.__doc__, f"{name}.{method}"
    for function in (plot.residuals, plot.wavefront, plot.evaluations):
        assert function.__doc__
