"""Images that a function makes when they are read: `OnDemand`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ardor.data.decode import Pixels
from ardor.data.images import HASH_BYTES, Hashes, pixel_hashes, positions, resized_crops
from ardor.errors import DataError


class OnDemand:
    """Images that are made when they are read: see `ardor.data.images.Images`.

    The shape is that of the first. A hash is taken when an image is first read; another image there later is refused.

    Parameters
    ----------
    make
        Row -> (H, W, C) uint8, contiguous, all of one shape.
    n
        Number of images.
    name
        Of row r in messages is "row r of NAME".

    Raises
    ------
    DataError
        Where an image is of another shape or has changed: when it is read.
    """

    dtype = torch.uint8

    def __init__(self, make: Callable[[int], Pixels], n: int, name: str) -> None:
        height, width, channels = make(0).shape
        self._make, self._name, self._rows = make, name, torch.arange(n)
        self._hashes, self._known = np.zeros((n, HASH_BYTES), np.uint8), np.zeros(n, np.bool_)  # shared by subsets
        self.full = (height, width)
        self.shape = torch.Size((n, channels, height, width))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        pixels = torch.empty((len(positions(rows, len(self))), *self.shape[1:]), dtype=torch.uint8)
        for to, image in zip(pixels, self._read(rows), strict=True):
            to.copy_(image)
        return pixels

    def take(self, rows: Tensor | slice) -> OnDemand:
        """The rows as images. None is read."""
        taken = copy.copy(self)
        taken._rows = self._rows[positions(rows, len(self))]
        taken.shape = torch.Size((len(taken), *self.shape[1:]))
        return taken

    def crops(self, rows: Tensor | slice, boxes: Tensor, size: int | tuple[int, int]) -> Tensor:
        """(B, C, *size): of each row the part in its box, resized."""
        return resized_crops(self._read(rows), boxes, size)

    def hashes(self) -> Hashes:
        """(N, 16) uint8. Images that were not read before are read."""
        for _ in self._read(torch.from_numpy(~self._known)[self._rows]):
            pass
        hashes: Hashes = self._hashes[self._rows.numpy()]
        return hashes

    def _read(self, rows: Tensor | slice) -> Iterator[Tensor]:
        """Each image as (C, H, W)."""
        for row in self._rows[positions(rows, len(self))].tolist():
            image = self._make(row)
            digest = pixel_hashes(image[None])[0]
            if self._known[row] and not np.array_equal(digest, self._hashes[row]):
                raise DataError(f"expected the image that row {row} of {self._name} had before, got another: {FIXED}")
            self._hashes[row], self._known[row] = digest, True
            yield torch.from_numpy(image).permute(2, 0, 1)


FIXED = (
    "soft labels, verdicts and resuming need one image for each row: leave out random transforms, "
    "--recipe.augment has them"
)
"""Advice where two reads of a row differ."""
