"""What a call may ask for beside its text: keywords of the methods of Model, as rows of one table.

A value of a wrong type or out of range raises RequestError, whose `field` is the keyword.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from ._native import RequestError, ffi, lib, names


class SolveOptions(TypedDict, total=False):
    """How equilibria are sought. What is not given stays as the model has it."""

    tol: float
    """Relative residual ||f(z) - z|| / ||f(z)|| at which a position counts as solved."""
    max_iter: int
    """Evaluations of a position at most."""
    min_iter: int
    """Evaluations of a position at least."""
    solver: str
    """"picard", "anderson" or "broyden"."""
    warm_start: str
    """Where a position's state starts: "zero", "previous", "predictor" or "proposal"."""
    stop_rule: str
    """What tol is of: "residual", "latent", "kl" or "argmax"."""
    window: int
    """Positions that are solved at a time behind those that are final, 1 to 64."""
    prefill_window: int
    """The same while a prompt is read; else window."""
    max_evaluations: int
    """A budget for the positions of a text behind its prompt; with window 1."""


class SampleOptions(SolveOptions, total=False):
    """How tokens are picked. The default is greedy."""

    max_tokens: int
    """Tokens to generate at most, 100 unless it is said."""
    temperature: float
    """0 is greedy."""
    top_p: float
    """Keep the most probable tokens that hold so much of the probability."""
    top_k: int
    """Keep so many of the most probable tokens; 0: all."""
    min_p: float
    """Keep tokens at least so many times as probable as the first."""
    seed: int
    """The same seed gives the same text, in any company."""
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    min_tokens: int
    """The text does not end by itself before."""
    logit_bias: Mapping[int, float]
    """Added to tokens' logits; -100 forbids, 100 forces."""
    stop: str | Sequence[str]
    """The text ends before any of these."""
    ignore_eos: bool
    """Go on past the end of a text."""


_SOLVERS = names(lib.deq_solver_name, lib.DEQ_SOLVER_COUNT)
_WARMS = names(lib.deq_warm_name, lib.DEQ_WARM_COUNT)
_RULES = names(lib.deq_stop_rule_name, lib.DEQ_STOP_RULES)

# keyword: (struct of a request, its member, words of an enum or None)
_SOLVE: dict[str, tuple[str, str, list[str] | None]] = {
    "tol": ("solve", "tol", None),
    "max_iter": ("solve", "max_iter", None),
    "min_iter": ("solve", "min_iter", None),
    "solver": ("solve", "solver", _SOLVERS),
    "warm_start": ("solve", "warm_start", _WARMS),
    "window": ("solve", "window", None),
    "max_evaluations": ("solve", "max_evaluations", None),
}
_SAMPLE = {
    name: ("sampling", name, None)
    for name in ("temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "presence_penalty",
                 "frequency_penalty", "min_tokens")
}
_ELSEWHERE = {"stop", "logit_bias"}  # arrays, which the caller of fill() sees to
SOLVE_NAMES = {*_SOLVE, "stop_rule", "prefill_window"}
SAMPLE_NAMES = {*SOLVE_NAMES, *_SAMPLE, *_ELSEWHERE, "max_tokens", "ignore_eos"}


def word(field: str, value: Any, words: list[str]) -> int:
    if value not in words:
        raise RequestError(f"{field}: {value!r} is not one of {', '.join(words)}", field)
    return words.index(value)


def put(field: str, struct: Any, member: str, value: Any) -> None:
    try:
        setattr(struct, member, value)
    except (TypeError, OverflowError) as e:
        raise RequestError(f"{field}: {value!r} is no value for it ({e})", field) from None


def fill(request: Any, options: Mapping[str, Any], known: set[str], model_tol: float) -> None:
    """Puts options into a request that the library made with the model's defaults."""
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}; known are {', '.join(sorted(known))}")
    _stop_rule(request.solve, options, model_tol)
    if "window" in options or "prefill_window" in options:  # the prompt's, where only the other is given, is that one
        put("prefill_window", request.solve, "prefill_window", options.get("prefill_window", 0))
    for name, (struct, member, words) in {**_SOLVE, **_SAMPLE}.items():
        if name in options:
            value = options[name]
            put(name, getattr(request, struct), member, value if words is None else word(name, value, words))
    for name in ("max_tokens", "ignore_eos"):
        if name in options:
            put(name, request, name, options[name])


def _stop_rule(solve: Any, options: Mapping[str, Any], model_tol: float) -> None:
    """As `deq generate --stop`: another rule brings its own tolerance, and those that read out go one by one."""
    if "stop_rule" not in options:
        return
    rule = word("stop_rule", options["stop_rule"], _RULES)
    if rule != solve.stop:
        solve.stop = rule
        if rule != lib.DEQ_STOP_AT_RESIDUAL or model_tol > 0:
            solve.tol = lib.deq_stop_rule_tol(rule)
        if lib.deq_stop_reads(rule):
            solve.window, solve.prefill_window = 1, 0


def biases(options: Mapping[str, Any]) -> Any:
    """logit_bias as the library takes it."""
    made = ffi.new("struct deq_logit_bias[]", len(options.get("logit_bias", ())))
    for i, (token, bias) in enumerate(options.get("logit_bias", {}).items()):
        put("logit_bias", made[i], "token", token)
        put("logit_bias", made[i], "bias", bias)
    return made


def stops(options: Mapping[str, Any]) -> list[bytes]:
    """The stop strings: an empty one would end every text before it began."""
    stop = options.get("stop", ())
    strings = [stop] if isinstance(stop, str) else list(stop)
    for s in strings:
        if not isinstance(s, str) or not s:
            raise RequestError(f"stop: {s!r} is not a text of at least a character", "stop")
    return [s.encode() for s in strings]
