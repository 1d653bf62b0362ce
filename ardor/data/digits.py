"""`digits`: 1,797 real images of 8 x 8 grey pixels from inside scikit-learn's wheel; no download, seconds to train."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ardor.data.arrays import as_images, as_labels
from ardor.data.split import Split, cut
from ardor.errors import DataError

# The data set has no test split: this one is fixed, whatever `seed` is.
TEST_SHARE, TEST_SEED = 0.25, 2025


def read_digits(name: str, root: Path, download: bool) -> dict[str, Split]:
    """Train (1,348) and test (449), float32 (N, 1, 8, 8), values / 16.

    An image's index is its position in `sklearn.datasets.load_digits()`.

    Parameters
    ----------
    name
        `digits`.
    root, download
        Without effect.

    Raises
    ------
    DataError
        Without scikit-learn.
    """
    images, labels = (array.copy() for array in _arrays())
    digits = Split(as_images(images, "digits").div_(16), as_labels(labels, "digits"), 10, name, "train")
    train, test = cut(digits, TEST_SHARE, TEST_SEED, part="test")
    return {"train": train, "test": test}


@functools.cache
def _arrays() -> tuple[Any, Any]:
    """Images (1797, 8, 8) in 0 .. 16 and labels, once in a process, of `load_digits`'s file. Raises DataError."""
    spec = find_spec("sklearn")
    if spec is None:
        raise DataError(
            'expected scikit-learn, which contains the digits, got no such package: type pip install "ardor[demo]"'
        )
    for folder in spec.submodule_search_locations or ():  # without the import, which takes two seconds
        if (path := Path(folder) / "datasets" / "data" / "digits.csv.gz").is_file():
            table = np.loadtxt(path, delimiter=",")
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits  # of a version that keeps the file elsewhere

    raw = load_digits()
    return raw.images, raw.target
