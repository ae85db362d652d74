"""Making models: what the program `deq`, which stands beside the library, does in a process of its own.

Training and importing are its commands and not functions of the library: a run of hours is a process that can be
stopped, resumed and watched from outside, it takes its memory and its threads with it when it ends, and a daemon's
library carries neither an optimiser nor a reader of pickles. `deq train --json` prints a line a step; a callback gets
them. A state dict goes over as a file of safetensors, tensor by tensor, without a copy of the whole.
"""
from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ._native import PROGRAM, Error, RequestError

StrPath = str | os.PathLike[str]
TrainEvent = dict[str, Any]
"""A line of train.jsonl: "event" is "start", "step", "valid", "predictor" or "tune"; the rest stands in
models/recipes/README.md."""

_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
           "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}


def train(recipe: StrPath | Mapping[str, Any], data: StrPath, out: StrPath, *,
          on_event: Callable[[TrainEvent], object] | None = None, settings: Mapping[str, object] | None = None,
          init: StrPath | None = None, threads: int = 0, resume: bool = False) -> list[TrainEvent]:
    """Trains a model, and returns the run's events.

    recipe: a file, or the same as nested dicts. data: a directory, or one text file. settings: keys of the recipe to
    override, {"train.steps": 200}. init: a model directory to start from. An exception of on_event, or Ctrl-C, has a
    checkpoint saved, and is raised when the run has ended; resume goes on from there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(recipe, Mapping):
            path = Path(scratch, "recipe.yaml")
            path.write_text(json.dumps(recipe))  # which is YAML, too
            recipe = path
        command = ["train", recipe, "--data", data, "--out", out, "--json"]
        for key, value in (settings or {}).items():
            command += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        command += ["--init", init] if init else []
        command += ["--threads", str(threads)] if threads else []
        command += ["--resume"] if resume else []
        return _run_lines(command, on_event)


def _run_lines(command: list[Any], on_event: Callable[[TrainEvent], object] | None) -> list[TrainEvent]:
    events: list[TrainEvent] = []
    with tempfile.TemporaryFile() as said:
        # of a session of its own: Ctrl-C comes to it once, from here, wherever Python runs
        with subprocess.Popen([PROGRAM, *command], stdout=subprocess.PIPE, stderr=said, start_new_session=True) as run:
            assert run.stdout
            try:
                for line in run.stdout:
                    events.append(json.loads(line))
                    if on_event:
                        on_event(events[-1])
                code = run.wait()
            except BaseException:
                run.send_signal(signal.SIGINT)
                for line in run.stdout:  # until its checkpoint is saved
                    pass
                run.wait()
                raise
        _raise_for(code, said)
    return events


def _raise_for(code: int, said: Any) -> None:
    if code:
        said.seek(0)
        lines = said.read().decode("utf-8", "replace").strip().splitlines()
        message = lines[-1] if lines else f"the program {PROGRAM} ended with {code}"
        raise RequestError(message) if code == 2 else Error(message)


def import_checkpoint(source: StrPath | Mapping[str, Any], out: StrPath, *,
                      config: Mapping[str, Any] | StrPath | None = None, vocab: Iterable[str] | StrPath | None = None,
                      tokenizer: StrPath | None = None) -> Path:
    """Makes a model directory of what the authors' code trained, and returns its path.

    source: a live state dict (torch's, or any mapping to arrays), or a checkpoint's path. config: the constructor's
    arguments with "model_type", as a dict or a JSON file; a directory has its own. vocab: the words in the order of
    their ids, or a file of them. tokenizer: a tokenizer.json. models/README.md has the kinds.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        if isinstance(source, Mapping):
            write_safetensors(source, place / "model.safetensors")
            if tokenizer:
                shutil.copyfile(tokenizer, place / "tokenizer.json")
            source = place
        elif tokenizer:
            raise RequestError("tokenizer: of a checkpoint's path, its own directory has it", "tokenizer")
        command: list[Any] = ["import", source, "--out", out]
        if isinstance(config, Mapping):
            (place / "config.json").write_text(json.dumps(config))
            config = place / "config.json"
        command += ["--config", config] if config else []
        if vocab is not None and not isinstance(vocab, (str, os.PathLike)):
            (place / "vocab.txt").write_text("".join(word + "\n" for word in vocab))
            vocab = place / "vocab.txt"
        command += ["--vocab", vocab] if vocab else []
        with tempfile.TemporaryFile() as said:
            _raise_for(subprocess.run([PROGRAM, *command], stdout=subprocess.DEVNULL, stderr=said).returncode, said)
    return Path(out)


def write_safetensors(tensors: Mapping[str, Any], path: StrPath) -> None:
    """Arrays as a file: eight bytes of length, a header in JSON, the numbers, row-major and little-endian."""
    arrays = {name: _array(name, t) for name, t in tensors.items()}
    header: dict[str, Any] = {}
    at = 0
    for name, (kind, array) in arrays.items():
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, array in arrays.values():
            f.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _array(name: str, tensor: Any) -> tuple[str, np.ndarray[Any, Any]]:
    """A tensor's numbers, where they lie if they lie in memory of the CPU, and safetensors' word for their type."""
    kind = str(tensor.dtype).rpartition(".")[2]
    if kind not in _DTYPES:
        raise RequestError(f"{name}: numbers of {tensor.dtype} are no weights", name)
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if kind == "bfloat16":  # which numpy has not: the same bytes
            tensor = tensor.contiguous().view(sys.modules["torch"].int16)
        tensor = tensor.numpy()
    return _DTYPES[kind], np.asarray(tensor)
