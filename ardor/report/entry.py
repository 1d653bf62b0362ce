"""What a page or a comparison is made of: nets with their reports, and images under attack."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ardor.config import number
from ardor.report.report import Report
from ardor.report.stats import Summary
from ardor.variance import GapPoint

if TYPE_CHECKING:
    from ardor.deployed import Deployed


@dataclass
class Entry:
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
    deployed: Deployed | None = None
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
