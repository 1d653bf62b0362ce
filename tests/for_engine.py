"""Runs of a small net on made-up images, and how two of them are compared."""

import json

import torch

import ardor.data.split
import ardor.models.builders
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.noise import Noise
from ardor.storage.tensors import read_tensors
from ardor.training.recipe import Recipe

PGD2 = PGD(Linf(0.1), steps=2, start="gaussian")
CLASSES = 4
TIMELESS = {"seconds": 0, "images_per_second": 0}


def splits(n=56, name="made"):
    noise = Noise(0, torch.arange(n), "images")
    labels = torch.arange(n) % CLASSES
    images = (noise.uniform((1, 8, 8)) * 0.5 + labels[:, None, None, None] / (2 * CLASSES)).clamp(0, 1)
    whole = ardor.data.split.Split(images, labels, CLASSES, name, "train")
    return whole.take(slice(0, 40)), whole.take(slice(40, n))


def net(seed=0, width=3):
    return ardor.models.build("small_cnn", classes=CLASSES, channels=1, width=width, seed=seed)


def recipe(**changes):
    said = {"epochs": 3, "batch": 16, "lr": 0.05, "augment": "none", "padding": 1, "val_attack": PGD2, "device": "cpu"}
    return Recipe(**(said | changes))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def bits(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


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
