#!/usr/bin/env python3
"""Writes a random checkpoint of locuslab/deq's DEQ-Transformer in the shape of the paper's WikiText-103 model.

    make_paper_checkpoint.py OUT_DIR [--text FILE]... [--n-token N] [--d-inner N] ...
        -> OUT_DIR/checkpoint.pth, config.json, vocab.txt

What can be measured without the real one. The vocabulary is <eos>, the words of the texts by count, and made-up words
up to n_token. Weights are uniform, scaled so that embeddings, queries, keys and values are about 1 and the cell's own
part is small beside them: its equilibrium is reached in a dozen evaluations. The clusters have shares of the
probability as in a text, and within them words are about equally probable: perplexity is that of guessing. The same
arguments write the same bytes. Needs Python alone; 400 MB in a few seconds."""
import argparse
import array
import collections
import json
import math
import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import torchzip
from torchzip import Tensor, floats, shared

SHARES = (0.8, 0.1, 0.07, 0.03)  # of the clusters, as far as there are so many
POOL = 1 << 20  # floats drawn once; every row of a matrix is a stretch of them that begins at a random place


class Uniform:
    """Uniform numbers whose mean square is `size` squared."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        ints = array.array("I", self.rng.randbytes(4 * POOL))
        self.unit = array.array("f", [(x - 2147483648.0) / 2147483648.0 * 3 ** 0.5 for x in ints])

    def rows(self, rows, cols, size):
        """[rows, cols] in chunks of bytes."""
        pool = array.array("f", [x * size for x in self.unit]).tobytes()
        many = max(1, 65536 // cols)
        for at in range(0, rows, many):
            parts = []
            for _ in range(min(many, rows - at)):
                begin = self.rng.randrange(POOL - cols)
                parts.append(pool[4 * begin:4 * (begin + cols)])
            yield b"".join(parts)

    def matrix(self, rows, cols, size, shape=None):
        return Tensor(shape or [rows, cols], self.rows(rows, cols, size))

    def vector(self, n, size):
        return Tensor([n], self.rows(1, n, size))


def constant(n, x, shape):
    return Tensor(shape, [floats([x]) * n])


def state_dict(a, seed):
    """Entries in the order of the module tree. Sizes: a row of length n and elements of size s gives products of size
    s sqrt(n)."""
    r = Uniform(seed)
    D, HD, F = a.d_model, a.n_head * a.d_head, a.d_inner
    ends = [0] + a.cutoffs + [a.n_token]
    widths = [a.d_embed // a.div_val ** i for i in range(len(ends) - 1)]
    out = {}
    for i, width in enumerate(widths):
        out["word_emb.emb_layers.%d.weight" % i] = r.matrix(ends[i + 1] - ends[i], width, D ** -0.5)
    for i, width in enumerate(widths):
        out["word_emb.emb_projs.%d.weight" % i] = r.matrix(D, width, width ** -0.5)
    out["inject_conv.weight"] = r.matrix(3 * HD, D, 1.5 * D ** -0.5, [3 * HD, D, 1])
    out["inject_conv.bias"] = r.vector(3 * HD, 0.1)
    out["pos_emb.inv_freq"] = Tensor([D // 2], [floats(10000.0 ** (-2.0 * i / D) for i in range(D // 2))])

    def normed(name, rows, cols, size, *ones):
        out[name + ".weight_g"] = constant(rows, size, [rows, 1, *ones])
        out[name + ".weight_v"] = r.matrix(rows, cols, cols ** -0.5, [rows, cols, *ones])

    attn, ff = "func.dec_attn.", "func.pos_ff."
    out[attn + "r_w_bias"], out[attn + "r_r_bias"] = r.matrix(a.n_head, a.d_head, 0.05), r.matrix(a.n_head, a.d_head,
                                                                                                  0.05)
    out[attn + "o_net.bias"] = r.vector(D, 0.1)
    normed(attn + "qkv_net", 3 * HD, D, 0.3, 1)
    normed(attn + "r_net", HD, D, 0.3, 1)
    normed(attn + "o_net", D, HD, 1.0, 1)
    out[ff + "ff1_net.bias"], out[ff + "ff2_net.bias"] = r.vector(F, 0.1), r.vector(D, 0.1)
    normed(ff + "ff1_net", F, D, 0.5)
    normed(ff + "ff2_net", D, F, 0.5)
    C = len(a.cutoffs)
    if C:  # the last row is the first cluster's; exp of a logit of size 1 is e^0.5 in the mean
        shares = [SHARES[min(c, len(SHARES) - 1)] for c in range(C, 0, -1)]
        out["crit.cluster_weight"] = r.matrix(C, a.d_embed, 0.3 * D ** -0.5)
        out["crit.cluster_bias"] = Tensor([C], [floats(math.log(ends[1] * x / SHARES[0]) + 0.5 for x in shares)])
    for i in range(len(widths)):
        out["crit.out_layers.%d.weight" % i] = shared(out["word_emb.emb_layers.%d.weight" % i])
        out["crit.out_layers.%d.bias" % i] = r.vector(ends[i + 1] - ends[i], 0.1)
    for i, width in enumerate(widths):  # as the released scripts have it: all tied but the first
        out["crit.out_projs.%d.weight" %
            i] = shared(out["word_emb.emb_projs.%d.weight" % i]) if i else r.matrix(D, width, width ** -0.5)
    return out


def vocabulary(texts, n):
    """Words by count, of equals the first; made-up ones behind them."""
    counts = collections.Counter()
    for path in texts:
        with open(path, encoding="utf-8") as f:
            for line in f:
                counts.update(line.split())
    words = ["<eos>"] + [w for w, _ in counts.most_common(n - 1) if w != "<eos>"]
    if "<unk>" not in counts:
        words.insert(1, "<unk>")
    known = set(words)
    i = 0
    while len(words) < n:
        word = "word%d" % i
        i += 1
        if word not in known:
            words.append(word)
    return words[:n]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out_dir")
    p.add_argument("--text", action="append", default=[], help="count words of this file; may be given again")
    p.add_argument("--seed", type=int, default=1)
    for name, value in (("n-token", 267735), ("d-model", 700), ("n-head", 10), ("d-head", 70), ("d-inner", 48000),
                        ("div-val", 4), ("tgt-len", 150),
                        ("mem-len", 150)):
        p.add_argument("--" + name, type=int, default=value)
    p.add_argument("--cutoffs", type=int, nargs="*", default=[20000, 40000, 200000])
    a = p.parse_args()
    a.d_embed = a.d_model
    os.makedirs(a.out_dir, exist_ok=True)
    with open(os.path.join(a.out_dir, "vocab.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(vocabulary(a.text, a.n_token)) + "\n")
    config = dict(model_type="locuslab-deq-transformer", n_token=a.n_token, n_layer=2, eval_n_layer=24, n_head=a.n_head,
                  d_model=a.d_model, d_head=a.d_head, d_inner=a.d_inner, dropout=0.05, dropatt=0.0, tie_weights=True,
                  d_embed=a.d_embed, div_val=a.div_val, tie_projs=[False] + [True] * len(a.cutoffs), pre_lnorm=False,
                  wnorm=True, tgt_len=a.tgt_len, mem_len=a.mem_len, local_size=0,
                  cutoffs=a.cutoffs)
    with open(os.path.join(a.out_dir, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=1)
    torchzip.save(os.path.join(a.out_dir, "checkpoint.pth"), state_dict(a, a.seed))


if __name__ == "__main__":
    main()
