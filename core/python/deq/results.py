"""What calls return. Arrays are the caller's: they were filled once, from the engine's memory, and nothing shares them.

Letters of shapes: n tokens, D width of a state, V words of the vocabulary.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.uint32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Generation:
    """A text that was generated; as a string it is that text."""

    text: str
    prompt_tokens: Ids
    tokens: Ids
    """[n]"""
    finish: str
    """"length", "stop" (a stop string, or the text's own end), "budget"."""
    evaluations: Ids
    """[n] of the cell, at the position that picked each token"""
    residuals: Floats
    """[n] reached there; NaN where nothing was evaluated"""
    converged: Bools
    """[n]"""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, eq=False)
class Row:
    """A stay of one position in the window where it was solved. A position whose guessed token proves wrong leaves, and
    enters again with another: then it has several."""

    position: int
    token: int
    """that it picked, or, where it was dropped, that it stood for"""
    fate: str
    """"committed", "misguessed", "not finite" or "left open" """
    entered: int
    """the step in which it was first evaluated; 1 is the first of the sequence"""
    left: int
    """and last"""
    guessed: bool
    """the position behind it was in the window already, with the right token"""
    residuals: Floats
    """after each evaluation; of more than 256 the first 255 and the last"""


@dataclass(frozen=True, eq=False)
class Solution(Generation):
    """A text with how it was found."""

    states: Floats
    """[n, D] the equilibria that picked each token"""
    rows: list[Row]
    """in the order in which they left the window"""


@dataclass(frozen=True, eq=False)
class Logprobs:
    """How well the model foresees a text."""

    tokens: Ids
    """[n]"""
    logprobs: Floats
    """[n] of each token given those before it; NaN for the first"""
    top_tokens: Ids
    """[n, top] the most probable tokens at each place; of the first, which nothing foretells, 0"""
    top_logprobs: Floats
    """[n, top]"""
    evaluations: Ids
    """[n] at each token's own position"""
    residuals: Floats
    """[n]"""

    @property
    def nats(self) -> float:
        """-log p of the text behind its first token"""
        return -float(np.sum(self.logprobs[1:], dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Equilibria:
    """The fixed points of a text's positions."""

    tokens: Ids
    states: Floats
    """[n, D]"""
    residuals: Floats
    """[n]"""
    evaluations: Ids
    """[n]"""
    converged: Bools
    """[n]"""
    spectral_radius: float
    """of df/dz at the last position, where it was asked for; else NaN"""


@dataclass(frozen=True)
class Info:
    """What a model is."""

    model_type: str
    vocab_size: int
    d_model: int
    state_dim: int
    max_positions: int
    """of one text; 0: any number"""
    parameters: int
    weight_bytes: int
    cache_bytes_per_token: int
    numeric: str
    kernels: str
    solver: str
    tol: float
    tol_fast: float
    tol_exact: float
    max_iter: int
    window: int
    eos_id: int
    """-1: none"""
    bos_id: int
    fingerprint: str
