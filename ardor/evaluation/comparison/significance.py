"""What a difference in counts is worth: McNemar's test, Tango's interval, Holm's correction, Student's t and power."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import TypeAlias

from ardor.evaluation.proportion import Z95

Interval: TypeAlias = tuple[float, float]

LEVEL = 0.05
Z80 = 0.8416212335729143
LEAST_DISCORDANT = 6  # the exact test cannot reject with fewer: 2 / 2 ** 5 is above 0.05


def mcnemar(b: int, c: int) -> float:
    """McNemar's exact two-sided p for b and c discordant images (Psychometrika 1947): binomial, in integers."""
    n, term, total = b + c, 1, 0
    for i in range(min(b, c) + 1):
        total += term
        term = term * (n - i) // (i + 1)
    return min(1.0, float(2 * total / (1 << n)))


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


def detectable(n: int, discordant: float) -> float:
    """The smallest difference that McNemar's test shows with 80 % power (Connor, Biometrics 1987); NaN if none.

    discordant: the share of n images on which the two nets differ.
    """

    def missing(delta: float) -> float:
        share = max(discordant, delta)
        return Z95 * math.sqrt(share) + Z80 * math.sqrt(share - delta * delta) - delta * math.sqrt(n)

    return root(missing, 0.0, 1.0) if n >= LEAST_DISCORDANT else math.nan


def t_cdf(t: float, df: int, shift: float = 0.0) -> float:
    """P(T <= t) for Student's T of df degrees of freedom, noncentral by `shift`; to 1e-6 within 30 of 0."""
    return math.fsum(weight * math.erfc((shift - t * s) / math.sqrt(2)) / 2 for s, weight in _scales(df))


@cache
def t_quantile(p: float, df: int) -> float:
    """The t that Student's T stays below with probability p, for p from 0.5."""
    return root(lambda t: p - t_cdf(t, df), 0.0, 1000.0)


def t_beyond(p: float, df: int) -> float:
    """The t that |T| of Student's T exceeds with probability p; fast, for a search over many p."""
    return root(lambda t: t_tails(t, df) - p, 0.0, 1e7)


def t_tails(t: float, df: int) -> float:
    """P(|T| > t) for Student's T: the regularised incomplete beta function at df / (df + t t)."""
    x, a, b = df / (df + t * t), df / 2, 0.5
    if x in (0.0, 1.0):
        return x
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x > (a + 1) / (a + b + 2):  # where the fraction of the complement converges faster
        return 1 - front * _fraction(1 - x, b, a) / b
    return front * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of the incomplete beta function (Abramowitz and Stegun 26.5.8), by Lentz's method."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or 1e-300)
    value = d
    for m in range(1, 200):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = value
        for term in (even, odd):
            d = 1 / (1 + term * d or 1e-300)
            c = 1 + term / c or 1e-300
            value *= c * d
        if abs(value - before) < 1e-15 * abs(value):
            break
    return value


@cache
def t_shift(df: int) -> float:
    """How many standard errors from 0 a mean must be for the t-test to show it four times in five."""
    t = t_quantile(1 - LEVEL / 2, df)
    return root(lambda shift: t_cdf(t, df, shift) - 0.2, 0.0, 100.0)


@cache
def _scales(df: int) -> list[tuple[float, float]]:
    """Simpson's points and weights for an SD's distribution in units of the true one: chi over root df."""
    low, high, parts = max(0.0, 1 - 8 / math.sqrt(df)), 1 + 8 / math.sqrt(df), 2000
    constant = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2)

    def density(s: float) -> float:
        return math.exp(constant - df * s * s / 2 + (df - 1) * math.log(s)) if s else (df == 1) * math.exp(constant)

    step = (high - low) / parts
    factors = [1, *([4, 2] * (parts // 2))[:-1], 1]
    return [(low + i * step, f * step / 3 * density(low + i * step)) for i, f in enumerate(factors)]


def root(falls: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that falls from above 0 crosses it."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falls(middle) > 0 else (low, middle)
    return (low + high) / 2
