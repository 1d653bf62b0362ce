"""Images that a function makes when they are read: `OnDemand`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Self

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
        for to, image in zip(pixels, self.read(rows), strict=True):
            to.copy_(torch.from_numpy(image).permute(2, 0, 1))
        return pixels

    def take(self, rows: Tensor | slice) -> Self:
        """The rows as images. None is read."""
        taken = copy.copy(self)
        taken._rows = self._rows[positions(rows, len(self))]
        taken.shape = torch.Size((len(taken), *self.shape[1:]))
        return taken

    def crops(self, rows: Tensor | slice, boxes: Tensor, size: int | tuple[int, int]) -> Tensor:
        """(B, C, *size): of each row the part in its box, resized."""
        images = (torch.from_numpy(image).permute(2, 0, 1) for image in self.read(rows))
        return resized_crops(images, boxes, size)

    def hashes(self) -> Hashes:
        """(N, 16) uint8. Images that were not read before are read."""
        for _ in self.read(torch.from_numpy(~self._known)[self._rows]):
            pass
        hashes: Hashes = self._hashes[self._rows.numpy()]
        return hashes

    def read(self, rows: Tensor | slice) -> Iterator[Pixels]:
        """The images (H, W, C) of rows, in their order."""
        return map(self._image, self._rows[positions(rows, len(self))].tolist())

    def _image(self, row: int) -> Pixels:
        image = self._make(row)
        if not self._same(row, image):
            raise DataError(f"expected the image that row {row} of {self._name} had before, got another: {FIXED}")
        return image

    def _same(self, row: int, image: Pixels) -> bool:
        """Whether an image is that of an earlier read, whose hash is kept."""
        digest = pixel_hashes(image[None])[0]
        if self._known[row]:
            return np.array_equal(digest, self._hashes[row])
        self._hashes[row] = digest
        self._known[row] = True
        return True


FIXED = (
    "soft labels, verdicts and resuming need one image for each row: leave out random transforms, "
    "--recipe.augment has them"
)
"""Advice where two reads of a row differ."""
