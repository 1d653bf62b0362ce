"""The content of a page or a comparison: nets with their reports, and images under attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ardor import models
from ardor.attacks.threat import BY_NAME
from ardor.deployment.variants.run_files import current
from ardor.evaluation.proportion import Summary
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import reports_of, shown_reports
from ardor.evaluation.variance import GapPoint, gaps_of
from ardor.storage.config import number
from ardor.storage.runs import Run
from ardor.types import Threat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ardor.deployment.variants import DeploymentReport


@dataclass
class PageEntry:
    """One net on the page.

    Parameters
    ----------
    name, role : as the page shows them.
    reports : one per seed, of the same suite and split.
    curve : records of metrics.jsonl of the first seed; may be empty.
    gaps : robust accuracy and variance gap over growing radii of the first seed; may be empty.
    others : the same in other norms than that of the reports, by the norm's name.
    deployed : comparison of the first seed's net with its exported files.
    stale : the reason for which an existing comparison is not shown.
    """

    name: str
    role: Literal["teacher", "student"]
    reports: list[Report]
    curve: list[dict[str, Any]] = field(default_factory=list)
    gaps: list[GapPoint] = field(default_factory=list)
    deployed: DeploymentReport | None = None
    stale: str = ""
    others: dict[str, list[GapPoint]] = field(default_factory=dict)

    @property
    def curves(self) -> dict[str, list[GapPoint]]:
        """Robust accuracy over the radius, by norm: that of the reports first."""
        return {self.norm: self.gaps, **self.others} if self.gaps else self.others

    @property
    def norm(self) -> str:
        """Norm of the evaluation."""
        return str(self.reports[0].threat["name"])

    @property
    def accuracies(self) -> dict[str, Summary]:
        """Every accuracy by name, over the seeds: clean, each attack, worst_case."""
        seeds = [report.figures() for report in self.reports]
        return {name: Summary(tuple(figures[name] for figures in seeds)) for name in seeds[0]}

    @property
    def parameters(self) -> int | None:
        """Number of learned parameters, where the report has it."""
        count = self.reports[0].model.get("parameters")
        return None if count is None else int(count)

    @property
    def radius(self) -> float:
        """Radius of the evaluation."""
        return float(number(self.reports[0].threat["eps"]))

    @property
    def has_variance(self) -> bool:
        """Whether the variance gap was measured: not for a net without `features`."""
        return bool(self.gaps) and not math.isnan(self.gaps[0].variance)

    @property
    def linf(self) -> float | None:
        """Radius of the evaluation; None for another norm than that of the trend over radii."""
        threat = self.reports[0].threat
        return float(number(threat["eps"])) if threat.get("name") == "Linf" else None


@dataclass
class Example:
    """One image under attack.

    Parameters
    ----------
    label : the true class.
    clean : (C, H, W) in [0, 1].
    adversarial : by net, the image attacked against it.
    says : by net, its classes for the clean and for the attacked image.
    """

    label: str
    clean: Tensor
    adversarial: dict[str, Tensor]
    says: dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Headline:
    """What a page claims first.

    Parameters
    ----------
    nets : by name of a net of the page, what it is, as words after the name: "trained as usual".
    text : the claim, in sentences that follow from paired comparisons.
    """

    nets: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class Section:
    """A section of a page in front of its results.

    Parameters
    ----------
    key, title : its id and its heading.
    text : the paragraph below the heading.
    figure, label : a function that draws, and what it shows, for who cannot see it.
    caption : below the figure.
    """

    key: str
    title: str
    text: str
    figure: Callable[[], Figure]
    label: str
    caption: str


def entry_of(
    run: Path,
    name: str | None = None,
    role: Literal["teacher", "student"] = "student",
    limit: int | None = None,
    trust_code: bool = False,
    report: Report | None = None,
    threats: Sequence[Threat] = (),
    progress: Callable[[float], None] | None = None,
) -> PageEntry:
    """The entry of a run.

    Parameters
    ----------
    run : the run's folder.
    name : default the folder's.
    limit : number of images for radii and variance gap; default as `variance.default_limit`.
    trust_code : as in `ardor.models.load`.
    report : of the run's net; default as `shown_reports` chooses it.
    threats : of other norms, in which the radius grows too.
    progress : receives the finished share of the radii.

    Raises
    ------
    ConfigError
        For a run without a report.
    """
    report = shown_reports([run], trust_code=trust_code)[0] if report is None else report
    deployed, stale = current(run, trust_code=trust_code)
    curves = {}
    every = {type(threat).__name__: threat for threat in (*threats, threat_of(report))}  # its own threat counts
    for place, (norm, threat) in enumerate(every.items()):
        share = None if progress is None else _part(progress, place, len(every))
        curves[norm] = gaps_of(run, threat, limit, trust_code, share)
    gaps = curves.pop(report.threat["name"])
    return PageEntry(name or run.name, role, [report], Run(run).metrics(), gaps, deployed, stale, curves)


def _part(progress: Callable[[float], None], place: int, parts: int) -> Callable[[float], None]:
    """The progress of one of several parts of a work."""
    return lambda share: progress((place + share) / parts)


def threats_of(runs: Iterable[Path], shown: Iterable[Report]) -> list[Threat]:
    """One threat for each norm in which a run was evaluated: that of the reports shown, else the largest."""
    every: dict[str, float] = {}
    for report in (report for run in runs for report in reports_of(run)[0]):
        every[report.threat["name"]] = max(every.get(report.threat["name"], 0), threat_of(report).eps)
    every |= {report.threat["name"]: threat_of(report).eps for report in shown}
    return [BY_NAME[name.lower()](eps) for name, eps in every.items()]


def teaches(run: Path, runs: Iterable[Path], trust_code: bool = False) -> bool:
    """Whether one of `runs` has this one's net as its teacher."""
    teachers = {Run(other).config.get("fingerprint", {}).get("teacher") for other in runs}
    return models.hash_of(models.load(run, trust_code=trust_code)) in teachers


def threat_of(report: Report) -> Threat:
    """The threat of a report."""
    return BY_NAME[report.threat["name"].lower()](number(report.threat["eps"]))
