"""What a difference in counts is worth: McNemar's test, Tango's interval, Holm's correction, Student's t and power."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import scipy

from ardor.evaluation.proportion import Z95

Interval: TypeAlias = tuple[float, float]

LEVEL = 0.05
Z80 = 0.8416212335729143
LEAST_DISCORDANT = 6  # the exact test cannot reject with fewer: 2 / 2 ** 5 is above 0.05


def mcnemar(b: int, c: int) -> float:
    """McNemar's exact two-sided p for b and c discordant images (Psychometrika 1947): binomial."""
    return min(1.0, 2 * float(scipy.special.bdtr(min(b, c), b + c, 0.5)))


def tango(b: int, c: int, n: int, z: float = Z95) -> Interval:
    """Tango's score interval for (b - c) / n (Statistics in Medicine 1998), as sound at 0 discordant images."""

    def beyond(delta: float) -> float:
        """How far the count b - c lies above what `delta` makes likely, in standard errors; falls with delta."""
        half = ((2 * n - b + c) * delta - b - c) / 2
        root = math.sqrt(max(half * half + 2 * n * c * delta * (1 - delta), 0.0))
        lost = (root - half) / (2 * n)  # the likeliest share of images that only B has right
        error = math.sqrt(max(n * (2 * lost + delta * (1 - delta)), 1e-300))
        return (b - c - n * delta) / error

    value = (b - c) / n
    return root(lambda d: beyond(d) - z, -1.0, value), root(lambda d: beyond(d) + z, value, 1.0)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p adjusted for the number of them (Holm, Scandinavian Journal of Statistics 1979), in the order given."""
    done, floor = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        floor = max(floor, min(1.0, (len(p) - rank) * p[name]))
        done[name] = floor
    return {name: done[name] for name in p}


def p_text(p: float) -> str:
    """A p-value in [0, 1] with four decimals, so that all of a table have one precision."""
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def detectable(n: int, discordant: float) -> float:
    """The smallest difference that McNemar's test shows with 80 % power (Connor, Biometrics 1987); NaN if none.

    discordant: the share of n images on which the two nets differ.
    """

    def missing(delta: float) -> float:
        share = max(discordant, delta)
        return Z95 * math.sqrt(share) + Z80 * math.sqrt(share - delta * delta) - delta * math.sqrt(n)

    return root(missing, 0.0, 1.0) if n >= LEAST_DISCORDANT else math.nan


def t_quantile(p: float, df: int) -> float:
    """The t that Student's T of df degrees of freedom stays below with probability p."""
    return float(scipy.special.stdtrit(df, p))


def t_shift(df: int) -> float:
    """How many standard errors from 0 a mean must be for the t-test to show it four times in five."""
    return float(scipy.special.nctdtrinc(df, 0.2, t_quantile(1 - LEVEL / 2, df)))


def root(falls: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that falls from above 0 crosses it."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falls(middle) > 0 else (low, middle)
    return (low + high) / 2
