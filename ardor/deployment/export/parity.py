"""Parity of an exported file with its net, on clean and on adversarial images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.data.split import Split
from ardor.engine.modes import device_of, freeze
from ardor.errors import ExportError
from ardor.evaluation.attacked import adversarial
from ardor.storage.config import describe
from ardor.types import Threat

BATCH = 64
"""Images that are compared at once; the first goes alone, so a file with a fixed batch does not pass."""


@dataclass(frozen=True)
class Match:
    """Net and file on the same images.

    Attributes
    ----------
    n : int
        Images.
    largest : float
        The largest absolute difference of a logit.
    equal : int
        Images with the same prediction.
    right, right_exported : int
        Images that the net, and the file, predict correctly.
    scale : float
        The largest absolute logit of the net; 1 for files from before this was recorded.
    """

    n: int
    largest: float
    equal: int
    right: int
    right_exported: int
    scale: float = 1.0

    @property
    def agreement(self) -> float:
        """The share of equal predictions, in [0, 1]."""
        return self.equal / self.n


@dataclass(frozen=True)
class Parity:
    """The match on clean images, and on adversarial ones made against the net by `attack`, a config."""

    clean: Match
    adversarial: Match
    attack: dict[str, Any]

    @property
    def largest(self) -> float:
        """The largest logit difference on either; NaN where one has no number."""
        return float(torch.tensor([self.clean.largest, self.adversarial.largest]).max())

    @property
    def agreement(self) -> float:
        """The smaller share of equal predictions."""
        return min(self.clean.agreement, self.adversarial.agreement)

    def misses(self, largest: float | None, agreement: float) -> list[str]:
        """The requirements that are not met, in words.

        Parameters
        ----------
        largest : float or None
            The largest logit difference that is allowed, times `Match.scale` where that is above 1: the rounding of
            float32 grows with the values. None compares predictions only.
        agreement : float
            The share of equal predictions that is required, in (0, 1].
        """
        misses = []
        for what, match in (("clean", self.clean), ("adversarial", self.adversarial)):
            if largest is not None and not match.largest <= largest * max(1, match.scale):  # also where it is NaN
                misses.append(f"logits that differ by up to {match.largest:.2g} on {what} images")
            if not match.agreement >= agreement:
                misses.append(f"{match.equal} of {match.n} equal predictions on {what} images")
        return misses

    def __str__(self) -> str:
        lines = ["| images | n | largest logit difference | equal predictions | correct: net | correct: file |"]
        lines += ["|:--|--:|--:|--:|--:|--:|"]
        for what, m in (("clean", self.clean), ("adversarial", self.adversarial)):
            shares = [f"{100 * k / m.n:.2f} %" for k in (m.equal, m.right, m.right_exported)]
            lines.append(f"| {what} | {m.n} | {m.largest:.2g} | {' | '.join(shares)} |")
        return "\n".join(lines)


def measure(net: nn.Module, other: Callable[[Tensor], Tensor], images: Split, threat: Threat, seed: int = 0) -> Parity:
    """Compare a file with its net on clean images and under PGD-10 against the net.

    Modes, parameter gradients and the global random generator are as before.

    Parameters
    ----------
    net : nn.Module
        The net, on any device.
    other : callable
        The file: images (B, C, H, W) on the CPU to logits (B, classes).
    images : Split
        The images.
    threat : Threat
        Of PGD-10.
    seed : int
        Of its random start.
    """
    attack = PGD(threat, steps=10)
    x_adv = adversarial(net, images, "parity", attack, batch=min(BATCH, len(images)), seed=seed)
    clean, labels = images.batch(slice(None))[0].cpu(), images.labels.cpu()
    return Parity(match(net, other, clean, labels), match(net, other, x_adv, labels), describe(attack))


def require_gradient(net: nn.Module, images: Split) -> None:
    """Raise ExportError for a net without a gradient, which PGD needs."""
    x = images.batch(slice(0, 1))[0].to(device_of(net), copy=True)
    with freeze(net), torch.enable_grad():
        logits = net(x.requires_grad_())
    if not logits.requires_grad:
        raise ExportError(
            f"expected a net with a gradient, along which the adversarial images are made, got {type(net).__name__} "
            "without one: take out what cuts it off (detach, no_grad, a comparison, an integer)"
        )


@torch.no_grad()
def match(net: nn.Module, other: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> Match:
    """Compare `other` with `net` on images x (N, C, H, W) with labels y (N,), both on the CPU."""
    batches = [x[:1], *(x[1:].split(BATCH) if len(x) > 1 else ())]
    with freeze(net):
        ours = torch.cat([net(batch.to(device_of(net))).float().cpu() for batch in batches])
    theirs = torch.cat([other(batch).float().cpu() for batch in batches])
    a, b = ours.argmax(1), theirs.argmax(1)
    equal, one, two = (int(same.sum()) for same in (a == b, a == y, b == y))
    return Match(len(x), float((ours - theirs).abs().max()), equal, one, two, float(ours.abs().max()))
