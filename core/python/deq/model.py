"""A model to ask: Model and Stream."""
from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Unpack, cast, overload

import numpy as np
from numpy.typing import NDArray

from . import _given
from ._engine import Engine
from ._jobs import PromptJob, TextJob, finish_name
from ._native import Error, NumericError, RequestError, check, ffi, lib, names, new_error, text
from .options import SAMPLE_NAMES, SOLVE_NAMES, SampleOptions, SolveOptions, biases, fill, stops
from .results import Equilibria, Floats, Generation, Ids, Info, Logprobs, Solution

Prompt = str | Sequence[int] | NDArray[np.integer[Any]]
"""A text, or the ids of its tokens; an array of uint32 is read where it lies."""

_CLASSES = names(lib.deq_class_name, lib.DEQ_CLASS_COUNT)
_INFO_TEXTS = ("model_type", "kernels", "fingerprint")


def load(directory: str | os.PathLike[str], *, numeric: str | None = None, threads: int = 0, max_sequences: int = 0,
         max_positions: int = 0, cache_bytes: int = 0) -> Model:
    """Loads a model directory (config.json, model.safetensors, tokenizer.json).

    numeric: "float32", "int16" or "int8" to compute in; None: the model's own. threads: of its engine; 0: all cores
    that this process may use. max_sequences: requests under way at once, others wait; 0: 32. max_positions: of one
    request, prompt and text; 0: 8 times what a position sees, at least 2048. cache_bytes: memory for the states of
    positions; 0: what max_sequences full windows need.

    NotFound: there is no such model. FormatError: a file of it is damaged. RequestError names a wrong argument.
    """
    place = os.fsencode(_given.path("directory", directory))
    chosen = ffi.NULL
    if numeric is not None:
        chosen = ffi.new("enum deq_class *", _given.word("numeric", numeric, _CLASSES))
    options = {"threads": _given.integer("threads", threads, 0, 256) or lib.deq_cores(),
               "max_sequences": _given.integer("max_sequences", max_sequences, 0, 65536),
               "max_positions": _given.integer("max_positions", max_positions, 0, 1 << 24),
               "cache_bytes": _given.integer("cache_bytes", cache_bytes, 0, _given.U64)}
    made, error = ffi.new("struct deq_model **"), new_error()
    check(lib.deq_model_load(place, chosen, made, error), error)
    return Model(Engine(made[0], options))


class Stream(Iterator[str]):
    """A text while it is found, which Model.stream began: iterate over its pieces, from one thread. Leaving it (close,
    the end of a with block, or the last reference) ends the work; Ctrl-C does too."""

    def __init__(self, model: Model, prompt: Ids, job: TextJob):
        self._model, self._prompt, self._job = model, prompt, job
        self._taken: list[str] = []

    def __next__(self) -> str:
        job = self._job
        try:
            self._model._engine.wait(job, lambda: bool(job.pieces))
        except BaseException:
            self.close()
            raise
        if not job.pieces:
            _whole(job)
            raise StopIteration
        self._taken.append(job.pieces.popleft())
        return self._taken[-1]

    def result(self) -> Generation:
        """The whole text; what is left of it is found first. Error: it was left before its end."""
        for _ in self:
            pass
        return _generation("".join(self._taken), self._prompt, self._job)

    def close(self) -> None:
        """Ends the work where it is."""
        self._model._engine.leave(self._job)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Model:
    """A loaded model with an engine, which load() makes. Any thread may call anything; calls of several share every
    evaluation of the cell, and each gets the bits that it would get alone. While the library computes, other threads
    of Python run.

    A prompt is a text, or the ids of its tokens, [n]: a list, or an array of integers, which is read where it lies if
    it is uint32 without gaps. A prompt of no tokens is the one that begins texts. Keywords of the methods are those of
    SolveOptions and SampleOptions.

    Errors: RequestError, a ValueError whose `field` is the parameter, of a value that cannot be; TypeError of a
    keyword that is none; Error of a model that is closed, or that was loaded before a fork; NumericError where the
    solver met values that are not finite.
    """

    info: Info
    """what the model is"""

    def __init__(self, engine: Engine):
        if not isinstance(engine, Engine):
            raise TypeError("a Model is made by deq.load(directory)")
        self._engine = engine
        with engine as model:
            c = lib.deq_model_info(model)
        self._start = max(c.start_id, 0)  # what a text of no tokens is
        told: dict[str, Any] = {name: getattr(c, name) for name in Info.__dataclass_fields__}
        told.update({name: text(told[name]) for name in _INFO_TEXTS})
        told.update(numeric=_CLASSES[c.numeric], solver=text(lib.deq_solver_name(c.solver)))
        self.info = Info(**told)

    def close(self) -> None:
        """Gives the memory back now, or when the last call that reads the model ends; further ones are refused."""
        self._engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    # --- Tokens ---

    def encode(self, string: str, *, special: bool = False) -> Ids:
        """The tokens of a text, [n] uint32, without the one that begins texts. special: names of special tokens in it
        are those tokens."""
        return self._encode("string", string, _given.flag("special", special), begin=False)

    def decode(self, tokens: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The bytes of tokens, [n], as text; what is no UTF-8 is U+FFFD, and special tokens are their names."""
        ids = _given.token_ids("tokens", tokens, self.info.vocab_size)
        return b"".join(self.token_bytes(int(t)) for t in ids).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of a token, which may be part of a character."""
        n = ffi.new("size_t *")
        with self._engine as model:
            found = lib.deq_token_bytes(model, _given.integer("token", token, 0, self.info.vocab_size - 1), n)
            return bytes(ffi.buffer(found, n[0]))

    def _encode(self, field: str, string: str, special: bool, begin: bool) -> Ids:
        data, list_, error = _given.utf8(field, string), ffi.new("struct deq_tokens *"), new_error()
        try:
            with self._engine as model:
                check(lib.deq_encode(model, data, len(data), special, list_, error), error)
                if begin and not lib.deq_begin_text(model, list_):
                    raise MemoryError("no memory for the prompt")
            ids = np.empty(list_.n, np.uint32)
            ffi.memmove(ffi.from_buffer(ids), list_.ids, ids.nbytes)
            return ids
        finally:
            lib.deq_tokens_free(list_)

    def _ids(self, prompt: Prompt) -> Ids:
        if isinstance(prompt, str):
            ids = self._encode("prompt", prompt, False, begin=True)
        else:
            ids = _given.token_ids("prompt", prompt, self.info.vocab_size)
        return ids if len(ids) else np.array([self._start], np.uint32)

    # --- Texts ---

    def _request(self, prompt: Ids, options: Mapping[str, Any], known: set[str]) -> Any:
        with self._engine as model:
            request = ffi.new("struct deq_request *", lib.deq_request_defaults(model))
        fill(request, options, known, self.info.tol)
        request.n_prompt = len(prompt)
        return request

    def _submit(self, job: Any, request: Any, prompt: Ids) -> None:
        pointer = ffi.from_buffer("uint32_t[]", prompt)
        request.prompt = pointer  # read before this returns
        self._engine.submit(job, request)

    def _begin(self, prompt: Prompt, options: Mapping[str, Any], solution: bool = False, trace: bool = False) -> Stream:
        ids = self._ids(prompt)
        request = self._request(ids, {"max_tokens": 100, **options}, SAMPLE_NAMES)
        if not request.max_tokens:
            raise RequestError("max_tokens: 0 generates nothing; equilibria() and logprobs() read a text", "max_tokens")
        if self.info.max_positions > len(ids):  # the text ends there
            request.max_tokens = min(request.max_tokens, self.info.max_positions - len(ids))
        request.want_trace = trace
        with self._engine as model:  # which the job keeps for the engine's events
            job = TextJob(model, int(ids[-1]), -1 if request.ignore_eos else self.info.eos_id, stops(options),
                          self.info.state_dim if solution else 0)
        if "logit_bias" in options:
            job.borrowed.append(biases(options, self.info.vocab_size))
            request.sampling.bias, request.sampling.n_bias = job.borrowed[0], len(job.borrowed[0])
        stream = Stream(self, ids, job)  # which leaves the job when Ctrl-C comes before it is returned
        self._submit(job, request, ids)
        return stream

    @overload
    def generate(self, prompt: str, **options: Unpack[SampleOptions]) -> Generation: ...

    @overload
    def generate(self, prompt: list[str], **options: Unpack[SampleOptions]) -> list[Generation]: ...

    @overload
    def generate(self, prompt: Prompt, **options: Unpack[SampleOptions]) -> Generation: ...

    def generate(self, prompt: Prompt | list[str], **options: Unpack[SampleOptions]) -> Generation | list[Generation]:
        """Continues a prompt, or each of a list of texts, which are solved together. (An empty list is a prompt of no
        tokens.)"""
        if isinstance(prompt, (list, tuple)) and prompt and all(isinstance(p, str) for p in prompt):
            streams = [self._begin(p, options) for p in prompt]
            return [s.result() for s in streams]
        return self._begin(cast(Prompt, prompt), options).result()

    def stream(self, prompt: Prompt, **options: Unpack[SampleOptions]) -> Stream:
        """The same, piece by piece: for piece in model.stream("Once upon a time"): print(piece, end="")"""
        return self._begin(prompt, options)

    def solve(self, prompt: Prompt, *, trace: bool = True, **options: Unpack[SampleOptions]) -> Solution:
        """The text of generate with its equilibria, [n, D], and, with trace, every row of the window: when it entered
        and left, and its residual after each evaluation."""
        stream = self._begin(prompt, options, solution=True, trace=_given.flag("trace", trace))
        g, job = stream.result(), stream._job
        states = np.stack(job.states) if job.states else np.empty((0, self.info.state_dim), np.float32)
        return Solution(**g.__dict__, states=states, rows=job.rows)

    # --- Reading a text ---

    def _read(self, job: PromptJob, options: Mapping[str, Any], **members: Any) -> None:
        request = self._request(job.tokens, options, SOLVE_NAMES)
        request.max_tokens = 0
        for name, value in members.items():
            setattr(request, name, value)
        try:
            self._submit(job, request, job.tokens)
            self._engine.wait(job, lambda: False)
        finally:
            self._engine.leave(job)
        _whole(job)

    def logprobs(self, prompt: Prompt, *, top: int = 0, **options: Unpack[SolveOptions]) -> Logprobs:
        """log p of each token of a text given those before it, in nats, with the `top` most probable tokens there."""
        job = PromptJob(self._ids(prompt), vocab_size=self.info.vocab_size,
                        top=_given.integer("top", top, 0, self.info.vocab_size))
        self._read(job, options, want_prompt=True)
        return Logprobs(job.tokens, job.logprobs, job.top_tokens, job.top_logprobs, job.evaluations, job.residuals)

    def logits(self, prompt: Prompt, **options: Unpack[SolveOptions]) -> Floats:
        """[n, V] float32: at each position of a text, of the token behind it."""
        job = PromptJob(self._ids(prompt), vocab_size=self.info.vocab_size, logits=True)
        self._read(job, options, want_prompt=True)
        return job.logits

    def equilibria(self, prompt: Prompt, *, jacobian: bool = False, **options: Unpack[SolveOptions]) -> Equilibria:
        """The states z* = f(z*) at every position of a text, [n, D]. jacobian: with an estimate of the spectral radius
        of df/dz at the last one, by 32 products."""
        products = 32 if _given.flag("jacobian", jacobian) else 0
        job = PromptJob(self._ids(prompt), state_dim=self.info.state_dim)
        self._read(job, options, states=lib.DEQ_STATES_ALL, products=products)
        return Equilibria(job.tokens, job.states, job.residuals, job.evaluations, job.converged,
                          job.spectral_radius if jacobian else float("nan"))


def _whole(job: Any) -> None:
    if job.finish == lib.DEQ_FINISH_NUMERIC:
        raise NumericError("the solver met values that are not finite")
    if job.finish == lib.DEQ_FINISH_CANCELED:
        raise Error("the request was left before its end")


def _generation(string: str, prompt: Ids, job: TextJob) -> Generation:
    return Generation(text=string, prompt_tokens=prompt, tokens=np.array(job.tokens, np.uint32),
                      finish=finish_name(job), evaluations=np.array(job.evaluations, np.uint32),
                      residuals=np.array(job.residuals, np.float32), converged=np.array(job.converged, np.bool_))
