"""A proportion with its interval, and mean and SD over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import scipy

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Proportion:
    """k of n, with Wilson's 95 % interval (Wilson, JASA 1927), which stays inside [0, 1] at 0 and at n."""

    k: int
    n: int

    @property
    def value(self) -> float:
        """k / n; NaN where n is 0."""
        return self.k / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper 95 % bound."""
        return wilson(self.k, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True)
class Summary:
    """One accuracy of one net, a proportion per seed."""

    seeds: tuple[Proportion, ...]

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return mean_sd([p.value for p in self.seeds])[0]

    @property
    def sd(self) -> float:
        """The sample standard deviation over the seeds; NaN for one seed."""
        return mean_sd([p.value for p in self.seeds])[1]

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval for one seed, mean - SD to mean + SD for several."""
        if len(self.seeds) == 1:
            return self.seeds[0].interval
        return self.value - self.sd, self.value + self.sd

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}" + ("" if len(self.seeds) == 1 else f" ± {100 * self.sd:.1f}")


def wilson(k: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval for k successes in n trials; (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    low, high = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    return float(low), float(high)


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); the SD of one value is NaN."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
