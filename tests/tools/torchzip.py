"""Writes checkpoints in the form of torch.save, without PyTorch: a zip of a pickle and of storages that are not
compressed. What is written streams, so a checkpoint may be larger than memory.

    save(path, {"weight": Tensor([2, 3], [bytes, ...])})

Dictionaries nest; numbers, strings, None, lists and tuples stand beside tensors.

For tests: it writes what it is told, also what PyTorch never would."""
import array
import struct
import zipfile

STORAGE = {"f32": "FloatStorage", "f64": "DoubleStorage", "f16": "HalfStorage", "bf16": "BFloat16Storage",
           "i64": "LongStorage"}
SIZE = {"f32": 4, "f64": 8, "f16": 2, "bf16": 2, "i64": 8}


def floats(values):
    return array.array("f", values).tobytes()


def contiguous(shape):
    strides, n = [], 1
    for x in reversed(shape):
        strides.insert(0, n)
        n *= x
    return strides


class Tensor:
    """chunks: an iterable of bytes, the storage's; count: its elements, as the pickle states them. Two tensors with one
    `storage` object share it."""

    def __init__(self, shape, chunks, dtype="f32", strides=None, offset=0, count=None, storage=None):
        self.shape, self.chunks, self.dtype, self.offset = list(shape), chunks, dtype, offset
        self.strides = contiguous(shape) if strides is None else list(strides)
        self.storage = self if storage is None else storage
        n = 1
        for x in self.shape:
            n *= x
        self.count = n if count is None else count


def shared(tensor):
    """Another name for the same numbers, as a tied weight is."""
    return Tensor(tensor.shape, (), tensor.dtype, tensor.strides, tensor.offset, tensor.count, tensor.storage)


# --- The pickle, protocol 2, without memo ---

def _int(x):
    return b"J" + struct.pack("<i", x) if -1 << 31 <= x < 1 << 31 else b"\x8a\x08" + struct.pack("<q", x)


def _text(s):
    b = s.encode("utf-8")
    return b"X" + struct.pack("<I", len(b)) + b


def _ints(x):
    return b"(" + b"".join(_int(i) for i in x) + b"t"


def _value(x, key_of):
    if isinstance(x, Tensor):
        storage = (b"(" + _text("storage") + b"ctorch\n" + STORAGE[x.dtype].encode() + b"\n" + _text(key_of(x)) +
                   _text("cpu") + _int(x.count) + b"tQ")
        return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _int(x.offset) + _ints(x.shape) + _ints(x.strides)
                + b"\x89ccollections\nOrderedDict\n)RtR")
    if isinstance(x, dict):
        return b"}(" + b"".join((_text(k) if isinstance(k, str) else _int(k)) + _value(v, key_of) for k,
                                v in x.items()) + b"u"
    if isinstance(x, bool):
        return b"\x88" if x else b"\x89"
    if x is None:
        return b"N"
    if isinstance(x, int):
        return _int(x)
    if isinstance(x, float):
        return b"G" + struct.pack(">d", x)
    if isinstance(x, str):
        return _text(x)
    if isinstance(x, tuple):
        return b"(" + b"".join(_value(v, key_of) for v in x) + b"t"
    return b"](" + b"".join(_value(v, key_of) for v in x) + b"e"


def pickled(tree):
    """(the pickle of tree, its storages in the order of their keys)"""
    storages, keys = [], {}

    def key_of(t):
        if id(t.storage) not in keys:
            keys[id(t.storage)] = str(len(storages))
            storages.append(t.storage)
        return keys[id(t.storage)]

    return b"\x80\x02" + _value(tree, key_of) + b".", storages


def save(path, tree, edit_pickle=None):
    """edit_pickle: a function from the pickle's bytes to what is written in their place."""
    pickle, storages = pickled(tree)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        z.writestr("checkpoint/data.pkl", edit_pickle(pickle) if edit_pickle else pickle)
        z.writestr("checkpoint/byteorder", b"little")
        for i, s in enumerate(storages):
            with z.open("checkpoint/data/%d" % i, "w", force_zip64=s.count * SIZE[s.dtype] > 1 << 31) as f:
                for chunk in s.chunks:
                    f.write(chunk)
        z.writestr("checkpoint/version", b"3\n")
