"""A training run of a second or two that writes a checkpoint at every step, and what it comes to undisturbed."""
import os
import shutil
import subprocess

from lib import DEQ, ROOT, check, clean_env, run

RECIPE = os.path.join(ROOT, "tests", "golden", "tiny.yaml")
SMALLER = {"model.hidden_size": 16, "model.head_dim": 8, "model.inner_size": 32, "model.attention_window": 16,
           "data.vocab_size": 280, "train.steps": 60, "train.shallow_steps": 20, "train.batch": 2,
           "train.micro_batch": 1, "train.seq_len": 16, "train.checkpoint_every": 1, "predictor.steps": 2,
           "predictor.hidden_size": 16, "tune.loss_budget": 0}


class Training:
    def __init__(self, dir, **settings):
        self.data, self.out = os.path.join(dir, "data"), os.path.join(dir, "out")
        os.makedirs(self.data, exist_ok=True)
        with open(os.path.join(ROOT, "tests", "golden", "tokenizer", "sample.txt"), "rb") as f:
            text = f.read(6000)
        with open(os.path.join(self.data, "sample.txt"), "wb") as f:
            f.write(text[:text.rindex(b"\n") + 1])
        self.settings = dict(SMALLER, **settings)

    def argv(self, out=None):
        """It goes on where it can."""
        out = out or self.out
        argv = [DEQ, "train", RECIPE, "--data", self.data, "--out", out, "--threads", "1"]
        for k, v in self.settings.items():
            argv += ["--set", "%s=%s" % (k, v)]
        return argv + (["--resume"] if os.path.exists(os.path.join(out, "checkpoint.safetensors")) else [])

    def begin(self, log):
        with open(log, "wb") as f:
            return subprocess.Popen(self.argv(), stdin=subprocess.DEVNULL, stdout=f, stderr=f, env=clean_env())

    def finish(self, out=None):
        """(exit code, what it said)"""
        code, stdout, stderr = run(self.argv(out))
        return code, stdout + stderr

    def undisturbed(self):
        """The bytes of its model."""
        out = self.out + ".undisturbed"
        code, said = self.finish(out)
        check(code == 0, "training undisturbed: %d %s" % (code, said[-500:]))
        model = self.model(out)
        shutil.rmtree(out)
        return model

    def model(self, out=None):
        with open(os.path.join(out or self.out, "model.safetensors"), "rb") as f:
            return f.read()
