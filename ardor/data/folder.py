"""`folder:PATH`: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, optionally PATH/val; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
        raise ConfigError(f"expected data.size as a whole number of pixels, got {size!r}: type --data.size 32")
    path = Path(name.removeprefix("folder:")).expanduser()
    parts = [part for part in PARTS if (path / part).is_dir()]
    if "test" not in parts:
        got = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing" if path.is_dir() else "no such folder"
        raise DataError(f"expected {path}/train/CLASS/*.png and {path}/test/CLASS/*.png, got {got}: make these folders")
    names = _class_names(path, parts)
    return {part: _read_part(name, path / part, names, size, grey) for part in parts}


def _class_names(path: Path, parts: Sequence[str]) -> tuple[str, ...]:
    """The classes, which must be the same in all parts."""
    folders = {
        part: sorted(p.name for p in (path / part).iterdir() if p.is_dir() and not p.name.startswith("."))
        for part in parts
    }
    for part, names in folders.items():
        if not names:
            raise DataError(f"expected one folder per class in {path / part}, got none: make {path / part}/CLASS/")
        if odd := sorted(set(names) ^ set(folders["test"])):
            raise DataError(
                f"expected the same classes in {path / part} and {path / 'test'}, got {', '.join(odd[:5])} in one of "
                "them only: add or remove these folders"
            )
    return tuple(folders["test"])


def _read_part(name: str, folder: Path, names: tuple[str, ...], size: int | None, grey: bool) -> Split:
    files, labels = [], []
    for label, class_name in enumerate(names):
        images = sorted(p for p in (folder / class_name).iterdir() if p.suffix.lower() in SUFFIXES)
        if not images:
            raise DataError(
                f"expected images ({', '.join(SUFFIXES)}) in {folder / class_name}, got none: add some, or remove the "
                "class"
            )
        files += images
        labels += [label] * len(images)
    arrays = [_read_image(file, size, grey) for file in files]
    height, width = arrays[0].shape[:2]
    for file, array in zip(files, arrays, strict=True):
        if array.shape[:2] != (height, width):
            raise DataError(
                f"expected images of one size, got {array.shape[1]} x {array.shape[0]} in {file} and {width} x {height}"
                f" in {files[0]}: type --data.size {width} to resize all"
            )
    pixels = as_images(np.stack(arrays), f"{name} ({folder.name})", "nhwc")
    return Split(pixels, torch.tensor(labels), len(names), name, folder.name, class_names=names)


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
    except Exception as error:  # decoders raise almost anything for damaged files
        raise DataError(
            f"expected an 8-bit image, got {file}, which does not read ({error}): repair or remove it"
        ) from error
