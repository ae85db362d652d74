"""The kinds of requests, and what each keeps of the events that the engine tells it."""
from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from ._engine import Job
from ._native import check, ffi, lib, new_error, text
from .results import Floats, Ids, Row

_TEXT_MAX = 64 << 20
_FATES = {
    lib.DEQ_ROW_COMMITTED: "committed",
    lib.DEQ_ROW_MISGUESSED: "misguessed",
    lib.DEQ_ROW_NOT_FINITE: "not finite",
    lib.DEQ_ROW_LEFT_OPEN: "left open",
}


def copy_floats(to: Floats, pointer: Any) -> None:
    """Of an array that is borrowed from an event."""
    ffi.memmove(ffi.from_buffer(to), pointer, to.nbytes)




class TextJob(Job):
    """A text that grows behind a prompt, cut at its stop strings as the daemon cuts it."""

    def __init__(self, model: Any, prev: int, eos_id: int, stops: list[bytes], state_dim: int):
        super().__init__()
        self.model, self.prev, self.eos_id, self.state_dim = model, prev, eos_id, state_dim
        self.pieces: deque[str] = deque()
        self.tokens: list[int] = []
        self.evaluations: list[int] = []
        self.residuals: list[float] = []
        self.converged: list[bool] = []
        self.states: list[Floats] = []
        self.rows: list[Row] = []
        self.stopped = False
        self.length = ffi.new("size_t *")
        self.out = ffi.gc(ffi.new("struct deq_buf *"), lib.deq_buf_free)
        lib.deq_buf_init(self.out, _TEXT_MAX)
        made, error = ffi.new("struct deq_text **"), new_error()
        chars = [ffi.from_buffer(s) for s in stops]
        check(lib.deq_text_new(ffi.new("const char *[]", chars), ffi.new("size_t[]", [len(s) for s in stops]),
                               len(stops), made, error), error)
        self.shown = ffi.gc(made[0], lib.deq_text_free)

    def event(self, e: Any) -> int:
        if e.trace:
            self._keep_row(e)
        if e.kind == lib.DEQ_EVENT_TOKEN:
            self._keep_token(e)
        return lib.DEQ_STOP if self.stopped else lib.DEQ_CONTINUE  # type: ignore[no-any-return]

    def end(self, e: Any) -> None:
        super().end(e)
        if not self.stopped:
            lib.deq_text_end(self.shown, self.out)
            self._show()

    def _keep_token(self, e: Any) -> None:
        self.tokens.append(e.token)
        self.evaluations.append(e.evaluations)
        self.residuals.append(e.residual)
        self.converged.append(e.converged)
        if self.state_dim:
            state = np.empty(self.state_dim, np.float32)
            copy_floats(state, e.state)
            self.states.append(state)
        if e.token == self.eos_id:
            return
        added = lib.deq_token_text(self.model, self.prev, e.token, self.length)
        if added:
            self.prev = e.token
            self.stopped = lib.deq_text_push(self.shown, added, self.length[0], self.out) >= 0
            self._show()

    def _keep_row(self, e: Any) -> None:
        t = e.trace
        residuals = np.empty(t.n, np.float32)
        copy_floats(residuals, t.residual)
        self.rows.append(Row(e.position, e.token, _FATES[t.fate], t.entered, t.left, t.guessed, residuals))

    def _show(self) -> None:
        if self.out.len:
            self.pieces.append(str(ffi.buffer(self.out.data, self.out.len)[:], "utf-8"))
            lib.deq_buf_reset(self.out)


class PromptJob(Job):
    """The positions of a prompt, as it is read: what was reached there, and states or log-probabilities."""

    def __init__(self, tokens: Ids, state_dim: int = 0, vocab_size: int = 0, top: int = 0, logits: bool = False):
        super().__init__()
        n = len(tokens)
        self.tokens, self.vocab_size, self.top = tokens, vocab_size, top
        self.residuals = np.full(n, np.nan, np.float32)
        self.evaluations = np.zeros(n, np.uint32)
        self.converged = np.zeros(n, np.bool_)
        self.states = np.empty((n, state_dim), np.float32)
        self.logits = np.empty((n if logits else 0, vocab_size), np.float32)
        self.logprobs = np.full(n, np.nan, np.float32)
        self.top_tokens = np.zeros((n, top), np.uint32)
        self.top_logprobs = np.full((n, top), np.nan, np.float32)
        self.spectral_radius = float("nan")

    def event(self, e: Any) -> int:
        p = e.position
        self.residuals[p], self.evaluations[p], self.converged[p] = e.residual, e.evaluations, e.converged
        if self.states.shape[1]:
            copy_floats(self.states[p], e.state)
            self.spectral_radius = e.spectral_radius
        elif len(self.logits):
            copy_floats(self.logits[p], e.logits)
        elif p + 1 < len(self.tokens):
            self._foretell(p + 1, e.logits)
        return lib.DEQ_CONTINUE  # type: ignore[no-any-return]

    def _foretell(self, p: int, logits: Any) -> None:
        all_ = ffi.new("struct deq_log_normaliser *", lib.deq_log_normaliser(logits, self.vocab_size))
        self.logprobs[p] = lib.deq_logprob(all_, logits[int(self.tokens[p])])
        if self.top:
            row = self.top_tokens[p]
            lib.deq_top_tokens(logits, self.vocab_size, self.top, ffi.from_buffer("uint32_t[]", row))
            self.top_logprobs[p] = [lib.deq_logprob(all_, logits[int(i)]) for i in row]


def finish_name(job: Job) -> str:
    return text(lib.deq_finish_name(job.finish))
