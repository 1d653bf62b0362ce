"""Shared by both contracts: a tiny net, a small problem, and snapshots of the state that must not change."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ardor.noise import Noise, seeded
from ardor.types import Images, Labels

TOLERANCE = 1e-6  # on the [0, 1] scale: far below one grey level, far above rounding

Batch: TypeAlias = tuple[Images, Labels, Tensor]
"""Images, labels and data set indices."""


class TinyNet(nn.Module):
    """Convolution, batch norm, ReLU, twice; average pool; linear: a net with all that a contract covers.

    Images (B, channels, H, W), H and W even, to logits (B, classes); features are (B, width).
    """

    foldable: ClassVar[bool] = True

    def __init__(self, channels: int = 1, classes: int = 10, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        with seeded(seed):
            self.layers = nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            )
            self.linear = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, width)."""
        h: Tensor = self.layers(x)
        return h.mean((2, 3))

    def head(self, features: Tensor) -> Tensor:
        """(B, width) -> (B, classes)."""
        logits: Tensor = self.linear(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return self.head(self.features(x))


def problem(channels: int = 1, size: int = 8, classes: int = 10, seed: int = 0, images: int = 16) -> Batch:
    """Images (B, channels, size, size) in float32, half of their values exactly 0 or 1, labels and data set indices.

    The images of a class are alike, so that a net can learn them in a few steps.
    """
    index = torch.arange(images) * 7 + 3  # not 0, 1, 2: rows of a batch are not positions in the data
    y = torch.arange(images) % classes
    shape = (channels, size, size)
    alike = Noise(seed, y, "class").uniform(shape)
    single = Noise(seed, index, "image").uniform(shape)
    return (3 * (0.7 * alike + 0.3 * single) - 1).clamp(0, 1), y, index


def trained(channels: int, size: int, classes: int, seed: int) -> TinyNet:
    """A net trained on `problem`, in float64; a copy of a cached one."""
    return copy.deepcopy(_trained(channels, size, classes, seed))


@functools.lru_cache(maxsize=8)
def _trained(channels: int, size: int, classes: int, seed: int) -> TinyNet:
    x, y, _ = problem(channels, size, classes, seed)
    net = TinyNet(channels, classes, 8, seed).double()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x.double()), y).backward()
        optimiser.step()
    return net


def snapshot(net: nn.Module) -> dict[str, Any]:
    """The state of a net that an attack or method must not change, by kind: compare two with `require_same`."""
    parameters = list(net.parameters())
    return {
        "modes": [(name, module.training) for name, module in net.named_modules()],
        "requires_grad flags": [p.requires_grad for p in parameters],
        "parameters' gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
        "parameters": [p.detach().clone() for p in parameters],
        "buffers": [b.clone() for b in net.buffers()],
    }


def require_same(before: dict[str, Any], after: dict[str, Any], who: object, where: str) -> None:
    """Raise AssertionError, with `who` and the kind of state, unless two snapshots are equal."""
    for kind, old in before.items():
        same = len(old) == len(after[kind]) and all(map(_equal, old, after[kind]))
        require(same, who, f"to leave the net's {kind} as they were {where}", "them changed")


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b or bool(a == b)


def same_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """The same names with equal tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def global_rng() -> tuple[bytes, str, str]:
    """The state of torch's, Python's and numpy's global random generators, in comparable form."""
    with np.printoptions(threshold=10_000):
        return torch.get_rng_state().numpy().tobytes(), repr(random.getstate()), repr(np.random.get_state())


def require(condition: bool, who: object, to: str, came: str) -> None:
    """An `assert` that `python -O` does not remove."""
    if not condition:
        raise AssertionError(f"expected {who!r} {to}, got {came}")
