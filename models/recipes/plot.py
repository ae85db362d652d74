#!/usr/bin/env python3
"""Draws training curves as SVG: plot.py MODEL_DIR -> MODEL_DIR/curve.svg; plot.py MODEL_DIR MODEL_DIR ... -o FILE.svg
draws several runs into one picture, to compare. Runs that are under way, too."""
import argparse
import json
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "claims"))

import svg

# Points of a curve: more than there are pixels show no more.
POINTS_MAX = 400


def read(directory):
    """Steps and validations; of a run that went on from a checkpoint what it did again counts."""
    found = {"step": {}, "valid": {}}
    with open(os.path.join(directory, "train.jsonl"), encoding="utf-8") as f:
        for line in f:
            if line.endswith("\n"):  # else it is being written
                e = json.loads(line)
                if e["event"] in found:
                    found[e["event"]][e["step"]] = e
    steps, valid = ([by[n] for n in sorted(by)] for by in (found["step"], found["valid"]))
    return steps, [e for e in valid if e["nll_per_token"] is not None]


def curve(events, key):
    """Means of neighbours where there are too many; the last one as it is."""
    size = -(-len(events) // POINTS_MAX) if events else 1
    pieces = [events[i:i + size] for i in range(0, len(events), size)]
    return [(piece[-1]["step"], sum(e[key] for e in piece) / len(piece)) for piece in pieces]


def panels(runs):
    """[(title, series, log_y)] of runs [(name, steps, valid)]"""
    several = len(runs) > 1
    loss, bits, evaluations, residual = [], [], [], []
    for i, (name, steps, valid) in enumerate(runs):
        of = name + ", " if several else ""
        loss += [(of + "training", curve(steps, "loss"), i, True),
                 (of + "validation", curve(valid, "nll_per_token"), i if several else 1, False)]
        bits.append((of + "validation", curve(valid, "bits_per_byte"), i, False))
        evaluations.append((of + "a step", curve(steps, "evaluations"), i, False))
        solved = [{**e, "residual": max(e["residual"], 1e-6)} for e in steps if e["residual"] > 0]
        residual.append((of + "mean", curve(solved, "residual"), i, False))
    found = [("Nats a token", loss, False), ("Bits a byte", bits, False), ("Evaluations", evaluations, False),
             ("Relative residual", residual, True)]
    return [(title, [s for s in series if s[1]], log) for title, series, log in found if any(s[1] for s in series)]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("directory", nargs="+", help="a model directory, or one of a run under way")
    p.add_argument("-o", "--out", help="the picture (curve.svg in the directory, where it is one)")
    a = p.parse_args()
    if len(a.directory) > 1 and not a.out:
        p.error("several runs go into a picture of their own: -o FILE.svg")
    runs = []
    for directory in a.directory:
        try:
            steps, valid = read(directory)
        except OSError as e:
            p.error(str(e))
        if not steps:
            p.error("%s: no steps in train.jsonl yet" % directory)
        runs.append((os.path.basename(os.path.abspath(directory)), steps, valid))
    charts = [svg.chart("%s: %s" % (title, ", ".join(r[0] for r in runs)), "optimiser step", title.lower(), series,
                        log_y=log) for title, series, log in panels(runs)]
    with open(a.out or os.path.join(a.directory[0], "curve.svg"), "w", encoding="utf-8") as f:
        f.write(svg.stack(charts))


if __name__ == "__main__":
    main()
