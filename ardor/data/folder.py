"""`folder:PATH`: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, optionally PATH/val, or PATH/CLASS/*.png.

Nothing is written. Files and folders whose name begins with a dot are skipped.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ardor.data.arrays import PARTS, physical_memory
from ardor.data.split import Split
from ardor.errors import ConfigError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

TEST_SHARE = 0.2
"""Of the images of each class in PATH/CLASS, the test part: those with the lowest SHA-256 of their file name."""


def read_folder(
    name: str, root: Path, download: bool, *, size: int | None = None, grey: bool = False
) -> dict[str, Split]:
    """`folder:PATH`: uint8 images (N, 3, H, W), or (N, 1, H, W) with `grey`; classes are the folder names, sorted.

    Alpha is dropped. index: position among the part's files, by class and then by name. A folder with a test part
    alone is for `load_test`. PATH/CLASS without parts is divided by `TEST_SHARE`, which the mark of the splits records.

    Parameters
    ----------
    name
        `folder:PATH`.
    root, download
        Without effect.
    size
        Side in pixels to which every image is resized (bilinear, aspect not kept); None takes images of one size as
        they are.
    grey
        One channel instead of three.

    Raises
    ------
    DataError
        Where there are no images, classes differ between parts, or an image is damaged.
    """
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ConfigError(f"expected data.size as a whole number of pixels, got {size!r}: type --data.size 32")
    path = Path(name.removeprefix("folder:")).expanduser()
    parts = [part for part in PARTS if (path / part).is_dir()]
    flat = not parts and any(_images(folder) for folder in _folders(path))
    if "test" not in parts and not flat:
        got = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing" if path.is_dir() else "no such folder"
        raise DataError(
            f"expected {path}/train/CLASS/*.png and {path}/test/CLASS/*.png, or {path}/CLASS/*.png, got {got}: make "
            "these folders"
        )
    if flat:
        classes = {folder.name: _divided(folder) for folder in _folders(path)}
        files = {part: {name: halves[part] for name, halves in classes.items()} for part in ("train", "test")}
        marks: tuple[str, ...] = (f"test is {100 * TEST_SHARE:g} % of one folder, by file name",)
    else:
        names = _class_names(path, parts)
        files, marks = {part: {name: _images(path / part / name) for name in names} for part in parts}, ()
    return {
        part: _read_part(name, part, path if flat else path / part, of_class, size, grey, marks)
        for part, of_class in files.items()
    }


def _folders(path: Path) -> list[Path]:
    """The class folders, sorted."""
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")) if path.is_dir() else []


def _images(folder: Path) -> list[Path]:
    """The image files, sorted."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in files if not p.is_dir())


def _divided(folder: Path) -> dict[str, list[Path]]:
    """The images of a class for train and test. Raises DataError for a class of one image."""
    files = _images(folder)
    if len(files) == 1:
        raise DataError(f"expected at least 2 images in {folder}, one of them for the test, got 1: add some")
    by_hash = sorted(files, key=lambda file: hashlib.sha256(file.name.encode(errors="surrogateescape")).digest())
    test = set(by_hash[: max(1, round(TEST_SHARE * len(files)))])
    return {"train": [f for f in files if f not in test], "test": [f for f in files if f in test]}


def _class_names(path: Path, parts: Sequence[str]) -> tuple[str, ...]:
    """The classes, which must be the same in all parts."""
    folders = {part: [folder.name for folder in _folders(path / part)] for part in parts}
    for part, names in folders.items():
        if not names:
            raise DataError(f"expected one folder per class in {path / part}, got none: make {path / part}/CLASS/")
        if odd := sorted(set(names) ^ set(folders["test"])):
            raise DataError(
                f"expected the same classes in {path / part} and {path / 'test'}, got {', '.join(odd[:5])} in one of "
                "them only: add or remove these folders"
            )
    return tuple(folders["test"])


def _read_part(
    name: str,
    part: str,
    folder: Path,
    files: dict[str, list[Path]],
    size: int | None,
    grey: bool,
    marks: tuple[str, ...],
) -> Split:
    """The files by class as a split."""
    for of_class, images in files.items():
        if not images:
            raise DataError(
                f"expected images ({', '.join(SUFFIXES)}) in {folder / of_class}, got none: add some, or remove the "
                "class"
            )
    every = [file for images in files.values() for file in images]
    first = _read_image(every[0], size, grey)
    if len(every) * first.nbytes > physical_memory():
        raise DataError(
            f"expected images that fit into this machine's memory of {physical_memory():,} bytes, got {len(every):,} "
            f"of {first.nbytes:,} in {folder}: type --data.size with a smaller size"
        )
    pixels = np.empty((len(every), *first.shape), np.uint8)  # one image at a time beside it
    for row, file in zip(pixels, every, strict=True):
        image = _read_image(file, size, grey)
        if image.shape != first.shape:
            _, height, width = first.shape
            raise DataError(
                f"expected images of one size, got {image.shape[2]} x {image.shape[1]} in {file} and {width} x {height}"
                f" in {every[0]}: type --data.size {width} to resize all"
            )
        row[:] = image
    labels = [label for label, images in enumerate(files.values()) for _ in images]
    names = tuple(files)
    return Split(torch.from_numpy(pixels), torch.tensor(labels), len(names), name, part, class_names=names, marks=marks)


MOST_PIXELS = 1 << 26
"""Pixels of an image; a file of few bytes may declare any number."""


def _read_image(file: Path, size: int | None, grey: bool) -> NDArray[np.uint8]:
    """(3, H, W), or (1, H, W) with `grey`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is below
            opened = Image.open(file)
        with opened as image:
            # Pillow has no mode for 16-bit colour: it is in the decoder's arguments alone
            if image.mode.startswith(("I", "F")) or ";16" in str(image.tile):
                raise ValueError(f"mode {image.mode} has more than 8 bits a channel, which would be cut off")
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
            if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's, whose first is the photo
                raise ValueError(f"an animation of {getattr(image, 'n_frames', 2)} images")
            pixels = image.convert("L" if grey else "RGB")
        if size is not None:
            pixels = pixels.resize((size, size), Image.Resampling.BILINEAR)
        array = np.asarray(pixels)
        return array[None] if grey else array.transpose(2, 0, 1)
    except Exception as error:  # decoders raise almost anything for damaged files
        raise DataError(
            f"expected an 8-bit image, got {file}, which does not read ({error}): repair or remove it"
        ) from error
