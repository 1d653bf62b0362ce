"""The difference of two nets in one figure over their seeds, with intervals, p and power."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from ardor.evaluation.comparison import significance
from ardor.evaluation.comparison.significance import LEVEL, Z80, Interval
from ardor.evaluation.proportion import Z95, Proportion, mean_sd

NORMAL = NormalDist()


@dataclass(frozen=True)
class Pair:
    """Counts of one seed: of n images, those that A has right, that only A has right, and that only B has right."""

    n: int
    right: int
    only_a: int
    only_b: int

    @property
    def a(self) -> Proportion:
        """The accuracy of A."""
        return Proportion(self.right, self.n)

    @property
    def b(self) -> Proportion:
        """The accuracy of B."""
        return Proportion(self.right - self.only_a + self.only_b, self.n)

    @property
    def value(self) -> float:
        """Accuracy of A less that of B."""
        return (self.only_a - self.only_b) / self.n

    @property
    def p(self) -> float:
        """McNemar's exact two-sided p."""
        return significance.mcnemar(self.only_a, self.only_b)


@dataclass(frozen=True)
class Difference:
    """One figure of A less that of B, as a share of n images.

    pairs: one per seed. squares: over images, the sum of the squared mean difference over seeds, each in [-1, 1].
    """

    pairs: tuple[Pair, ...]
    squares: float

    @property
    def n(self) -> int:
        """Images."""
        return self.pairs[0].n

    @property
    def value(self) -> float:
        """The mean over the seeds."""
        return mean_sd([pair.value for pair in self.pairs])[0]

    @property
    def sd(self) -> float:
        """The standard deviation over the seeds; NaN for one."""
        return mean_sd([pair.value for pair in self.pairs])[1]

    @property
    def images(self) -> Interval:
        """95 % over other test images, with these nets: Tango's for one seed, Bonett and Price's for several.

        Tango's is widened to 0 where McNemar's exact test, which is more cautious, shows no difference: the interval
        excludes 0 exactly where p is below 0.05.
        """
        if len(self.pairs) == 1:
            low, high = significance.tango(self.pairs[0].only_a, self.pairs[0].only_b, self.n)
            return (low, high) if self.pairs[0].p < LEVEL else (min(low, 0.0), max(high, 0.0))
        centre, error = self._adjusted
        return _around(centre, Z95 * error)

    @property
    def seeds(self) -> Interval | None:
        """95 % over other trainings, on these images: Student's; None for one seed."""
        k = len(self.pairs)
        if k == 1:
            return None
        return _around(self.value, significance.t_quantile(1 - LEVEL / 2, k - 1) * self._error_of_seeds)

    @property
    def both(self) -> Interval | None:
        """95 % over other trainings and other test images at once (Banerjee, 1960); None for one seed."""
        return _around(self._adjusted[0], self._half(LEVEL)) if len(self.pairs) > 1 else None

    @property
    def p(self) -> float:
        """McNemar's for one seed; for several the level at which `both` would start at 0."""
        if len(self.pairs) == 1:
            return self.pairs[0].p
        far = abs(self._adjusted[0])
        return 10 ** significance.root(lambda power: self._half(10**power) - far, -12.0, 0.0)

    @property
    def p_of_nets(self) -> float:
        """p over other test images alone, with these nets: McNemar's for one seed, Bonett and Price's for several."""
        if len(self.pairs) == 1:
            return self.pairs[0].p
        centre, error = self._adjusted
        return math.erfc(abs(centre) / error / math.sqrt(2))

    @property
    def shown(self) -> bool:
        """Whether p is below 0.05: of the nets for one seed, of the methods from three (then `both` leaves 0 out)."""
        return len(self.pairs) != 2 and self.p < LEVEL

    @property
    def least(self) -> float:
        """The smallest difference that is detected with 80 % power; NaN where none is."""
        pair, k = self.pairs[0], len(self.pairs)
        if k == 1:
            return significance.detectable(self.n, (pair.only_a + pair.only_b) / self.n)
        return math.hypot((Z95 + Z80) * self._adjusted[1], significance.t_shift(k - 1) * self._error_of_seeds)

    @property
    def _adjusted(self) -> tuple[float, float]:
        """Mean and standard error over images, with one won and one lost image added (Bonett and Price, 2012)."""
        n = self.n + 2
        centre = self.value * self.n / n
        return centre, math.sqrt(((self.squares + 2) / n - centre**2) / n)

    @property
    def _error_of_seeds(self) -> float:
        """Standard error over seeds. A difference is a whole number of images, so equal ones may hide that much SD."""
        return max(self.sd, 1 / (self.n * math.sqrt(12))) / math.sqrt(len(self.pairs))

    def _half(self, level: float) -> float:
        """Half of the interval over both: each error by its own quantile, then the root of the sum of their squares.

        The true level never exceeds the nominal one where both are normal, whichever of them dominates.
        """
        images = NORMAL.inv_cdf(1 - level / 2) * self._adjusted[1]
        return math.hypot(images, significance.t_quantile(level / 2, len(self.pairs) - 1) * self._error_of_seeds)


def _around(centre: float, half: float) -> Interval:
    """The interval of half width `half`, within [-1, 1]."""
    return max(centre - half, -1.0), min(centre + half, 1.0)
