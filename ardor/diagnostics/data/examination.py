"""examine_data: damage, sizes, kinds of pixels, classes, exact duplicates and memory of a data set.

Each finding has a row in docs/reference/data.md.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ardor import data
from ardor.data.arrays import physical_memory
from ardor.data.folder import MEMORY_SHARE
from ardor.data.images import hashes_of
from ardor.data.split import Split
from ardor.diagnostics.data.files import Listing, Progress, decoded, listing
from ardor.diagnostics.data.report import DataReport, Seen
from ardor.errors import shown
from ardor.evaluation.checks.data import of_data
from ardor.evaluation.findings import SEVERITIES, Finding, present
from ardor.storage.arguments import typed

CHUNK = 256
"""Images of a store that are read at once."""
SIDE = 256
"""Side in pixels for which memory is computed where images have many sizes and none is typed."""

UNEVEN = 10
"""imbalance: the largest class of train has this many times the images of the smallest."""


FIRST = 5
"""Names that a finding lists."""


@typed
def examine_data(
    name: str,
    *,
    root: str = "data",
    download: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> DataReport:
    """Look over a data set: damage, sizes, kinds of pixels, classes, exact duplicates, memory.

    The files of a folder are decoded one by one, whatever is wrong with some; other data are read as training reads
    them.

    Parameters
    ----------
    name, root, download, options
        As `ardor.data.load` takes them.
    workers
        Threads that decode files; 0 is one per processor.
    progress
        Called while files are decoded.

    Returns
    -------
    DataReport
        With findings; those of severity "error" are what training refuses.

    Raises
    ------
    ConfigError
        For a name or option that does not exist.
    DataError
        For data that are absent or of another form: a folder without classes, an array of another shape.
    """
    read = data.reader(name)
    if name.startswith("folder:"):
        return _of_folder(name, options.get("size"), workers or os.cpu_count() or 1, progress)
    return _of_parts(name, read(name, Path(root), download, **options), progress)


def _of_folder(name: str, side: int | None, workers: int, progress: Progress | None) -> DataReport:
    """The report on a folder of images."""
    found = listing(Path(name.removeprefix("folder:")).expanduser())
    classes = tuple(sorted({name for of in found.files.values() for name in of}))
    seen: list[Seen] = []
    unreadable = dict(found.unreadable)
    for file, image in decoded(found.files, classes, workers, progress):
        if isinstance(image, Seen):
            seen.append(image)
        else:
            unreadable[str(file)] = image
    report = _report(name, classes, list(found.files), seen)
    report.side = side or (max(next(iter(report.sizes))) if len(report.sizes) == 1 else SIDE)
    report.memory = len(seen) * 3 * report.side**2
    report.unreadable, report.skipped = unreadable, found.skipped
    figures = present(None if side else _uneven(report), _prepare(report))
    return _with(report, [*_of_files(found, unreadable), *_of_images(report, seen), *figures])


def _of_parts(name: str, parts: Mapping[str, Split], progress: Progress | None = None) -> DataReport:
    """The report on data that training has read. Raises DataError for an image of a store that was altered."""
    test = parts["test"]
    _read_stored([split for split in parts.values() if not isinstance(split.images, Tensor)], progress)
    seen = [image for part, split in parts.items() for image in _rows(part, split)]
    report = _report(name, test.class_names, list(parts), seen)
    report.side = max(test.shape[1:])
    report.memory = sum(math.prod(split.images.shape) * split.images.dtype.itemsize for split in parts.values())
    images = [finding for split in parts.values() for finding in of_data(split)]
    return _with(report, [*images, *_of_images(report, seen)])


def _read_stored(splits: Sequence[Split], progress: Progress | None) -> None:
    """Read every image that is not in memory, which a store compares with its hash."""
    done, todo = 0, sum(map(len, splits))
    for split in splits:
        for rows in torch.arange(len(split)).split(CHUNK):
            split.images[rows]
            done += len(rows)
            if progress is not None:
                progress(done, todo)


def _rows(part: str, split: Split) -> Iterator[Seen]:
    channels, height, width = split.shape
    mode = f"{str(split.images.dtype).removeprefix('torch.')} of {channels} channel{'s' * (channels > 1)}"
    for row, (label, digest) in enumerate(zip(split.labels.tolist(), hashes_of(split.images), strict=True)):
        yield Seen(part, label, f"{part} {row}", digest.tobytes(), (width, height), mode)


def _report(name: str, classes: Sequence[str], parts: Sequence[str], seen: Sequence[Seen]) -> DataReport:
    """The figures on images."""
    counts = {part: [0] * len(classes) for part in parts}
    for image in seen:
        counts[image.part][image.label] += 1
    sizes, modes = Counter(image.size for image in seen), Counter(image.mode for image in seen)
    return DataReport(name, tuple(classes), counts, sizes, modes, present=physical_memory())


def _with(report: DataReport, findings: Iterable[Finding]) -> DataReport:
    """The report with its findings, the worst first, each once."""
    unique = dict.fromkeys(findings)
    report.findings = sorted(unique, key=lambda finding: -SEVERITIES.index(finding.severity))
    return report


def _of_files(found: Listing, unreadable: Mapping[str, str]) -> list[Finding]:
    """Findings on how the files lie."""
    return [*present(_unreadable(unreadable), _no_test(found)), *_classes(found), *present(_left_out(found))]


def _unreadable(reasons: Mapping[str, str]) -> Finding | None:
    listed = "; ".join(f"{shown(file, 200)} ({shown(reason, 120)})" for file, reason in list(reasons.items())[:FIRST])
    evidence = f"{len(reasons):,} do not read: {listed}{'; ...' if len(reasons) > FIRST else ''}"
    return Finding("unreadable", "error", evidence, "repair or remove them") if reasons else None


def _no_test(found: Listing) -> Finding | None:
    missing = [part for part in ("train", "test") if part not in found.files]
    evidence = f"there are the parts {' and '.join(found.files)} alone"
    advice = f"add {' and '.join(missing)}, or put all classes into one folder, which is divided by file name"
    return Finding("missing_part", "error", evidence, advice) if missing else None


def _classes(found: Listing) -> Iterator[Finding]:
    """Classes without images, or without a folder in one of the parts."""
    everywhere = {name for of in found.files.values() for name in of}
    for part, of in found.files.items():
        if absent := sorted(everywhere - set(of)):
            evidence = f"{part} has no folder for {len(absent):,} of {len(everywhere):,} classes: {_first(absent)}"
            yield Finding("classes_differ", "error", evidence, "add or remove these folders, in all parts alike")
        if empty := [name for name, images in of.items() if not images]:
            evidence = f"{part} has no image of {len(empty):,} of {len(everywhere):,} classes: {_first(empty)}"
            yield Finding("empty_class", "error", evidence, "add images, or remove the class from all parts")


def _left_out(found: Listing) -> Finding | None:
    """Images that may be thought to take part; hidden and other files are figures alone."""
    missed = {key: n for key, n in found.skipped.items() if key.startswith(("images", "folders"))}
    evidence = f"left out: {', '.join(f'{n:,} {key}' for key, n in missed.items())}"
    advice = "images are read from PATH/train/CLASS, PATH/val/CLASS and PATH/test/CLASS alone, or from PATH/CLASS"
    return Finding("left_out", "warning", evidence, advice) if missed else None


def _of_images(report: DataReport, seen: Sequence[Seen]) -> list[Finding]:
    """Findings on what the images show."""
    groups: dict[bytes, list[Seen]] = defaultdict(list)
    for image in seen:
        groups[image.hash].append(image)
    equal = [group for group in groups.values() if len(group) > 1]
    return present(_labels_differ(report, equal), _leak(report, equal), _repeated(equal), _imbalance(report))


def _labels_differ(report: DataReport, equal: Sequence[Sequence[Seen]]) -> Finding | None:
    odd = [next((a, b) for a, b in pairwise(group) if a.label != b.label) for group in equal if len(_labels(group)) > 1]
    pairs = [f"{_as(a, report)} and {_as(b, report)}" for a, b in odd]
    evidence = f"{len(odd):,} images are of several classes, pixel for pixel: {_first(pairs)}"
    return (
        Finding("labels_differ", "warning", evidence, "keep one label of each, or leave the images out")
        if odd
        else None
    )


def _labels(group: Sequence[Seen]) -> set[int]:
    return {image.label for image in group}


def _as(image: Seen, report: DataReport) -> str:
    return f"{shown(image.place, 200)} ({shown(report.classes[image.label])})"


def _leak(report: DataReport, equal: Sequence[Sequence[Seen]]) -> Finding | None:
    """Images of test that are in train or val: their accuracy is no evidence."""
    pairs = []
    for group in equal:
        other = next((image for image in group if image.part != "test"), None)
        pairs += [(image, other) for image in group if image.part == "test" and other is not None]
    listed = _first([f"{shown(a.place, 200)} = {shown(b.place, 200)}" for a, b in pairs])
    of = sum(report.counts.get("test", [0]))
    evidence = f"{len(pairs):,} of {of:,} test images are in train or val too, pixel for pixel: {listed}"
    return Finding("leak", "warning", evidence, "remove them from train, or from test") if pairs else None


def _repeated(equal: Sequence[Sequence[Seen]]) -> Finding | None:
    """Images that occur again in their own part."""
    again, example = Counter[str](), ""
    for group in equal:
        for part, n in Counter(image.part for image in group).items():
            if n > 1:
                again[part] += n - 1
                example = example or " = ".join(shown(i.place, 200) for i in group if i.part == part)
    evidence = f"images that occur again, pixel for pixel: {', '.join(f'{part} {n:,}' for part, n in again.items())}"
    advice = "keep one of each: repeated images weigh more, and val is cut from train"
    return Finding("repeated", "warning", f"{evidence}; {example[:400]}", advice) if again else None


def _imbalance(report: DataReport) -> Finding | None:
    counts = report.counts.get("train", [])
    low, high = min(counts, default=0), max(counts, default=0)
    if low == 0 or high < UNEVEN * low:
        return None
    names = [report.classes[counts.index(n)] for n in (low, high)]
    evidence = f"train has {low:,} images of {shown(names[0])} and {high:,} of {shown(names[1])}"
    advice = "look at the accuracy of each class: that of all images is the large classes'"
    return Finding("imbalance", "note", evidence, advice)


def _uneven(report: DataReport) -> Finding | None:
    evidence = f"images have {len(report.sizes):,} sizes, and training needs one"
    advice = (
        "type --data.size 224, to which the largest square in each centre is resized, or all with --data.resize squash"
    )
    return Finding("uneven", "note", evidence, advice) if len(report.sizes) > 1 else None


def _prepare(report: DataReport) -> Finding | None:
    if report.memory <= report.present // MEMORY_SHARE:
        return None
    name, side = report.name, report.side
    evidence = f"at {side} pixels the images take {report.memory / 1e9:.1f} of {report.present / 1e9:.1f} GB"
    advice = f"not to decode more than a quarter each epoch, type ardor data prepare {name} --size {side} --out STORE"
    return Finding("memory", "note", evidence, advice)


def _first(names: Sequence[str]) -> str:
    return ", ".join(shown(name, 400) for name in names[:FIRST]) + (", ..." if len(names) > FIRST else "")
