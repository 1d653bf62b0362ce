"""`folder:PATH`: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, optionally PATH/val; files are only ever read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ardor.data.arrays import PARTS, as_images
from ardor.data.split import Split
from ardor.errors import ConfigError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def read_folder(
    name: str, root: Path, download: bool, *, size: int | None = None, grey: bool = False
) -> dict[str, Split]:
    """`folder:PATH`: uint8 images (N, 3, H, W), or (N, 1, H, W) with `grey`; classes are the folder names, sorted.

    Alpha is dropped. index: position among the part's files, by class and then by name. A folder with a test part
    alone is for `load_test`.

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
        raise ConfigError(
            f"expected data.size as a whole number of pixels, got {size!r}: type for example --data.size 32"
        )
    path = Path(name.removeprefix("folder:")).expanduser()
    found = [part for part in PARTS if (path / part).is_dir()]
    if "test" not in found:
        got = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing" if path.is_dir() else "no such folder"
        raise DataError(f"expected {path}/train/CLASS/*.png and {path}/test/CLASS/*.png, got {got}: make these folders")
    names = _class_names(path, found)
    return {part: _read_part(name, path / part, names, size, grey) for part in found}


def _class_names(path: Path, parts: Sequence[str]) -> tuple[str, ...]:
    """The classes, which every part must have alike: a label must mean the same everywhere."""
    folders = {
        part: sorted(p.name for p in (path / part).iterdir() if p.is_dir() and not p.name.startswith("."))
        for part in parts
    }
    for part, names in folders.items():
        if not names:
            raise DataError(f"expected one folder per class in {path / part}, got none: make {path / part}/CLASS/")
        odd = sorted(set(names) ^ set(folders["test"]))
        if odd:
            raise DataError(
                f"expected the same classes in {path / part} and {path / 'test'}, got {', '.join(odd[:5])} in one of "
                "them only: add or remove these folders"
            )
    return tuple(folders["test"])


def _read_part(name: str, folder: Path, names: tuple[str, ...], size: int | None, grey: bool) -> Split:
    files, labels = [], []
    for label, class_name in enumerate(names):
        here = sorted(p for p in (folder / class_name).iterdir() if p.suffix.lower() in SUFFIXES)
        if not here:
            listed = ", ".join(SUFFIXES)
            raise DataError(
                f"expected images ({listed}) in {folder / class_name}, got none: add some, or remove the class"
            )
        files += here
        labels += [label] * len(here)
    images = [_read_image(file, size, grey) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"expected images of one size, got {_size(image)} in {file} and {_size(images[0])} in {files[0]}: "
                f"resize all with size=N (--data.size {images[0].shape[1]})"
            )
    pixels = as_images(np.stack(images), f"{name} ({folder.name})", "nhwc")
    return Split(pixels, torch.tensor(labels), len(names), name, folder.name, class_names=names)


def _size(image: NDArray[Any]) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _read_image(file: Path, size: int | None, grey: bool) -> NDArray[np.uint8]:
    """(H, W, 3), or (H, W) with `grey`."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"mode {image.mode} has more than 8 bits a channel, which would be cut off")
            pixels = image.convert("L" if grey else "RGB")
        if size is not None:
            pixels = pixels.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(pixels)
    except Exception as error:  # a decoder meets damage with almost any exception
        raise DataError(
            f"expected an 8-bit image, got {file}, which does not read ({error}): repair or remove it"
        ) from error
