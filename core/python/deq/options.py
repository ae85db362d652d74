"""What a call may ask for beside its text: keywords of the methods of Model, as rows of one table.

A value of a wrong type or out of range raises RequestError, whose `field` is the keyword.
"""
from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from . import _given
from ._native import ffi, lib, names


class SolveOptions(TypedDict, total=False):
    """How equilibria are sought. What is not given stays as the model has it.

    tol: Relative residual ||f(z) - z|| / ||f(z)|| at which a position counts as solved; 0: max_iter steps.
    max_iter: Evaluations of a position at most.
    min_iter: Evaluations of a position at least.
    solver: "picard", "anderson" or "broyden".
    warm_start: Where a position's state starts: "zero", "previous", "predictor" or "proposal".
    stop_rule: What tol is of: "residual", "latent", "kl" or "argmax".
    window: Positions that are solved at a time behind those that are final, 1 to 64.
    prefill_window: The same while a prompt is read; else window.
    max_evaluations: A budget for the positions of a text behind its prompt; with window 1.
    """

    tol: float
    max_iter: int
    min_iter: int
    solver: str
    warm_start: str
    stop_rule: str
    window: int
    prefill_window: int
    max_evaluations: int


class SampleOptions(SolveOptions, total=False):
    """How tokens are picked. The default is greedy.

    max_tokens: Tokens to generate at most, 100 unless it is said.
    temperature: 0 is greedy.
    top_p: Keep the most probable tokens that hold so much of the probability, 0 to 1.
    top_k: Keep so many of the most probable tokens; 0: all.
    min_p: Keep tokens at least so many times as probable as the first, 0 to 1.
    seed: The same seed gives the same text, in any company.
    repetition_penalty: Of tokens of prompt and text, positive logits are divided by it and negative ones
        multiplied; 1: off.
    presence_penalty: Subtracted from the logits of tokens that were generated.
    frequency_penalty: Subtracted as often as they were.
    min_tokens: The text does not end by itself before.
    logit_bias: Added to tokens' logits; -100 forbids, 100 forces.
    stop: The text ends before any of these.
    ignore_eos: Go on past the end of a text.
    """

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    min_tokens: int
    logit_bias: Mapping[int, float]
    stop: str | Sequence[str]
    ignore_eos: bool


_SOLVERS = names(lib.deq_solver_name, lib.DEQ_SOLVER_COUNT)
_WARMS = names(lib.deq_warm_name, lib.DEQ_WARM_COUNT)
_RULES = names(lib.deq_stop_rule_name, lib.DEQ_STOP_RULES)



class _Row(NamedTuple):
    """An option that is a number, a word or a flag: the struct of a request that has it, and what it may be."""

    struct: str
    check: Callable[[str, Any], Any]


def _integer(most: int = _given.U32) -> Callable[[str, Any], Any]:
    return lambda name, value: _given.integer(name, value, 0, most)


def _number(least: float, most: float = math.inf) -> Callable[[str, Any], Any]:
    return lambda name, value: _given.number(name, value, least, most)


def _word(words: list[str]) -> Callable[[str, Any], Any]:
    return lambda name, value: _given.word(name, value, words)


_SOLVE = {
    "tol": _Row("solve", _number(0)),
    "max_iter": _Row("solve", _integer()),
    "min_iter": _Row("solve", _integer()),
    "solver": _Row("solve", _word(_SOLVERS)),
    "warm_start": _Row("solve", _word(_WARMS)),
    "window": _Row("solve", _integer()),
    "max_evaluations": _Row("solve", _integer()),
}
_SAMPLE = {
    "temperature": _Row("sampling", _number(0)),
    "top_p": _Row("sampling", _number(0, 1)),
    "top_k": _Row("sampling", _integer()),
    "min_p": _Row("sampling", _number(0, 1)),
    "seed": _Row("sampling", _integer(_given.U64)),
    "repetition_penalty": _Row("sampling", _number(0)),
    "presence_penalty": _Row("sampling", _given.number),
    "frequency_penalty": _Row("sampling", _given.number),
    "min_tokens": _Row("sampling", _integer()),
    "max_tokens": _Row("", _integer()),
    "ignore_eos": _Row("", _given.flag),
}
_ELSEWHERE = {"stop", "logit_bias"}  # arrays, which the caller of fill() sees to
SOLVE_NAMES = {*_SOLVE, "stop_rule", "prefill_window"}
SAMPLE_NAMES = {*SOLVE_NAMES, *_SAMPLE, *_ELSEWHERE}


def fill(request: Any, options: Mapping[str, Any], known: set[str], model_tol: float) -> None:
    """Puts options into a request that the library made with the model's defaults."""
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise TypeError(f"unexpected keyword argument {name!r}; " + (f"is it {near[0]!r}?" if near else
                            "known are " + ", ".join(sorted(known))))
    _stop_rule(request.solve, options, model_tol)
    if "window" in options or "prefill_window" in options:  # the prompt's, where only the other is given, is that one
        request.solve.prefill_window = _given.integer("prefill_window", options.get("prefill_window", 0))
    for name, row in {**_SOLVE, **_SAMPLE}.items():
        if name in options:
            setattr(getattr(request, row.struct) if row.struct else request, name, row.check(name, options[name]))


def _stop_rule(solve: Any, options: Mapping[str, Any], model_tol: float) -> None:
    """As `deq generate --stop`: another rule brings its own tolerance, and those that read out go one by one."""
    if "stop_rule" not in options:
        return
    rule = _given.word("stop_rule", options["stop_rule"], _RULES)
    if rule != solve.stop:
        solve.stop = rule
        if rule != lib.DEQ_STOP_AT_RESIDUAL or model_tol > 0:
            solve.tol = lib.deq_stop_rule_tol(rule)
        if lib.deq_stop_reads(rule):
            solve.window, solve.prefill_window = 1, 0


def biases(options: Mapping[str, Any], vocab_size: int) -> Any:
    """logit_bias as the library takes it."""
    given = options.get("logit_bias", {})
    if not isinstance(given, Mapping):
        _given.wrong("logit_bias", given, "a dict of ids of tokens and what is added to their logits")
    made = ffi.new("struct deq_logit_bias[]", len(given))
    for i, (token, bias) in enumerate(given.items()):
        made[i].token = _given.integer("logit_bias", token, 0, vocab_size - 1)
        made[i].bias = _given.number("logit_bias", bias)
    return made


def stops(options: Mapping[str, Any]) -> list[bytes]:
    """The stop strings: an empty one would end every text before it began."""
    given = options.get("stop", ())
    strings = [given] if isinstance(given, str) else given
    if not isinstance(strings, Sequence) or isinstance(strings, (bytes, bytearray)) or "" in strings:
        _given.wrong("stop", given, "a text of at least a character, or a list of such")
    return [_given.utf8("stop", s) for s in strings]
