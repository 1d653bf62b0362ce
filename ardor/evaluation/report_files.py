"""The file of a report: its name has suite, threat, checkpoint and images, so no evaluation overwrites another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from ardor import models
from ardor.attacks import Suite
from ardor.attacks.square import Square
from ardor.attacks.suites import SUITES
from ardor.attacks.transfer import Transfer
from ardor.errors import ConfigError, shown
from ardor.evaluation.protocol import WORTH, key_of, weakness
from ardor.evaluation.report import Report
from ardor.models.identity import is_of, same_function
from ardor.storage.config import as_text
from ardor.storage.files import shortened
from ardor.storage.imports import nearest
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


def place_of(report: Report, path: Path) -> Path:
    """`path`, or a file beside it where that has a fuller report of the same weights: a stronger suite, more images.

    The same before and after the report is saved.
    """
    try:
        kept = Report.load(path)
    except ConfigError:  # missing, or no report
        return path
    same = same_function(kept.model, report.model)
    if not same or weakness(report, {})[:WORTH] <= weakness(kept, {})[:WORTH]:
        return path
    words = (report.suite, str(report.threat["eps"]).replace("/", "_"), f"{report.n}images")
    return path.with_name(shortened(f"{'-'.join((path.stem, *words))}{path.suffix}"))


def reports_of(run: Path) -> tuple[list[Report], list[str]]:
    """The reports of a run by name, of any weights that it ever had, and an error for each that cannot be read."""
    reports, unread = [], []
    for path in sorted(Run(run).reports()):
        try:
            reports.append(Report.load(path))
        except ConfigError as error:
            unread.append(f"{path.name}: {error}")
    return reports, unread


def suite_option(suite: str | None) -> str:
    """The option of `ardor evaluate` for a suite, "" for None. Raises ConfigError where no suite has the name."""
    names = (*SUITES, "transfer", "deployed")
    if suite is not None and suite not in names:
        near = nearest(suite, names)
        raise ConfigError(f'expected a suite as one of {", ".join(names)}, got "{shown(suite)}"{near}: correct it')
    return "" if suite is None else f" --suite {suite}"


def shown_reports(runs: Sequence[Path], suite: str | None = None, trust_code: bool = False) -> list[Report]:
    """For each run the report to show, of its present weights: one protocol for as many runs as possible.

    Of several protocols that as many runs have, the first in the order of `weakness`: the strongest suite, then the
    most images. The time of a file plays no part.

    Parameters
    ----------
    runs : sequence of Path
        The runs' folders.
    suite : str or None
        None for any suite.
    trust_code : bool
        Run the code of the user's own that a run names.

    Raises
    ------
    ConfigError
        A run has no such report of its present weights, or a report cannot be read.
    """
    left = {run: _of_present_weights(run, suite, trust_code) for run in dict.fromkeys(runs)}
    chosen: dict[Path, Report] = {}
    while left:
        protocols: dict[str, dict[Path, Report]] = {}
        for run, reports in left.items():
            for report in reports:
                protocols.setdefault(key_of(report), {}).setdefault(run, report)

        def order(reports: dict[Path, Report]) -> tuple[Any, ...]:
            run, report = next(iter(reports.items()))
            return -len(reports), *weakness(report, Run(run).threat)

        best = min(protocols.values(), key=order)
        chosen |= best
        left = {run: reports for run, reports in left.items() if run not in best}
    return [chosen[run] for run in runs]


def _of_present_weights(run: Path, suite: str | None, trust_code: bool) -> list[Report]:
    """The reports of the best checkpoint as it is now, else of the averaged, else of the last."""
    others = 0
    for checkpoint in Run(run).checkpoints():
        paths = Run(run).reports(suite, checkpoint)
        reports = [Report.load(path) for path in paths]
        nets = [models.load(run, checkpoint=checkpoint, trust_code=trust_code)] if paths else []
        if present := [report for report in reports if is_of(report.model, *nets)]:
            return present
        others += len(reports)
    got = f"{others} of other weights" if others else "none"
    named = "" if suite is None else f" by the suite {suite}"
    raise ConfigError(
        f"expected a report{named} of the weights in {run}, got {got}: type ardor evaluate {quote(str(run))}"
        f"{suite_option(suite)}"
    )
