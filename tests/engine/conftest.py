"""A small net, made-up images, and a net that says what it computed in."""

import torch

import ardor.data.split
import ardor.models.builders
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.noise import Noise
from ardor.testing import TinyNet
from ardor.training.recipe import Recipe
from tests.conftest import filled

PGD2 = PGD(Linf(0.1), steps=2, start="gaussian")
BOTH = {"precision": "bfloat16", "attack_precision": "bfloat16"}
CLASSES = 4
X = Noise(0, torch.arange(12), "x").uniform((1, 8, 8))
Y = torch.arange(12) % CLASSES


def net(seed=0, width=4):
    """One of ours, whose batch statistics are not those it was born with."""
    made = ardor.models.build("small_cnn", classes=CLASSES, channels=1, width=width, seed=seed)
    return filled(made, seed + 1).float()


def recipe(**changes):
    defaults = {"epochs": 2, "batch": 16, "lr": 0.05, "augment": "none", "val_attack": PGD2, "device": "cpu"}
    return Recipe(**(defaults | changes))


SEEN = []


class Spied(TinyNet):
    """A user's net: no twin, and it tells what it computed in. (who, phase, learns, attacked, dtype) go to SEEN."""

    phase = "elsewhere"

    def __init__(self, who, seed=0):
        super().__init__(1, CLASSES, 4, seed)
        self.who = who

    def forward(self, x):
        h = self.layers[0](x)
        SEEN.append((self.who, Spied.phase, self.training, x.requires_grad, str(h.dtype).removeprefix("torch.")))
        return super().forward(x)


def off(a, b):
    """The length of a difference beside the length of what it should be."""
    return ((a - b).norm() / b.norm()).item()
