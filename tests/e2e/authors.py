"""The authors' models once more, slowly: plain Python in float64, written from the PyTorch sources (locuslab/deq
DEQ-Sequence/models/deq_transformer.py; torchdeq deq-zoo/deq-seq and deq-lm; their adaptive_embedding.py and
proj_adaptive_softmax.py), not from our C. Goldens of shapes that the committed ones do not have come from here;
imports.py first shows that this file agrees with those.

    entries = checkpoint(path)                      name -> (shape, numbers)
    golden(config, entries, tokens, steps=None)     what golden.safetensors holds: equilibria, or states after that many
                                                    Picard steps
    random_checkpoint(config, seed)                 a state dict of the constructor's shapes, as torchzip.Tensor

One sequence at a time; a vector is a list."""
import array
import json
import math
import pickle
import random
import struct
import sys
import zipfile
from operator import mul

from lib import ROOT

sys.path.insert(0, ROOT + "/tests/tools")
import torchzip

HORIZON = 1000  # local_size or 1000
PICARD_STEPS = 12
EPS = 1e-5      # torch's layer_norm


# --- Reading ---

class _Names(pickle.Unpickler):
    """Of a pickle that torch.save wrote from float tensors: (shape, strides, offset, key of the storage)."""

    def find_class(self, module, name):
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (list(shape), list(strides), offset, storage)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("torch", "FloatStorage"):
            return name
        raise ValueError("not expected in these fixtures: %s.%s" % (module, name))

    def persistent_load(self, pid):
        return pid[2]


def checkpoint(path):
    with zipfile.ZipFile(path) as z:
        folder = z.namelist()[0].split("/")[0]
        out = {}
        for name, (shape, strides, offset, key) in _Names(z.open(folder + "/data.pkl")).load().items():
            data = array.array("f", z.read("%s/data/%s" % (folder, key)))
            if strides != torchzip.contiguous(shape):
                raise ValueError("%s: not contiguous" % name)
            out[name] = (shape, data[offset:offset + math.prod(shape)].tolist())
        return out


def safetensors(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    return {k: (v["shape"], array.array({"F32": "f", "I64": "q"}[v["dtype"]], data[slice(*v["data_offsets"])]).tolist())
            for k, v in header.items() if k != "__metadata__"}


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, numbers)"""
    header, parts, at = {}, [], 0
    for name, (dtype, shape, numbers) in tensors.items():
        b = array.array({"F32": "f", "I64": "q"}[dtype], numbers).tobytes()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(b)]}
        parts.append(b)
        at += len(b)
    h = json.dumps(header).encode()
    h += b" " * (-len(h) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(h)) + h + b"".join(parts))


# --- Mathematics on lists ---

def dot(x, y):
    return sum(map(mul, x, y))


def linear(w, x, b=None):
    """w [rows][cols] x + b"""
    return [dot(row, x) for row in w] if b is None else [dot(row, x) + c for row, c in zip(w, b)]


def plus(*xs):
    return [sum(x) for x in zip(*xs)]


def norm(x, g=None, b=None):
    n = len(x)
    mean = sum(x) / n
    c = [v - mean for v in x]
    r = 1 / math.sqrt(dot(c, c) / n + EPS)
    y = [v * r for v in c]
    return y if g is None else [v * s + t for v, s, t in zip(y, g, b)]


def log_softmax(x):
    top = max(x)
    by = top + math.log(math.fsum(math.exp(v - top) for v in x))
    return [v - by for v in x]


class Model:
    def __init__(self, config, entries, steps=None):
        self.c, self.e = config, entries
        self.kind = config["model_type"]
        self.lm = self.kind == "torchdeq-lm"
        self.steps = steps or (PICARD_STEPS if self.lm else None)
        self.pre = bool(config.get("pre_lnorm"))
        self.D, self.H, self.Dh = config["d_model"], config["n_head"], config["d_head"]
        self.div, self.cutoffs = config.get("div_val", 1), list(config.get("cutoffs", []))
        self.ends = [0] + self.cutoffs + [config["n_token"]]
        self.E = config.get("d_embed") or self.D
        self.horizon = config.get("local_size") or HORIZON
        layers = [("func.dec_attn.%d." % i,
                   "func.pos_ff.%d." % i) for i in range(config.get("n_layer", 1))] if self.lm else [("func.dec_attn.",
                                                                                                      "func.pos_ff.")]
        self.blocks = [{"qkv": self.weight(a + "qkv_net"), "r": self.weight(a + "r_net"), "o": self.weight(a + "o_net"),
                        "ob": self.vector(a + "o_net.bias"), "rw": self.matrix(a + "r_w_bias"),
                        "rr": self.matrix(a + "r_r_bias"), "up": self.weight(f + "ff1_net"),
                        "upb": self.vector(f + "ff1_net.bias"), "down": self.weight(f + "ff2_net"),
                        "downb": self.vector(f + "ff2_net.bias"), "a": a, "f": f} for a, f in layers]
        inject = "injection" if self.lm else "inject_conv"
        self.inject, self.inject_b = self.weight(inject), self.vector(inject + ".bias")
        self.positions = {}  # distance -> by block, by head: W_r p

    def vector(self, name):
        return self.e[name][1]

    def matrix(self, name):
        """Rows; dimensions of 1 behind (Conv1d) do not matter."""
        shape, x = self.e[name]
        cols = math.prod(shape[1:])
        return [x[i * cols:(i + 1) * cols] for i in range(shape[0])]

    def weight(self, name):
        if name + ".weight_v" not in self.e:
            return self.matrix(name + ".weight")
        v, out = self.matrix(name + ".weight_v"), []
        for i, row in enumerate(v):
            g = self.c.get("norm_target_norm",
                           1.0) if self.c.get("norm_no_scale") else self.vector(name + ".weight_g")[i]
            factor = g / math.sqrt(dot(row, row))
            if self.c.get("norm_clip"):
                factor = min(factor, self.c.get("norm_clip_value", 1.0))
            out.append([factor * x for x in row])
        return out

    def embed(self, token):
        c = next(i for i in range(len(self.ends) - 1) if token < self.ends[i + 1]) if self.div != 1 else 0
        e = self.matrix("word_emb.emb_layers.%d.weight" % c)[token - (self.ends[c] if self.div != 1 else 0)]
        proj = "word_emb.emb_projs.%d.weight" % c
        if self.div != 1 or self.D != self.E:
            e = linear(self.matrix(proj), e)
        return [x * math.sqrt(self.D) for x in e]

    def position(self, distance):
        if distance not in self.positions:
            angles = [distance / 10000 ** (i / self.D) for i in range(0, self.D, 2)]
            p = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            self.positions[distance] = [self.heads(linear(b["r"], p)) for b in self.blocks]
        return self.positions[distance]

    def heads(self, x):
        return [x[h * self.Dh:(h + 1) * self.Dh] for h in range(self.H)]

    def qkv(self, block, z, u):
        """q, k, v of one position, each by head. deq-lm orders them by head, the others by kind."""
        if self.lm:
            z = norm(z, self.vector(block["a"] + "ln1.weight"), self.vector(block["a"] + "ln1.bias"))
        elif self.pre:
            z = norm(z)
        x = plus(linear(block["qkv"], z), u)
        if self.lm:
            parts = [x[3 * h * self.Dh:3 * (h + 1) * self.Dh] for h in range(self.H)]
            return tuple([p[k * self.Dh:(k + 1) * self.Dh] for p in parts] for k in range(3))
        n = self.H * self.Dh
        return tuple(self.heads(x[k * n:(k + 1) * n]) for k in range(3))

    def attention(self, l, q, keys, values, at):
        """Of the position at `at` of keys."""
        b, out = self.blocks[l], []
        seen = range(max(0, at - self.horizon + 1), at + 1)
        for h in range(self.H):
            qc, qr = plus(q[h], b["rw"][h]), plus(q[h], b["rr"][h])
            s = [(dot(qc, keys[j][h]) + dot(qr, self.position(at - j)[l][h])) / math.sqrt(self.Dh) for j in seen]
            p = [math.exp(x) for x in log_softmax(s)]
            out += [math.fsum(w * values[j][h][d] for w, j in zip(p, seen)) for d in range(self.Dh)]
        return out

    def cell(self, z, u, memory):
        """f of a segment. memory: by block, (k, v) of every position."""
        for l, b in enumerate(self.blocks):
            mine = [self.qkv(b, x, w) for x, w in zip(z, u)]
            keys = [k for k, _ in memory[l]] + [m[1] for m in mine]
            values = [v for _, v in memory[l]] + [m[2] for m in mine]
            out = []
            for i, x in enumerate(z):
                a = self.attention(l, mine[i][0], keys, values, len(memory[l]) + i)
                if self.lm:
                    a = norm(a, self.vector(b["a"] + "ln2.weight"), self.vector(b["a"] + "ln2.bias"))
                s = plus(linear(b["o"], a, b["ob"]), x)
                if not self.lm and not self.pre:
                    s = norm(s)
                h = s
                if self.lm:
                    h = norm(s, self.vector(b["f"] + "ln.weight"), self.vector(b["f"] + "ln.bias"))
                elif self.pre:
                    h = norm(s)
                y = linear(b["down"], [max(v, 0.0) for v in linear(b["up"], h, b["upb"])], b["downb"])
                if self.pre and self.kind == "locuslab-deq-transformer":
                    s = h  # its residual is the normed input
                y = plus(y, s)
                out.append(norm(y) if not self.lm and not self.pre else y)
            z = out
        return z

    def solve(self, u, memory):
        """By Picard, which the random cells here contract under: with the last change of an entry an equilibrium is
        known to 20 times that even where changes shrink by a twentieth only, and compared within 1e-4."""
        z = [[0.0] * self.D for _ in u]
        for _ in range(self.steps or 3000):
            y = self.cell(z, u, memory)
            apart = max(abs(a - b) for p, q in zip(y, z) for a, b in zip(p, q))
            z = y
            if not self.steps and apart < 1e-7:
                return z
        if not self.steps:
            raise ValueError("no equilibrium: choose another seed")
        return z

    def logprobs(self, z):
        words, biases = [], []
        for c in range(len(self.ends) - 1):
            lo, hi = self.ends[c], self.ends[c + 1]
            if self.div == 1:
                words.append(self.matrix("crit.out_layers.0.weight")[lo:hi])
                biases.append(self.vector("crit.out_layers.0.bias")[lo:hi])
            else:
                words.append(self.matrix("crit.out_layers.%d.weight" % c))
                biases.append(self.vector("crit.out_layers.%d.bias" % c))

        def hidden(c):
            if self.div == 1 and self.D == self.E:
                return z
            return [dot(col, z) for col in zip(*self.matrix("crit.out_projs.%d.weight" % c))]

        head_w, head_b = words[0], biases[0]
        if self.cutoffs:
            head_w, head_b = head_w + self.matrix("crit.cluster_weight"), head_b + self.vector("crit.cluster_bias")
        head = log_softmax(linear(head_w, hidden(0), head_b))
        out = head[:self.ends[1]]
        for c in range(1, len(self.ends) - 1):
            out += [head[-c] + x for x in log_softmax(linear(words[c], hidden(c), biases[c]))]
        return out

    def segments(self, tokens):
        """For each segment of tgt_len tokens: (states, log-probabilities), by position."""
        T, M = self.c["tgt_len"], self.c["mem_len"]
        z_old, u_old, out = [], [], []
        for at in range(0, len(tokens), T):
            u = [linear(self.inject, self.embed(t), self.inject_b) for t in tokens[at:at + T]]
            memory = [[self.qkv(b, z, w)[1:] for z, w in zip(z_old, u_old)] for b in self.blocks]
            z = self.solve(u, memory)
            out.append((z, [self.logprobs(x) for x in z]))
            z_old, u_old = (z_old + z)[-M:] if M else [], (u_old + u)[-M:] if M else []
        return out


def golden(config, entries, tokens, steps=None):
    """tokens: one list a sequence, of the same length"""
    m = Model(config, entries, steps)
    by_sequence = [m.segments(t) for t in tokens]
    out = {"tokens": ("I64", [len(tokens), len(tokens[0])], [t for s in tokens for t in s])}
    for n in range(len(by_sequence[0])):
        for name, i, last in (("equilibrium", 0, m.D), ("logprobs", 1, config["n_token"])):
            rows = [row for s in by_sequence for row in s[n][i]]
            out["segment%d.%s" % (n, name)] = ("F32", [len(tokens), len(rows) // len(tokens), last],
                                               [x for row in rows for x in row])
    return out


# --- Making checkpoints ---

def random_checkpoint(config, seed):
    """name -> (shape, numbers), with the sizes that let the equilibrium be found: what z adds is small beside what the
    token gives."""
    rng = random.Random(seed)
    c = config
    D, HD, F, V = c["d_model"], c["n_head"] * c["d_head"], c["d_inner"], c["n_token"]
    E, div, cutoffs = c.get("d_embed") or D, c.get("div_val", 1), c.get("cutoffs", [])
    lm = c["model_type"] == "torchdeq-lm"
    conv = [] if lm else [1]
    normed = c.get("wnorm") if c["model_type"] == "locuslab-deq-transformer" else c.get("norm") == "weight_norm"
    out = {}

    def put(name, shape, size, around=0.0):
        # float32 numbers, so that both sides compute with the same
        out[name] = (shape, array.array("f", [around + size * rng.uniform(-1.7, 1.7)
                                              for _ in range(math.prod(shape))]).tolist())

    def weight(name, rows, cols, size, ones=()):
        if not normed:
            return put(name + ".weight", [rows, cols, *ones], size * cols ** -0.5)
        put(name + ".weight_v", [rows, cols, *ones], 1.0)
        if not c.get("norm_no_scale"):
            put(name + ".weight_g", [rows, 1, *([1] * len(ones))], size / 4, size)

    ends = [0] + cutoffs + [V]
    layers = [(ends[i + 1] - ends[i], E // div ** i) for i in range(len(ends) - 1)] if div != 1 else [(V, E)]
    for i, (rows, cols) in enumerate(layers):
        put("word_emb.emb_layers.%d.weight" % i, [rows, cols], D ** -0.5)
        if div != 1 or E != D:
            put("word_emb.emb_projs.%d.weight" % i, [D, cols], cols ** -0.5)
    inject = "injection" if lm else "inject_conv"
    put(inject + ".weight", [3 * HD, D, *conv], D ** -0.5)
    put(inject + ".bias", [3 * HD], 0.2)
    for l in range(c.get("n_layer", 1) if lm else 1):
        a, f = ("func.dec_attn.%d." % l, "func.pos_ff.%d." % l) if lm else ("func.dec_attn.", "func.pos_ff.")
        put(a + "r_w_bias", [c["n_head"], c["d_head"]], 0.3)
        put(a + "r_r_bias", [c["n_head"], c["d_head"]], 0.3)
        weight(a + "qkv_net", 3 * HD, D, 0.3, conv)
        weight(a + "r_net", HD, D, 0.5, conv)
        weight(a + "o_net", D, HD, 0.8, conv)
        weight(f + "ff1_net", F, D, 0.5)
        weight(f + "ff2_net", D, F, 0.5)
        for name, n in ((a + "o_net", D), (f + "ff1_net", F), (f + "ff2_net", D)):
            put(name + ".bias", [n], 0.2)
        if lm:
            for name, n in ((a + "ln1", D), (a + "ln2", HD), (f + "ln", D)):
                put(name + ".weight", [n], 0.2, 1.0)
                put(name + ".bias", [n], 0.2)
    put("pos_emb.inv_freq", [D // 2], 0.0)
    out["pos_emb.inv_freq"] = ([D // 2], [10000 ** (-2 * i / D) for i in range(D // 2)])
    if cutoffs:
        put("crit.cluster_weight", [len(cutoffs), E], D ** -0.5)
        put("crit.cluster_bias", [len(cutoffs)], 0.3)
    for i, (rows, cols) in enumerate(layers):
        out["crit.out_layers.%d.weight" % i] = out["word_emb.emb_layers.%d.weight" % i]
        if not c.get("tie_weights", True):
            put("crit.out_layers.%d.weight" % i, [rows, cols], D ** -0.5)
        put("crit.out_layers.%d.bias" % i, [rows], 0.3)
    for i in range(len(ends) - 1 if div != 1 or E != D else 0):
        cols = E // div ** i if div != 1 else E
        out["crit.out_projs.%d.weight" % i] = out["word_emb.emb_projs.%d.weight" % (i if div != 1 else 0)]
        if not c["tie_projs"][i]:
            put("crit.out_projs.%d.weight" % i, [D, cols], cols ** -0.5)
    return out


def tensors(entries):
    """Of checkpoint() or random_checkpoint(), for torchzip.save."""
    return {name: torchzip.Tensor(shape, [torchzip.floats(x)]) for name, (shape, x) in entries.items()}
