"""Judged runs, as the page shows them: their report, their curve, and the variance gap of their best checkpoint."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from ardor import data, models
from ardor.config import number, read_yaml
from ardor.data.split import Split
from ardor.deployed.runs import current
from ardor.errors import ConfigError
from ardor.files import write_atomic
from ardor.report.entry import Entry
from ardor.report.report import Report
from ardor.threat import BY_NAME, Linf
from ardor.types import Threat
from ardor.variance import GapPoint, variance_gap


def entry_of(
    run: Path, name: str | None = None, role: Literal["teacher", "student"] = "student", limit: int = 1000
) -> Entry:
    """A run that `ardor evaluate` judged. limit: images for radii and variance gap. Raises ConfigError."""
    report = report_of(run)
    deployed, stale = current(run)
    gaps = gaps_of(run, threat_of(report), limit)
    return Entry(name or run.name, role, [report], curve_of(run), gaps, deployed, stale)


def report_of(run: Path) -> Report:
    """The run's newest report, of the best checkpoint if there is one, and of the files for a device only where there
    is no other: those have a section of their own. Raises ConfigError where it was not judged."""

    def order(path: Path) -> tuple[bool, bool, float]:
        return path.stem.startswith("report-deployed-"), not path.stem.endswith("-best"), -path.stat().st_mtime

    paths = sorted(run.glob("report-*.json"), key=order)
    if not paths:
        raise ConfigError(f"expected a judged run, got {run} without a report: type ardor evaluate {run}")
    return Report.load(paths[0])


def teaches(run: Path, runs: Iterable[Path]) -> bool:
    """Whether one of `runs` was taught by this one."""
    taught = {read_yaml(other / "config.yaml").get("fingerprint", {}).get("teacher") for other in runs}
    return models.hash_of(models.load(run)) in taught


def threat_of(report: Report) -> Threat:
    """The threat that a report was made under."""
    return BY_NAME[report.threat["name"].lower()](number(report.threat["eps"]))


def split_of(run: Path) -> Split:
    """The test part of the data that a run was trained on."""
    return data.load_test(**read_yaml(run / "config.yaml")["data"])


def curve_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where it has none."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):  # a kill may have cut the last one short
            found.append(json.loads(line))
    return found


def gaps_of(run: Path, threat: Threat, limit: int) -> list[GapPoint]:
    """Variance gap and robust accuracy at nine radii from 0 to twice eps, kept in the run's folder.

    It takes a while, so a second call reads what the first kept.

    Only for Linf, and for nets with `features`; else nothing.
    """
    net = models.load(run)
    if not (isinstance(threat, Linf) and hasattr(net, "features")):
        return []
    split = split_of(run).limit(limit)
    radii = tuple(threat.eps * k / 4 for k in range(9))
    key = {"model": models.hash_of(net), "data": split.hash, "radii": list(radii)}
    path = run / "variance_gap.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # not there, or damaged: measured again
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return [GapPoint(**point) for point in kept["points"]]
    points = variance_gap(net, split, radii)
    text = json.dumps({"key": key, "points": [vars(point) for point in points]}, indent=1)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return points
