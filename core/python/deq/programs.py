"""Making models: what the program `deq`, which stands beside the library, does in a process of its own.

Training and importing are its commands and not functions of the library: a run of hours is a process that can be
stopped, resumed and watched from outside, it takes its memory and its threads with it when it ends, and a daemon's
library carries neither an optimiser nor a reader of pickles. `deq train --json` prints a line a step; a callback gets
them. A state dict goes over as a file of safetensors, tensor by tensor, without a copy of the whole.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import _given
from ._given import StrPath
from ._native import PROGRAM, Error, NotFound, RequestError

TrainEvent = dict[str, Any]
"""A line of train.jsonl: "event" is "start", "step", "valid", "predictor" or "tune"; the rest stands in
models/recipes/README.md."""

_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
           "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"}


def train(recipe: StrPath | Mapping[str, Any], data: StrPath, out: StrPath, *,
          on_event: Callable[[TrainEvent], object] | None = None, settings: Mapping[str, object] | None = None,
          init: StrPath | None = None, threads: int = 0, resume: bool = False) -> list[TrainEvent]:
    """Trains a model, and returns the run's events.

    recipe: a YAML file, or the same as nested dicts. data: a directory of texts, or one text file. out: the model
    directory to write. on_event: called with each event as it comes. settings: keys of the recipe to override,
    {"train.steps": 200}. init: a model directory to start from. threads: 0 is all cores. resume: go on from the
    checkpoint in out.

    An exception of on_event, or Ctrl-C, has a checkpoint saved, and is raised when the run has ended. RequestError
    names what is wrong of the arguments or of a recipe's dicts; Error is what the program said of files and the run.
    """
    if on_event is not None and not callable(on_event):
        _given.wrong("on_event", on_event, "a function of one event")
    with tempfile.TemporaryDirectory() as scratch:
        command = ["train", _file("recipe", recipe, Path(scratch, "recipe.yaml")),  # JSON is YAML, too
                   "--data", _place("data", data), "--out", _place("out", out), "--json"]
        for key, value in _mapping("settings", {} if settings is None else settings).items():
            said = value if isinstance(value, str) else _json("settings", value)
            command += ["--set", _argument("settings", f"{key}={said}")]
        if init is not None:
            command += ["--init", _place("init", init)]
        if _given.integer("threads", threads, 0, 256):
            command += ["--threads", str(int(threads))]
        if _given.flag("resume", resume):
            command += ["--resume"]
        return _run_lines(command, on_event, scratch)


def _argument(field: str, value: str) -> str:
    """What a command line can have."""
    if b"\0" in _given.utf8(field, value):
        _given.wrong(field, value, "a text without NUL")
    return value


def _place(field: str, value: StrPath) -> str:
    """A path that no program takes for an option."""
    given = _given.path(field, value)
    return "./" + given if given.startswith("-") else given


def _json(field: str, value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError) as e:
        raise RequestError(f"{field}: is no JSON: {e}", field) from None


def _mapping(field: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        _given.wrong(field, value, "a dict whose keys are texts")
    return value


def _file(field: str, value: Any, place: Path) -> str:
    """A file that is given, or one with what is given."""
    if not isinstance(value, Mapping):
        return _place(field, value)
    place.write_text(_json(field, _mapping(field, value)))
    return str(place)


def _run_lines(command: list[str], on_event: Callable[[TrainEvent], object] | None, scratch: str) -> list[TrainEvent]:
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
        _raise_for(code, said, scratch)
    return events


_FLAGS = {"--set": "settings"}


def _raise_for(code: int, said: Any, scratch: str) -> None:
    """The program's last line, in the words of the caller, who knows arguments and no files made of them."""
    if not code:
        return
    said.seek(0)
    lines = said.read().decode("utf-8", "replace").strip().splitlines()
    message = lines[-1] if lines else f"the program {PROGRAM} ended with {code}"
    message = re.sub(r"^deq [a-z]+: ", "", message)
    message = re.sub(re.escape(scratch) + r"/(recipe|config|vocab|tokenizer)\.\w+", r"\1", message)
    message = re.sub(re.escape(scratch) + r"(/model\.safetensors)?", "source", message)
    flag = re.match(r"(--[a-z]+):? ", message)
    if flag:
        message = _FLAGS.get(flag[1], flag[1][2:]) + ": " + message[flag.end():]
    of_argument = re.match(r"(recipe|config|vocab|tokenizer|source|data|out|init|settings|threads|resume): ", message)
    if of_argument or code == 2:
        raise RequestError(message, of_argument and of_argument[1])
    raise Error(message)


def import_checkpoint(source: StrPath | Mapping[str, Any], out: StrPath, *,
                      config: Mapping[str, Any] | StrPath | None = None, vocab: Iterable[str] | StrPath | None = None,
                      tokenizer: StrPath | None = None) -> Path:
    """Makes a model directory of what the authors' code trained, and returns its path, out.

    source: a live state dict (torch's, or any mapping of names to arrays), or a checkpoint's path. config: the
    constructor's arguments with "model_type", as a dict or a JSON file; a directory has its own. vocab: the words in
    the order of their ids, or a file of them. tokenizer: a tokenizer.json, of a state dict whose kind has one.
    models/README.md has the kinds, their arguments and the names of their tensors.

    RequestError names the argument that is wrong, or the tensor; Error is what the program said of files.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        if isinstance(source, Mapping):
            if config is None:
                raise RequestError("config: a state dict needs the constructor's arguments, with model_type", "config")
            write_safetensors(source, place / "model.safetensors")
            if tokenizer is not None:
                try:
                    shutil.copyfile(_given.path("tokenizer", tokenizer), place / "tokenizer.json")
                except OSError as e:
                    raise NotFound(f"tokenizer: {e}") from None
            source = place
        elif hasattr(source, "state_dict"):
            _given.wrong("source", source, "a state dict, such as its state_dict()")
        elif tokenizer is not None:
            raise RequestError("tokenizer: of a checkpoint's path, its own directory has it", "tokenizer")
        command = ["import", _place("source", source), "--out", _place("out", out)]
        if config is not None:
            command += ["--config", _file("config", config, place / "config.json")]
        if vocab is not None:
            command += ["--vocab", _vocab(vocab, place / "vocab.txt")]
        with tempfile.TemporaryFile() as said:
            _raise_for(subprocess.run([PROGRAM, *command], stdout=subprocess.DEVNULL, stderr=said).returncode, said,
                       scratch)
    return Path(out)


def _vocab(vocab: Any, place: Path) -> str:
    if isinstance(vocab, (str, os.PathLike)) or not isinstance(vocab, Iterable):
        return _place("vocab", vocab)
    with open(place, "wb") as f:
        for word in vocab:
            if not isinstance(word, str) or not word or word.split() != [word]:
                _given.wrong("vocab", word, "words without blanks")  # behind one, a file may have a count
            f.write(_given.utf8("vocab", word) + b"\n")
    return str(place)


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


def _array(name: object, tensor: Any) -> tuple[str, np.ndarray[Any, Any]]:
    """A tensor's numbers, where they lie if they lie in memory of the CPU, and safetensors' word for their type."""
    if not isinstance(name, str):
        _given.wrong("source", name, "names of tensors as keys")
    if not hasattr(tensor, "dtype"):
        _given.wrong("source", tensor, f'an array as "{name}" (of a dict with more than weights, its state dict)')
    kind = str(tensor.dtype).rpartition(".")[2]
    if kind not in _DTYPES:
        raise RequestError(f"source: {name}: numbers of {tensor.dtype} are no weights", "source")
    if hasattr(tensor, "detach"):
        try:
            tensor = tensor.detach().cpu()
            if kind == "bfloat16":  # which numpy has not: the same bytes
                tensor = tensor.contiguous().view(sys.modules["torch"].int16)
            tensor = tensor.numpy()
        except (RuntimeError, TypeError, NotImplementedError) as e:  # sparse, or of the device "meta"
            raise RequestError(f"source: {name}: its numbers cannot be had: {e}", "source") from e
    return _DTYPES[kind], np.asarray(tensor)
