"""`store:PATH`: uint8 pixels in one file, read through a memory map; `ardor.data.prepare` writes it once.

pixels.bin      (N, H, W, C) uint8, the parts one after another
index.npz       labels, class names, and of each image the hashes of its pixels and of its file
manifest.yaml   sizes, the rule and decoder of the pixels, and the SHA-256 of index.npz; written last

No file is unpickled. The map is opened only where its size is right, because reading beyond the end of a file ends a
process; an image is compared with its hash when it is first read by a process.
"""

from __future__ import annotations

import copy
import hashlib
import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ardor.data.arrays import PARTS
from ardor.data.decode import Resize
from ardor.data.images import Hashes, pixel_hashes, positions, resized_crops
from ardor.data.split import Split
from ardor.errors import ConfigError, DataError
from ardor.storage.reading import checked, read_yaml

PIXELS, INDEX, MANIFEST, UNFINISHED = "pixels.bin", "index.npz", "manifest.yaml", "unfinished.yaml"


@dataclass(frozen=True)
class Manifest:
    """What a store is made of.

    Parameters
    ----------
    source
        Name of the folder that the images came from.
    listing
        SHA-256 of the names, sizes and times of its files.
    size, resize, grey
        The rule: see `ardor.data.decode.Rule`.
    decoder
        The versions that decoded and resized.
    shape
        (N, H, W, C) of pixels.bin.
    parts
        Number of images of each part, in order.
    marks
        Remarks that every report on these images has.
    digest
        SHA-256 of index.npz, which has the hash of every image.
    """

    source: str
    listing: str
    size: int | None
    resize: Resize
    grey: bool
    decoder: str
    shape: tuple[int, int, int, int]
    parts: dict[str, int]
    marks: list[str]
    digest: str = ""


def read_store(name: str, root: Path, download: bool, *, size: int | None = None) -> dict[str, Split]:
    """`store:PATH`: the images that `ardor.data.prepare` wrote, (N, 3, H, W) or (N, 1, H, W) uint8, read on demand.

    Parameters
    ----------
    name
        `store:PATH`.
    root, download
        Without effect.
    size
        Side in pixels of the centre that is shown; None shows the whole. Boxes of crops are of the stored image.

    Raises
    ------
    DataError
        Where the store is absent, unfinished, truncated or altered.
    """
    folder = Path(name.removeprefix("store:")).expanduser()
    manifest = read_manifest(folder)
    _, height, width, _ = manifest.shape
    if size is not None and (
        isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= min(height, width)
    ):
        raise ConfigError(
            f"expected data.size from 1 to {min(height, width)}, the size of the images in {folder}, got {size!r}: "
            f"leave it out, or prepare a larger store (ardor data prepare ... --size {size})"
        )
    index = _index(folder, manifest)
    images = StoreImages(folder, _mapped(folder, manifest), index["hashes"], (size or height, size or width))
    classes = tuple(str(word) for word in index["class_names"])
    parts, start = {}, 0
    for part in (part for part in PARTS if part in manifest.parts):
        rows = slice(start, start + manifest.parts[part])
        labels = torch.from_numpy(index["labels"][rows])
        parts[part] = Split(
            images.take(rows), labels, len(classes), name, part, class_names=classes, marks=tuple(manifest.marks)
        )
        start = rows.stop
    return parts


def read_manifest(folder: Path, file: str = MANIFEST) -> Manifest:
    """The manifest of a finished store, or of an unfinished one. Raises DataError."""
    if not (folder / file).is_file():
        if (folder / UNFINISHED).is_file():
            raise DataError(
                f"expected a finished store, got {folder}, which is not: type the command that began it again "
                f"(ardor data prepare folder:PATH --out {folder})"
            )
        got = "other files" if folder.is_dir() else "no such folder"
        raise DataError(
            f"expected a store in {folder}, got {got}: type ardor data prepare folder:PATH --size 256 --out {folder}"
        )
    try:
        manifest: Manifest = checked(read_yaml(folder / file), Manifest, folder / file)
    except ConfigError as error:
        raise DataError(str(error)) from error
    shape, parts = manifest.shape, manifest.parts
    whole = all(type(n) is int and n > 0 for n in (*shape, *parts.values())) and set(parts) <= set(PARTS)
    if not whole or sum(parts.values()) != shape[0] or "test" not in parts or shape[3] not in (1, 3):
        raise DataError(f"expected the sizes of a store in {folder / file}, got {shape} and {parts}: prepare it anew")
    return manifest


def _index(folder: Path, manifest: Manifest) -> Mapping[str, Any]:
    """The arrays of index.npz. Raises DataError where it is not the one that the manifest names."""
    try:
        content = (folder / INDEX).read_bytes()
    except OSError as error:
        raise DataError(f"expected {folder / INDEX}, got {error.strerror}: copy the store again") from error
    if hashlib.sha256(content).hexdigest() != manifest.digest:
        raise DataError(
            f"expected {folder / INDEX} as it was written, got other bytes: copy the store again, or prepare it anew"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _mapped(folder: Path, manifest: Manifest) -> Tensor:
    """(N, H, W, C): the pixels under a memory map. Raises DataError where the file has another size."""
    path, expected = folder / PIXELS, math.prod(manifest.shape)
    try:
        size = path.stat().st_size
        if size == expected:
            # read-only: a private map that may be written must have its size in memory and swap on many systems
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")
                return torch.from_numpy(np.memmap(path, np.uint8, mode="r", shape=manifest.shape))
    except OSError as error:
        raise DataError(f"expected {path}, got {error.strerror or error}: copy the store again") from error
    raise DataError(
        f"expected {path} of {expected:,} bytes, got {size:,}: it is truncated or of another store; copy it again"
    )


class StoreImages:
    """Images under a memory map: see `ardor.data.images.Images`. Subsets share the map.

    Parameters
    ----------
    folder
        The store, for messages.
    pixels
        (N, H, W, C) uint8.
    hashes
        (N, 16) uint8: of `pixel_hashes`.
    size
        Height and width of the centre that is shown.

    Raises
    ------
    DataError
        Where an image differs from its hash: when it is first read.
    """

    dtype = torch.uint8

    def __init__(self, folder: Path, pixels: Tensor, hashes: Hashes, size: tuple[int, int]) -> None:
        n, height, width, channels = pixels.shape
        self._folder, self._pixels, self._hashes = folder, pixels, hashes
        self._verified = np.zeros(n, np.bool_)
        self._rows = torch.arange(n)
        self.full = (height, width)
        self.shape = torch.Size((n, channels, *size))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        (height, width), (h, w) = self.full, self.shape[2:]
        top, left = (height - h) // 2, (width - w) // 2
        shown = torch.empty((len(positions(rows, len(self))), *self.shape[1:]), dtype=torch.uint8)
        for to, image in zip(shown, self._read(rows), strict=True):
            to.copy_(image[:, top : top + h, left : left + w])
        return shown

    def take(self, rows: Tensor | slice) -> StoreImages:
        """The rows as images. No pixel is read."""
        taken = copy.copy(self)
        taken._rows = self._rows[positions(rows, len(self))]
        taken.shape = torch.Size((len(taken), *self.shape[1:]))
        return taken

    def crops(self, rows: Tensor | slice, boxes: Tensor, size: int | tuple[int, int]) -> Tensor:
        """(B, C, *size): of each row the part in its box, resized. Only that part is read, but for the first time."""
        return resized_crops(self._read(rows), boxes, size)

    def hashes(self) -> Hashes:
        """(N, 16) uint8: the hash of each stored image."""
        hashes: Hashes = self._hashes[self._rows.numpy()]
        return hashes

    def _read(self, rows: Tensor | slice) -> list[Tensor]:
        """Views (C, H, W) of the stored images, each verified once."""
        chosen = self._rows[positions(rows, len(self))].tolist()
        for row in chosen:
            if not self._verified[row]:
                if not np.array_equal(pixel_hashes(self._pixels[row : row + 1].numpy())[0], self._hashes[row]):
                    raise DataError(
                        f"expected image {row} of {self._folder / PIXELS} as it was written, got other pixels: copy "
                        "the store again, or prepare it anew"
                    )
                self._verified[row] = True
        return [self._pixels[row].permute(2, 0, 1) for row in chosen]


def index_bytes(labels: Any, class_names: tuple[str, ...], hashes: Hashes, files: Hashes) -> bytes:
    """The content of index.npz: the same bytes for the same arrays."""
    file = io.BytesIO()
    names = np.asarray(class_names, np.str_)
    np.savez(file, labels=np.asarray(labels, np.int64), class_names=names, hashes=hashes, files=files)
    return file.getvalue()
