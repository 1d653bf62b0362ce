"""The file of a report: its name has suite, threat, checkpoint and images, so no evaluation overwrites another."""

from __future__ import annotations

import re
from pathlib import Path

from ardor.attacks import Suite
from ardor.attacks.square import Square
from ardor.attacks.transfer import Transfer
from ardor.errors import ConfigError
from ardor.evaluation.report import Report
from ardor.storage.config import as_text
from ardor.storage.runs import Run

FULL = Square().queries
"""Square's default; a report with fewer has another name and never replaces a stronger one."""


def word_of(file: Path) -> str:
    """A file in the name of a report: best for best.safetensors, best_int8_onnx for best-int8.onnx."""
    return file.stem if file.suffix == ".safetensors" else re.sub(r"\W", "_", file.name)


def default_out(
    run: Path | None,
    suite: Suite,
    checkpoint: str,
    data: str | None = None,
    part: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> Path:
    """The file of a report: report-SUITE-NORM-EPS-CHECKPOINT.json, in the run's folder or this one.

    Parameters
    ----------
    run : Path or None
        The run's folder; None for the working directory.
    suite : Suite
        The attacks; a transfer attack's source and fewer `queries` are part of the name.
    checkpoint : str
        Of the run.
    data : str or None
        The data set, if it is another than the run's.
    part : str
        Of the data.
    limit : int or None
        Images, if not all.
    seed : int
        Of the attacks.
    """
    attacks = suite.attacks.values()
    words = [suite.name, type(suite.threat).__name__.lower(), as_text(suite.threat.eps).replace("/", "_")]
    words += [f"from_{attack.weights[:6]}" for attack in attacks if isinstance(attack, Transfer)][:1]
    words += [f"{a.queries}queries" for a in attacks if isinstance(a, Square) and a.queries != FULL][:1]
    words += [] if run is None else [checkpoint]
    words += [] if run is None or data is None else [re.sub(r"\W", "_", data)]
    words += [] if part == "test" else [part]
    words += [] if limit is None else [f"limit{limit}"]
    words += [] if seed == 0 else [f"seed{seed}"]
    return Run(run or Path()).report(words)


def reports_of(run: Path) -> tuple[list[Report], list[str]]:
    """The reports of a run by name, of any weights that it ever had, and an error for each that cannot be read."""
    reports, unread = [], []
    for path in sorted(Run(run).reports()):
        try:
            reports.append(Report.load(path))
        except ConfigError as error:
            unread.append(f"{path.name}: {error}")
    return reports, unread


def report_of(run: Path) -> Report:
    """The newest report of a run, of the best checkpoint if there is one; of exported files only without any other.

    Raises ConfigError where the run has no report.
    """
    paths = Run(run).reports()
    if not paths:
        raise ConfigError(f"expected a judged run, got {run} without a report: type ardor evaluate {run}")
    return Report.load(paths[0])
