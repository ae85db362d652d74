#!/usr/bin/env python3
"""Draws the training curve of a model directory: plot.py MODEL_DIR -> MODEL_DIR/curve.png. Needs matplotlib."""
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

directory = sys.argv[1]
events = [json.loads(line) for line in open(f"{directory}/train.jsonl")]
steps = [e for e in events if e["event"] == "step"]
valid = [e for e in events if e["event"] == "valid"]
deq = [e for e in steps if e["phase"] == "deq"]

fig, axes = plt.subplots(1, 3, figsize=(15, 4.2))
axes[0].plot([e["step"] for e in steps], [e["loss"] for e in steps], lw=0.6, label="training, nats a token")
axes[0].plot([e["step"] for e in valid], [e["nll_per_token"] for e in valid], "o-", ms=3,
             label="validation, nats a token")
axes[0].set_ylim(min(e["loss"] for e in steps) - 0.1, 4.5)
axes[0].legend()
axes[1].plot([e["step"] for e in valid], [e["bits_per_byte"] for e in valid], "o-", ms=3, color="tab:green",
             label="validation, bits a byte\n(in pieces as long as a training sequence)")
axes[1].legend()
axes[2].plot([e["step"] for e in deq], [e["evaluations"] for e in deq], lw=0.8,
             label="evaluations a step (solve + recorded)")
right = axes[2].twinx()
right.semilogy([e["step"] for e in deq], [max(e["residual"], 1e-6) for e in deq], lw=0.8, color="tab:red",
               label="mean relative residual")
curves = axes[2].get_lines() + right.get_lines()
# one for both scales, which would cover each other
axes[2].legend(curves, [c.get_label() for c in curves], loc="upper right")
for a in axes:
    a.set_xlabel("optimiser step")
    a.grid(alpha=0.3)
    if deq:
        a.axvline(deq[0]["step"], color="gray", ls=":", lw=1)
fig.suptitle(directory + (": weight-tied pretraining, then equilibrium (dotted line: the switch)" if deq else ""))
fig.tight_layout()
fig.savefig(f"{directory}/curve.png", dpi=90)
