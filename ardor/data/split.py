"""Split: images with their labels, their source, and the position of each in its data set."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ardor.data.images import Images, hashes_of, resized_crops
from ardor.data.notebook import strip, table
from ardor.errors import ArdorError, ConfigError, DataError
from ardor.noise import order
from ardor.storage.arguments import check_fields, typed

ExtraLabels: TypeAlias = Literal["file", "teacher"]


@dataclass(frozen=True)
class Extra:
    """The images of a train split that are not of the data set.

    Parameters
    ----------
    first
        Lowest position, `Split.index`, of an extra image; those of real ones are below.
    share
        Of each batch, above 0 and below 1.
    labels
        Where their labels come from: file, the teacher in each step, or none (and 0 stands for each).
    """

    first: int
    share: float
    labels: Literal["file", "teacher", "none"]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Parameters
    ----------
    images
        (N, C, H, W) uint8 (read as value / 255) or floating point in [0, 1], kept as float32; or an object that reads
        such uint8 images on demand, see `ardor.data.images.Images`.
    labels
        (N,) int64 in 0 .. classes - 1.
    classes
        Number of classes.
    name, part
        Of the data set; and "train", "val" or "test".
    class_names
        One per class; their numbers by default.
    index
        (N,) int64, the position of each image in the source's file, which keys its random streams; `take` preserves it.
    source
        The arguments of `ardor.data.load`.
    marks
        Remarks that every report on this split has.
    of
        Number of images before `limit` took a subset; 0 where it is complete.
    extra
        Which images are extra ones, of a train split that has some: see `ardor.data.with_extra`.

    Raises
    ------
    DataError
        For images or labels of another form or range.
    """

    images: Tensor | Images
    labels: Tensor
    classes: int
    name: str
    part: str
    class_names: tuple[str, ...] = ()
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    source: dict[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    of: int = 0
    extra: Extra | None = None

    def __post_init__(self) -> None:
        check_fields(self, DataError)
        if isinstance(self.images, Tensor) and self.images.is_floating_point():
            object.__setattr__(self, "images", self.images.detach().to(torch.float32))
        if not len(self.index) and len(self.images):
            object.__setattr__(self, "index", torch.arange(len(self.images)))
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(str(c) for c in range(self.classes)))
        check(self)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<Split {self._caption()}>"

    def _repr_html_(self) -> str:
        counts = torch.bincount(self.labels[self.real], minlength=self.classes).tolist()
        rows = list(zip(self.class_names, map(str, counts), strict=True))
        return table(self._caption(), ("class", "images"), rows, self._examples(), "an image of each class")

    def _examples(self, most: int = 10) -> bytes:
        """A PNG with the first image of each of the first classes; empty where they cannot be read."""
        firsts = [int((self.labels == c).nonzero()[0]) for c in torch.unique(self.labels[self.real])[:most].tolist()]
        with contextlib.suppress(ArdorError, OSError):
            return strip(self.batch(torch.tensor(firsts, device=self.labels.device))[0].cpu().numpy())
        return b""

    def _caption(self) -> str:
        size, kind = " x ".join(map(str, self.shape)), str(self.images.dtype).removeprefix("torch.")
        extra = f" ({int((~self.real).sum())} of them extra)" if self.extra else ""
        return f"{self.name} ({self.part}): {len(self)} images{extra} of {size}, {kind}, {self.classes} classes"

    @property
    def real(self) -> Tensor:
        """(N,) bool, on the labels' device: whether an image is of the data set."""
        return self.index < (torch.iinfo(torch.int64).max if self.extra is None else self.extra.first)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        c, h, w = self.images.shape[1:]
        return int(c), int(h), int(w)

    @property
    def full(self) -> tuple[int, int]:
        """Height and width in which the boxes of `crops` are counted; images of a store may show their centre."""
        return self.shape[1:] if isinstance(self.images, Tensor) else self.images.full

    @property
    def hash(self) -> str:
        """SHA-256 over shape, hashes of the images, labels and index: 16 hexadecimal digits.

        It does not depend on where the images are kept.
        """
        digest = hashlib.sha256(str((self.shape, self.images.dtype)).encode())
        digest.update(hashes_of(self.images).data)
        for part in (self.labels, self.index):
            digest.update(part.contiguous().cpu().numpy().data)
        return digest.hexdigest()[:16]

    def batch(self, rows: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        """Images as float32 in [0, 1], labels and data set indices of `rows`, on the labels' device."""
        return as_float(self.images[rows].to(self.labels.device)), self.labels[rows], self.index[rows]

    def crops(self, rows: Tensor | slice, boxes: Tensor, size: int | tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """The same, of each image the part in its box (B, 5), resized: see `ardor.data.images.resized_crops`."""
        images = self.images
        x = resized_crops(images[rows], boxes, size) if isinstance(images, Tensor) else images.crops(rows, boxes, size)
        return as_float(x.to(self.labels.device)), self.labels[rows], self.index[rows]

    def take(self, rows: Tensor | Sequence[int] | slice) -> Split:
        """Rows (positions, a boolean mask or a slice) as a split, with their data set indices.

        Raises
        ------
        DataError
            For positions that are no whole numbers or outside the split, and a mask of another length.
        """
        if not isinstance(rows, slice):
            rows = self._rows(rows)
        images = self.images[rows] if isinstance(self.images, Tensor) else self.images.take(rows)
        return replace(self, images=images, labels=self.labels[rows], index=self.index[rows])

    def _rows(self, rows: Tensor | Sequence[int]) -> Tensor:
        n = len(self)
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            tensor = torch.as_tensor(rows).to(self.index.device)
            if tensor.dtype == torch.bool and tuple(tensor.shape) == (n,):
                return tensor  # as integers a mask would select rows 0 and 1
            integers = not (tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex())
            if tensor.ndim == 1 and (integers or not len(tensor)):
                tensor = tensor.to(torch.int64)
                if bool(((tensor >= -n) & (tensor < n)).all()):
                    return tensor
        raise DataError(
            f"expected rows of {self.name} ({self.part}) as whole numbers from {-n} to {n - 1}, or a mask of {n}, got "
            f"{' '.join(repr(rows).split())[:80]}: type for example [0, 1]"
        )

    def limit(self, n: int, seed: int = 0) -> Split:
        """At most n images with the classes in proportion: a stratified subset, in the order of the split."""
        if n < 1:
            raise ConfigError(f"{self.name} ({self.part}): expected a limit of at least 1 image, got {n}: type 1000")
        if n >= len(self):
            return self
        return replace(self.take(stratified(self, n, seed, "limit")), of=self.of or len(self))

    def to(self, device: torch.device | str) -> Split:
        """The same split with its tensors on `device`; images that are read on demand arrive there in `batch`."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return replace(self, images=images, labels=self.labels.to(device), index=self.index.to(device))


def stratified(split: Split, n: int, seed: int, purpose: str) -> Tensor:
    """(n,) rows of the split, ascending: drawn by `seed` and `purpose`, each class in its proportion (to one image)."""
    labels = split.labels
    shuffled = order(seed, purpose, 0, split.index)
    rank = torch.empty(len(labels), dtype=torch.float64, device=labels.device)
    for c in torch.unique(labels):
        rows = shuffled[labels[shuffled] == c]
        rank[rows] = (torch.arange(len(rows), dtype=torch.float64, device=labels.device) + 0.5) / len(rows)
    return rank.argsort(stable=True)[:n].sort().values


@typed
def cut(split: Split, share: float, seed: int, part: str = "val", *, reuse: bool = False) -> tuple[Split, Split]:
    """The remaining images, and a stratified part.

    Parameters
    ----------
    split
        The images to divide.
    share
        Below 1, of the images; else their number.
    seed
        Seed of the choice.
    part
        Name of the stratified part.
    reuse
        Keep the remaining images in the memory of the split's own, which are then overwritten, where they are a tensor.

    Raises
    ------
    ConfigError
        Where either part would be empty, or the number is not whole.
    """
    n = round(share * len(split)) if 0 < share < 1 else int(share) if float(share).is_integer() else 0
    if not 0 < n < len(split):
        raise ConfigError(
            f"{split.name}: expected {part} as a share such as 0.1 or a count from 1 to {len(split) - 1}, "
            f"got {share:g}: type --data.{part} 0.1"
        )
    held = torch.zeros(len(split), dtype=torch.bool, device=split.labels.device)
    held[stratified(split, n, seed, part)] = True
    rest = replace(split.take(held), part=part)
    images = split.images
    if not reuse or not isinstance(images, Tensor):
        return split.take(~held), rest
    rows = (~held).nonzero().flatten()
    for some, to in zip(rows.split(16), images.split(16), strict=False):  # each row moves towards the front
        to[: len(some)] = images[some]
    return replace(split, images=images[: len(rows)], labels=split.labels[rows], index=split.index[rows]), rest


SAMPLE = 1 << 26
"""Bytes of pixels, of uint8 or of float32, that represent a data set which may not fit in memory."""


def sample(split: Split) -> Split:
    """The split if its images take at most `SAMPLE` bytes, else as many images, evenly spread over it."""
    n = len(split)
    most = max(1, SAMPLE // (math.prod(split.shape) * split.images.dtype.itemsize))
    return split if n <= most else split.take(torch.arange(most) * n // most)


def as_float(images: Tensor) -> Tensor:
    """Images as floating point in [0, 1]: uint8 is divided by 255, anything else is passed on."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images


def check(split: Split) -> None:
    """Refuse a split that is no data for training or evaluation. Raises DataError."""
    where = f"{split.name} ({split.part})"
    images, labels = split.images, split.labels
    if isinstance(images, Tensor) and (images.layout != torch.strided or images.is_meta or labels.is_meta):
        raise DataError(
            f"{where}: expected dense tensors in memory, got {images.layout} on {images.device}: convert them"
        )
    if len(labels) == 0:
        raise DataError(f"{where}: expected at least one image, got an empty split: add images")
    if len(images.shape) != 4:
        raise DataError(f"{where}: expected images of shape (N, C, H, W), got {tuple(images.shape)}: reshape them")
    if not len(images) == len(labels) == len(split.index):
        raise DataError(
            f"{where}: expected one label and one index per image, got {len(images)} images, {len(labels)} labels "
            f"and {len(split.index)} indices: give arrays of one length"
        )
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise DataError(
            f"{where}: expected int64 labels of shape (N,), got {labels.dtype} {tuple(labels.shape)}: "
            "convert with labels.long().flatten()"
        )
    if split.classes < 1:
        raise DataError(f"{where}: expected at least 1 class, got {split.classes}: give the number of classes")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= split.classes:
        raise DataError(
            f"{where}: expected labels in 0 .. {split.classes - 1}, got {low} .. {high}: number the classes from 0"
        )
    if len(split.class_names) != split.classes:
        raise DataError(
            f"{where}: expected {split.classes} class names, got {len(split.class_names)}: name each class once"
        )
    if isinstance(images, Tensor):
        check_images(images, where)
    elif images.dtype != torch.uint8:
        raise DataError(f"{where}: expected uint8 images on demand, got {images.dtype}: read them as 0 .. 255")


def check_images(images: Tensor, where: str = "images") -> None:
    """Refuse images that are not in [0, 1] (or uint8), with the likely cause. Raises DataError."""
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise DataError(f"{where}: expected float images in [0, 1] or uint8, got {images.dtype}: convert them first")
    low, high = (float(v) for v in torch.aminmax(images))
    if not (low >= 0 and high <= 1):  # also true of NaN
        if low != low or high != high:
            cause = "they contain NaN: remove or repair those images"
        elif low >= 0 and high > 2:
            cause = "probably 0-255: divide by 255, or pass uint8"
        elif low < 0:
            cause = "probably normalised: give raw images, normalisation is the model's first layer"
        else:
            cause = "clip or rescale them to [0, 1]"
        raise DataError(f"{where}: expected images in [0, 1], got [{low:.4g}, {high:.4g}]; {cause}")
