"""The authors' DEQ-Transformer (locuslab/deq) in PyTorch: seconds of one evaluation of f, in eval mode, float32.

    torch_deq.py DEQ_REPO THREADS      requests: {"shape": "S", "tokens": 512, "batch": 1, "mem": 0}

tokens: positions of each of batch sequences, behind mem positions that are remembered. The code is run as it is, but
for what it asks of old versions: torch.solve, a CUDA version, termcolor. Weights are random; times do not depend on
them."""
import importlib.util
import os
import sys
import types

import torch
from worker import clock, median_s, serve

SHAPES = {"S": dict(n_token=4096, d_model=256, n_head=8, d_head=32, d_inner=1024),
          "M": dict(n_token=8192, d_model=512, n_head=8, d_head=64, d_inner=2048),
          "W": dict(n_token=267735, d_model=700, n_head=10, d_head=70, d_inner=48000, div_val=4,
                    cutoffs=[20000, 40000, 200000], tie_projs=[False, True, True, True])}


def authors_model(repo):
    """The class of their model."""
    sys.path[:0] = [os.path.join(repo, "DEQ-Sequence"), repo]
    torch.version.cuda = torch.version.cuda or "11.0"
    torch.solve = lambda b, a: (torch.linalg.solve(a, b), None)
    if not importlib.util.find_spec("termcolor"):
        sys.modules["termcolor"] = types.ModuleType("termcolor")
        sys.modules["termcolor"].colored = lambda text, *_, **__: text
    from models.deq_transformer import DEQTransformerLM
    return DEQTransformerLM


def make(model, shape):
    torch.manual_seed(1)
    m = model(n_layer=2, eval_n_layer=24, dropout=0.0, dropatt=0.0, tgt_len=150, mem_len=150, local_size=0,
              pretrain_steps=0, logging=lambda *_: None, d_embed=SHAPES[shape]["d_model"], **SHAPES[shape])
    with torch.no_grad():
        for p in m.func.parameters():
            torch.nn.init.normal_(p, 0, p.shape[1] ** -0.5 if p.dim() > 1 else 0.1)
    return m.eval()


def main():
    repo, threads = os.path.abspath(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    now, model, models = clock(threads), authors_model(repo), {}

    @torch.no_grad()
    def answer(q):
        shape, n, batch, mem = q["shape"], q["tokens"], q["batch"], q["mem"]
        if shape not in models:
            models.clear()  # the largest takes a gigabyte
            models[shape] = make(model, shape)
        m, d = models[shape], SHAPES[shape]["d_model"]
        u = torch.randn(batch, 3 * d, mem + n)
        z0, z = torch.randn(batch, d, mem), torch.randn(batch, d, n)
        positions = m.pos_emb(torch.arange(n + mem - 1, -1, -1.0))
        m.func.reset(batch, n, n + mem)
        return {"seconds": median_s(lambda: m.func(z, u, z0, positions), now)}

    serve(answer)


if __name__ == "__main__":
    main()
