"""DataReport: what a data set contains, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ardor.evaluation.findings import Finding


class Seen(NamedTuple):
    """An image. mode: Pillow's name of the kind of its pixels, or an array's type and channels."""

    part: str
    label: int
    place: str
    hash: bytes
    size: tuple[int, int]
    mode: str


@dataclass
class DataReport:
    """What a data set contains, and what is wrong with it.

    Parameters
    ----------
    name
        Of the data set.
    classes
        Names of the classes.
    counts
        Part -> images of each class.
    sizes
        (width, height) in pixels -> images.
    modes
        Kind of pixels -> images.
    unreadable
        File or folder -> reason.
    skipped
        What training leaves out -> number of files.
    side, memory, present
        Side in pixels, bytes of all images at that side, and bytes of this machine's memory.
    findings
        Errors first: training refuses these data.
    """

    name: str
    classes: tuple[str, ...]
    counts: dict[str, list[int]] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    side: int = 0
    memory: int = 0
    present: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether training refuses these data."""
        return any(finding.severity == "error" for finding in self.findings)

    def text(self) -> str:
        """The figures, a line each, and then the findings with evidence and next step."""
        parts = ", ".join(f"{part} {sum(counts):,}" for part, counts in self.counts.items())
        lines = {
            self.name: f"{sum(self.sizes.values()):,} images of {len(self.classes):,} classes; {parts}",
            "Images of a class": ", ".join(f"{part} {_range(counts)}" for part, counts in self.counts.items()),
            "Sizes": _sizes(self.sizes),
            "Pixels": _counted(self.modes),
            "Left out": _counted(self.skipped),
            "Memory": f"{self.memory / 1e9:.2f} GB at {self.side} pixels, of {self.present / 1e9:.1f} GB",
        }
        figures = [f"{head}: {text}" for head, text in lines.items() if text]
        return "\n".join([*figures, *([f.text() for f in self.findings] or ["\nNo findings."])])

    def as_dict(self) -> dict[str, Any]:
        """The report in the types of JSON."""
        sizes = [{"width": w, "height": h, "images": n} for (w, h), n in sorted(self.sizes.items())]
        return {**vars(self), "sizes": sizes, "findings": [vars(finding) for finding in self.findings]}


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low:,}" if low == high else f"{low:,} to {high:,} (median {sorted(counts)[len(counts) // 2]:,})"


def _sizes(sizes: Mapping[tuple[int, int], int]) -> str:
    if len(sizes) < 2:
        return "".join(f"all {width} x {height}" for width, height in sizes)
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    small, large = (f"{width} x {height}" for width, height in (by_area[0], by_area[-1]))
    aspects = [width / height for width, height in sizes]
    return (
        f"{len(sizes):,} different, from {small} to {large}; width / height from {min(aspects):.2f} to "
        f"{max(aspects):.2f}"
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {n:,}" for key, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
