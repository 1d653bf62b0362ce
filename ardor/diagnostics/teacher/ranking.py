"""Several teachers side by side: what the literature says tells a good one, which is more than its accuracy.

A student learns little from a teacher whose soft labels are nearly uniform on the hardest images, and from one whom the
student's own adversarial examples do not fool at all or fool nearly always. No column decides: nothing is sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ardor.data.split import Split
from ardor.diagnostics.probe import STEPS
from ardor.diagnostics.record import record_of
from ardor.diagnostics.teacher.gate import LIMIT, examine_teacher
from ardor.diagnostics.teacher.result import TeacherReport
from ardor.evaluation.proportion import Proportion
from ardor.storage.config import as_text
from ardor.storage.markdown import inline
from ardor.types import Threat


def rank_teachers(
    teachers: Mapping[str, nn.Module],
    val: Split,
    threat: Threat,
    *,
    student: nn.Module | None = None,
    limit: int = LIMIT,
    batch: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, TeacherReport]:
    """Measure each teacher on the same images, as `examine_teacher` does, by the name it is given.

    Parameters
    ----------
    teachers
        Nets by name: a run's folder or a known name has a record.
    val
        The images.
    threat
        Threat of the training to come.
    student
        Trained net of the student's kind, for the transfer.
    limit, batch, seed
        As `examine_teacher` takes them.
    progress
        Called with each name before it is measured.

    Returns
    -------
    dict of str to TeacherReport

    Raises
    ------
    ArdorError
        As `examine_teacher`.
    """
    reports = {}
    for name, net in teachers.items():
        progress(name)
        options: dict[str, Any] = {"student": student, "limit": limit, "batch": batch, "seed": seed}
        reports[name] = examine_teacher(net, val, threat, record=record_of(name, net), **options)
    return reports


def ranking(reports: Mapping[str, TeacherReport]) -> str:
    """The reports as a Markdown table, in their order."""
    eps = as_text(next(iter(reports.values())).threat.eps)
    head = ("teacher", "clean", f"PGD-{STEPS}, eps {eps}", "entropy", "hardest quarter", "transfer", "gate")
    rows = [(inline(name), *_cells(report)) for name, report in reports.items()]
    lines = [head, ("---", *["--:"] * 5, ":--"), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_dict(report: TeacherReport) -> dict[str, Any]:
    """The measurements of a report, as JSON has them: shares in [0, 1], entropies in nats; None where not measured."""
    entropy = report.entropy
    return {
        "n": report.n,
        "clean": None if report.clean is None else report.clean.value,
        "robust": None if report.robust is None else report.robust.value,
        "eps": float(report.threat.eps),
        "entropy": None if entropy is None else entropy.clean,
        "entropy_hardest_quarter": None if entropy is None else entropy.hard,
        "transfer": None if report.transfer is None or not report.transfer.n else report.transfer.value,
        "refused": report.refused,
        "findings": [finding.name for finding in report.findings],
    }


def _cells(report: TeacherReport) -> list[str]:
    nats = ["-", "-"]
    if (entropy := report.entropy) is not None:
        values = (entropy.clean, entropy.hard)
        nats = ["-" if v is None else f"{v:.2f} ({100 * entropy.share(v):.0f} %)" for v in values]
    names = ", ".join(finding.name for finding in report.findings)
    gate = f"refused: {names}" if report.refused else f"passed: {names}" if names else "passed"
    return [_share(report.clean), _share(report.robust), *nats, _share(report.transfer), gate]


def _share(measured: Proportion | None) -> str:
    return "-" if measured is None or not measured.n else f"{measured} %"
