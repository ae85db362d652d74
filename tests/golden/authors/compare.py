#!/usr/bin/env python3
"""Runs the authors' own PyTorch code on every variant of tests/e2e/imports.py, and compares with it both the judge of
those tests (tests/e2e/authors.py) and deq import and deq check on the file that torch.save wrote. Not part of make
test: it needs PyTorch and checkouts of the two repositories.

    compare.py locuslab-deq-transformer PATH/OF/locuslab/deq
    compare.py torchdeq-seq|torchdeq-lm PATH/OF/locuslab/torchdeq

One kind a process, for their modules have the same names. Only the solver is exchanged, for plain iteration in
float64."""
import argparse
import json
import os
import sys
import tempfile
import types

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
KIND, SOURCE = sys.argv[1:3]

import torch

for name in ("termcolor", "scipy", "scipy.optimize"):  # imported by the authors, and not used here
    sys.modules.setdefault(name, types.ModuleType(name))
sys.modules["termcolor"].colored = lambda text, *_: text
sys.modules["scipy.optimize"].root = None
torch.version.cuda = torch.version.cuda or "11.7"  # their softmax reads it when it is imported
torch.set_default_dtype(torch.float64)
sys.path[:0] = [os.path.join(SOURCE, {"locuslab-deq-transformer": "DEQ-Sequence", "torchdeq-seq": "deq-zoo/deq-seq",
                                      "torchdeq-lm": "deq-zoo/deq-lm"}[KIND]), SOURCE]
from models.deq_transformer import DEQTransformerLM

for name in [m for m in sys.modules if m == "lib" or m.startswith("lib.")]:
    del sys.modules[name]  # theirs; the tests have one too
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
import authors
import imports
from lib import DEQ, run


def iterate(f, z, steps):
    for _ in range(steps or 3000):
        y = f(z)
        apart, z = (y - z).abs().max().item(), y
        if not steps and apart < 1e-11:
            break
    return z


class Iteration(torch.nn.Module):
    """In place of torchdeq's solver."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def forward(self, f, z, **_):
        return [iterate(f, z, self.steps)], {}


def model_of(c, steps):
    of = {k: c[k] for k in ("n_token", "n_layer", "n_head", "d_model", "d_head", "d_inner", "dropout", "dropatt",
                            "tie_weights", "d_embed", "div_val", "tgt_len", "mem_len", "local_size", "cutoffs",
                            "tie_projs")}
    of.update(logging=lambda *_: None, cutoffs=list(c["cutoffs"]))
    if KIND == "locuslab-deq-transformer":
        return DEQTransformerLM(eval_n_layer=1, pre_lnorm=c["pre_lnorm"], wnorm=c["wnorm"],
                                f_solver=lambda f, z, **_: {"result": iterate(f, z, steps)}, **of)
    args = argparse.Namespace(mem=False, gamma=0.9, grad=[1], norm_type=c["norm"] or "none",
                              f_solver="fixed_point_iter", b_solver="fixed_point_iter",
                              **{k: v for k, v in c.items() if k.startswith("norm_")})
    if KIND == "torchdeq-seq":
        of.update(eval_n_layer=1, pre_lnorm=c["pre_lnorm"])
    m = DEQTransformerLM(args, **of)
    if KIND == "torchdeq-lm" and c["norm"]:
        from torchdeq.norm import apply_norm
        apply_norm(m.func, args=args)
    m.deq = Iteration(steps)
    return m


def golden(c, entries, tokens, steps, checkpoint):
    """As authors.golden, by their code; writes the checkpoint too."""
    m = model_of(c, steps).eval()
    m.load_state_dict({k: torch.tensor(x).reshape(shape) for k, (shape, x) in entries.items()}, strict=True)
    torch.save(m.float().state_dict(), checkpoint)
    m.double()
    B, T, V, mems, seen = len(tokens), c["tgt_len"], c["n_token"], None, {}
    loss = m.crit.forward

    def keep(hidden, target, **_):
        seen["hidden"] = hidden.detach()
        return loss(hidden, target, keep_order=True)

    m.crit.forward = keep
    out = {}
    for n in range(len(tokens[0]) // T):
        x = torch.tensor([t[n * T:(n + 1) * T] for t in tokens])
        every = torch.arange(V).repeat_interleave(B * T)
        if KIND == "locuslab-deq-transformer":  # [T * B, D]
            mems = m(x.t(), x.t(), mems, train_step=-1)[3:]
            rows = seen["hidden"].reshape(T, B, -1).transpose(0, 1).reshape(B * T, -1)
            nll = loss(rows.repeat(V, 1), every, keep_order=True)
        elif KIND == "torchdeq-seq":            # [B, D, T]
            mems = m(x, x, mems)[3]
            rows = seen["hidden"].transpose(1, 2).reshape(B * T, -1)
            nll = loss(rows.repeat(V, 1)[None].transpose(1, 2), every[None], keep_order=True)
        else:                                   # [B, T, D]
            mems = m(x, x, mems)[1]
            rows = seen["hidden"].reshape(B * T, -1)
            nll = loss(rows.repeat(V, 1)[None], every[None], keep_order=True)
        out["segment%d.equilibrium" % n] = ("F32", [B, T, c["d_model"]], rows.reshape(-1).tolist())
        out["segment%d.logprobs" % n] = ("F32", [B, T, V], (-nll).reshape(V, B * T).t().reshape(-1).tolist())
    return out


def main():
    bad = 0
    cases = [(name, c, authors.PICARD_STEPS if KIND == "torchdeq-lm" else None) for name,
             c in imports.VARIANTS.items() if c["model_type"] == KIND]
    if KIND == "torchdeq-seq":  # without an equilibrium
        cases.append(("torchdeq-seq, pre_lnorm, nine steps", dict(imports.SEQ, pre_lnorm=True), 9))
    for i, (name, c, steps) in enumerate(cases):
        with tempfile.TemporaryDirectory() as tmp, torch.no_grad():
            at = lambda x: os.path.join(tmp, x)
            entries, tokens = authors.random_checkpoint(c, 100 + i), imports.some_tokens(c["n_token"], 2, 12)
            theirs, judge = golden(c, entries, tokens, steps, at("checkpoint.pth")), authors.golden(c, entries, tokens,
                                                                                                    steps)
            apart = max(abs(a - b) for k, (_, shape, x) in theirs.items() for a, b in zip(x, judge[k][2]))
            authors.write_safetensors(at("golden.safetensors"), dict(theirs, tokens=judge["tokens"]))
            with open(at("config.json"), "w") as f:
                json.dump(c, f)
            code, _, err = run([DEQ, "import", at("checkpoint.pth"), "--config", at("config.json"), "--out",
                                at("model")])
            flags = ["--solver", "picard", "--tol", "0", "--max-iter", str(steps)] if steps else []
            code, out, err = (code, "", err) if code else run([DEQ, "check", at("model"), at("golden.safetensors"),
                                                               "--json"] + flags)
            o = json.loads(out) if out else {"equilibrium_max_abs_error": err, "logprob_max_abs_error": ""}
            print("%-58s judge %.1e   deq %s %s %s" % (name, apart, o["equilibrium_max_abs_error"],
                                                       o["logprob_max_abs_error"],
                                                       "ok" if not code and apart < 1e-5 else "DIFFERS"))
            bad += code != 0 or apart >= 1e-5
    print("%d variants, %d differ" % (len(cases), bad))
    return 1 if bad or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
