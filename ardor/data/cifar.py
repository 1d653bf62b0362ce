"""`cifar10` and `cifar100` (fine labels) from the official archives, binary or python layout.

Both layouts give the same bytes. An archive is read where it lies, without unpacking it to disk.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from ardor.data.archives import ARCHIVES, TEST, TRAIN, Archive
from ardor.data.arrays import from_arrays
from ardor.data.split import Split
from ardor.errors import DataError
from ardor.storage.download import fetch

URL = "https://www.cs.toronto.edu/~kriz/"
SHAPE = (3, 32, 32)


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
    missing = [file for file in (*archive.train, archive.test) if file not in contents]
    if missing:
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
        looked = [str(root / place) for each in ARCHIVES[name] for place in (each.folder, each.file)]
        raise DataError(
            f"expected {name} in {root}, got none of {', '.join(looked)}: type --data.download true "
            f"(download=True), or put {archive.file} from {URL}{archive.file} into {root}"
        )
    return archive, fetch(URL + archive.file, root / archive.file, md5=archive.md5)


def _contents(place: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """The wanted files that are in a folder or an archive."""
    if place.is_dir():
        return {file: (place / file).read_bytes() for file in wanted if (place / file).is_file()}
    try:
        return _unpack(place, wanted)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"expected a whole tar.gz archive, got {place} ({place.stat().st_size:,} bytes), which does not read "
            f"({error}): remove it and get it again (--data.download true)"
        ) from error


def _unpack(path: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """In one pass; nothing is written to disk."""
    found = {}
    with gzip.open(path) as content:
        with tarfile.open(fileobj=content, mode="r|") as tar:
            for member in tar:
                file = PurePosixPath(member.name).name
                opened = tar.extractfile(member) if file in wanted and member.isfile() else None
                if opened is not None:
                    found[file] = opened.read()
        while content.read(1 << 20):  # the checksum is at the very end, which tar does not read
            pass
    return found


def _require_official(archive: Archive, place: Path, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Where one file has its official number of images all must, for then another one was cut short.

    A set in which none has is somebody's small one, and is read as it is.
    """
    official = dict.fromkeys(archive.train, TRAIN // len(archive.train)) | {archive.test: TEST}
    if not any(sizes[file][0] == n for file, n in official.items()):
        return
    for file, (images, size) in sizes.items():
        if images != official[file]:
            raise DataError(
                f"expected {official[file]:,} images in {place}/{file}, got {images:,} ({size:,} bytes): "
                "it is truncated or foreign; remove it and get it again (--data.download true)"
            )
