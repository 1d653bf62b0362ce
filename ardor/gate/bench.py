"""Bench: a net, and the images it is tried on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ardor import checks
from ardor.attacks import PGD
from ardor.data.split import Split
from ardor.noise import Noise
from ardor.report.stats import Proportion
from ardor.types import Attack, Images, Labels, Net, Threat

STEPS = 20

Mask: TypeAlias = Tensor
"""(N,) bool: which images are classified correctly."""


@dataclass
class Bench:
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
