"""What a page or a comparison is made of: nets with their reports, and images under attack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ardor import models
from ardor.attacks.threat import BY_NAME
from ardor.deployment.variants.run_files import current
from ardor.evaluation.proportion import Summary
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import report_of
from ardor.evaluation.variance import GapPoint, gaps_of
from ardor.storage.config import number
from ardor.storage.runs import Run
from ardor.types import Threat

if TYPE_CHECKING:
    from ardor.deployment.variants import DeploymentReport


@dataclass
class PageEntry:
    """One net on the page.

    reports: one per seed, same suite and split. curve: the lines of metrics.jsonl of the first seed, may be empty.
    gaps: robust accuracy and variance gap over growing radii of the first seed, may be empty. deployed: the first
    seed's net beside its files for a device. stale: why a comparison that was made of them is not shown.
    """

    name: str
    role: Literal["teacher", "student"]
    reports: list[Report]
    curve: list[dict[str, Any]] = field(default_factory=list)
    gaps: list[GapPoint] = field(default_factory=list)
    deployed: DeploymentReport | None = None
    stale: str = ""

    @property
    def accuracies(self) -> dict[str, Summary]:
        """Every accuracy by name, over the seeds: clean, each attack, worst_case."""
        seeds = [report.figures() for report in self.reports]
        return {name: Summary(tuple(figures[name] for figures in seeds)) for name in seeds[0]}

    @property
    def parameters(self) -> int | None:
        """How many numbers the net has learned, where the report says so."""
        count = self.reports[0].model.get("parameters")
        return None if count is None else int(count)

    @property
    def linf(self) -> float | None:
        """The radius of the evaluation, where it is one of the norm that the trend over radii is measured in."""
        threat = self.reports[0].threat
        return float(number(threat["eps"])) if threat.get("name") == "Linf" else None


@dataclass
class Example:
    """One image under attack.

    label: the true class. clean: (C, H, W) in [0, 1]. By each net's name, adversarial: the image attacked against it,
    and says: the classes it names for the clean and for the attacked image.
    """

    label: str
    clean: Tensor
    adversarial: dict[str, Tensor]
    says: dict[str, tuple[str, str]]


def entry_of(
    run: Path, name: str | None = None, role: Literal["teacher", "student"] = "student", limit: int = 1000
) -> PageEntry:
    """A run that `ardor evaluate` judged. limit: images for radii and variance gap. Raises ConfigError."""
    report = report_of(run)
    deployed, stale = current(run)
    gaps = gaps_of(run, threat_of(report), limit)
    return PageEntry(name or run.name, role, [report], Run(run).metrics(), gaps, deployed, stale)


def teaches(run: Path, runs: Iterable[Path]) -> bool:
    """Whether one of `runs` was taught by this one."""
    taught = {Run(other).config.get("fingerprint", {}).get("teacher") for other in runs}
    return models.hash_of(models.load(run)) in taught


def threat_of(report: Report) -> Threat:
    """The threat that a report was made under."""
    return BY_NAME[report.threat["name"].lower()](number(report.threat["eps"]))
