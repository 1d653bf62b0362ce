"""Image files as pixels: what is accepted, and how files of many sizes become images of one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ardor.data.images import resized_crops
from ardor.errors import ConfigError, DataError
from ardor.storage.imports import nearest

Pixels: TypeAlias = NDArray[np.uint8]

Resize: TypeAlias = Literal["crop", "squash"]
"""crop: the largest square in the centre is resized. squash: the whole image, without keeping its aspect."""

MOST_PIXELS = 1 << 26
"""Pixels of an image; a file of few bytes may declare any number."""


@dataclass(frozen=True)
class Rule:
    """How a file becomes an image.

    Parameters
    ----------
    size
        Side in pixels, to which every image is resized by `ardor.data.images.resized_crops`; None leaves images as
        they are.
    resize
        What is resized: see `Resize`.
    grey
        One channel instead of three.

    Raises
    ------
    ConfigError
        For another size or word.
    """

    size: int | None = None
    resize: Resize = "crop"
    grey: bool = False

    def __post_init__(self) -> None:
        size, words = self.size, get_args(Resize)
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError(f"expected data.size as a whole number of pixels, got {size!r}: type --data.size 32")
        if self.resize not in words:
            raise ConfigError(
                f'expected data.resize {" or ".join(words)}, got "{self.resize}"{nearest(str(self.resize), words)}'
            )

    def read(self, file: Path) -> Pixels:
        """(H, W, C) of a file, contiguous. Raises DataError where it is missing, damaged or of another kind."""
        return self.resized(read_image(file, self.grey))

    def resized(self, pixels: Pixels) -> Pixels:
        """(size, size, C) of (H, W, C), contiguous."""
        if self.size is None:
            return pixels
        height, width = pixels.shape[:2]
        side = min(height, width)
        square = [(height - side) // 2, (width - side) // 2, side, side, 0]
        box = square if self.resize == "crop" else [0, 0, height, width, 0]
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        resized = resized_crops([image], torch.tensor([box]), self.size)[0]
        return resized.permute(1, 2, 0).contiguous().numpy()


def read_image(file: Path, grey: bool = False) -> Pixels:
    """(H, W, 3) of a file, or (H, W, 1) with `grey`, contiguous; upright as its EXIF orientation says.

    Palettes and CMYK are converted, alpha is dropped.

    Raises
    ------
    DataError
        Where the file is missing or damaged, an animation, or has more than 8 bits a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is below
            opened = Image.open(file)
        with opened as image:
            require_plain(image)
            ImageOps.exif_transpose(image, in_place=True)
            return pixels_of(image, grey)
    except FileNotFoundError as error:
        raise DataError(
            f"expected {file}, which was there before, got no such file: restore it, or start again without it"
        ) from error
    except Exception as error:  # decoders raise almost anything for damaged files
        raise DataError(
            f"expected an 8-bit image, got {file}, which does not read ({error}): repair or remove it"
        ) from error


def require_plain(image: Image.Image) -> None:
    """Refuse an animation, and more than 8 bits a channel. Raises ValueError."""
    # Pillow has no mode for 16-bit colour: it is in the decoder's arguments alone
    if image.mode.startswith(("I", "F")) or ";16" in str(getattr(image, "tile", "")):
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel, which would be cut off")
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels, more than {MOST_PIXELS:,}")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's, whose first is the photo
        raise ValueError(f"an animation of {getattr(image, 'n_frames', 2)} images")


def pixels_of(image: Image.Image, grey: bool = False) -> Pixels:
    """(H, W, 3) of an image, or (H, W, 1) with `grey`, contiguous."""
    array = np.array(image.convert("L" if grey else "RGB"))
    return array[:, :, None] if grey else array
