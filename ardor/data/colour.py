"""Colour jitter and RandAugment on a batch on its device: float images, random numbers per image.

The operations are those of Pillow and torchvision, which compute in uint8: equal to them within a grey level. An amount
is one number per image (B,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ardor.noise import Noise
from ardor.types import Images

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in Pillow's grey (ITU-R BT.601)."""

MOST = 30
"""The highest magnitude of RandAugment."""

SMOOTH = (1, 1, 1, 1, 5, 1, 1, 1, 1)
"""Pillow's 3 x 3 filter of that name, which a sharpness below 1 approaches."""


def jittered(x: Images, noise: Noise, strength: Sequence[float]) -> Images:
    """Images in other brightness, contrast, saturation and hue, as torchvision's ColorJitter, always in this order.

    Parameters
    ----------
    x
        (B, C, H, W) in [0, 1]; grey images, of one channel, have neither saturation nor hue.
    noise
        Random numbers of these images.
    strength
        b, c, s and h: factors are uniform in max(0, 1 - b) .. 1 + b, the shift of hue in -h .. h, of a whole circle.
    """
    u = noise.uniform((4,)).to(x.device)
    for operation, most, share in zip((brightness, contrast, saturation), strength, u.T, strict=False):
        low = max(0.0, 1 - most)
        x = operation(x, low + (1 + most - low) * share) if most else x
    return hue(x, strength[3] * (2 * u[:, 3] - 1)) if strength[3] else x


def randaugmented(x: Images, noise: Noise, count: int, magnitude: int) -> Images:
    """`count` operations of `OPERATIONS` on each image, drawn with replacement (Cubuk et al., NeurIPS 2020).

    Parameters
    ----------
    x
        (B, C, H, W) in [0, 1], grey or RGB.
    noise
        Random numbers of these images.
    magnitude
        0 .. 30, of all operations; those with a direction take either.
    """
    for _ in range(count):
        drawn = noise.integers(2 * len(OPERATIONS))
        amount = (drawn % 2 * 2 - 1) * (magnitude / MOST)
        parts = x.clone()
        for number, operation in enumerate(OPERATIONS):
            rows = (drawn // 2 == number).nonzero().flatten()
            if len(rows):
                at = rows.to(x.device)
                parts[at] = operation(x[at], amount[rows].to(x))
        x = parts
    return x


def brightness(x: Images, factor: Tensor) -> Images:
    """x times its factor."""
    return _blended(x, torch.zeros_like(x), factor)


def contrast(x: Images, factor: Tensor) -> Images:
    """Away from the mean of the grey image, by a factor."""
    mean = _grey(x).to(torch.float64).mean((1, 2, 3), keepdim=True).to(x)  # rounded: its last bits depend on the batch
    return _blended(x, mean, factor)


def saturation(x: Images, factor: Tensor) -> Images:
    """Away from the grey image, by a factor."""
    return _blended(x, _grey(x), factor)


def sharpness(x: Images, factor: Tensor) -> Images:
    """Away from the smoothed image, by a factor; the outermost pixels are as they were."""
    height, width = x.shape[2:]
    smooth = x.clone()
    if min(height, width) > 2:
        places = ((dy, dx) for dy in range(3) for dx in range(3))
        parts = [
            w * x[:, :, dy : dy + height - 2, dx : dx + width - 2] for w, (dy, dx) in zip(SMOOTH, places, strict=True)
        ]
        smooth[:, :, 1:-1, 1:-1] = sum(parts[1:], parts[0]) / sum(SMOOTH)
    return _blended(x, smooth, factor)


def hue(x: Images, shift: Tensor) -> Images:
    """Hue turned by a share of the circle, at the same value and saturation (HSV)."""
    if x.shape[1] != 3:
        return x
    red, green, blue = x.unbind(1)
    most = x.amax(1)
    chroma = most - x.amin(1)
    by = torch.where(chroma > 0, chroma, torch.ones_like(chroma))
    sector = torch.where(most == green, (blue - red) / by + 2, (red - green) / by + 4)
    sector = torch.where(most == red, (green - blue) / by, sector) + 6 * shift[:, None, None]
    away = [(sector + n) % 6 for n in (5, 3, 1)]
    return torch.stack([most - chroma * torch.minimum(k, 4 - k).clamp(0, 1) for k in away], 1).clamp(0, 1)


def posterised(x: Images, bits: Tensor) -> Images:
    """The highest bits of each value."""
    step = torch.exp2(8 - bits)[:, None, None, None]
    return ((x * 255).round() / step).floor() * step / 255


def solarised(x: Images, threshold: Tensor) -> Images:
    """Inverted from a threshold up, which is of 0 .. 255."""
    return torch.where((x * 255).round() < threshold[:, None, None, None], x, 1 - x)


def autocontrasted(x: Images) -> Images:
    """Each channel stretched to 0 .. 1; one of a single value is left."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / torch.where(high > low, high - low, torch.ones_like(high)), x)


def equalised(x: Images) -> Images:
    """Each channel with an even histogram of its 256 values, in Pillow's arithmetic."""
    values = (x * 255).round().to(torch.int64).flatten(2)
    counts = torch.zeros(*x.shape[:2], 256, dtype=torch.int64, device=x.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    step = (values.shape[2] - counts.gather(2, values.amax(2, keepdim=True))) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step[..., None] > 0, (table.gather(2, values) / 255).reshape(x.shape).to(x), x)


def moved(x: Images, rows: Sequence[tuple[Tensor | float, Tensor | float, Tensor | float]]) -> Images:
    """Images of which the pixel at (x, y) is that at (a x + b y + c, d x + e y + f), black outside; the nearest one.

    Parameters
    ----------
    rows
        (a, b, c) and (d, e, f): numbers, or one of each image (B,). Pixels have their centres at halves.
    """
    n, channels, height, width = x.shape
    at_y = torch.arange(height, dtype=torch.float64, device=x.device)[:, None] + 0.5
    at_x = torch.arange(width, dtype=torch.float64, device=x.device) + 0.5
    terms = [[torch.as_tensor(v, dtype=torch.float64, device=x.device).reshape(-1, 1, 1) for v in row] for row in rows]
    to_x, to_y = ((a * at_x + b * at_y + c).floor().to(torch.int64).expand(n, -1, -1) for a, b, c in terms)
    inside = (to_x >= 0) & (to_x < width) & (to_y >= 0) & (to_y < height)
    place = torch.where(inside, to_y * width + to_x, 0).reshape(n, 1, -1).expand(-1, channels, -1)
    return x.flatten(2).gather(2, place).reshape(x.shape) * inside[:, None]


def rotated(x: Images, degrees: Tensor) -> Images:
    """Turned counterclockwise around the centre."""
    angle = degrees.to(torch.float64) * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    across, down = x.shape[3] / 2, x.shape[2] / 2
    return moved(x, [(cos, -sin, across - cos * across + sin * down), (sin, cos, down - sin * across - cos * down)])


OPERATIONS: tuple[Callable[[Images, Tensor], Images], ...] = (
    lambda x, amount: x,
    lambda x, amount: moved(x, [(1, 0.3 * amount, 0), (0, 1, 0)]),
    lambda x, amount: moved(x, [(1, 0, 0), (0.3 * amount, 1, 0)]),
    lambda x, amount: moved(x, [(1, 0, (amount * x.shape[3] * 150 / 331).trunc()), (0, 1, 0)]),
    lambda x, amount: moved(x, [(1, 0, 0), (0, 1, (amount * x.shape[2] * 150 / 331).trunc())]),
    lambda x, amount: rotated(x, 30 * amount),
    lambda x, amount: brightness(x, 1 + 0.9 * amount),
    lambda x, amount: saturation(x, 1 + 0.9 * amount),
    lambda x, amount: contrast(x, 1 + 0.9 * amount),
    lambda x, amount: sharpness(x, 1 + 0.9 * amount),
    lambda x, amount: posterised(x, 8 - (4 * amount.abs()).round()),
    lambda x, amount: solarised(x, 255 * (1 - amount.abs())),
    lambda x, amount: autocontrasted(x),
    lambda x, amount: equalised(x),
)
"""RandAugment's, in torchvision's ranges: an amount is -1 .. 1, where 1 is the magnitude 30."""


def _grey(x: Images) -> Images:
    """(B, 1, H, W)."""
    if x.shape[1] != 3:
        return x
    red, green, blue = (weight * x[:, c : c + 1] for c, weight in enumerate(GREY))
    return red + green + blue


def _blended(x: Images, other: Images, factor: Tensor) -> Images:
    """`factor` of x and the rest of the other, in [0, 1]; beyond 1 away from it."""
    factor = factor[:, None, None, None]
    return (factor * x + (1 - factor) * other).clamp(0, 1)
