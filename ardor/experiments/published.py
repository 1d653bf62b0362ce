"""The figures of the RSLAD paper (Zi et al., ICCV 2021), tables 2, 3 and 4: percent, on 10,000 test images."""

from __future__ import annotations

import csv
from importlib.resources import files

N = 10_000
"""Test images behind each figure; the number of seeds is not published."""


def published_rows(kind: str, data: str) -> dict[tuple[str, ...], dict[str, float]]:
    """(student, method, checkpoint) to figure to percent; empty where the paper has no such table."""
    if kind not in ("whitebox", "blackbox"):
        return {}
    text = files("ardor.experiments").joinpath("paper", f"{kind}.csv").read_text(encoding="utf-8")
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for line in csv.DictReader(text.splitlines()):
        if line.pop("dataset") == data:
            key = (line.pop("student"), line.pop("method"), line.pop("checkpoint", "best"))
            rows[key] = {name: float(value) for name, value in line.items()}
    return rows
