"""Making models from Python: a state dict imported, a recipe trained, plots drawn, the chapter's examples."""
import importlib.util
import json
import os
import pickle
import re
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest

import deq
from conftest import ROOT, STORIES, TRANSFORMER
from deq._native import PROGRAM
from deq.programs import write_safetensors

HUGINN = os.path.join(ROOT, "tests", "golden", "authors", "huginn-zero")
TEXT = os.path.join(ROOT, "models", "README.md")
RECIPE = {
    "model": {"hidden_size": 32, "heads": 2, "head_dim": 16, "inner_size": 64, "attention_window": 32},
    "data": {"valid_share": 0.1, "vocab_size": 300},
    "train": {"steps": 8, "shallow_steps": 4, "shallow_depth": 2, "batch": 2, "micro_batch": 2, "seq_len": 32,
              "lr": 1e-3, "warmup": 2, "eval_every": 8, "checkpoint_every": 4},
    "predictor": {"hidden_size": 16, "steps": 2},
    "tune": {"loss_budget": 0},
}


def arrays(directory, beginning="model"):
    """The tensors of a directory's safetensors files whose names begin so."""
    tensors = {}
    for name in sorted(os.listdir(directory)):
        if name.startswith(beginning) and name.endswith(".safetensors"):
            data = open(os.path.join(directory, name), "rb").read()
            n = int.from_bytes(data[:8], "little")
            for key, t in json.loads(data[8:8 + n]).items():
                if key != "__metadata__":
                    a, b = t["data_offsets"]
                    numbers = np.frombuffer(data[8 + n + a:8 + n + b], {"F32": "<f4", "I64": "<i8"}[t["dtype"]])
                    tensors[key] = numbers.reshape(t["shape"])
    return tensors


def config():
    with open(os.path.join(HUGINN, "config.json")) as f:
        return json.load(f)


class Tensor:
    """As much of a torch tensor as is asked for, on another device and part of a graph."""

    def __init__(self, array):
        self.array, self.dtype = array, "torch." + str(array.dtype)

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """By the program, of the authors' own files."""
    out = tmp_path_factory.mktemp("huginn") / "model"
    subprocess.run([PROGRAM, "import", HUGINN, "--out", out], check=True, capture_output=True)
    return out


@pytest.mark.parametrize("tensor", [np.asarray, Tensor, "torch"])
def test_state_dict_to_model(imported, tmp_path, tensor):
    if tensor == "torch":
        torch = pytest.importorskip("torch")
        tensor = lambda a: torch.nn.Parameter(torch.from_numpy(a.copy()), requires_grad=a.dtype == np.float32)
    state_dict = {name: tensor(a) for name, a in arrays(HUGINN).items()}
    path = deq.import_checkpoint(state_dict, tmp_path / "mine", config=config())
    assert (path / "model.safetensors").read_bytes() == (imported / "model.safetensors").read_bytes()
    with deq.load(path) as model:
        assert len(model.generate([1, 2, 3], max_tokens=4, ignore_eos=True).tokens) == 4


def test_import_refusals(tmp_path):
    state_dict = arrays(HUGINN)
    name, first = next(iter(state_dict.items()))
    with pytest.raises(deq.Error, match="no_such"):
        deq.import_checkpoint({**state_dict, "no_such.weight": first}, tmp_path / "a", config=config())
    with pytest.raises(deq.RequestError, match="source: " + name):
        deq.import_checkpoint({name: np.zeros(3, complex)}, tmp_path / "b", config=config())
    assert not list(tmp_path.iterdir())


def test_safetensors_of_every_kind(tmp_path):
    ours = {"f32": np.arange(6, dtype=np.float32).reshape(2, 3).T, "i64": np.array(5),
            "f16": np.ones((2, 0), np.float16)}
    write_safetensors(ours, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + n])
    assert n % 8 == 0 and header["f32"] == {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]}
    assert np.frombuffer(data[8 + n:8 + n + 24], "<f4").tolist() == [0, 3, 1, 4, 2, 5]  # row-major, whatever it was
    assert header["i64"]["shape"] == [] and header["f16"]["data_offsets"] == [32, 32] and len(data) == 8 + n + 32


def test_train(tmp_path):
    seen = []
    events = deq.train(RECIPE, TEXT, tmp_path / "model", on_event=seen.append, threads=1,
                       settings={"train.steps": 6, "train.grad": "unroll"})
    assert events == seen and [e["step"] for e in events if e["event"] == "step"][-1] == 6
    assert events[0]["event"] == "start" and any(e["event"] == "valid" for e in events)
    with deq.load(tmp_path / "model") as model:
        assert model.info.d_model == 32 and model.generate("The", max_tokens=4).tokens.size


def test_train_is_stopped_by_its_callback_and_resumed(tmp_path):
    class Enough(Exception):
        pass

    def stop(event):
        if event["event"] == "step":
            raise Enough

    arguments = (RECIPE, TEXT, tmp_path / "model")
    settings = {"train.steps": 100000}
    with pytest.raises(Enough):
        deq.train(*arguments, on_event=stop, threads=1, settings=settings)
    assert (tmp_path / "model" / "checkpoint.safetensors").exists()
    with pytest.raises(deq.Error, match="resume"):
        deq.train(*arguments, threads=1, settings=settings)
    with pytest.raises(Enough):
        deq.train(*arguments, on_event=stop, threads=1, settings=settings, resume=True)


def test_train_names_what_is_wrong(tmp_path):
    with pytest.raises(deq.Error, match="model.hiden_size"):
        deq.train({"model": {"hiden_size": 3}}, TEXT, tmp_path / "m")


def chapter():
    with open(os.path.join(ROOT, "core", "python", "README.md")) as f:
        return f.read()


def test_the_chapters_commands_install_it(tmp_path):
    commands = re.findall(r"^    (\S.*)", re.sub(r"```.*?```", "", chapter(), flags=re.S), re.M)
    assert commands[0].startswith("apt-get ") and commands[1] == "make wheel", "what is not run here"
    for command in commands[2:]:
        subprocess.run(command.replace("build/python", f"{tmp_path}/python"), shell=True, check=True, cwd=ROOT)
    subprocess.run([tmp_path / "python" / "bin" / "python", "-c", "import deq.plot"], check=True, cwd=tmp_path)


def load_checkpoint(path):
    """torch.load, of float32 tensors, where torch is not installed."""
    archive = zipfile.ZipFile(path)
    top = archive.namelist()[0].split("/")[0]

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return {"OrderedDict": dict, "_rebuild_tensor_v2": tensor, "FloatStorage": np.float32}[name]

        def persistent_load(self, pid):
            return np.frombuffer(archive.read(f"{top}/data/{pid[2]}"), pid[1])

    def tensor(storage, offset, shape, stride, *_):
        strides = [4 * n for n in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)

    return Unpickler(archive.open(f"{top}/data.pkl")).load()


def without_space(text):
    return "".join(text.split())


@pytest.mark.parametrize("code, shown", re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", chapter(), re.S),
                         ids=lambda c: c.split("\n")[0][:40])
def test_the_chapters_examples_print_what_it_shows(code, shown, tmp_path, monkeypatch, capsys):
    import matplotlib

    matplotlib.use("Agg")
    if not importlib.util.find_spec("torch"):
        monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load_checkpoint))
    os.mkdir(tmp_path / "build")
    os.mkdir(tmp_path / "models")
    os.symlink(os.path.join(ROOT, "tests"), tmp_path / "tests")
    for name in ("stories", "README.md"):
        os.symlink(os.path.join(ROOT, "models", name), tmp_path / "models" / name)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"deq": deq, "model": deq.load(STORIES)})
    assert without_space(capsys.readouterr().out) == without_space(shown)
    assert ("savefig" in code) == bool(list(tmp_path.glob("build/*.svg")))


def test_the_example_draws_its_figure(tmp_path):
    script = os.path.join(ROOT, "core", "python", "examples", "convergence.py")
    figure = tmp_path / "convergence.svg"
    done = subprocess.run([sys.executable, script, TRANSFORMER, figure], check=True, capture_output=True, text=True,
                          env={**os.environ, "MPLBACKEND": "Agg"})
    told = re.findall(r"^(.*): ([\d.]+) evaluations and ([\d.]+) steps a token$", done.stdout, re.M)
    (exactly, exact_evaluations, exact_steps), (served, evaluations, steps) = told
    assert (exactly, served) == ("one by one, exactly", "as it is served")
    # the figure's point: a window takes fewer steps a token than evaluations, one by one no fewer
    assert float(steps) < float(evaluations) < float(exact_evaluations) <= float(exact_steps)
    assert figure.read_text().count("<path") > 100
