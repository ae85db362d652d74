"""A DEQ transformer written and trained with torch, imported from its live state dict, says what torch says. torch is
not among requirements.txt, for its size: pip install torch into the environment, and this runs too."""
import json
import os

import numpy as np
import pytest

import deq
from conftest import ROOT
from test_programs import arrays

torch = pytest.importorskip("torch", reason="torch is not installed")
F = torch.nn.functional
torch.set_num_threads(1)  # of small matrices
AUTHORS = os.path.join(ROOT, "tests", "golden", "authors", "locuslab-preln-plain")


def config():
    with open(os.path.join(AUTHORS, "config.json")) as f:
        return json.load(f)


def holder(**members):
    module = torch.nn.Module()
    for name, member in members.items():
        setattr(module, name, member)
    return module


class Transformer(torch.nn.Module):
    """The pre-norm cell of locuslab/deq (DEQ-Sequence/models/deq_transformer.py) for one text without memory; its
    parameters have the authors' names. [1, D, T] is their layout of states."""

    def __init__(self, c):
        super().__init__()
        d, heads, inner = c["d_model"], c["n_head"] * c["d_head"], c["d_inner"]
        conv = lambda i, o, bias: torch.nn.Conv1d(i, o, 1, bias=bias)
        self.heads, self.d, self.d_head = c["n_head"], d, c["d_head"]
        self.word_emb = holder(emb_layers=torch.nn.ModuleList([torch.nn.Embedding(c["n_token"], d)]))
        self.inject_conv = conv(d, 3 * d, True)
        self.pos_emb = holder()
        self.pos_emb.register_buffer("inv_freq", 10000 ** (-torch.arange(0.0, d, 2.0) / d))
        bias = lambda: torch.nn.Parameter(torch.empty(c["n_head"], c["d_head"]).uniform_(-0.05, 0.05))
        self.func = holder(dec_attn=holder(r_w_bias=bias(), r_r_bias=bias(), qkv_net=conv(d, 3 * heads, False),
                                           r_net=conv(d, heads, False), o_net=conv(heads, d, True)),
                           pos_ff=holder(ff1_net=torch.nn.Linear(d, inner), ff2_net=torch.nn.Linear(inner, d)))
        self.crit = holder(out_layers=torch.nn.ModuleList([torch.nn.Linear(d, c["n_token"])]))
        self.crit.out_layers[0].weight = self.word_emb.emb_layers[0].weight

    def f(self, z, u):
        t, a, ff = z.shape[2], self.func.dec_attn, self.func.pos_ff
        norm = lambda x: F.layer_norm(x.transpose(1, 2), (self.d,)).transpose(1, 2)
        split = lambda x: x.reshape(self.heads, self.d_head, -1)
        q, k, v = map(split, torch.chunk((a.qkv_net(norm(z)) + u)[0], 3))
        angles = torch.outer(self.pos_emb.inv_freq, torch.arange(t).to(z))  # by distance
        r = split(a.r_net(torch.cat([angles.sin(), angles.cos()])[None])[0])
        far = torch.arange(t)[:, None] - torch.arange(t)[None]
        by_content = torch.einsum("ndi,ndj->nij", q + a.r_w_bias[:, :, None], k)
        by_distance = torch.einsum("ndi,ndj->nij", q + a.r_r_bias[:, :, None], r)
        by_distance = by_distance.gather(2, far.clamp(min=0).expand(self.heads, t, t))
        scores = ((by_content + by_distance) / self.d_head ** 0.5).masked_fill(far < 0, -torch.inf)
        mixed = torch.einsum("nij,ndj->ndi", scores.softmax(-1), v).reshape(1, -1, t)
        y = norm(z + a.o_net(mixed)).transpose(1, 2)
        return (y + ff.ff2_net(ff.ff1_net(y).relu())).transpose(1, 2)

    def forward(self, tokens, steps=30):
        """([T, D] equilibria, [T, V] logits); the gradient is that of one more evaluation behind the fixed point."""
        u = self.inject_conv(self.word_emb.emb_layers[0](tokens).T[None] * self.d ** 0.5)
        with torch.no_grad():
            z = torch.zeros(1, self.d, len(tokens)).to(u)
            for _ in range(steps):
                z = self.f(z, u)
        z = self.f(z, u)[0].T
        return z, self.crit.out_layers[0](z)


def trained(tokens):
    torch.manual_seed(1)
    model = Transformer(config())
    with torch.no_grad():  # that it contracts, as the authors' beginnings do
        for p in model.parameters():
            p.mul_(0.3)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(10):
        loss = F.cross_entropy(model(tokens[:-1])[1], tokens[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return model


def reference(model, tokens):
    with torch.no_grad():
        return [x.numpy() for x in model.double()(tokens, steps=600)]


def test_the_module_is_the_authors(tmp_path):
    """Against what their own code computed of their own checkpoint."""
    golden = arrays(AUTHORS, "golden")
    model = Transformer(config())
    model.load_state_dict(torch.load(os.path.join(AUTHORS, "checkpoint.pth"), weights_only=True))
    for row, tokens in enumerate(golden["tokens"]):
        states, logits = reference(model, torch.from_numpy(tokens[:8].astype(np.int64)))
        assert abs(states - golden["segment0.equilibrium"][row]).max() < 1e-6
        logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        assert abs(logprobs - golden["segment0.logprobs"][row]).max() < 1e-6


def test_trained_imported_and_asked(tmp_path):
    tokens = torch.from_numpy(arrays(AUTHORS, "golden")["tokens"][0].astype(np.int64))
    model = trained(tokens)
    path = deq.import_checkpoint(model.state_dict(), tmp_path / "mine", config=config())
    states, logits = reference(model, tokens)
    with deq.load(path, threads=1) as served:
        ids = tokens.numpy()
        assert served.info.vocab_size == logits.shape[1]
        z = served.equilibria(ids, tol=1e-6, max_iter=200)
        assert z.converged.all() and abs(z.states - states).max() < 1e-4 * abs(states).max()
        assert abs(served.logits(ids, tol=1e-6, max_iter=200) - logits).max() < 1e-4 * abs(logits).max()
        told = served.logprobs(ids, tol=1e-6, max_iter=200)
        expected = F.cross_entropy(torch.from_numpy(logits[:-1]), tokens[1:], reduction="sum").item()
        assert told.nats == pytest.approx(expected, rel=1e-5)
        # a text of torch's own picking, one argmax after the other
        text = tokens[:4]
        for _ in range(8):
            text = torch.cat([text, torch.from_numpy(reference(model, text)[1])[-1:].argmax(1)])
        assert served.generate(ids[:4], max_tokens=8, tol=1e-6, ignore_eos=True).tokens.tolist() == text[4:].tolist()


def test_served_by_the_daemon(tmp_path):
    from lib import Daemon

    tokens = torch.arange(1, 9)
    model = trained(tokens)
    path = deq.import_checkpoint(model.state_dict(), tmp_path / "mine", config=config())
    daemon = Daemon(model=str(path))
    try:
        status, _, answer = daemon.post("/v1/completions", {"prompt": tokens.tolist(), "max_tokens": 5,
                                                            "temperature": 0, "ignore_eos": True})
        assert status == 200 and answer["usage"]["completion_tokens"] == 5
    finally:
        daemon.stop()


@pytest.mark.parametrize("make, said", [
    (lambda t: t.to_sparse(), "numbers cannot be had"), (lambda t: t.to("meta"), "numbers cannot be had"),
    (lambda t: t.to(torch.complex64), "no weights"), (lambda t: t.tolist(), "expected an array"),
])
def test_tensors_without_numbers(tmp_path, make, said):
    state_dict = Transformer(config()).state_dict()
    state_dict["inject_conv.weight"] = make(state_dict["inject_conv.weight"])
    with pytest.raises(deq.RequestError, match="inject_conv.weight.*" + said if "array" not in said else
                       said + ".*inject_conv.weight"):
        deq.import_checkpoint(state_dict, tmp_path / "m", config=config())
    with pytest.raises(deq.RequestError, match="source.*state_dict"):
        deq.import_checkpoint(Transformer(config()), tmp_path / "m", config=config())


def test_any_layout(tmp_path):
    """Numbers that lie otherwise are the same: a transposed view, bfloat16 as such."""
    state_dict = Transformer(config()).bfloat16().float().state_dict()
    plain = deq.import_checkpoint(state_dict, tmp_path / "plain", config=config())
    other = {k: t.t().contiguous().t() if t.dim() == 2 else t for k, t in state_dict.items()}
    assert not other["func.pos_ff.ff1_net.weight"].is_contiguous()
    turned = deq.import_checkpoint(other, tmp_path / "turned", config=config())
    assert (plain / "model.safetensors").read_bytes() == (turned / "model.safetensors").read_bytes()
    half = {k: t if "inv_freq" in k else t.bfloat16() for k, t in state_dict.items()}
    halved = deq.import_checkpoint(half, tmp_path / "half", config=config())
    with deq.load(plain, threads=1) as a, deq.load(halved, threads=1) as b:
        assert a.logits([1, 2, 3]).tobytes() == b.logits([1, 2, 3]).tobytes()
