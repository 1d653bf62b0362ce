"""`folder:PATH`: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png, optionally PATH/val, or PATH/CLASS/*.png.

Nothing is written. Files and folders whose name begins with a dot are skipped. Images that would not fit into memory
are decoded whenever they are read, by threads: they draw no random number, so their number changes nothing.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ardor.data.arrays import PARTS, physical_memory
from ardor.data.decode import Pixels, Resize, Rule
from ardor.data.images import positions
from ardor.data.on_demand import OnDemand
from ardor.data.split import Split
from ardor.errors import ConfigError, DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

TEST_SHARE = 0.2
"""Of the images of each class in PATH/CLASS, the test part: those with the lowest SHA-256 of their file name."""

MEMORY_SHARE = 4
"""The pixels of all parts are read into memory where they take at most one 4th of it."""


def read_folder(
    name: str,
    root: Path,
    download: bool,
    *,
    size: int | None = None,
    resize: Resize = "crop",
    grey: bool = False,
    on_demand: bool | None = None,
    workers: int = 4,
) -> dict[str, Split]:
    """`folder:PATH`: uint8 images (N, 3, H, W), or (N, 1, H, W) with `grey`; classes are the folder names, sorted.

    Alpha is dropped, the EXIF orientation applied. index: position among the part's files, by class and then by name.
    A folder with a test part alone is for `load_test`. PATH/CLASS without parts is divided by `TEST_SHARE`, which the
    mark of the splits records.

    Parameters
    ----------
    name
        `folder:PATH`.
    root, download
        Without effect.
    size
        Side in pixels to which every image is resized (bilinear, antialiased); None takes images of one size as they
        are.
    resize
        crop: the short side is resized to `size`, and the centre is cut out. squash: both sides are.
    grey
        One channel instead of three.
    on_demand
        Decode images whenever they are read (True), or once into memory (False); None reads them into memory where
        they take at most a quarter of it.
    workers
        Threads that decode; 0 decodes in the caller's.

    Raises
    ------
    DataError
        Where there are no images, classes differ between parts, or an image is damaged.
    """
    parts = listed(name)
    rule, memory = Rule(size, resize, grey), physical_memory()
    images = {part.name: FolderImages(part, rule, workers) for part in parts}
    needed = sum(x.shape.numel() for x in images.values())
    if on_demand is None:
        on_demand = needed > memory // MEMORY_SHARE
    if not on_demand and needed > memory:
        raise DataError(
            f"expected images that fit into this machine's memory of {memory:,} bytes, got {needed:,} of {name}: leave "
            "out --data.on_demand, or type --data.size with a smaller size"
        )
    return {part.name: split_of(name, part, images[part.name], on_demand) for part in parts}


@dataclass(frozen=True)
class Part:
    """The files of a part, by class and then by name."""

    folder: Path
    name: str
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    marks: tuple[str, ...]


def listed(name: str) -> list[Part]:
    """The parts of `folder:PATH`: "test" at least.

    Raises
    ------
    DataError
        Where there are no images, a class has none, or classes differ between parts.
    """
    path = Path(name.removeprefix("folder:")).expanduser()
    parts = [part for part in PARTS if (path / part).is_dir()]
    flat = not parts and any(_images(folder) for folder in _folders(path))
    if "test" not in parts and not flat:
        require_no_store(path)
        got = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing" if path.is_dir() else "no such folder"
        raise DataError(
            f"expected {path}/train/CLASS/*.png and {path}/test/CLASS/*.png, or {path}/CLASS/*.png, got {got}: make "
            "these folders"
        )
    if flat:
        halves = {folder.name: divided(folder) for folder in _folders(path)}
        marks: tuple[str, ...] = (f"test is {100 * TEST_SHARE:g} % of one folder, by file name",)
        return [
            _part(path, part, {name: half[part] for name, half in halves.items()}, marks) for part in ("train", "test")
        ]
    names = _class_names(path, parts)
    return [_part(path / part, part, {name: _images(path / part / name) for name in names}) for part in parts]


def require_no_store(path: Path) -> None:
    """Raise DataError for a folder of `ardor data prepare`."""
    if (path / "pixels.bin").is_file():
        raise DataError(f"expected a folder of images, got the store {path}: type --data store:{path}")


def _part(folder: Path, name: str, files: dict[str, list[Path]], marks: tuple[str, ...] = ()) -> Part:
    for of_class, images in files.items():
        if not images:
            raise DataError(
                f"expected images ({', '.join(SUFFIXES)}) in {folder / of_class}, got none: add some, or remove the "
                "class"
            )
    labels = tuple(label for label, images in enumerate(files.values()) for _ in images)
    return Part(folder, name, tuple(file for images in files.values() for file in images), labels, tuple(files), marks)


def _folders(path: Path) -> list[Path]:
    """The class folders, sorted."""
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")) if path.is_dir() else []


def _images(folder: Path) -> list[Path]:
    """The image files, sorted."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in files if not p.is_dir())


def divided(folder: Path) -> dict[str, list[Path]]:
    """The images of a class for train and test. Raises DataError for a class of one image."""
    files = _images(folder)
    if len(files) == 1:
        raise DataError(f"expected at least 2 images in {folder}, one of them for the test, got 1: add some")
    by_hash = sorted(files, key=lambda file: hashlib.sha256(file.name.encode(errors="surrogateescape")).digest())
    test = set(by_hash[: max(1, round(TEST_SHARE * len(files)))])
    return {"train": [f for f in files if f not in test], "test": [f for f in files if f in test]}


def _class_names(path: Path, parts: Sequence[str]) -> tuple[str, ...]:
    """The classes, which must be the same in all parts."""
    folders = {part: [folder.name for folder in _folders(path / part)] for part in parts}
    for part, names in folders.items():
        if not names:
            raise DataError(f"expected one folder per class in {path / part}, got none: make {path / part}/CLASS/")
        if odd := sorted(set(names) ^ set(folders["test"])):
            raise DataError(
                f"expected the same classes in {path / part} and {path / 'test'}, got {', '.join(odd[:5])} in one of "
                "them only: add or remove these folders"
            )
    return tuple(folders["test"])


def split_of(name: str, part: Part, images: FolderImages, on_demand: bool) -> Split:
    """A part as a split, its images in memory or not. Raises DataError."""
    pixels, classes = images if on_demand else images[:], part.class_names
    return Split(
        pixels, torch.tensor(part.labels), len(classes), name, part.name, class_names=classes, marks=part.marks
    )


class FolderImages(OnDemand):
    """Images of files, decoded when they are read, by threads.

    Parameters
    ----------
    part
        The files.
    rule
        How a file becomes an image.
    workers
        Threads that decode; 0 decodes in the caller's.

    Raises
    ------
    ConfigError
        For another number of threads.
    DataError
        Where a file is missing or damaged, or its image is of another size or has changed: when it is read.
    """

    def __init__(self, part: Part, rule: Rule, workers: int) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= 256:
            raise ConfigError(
                f"expected data.workers from 0 to 256, the number of threads, got {workers!r}: type --data.workers 4"
            )
        super().__init__(lambda row: rule.read(part.files[row]), len(part.files), str(part.name))
        self._part = part
        self._pool, self._ahead = ThreadPoolExecutor(workers, "decode") if workers else None, 2 * workers

    def read(self, rows: Tensor | slice) -> Iterator[Pixels]:
        """The images (H, W, C) of rows, in their order."""
        return ordered(self._pool, self._image, self._rows[positions(rows, len(self))].tolist(), self._ahead)

    def _image(self, row: int) -> Pixels:
        file, image = self._part.files[row], self._make(row)
        channels, *size = self.shape[1:]
        if image.shape != (*size, channels):
            side = min(224, *size, *image.shape[:2])
            raise DataError(
                f"expected images of one size, got {image.shape[1]} x {image.shape[0]} in {file} and {size[1]} x "
                f"{size[0]} in {self._part.files[0]}: type --data.size {side} to resize all, and --data.resize "
                "squash to keep what the centre crop would cut off"
            )
        if not self._same(row, image):
            raise DataError(f"expected the image that {file} had before, got another: restore it, or start again")
        return image


def ordered(
    pool: ThreadPoolExecutor | None, make: Callable[[int], Pixels], items: Sequence[int], ahead: int
) -> Iterator[Pixels]:
    """`make` of each item in their order, at most `ahead` of them beforehand."""
    if pool is None:
        yield from map(make, items)
        return
    waiting: deque[Future[Pixels]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
