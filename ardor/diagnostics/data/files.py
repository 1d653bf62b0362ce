"""Image files of a folder: listed and decoded one by one, so that a damaged one hides no other."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from ardor.data.arrays import PARTS
from ardor.data.decode import read_image
from ardor.data.folder import SUFFIXES, divided, require_no_store
from ardor.data.images import pixel_hashes
from ardor.diagnostics.data.report import Seen
from ardor.errors import DataError

CHUNK = 32
"""Files that a thread decodes at a time: a tenth of a second, after which Ctrl-C ends it."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of images so far and of all."""


@dataclass
class Listing:
    """The files of a folder.

    Parameters
    ----------
    files
        Part -> class -> image files, sorted.
    skipped
        What training leaves out -> number of files.
    unreadable
        File or folder -> reason.
    flat
        Whether the classes are in the folder itself, and its files are divided into parts.
    """

    files: dict[str, dict[str, list[Path]]] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)
    flat: bool = False

    def folders(self, path: Path) -> list[Path]:
        """The class folders of a part; files beside them are left out."""
        folders, images = self._entries(path)
        if images:
            self.skipped["images in no class"] += len(images)
        return folders

    def images(self, path: Path) -> list[Path]:
        """The image files of a class; those in folders below are left out."""
        folders, images = self._entries(path)
        for folder in folders:  # os.walk follows no link, so that a loop ends
            below = [Path(name) for _, _, names in os.walk(folder) for name in names]
            if n := sum(file.suffix.lower() in SUFFIXES for file in below):
                self.skipped["images in folders inside a class"] += n
        return images

    def _entries(self, path: Path) -> tuple[list[Path], list[Path]]:
        """The folders, and the image files."""
        found: tuple[list[Path], list[Path]] = [], []
        try:
            entries = sorted(path.iterdir())
        except OSError as error:
            self.unreadable[str(path)] = error.strerror or str(error)
            return found
        for entry in entries:
            folder = entry.is_dir()
            if entry.name.startswith("."):
                self.skipped["hidden"] += 1
            elif folder or entry.suffix.lower() in SUFFIXES:
                found[0 if folder else 1].append(entry)
            else:
                self.skipped[f"files {entry.suffix.lower()[:12] or 'without a suffix'}"] += 1
        return found


def listing(path: Path) -> Listing:
    """The files that `folder:PATH` reads, by part and class, and what it leaves out. Raises DataError."""
    if not path.is_dir():
        got = f"the file {path}" if path.is_file() else f"{path}, which is not there"
        raise DataError(f"expected a folder of images, got {got}: check the path in folder:PATH")
    found = Listing()
    parts = [part for part in PARTS if (path / part).is_dir()]
    for part in parts:
        found.files[part] = {folder.name: found.images(folder) for folder in found.folders(path / part)}
    if parts:
        found.skipped["folders beside the parts"] += len(found.folders(path)) - len(parts)
    else:
        found.flat = True
        halves = {folder.name: _halves(folder, found.images(folder)) for folder in found.folders(path)}
        found.files = {part: {name: half[part] for name, half in halves.items()} for part in ("train", "test")}
    found.skipped = +found.skipped
    if not any(images for classes in found.files.values() for images in classes.values()):
        require_no_store(path)
        raise DataError(
            f"expected {path}/train/CLASS/*.png and {path}/test/CLASS/*.png, or {path}/CLASS/*.png, got no image in "
            "such a folder: make these folders"
        )
    return found


def _halves(folder: Path, images: list[Path]) -> dict[str, list[Path]]:
    """The files of a class for train and test, as training divides them; one is of train."""
    return divided(folder) if len(images) > 1 else {"train": images, "test": []}


def decoded(
    files: Mapping[str, Mapping[str, Sequence[Path]]], classes: Sequence[str], workers: int, progress: Progress | None
) -> Iterator[tuple[Path, Seen | str]]:
    """Each file with its image, or the reason why there is none; in order.

    Parameters
    ----------
    files
        Part -> class -> files.
    classes
        All classes; a label is the position of a class.
    workers
        Threads: decoders and hashes hold no interpreter lock.
    progress
        Called after every chunk.
    """
    labels = {name: label for label, name in enumerate(classes)}
    every = [(part, labels[name], file) for part, of in files.items() for name, images in of.items() for file in images]
    chunks = [every[start : start + CHUNK] for start in range(0, len(every), CHUNK)]
    pool = ThreadPoolExecutor(max(1, min(workers, len(chunks))))
    done = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())  # here, for threads share the filters
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        stack.callback(pool.shutdown, cancel_futures=True)
        for chunk in pool.map(lambda chunk: [(one[2], _seen(*one)) for one in chunk], chunks):
            yield from chunk
            done += len(chunk)
            if progress is not None:
                progress(done, len(every))


def _seen(part: str, label: int, file: Path) -> Seen | str:
    """The image of a file, or the reason why it is none."""
    try:
        pixels = read_image(file)
        with Image.open(file) as image:
            mode = image.mode
    except DataError as error:
        return " ".join(str(error.__cause__ or error).split())
    except Exception as error:
        return str(error)
    height, width, _ = pixels.shape
    return Seen(part, label, str(file), pixel_hashes(pixels[None])[0].tobytes(), (width, height), mode)
