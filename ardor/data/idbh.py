"""CropShift, IDBH and erasing on a batch on its device (Li and Spratling, ICLR 2023): random numbers per image.

IDBH is, in this order: mirror half of the images; CropShift; one operation of `OPERATIONS`; erase a box. The
definitions are of uint8 images, and operations on colours are equal to them within a grey level. Released code: github
TreeLLi/DA-Alone-Improves-AT.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ardor.data.augment import crop_flip
from ardor.data.boxes import boxes_of
from ardor.data.colour import autocontrasted, brightness, contrast, equalised, moved, rotated, saturation, sharpness
from ardor.noise import Noise
from ardor.types import Images


def idbh(x: Images, noise: Noise, erase: float = 0.5) -> Images:
    """IDBH's views of images (B, C, H, W) in [0, 1]: `erase` 0.5 is its weak form, 1 its strong one."""
    x = cropshift(crop_flip(x, noise, padding=0)[0], noise)
    return erased(one_operation(x, noise), noise, erase)


def cropshift(x: Images, noise: Noise, low: int = 0, high: int | None = None) -> Images:
    """A window of each image, moved to another place of a black image.

    s is uniform in low .. high - 1, the columns that are cut in 0 .. s, and s less these the rows; the window's place
    in the image and its new place are uniform. high is 11 for CIFAR's 32 pixels, and by default in proportion.
    """
    if high is None:
        high = 1 + round(10 * min(x.shape[2:]) / 32)
    u = noise.uniform((6,), torch.float64).T
    s = low + _to(u[0], torch.full_like(u[0], high - 1 - low))
    columns = _to(u[1], s)
    rows = s - columns
    top, left, down, right = (_to(v, most) for v, most in zip(u[2:], (rows, columns) * 2, strict=True))
    y_at, x_at = (torch.arange(side, device=x.device) for side in x.shape[2:])
    places = []
    for at, begin, end, source, side in ((y_at, down, rows, top, x.shape[2]), (x_at, right, columns, left, x.shape[3])):
        begin, end, source = (v.to(x.device)[:, None] for v in (begin, side - end, source))
        inside = (at >= begin) & (at < begin + end)
        places.append((torch.where(inside, at - begin + source, 0), inside))
    (y_from, y_in), (x_from, x_in) = places
    pixels = (y_from[:, :, None] * x.shape[3] + x_from[:, None, :]).flatten(1)[:, None].expand(-1, x.shape[1], -1)
    window = x.flatten(2).gather(2, pixels).reshape(x.shape)
    return window * (y_in[:, :, None] & x_in[:, None, :])[:, None]


def erased(x: Images, noise: Noise, share: float = 1.0) -> Images:
    """Images of which a `share` has a black box: of 2 to 33 % of the area, at a ratio from 0.3 to 3.3."""
    chosen = noise.uniform(()) < share
    boxes = boxes_of(noise.index, noise.integers(2**31), (x.shape[2], x.shape[3]), (0.02, 0.33), (0.3, 3.3), False)
    return x.masked_fill(inside(x, boxes[:, :4] * chosen[:, None]), 0)


def cutout(x: Images, noise: Noise, side: int = 18) -> Images:
    """Images with a black square, whose centre is uniform and which is cut at the border (DeVries and Taylor, 2017)."""
    centre = torch.stack([noise.integers(x.shape[2]), noise.integers(x.shape[3])], 1)
    return x.masked_fill(inside(x, torch.cat([centre - side // 2, torch.full_like(centre, side)], 1)), 0)


def one_operation(x: Images, noise: Noise) -> Images:
    """One of `OPERATIONS` on each image."""
    drawn, u, side = noise.integers(len(OPERATIONS)), noise.uniform(()), noise.integers(4)
    result = x.clone()
    for number, operation in enumerate(OPERATIONS):
        rows = (drawn == number).nonzero().flatten()
        if len(rows):
            at = rows.to(x.device)
            result[at] = operation(x[at], u[rows].to(x), side[rows].to(x.device))
    return result


def _to(u: Tensor, most: Tensor) -> Tensor:
    """Whole numbers uniform in 0 .. most, from u in [0, 1)."""
    return (u * (most + 1)).floor().to(torch.int64)


def inside(x: Images, boxes: Tensor) -> Tensor:
    """(B, 1, H, W) bool: the pixels in the box of each image, top, left, height and width (B, 4)."""
    top, left, height, width = boxes.to(x.device).T[..., None]
    y_at, x_at = (torch.arange(side, device=x.device) for side in x.shape[2:])
    rows, columns = (y_at >= top) & (y_at < top + height), (x_at >= left) & (x_at < left + width)
    mask: Tensor = (rows[:, :, None] & columns[:, None, :])[:, None]
    return mask


def sheared(x: Images, amount: Tensor, side: Tensor) -> Images:
    """Sheared around the centre by 0.05 + 0.1 amount radians: along rows or columns, in either direction, by `side`."""
    slope = (0.05 + 0.1 * amount.to(torch.float64)).tan() * (side % 2 * 2 - 1)
    along_x, along_y = slope * (side < 2), slope * (side >= 2)
    return moved(x, [(1, along_x, -along_x * x.shape[2] / 2), (along_y, 1, -along_y * x.shape[3] / 2)])


def turned(x: Images, amount: Tensor, side: Tensor) -> Images:
    """Turned around the centre by 1 to 10 whole degrees, in either direction by `side`."""
    return rotated(x, (1 + (10 * amount).floor()) * (side % 2 * 2 - 1))


def _between(low: float, high: float, operation: Callable[[Images, Tensor], Images]) -> Callable[..., Images]:
    return lambda x, amount, side: operation(x, low + (high - low) * amount)


OPERATIONS: tuple[Callable[[Images, Tensor, Tensor], Images], ...] = (
    _between(0.1, 1.9, saturation),
    _between(0.5, 1.9, brightness),
    _between(0.5, 1.9, contrast),
    _between(0.1, 1.9, sharpness),
    lambda x, amount, side: autocontrasted(x),
    lambda x, amount, side: equalised(x),
    sheared,
    turned,
)
"""IDBH's operations for CIFAR, drawn with equal shares: of an amount in [0, 1) and a side of 0 .. 3."""
