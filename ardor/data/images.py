"""Images of a split: a tensor, or an object that reads the rows that are asked for.

What both have in common is here: the hash of an image, and the one way in which a part of it is resized.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Hashes: TypeAlias = npt.NDArray[np.uint8]

HASH_BYTES = 16
CHUNK = 1 << 25
"""Bytes of pixels that are hashed at once."""


@runtime_checkable
class Images(Protocol):
    """Images that need not be in memory: `Split.images` is a tensor or one of these. Rows may be on any device."""

    shape: torch.Size
    """(N, C, H, W) of what `[rows]` gives."""
    dtype: torch.dtype
    """torch.uint8."""
    full: tuple[int, int]
    """Height and width of the stored image, in which boxes are counted; `[rows]` gives its centre."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """(B, C, H, W), contiguous, on the CPU."""

    def take(self, rows: Tensor | slice) -> Images:
        """The rows (positions, a mask or a slice) as images. No pixel is read."""

    def crops(self, rows: Tensor | slice, boxes: Tensor, size: int | tuple[int, int]) -> Tensor:
        """`(B, C, *size)`: of each row the part in its box, resized. See `resized_crops`."""

    def hashes(self) -> Hashes:
        """(N, 16) uint8: the hash of each stored image, as `hashes_of` has it."""


def hashes_of(images: Tensor | Images) -> Hashes:
    """(N, 16) uint8: SHA-256 of type, shape and pixels of each image, the first 16 bytes.

    Pixels are hashed as (H, W, C), so that equal images have equal hashes in memory, in a store and in files.
    """
    if not isinstance(images, Tensor):
        return images.hashes()
    made = np.empty((len(images), HASH_BYTES), np.uint8)
    start = 0
    for chunk in images.detach().split(max(1, CHUNK // max(1, images[:1].nbytes))):
        pixels = chunk.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        made[start : start + len(chunk)] = pixel_hashes(pixels)
        start += len(chunk)
    return made


def pixel_hashes(pixels: npt.NDArray[np.generic]) -> Hashes:
    """(N, 16) uint8: the hashes of contiguous images (N, H, W, C)."""
    kind = hashlib.sha256(f"{pixels.dtype.name} {pixels.shape[1:]}".encode())
    digests = []
    for image in pixels:
        digest = kind.copy()
        digest.update(image.data)
        digests.append(digest.digest()[:HASH_BYTES])
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(pixels), HASH_BYTES)


def resized_crops(images: Iterable[Tensor], boxes: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The part of each image in its box, resized to one size, on the images' device.

    Bilinear with antialiasing, image by image, in the arithmetic of uint8 on the CPU: the bytes depend neither on the
    other images of a batch, nor on where the images are kept.

    Parameters
    ----------
    images
        B images (C, H, W), uint8 or floating point in [0, 1]; or (B, C, H, W).
    boxes
        (B, 5) int64: top, left, height, width, mirrored (0 or 1).
    size
        Side, or height and width, of the result.

    Returns
    -------
    Tensor
        `(B, C, *size)`, contiguous.
    """
    side = (size, size) if isinstance(size, int) else size
    device = images.device if isinstance(images, Tensor) else torch.device("cpu")
    parts = [_crop(image.cpu(), box, side) for image, box in zip(images, boxes.tolist(), strict=True)]
    return torch.stack(parts).to(device)


def _crop(image: Tensor, box: list[int], size: tuple[int, int]) -> Tensor:
    top, left, height, width, mirrored = box
    part = image[:, top : top + height, left : left + width]
    if (height, width) != size:
        part = F.interpolate(part[None], size, mode="bilinear", antialias=True)[0]
        if part.is_floating_point():
            part = part.clamp(0, 1)  # the weights add to 1 to rounding
    return part.flip(2) if mirrored else part


def positions(rows: Tensor | slice, n: int) -> Tensor:
    """Rows (positions, a mask or a slice) of n images as int64 positions from 0, on the CPU."""
    return torch.arange(n)[rows if isinstance(rows, slice) else torch.as_tensor(rows).cpu()]
