"""Deep equilibrium language models: loaded, solved, looked into, trained.

    import deq
    model = deq.load("models/stories")
    print(model.generate("Once upon a time", max_tokens=60))

README.md beside this package is its chapter; help(deq.Model) has the methods.
"""
from ._native import (Error, FormatError, Full, NoMemory, NotFound, NumericError, RequestError, SystemRefused, lib,
                      text as _text)
from .model import Model, Prompt, Stream, load
from .options import SampleOptions, SolveOptions
from .programs import TrainEvent, import_checkpoint, train
from .results import Equilibria, Generation, Info, Logprobs, Row, Solution

__version__ = _text(lib.deq_version())
__all__ = ["Equilibria", "Error", "FormatError", "Full", "Generation", "Info", "Logprobs", "Model", "NoMemory",
           "NotFound", "NumericError", "Prompt", "RequestError", "Row", "SampleOptions", "Solution", "SolveOptions",
           "Stream", "SystemRefused", "TrainEvent", "import_checkpoint", "load", "train"]
