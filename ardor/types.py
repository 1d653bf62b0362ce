"""The architecture in one page: what flows between the rooms, and the shapes a user's own pieces must have.

Nothing here is inherited from. A threat, an attack or a method is any object with these functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from ardor.noise import Noise

Images: TypeAlias = Tensor
"""(B, C, H, W) floating point in [0, 1]; normalisation is the model's first layer."""

Logits: TypeAlias = Tensor
"""(B, classes) floating point, before any softmax."""

Labels: TypeAlias = Tensor
"""(B,) int64 in 0 .. classes - 1."""

PerExample: TypeAlias = Tensor
"""(B,) one loss per image, not yet reduced."""

Net: TypeAlias = Callable[[Images], Logits]
"""Images to logits. Methods on features also use `features(x)` -> (B, d) and `head(features)` -> logits."""

Objective: TypeAlias = Callable[[Images], PerExample]
"""What an inner maximisation climbs: any per-example function of the images."""


@runtime_checkable
class Threat(Protocol):
    """A set of allowed perturbations around x: see ardor.attacks.threat for Linf and L2."""

    @property
    def eps(self) -> float:
        """The radius, on the [0, 1] scale of the images."""
        ...

    def start(self, x: Images, kind: str, noise: Noise) -> Images:
        """Return a fresh tensor: where an attack begins."""
        ...

    def ascend(self, x: Images, grad: Tensor, step: float | Tensor) -> Images:
        """One step of steepest ascent in this norm: of the same length for all, or of one for each image (B,)."""
        ...

    def project(self, x_adv: Images, x: Images) -> Images:
        """The nearest point of the ball around x, clipped to [0, 1]."""
        ...


@runtime_checkable
class Attack(Protocol):
    """An evaluation attack: hyperparameters only; no model, no data, no mode."""

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """Adversarial images (B, C, H, W) inside the threat, judged by the caller."""
        ...


@runtime_checkable
class Maximiser(Protocol):
    """An inner maximisation: the attack that a training method runs on its own objective."""

    def maximise(self, objective: Objective, x: Images, noise: Noise) -> Images:
        """Images near x on which the objective is large."""
        ...


@runtime_checkable
class Method(Protocol):
    """A training method: any object with `terms`; the loop adds the means of the named terms and logs each.

    Optional: `parameters()` for parts that are trained along, and `prepare(student, teacher, x)` that shapes them;
    attributes that end in `_` are learned state and are checkpointed.

    Optional attributes of the class itself, which a subclass does not inherit: `needs_teacher` (default False, a method
    that may be given None), `wants_robust_teacher` (default True, its teacher is attacked before training) and
    `channels_last` (default False; True where `terms` never asks for a `view` of the images).
    """

    def terms(
        self, student: nn.Module, teacher: Any, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Named loss terms, each per example (B,) or a scalar where it is a batch statistic. epoch counts from 1."""
        ...
