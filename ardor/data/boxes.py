"""The boxes of random resized crops: a function of an image's position in its data set and of a number.

So the boxes of an image can be enumerated, and what was computed on one of them can be kept and found again. No seed
takes part: with `views: 32` an image has the same 32 boxes in every run.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ardor.noise import Noise

TRIES = 10
"""Drawn boxes of which the first that fits into the image is taken, as in torchvision."""

BITS = 16
"""Of a ratio's exponent: finer than a pixel."""


def boxes_of(
    index: Tensor,
    number: Tensor,
    full: tuple[int, int],
    area: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = True,
) -> Tensor:
    """The box of each image that has this number.

    Distributed as in torchvision's RandomResizedCrop.get_params: area uniform, ratio uniform in its logarithm, sides
    rounded to pixels; the first of ten such boxes that fits, at a uniform place, else the largest central one of a
    valid ratio. Only integers, sums, products, quotients and square roots, which are equal on every processor.

    Parameters
    ----------
    index : Tensor
        (B,) positions in the data set, 0 .. 2**31 - 1.
    number : Tensor
        (B,) numbers of the boxes, 0 .. 2**31 - 1.
    full : tuple of int
        Height and width of an image, in pixels.
    area : tuple of float
        Lowest and highest share of the image's area, in (0, 1].
    ratio : tuple of float
        Lowest and highest width / height.
    flip : bool
        Whether half of the boxes are mirrored.

    Returns
    -------
    Tensor
        (B, 5) int64: top, left, height, width, mirrored (0 or 1).
    """
    noise = Noise(0, (index << 32) | number, "box")
    share = noise.uniform((TRIES,), torch.float64) * (area[1] - area[0]) + area[0]
    aspect = _between(*ratio, noise.integers(1 << BITS, (TRIES,)))
    pixels = share * (full[0] * full[1])
    sizes = torch.stack([(pixels / aspect).sqrt(), (pixels * aspect).sqrt()], 2).round().to(torch.int64)
    limits = torch.tensor(full, device=index.device)
    fits = ((sizes > 0) & (sizes <= limits)).all(2)
    size = sizes[torch.arange(len(index), device=index.device), fits.to(torch.uint8).argmax(1)]  # the first that fits
    space = limits - size
    place = (noise.integers(1 << 31, (2,)) * (space + 1)) >> 31
    largest = torch.tensor(_largest(full, ratio), device=index.device)
    drawn = fits.any(1)[:, None]
    size, place = torch.where(drawn, size, largest), torch.where(drawn, place, (limits - largest) // 2)
    mirrored = noise.integers(2) * flip
    return torch.cat([place, size, mirrored[:, None]], 1)


def _between(low: float, high: float, step: Tensor) -> Tensor:
    """low (high / low)^(step / 2^BITS), by square roots: the last bit of exp differs by processor."""
    value, factor = torch.full(step.shape, low, dtype=torch.float64, device=step.device), high / low
    for bit in reversed(range(BITS)):
        factor = math.sqrt(factor)
        value = torch.where((step >> bit) % 2 == 1, value * factor, value)
    return value


def _largest(full: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the largest box whose ratio is valid."""
    height, width = full
    return min(height, max(1, round(width / ratio[0]))), min(width, max(1, round(height * ratio[1])))
