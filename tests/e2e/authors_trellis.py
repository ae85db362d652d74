"""The authors' trellis networks once more, slowly: plain Python in float64, written from the PyTorch sources
(locuslab/deq at a4f4c9b, DEQModel/models/trellisnets/deq_trellisnet.py and utils/splitcross.py; locuslab/trellisnet,
TrellisNet/model.py and trellisnet.py), not from our C. As authors.py, which has the transformers: trellis.py first
shows that this file agrees with the committed goldens.

    golden(config, entries, tokens)           what golden.safetensors holds
    random_checkpoint(config, seed)           a state dict of the constructor's shapes: name -> (shape, numbers)

One sequence at a time; a vector is a list."""
import array
import math
import random

from authors import dot, linear, log_softmax, plus


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


class Model:
    def __init__(self, config, entries):
        self.c, self.e = config, entries
        self.explicit = config["model_type"] == "locuslab-trellisnet"
        self.k, self.H = config.get("kernel_size", 2), config["nhid"] + config["nout"]
        if self.explicit:  # its input's convolution has no bias
            layer, names = self.found("tnet.", "full_conv.bias2"), ("full_conv.weight1", "full_conv.weight2")
            self.bias, self.s = self.e[layer + "full_conv.bias2"][1], 1
        else:
            layer = self.found("trellisnet.", "inject_conv.bias")
            names = ("inject_conv.weight", "func.full_conv.weight")
            self.bias = plus(self.e[layer + "inject_conv.bias"][1], self.e[layer + "func.full_conv.bias"][1])
            self.s = config.get("dilation", 1)
        self.wx, self.wz = self.taps(layer + names[0]), self.taps(layer + names[1])
        self.cutoffs = list(config.get("cutoffs") or [])

    def found(self, of, name):
        return of if of + name in self.e else of + "module."

    def taps(self, name):
        """A convolution [rows, in, k], weight norm folded, as k matrices."""
        for end in ("", "_raw"):
            if name + "_v" + end in self.e:
                (rows, cols, k), v = self.e[name + "_v" + end]
                g, n = self.e[name + "_g"][1], cols * k
                x = [a * g[r] / math.sqrt(dot(v[r * n:(r + 1) * n], v[r * n:(r + 1) * n]))
                     for r in range(rows) for a in v[r * n:(r + 1) * n]]
            elif name + end in self.e:
                (rows, cols, k), x = self.e[name + end]
        return [[x[(r * cols) * k + j:(r + 1) * cols * k:k] for r in range(rows)] for j in range(k)]

    def row(self, name, i):
        (_, n), x = self.e[name]
        return x[i * n:(i + 1) * n]

    def gates(self, a, c):
        H = self.H
        i, o, g, f = [a[n * H:(n + 1) * H] for n in range(4)]
        c = [sigmoid(f[d]) * c[d] + sigmoid(i[d]) * math.tanh(g[d]) for d in range(H)]
        return [sigmoid(o[d]) * math.tanh(c[d]) for d in range(H)], c

    def segment(self, tokens, h0, c0):
        """h, c of every position; h0, c0: before the first, at every tap. Tokens before it are zeros."""
        k, s = self.k, self.s
        e = [self.row("encoder.weight", t) for t in tokens]
        back, u = [k - 1 - j for j in range(k)], []  # how far the taps reach: on tokens, whatever the dilation
        for t in range(len(tokens)):
            u.append(plus(self.bias, *[linear(self.wx[j], e[t - back[j]]) for j in range(k) if t >= back[j]]))
        if self.explicit:
            h, c = [[0.0] * self.H for _ in u], [[0.0] * self.H for _ in u]
            for _ in range(self.c["nlevels"]):
                z = [plus(x, *[linear(self.wz[j], h[t - back[j]] if t >= back[j] else h0) for j in range(k)])
                     for t, x in enumerate(u)]
                pairs = [self.gates(a, c[t - 1] if t else c0) for t, a in enumerate(z)]
                h, c = [p[0] for p in pairs], [p[1] for p in pairs]
            return h, c
        h, c, back = [], [], [b * s for b in back]
        for t, x in enumerate(u):  # a position's equation has its own h alone: those before it are solved
            x = plus(x, *[linear(self.wz[j], h[t - back[j]] if t >= back[j] else h0) for j in range(k - 1)])
            y, apart = [0.0] * self.H, 1
            while apart > 1e-13:
                old = y
                y, cell = self.gates(plus(x, linear(self.wz[k - 1], old)), c[t - 1] if t else c0)
                apart = max(abs(a - b) for a, b in zip(y, old))
            h.append(y)
            c.append(cell)
        return h, c

    def logprobs(self, h):
        y = h[self.H - self.c["nout"]:]
        V, ends = self.c["n_token" if "n_token" in self.c else "ntoken"], [0] + self.cutoffs
        word = plus([dot(self.row("decoder.weight", i), y) for i in range(V)], self.e["decoder.bias"][1])
        ends.append(V)
        head = word[:ends[1]]
        if self.cutoffs:
            (n, _), _ = self.e["criterion.tail_vectors"]
            tails = [dot(self.row("criterion.tail_vectors", i), y) for i in range(n)]
            head = head + plus(tails, self.e["criterion.tail_bias"][1])
        head = log_softmax(head)
        out = head[:ends[1]]
        for m in range(1, len(ends) - 1):
            out += [head[-m] + x for x in log_softmax(word[ends[m]:ends[m + 1]])]
        return out

    def segments(self, tokens):
        """For each segment of tgt_len tokens: (h and c side by side, log-probabilities), by position."""
        T, out = self.c.get("tgt_len") or len(tokens), []
        h, c = [0.0] * self.H, [0.0] * self.H
        for at in range(0, len(tokens), T):
            hs, cs = self.segment(tokens[at:at + T], h, c)
            out.append(([a + b for a, b in zip(hs, cs)], [self.logprobs(x) for x in hs]))
            h, c = hs[-1], cs[-1]
        return out


def golden(config, entries, tokens):
    """tokens: one list a sequence, of the same length"""
    m = Model(config, entries)
    by_sequence = [m.segments(t) for t in tokens]
    out = {"tokens": ("I64", [len(tokens), len(tokens[0])], [t for s in tokens for t in s])}
    for n in range(len(by_sequence[0])):
        for name, i in (("equilibrium", 0), ("logprobs", 1)):
            rows = [row for s in by_sequence for row in s[n][i]]
            shape = [len(tokens), len(rows) // len(tokens), len(rows[0])]
            out["segment%d.%s" % (n, name)] = ("F32", shape, [x for row in rows for x in row])
    return out


def random_checkpoint(config, seed):
    rng, c = random.Random(seed), config
    explicit = c["model_type"] == "locuslab-trellisnet"
    V, D, H, k = c["ntoken" if explicit else "n_token"], c["ninp"], c["nhid"] + c["nout"], c.get("kernel_size", 2)
    out = {}

    def numbers(shape, size, around=0.0):
        # float32 numbers, so that both sides compute with the same
        x = [around + size * rng.uniform(-1.7, 1.7) for _ in range(math.prod(shape))]
        return shape, array.array("f", x).tolist()

    def kernel(name, cols, size):
        raw = "_raw" if c.get("wdrop", 0) > 0 or (explicit and not c.get("unwrapped")) else ""
        if c.get("wnorm", True):
            out[name + "_g"] = numbers([4 * H, 1, 1], size / 4, size)
            out[name + "_v" + raw] = numbers([4 * H, cols, k], 1.0)
        else:
            out[name + raw] = numbers([4 * H, cols, k], size * (cols * k) ** -0.5)

    def again(of, first):
        out.update({of + name[len(first):]: x for name, x in list(out.items()) if name.startswith(first)})

    if explicit:
        net = "tnet." if c.get("unwrapped") else "tnet.module."
        out[net + "full_conv.bias2"] = numbers([4 * H], 0.3)
        kernel(net + "full_conv.weight1", D, 1.0)
        kernel(net + "full_conv.weight2", H, 0.8)
        again("network.0.", "tnet.")
    else:
        net = "trellisnet.module." if c.get("wdrop", 0) > 0 else "trellisnet."
        kernel(net + "func.full_conv.weight", H, 0.8)
        out[net + "func.full_conv.bias"] = numbers([4 * H], 0.3)
        kernel(net + "inject_conv.weight", D, 1.0)
        out[net + "inject_conv.bias"] = numbers([4 * H], 0.3)
        again(net + "deq.func.", net + "func.")
        again(net + "deqback.func.", net + "func.")
        for copy in ("func_copy.", "deqback.func_copy."):  # of before training, here
            out[net + copy + "full_conv.weight"] = numbers([4 * H, H, k], 0.01)
            out[net + copy + "full_conv.bias"] = numbers([4 * H], 0.01)
    out["encoder.weight"] = out["decoder.weight"] = numbers([V, D], 1.0)
    if not c.get("tie_weights", True):
        out["decoder.weight"] = numbers([V, c["nout"]], 1.0)
    out["decoder.bias"] = numbers([V], 0.3)
    if c.get("cutoffs"):
        out["criterion.tail_vectors"] = numbers([len(c["cutoffs"]), c["nout"]], 0.5)
        out["criterion.tail_bias"] = numbers([len(c["cutoffs"])], 0.3)
    return out
