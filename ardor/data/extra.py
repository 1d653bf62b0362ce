"""Generated or unlabelled images beside the real ones of a train split: `with_extra`, and the images of both as one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ardor.data.arrays import as_labels, unpack
from ardor.data.images import Hashes, Images, hashes_of, positions, resized_crops
from ardor.data.split import Extra, ExtraLabels, Split, as_float
from ardor.errors import ConfigError, DataError
from ardor.storage.arguments import typed


class Joined:
    """The images of two sources, one after the other, neither copied: see `ardor.data.images.Images`.

    Both are uint8 and of one shape; `full` is that of the first.
    """

    dtype = torch.uint8

    def __init__(self, first: Tensor | Images, second: Tensor | Images) -> None:
        self._parts = (first, second)
        self._rows = torch.arange(len(first) + len(second))
        self.shape = torch.Size((len(self._rows), *first.shape[1:]))
        height, width = first.shape[2:] if isinstance(first, Tensor) else first.full
        self.full = (height, width)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return self._gathered(rows, self.shape[2:], lambda part, some, _: part[some])

    def take(self, rows: Tensor | slice) -> Joined:
        """The rows as images. No pixel is read."""
        taken = copy.copy(self)
        taken._rows = self._rows[positions(rows, len(self))]
        taken.shape = torch.Size((len(taken), *self.shape[1:]))
        return taken

    def crops(self, rows: Tensor | slice, boxes: Tensor, size: int | tuple[int, int]) -> Tensor:
        """(B, C, *size): of each row the part in its box, resized."""

        def cropped(part: Tensor | Images, some: Tensor, of: Tensor) -> Tensor:
            wanted = boxes.cpu()[of]
            return (
                resized_crops(part[some], wanted, size) if isinstance(part, Tensor) else part.crops(some, wanted, size)
            )

        return self._gathered(rows, (size, size) if isinstance(size, int) else size, cropped)

    def hashes(self) -> Hashes:
        """(N, 16) uint8, of the rows."""
        both = np.concatenate([hashes_of(part) for part in self._parts])
        mine: Hashes = both[self._rows.numpy()]
        return mine

    def _gathered(
        self, rows: Tensor | slice, size: Any, read: Callable[[Tensor | Images, Tensor, Tensor], Tensor]
    ) -> Tensor:
        """(B, C, *size): what `read` gives of each part's rows, with their places in the batch."""
        wanted, first = self._rows[positions(rows, len(self))], len(self._parts[0])
        pixels = torch.empty((len(wanted), self.shape[1], *size), dtype=torch.uint8)
        for part, mine, start in zip(self._parts, (wanted < first, wanted >= first), (0, first), strict=True):
            places = mine.nonzero().flatten()
            if len(places):
                pixels[places] = read(part, wanted[places] - start, places).cpu()
        return pixels


@typed
def with_extra(
    train: Split, extra: str, share: float = 0.7, labels: ExtraLabels = "file", *, first: int | None = None
) -> Split:
    """A train split with the images of a file after its own, of which training draws a share of each batch.

    Parameters
    ----------
    train
        The real images.
    extra
        `npz:FILE`, with the arrays `image` (N, H, W, C) uint8 and, where there are labels, `label` (N,).
    share
        Of a batch of B images int(share B) are extra ones, above 0 and below 1.
    labels
        file; or teacher: in each step the class of which the teacher is most confident.
    first
        Position of the first extra image; None is the one after the last of `train`.

    Raises
    ------
    ConfigError, DataError
        For a share or file of another form, images of another shape, and labels that are no class.
    """
    if not 0 < share < 1:
        raise ConfigError(f"expected data.extra_share above 0 and below 1, got {share:g}: type --data.extra_share 0.7")
    if train.extra is not None:
        raise ConfigError(f"expected real images to add to, got {train.name} with extra ones: join the two files")
    images, known = read_extra(extra)
    _require_alike(train, images, extra)
    if known is None:
        y = torch.zeros(len(images), dtype=torch.int64)
    elif int(known.min()) < 0 or int(known.max()) >= train.classes:
        raise DataError(
            f"{extra}: expected labels in 0 .. {train.classes - 1}, the classes of {train.name}, got "
            f"{int(known.min())} .. {int(known.max())}: number them alike, or leave the array label out"
        )
    else:
        y = known
    start = int(train.index.max()) + 1 if first is None else first
    kind = labels if labels == "teacher" or known is not None else "none"
    device = train.labels.device
    both: Any = Joined(train.images, images) if train.images.dtype == torch.uint8 else _floats(train.images, images)
    return replace(
        train,
        images=both,
        labels=torch.cat([train.labels, y.to(device)]),
        index=torch.cat([train.index, start + torch.arange(len(images), device=device)]),
        source=train.source | {"extra": extra, "extra_share": share, "extra_labels": labels},
        extra=Extra(start, share, kind),
    )


def read_extra(name: str) -> tuple[Tensor, Tensor | None]:
    """(N, C, H, W) uint8 images of `npz:FILE`, and labels (N,) where it has them. Raises ConfigError and DataError."""
    if not name.startswith("npz:"):
        raise ConfigError(f'expected extra images as npz:FILE, got "{name}": type --data.extra with npz:FILE')
    arrays = unpack(Path(name.removeprefix("npz:")).expanduser(), ("image", "label"), large="image")
    if "image" not in arrays:
        listed = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(f"{name}: expected the array image, and label where there are labels, got {listed}: rename it")
    image = arrays["image"]
    if image.dtype != np.uint8 or image.ndim != 4 or not image.size:
        raise DataError(
            f"{name}: expected image as (N, H, W, C) uint8, got {image.shape} {image.dtype}: convert it with "
            '(255 * image).round().astype("uint8"), and transpose'
        )
    labels = as_labels(arrays["label"], f"{name} (label)") if "label" in arrays else None
    if labels is not None and len(labels) != len(image):
        raise DataError(f"{name}: expected one label per image, got {len(labels)} for {len(image)}: write both anew")
    # a view, of the file where that is not compressed: a million images are 3 GB
    return torch.from_numpy(image).permute(0, 3, 1, 2), labels


def _require_alike(train: Split, images: Tensor, name: str) -> None:
    """Refuse images of another shape. Raises DataError."""
    if train.full != train.shape[1:]:
        raise DataError(f"{train.name}: expected whole images beside extra ones, got centres: leave out --data.size")
    c, h, w = train.shape
    if tuple(images.shape[1:]) != train.shape:
        got = tuple(images.shape[i] for i in (2, 3, 1))
        raise DataError(
            f"{name}: expected images (H, W, C) of {(h, w, c)}, as {train.name} has them, got {got}: resize them, or "
            "name another file"
        )


def _floats(real: Any, images: Tensor) -> Tensor:
    return torch.cat([real, as_float(images).to(real.device)])
