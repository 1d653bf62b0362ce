"""check_report: a report against bounds, for a gate in continuous integration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from ardor import models
from ardor.errors import ConfigError
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.protocol import same_threat, threat_text, weakness
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import suite_option
from ardor.models.identity import is_of
from ardor.storage.config import as_text, describe
from ardor.storage.runs import Run, mapping
from ardor.types import Threat

LEAST = {
    "robust": "accuracy under every attack of the suite",
    "clean": "accuracy without an attack",
    "class": "accuracy of the worst class under every attack",
}
"""What a bound may be on."""


@dataclass(frozen=True)
class Bound:
    """A measured accuracy beside the least that it may be.

    Attributes
    ----------
    name : str
        One of `LEAST`; of a class with its name.
    least : float
        The bound, in [0, 1].
    measured : Proportion
        The accuracy, with its interval.
    confidence : bool
        Whether the lower end of the interval must reach the bound, instead of the value.
    """

    name: str
    least: float
    measured: Proportion
    confidence: bool = False

    @property
    def passed(self) -> bool:
        """Whether the accuracy is at least the bound."""
        return (self.measured.interval[0] if self.confidence else self.measured.value) >= self.least

    def __str__(self) -> str:
        low, high = (100 * end for end in self.measured.interval)
        of = "lower end of the interval" if self.confidence else "value"
        return (
            f"{'passed' if self.passed else 'failed'}: {self.name} {100 * self.measured.value:.2f} % "
            f"({low:.2f} .. {high:.2f}, {self.measured.k} of {self.measured.n}), at least {100 * self.least:.2f} % "
            f"by the {of}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The values by name."""
        p = self.measured
        return {
            "name": self.name, "least": self.least, "accuracy": p.value, "wilson95": p.interval, "k": p.k, "n": p.n,
            "by": "interval" if self.confidence else "value", "passed": self.passed,
        }  # fmt: skip


def check_report(report: Report, least: dict[str, float], *, confidence: bool = False) -> list[Bound]:
    """The bounds on a report.

    Parameters
    ----------
    report : Report
        The report.
    least : dict of str to float
        Key of `LEAST` -> the least accuracy, in [0, 1].
    confidence : bool
        Compare the lower end of each 95 % interval instead of the value.

    Raises
    ------
    ConfigError
        For no bound, for one outside [0, 1], and for a report with an error among its findings.
    """
    if not least:
        raise ConfigError("expected a bound, got none: type for example --min_robust 0.5")
    for name, value in least.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"expected --min_{name} as a share in [0, 1], got {value:g}: type for example 0.5")
    if errors := [finding for finding in report.findings if finding.severity == "error"]:
        raise ConfigError(
            f"expected a report that can be believed, got the finding {errors[0].name}: {errors[0].evidence}; "
            f"{errors[0].next}"
        )
    worst, share = min(report.per_class().items(), key=lambda item: item[1].value)
    measured = {
        "robust": ("robust", report.worst_case),
        "clean": ("clean", report.clean),
        "class": (f"class {worst}", share),
    }
    return [Bound(measured[name][0], value, measured[name][1], confidence) for name, value in least.items()]


def report_to_check(
    run: Path, threat: Threat, suite: str | None = None, checkpoint: str = "best", *, trust_code: bool = False
) -> Report:
    """The report of a checkpoint as it is now, on the test images of its run's data, under this threat.

    Of several the strongest suite, then the most images; reports of other weights, images or threats do not count.

    Raises
    ------
    ConfigError
        Where there is none, with the evaluation to type; for a damaged report; and as `models.load`.
    """
    net, folder = models.load(run, checkpoint=checkpoint, trust_code=trust_code), Run(run)
    source = mapping(folder.config.get("data")).get("name")
    reports = [Report.load(path) for path in folder.reports(suite, checkpoint)]
    wanted = describe(threat)

    def is_on_test(report: Report) -> bool:
        return report.data["part"] == "test" and mapping(report.data.get("source")).get("name") == source

    why = f"{len(reports)} of other weights" if reports else "none"
    if reports := [report for report in reports if is_of(report.model, net)]:
        why = f"{len(reports)} on other images"
    if reports := [report for report in reports if is_on_test(report)]:
        why = f"{len(reports)} under another threat than {threat_text(wanted)}"
    reports = [report for report in reports if same_threat(report.threat, wanted)]
    if not reports:
        option = suite_option(suite)
        option += "" if checkpoint == "best" else f" --checkpoint {checkpoint}"
        if not same_threat(folder.threat, wanted):
            option += f" --threat {wanted['name'].lower()} --threat.eps {as_text(threat.eps)}"
        of = "a report" if suite is None else f"a report by the suite {suite}"
        raise ConfigError(
            f"expected {of} of the checkpoint {checkpoint} in {run} as it is now, got {why}: type ardor evaluate "
            f"{quote(str(run))}{option}"
        )
    return min(reports, key=lambda report: weakness(report, folder.threat))
