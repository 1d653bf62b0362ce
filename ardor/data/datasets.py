"""from_dataset: splits of torch's and Hugging Face's data sets, and of arrays."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from ardor.data.arrays import MOST_CLASSES, Layout, as_images, as_labels, physical_memory
from ardor.data.decode import Resize, Rule, pixels_of, require_plain
from ardor.data.folder import MEMORY_SHARE, TEST_SHARE
from ardor.data.on_demand import FIXED, OnDemand
from ardor.data.split import Split, check_images, cut
from ardor.errors import DataError, shown
from ardor.storage.arguments import typed

Array: TypeAlias = NDArray[Any]

TEST_SEED = 2025
"""The test part that is cut from train is the same, whatever `seed` is."""

AGAIN = 16
"""Rows, evenly spread, that are read twice."""

IMAGES, LABELS = ("image", "img", "images", "pixel_values"), ("label", "labels", "fine_label")
"""Names of the columns of a Hugging Face data set, where types do not tell."""


@typed
def from_dataset(
    train: Any,
    test: Any = None,
    val: Any = 0.1,
    *,
    name: str,
    classes: int | None = None,
    class_names: tuple[str, ...] = (),
    size: int | None = None,
    resize: Resize = "crop",
    grey: bool = False,
    layout: Layout | None = None,
    columns: tuple[str, str] | None = None,
    on_demand: bool | None = None,
    seed: int = 0,
) -> tuple[Split, Split, Split]:
    """Train, val and test of data sets of torch or Hugging Face, or of arrays.

    Every image is read once, to check it, its label and its size; some are read twice. A run on them can be continued
    and evaluated by the same program alone, as no configuration can load them again.

    Parameters
    ----------
    train
        A map-style `torch.utils.data.Dataset` of pairs (image, label), a `datasets.Dataset`, or a pair of arrays (x, y)
        as `npz:PATH` has them. An image is a PIL image, or a tensor or array in uint8 or floats in [0, 1], without
        random transforms and not normalised. A label is a whole number from 0.
    test
        The same; None cuts a fifth from train, classes in proportion.
    val
        The same; or the share or number of train images that are cut, classes in proportion.
    name
        Of the data set, for reports.
    classes
        Number of classes; None is the number of class names, else the largest label + 1.
    class_names
        One per class; default those of the data set.
    size
        Side in pixels to which 8-bit images are resized; None takes images of one size as they are.
    resize
        crop: the largest square in the centre is resized. squash: the whole image.
    grey
        PIL images with one channel instead of three.
    layout
        nchw or nhwc, of arrays where it cannot be recognised; tensors of single images are CHW.
    columns
        Names of the image and the label column of a Hugging Face data set.
    on_demand
        Ask the data set for images whenever they are needed (True), or once (False); None asks once where 8-bit images
        take at most a quarter of the memory. Floats are always kept in memory.
    seed
        Seed of the choice of val.

    Raises
    ------
    DataError
        For images or labels of another kind, shape or range, and two reads of a row that differ.
    ConfigError
        For an argument of another type or range.
    """
    rule = Rule(size, resize, grey)
    given = {"train": train, "test": test, "val": None if isinstance(val, numbers.Real) else val}
    parts = {
        part: _items(data, f"{name} ({part})", rule, layout, columns)
        for part, data in given.items()
        if data is not None or part == "train"
    }
    shapes = {part: items.first.shape for part, items in parts.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"{name}: expected images of one shape (H, W, C), got {shapes}: type --data.size 224, or resize them"
        )
    needed, memory = sum(len(items) * items.first.nbytes for items in parts.values()), physical_memory()
    if on_demand is None:
        on_demand = needed > memory // MEMORY_SHARE
    if needed > memory and not (on_demand and parts["train"].first.dtype == np.uint8):
        raise DataError(
            f"{name}: expected images that fit into this machine's memory of {memory:,} bytes, got {needed:,}: give "
            "PIL images or uint8 (PILToTensor in place of ToTensor), which are read on demand"
        )
    read = {part: items.load(on_demand) for part, items in parts.items()}
    names = class_names or parts["train"].class_names
    count = classes or len(names) or max(int(labels.max()) for _, labels in read.values()) + 1
    if count > MOST_CLASSES:
        raise DataError(f"{name}: expected at most {MOST_CLASSES} classes, got {count}: number them from 0")
    splits = {
        part: Split(images, labels, count, name, part, names, source={"name": f"dataset:{name}"})
        for part, (images, labels) in read.items()
    }
    return _cut(splits, val, seed)


def _cut(splits: dict[str, Split], val: Any, seed: int) -> tuple[Split, Split, Split]:
    """Train, val and test; those that are not given are cut from train."""
    train = splits["train"]
    if (test := splits.get("test")) is None:
        marked = replace(train, marks=(f"test is {100 * TEST_SHARE:g} % of one data set, cut by class",))
        train, test = cut(marked, TEST_SHARE, TEST_SEED, part="test")
    if (held := splits.get("val")) is None:
        train, held = cut(train, float(val), seed)
    return train, held, test


@dataclass(frozen=True)
class _Items:
    """A part of a data set, row by row.

    Parameters
    ----------
    get
        Row -> (image, label), as the data set has them.
    n
        Number of rows.
    name
        Of the data set and its part, for messages.
    rule, layout
        How an image becomes pixels.
    class_names
        Those that the data set has.
    """

    get: Callable[[int], Any]
    n: int
    name: str
    rule: Rule
    layout: Layout | None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.n

    @functools.cached_property
    def first(self) -> Array:
        """The pixels of row 0, whose shape and type all have."""
        return self._read(0)[0]

    def load(self, on_demand: bool) -> tuple[Tensor | OnDemand, Tensor]:
        """The images, and the labels (N,) int64. Raises DataError."""
        labels = np.zeros(self.n, np.int64)
        again = torch.arange(min(AGAIN, self.n)) * self.n // min(AGAIN, self.n)
        if on_demand and self.first.dtype == np.uint8:

            def make(row: int) -> Array:
                pixels, labels[row] = self.read(row)
                return pixels

            images = OnDemand(make, self.n, self.name)
            images.hashes()
            images[again]  # another image is refused there
            return images, torch.from_numpy(labels.copy())
        stored = np.empty((self.n, *self.first.transpose(2, 0, 1).shape), self.first.dtype)
        for row in range(self.n):
            pixels, labels[row] = self.read(row)
            stored[row] = pixels.transpose(2, 0, 1)
        for row in again.tolist():
            if not np.array_equal(self.read(row)[0].transpose(2, 0, 1), stored[row]):
                raise DataError(f"expected row {row} of {self.name} as it was read before, got another: {FIXED}")
        return torch.from_numpy(stored), torch.from_numpy(labels)

    def read(self, row: int) -> tuple[Array, int]:
        """The pixels of a row, of the shape and type of the first, and its label."""
        pixels, label = self._read(row)
        if pixels.shape != self.first.shape or pixels.dtype != self.first.dtype:
            kinds = [f"{array.shape} of {array.dtype}" for array in (pixels, self.first)]
            raise DataError(
                f"expected images of one size and type in {self.name}, got {kinds[0]} in row {row} and {kinds[1]} in "
                "row 0: type --data.size 224, or resize them in the data set"
            )
        return pixels, label

    def _read(self, row: int) -> tuple[Array, int]:
        where = f"row {row} of {self.name}"
        try:
            item = self.get(row)
        except Exception as error:
            error.add_note(f"ardor read {where}")
            raise
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise DataError(f"expected {where} as a pair (image, label), got {type(item).__name__}: return such pairs")
        return _pixels(item[0], where, self.rule, self.layout), _label(item[1], where)


def _items(data: Any, name: str, rule: Rule, layout: Layout | None, columns: tuple[str, str] | None) -> _Items:
    """A part of any kind that `from_dataset` takes. Raises DataError."""
    if isinstance(data, tuple) and len(data) == 2 and all(hasattr(array, "shape") for array in data):
        images, labels = as_images(data[0], name, layout), as_labels(data[1], name)
        if len(images) != len(labels):
            raise DataError(f"expected one label per image in {name}, got {len(images)} images, {len(labels)} labels")
        return _some(_Items(lambda row: (images[row], labels[row]), len(images), name, rule, "nchw"))
    if isinstance(data, Mapping):
        raise DataError(f'expected one part as {name}, got a mapping of {len(data)}: pass data["train"], data["test"]')
    if isinstance(data, IterableDataset) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(
            f"expected a map-style data set as {name}, with a length and rows by number, got {type(data).__name__}: "
            "write a stream's images into a folder, or collect them in a list"
        )
    if hasattr(data, "column_names") and hasattr(data, "features"):
        image, label = _columns(data.features, name, columns)
        names = tuple(getattr(data.features[label], "names", None) or ())

        def pair(row: int) -> tuple[Any, Any]:
            content = data[row]
            return content[image], content[label]

        return _some(_Items(pair, len(data), name, rule, layout, names))
    names = tuple(str(word) for word in getattr(data, "classes", ()))  # of torchvision's
    return _some(_Items(data.__getitem__, len(data), name, rule, layout, names))


def _some(items: _Items) -> _Items:
    if len(items) == 0:
        raise DataError(f"expected at least one image in {items.name}, got none: add images")
    return items


def _columns(features: Mapping[str, Any], name: str, columns: tuple[str, str] | None) -> tuple[str, str]:
    """The columns of images and labels, by the types of the features and then by name. Raises DataError."""
    if columns is not None and set(columns) <= set(features):
        return columns
    found = []
    for kind, usual in (("Image", IMAGES), ("ClassLabel", LABELS)):
        of_kind = [column for column, feature in features.items() if type(feature).__name__ == kind]
        found.append(of_kind if len(of_kind) == 1 else [column for column in usual if column in features][:1])
    if columns is not None or not all(found):
        raise DataError(
            f"expected a column of images and one of labels in {name}, got {', '.join(features)}: pass for example "
            'columns=("image", "label")'
        )
    return found[0][0], found[1][0]


def _pixels(image: Any, where: str, rule: Rule, layout: Layout | None) -> Array:
    """(H, W, C) uint8 or float32, contiguous. Raises DataError."""
    if isinstance(image, Image.Image):
        try:
            require_plain(image)
            return rule.resized(pixels_of(image, rule.grey))
        except Exception as error:  # a decoder works when pixels are first read
            raise DataError(f"expected an 8-bit image in {where}, got one that does not read ({error})") from error
    if not isinstance(image, Tensor | np.ndarray):
        raise DataError(
            f"expected {where} with a PIL image, a tensor or an array, got {type(image).__name__}: return the image "
            "first, and then its label"
        )
    if layout is None and isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] in (1, 3):
        layout = "nchw"
    array = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    pixels = as_images(array[None], where, layout)
    check_images(pixels, where)
    if pixels.dtype != torch.uint8 and rule.size is not None:
        raise DataError(f"expected 8-bit images to resize, got floats in {where}: give PIL images or uint8")
    plain = np.ascontiguousarray(pixels[0].permute(1, 2, 0).numpy())
    return plain if rule.size is None else rule.resized(plain)


def _label(label: Any, where: str) -> int:
    """A label in 0 .. MOST_CLASSES - 1. Raises DataError."""
    value = np.asarray(label)
    if value.size != 1 or value.dtype.kind not in "iu":
        raise DataError(
            f"expected a whole number as the label of {where}, got {shown(repr(label))}: number the classes from 0, "
            "and take the argmax of one-hot rows"
        )
    if not 0 <= int(value.flat[0]) < MOST_CLASSES:
        raise DataError(
            f"expected a label from 0 in {where}, got {int(value.flat[0])}: leave out rows without a class, and number "
            "the classes from 0"
        )
    return int(value.flat[0])
