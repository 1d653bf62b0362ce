"""The table of soft labels: one entry for each image and view, written once, shared by any number of processes.

An entry is valid where its checksum matches its bytes, its image and its table. So a kill, a full disk, a damaged block
or a read during a write can leave an entry unknown, never wrong; an unknown entry is computed again. The first process
to write an entry wins. Nothing is mapped into memory: a full disk or a file that is cut short would kill the process.
"""

from __future__ import annotations

import errno
import logging
import os
import zlib
from io import FileIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ardor.data.split import Split
from ardor.engine.modes import device_of
from ardor.errors import ConfigError, DataError, RunError
from ardor.models import hash_of
from ardor.storage.config import describe, to_yaml
from ardor.storage.files import refusal
from ardor.storage.locks import locked
from ardor.training.soft_labels.files import LOCK, enter
from ardor.training.soft_labels.views import views_of
from ardor.types import Logits

log = logging.getLogger(__name__)

DTYPE: TypeAlias = Literal["float32", "float16"]
CHUNK = 32
"""Rows of every forward pass that fills the table: at one size, logits do not depend on the rest of the batch."""

Array: TypeAlias = npt.NDArray[Any]


class SoftLabels:
    """A table of a teacher's logits, keyed by an image's position in its data set and the number of its view.

    An instance holds no lock and may be used by several threads. A subset, another order or another cut of the same
    images share the table; labels do not matter.

    Parameters
    ----------
    folder : Path
        Created where it does not exist.
    identity : dict
        Of `identity_of`.
    data : Split
        The images.

    Raises
    ------
    RunError
        Where the folder cannot be used, or holds the table of another teacher, other images or other settings.
    DataError
        Where a position of `data` is negative.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], data: Split) -> None:
        if int(data.index.min()) < 0:
            raise DataError(f"expected indices of 0 or more in {data.name}, got {int(data.index.min())}: number from 0")
        self.folder, self.identity = folder, identity
        self.views, self.classes = views_of(identity), identity["classes"]
        self._step = 1 if identity.get("flip", True) else 2  # without flip crops have even numbers alone
        self.dtype = np.dtype(identity["dtype"]).newbyteorder("<")
        self.calls = 0
        self._warned: set[str] = set()
        entry = self.classes * self.dtype.itemsize
        sizes = {"images.bin": 8, "table.bin": self.views * entry, "sums.bin": self.views * 4}
        enter(folder, identity, data, sizes)
        rows = int(data.index.max()) + 1
        self._salt = zlib.crc32(to_yaml(identity).encode())
        try:
            self._images = np.fromfile(folder / "images.bin", "<u8", rows)
            self._table, self._sums = ((folder / name).open("rb", buffering=0) for name in ("table.bin", "sums.bin"))
        except OSError as error:
            raise refusal(folder, error) from error

    def get(self, index: Tensor, view: Tensor) -> tuple[Logits, Tensor]:
        """Look up logits.

        Parameters
        ----------
        index : Tensor
            (B,) positions in the data set.
        view : Tensor
            (B,) numbers of views, as `crop_flip` returns them or `boxes_of` takes them.

        Returns
        -------
        tuple of Tensor
            (B, C) float32 logits and (B,) bool, whether a row is known; both on the CPU. An unknown row is arbitrary.
        """
        place = self._place(index, view)
        entries = self._read(self._table, place, self.dtype, self.classes)
        sums = self._read(self._sums, place, np.dtype("<u4"), 1)[:, 0]
        known = (sums != 0) & (sums == self._sums_of(place, entries))
        return torch.from_numpy(entries.astype(np.float32)), torch.from_numpy(known)

    def put(self, index: Tensor, view: Tensor, logits: Logits) -> Logits:
        """Write logits (B, C) where there are none yet, and return those of the table, (B, C) float32 on the CPU.

        Logits outside the range of the dtype are returned and not written. Where the disk refuses, nothing is written,
        and a warning is logged once.
        """
        given = logits.detach().to("cpu", torch.float32)
        with np.errstate(over="ignore"):
            entries = given.numpy().astype(self.dtype)
        finite = np.isfinite(entries).all(1)
        rounded = torch.where(torch.from_numpy(finite)[:, None], torch.from_numpy(entries.astype(np.float32)), given)
        try:
            with locked(self.folder / LOCK):
                held, known = self.get(index, view)
                self._write(self._place(index, view), entries, finite & ~known.numpy())
        except (OSError, RunError) as error:
            reason = getattr(error, "strerror", None) or error
            self._warn(f"soft labels cannot be kept in {self.folder} ({reason}): the teacher computes every batch")
            return rounded
        return torch.where(known[:, None], held, rounded)

    def _read(self, file: FileIO, place: Array, dtype: np.dtype[Any], columns: int) -> Array:
        """(B, columns) entries of a file; zeros, which are of no known row, where it was cut short meanwhile."""
        size = dtype.itemsize * columns
        parts = [os.pread(file.fileno(), size, int(k) * size) for k in place]
        if any(len(part) < size for part in parts):
            self._warn(f"the table of soft labels in {self.folder} was cut short: what is missing is computed again")
        return np.frombuffer(b"".join(part.ljust(size, b"\0") for part in parts), dtype).reshape(-1, columns)

    def _warn(self, text: str) -> None:
        """Log a warning, once."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning(text)

    def _write(self, place: Array, entries: Array, wanted: Array) -> None:
        """The logits of an entry before its checksum: after a kill in another order old bytes would be valid."""
        sums = self._sums_of(place, entries).astype("<u4")
        with (self.folder / "table.bin").open("r+b") as table, (self.folder / "sums.bin").open("r+b") as checks:
            for row in np.flatnonzero(wanted):
                for file, content in ((table, entries[row].tobytes()), (checks, sums[row].tobytes())):
                    if os.pwrite(file.fileno(), content, int(place[row]) * len(content)) < len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _place(self, index: Tensor, view: Tensor) -> Array:
        slot = view // self._step
        if not 0 <= int(slot.min()) <= int(slot.max()) < self.views:  # it would be a view of the next image
            raise ConfigError(
                f"expected views below {self.views * self._step}, got {int(view.max())}: open the table with the "
                "padding and flip, or the views, that the images were augmented with"
            )
        return (index.cpu() * self.views + slot.cpu()).numpy()

    def _sums_of(self, place: Array, entries: Array) -> Array:
        """(B,) checksums, never 0, of entries together with their places, images and table."""
        about = np.stack([place.astype("<u8"), self._images[place // self.views]], 1)
        lines = np.concatenate([about.view(np.uint8), np.ascontiguousarray(entries).view(np.uint8)], 1)
        return np.maximum(np.fromiter((zlib.crc32(line, self._salt) for line in lines), np.uint32, len(lines)), 1)


def identity_of(teacher: nn.Module, data: Split, *, classes: int, dtype: DTYPE, **views: Any) -> dict[str, Any]:
    """Everything that distinguishes two tables, except their images. Raises ConfigError for another dtype.

    Parameters
    ----------
    views : Any
        Of `numbering`.
    """
    if dtype not in ("float32", "float16"):
        raise ConfigError(f"expected soft labels in float32 or float16, got {dtype!r}: type one of them")
    device = device_of(teacher)
    return {
        "layout": 1,
        "teacher": hash_of(teacher),
        "net": describe(teacher).get("name", type(teacher).__name__),  # the same weights in other code
        # logits of another kind of processor differ by more than rounding, with TF32 for example
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "shape": list(data.shape),
        **views,
        **({"full": list(data.full)} if "views" in views else {}),  # boxes are counted in it
        "classes": classes,
        "dtype": dtype,
        "chunk": CHUNK,
    }


def size_of(images: int, views: int, classes: int, dtype: DTYPE) -> int:
    """Bytes of a full table: logits, a checksum for each entry, a hash for each image."""
    return images * (views * (classes * np.dtype(dtype).itemsize + 4) + 8)
