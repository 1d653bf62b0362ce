"""Threat models: Linf and L2 balls with their start, ascent step and projection.

Radii and steps are on the [0, 1] scale of the images; images are (B, C, H, W). Every function returns a new tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.storage.arguments import check_fields

__all__ = ["L2", "Linf"]

Start: TypeAlias = Literal["uniform", "unclipped", "surface", "gaussian", "none"]
"""uniform: in the ball, clipped to [0, 1]. unclipped: the same without the clip (released ARD). surface: at distance
eps, then clipped (APGD, FAB). gaussian: x + 0.001 N(0, I), not clipped before the first gradient (TRADES, MART, RSLAD).
none: x itself."""

RANDOM_IN_BALL = ("uniform", "unclipped", "surface")

GAUSSIAN_START = 0.001
L2_LARGEST = 10.0  # beyond any published radius on images of up to 224 x 224 pixels; 128 or 36 is on the 0-255 scale


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
        check_fields(self, ThreatError, ranged=("eps",))
        require_radius(self.eps, 1.0)

    def start(self, x: Tensor, kind: str, noise: Noise) -> Tensor:
        """The first iterate of an attack, of a `kind` in `Start`."""
        if kind not in RANDOM_IN_BALL:
            return _common_start(x, kind, noise)
        u = 2 * noise.uniform(x.shape[1:], x.dtype) - 1
        if kind == "surface":
            u = u / (per_image(u.flatten(1).abs().amax(1), x) + 1e-12)
        x_adv = x + self.eps * u
        return x_adv if kind == "unclipped" else x_adv.clamp(0, 1)

    def ascend(self, x: Tensor, grad: Tensor, step: float | Tensor) -> Tensor:
        """One step along the gradient's sign, 0 where it is not finite; `step` is one length or one per image (B,)."""
        return x + (per_image(step, x) if isinstance(step, Tensor) else step) * finite(grad).sign()

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Nearest point of the ball around x within [0, 1]."""
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
        check_fields(self, ThreatError, ranged=("eps",))
        require_radius(self.eps, L2_LARGEST)

    def start(self, x: Tensor, kind: str, noise: Noise) -> Tensor:
        """The first iterate of an attack, of a `kind` in `Start`; uniform in the ball's volume."""
        if kind not in RANDOM_IN_BALL:
            return _common_start(x, kind, noise)
        direction = noise.normal(x.shape[1:], x.dtype)
        if kind == "surface":
            return (x + self.eps * (direction / per_image(length(direction) + 1e-12, x))).clamp(0, 1)
        radius = noise.uniform((), x.dtype) ** (1 / math.prod(x.shape[1:]))
        x_adv = x + per_image(self.eps * radius / length(direction), x) * direction
        return x_adv if kind == "unclipped" else x_adv.clamp(0, 1)

    def ascend(self, x: Tensor, grad: Tensor, step: float | Tensor) -> Tensor:
        """One step of length `step`, a number or (B,), along the gradient, however small; 0 where it is not finite."""
        grad = finite(grad)
        largest = grad.flatten(1).abs().amax(1).clamp_min(torch.finfo(grad.dtype).tiny)
        direction = grad / per_image(largest, x)  # before the norm, which underflows for a confident net's gradients
        return x + per_image(step / (length(direction) + 1e-12), x) * direction

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Onto the ball around x, then onto [0, 1]: clipping moves toward x, so it stays in the ball."""
        delta = x_adv - x
        shrink = (self.eps / (length(delta) + 1e-12)).clamp(max=1)
        return (x + per_image(shrink, x) * delta).clamp(0, 1)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """(B,): the size of each perturbation in this norm."""
        return length(x_adv - x)


def finite(grad: Tensor) -> Tensor:
    """The gradient, 0 where it is not finite: an infinite value is no direction either."""
    return grad.nan_to_num(0.0, 0.0, 0.0)


def gradient(loss: Tensor, x: Tensor, retain_graph: bool = False) -> Tensor:
    """The finite gradient at x of a loss (B,), summed: zeros where no path leads back to x, as behind a rounding."""
    if not loss.requires_grad:
        return torch.zeros_like(x)
    (grad,) = torch.autograd.grad(loss.sum(), x, retain_graph=retain_graph, allow_unused=True)
    return torch.zeros_like(x) if grad is None else finite(grad)


def length(v: Tensor) -> Tensor:
    """Euclidean norm of each row, (B, ...) -> (B,)."""
    norm: Tensor = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return norm


def require_radius(eps: float, largest: float) -> None:
    """Check that a radius is in (0, largest] on the [0, 1] scale. Raises ThreatError."""
    if 0 < eps <= largest:
        return
    if eps > largest:
        raise ThreatError(
            f"expected eps in (0, {largest:g}] on the [0, 1] scale of the images, got {eps:g}, "
            f"which looks like 0-255: type {eps:g}/255"
        )
    raise ThreatError(f"expected a positive eps, got {eps:g}: type for example 8/255 (clean accuracy needs no attack)")


def _common_start(x: Tensor, kind: str, noise: Noise) -> Tensor:
    """The starts that do not depend on the norm."""
    require_choice(kind, get_args(Start), "a start")
    return x.detach().clone() if kind == "none" else x + GAUSSIAN_START * noise.normal(x.shape[1:], x.dtype)


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """(B,) reshaped to (B, 1, ...), to broadcast over the images `like` (B, ...)."""
    return value.reshape(-1, *(1,) * (like.ndim - 1))


def step_or_default(step: float | None, threat_eps: float) -> float:
    """The attack's step; None is eps / 4, which is 2/255 at 8/255. Raises ThreatError."""
    resolved = threat_eps / 4 if step is None else step
    if not resolved > 0:
        raise ThreatError(f"expected a positive step, got {resolved:g}: type for example 2/255")
    return resolved


def require_at_least(least: int, **counts: int) -> None:
    """Check the counts of an attack: without a step it would only evaluate its start. Raises ThreatError."""
    for name, count in counts.items():
        if count < least:
            raise ThreatError(f"expected {name} of at least {least}, got {count}: type for example {name}={least}")


def require_choice(value: str, choices: Iterable[str], what: str) -> None:
    """Check a start or loss when the attack is built, not when it runs. Raises ThreatError."""
    if value not in choices:
        raise ThreatError(f"expected {what} as one of {', '.join(choices)}, got {value!r}: type one of these")


def require_norm(threat: object) -> Linf | L2:
    """The threat, for FAB and Square, which are defined in Linf and L2 only. Raises ThreatError."""
    if isinstance(threat, Linf | L2):
        return threat
    raise ThreatError(
        f"expected Linf or L2 for FAB and Square, got {type(threat).__name__}: type for example "
        "Linf(8 / 255), or use suites.apgd(threat)"
    )


BY_NAME: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}
"""The norms by their lower-case names, as in commands and reports."""
