"""The official CIFAR archives: their files, and how these are read (Krizhevsky, 2009).

Binary layout: records of label bytes and pixels. Python layout: pickles of Python 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ardor.data.pickles import as_text, read_pickle
from ardor.errors import DataError

PIXELS = 3 * 32 * 32
TRAIN, TEST = 50_000, 10_000

Pairs: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pixels (N, 3072), red, green and blue planes, and labels (N,)."""


def _records(content: bytes, where: str, *, label_bytes: int) -> Pairs:
    """Binary layout: each record is the labels, coarse before fine, and then the pixels."""
    size = label_bytes + PIXELS
    if not content or len(content) % size:
        raise DataError(
            f"expected complete records of {size:,} bytes in {where} (official: {TEST * size:,} bytes for 10,000), "
            f"got {len(content):,} bytes: it is truncated or foreign; remove it and get it again (--data.download true)"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, label_bytes:], records[:, label_bytes - 1].astype(np.int64)


def _pickled(content: bytes, where: str, *, key: str) -> Pairs:
    """Python layout: a dictionary with `data` (N, 3072) uint8 and a list of labels."""
    batch = read_pickle(content, where)
    pixels, labels = batch.get("data"), batch.get(key)
    if not (
        isinstance(pixels, np.ndarray)
        and pixels.dtype == np.uint8
        and isinstance(labels, list)
        and pixels.shape == (len(labels), PIXELS)
        and all(type(label) is int and 0 <= label < 256 for label in labels)
    ):
        raise DataError(
            f'expected uint8 "data" of shape (N, {PIXELS}) and N whole numbers as "{key}" in {where}, got '
            f"{', '.join(sorted(batch)) or 'nothing'} in other shapes: get the official archive (--data.download true)"
        )
    return pixels, np.array(labels, np.int64)


def _lines(content: bytes, where: str) -> list[str]:
    return [line.strip() for line in content.decode("latin1").splitlines() if line.strip()]


def _pickled_words(content: bytes, where: str, *, key: str) -> list[str]:
    words = read_pickle(content, where).get(key)
    return [as_text(word) for word in words] if isinstance(words, list) else []


@dataclass(frozen=True)
class Archive:
    """The names and contents of the files of one official archive."""

    folder: str
    file: str
    md5: str
    train: tuple[str, ...]
    test: str
    meta: str
    pairs: Callable[[bytes, str], Pairs]
    words: Callable[[bytes, str], list[str]]


BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))

# The first of each is downloaded: it has no pickle.
ARCHIVES: dict[str, tuple[Archive, Archive]] = {
    "cifar10": (
        Archive(
            folder="cifar-10-batches-bin",
            file="cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            train=tuple(f"{batch}.bin" for batch in BATCHES),
            test="test_batch.bin",
            meta="batches.meta.txt",
            pairs=partial(_records, label_bytes=1),
            words=_lines,
        ),
        Archive(
            folder="cifar-10-batches-py",
            file="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            train=BATCHES,
            test="test_batch",
            meta="batches.meta",
            pairs=partial(_pickled, key="labels"),
            words=partial(_pickled_words, key="label_names"),
        ),
    ),
    "cifar100": (
        Archive(
            folder="cifar-100-binary",
            file="cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            train=("train.bin",),
            test="test.bin",
            meta="fine_label_names.txt",
            pairs=partial(_records, label_bytes=2),
            words=_lines,
        ),
        Archive(
            folder="cifar-100-python",
            file="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            train=("train",),
            test="test",
            meta="meta",
            pairs=partial(_pickled, key="fine_labels"),
            words=partial(_pickled_words, key="fine_label_names"),
        ),
    ),
}
