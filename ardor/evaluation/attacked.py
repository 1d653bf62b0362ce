"""A split under an attack, batch by batch, on the net's device, each image with its own noise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ardor.data.split import Split
from ardor.engine.modes import attack_view, device_of
from ardor.errors import ThreatError
from ardor.evaluation.checks.net import logits_of
from ardor.noise import Noise
from ardor.types import Attack, Images, Labels, Threat


class AttackedBatch(NamedTuple):
    """A batch of a split before and after an attack, on the net's device.

    rows: (b,) int64 on the CPU, the batch's rows of the split. x_adv, x: (B, C, H, W) in [0, 1]. y: (B,) int64. B is b,
    or with padding the size of a full batch, of which the first b count.
    """

    rows: Tensor
    x_adv: Images
    x: Images
    y: Labels


PIXELS = 1 << 19
"""Of images that are attacked at once by default: 512 images of 32 pixels, 10 of 224."""


def batch_for(data: Split) -> int:
    """Images that are attacked at once by default: 256, or of large images fewer, at least 8."""
    height, width = data.shape[1:]
    return min(256, max(8, PIXELS // (height * width)))


def attacked(
    view: Any,
    data: Split,
    attack: Attack | None,
    name: str,
    *,
    batch: int = 256,
    seed: int = 0,
    rows: Tensor | None = None,
    pad: bool = False,
    threat: Threat | None = None,
) -> Iterator[AttackedBatch]:
    """Attack a split batch by batch.

    Parameters
    ----------
    view : Net
        The net to attack, from `attack_view`.
    data : Split
        The images.
    attack : Attack or None
        None leaves the images as they are.
    name : str
        The purpose of the noise: with `seed` and an image's index it fixes the image's random stream.
    batch : int
        Images computed at once.
    seed : int
        Of the attack's random numbers.
    rows : (N,) int64 Tensor or None
        The rows of `data` to attack; None for all.
    pad : bool
        Repeat the rows of a short batch up to `batch`, at most the size of `data`: one shape for all batches, so that
        an image's result does not depend, not even by rounding, on how many others there are.
    threat : Threat or None
        The adversarial images must lie within it and [0, 1]; None for no check.

    Yields
    ------
    AttackedBatch
        In the order of `rows`.

    Raises
    ------
    ThreatError
        The attack returned another shape, or images outside `threat` or [0, 1].
    """
    device = device_of(view)
    rows = torch.arange(len(data)) if rows is None else rows
    for chunk in rows.split(batch) if len(rows) else ():
        padded = chunk[torch.arange(min(batch, len(data))) % len(chunk)] if pad else chunk
        x, y, index = (value.to(device) for value in data.batch(padded.to(data.labels.device)))
        x_adv = x if attack is None else attack(view, x, y, Noise(seed, index, name))
        if threat is not None:
            _require_inside(x_adv, x, threat, name)
        yield AttackedBatch(chunk, x_adv, x, y)


def adversarial(net: nn.Module, data: Split, name: str, attack: Attack, *, batch: int = 256, seed: int = 0) -> Tensor:
    """The adversarial images of a split, as `evaluate` makes them: (N, C, H, W) in [0, 1] on the CPU.

    Parameters
    ----------
    net : nn.Module
        The net to attack.
    data : Split
        N images.
    name : str
        Of the attack in its suite: part of the noise.
    attack : Attack
        One of the suite's.
    batch, seed : int
        As of `evaluate`.
    """
    with attack_view(net) as view:
        batches = attacked(view, data, attack, name, batch=batch, seed=seed, pad=True)
        return torch.cat([one.x_adv[: len(one.rows)].detach().cpu() for one in batches])


def correct(
    net: nn.Module,
    view: Any,
    data: Split,
    attack: Attack | None,
    name: str,
    *,
    alive: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Which images `net` classifies correctly under an attack on its `view`: (N,) bool on the CPU.

    Parameters
    ----------
    net : nn.Module
        The net that classifies.
    view, data, attack, name
        As of `attacked`.
    alive : (N,) bool Tensor or None
        The images to attack, the others count as wrong; None for all.
    options
        `batch`, `seed`, `pad` and `threat` of `attacked`.

    Raises
    ------
    ModelError
        Logits are not finite, or not one row for each image.
    ThreatError
        As of `attacked`.
    """
    mask = torch.zeros(len(data), dtype=torch.bool)
    rows = None if alive is None else alive.nonzero().squeeze(1)
    where = "" if attack is None else f" under {name}"
    for one in attacked(view, data, attack, name, rows=rows, **options):
        right = logits_of(net, one.x_adv, where).argmax(1) == one.y
        mask[one.rows] = right[: len(one.rows)].cpu()
    return mask


def _require_inside(x_adv: Images, x: Images, threat: Threat, name: str) -> None:
    """Refuse images outside the threat: they would count as successes."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        got = tuple(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise ThreatError(
            f"expected {name} to return images of shape {tuple(x.shape)}, got {got}: return one for each input"
        )
    allowed = threat.eps * (1 + 1e-4) + 1e-6
    distance = getattr(threat, "distance", None)
    far = float(distance(x_adv, x).max()) if distance else 0.0
    low, high = (float(v) for v in torch.aminmax(x_adv))
    if not (far <= allowed and low >= 0 and high <= 1):
        raise ThreatError(
            f"expected {name} to stay within eps {threat.eps:.4g} and [0, 1], got distance {far:.4g} and values in "
            f"[{low:.4g}, {high:.4g}]: end the attack with threat.project(x_adv, x)"
        )
