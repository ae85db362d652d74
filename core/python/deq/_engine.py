"""One engine for all threads: whoever waits for something steps it, and a step works for all requests under way.

A request is a Job. The library calls _on_event inside deq_step, on the thread that happens to step, and the job keeps
what it needs of the event; what it keeps is read by its own thread. So calls of several threads share every evaluation
of the cell, and a stream that nobody reads costs no thread.

Python may raise anywhere, and Ctrl-C does. An exception inside the callback cannot pass through C: it is kept, the
callback answers DEQ_STOP, and it is raised again behind the step. One between taking the engine's lock and the next
line would leave it taken for ever, were it not a lock that knows its thread: whoever holds it gives it back.
"""
from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from ._native import Error, ffi, lib, new_error, check

_LOOK_AGAIN_S = 0.01  # while another thread steps: whether that has brought what is waited for
_kept = threading.local()


class Job:
    """A request under way. Kinds of it say what they keep of an event."""

    def __init__(self) -> None:
        self.admitted = ffi.new("struct deq_admission *")  # filled within the call that submits
        self.ended = False
        self.abandoned = False
        self.finish = -1
        self.broken: BaseException | None = None
        self.borrowed: list[Any] = []  # what the engine reads until the end
        self.home: set[Job] = set()  # the engine's jobs: keeps the handle alive
        self.handle = ffi.new_handle(self)

    def event(self, e: Any) -> int:
        raise NotImplementedError

    def end(self, e: Any) -> None:
        self.finish = e.finish


def _failed(kind: Any, value: BaseException | None, traceback: Any) -> None:
    _kept.raised = value
    if traceback is not None:
        ffi.from_handle(traceback.tb_frame.f_locals["ctx"]).broken = value


def _event(ctx: Any, e: Any) -> int:
    job: Job = ffi.from_handle(ctx)
    if e.kind == lib.DEQ_EVENT_END:
        job.ended = True
        job.home.discard(job)
        job.end(e)
    elif job.abandoned or job.broken:
        return lib.DEQ_STOP  # type: ignore[no-any-return]
    else:
        return job.event(e)
    return lib.DEQ_CONTINUE  # type: ignore[no-any-return]


_on_event = ffi.callback("enum deq_verdict(void *, const struct deq_event *)", _event, error=lib.DEQ_STOP,
                         onerror=_failed)


def _raise_kept() -> None:
    raised, _kept.raised = getattr(_kept, "raised", None), None
    if raised is not None:
        raise raised


def _free(engine: Any, model: Any) -> None:
    lib.deq_engine_free(engine)
    lib.deq_model_free(model)


class Engine:
    """Owns the library's model and engine. Any thread. `with engine as model` keeps both while the model is used."""

    def __init__(self, model: Any, options: dict[str, int]):
        error, made = new_error(), ffi.new("struct deq_engine **")
        try:
            check(lib.deq_engine_new(model, ffi.new("struct deq_engine_opts *", options), made, error), error)
        except BaseException:
            lib.deq_model_free(model)
            raise
        self._model = model
        self._engine = made[0]
        self._lock: Any = threading.RLock()  # never taken twice by a thread: that it could be is only for _unlock
        self._use = threading.Lock()  # of what follows; may be taken within the other
        self._users = 0
        self._refusal = ""  # why it takes nothing any more
        self._jobs: set[Job] = set()
        self._left: deque[Job] = deque()
        self._finalizer = weakref.finalize(self, _free, self._engine, model)
        self._finalizer.atexit = False  # another thread may be inside a step then
        _engines.add(self)

    def __enter__(self) -> Any:
        with self._use:
            self._alive()
            self._users += 1
        return self._model

    def __exit__(self, *raised: object) -> None:
        with self._use:
            self._users -= 1
            self._free_unused()

    def close(self) -> None:
        with self._lock, self._use:
            self._refusal = self._refusal or "the model is closed"
            self._free_unused()

    def _free_unused(self) -> None:
        if self._refusal and not self._users:
            self._finalizer()

    def forked(self) -> None:
        """In a new process, where the engine's threads are not, and locks are as any thread held them."""
        self._refusal = "the model was loaded before a fork: load it in the new process, or start that by spawn"
        self._finalizer.detach()
        self._lock, self._use = threading.RLock(), threading.Lock()

    def _alive(self) -> None:
        if self._refusal:
            raise Error(self._refusal)

    def _unlock(self) -> None:
        while self._lock._is_owned():  # as threading.Condition asks
            self._lock.release()

    def submit(self, job: Job, request: Any) -> None:
        """Gives the request to the engine; where that is full, others' steps make room first."""
        request.event = _on_event
        request.ctx = job.handle
        error = new_error()
        while True:
            with self._lock:
                self._alive()
                self._cancel_left()
                job.home = self._jobs
                job.home.add(job)
                code = lib.deq_submit(self._engine, request, job.admitted, error)
                if not code:
                    return
                job.home.discard(job)
                if code != lib.DEQ_EFULL or not lib.deq_active(self._engine):
                    break
                lib.deq_step(self._engine)
            _raise_kept()
        check(code, error)

    def wait(self, job: Job, ready: Callable[[], bool]) -> None:
        """Steps until ready() or the job's end."""
        while not (job.ended or ready()):
            try:
                try:
                    if self._lock.acquire(timeout=_LOOK_AGAIN_S):
                        self._alive()
                        self._cancel_left()
                        if not (job.ended or ready()):
                            lib.deq_step(self._engine)
                finally:
                    self._unlock()
            finally:  # Ctrl-C within that
                self._unlock()
            _raise_kept()
        if job.broken:
            raise Error("a callback of this request was interrupted") from job.broken

    def leave(self, job: Job) -> None:
        """Ends a job that nobody wants any more. Also from a destructor, which may run inside a step of this very
        thread: then whoever steps next does it."""
        if job.ended:
            return
        job.abandoned = True
        self._left.append(job)
        if self._lock._is_owned():
            return
        try:
            try:
                if self._lock.acquire(blocking=False) and not self._refusal:
                    self._cancel_left()
            finally:
                self._unlock()
        finally:
            self._unlock()

    def _cancel_left(self) -> None:
        while self._left:
            job = self._left.popleft()
            if not job.ended:
                lib.deq_cancel(self._engine, job.admitted.id)


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forked() -> None:
    for engine in list(_engines):
        engine.forked()


os.register_at_fork(after_in_child=_forked)
