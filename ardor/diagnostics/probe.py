"""Probe: a net and the images on which it is measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.data.split import Split
from ardor.engine.modes import device_of
from ardor.evaluation.attacked import attacked, correct
from ardor.evaluation.checks.net import logits_of
from ardor.evaluation.proportion import Proportion
from ardor.types import Attack, Images, Labels, Net, Threat

STEPS = 20

Mask: TypeAlias = Tensor
"""(N,) bool: the images that are classified correctly."""


@dataclass
class Probe:
    """A net and the images on which it is measured.

    Parameters
    ----------
    net
        The net whose predictions count.
    view
        The net that is attacked: `net` in eval mode, or folded.
    data
        The images, `batch` at once.
    batch
        Images at once.
    seed
        Seed of the attacks' random numbers.
    """

    net: nn.Module
    view: Net
    data: Split
    batch: int
    seed: int

    @property
    def labels(self) -> Labels:
        """(N,) on the CPU."""
        return self.data.labels.cpu()

    def images(self, attack: Attack | None = None) -> Iterator[Images]:
        """The images under `attack`, batch by batch, on the net's device."""
        batches = attacked(self.view, self.data, attack, "gate", batch=self.batch, seed=self.seed)
        return (one.x_adv for one in batches)

    def logits(self, attack: Attack | None = None, images: Iterable[Images] | None = None) -> Tensor:
        """(N, classes) on the CPU: the net's logits of the images under `attack`, or of `images`. Raises ModelError."""
        images = self.images(attack) if images is None else images
        return torch.cat([logits_of(self.net, x.to(device_of(self.net))).cpu() for x in images])

    def correct(self, name: str = "clean", attack: Attack | None = None, alive: Mask | None = None) -> Mask:
        """Images in `alive`, default all, that are classified correctly under `attack` with the noise `name`."""
        return correct(self.net, self.view, self.data, attack, name, alive=alive, batch=self.batch, seed=self.seed)


def pgd(threat: Threat) -> PGD:
    """PGD-20 on cross-entropy from a uniform start, steps of eps / 4."""
    return PGD(threat, steps=STEPS)


def right(logits: Tensor, y: Labels) -> Mask:
    """The rows that are classified correctly."""
    return logits.argmax(1) == y


def share_of(mask: Mask) -> Proportion:
    """The true entries of all."""
    return Proportion(int(mask.sum()), len(mask))
