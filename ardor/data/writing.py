"""`prepare`: a folder of images as a store, once; what was written before an interruption is verified and kept.

While it is unfinished, the folder has unfinished.yaml, which says what it becomes, and rows.bin, (N, 32) uint8: of each
image that is in pixels.bin the hashes of its pixels and of its file, else 0.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import PIL
import torch

from ardor.data.decode import Pixels, Resize, Rule
from ardor.data.folder import FolderImages, Part, listed
from ardor.data.images import HASH_BYTES, Hashes, pixel_hashes
from ardor.data.store import INDEX, MANIFEST, PIXELS, UNFINISHED, Manifest, index_bytes, read_manifest
from ardor.errors import ConfigError, DataError, RunError
from ardor.storage.config import differences, few, to_yaml
from ardor.storage.files import make_folder, refusal, write_atomic, write_text
from ardor.storage.locks import holder, locked

ROWS, LOCK = "rows.bin", "lock"
CHUNK = 64
"""Images that are decoded, written and then recorded."""


def prepare(
    name: str,
    out: str | Path,
    *,
    size: int | None = None,
    resize: Resize = "crop",
    grey: bool = False,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the images of a folder as a store of uint8 pixels, for `load("store:OUT")`.

    After an interruption, a kill too, the same call goes on and gives the same bytes. A finished store of the same
    files and rule is left as it is.

    Parameters
    ----------
    name
        `folder:PATH`: see `ardor.data.folder.read_folder`.
    out
        The store's folder: new, empty, or what such a call left there.
    size, resize, grey
        How a file becomes an image: see `ardor.data.decode.Rule`. None takes images of one size as they are.
    workers
        Threads that decode.
    progress
        Called with the number of images that are written, and that of all.

    Returns
    -------
    Path
        out.

    Raises
    ------
    ConfigError
        Where the name is of no folder, or `out` is in it.
    DataError
        For images that `read_folder` refuses, and where `out` is a store of other files or of another rule.
    RunError
        Where `out` has other files, cannot be written, has too little space, or another process prepares it.
    """
    folder, source = Path(out).expanduser(), _source(name)
    if folder.absolute().is_relative_to(source.absolute()):
        raise ConfigError(f"expected a store outside the folder of its images, got {folder}: type --out with another")
    parts = listed(name)
    rule = Rule(size, resize, grey)
    images = [FolderImages(part, rule, workers) for part in parts]
    manifest = _manifest(source, parts, rule, images)
    if (folder / MANIFEST).exists():
        _require_same(folder, manifest, MANIFEST)
        return folder
    if folder.exists() and not (folder / UNFINISHED).exists() and not _is_empty(folder):
        raise RunError(f"expected a new or empty folder for the store, got {folder} with other files: name another")
    try:
        make_folder(folder)
        with locked(folder / LOCK, wait=False) as held:
            if not held:
                raise RunError(
                    f"expected to prepare {folder}, which {holder(folder / LOCK)} does: wait for it, or name another"
                )
            _write(folder, manifest, parts, images, progress or (lambda done, todo: None))
    except OSError as error:
        raise refusal(folder, error) from error
    return folder


def _is_empty(folder: Path) -> bool:
    """Whether a folder has no files but what an interruption leaves before the first image."""
    return folder.is_dir() and all(path.name == LOCK or path.name.startswith(".") for path in folder.iterdir())


def _source(name: str) -> Path:
    kind, colon, path = name.partition(":")
    if kind != "folder" or not path:
        near = f"folder:{name}" if not colon and os.path.isdir(name) else "folder:PATH"
        raise ConfigError(f'expected a folder of images to prepare, got "{name}": type {near}')
    return Path(path).expanduser()


def _manifest(source: Path, parts: Sequence[Part], rule: Rule, images: Sequence[FolderImages]) -> Manifest:
    shapes = {part.name: (*x.full, x.shape[1]) for part, x in zip(parts, images, strict=True)}
    if len(set(shapes.values())) > 1:
        raise DataError(
            f"expected images of one size in {source}, got {shapes}: type --size {min(shapes['test'][:2])} to resize"
        )
    height, width, channels = shapes["test"]
    counts = {part.name: len(part.files) for part in parts}
    return Manifest(
        source=source.absolute().name,
        listing=_listing(source, parts),
        **asdict(rule),
        decoder=f"Pillow {PIL.__version__}, torch {torch.__version__.partition('+')[0]}",
        shape=(sum(counts.values()), height, width, channels),
        parts=counts,
        marks=list(parts[0].marks),
    )


def _listing(source: Path, parts: Sequence[Part]) -> str:
    """SHA-256 of part, name, size and time of each file."""
    digest = hashlib.sha256()
    for part in parts:
        for file in part.files:
            stat = file.stat()
            path = os.fsencode(file.relative_to(source).as_posix())
            digest.update(b"%s\0%s\0%d\0%d\0" % (part.name.encode(), path, stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()


def _require_same(folder: Path, manifest: Manifest, file: str) -> None:
    """Refuse the store of other files or of another rule."""
    there = replace(read_manifest(folder, file), source=manifest.source, digest=manifest.digest)
    changed = differences(asdict(manifest), asdict(there))
    of_files = [line for line in changed if line.startswith(("listing", "parts", "shape"))]
    if changed and of_files == changed:
        raise DataError(
            f"expected the files that {folder} was prepared from, got a folder that has changed since ({few(changed)}):"
            " name another store, or remove this one"
        )
    if changed:
        raise DataError(
            f"expected a store of this rule, got {folder} of another ({few(changed)}): name another, or remove it"
        )


def _write(
    folder: Path,
    manifest: Manifest,
    parts: Sequence[Part],
    images: Sequence[FolderImages],
    progress: Callable[[int, int], None],
) -> None:
    """Fill pixels.bin, then write the index and the manifest. The lock is held."""
    total = math.prod(manifest.shape)
    if (folder / UNFINISHED).exists():
        _require_same(folder, manifest, UNFINISHED)
    else:
        _require_space(folder, total)
        write_text(folder / UNFINISHED, to_yaml(_plain(manifest)))
    for file, size in ((PIXELS, total), (ROWS, 2 * HASH_BYTES * manifest.shape[0])):
        (folder / file).touch()
        os.truncate(folder / file, size)
    rows = _rows(folder, manifest, parts, images, progress)
    labels = [label for part in parts for label in part.labels]
    index = index_bytes(labels, parts[0].class_names, rows[:, :HASH_BYTES], rows[:, HASH_BYTES:])
    write_atomic(folder / INDEX, lambda path: path.write_bytes(index))
    digest = hashlib.sha256(index).hexdigest()
    write_text(folder / MANIFEST, to_yaml(_plain(replace(manifest, digest=digest))))
    for file in (ROWS, UNFINISHED):
        (folder / file).unlink()


def _require_space(folder: Path, needed: int) -> None:
    if (free := shutil.disk_usage(folder).free) < needed:
        raise RunError(
            f"expected {needed:,} bytes of free space for {folder}, got {free:,}: name a folder on another disk, or a "
            "smaller --size"
        )


def _plain(manifest: Manifest) -> dict[str, object]:
    return asdict(manifest) | {"shape": list(manifest.shape)}


def _rows(
    folder: Path,
    manifest: Manifest,
    parts: Sequence[Part],
    images: Sequence[FolderImages],
    progress: Callable[[int, int], None],
) -> Hashes:
    """(N, 32): the hashes of every image, written to pixels.bin and recorded in rows.bin where they were not yet."""
    n, each = manifest.shape[0], math.prod(manifest.shape[1:])
    with (folder / PIXELS).open("r+b") as pixels, (folder / ROWS).open("r+b") as record:
        rows = np.frombuffer(record.read(), np.uint8).reshape(n, 2 * HASH_BYTES).copy()
        mapped = np.memmap(folder / PIXELS, np.uint8, mode="r", shape=manifest.shape)
        for start, files, some in _chunks(parts, images):
            missing = [k for k in range(len(files)) if not _is_written(mapped, rows, start + k)]
            for k, image in zip(missing, some.read(torch.tensor(missing, dtype=torch.int64)), strict=True):
                pixels.seek((start + k) * each)
                pixels.write(image.data)
                digest = hashlib.sha256(files[k].read_bytes()).digest()[:HASH_BYTES]
                rows[start + k] = np.concatenate([pixel_hashes(image[None])[0], np.frombuffer(digest, np.uint8)])
            if missing:
                pixels.flush()  # an image is in the file before it is recorded
                record.seek(start * rows.shape[1])
                record.write(rows[start : start + len(files)].data)
                record.flush()
            progress(start + len(files), n)
        os.fsync(pixels.fileno())
    return rows


def _chunks(
    parts: Sequence[Part], images: Sequence[FolderImages]
) -> Iterator[tuple[int, tuple[Path, ...], FolderImages]]:
    """The first row, the files and the images of each chunk."""
    start = 0
    for part, of_part in zip(parts, images, strict=True):
        for first in range(0, len(part.files), CHUNK):
            chunk = slice(first, first + CHUNK)
            yield start + first, part.files[chunk], of_part.take(chunk)
        start += len(part.files)


def _is_written(mapped: Pixels, rows: Hashes, row: int) -> bool:
    """Whether an image was recorded, and is what was recorded: the machine may have lost power in between."""
    return bool(rows[row].any()) and np.array_equal(pixel_hashes(mapped[row : row + 1])[0], rows[row, :HASH_BYTES])
