# %% [markdown]
# # How a text converges
# The figure of server/README.md, "The page": the same prompt with two settings, the residuals of all tokens above, and
# below the wavefront that found them. Run it cell by cell (VS Code, Jupyter with jupytext), or whole:
#
#     python convergence.py MODEL_DIR FIGURE.svg

# %%
import sys

from matplotlib import pyplot

import deq
from deq import plot

if len(sys.argv) == 2:  # --help, or half of it
    sys.exit("Usage: convergence.py [MODEL_DIR FIGURE.svg]")
directory, figure = sys.argv[1:3] if len(sys.argv) == 3 else ("models/stories-transformer", "build/convergence.svg")
model = deq.load(directory)

# %% [markdown]
# One position at a time, each to a hundredth of the model's own tolerance; and as the model is served, where a window
# of positions is solved at once behind a guess of each token.

# %%
settings = {
    "one by one, exactly": {"window": 1, "warm_start": "zero", "tol": model.info.tol_exact},
    "as it is served": {},
}
solutions = {name: model.solve("Once upon a time", max_tokens=40, **options) for name, options in settings.items()}
for name, s in solutions.items():
    steps = max(row.left for row in s.rows)
    print(f"{name}: {s.evaluations.mean():.1f} evaluations and {steps / len(s.tokens):.1f} steps a token")

# %%
fig, axes = pyplot.subplots(2, len(solutions), figsize=(10, 7), layout="constrained")
for (above, below), (name, s) in zip(axes.T, solutions.items()):
    plot.residuals(s, above, tol=settings[name].get("tol", model.info.tol)).set_title(name)
    plot.wavefront(s, below)
fig.savefig(figure)

# %% [markdown]
# Both texts begin alike; where they part, the looser tolerance has picked another token.

# %%
for name, s in solutions.items():
    print(f"{name}:{s}")
