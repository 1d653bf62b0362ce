"""`cifar10` and `cifar100` (fine labels) from the official archives, binary or python layout.

Both layouts give the same bytes. An archive is read in place, without unpacking it to disk.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ardor.data.archives import ARCHIVES, TEST, TRAIN, Archive
from ardor.data.arrays import from_arrays
from ardor.data.split import Split
from ardor.errors import DataError
from ardor.storage.download import fetch

URL = "https://www.cs.toronto.edu/~kriz/"
SHAPE = (3, 32, 32)
MOST = 1 << 29
"""Bytes of an unpacked archive; the official ones have less than 2**28."""


def read_cifar(name: str, root: Path, download: bool) -> dict[str, Split]:
    """Train and test, uint8 (N, 3, 32, 32). index: position in the official order of train, and of test.

    Places, binary before python: the unpacked folder in `root`, `root` itself, the archive in `root`; then the
    download. Smaller files of the same layout are accepted.

    Parameters
    ----------
    name
        `cifar10` or `cifar100`.
    root
        Folder of the archive, or of its files.
    download
        Download the official archive where it is absent.

    Raises
    ------
    DataError
        Where the archive is absent or damaged.
    """
    archive, place = _find(name, root) or _download(name, root, download)
    contents = _contents(place, {*archive.train, archive.test, archive.meta})
    if missing := [file for file in (*archive.train, archive.test) if file not in contents]:
        raise DataError(
            f"expected {', '.join(missing)} in {place}, got {', '.join(sorted(contents)) or 'none of its files'}: "
            "get the official archive (--data.download true)"
        )
    pairs = {file: archive.pairs(contents[file], f"{place}/{file}") for file in (*archive.train, archive.test)}
    _require_official(archive, place, {file: (len(y), len(contents[file])) for file, (_, y) in pairs.items()})
    words = archive.words(contents[archive.meta], f"{place}/{archive.meta}") if archive.meta in contents else ()
    arrays = {
        "x_train": np.concatenate([pairs[file][0] for file in archive.train]).reshape(-1, *SHAPE),
        "y_train": np.concatenate([pairs[file][1] for file in archive.train]),
        "x_test": pairs[archive.test][0].reshape(-1, *SHAPE),
        "y_test": pairs[archive.test][1],
        "class_names": np.array(words, str),
    }
    return from_arrays(name, arrays, layout="nchw", classes=int(name.removeprefix("cifar")))


def _find(name: str, root: Path) -> tuple[Archive, Path] | None:
    for archive in ARCHIVES[name]:
        for folder in (root / archive.folder, root):
            if any((folder / file).is_file() for file in archive.train):
                return archive, folder
        if (root / archive.file).is_file():
            return archive, root / archive.file
    return None


def _download(name: str, root: Path, allowed: bool) -> tuple[Archive, Path]:
    archive = ARCHIVES[name][0]
    if not allowed:
        places = [str(root / place) for each in ARCHIVES[name] for place in (each.folder, each.file)]
        raise DataError(
            f"expected {name} in {root}, got none of {', '.join(places)}: type --data.download true, "
            f"or put {archive.file} from {URL}{archive.file} into {root}"
        )
    return archive, fetch(URL + archive.file, root / archive.file, md5=archive.md5)


class _Bounded:
    """A stream of at most MOST bytes: a small archive may unfold to any size."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream, self._left = stream, MOST

    def read(self, size: int) -> bytes:
        """The next bytes. Raises OSError past the bound."""
        chunk = self._stream.read(size)
        self._left -= len(chunk)
        if self._left < 0:
            raise OSError(f"it unfolds to more than {MOST:,} bytes")
        return chunk


def _contents(place: Path, names: Collection[str]) -> dict[str, bytes]:
    """The named files in a folder or an archive; nothing is written to disk."""
    if place.is_dir():
        return {file: (place / file).read_bytes() for file in names if (place / file).is_file()}
    contents = {}
    try:
        with gzip.open(place) as compressed:
            stream: Any = _Bounded(compressed)
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                for member in tar:
                    file = PurePosixPath(member.name).name
                    if member.size > MOST:
                        raise OSError(f"{file} declares {member.size:,} bytes")
                    if file in names and member.isfile() and (opened := tar.extractfile(member)):
                        contents[file] = opened.read()
            while stream.read(1 << 20):  # the checksum is at the very end, which tar does not read
                pass
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(
            f"expected a complete tar.gz archive, got {place} ({place.stat().st_size:,} bytes), which does not read "
            f"({error}): remove it and get it again (--data.download true)"
        ) from error
    return contents


def _require_official(archive: Archive, place: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Where one file has its official number of images, require it of all: another is truncated.

    A set in which no file has it is a third-party subset, and is accepted.
    """
    official = dict.fromkeys(archive.train, TRAIN // len(archive.train)) | {archive.test: TEST}
    complete = any(sizes[file][0] == n for file, n in official.items())
    for file, (images, size) in sizes.items():
        if complete and images != official[file]:
            raise DataError(
                f"expected {official[file]:,} images in {place}/{file}, got {images:,} ({size:,} bytes): "
                "it is truncated or foreign; remove it and get it again (--data.download true)"
            )
