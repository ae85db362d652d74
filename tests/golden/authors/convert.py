#!/usr/bin/env python3
"""Writes the folders beside this file: checkpoints of the authors' PyTorch code in our format, with the equilibria that code computed.

    convert.py FIXTURES_DIR      needs numpy and safetensors; no torch: the pickle is read with an allow-list

Only what the cell's equations need is kept (embedding, injection, cell; not the heads, which have biases and clusters) and only segment 0 of
each case, which has no memory before it: [3 sequences, 8 positions]."""
import collections
import io
import json
import os
import pickle
import sys
import zipfile

import numpy as np
from safetensors.numpy import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))


def load(path):
    archive = zipfile.ZipFile(path)
    names = archive.namelist()
    root = names[0].split("/")[0]

    def rebuild(storage, offset, size, stride, *_):
        return np.lib.stride_tricks.as_strided(storage[offset:], size, [s * storage.itemsize for s in stride]).copy()

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            allowed = {("collections", "OrderedDict"): collections.OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): rebuild,
                       ("torch", "FloatStorage"): np.float32}
            return allowed[module, name]

        def persistent_load(self, pid):
            return np.frombuffer(archive.read(f"{root}/data/{pid[2]}"), dtype=pid[1])

    return Reader(io.BytesIO(archive.read(next(n for n in names if n.endswith("data.pkl"))))).load()


def weight(state, name):
    """A plain weight, or g * v / ||v|| by output row."""
    if name + ".weight" in state:
        w = state[name + ".weight"]
    else:
        v, g = state[name + ".weight_v"], state[name + ".weight_g"]
        w = v * (g / np.sqrt((v * v).sum(axis=tuple(range(1, v.ndim)), keepdims=True)))
    return w.reshape(w.shape[0], -1).astype(np.float32)


def per_head_to_stacked(w, heads):
    """Rows ordered [head, q k v, Dh] become [q k v, head, Dh]."""
    return np.ascontiguousarray(w.reshape(heads, 3, -1, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape))


def convert(fixtures, case):
    config = json.load(open(f"{fixtures}/{case}/config.json"))
    state = load(f"{fixtures}/{case}/checkpoint.pth")
    golden = load_file(f"{fixtures}/{case}/golden.safetensors")
    torchdeq = config["model_type"] == "torchdeq-lm"
    heads, blocks = config["n_head"], config["n_layer"] if torchdeq else 1
    out = {"embed.weight": state["word_emb.emb_layers.0.weight"]}
    for b in range(blocks):
        if torchdeq:
            attn, ff = f"func.dec_attn.{b}", f"func.pos_ff.{b}"
            out[f"blocks.{b}.inject.weight"] = per_head_to_stacked(weight(state, "injection"), heads)
            out[f"blocks.{b}.inject.bias"] = per_head_to_stacked(state["injection.bias"], heads)
            out[f"blocks.{b}.attn.qkv.weight"] = per_head_to_stacked(weight(state, attn + ".qkv_net"), heads)
            for ours, theirs in (("attn_norm", attn + ".ln1"), ("sub_norm", attn + ".ln2"), ("ffn_norm", ff + ".ln")):
                out[f"blocks.{b}.{ours}.weight"], out[f"blocks.{b}.{ours}.bias"] = state[theirs + ".weight"], state[theirs + ".bias"]
        else:
            attn, ff = "func.dec_attn", "func.pos_ff"
            out[f"blocks.{b}.inject.weight"] = weight(state, "inject_conv")
            out[f"blocks.{b}.inject.bias"] = state["inject_conv.bias"]
            out[f"blocks.{b}.attn.qkv.weight"] = weight(state, attn + ".qkv_net")
        out[f"blocks.{b}.attn.rel.weight"] = weight(state, attn + ".r_net")
        out[f"blocks.{b}.attn.content_bias"] = state[attn + ".r_w_bias"]
        out[f"blocks.{b}.attn.position_bias"] = state[attn + ".r_r_bias"]
        out[f"blocks.{b}.attn.out.weight"], out[f"blocks.{b}.attn.out.bias"] = weight(state, attn + ".o_net"), state[attn + ".o_net.bias"]
        out[f"blocks.{b}.ffn.up.weight"], out[f"blocks.{b}.ffn.up.bias"] = weight(state, ff + ".ff1_net"), state[ff + ".ff1_net.bias"]
        out[f"blocks.{b}.ffn.down.weight"], out[f"blocks.{b}.ffn.down.bias"] = weight(state, ff + ".ff2_net"), state[ff + ".ff2_net.bias"]
    directory = f"{HERE}/{case}"
    os.makedirs(directory, exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, f"{directory}/model.safetensors")
    z = golden["segment0.equilibrium"]
    save_file({"tokens": np.ascontiguousarray(golden["tokens"][:, : z.shape[1]]), "equilibrium": z}, f"{directory}/golden.safetensors")
    norm = "pre_sub" if torchdeq else "pre" if config["pre_lnorm"] else "post"
    json.dump({"model_type": "deq_transformer", "vocab_size": config["n_token"], "hidden_size": config["d_model"],
               "num_attention_heads": heads, "head_dim": config["d_head"], "intermediate_size": config["d_inner"], "num_blocks": blocks,
               "attention_window": config["local_size"] or 16, "norm": norm, "norm_affine": torchdeq, "final_norm": False,
               "deq": {"solver": "picard", "max_iter": 12 if torchdeq else 5000, "tol": 0 if torchdeq else 1e-7}},
              open(f"{directory}/config.json", "w"), indent=2)


for case in ("locuslab-postln-plain-local", "locuslab-preln-plain", "torchdeq-lm-plain"):
    convert(sys.argv[1], case)
    print(case)
