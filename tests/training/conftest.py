"""Runs of a small net on made-up images, and how two of them are compared."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

import ardor.data.split
import ardor.models.builders
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.losses import ce
from ardor.storage.tensors import read_tensors
from ardor.testing.shared import TinyNet, problem
from ardor.training.job import Job
from ardor.training.recipe import Recipe
from ardor.training.soft_labels import SoftLabelCache
from tests.conftest import same

PGD2 = PGD(Linf(0.1), steps=2, start="gaussian")
CLASSES = 4
TIMELESS = {"seconds": 0, "images_per_second": 0}


def net(seed=0, width=3, classes=CLASSES):
    return ardor.models.build("small_cnn", classes=classes, channels=1, width=width, seed=seed)


def recipe(**changes):
    common = {"epochs": 3, "batch": 16, "lr": 0.05, "augment": "none", "padding": 1, "val_attack": PGD2}
    return Recipe(**common | {"device": "cpu"} | changes)


def rslad(**changes):
    return ardor.methods.RSLAD(attack=PGD2, **changes)


def lines(folder):
    return [json.loads(line) | TIMELESS for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ended(folder):
    """Everything a run leaves that is not time."""
    names = sorted(p.name for p in folder.glob("*.safetensors"))
    return lines(folder), {name: read_tensors(folder / name) for name in names}


def require_same(a, b):
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    for name, (tensors, metadata) in a[1].items():
        assert same(tensors, b[1][name][0]), name
        assert metadata == b[1][name][1], name


WORDS = [
    "--data", "digits", "--data.limit", "96", "--student", "small_cnn", "--student.width", "2", "--threat.eps", "0.1",
    "--recipe.batch", "32", "--recipe.augment", "crop", "--recipe.padding", "1", "--recipe.val_size", "16",
    "--recipe.device", "cpu", "--recipe.epochs", "2",
]  # fmt: skip


def _joined(words):
    return [f"{key}={value}" for key, value in zip(words[::2], words[1::2], strict=True)]


# -- Jobs whose cost is counted, and a machine whose memory ends.


def split(images=40, channels=1):
    x, y, index = problem(channels=channels, images=images)
    return Split(x, y, 10, "toy", "train", index=index)


def job_for(method, student=None, teacher=None, images=40, run=Path("nowhere"), **recipe):
    recipe = {"epochs": 100, "batch": 8, "augment": "crop", "padding": 1, "device": "cpu"} | recipe
    val, cache = split().take(slice(0, 12)), SoftLabelCache(Path(run) / "soft-labels")
    pieces = (student or TinyNet(), teacher, method, split(images), val, ardor.Recipe(**recipe), run)
    return Job(*pieces, soft_labels=cache)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
    RuntimeError("[enforce fail at alloc.cpp:1] CPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    MemoryError(),
]  # fmt: skip


@dataclass
class Greedy:
    """Steps of more than `most` images fail."""

    most: int
    error: Exception
    tried: list

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.look(len(x))
        return {"clean": ce(student(x), y)}

    def look(self, size):
        self.tried.append(size)
        if size > self.most:
            raise self.error

    def __deepcopy__(self, memo):
        return self
