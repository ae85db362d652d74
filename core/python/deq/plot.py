"""Pictures of convergence, by matplotlib, which the package does not need otherwise: pip install matplotlib.

Each draws into the matplotlib axes that it is given, or into those of a new figure, and returns them; it shows and
saves nothing. A result of another kind is a RequestError.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from . import _given
from .results import Equilibria, Generation, Logprobs, Solution

_FATES = {"committed": "tab:blue", "misguessed": "tab:orange", "not finite": "tab:red", "left open": "tab:gray"}


def _axes(axes: Any) -> Any:
    if axes is not None:
        return axes if hasattr(axes, "semilogy") else _given.wrong("axes", axes, "matplotlib's axes, one")
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError("deq.plot draws with matplotlib: pip install matplotlib", name=e.name) from e
    return pyplot.subplots()[1]


def _solution(value: Any) -> Solution:
    if not isinstance(value, Solution) or not value.rows:
        _given.wrong("solution", value, "what Model.solve returned, with its trace")
    return value


def residuals(solution: Solution, axes: Any = None, tol: float | None = None) -> Any:
    """The relative residual of every row that became final, after each of its evaluations, with their median; a row
    that has converged counts on with its last one. tol: a line there."""
    solution, axes = _solution(solution), _axes(axes)
    solved = [row.residuals for row in solution.rows if row.fate == "committed"]
    for r in solved:
        axes.semilogy(np.arange(1, len(r) + 1), r, color="tab:blue", alpha=0.2, linewidth=0.8)
    longest = max(map(len, solved), default=0)
    padded = np.array([np.pad(r, (0, longest - len(r)), mode="edge") for r in solved if len(r)])
    if len(padded):
        axes.semilogy(np.arange(1, longest + 1), np.median(padded, axis=0), color="black", label="median")
    if tol is not None and _given.number("tol", tol, 0) > 0:
        axes.axhline(float(tol), color="tab:red", linestyle="--", label="tolerance")
    axes.set(xlabel="evaluations of the cell", ylabel="relative residual")
    axes.legend()
    return axes


def wavefront(solution: Solution, axes: Any = None) -> Any:
    """Which positions were solved in which steps of the sequence: a bar a row, from the step in which it was first
    evaluated to its last, coloured by its fate. The first position of the trace is token 0."""
    solution, axes = _solution(solution), _axes(axes)
    first = min(row.position for row in solution.rows)
    for fate, color in _FATES.items():
        rows = [row for row in solution.rows if row.fate == fate]
        if rows:
            axes.barh([row.position - first for row in rows], [row.left - row.entered + 1 for row in rows],
                      left=[row.entered - 0.5 for row in rows], color=color, label=fate)
    axes.set(xlabel="step", ylabel="token")
    axes.invert_yaxis()
    axes.legend()
    return axes


def evaluations(result: Generation | Logprobs | Equilibria, axes: Any = None) -> Any:
    """Evaluations of the cell at each position: of a text's tokens, or of a prompt that was read."""
    if not isinstance(result, (Generation, Logprobs, Equilibria)):
        _given.wrong("result", result, "a Generation, Solution, Logprobs or Equilibria")
    axes = _axes(axes)
    axes.bar(np.arange(len(result.evaluations)), result.evaluations)
    axes.set(xlabel="position", ylabel="evaluations of the cell")
    return axes
