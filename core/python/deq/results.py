"""What calls return. Arrays are the caller's: they were filled once, from the engine's memory, and nothing shares them.

Letters of shapes: n tokens, D numbers of a state (Info.state_dim), V tokens of the vocabulary (Info.vocab_size).
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
    """A text that was generated; as a string it is that text.

    text: without its prompt, and before the stop string that ended it
    prompt_tokens: [tokens of the prompt] with the one that begins a text, where the model has that
    tokens: [n] generated
    finish: "length", "stop" (a stop string, or the text's own end), "budget"
    evaluations: [n] of the cell, at the position that picked each token
    residuals: [n] relative, reached there; NaN where nothing was evaluated
    converged: [n] whether that is below the tolerance
    """

    text: str
    prompt_tokens: Ids
    tokens: Ids
    finish: str
    evaluations: Ids
    residuals: Floats
    converged: Bools

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, eq=False)
class Row:
    """A stay of one position in the window where it was solved. A position whose guessed token proves wrong leaves, and
    enters again with another: then it has several.

    position: of the prompt and text, from 0
    token: that it picked, or, where it was dropped, that it stood for
    fate: how it left: "committed" (final), "misguessed", "not finite" or "left open"
    entered: the step in which it was first evaluated; 1 is the first of the sequence
    left: and the last
    guessed: the position behind it was in the window already, with the right token
    residuals: after each evaluation; of more than 256 the first 255 and the last
    """

    position: int
    token: int
    fate: str
    entered: int
    left: int
    guessed: bool
    residuals: Floats


@dataclass(frozen=True, eq=False)
class Solution(Generation):
    """A text with how it was found.

    states: [n, D] the equilibria that picked each token
    rows: in the order in which they left the window
    """

    states: Floats
    rows: list[Row]


@dataclass(frozen=True, eq=False)
class Logprobs:
    """How well the model foresees a text.

    tokens: [n] that were read
    logprobs: [n] log p of each token given those before it, in nats; NaN for the first
    top_tokens: [n, top] the most probable tokens at each place; of the first, which nothing foretells, 0
    top_logprobs: [n, top] theirs
    evaluations: [n] at each token's own position
    residuals: [n] relative, reached there
    """

    tokens: Ids
    logprobs: Floats
    top_tokens: Ids
    top_logprobs: Floats
    evaluations: Ids
    residuals: Floats

    @property
    def nats(self) -> float:
        """-log p of the text behind its first token"""
        return -float(np.sum(self.logprobs[1:], dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Equilibria:
    """The fixed points z* = f(z*) of a text's positions.

    tokens: [n] that were read
    states: [n, D] float32
    residuals: [n] relative, reached there
    evaluations: [n] of the cell
    converged: [n] whether that is below the tolerance
    spectral_radius: of df/dz at the last position, where it was asked for; else NaN
    """

    tokens: Ids
    states: Floats
    residuals: Floats
    evaluations: Ids
    converged: Bools
    spectral_radius: float


@dataclass(frozen=True)
class Info:
    """What a model is.

    model_type: kind of cell: "deq_transformer", "deq_trellis" or "deq_looped"
    vocab_size: tokens, V
    d_model: width of the model
    state_dim: numbers of a state, D
    max_positions: of one text, its prompt included; 0: any number
    parameters: how many
    weight_bytes: as held in memory
    cache_bytes_per_token: of a position that is solved
    numeric: what it is computed in: "float32", "int16" or "int8"
    kernels: level of the CPU's instructions: "avx2"
    solver: unless a call says otherwise, as tol, max_iter and window
    tol: relative residual; 0: max_iter steps, whatever it is
    tol_fast: what the server's preset "fast" stands for
    tol_exact: and "exact"
    max_iter: evaluations of a position at most
    window: positions solved at a time
    eos_id: the token that ends a text; -1: none
    bos_id: the token that begins one; -1: none
    fingerprint: of weights and configuration, 16 hexadecimal digits
    """

    model_type: str
    vocab_size: int
    d_model: int
    state_dim: int
    max_positions: int
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
    bos_id: int
    fingerprint: str
