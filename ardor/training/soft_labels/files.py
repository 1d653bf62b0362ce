"""The files of a table: created and grown under a lock, never shrunk, refused where they are of another table.

identity.yaml   the teacher, and how a view is numbered; a folder belongs to one identity
images.bin      (N,) uint64: a hash of the image of each row, 0 where there is none yet
table.bin       (N, views, C) float32 or float16: the logits
sums.bin        (N, views) uint32: a checksum of each entry, 0 where there is none
lock            held to create, grow and write

The files are sparse where the file system supports it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ardor.data.images import hashes_of as image_hashes
from ardor.data.split import Split
from ardor.errors import ConfigError, RunError
from ardor.storage.config import differences, read_yaml, to_yaml
from ardor.storage.files import refusal, write_text
from ardor.storage.locks import locked

Hashes = npt.NDArray[np.uint64]

LOCK = "lock"


def enter(folder: Path, identity: Mapping[str, Any], data: Split, sizes: Mapping[str, int]) -> None:
    """Create or check the files for the images of `data`.

    Parameters
    ----------
    sizes : mapping of str to int
        Bytes per image of each file.

    Raises
    ------
    RunError
        Where the folder cannot be used, or its table has another identity or other images.
    """
    hashes, rows = hashes_of(data), int(data.index.max()) + 1
    if folder.exists() and not folder.is_dir():
        raise RunError(f"expected a folder for soft labels, got the file {folder}: give another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK):
            _require_identity(folder, identity)
            for name, size in sizes.items():
                (folder / name).touch()
                if not (folder / name).is_file():  # a pipe, which would block
                    raise RunError(
                        f"expected a table of soft labels, got {folder / name}, no file: name another folder"
                    )
                if (folder / name).stat().st_size < rows * size:
                    os.truncate(folder / name, rows * size)
            _register(folder / "images.bin", rows, data, hashes)
    except OSError as error:
        raise refusal(folder, error) from error


def hashes_of(data: Split) -> Hashes:
    """(N,) a hash of each image's shape and bytes, never 0."""
    shown = hashlib.sha256(str(data.shape).encode()).digest()[:8]  # images of a store may be shown in part
    hashes: Hashes = image_hashes(data.images)[:, :8].copy().view("<u8")[:, 0] ^ np.frombuffer(shown, "<u8")
    return np.maximum(hashes, 1)


def _require_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Write the identity of a new table, or refuse another one."""
    path = folder / "identity.yaml"
    if not path.exists():
        if {p.name for p in folder.iterdir() if p.suffix != ".tmp"} - {LOCK}:
            raise RunError(
                f"expected an empty folder or a table of soft labels, got {folder} with other files: name another"
            )
        write_text(path, to_yaml(identity))
    try:
        changed = differences(identity, read_yaml(path))
    except ConfigError as error:
        raise RunError(f"expected the identity of a table of soft labels, got {path}: name another folder") from error
    if changed:
        raise RunError(
            f"expected the soft labels of this run, got {folder} made for another "
            f"({'; '.join(changed)}): name another folder"
        )


def _register(path: Path, count: int, data: Split, hashes: Hashes) -> None:
    """Refuse images that differ from those of the rows, and record the images of new rows."""
    rows = data.index.cpu().numpy()
    known = np.fromfile(path, "<u8", count)  # not the whole, of any size
    fresh = known[rows] == 0
    known[rows[fresh]] = hashes[fresh]
    other = rows[known[rows] != hashes]  # also an index that the split has twice
    if len(other):
        raise RunError(
            f"expected the soft labels of {data.name} in {path.parent}, got a table of other images ({len(other)} of "
            f"{len(rows)} differ, the first is image {other[0]}): type --soft_labels_in with another folder, or "
            "--soft_labels live"
        )
    if fresh.any():
        with path.open("r+b") as file:
            file.write(known.tobytes())
