"""Crop and flip of a batch on its device: the view of each image is a number that can be drawn, stored and repeated.

The standard augmentation of CIFAR training: pad by 4 with zeros, crop back, mirror half of the images (He et al.,
CVPR 2016, section 4.2). One gather does all of it; a view copies pixels, so its bytes never depend on batch-mates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ardor.noise import Noise
from ardor.types import Images


def crop_flip(x: Images, noise: Noise, padding: int = 4, flip: bool = True) -> tuple[Images, Tensor]:
    """A random view of each image, and its number.

    Offsets dy and dx are uniform in 0 .. 2 padding; half of the images are mirrored with `flip`.

    Parameters
    ----------
    x
        (B, C, H, W).
    noise
        Random numbers of these images.
    padding
        Zeros on each side, in pixels.
    flip
        False for digits and letters.

    Returns
    -------
    tuple of Tensor
        The views, (B, C, H, W) of x's dtype and device; and their numbers (B,) int64, (dy (2 padding + 1) + dx) 2 +
        mirrored, which are 0 .. 161 for padding 4, even without flip.
    """
    offsets = (2 * padding + 1) ** 2
    view = noise.integers(2 * offsets) if flip else 2 * noise.integers(offsets)
    return view_of(x, view, padding, flip), view


def view_of(x: Images, view: Tensor, padding: int = 4, flip: bool = True) -> Images:
    """The view of each image that `crop_flip` numbered `view` (B,). With `flip` off nothing is mirrored.

    Cropped at (dy, dx) of the zero-padded image, then mirrored. The result is a fresh contiguous tensor.
    """
    view = view.to(x.device, non_blocking=True)  # it may be on another device
    n, channels, height, width = x.shape
    side = 2 * padding + 1
    offset = view // 2
    rows = (offset // side)[:, None] + torch.arange(height, device=x.device)
    columns = (offset % side)[:, None] + torch.arange(width, device=x.device)
    if flip:
        columns = torch.where((view % 2 == 1)[:, None], columns.flip(1), columns)
    # A gather over flattened pixels: three to four times as fast as indexing with four index tensors.
    pixels = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    padded = F.pad(x, (padding,) * 4).flatten(2)
    return padded.gather(2, pixels.reshape(n, 1, -1).expand(-1, channels, -1)).reshape(x.shape)


DRAWN = ("cropshift", "idbh")
"""Beginnings of augmentations whose views have no numbers."""


def unnumbered(
    augment: str,
    views: float,
    jitter: Sequence[float],
    randaugment: Sequence[float],
    erase: float = 0,
    cutout: float = 0,
    late: str | None = None,
    mix: str = "none",
) -> str:
    """Why the views of a recipe have no numbers, so that soft labels cannot be cached; "" where they have."""
    reasons = [f"recipe.augment {augment} draws another view in every epoch"] * augment.startswith(DRAWN)
    reasons += [f"recipe.late {late} changes the views within the run"] * bool(late)
    reasons += ["recipe.erase draws another box in every epoch"] * bool(erase)
    reasons += ["recipe.cutout draws another square in every epoch"] * bool(cutout)
    reasons += [f"recipe.mix {mix} draws another part of another image in every epoch"] * (mix != "none")
    reasons += ["recipe.views 0 draws another box in every epoch"] * (augment.startswith("resized-crop") and not views)
    reasons += ["recipe.jitter draws other colours in every epoch"] * any(jitter)
    reasons += ["recipe.randaugment draws other operations in every epoch"] * any(randaugment[:1])
    return "; ".join(reasons)
