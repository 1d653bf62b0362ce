"""Threats: which perturbations are allowed. A norm is a small value with three functions, not a kind of attack.

Radii and steps are on the [0, 1] scale of the images. Every function returns a fresh tensor.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ardor.errors import ThreatError
from ardor.noise import Noise

__all__ = ["L2", "Linf"]

Start: TypeAlias = Literal["uniform", "unclipped", "surface", "gaussian", "none"]
"""uniform: in the ball, clipped to [0, 1]. unclipped: the same without the clip (released ARD). surface: at distance
eps, then clipped (APGD, FAB). gaussian: x + 0.001 N(0, I), not clipped before the first gradient (TRADES, MART, RSLAD).
none: x itself."""

GAUSSIAN_START = 0.001
L2_LARGEST = 10.0  # beyond any published radius on images of up to 224 x 224 pixels; 128 or 36 was meant in 0-255


@dataclass(frozen=True)
class Linf:
    """The L-infinity ball.

    Parameters
    ----------
    eps
        Radius: the largest change of a value of the image, in (0, 1].
    """

    eps: float = 8 / 255

    def __post_init__(self) -> None:
        require_radius(self.eps, 1.0)

    def start(self, x: Tensor, kind: str, noise: Noise) -> Tensor:
        """Where an attack begins, as `Start` says."""
        if kind in ("uniform", "unclipped"):
            x_adv = x + self.eps * (2 * noise.uniform(x.shape[1:], x.dtype) - 1)
            return x_adv.clamp(0, 1) if kind == "uniform" else x_adv
        if kind == "surface":
            u = 2 * noise.uniform(x.shape[1:], x.dtype) - 1
            largest = u.flatten(1).abs().amax(1)
            return (x + self.eps * (u / (_per_image(largest, x) + 1e-12))).clamp(0, 1)
        return _plain_start(x, kind, noise)

    def ascend(self, x: Tensor, grad: Tensor, step: float | Tensor) -> Tensor:
        """One step along the gradient's sign, of one length or of one for each image (B,)."""
        return x + (_per_image(step, x) if isinstance(step, Tensor) else step) * grad.sign()

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest point of the ball around x that is an image."""
        return x_adv.clamp(x - self.eps, x + self.eps).clamp(0, 1)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """(B,): the size of each perturbation in this norm."""
        return (x_adv - x).flatten(1).abs().amax(1)


@dataclass(frozen=True)
class L2:
    """The Euclidean ball.

    Parameters
    ----------
    eps
        Radius: the length of the perturbation over all values of the image, in (0, 10].
    """

    eps: float = 128 / 255

    def __post_init__(self) -> None:
        require_radius(self.eps, L2_LARGEST)

    def start(self, x: Tensor, kind: str, noise: Noise) -> Tensor:
        """Where an attack begins, as `Start` says; uniform in the ball's volume."""
        if kind in ("uniform", "unclipped"):
            direction = noise.normal(x.shape[1:], x.dtype)
            radius = noise.uniform((), x.dtype) ** (1 / math.prod(x.shape[1:]))
            x_adv = x + _per_image(self.eps * radius / length(direction), x) * direction
            return x_adv.clamp(0, 1) if kind == "uniform" else x_adv
        if kind == "surface":
            direction = noise.normal(x.shape[1:], x.dtype)
            return (x + self.eps * (direction / _per_image(length(direction) + 1e-12, x))).clamp(0, 1)
        return _plain_start(x, kind, noise)

    def ascend(self, x: Tensor, grad: Tensor, step: float | Tensor) -> Tensor:
        """One step of the given length, or of one for each image, along the gradient, however small; none at zero."""
        largest = grad.flatten(1).abs().amax(1).clamp_min(torch.finfo(grad.dtype).tiny)
        direction = grad / _per_image(largest, x)  # a confident net's gradients vanish, its weakness does not
        return x + _per_image(step / (length(direction) + 1e-12), x) * direction

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Onto the ball around x, then into the box of images; clipping toward x in the box never leaves the ball."""
        delta = x_adv - x
        shrink = (self.eps / (length(delta) + 1e-12)).clamp(max=1)
        return (x + _per_image(shrink, x) * delta).clamp(0, 1)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """(B,): the size of each perturbation in this norm."""
        return length(x_adv - x)


def length(v: Tensor) -> Tensor:
    """(B,): Euclidean length of each image-shaped row."""
    norm: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return norm


def require_radius(eps: float, largest: float) -> None:
    """Refuse a radius that cannot be meant on the [0, 1] scale. Raises ThreatError."""
    if not isinstance(eps, numbers.Real):
        raise ThreatError(f"expected eps as a number, got {eps!r}: type for example Linf(8 / 255)")
    if 0 < eps <= largest:
        return
    if eps > largest:
        raise ThreatError(
            f"expected eps in (0, {largest:g}] on the [0, 1] scale of the images, got {eps:g}, "
            f"which looks like 0-255: type {eps:g}/255"
        )
    raise ThreatError(f"expected a positive eps, got {eps:g}: type for example 8/255 (clean accuracy needs no attack)")


def _plain_start(x: Tensor, kind: str, noise: Noise) -> Tensor:
    if kind == "gaussian":
        return x + GAUSSIAN_START * noise.normal(x.shape[1:], x.dtype)
    if kind == "none":
        return x.detach().clone()
    require_word(kind, get_args(Start), "a start")
    raise AssertionError(kind)  # the caller has dealt with the other two


def _per_image(scale: Tensor, x: Tensor) -> Tensor:
    return scale.reshape(-1, *(1,) * (x.ndim - 1))


def step_or_default(step: float | None, threat_eps: float) -> float:
    """The attack's step, or eps / 4 (2/255 in 8/255) where none is given. Raises ThreatError."""
    resolved = threat_eps / 4 if step is None else step
    if not resolved > 0:
        raise ThreatError(f"expected a positive step, got {resolved:g}: type for example 2/255")
    return resolved


def require_steps(steps: int) -> None:
    """Refuse an attack that takes no step: it would judge its own start. Raises ThreatError."""
    if steps < 1:
        raise ThreatError(f"expected at least 1 step, got {steps}: type for example 10")


def require_word(word: str, choices: Iterable[str], what: str) -> None:
    """Refuse a misspelt start or loss when the attack is made, not when it runs. Raises ThreatError."""
    if word not in choices:
        raise ThreatError(f"expected {what} as one of {', '.join(choices)}, got {word!r}: type one of these")


BY_NAME: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}
"""The norms by the word that names them at the shell and in reports, in lower case."""
