"""Where a report is kept: its name says what was judged, so that another evaluation never writes over it."""

from __future__ import annotations

from pathlib import Path

from ardor.attacks import Suite
from ardor.attacks.square import Square
from ardor.attacks.transfer import Transfer
from ardor.errors import ConfigError
from ardor.evaluation.report import Report
from ardor.storage.config import as_text
from ardor.storage.runs import Run

FULL = Square().queries
"""Of Square as its authors have it; a report of fewer has another name, and never takes the place of a stronger one."""


def word_of(file: Path) -> str:
    """What names call a file: best for best.safetensors, a run's checkpoint, best_int8_onnx for best-int8.onnx."""
    return file.stem if file.suffix == ".safetensors" else "".join(c if c.isalnum() else "_" for c in file.name)


def default_out(
    run: Path | None,
    suite: Suite,
    checkpoint: str,
    data: str | None = None,
    part: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> Path:
    """report-SUITE-NORM-EPS-CHECKPOINT.json in the run's folder, or in this one; other images, another name."""
    words = [suite.name, type(suite.threat).__name__.lower(), as_text(suite.threat.eps).replace("/", "_")]
    words += [f"from_{attack.weights[:6]}" for attack in suite.attacks.values() if isinstance(attack, Transfer)][:1]
    words += [f"{a.queries}queries" for a in suite.attacks.values() if isinstance(a, Square) and a.queries != FULL][:1]
    words += [] if run is None else [checkpoint]
    words += [] if data is None or run is None else ["".join(c if c.isalnum() else "_" for c in data)]
    words += [] if part == "test" else [part]
    words += [] if limit is None else [f"limit{limit}"]
    words += [] if seed == 0 else [f"seed{seed}"]
    return Run(run or Path()).report(words)


def reports_of(run: Path) -> tuple[list[Report], list[str]]:
    """The reports of a run by name, and why one cannot be read; they may be of other weights than the run's now."""
    reports, unread = [], []
    for path in sorted(Run(run).reports()):
        try:
            reports.append(Report.load(path))
        except ConfigError as error:
            unread.append(f"{path.name}: {error}")
    return reports, unread


def report_of(run: Path) -> Report:
    """The run's newest report, of the best checkpoint if there is one, and of the files for a device only where there
    is no other: those have a section of their own. Raises ConfigError where it was not judged."""
    paths = Run(run).reports()
    if not paths:
        raise ConfigError(f"expected a judged run, got {run} without a report: type ardor evaluate {run}")
    return Report.load(paths[0])
