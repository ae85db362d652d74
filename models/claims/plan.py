"""What is run: a deep equilibrium model of each kind and its explicit twins, of equal parameters outside embeddings, on
the same text with the same tokenizer, batch, schedule and seeds; and the short steps that show what depth costs in
memory."""
import collections

KINDS = ("transformer", "trellis")
FORMS = {
    "deq": "DEQ",
    "tied": "tied layers",
    "untied": "untied layers",
    "recompute": "tied layers, checkpointed",
}

# over: what is set over recipes/KIND.yaml
Model = collections.namedtuple("Model", "kind form over")
# search: one of those that only find the rate
Run = collections.namedtuple("Run", "model rate seed search over")


class Unequal(Exception):
    """Twins that are not of equal size, in a sentence."""


def explicit(depth, **over):
    return {"train.grad": "explicit", "solver.max_iter": depth, **over}


def untied(layers, heads, head_dim, inner_size):
    """Layers of their own weights, evaluated once each."""
    return explicit(1, **{"model.blocks": layers, "model.heads": heads, "model.head_dim": head_dim,
                          "model.inner_size": inner_size})


class Plan:
    """A list of models, and what all of them have in common."""

    def __init__(self, models, rates, seeds, over, short, wide):
        """rates: {kind: of the search}, which one rate alone needs not; over: {kind: what is set over all of its
        recipes}; short: over that in the search; wide: {kind: over that where memory is measured}"""
        self.models, self.rates, self.seeds, self.over = models, rates, seeds, over
        self.short, self.wide = short, wide

    def run(self, model, rate, seed, search=False):
        # Muon's rate is on another scale; the two go together
        own = {"train.lr": rate, "train.muon_lr": 2 * rate, "train.seed": seed}
        return Run(model, rate, seed, search,
                   {**self.over[model.kind], **(self.short if search else {}), **model.over, **own})

    def search(self, model):
        """The runs that find the rate."""
        rates = self.rates[model.kind]
        return [self.run(model, rate, self.seeds[0], True) for rate in rates] if len(rates) > 1 else []

    def finals(self, model, rate):
        """Those that the tables are made of."""
        return [self.run(model, rate, seed) for seed in self.seeds]

    def first(self, model):
        return self.run(model, self.rates[model.kind][0], self.seeds[0])


# README.md, "What it costs", says why these sizes. A trellis network's layers are tied by its definition. Untied layers
# of a transformer are narrower inside, so that embeddings too are equal.
FULL = Plan(
    models=(
        Model("transformer", "deq", {}),
        Model("transformer", "tied", explicit(16)),
        Model("transformer", "untied", untied(2, 2, 32, 224)),
        Model("trellis", "deq", {}),
        Model("trellis", "tied", explicit(16)),
    ),
    rates={"transformer": (1e-3, 2e-3, 4e-3), "trellis": (1.5e-3, 3e-3, 6e-3)},
    seeds=(1, 2),
    over={"transformer": {}, "trellis": {}},
    short={"train.steps": 300, "train.shallow_steps": 60, "train.warmup": 60, "train.eval_every": 0},
    wide={"transformer": {"model.hidden_size": 192, "model.heads": 6, "model.inner_size": 768},
          "trellis": {"model.hidden_size": 192, "model.state_size": 192}},
)

# The same in ten minutes, at one rate each that a few trials with this text found good.
_SMALL = {"model.hidden_size": 96, "data.vocab_size": 512, "train.steps": 300, "train.shallow_steps": 60,
          "train.warmup": 30, "train.eval_every": 60, "train.dropout": 0.1}
QUICK = Plan(
    models=(
        Model("transformer", "deq", {}),
        Model("transformer", "tied", explicit(16)),
        Model("transformer", "untied", untied(2, 2, 24, 168)),
        Model("trellis", "deq", {}),
        Model("trellis", "tied", explicit(16)),
    ),
    rates={"transformer": (2e-3,), "trellis": (3e-3,)},
    seeds=(1,),
    over={"transformer": {**_SMALL, "model.heads": 3, "model.inner_size": 384},
          "trellis": {**_SMALL, "model.state_size": 96}},
    short={},
    wide={"transformer": {}, "trellis": {}},
)


def run_name(run):
    return "%s-%s-%slr%g-seed%d" % (run.model.kind, run.model.form, "search-" if run.search else "", run.rate, run.seed)


def model_name(model):
    return "%s-%s" % (model.kind, model.form)


# --- Equal parameters ---

# Room for biases and norms, which are more in two narrow layers than in a wide one. Loss goes with a small power of the
# number of parameters, so that 2 % of them are some tenths of a percent of perplexity.
EQUAL = 0.02


def refuse_unequal(sizes):
    """sizes: {(kind, form): parameters outside embeddings}."""
    bad = []
    for (kind, form), n in sizes.items():
        deq = sizes[kind, "deq"]
        if abs(n - deq) > EQUAL * deq:
            bad.append("%s-%s has %s parameters outside embeddings, %s-deq %s: %.1f %% apart, at most %g %% are allowed"
                       % (kind, form, format(n, ","), kind, format(deq, ","), 100 * abs(n - deq) / deq, 100 * EQUAL))
    if bad:
        raise Unequal("; ".join(bad))


# --- Memory over depth ---

# Depths of the paper's explicit networks: 16 tied layers of a transformer, 70 levels of a trellis network.
PAPER_DEPTH = {"transformer": 16, "trellis": 70}
DEPTHS = {"transformer": (4, 8, 16, 32, 64, 128), "trellis": (4, 8, 16, 32, 64, 70, 128)}
MEMORY_FORMS = {"transformer": ("deq", "tied", "untied", "recompute"), "trellis": ("deq", "tied", "recompute")}

# The paper's protocol: sequences of 150, 15 of them at once, without embeddings (here: of bytes).
_PROTOCOL = {"train.seq_len": 150, "train.batch": 15, "train.micro_batch": 15, "data.vocab_size": 257,
             "train.steps": 1, "train.shallow_steps": 0, "train.jac_every": 1, "train.eval_every": 0,
             "train.eval_tokens": 1, "train.log_every": 1}


def memory_over(plan, kind, form, depth):
    """One step of a network of that depth: of a DEQ, that many evaluations of either solve."""
    protocol = {**plan.over[kind], **plan.wide[kind], **_PROTOCOL}
    if kind == "transformer":
        protocol["model.attention_window"] = protocol["train.seq_len"]
    return {**protocol, **{
        "deq": {"solver.tol": 0, "solver.max_iter": depth, "solver.adjoint_tol": 0, "solver.adjoint_max_iter": depth},
        "tied": explicit(depth),
        "recompute": explicit(depth, **{"train.recompute": "true"}),
        "untied": explicit(1, **{"model.blocks": depth}),
    }[form]}
