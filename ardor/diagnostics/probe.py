"""Bench: a net, and the images it is tried on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.data.split import Split
from ardor.evaluation import checks
from ardor.evaluation.proportion import Proportion
from ardor.noise import Noise
from ardor.types import Attack, Images, Labels, Net, Threat

STEPS = 20

Mask: TypeAlias = Tensor
"""(N,) bool: which images are classified correctly."""


@dataclass
class Probe:
    """net: judged; view: attacked, the net in eval mode or its twin; data: the images, `batch` at once."""

    net: nn.Module
    view: Net
    data: Split
    batch: int
    seed: int

    @property
    def labels(self) -> Labels:
        """(N,) on the CPU."""
        return self.data.labels.cpu()

    def logits(self, change: Attack | None = None) -> Tensor:
        """(N, classes) on the CPU: the net's answers to the images as `change` makes them. Raises ModelError."""
        return self.answers(self.images(change))

    def answers(self, images: Iterable[Images]) -> Tensor:
        """(N, classes) on the CPU: the net's answers to `images`, batch by batch. Raises ModelError."""
        return torch.cat([checks.answer(self.net, x.to(self._device)).cpu() for x in images])

    def images(self, change: Attack | None = None) -> Iterator[Images]:
        """The images as `change` makes them, batch by batch, on the net's device."""
        for rows in torch.arange(len(self.data)).split(self.batch):
            x, y, index = (v.to(self._device) for v in self.data.batch(rows.to(self.data.labels.device)))
            yield x if change is None else change(self.view, x, y, Noise(self.seed, index, "gate"))

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in self.net.parameters()), torch.device("cpu"))


def pgd(threat: Threat) -> PGD:
    """PGD-20 on cross-entropy from a uniform start, steps of eps / 4."""
    return PGD(threat, steps=STEPS)


def right(logits: Tensor, y: Labels) -> Mask:
    """Which rows are classified correctly."""
    return logits.argmax(1) == y


def share_of(mask: Mask) -> Proportion:
    """How many of the images."""
    return Proportion(int(mask.sum()), len(mask))


@dataclass
class AttackProbe:
    """A net, and images to try it on."""

    net: nn.Module
    view: Net
    data: Split
    batch: int
    seed: int

    def right(self) -> Tensor:
        """(N,) bool: which images are classified correctly."""
        return self.under("clean", lambda net, x, y, noise: x, torch.ones(len(self.data), dtype=torch.bool))

    def under(self, name: str, attack: Attack, alive: Tensor) -> Tensor:
        """(N,) bool: which of the images in `alive` are still right under `attack`, whose noise is called `name`."""
        still = torch.zeros_like(alive)
        for rows in alive.nonzero().squeeze(1).split(self.batch) if bool(alive.any()) else ():
            x, y, index = batch_on(self.net, self.data, rows)
            x_adv = attack(self.view, x, y, Noise(self.seed, index, name))
            still[rows] = (checks.answer(self.net, x_adv).argmax(1) == y).cpu()
        return still


def batch_on(net: nn.Module, data: Split, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and data set indices of `rows`, on the net's device."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    x, y, index = (v.to(device) for v in data.batch(rows.to(data.labels.device)))
    return x, y, index
