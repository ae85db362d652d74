"""Pictures of convergence, by matplotlib, which the package does not need otherwise: pip install 'deq[plot]'.

Each draws into the axes that it is given, or new ones, and returns them.
"""
from __future__ import annotations

from typing import Any

import numpy as np

from .results import Equilibria, Generation, Logprobs, Solution

_FATES = {"committed": "tab:blue", "misguessed": "tab:orange", "not finite": "tab:red", "left open": "tab:gray"}


def _axes(axes: Any) -> Any:
    if axes is not None:
        return axes
    from matplotlib import pyplot

    return pyplot.subplots()[1]


def residuals(solution: Solution, axes: Any = None, tol: float | None = None) -> Any:
    """The residual of every row after each of its evaluations, with their median; tol: a line there."""
    axes = _axes(axes)
    solved = [row.residuals for row in solution.rows if row.fate == "committed"]
    for r in solved:
        axes.semilogy(np.arange(1, len(r) + 1), r, color="tab:blue", alpha=0.2, linewidth=0.8)
    longest = max(map(len, solved), default=0)
    # one that has converged stays where it is
    padded = np.array([np.pad(r, (0, longest - len(r)), mode="edge") for r in solved if len(r)])
    if len(padded):
        axes.semilogy(np.arange(1, longest + 1), np.median(padded, axis=0), color="black", label="median")
    if tol:
        axes.axhline(tol, color="tab:red", linestyle="--", label="tolerance")
    axes.set(xlabel="evaluations of the cell", ylabel="relative residual")
    axes.legend()
    return axes


def wavefront(solution: Solution, axes: Any = None) -> Any:
    """Which positions were solved in which steps of the sequence: a bar a row, coloured by how it left."""
    axes = _axes(axes)
    first = min((row.position for row in solution.rows), default=0)
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
    """Evaluations at each position."""
    axes = _axes(axes)
    axes.bar(np.arange(len(result.evaluations)), result.evaluations)
    axes.set(xlabel="position", ylabel="evaluations of the cell")
    return axes
