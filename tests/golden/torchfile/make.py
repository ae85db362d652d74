#!/usr/bin/env python3
"""Writes the checkpoints beside this file with PyTorch (2.15 was used), and from them the seeds of the fuzz targets.

    make.py            needs torch

tests/unit/test_torchfile.c knows the values: `base` below is 0..23 as [4, 6]."""
import collections
import io
import os
import pickle
import struct
import zipfile

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
CORPUS = os.path.join(HERE, "../../fuzz/corpus")
base = torch.arange(24.0).reshape(4, 6)


def fixed(module):
    """Parameters and buffers that do not depend on a random number generator."""
    for i, t in enumerate(module.state_dict().values()):
        t.copy_((torch.arange(t.numel()).reshape(t.shape) + 10 * i).to(t.dtype))
    return module


def save(name, value, **how):
    torch.save(value, os.path.join(HERE, name + ".pth"), **how)


model = fixed(torch.nn.Sequential(collections.OrderedDict(proj=torch.nn.Linear(3, 2), norm=torch.nn.BatchNorm1d(2))))
state = model.state_dict()
for protocol in (2, 3, 4, 5):
    save(f"protocol{protocol}", state, pickle_protocol=protocol)

save("views", {"base": base, "transposed": base.t(), "row": base[1], "block": base[1:3, 2:5],
               "every_other": base[:, ::2], "permuted": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
               "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 3), "f16": base.half() / 8,
               "bf16": base.bfloat16() / 8, "f64": base.double() / 8, "f64_column": (base.double() / 8)[:, 1]})
save("other_types",
     {"i64": torch.arange(3), "i32": torch.arange(3, dtype=torch.int32), "i16": torch.arange(3, dtype=torch.int16),
                     "i8": torch.arange(3, dtype=torch.int8), "u8": torch.arange(3, dtype=torch.uint8),
                     "bool": torch.tensor([True]), "c64": torch.zeros(2, dtype=torch.complex64),
                     "u16": torch.zeros(2, dtype=torch.uint16), "f8": torch.zeros(4).to(torch.float8_e4m3fn),
                     "weight": base})

tied = torch.nn.Parameter(base)
save("parameters", {"embed": tied, "head": tied, "same_storage": torch.nn.Parameter(base[2:])})

optimizer = torch.optim.Adam(model.parameters())
for p in model.parameters():
    p.grad = torch.ones_like(p)
optimizer.step()
again = fixed(model).state_dict()
save("training",
     {"model_state_dict": again, "ema": again, "optimizer": optimizer.state_dict(), "epoch": 3, "best": 1.5,
      "name": "run", "none": None,
                  "done": True, "vocab": {"a": 0, "b": 1}, "huge": 1 << 80, "negative": -70000,
                  "size": torch.Size([2, 3]), "device": torch.device("cpu"), "dtype": torch.float32,
                  "rng": torch.zeros(4, dtype=torch.uint8)})

save("module", model)
save("legacy", state, _use_new_zipfile_serialization=False)
save("conjugate", {"weight": base, "c": torch.zeros(2, dtype=torch.complex64).conj()})
save("expanded", {"weight": torch.zeros(1).expand(5)})
save("not_finite", {"weight": base, "broken": torch.tensor([1.0, float("nan"), 2.0])})
save("f64_overflow", {"weight": torch.tensor([1.0, 1e300], dtype=torch.float64)})


def storage_sizes(data):
    """Bytes of the storages by their number, for fuzz_torchpickle.c's header."""
    sizes = [0] * 32

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            if name.endswith("Storage"):
                return (module, name)
            return collections.OrderedDict if name == "OrderedDict" else lambda *a: (module, name)

        def persistent_load(self, pid):
            bytes_each = {"FloatStorage": 4, "IntStorage": 4, "DoubleStorage": 8, "LongStorage": 8,
                          "ComplexFloatStorage": 8, "HalfStorage": 2, "BFloat16Storage": 2,
                          "ShortStorage": 2}.get(pid[1][1], 1)
            sizes[int(pid[2])] = pid[4] * bytes_each

    Reader(io.BytesIO(data)).load()
    return sizes


for target in ("torchfile", "torchpickle"):
    os.makedirs(os.path.join(CORPUS, target), exist_ok=True)
for name in ("protocol2", "protocol3", "protocol4", "protocol5", "views", "other_types", "parameters", "training",
             "conjugate", "expanded", "module"):
    path = os.path.join(HERE, name + ".pth")
    archive = zipfile.ZipFile(path)
    data = archive.read(f"{name}/data.pkl")
    if name != "module":
        with open(os.path.join(CORPUS, "torchpickle", name), "wb") as f:
            f.write(struct.pack("<32H", *storage_sizes(data)) + data)
    # the same entries without padding and comments, so that a mutation meets something that matters
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as small:
        for entry in archive.namelist():
            if not entry.split("/")[-1].startswith(".") and ".data" not in entry:
                small.writestr(zipfile.ZipInfo(entry.replace(name + "/", "m/")), archive.read(entry))
    if len(out.getvalue()) <= 4096:
        with open(os.path.join(CORPUS, "torchfile", name), "wb") as f:
            f.write(out.getvalue())
