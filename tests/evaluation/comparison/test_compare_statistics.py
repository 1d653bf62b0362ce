"""The statistics of paired comparison against independent ones."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import optimize, stats

from ardor.evaluation.comparison.difference import Difference, Pair
from ardor.evaluation.comparison.significance import detectable, holm, mcnemar, t_quantile, t_shift, tango

# statistics


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 6), (5, 5), (1, 7), (6, 16), (100, 140), (7, 600)])
def test_mcnemar_is_the_binomial_test(b, c):
    expected = min(1.0, 2 * sum(math.comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c))
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_mcnemar_equals_published_values():
    # Fagerland, Lydersen and Laake, BMC Medical Research Methodology 2013: 1 and 7, 6 and 16 discordant
    assert (round(mcnemar(1, 7), 3), round(mcnemar(6, 16), 3)) == (0.070, 0.052)


def test_mcnemar_of_ten_thousand_discordant_images():
    tail = sum(math.comb(10000, i) for i in range(4901))
    assert mcnemar(4900, 5100) == pytest.approx(2 * tail / 2**10000, rel=1e-9)
    assert mcnemar(5000, 5000) == 1
    assert mcnemar(0, 10000) == 0


@pytest.mark.parametrize(
    ("b", "c", "n", "z", "low", "high"),
    [
        # Fagerland, Lydersen and Laake, Statistics in Medicine 2014: Bentur's and Cavo's tables
        (1, 7, 21, 1.959964, -0.517, -0.026),
        (6, 16, 161, 1.959964, -0.124, -0.005),
        (28, 25, 618, 1.644854, -0.0148, 0.0247),  # R's PropCIs, at 90 %
    ],
)
def test_tango_equals_published_values(b, c, n, z, low, high):
    places = len(str(low).partition(".")[2])
    assert tango(b, c, n, z) == pytest.approx((low, high), abs=0.5 * 10**-places)


def likely(b, c, n, delta):
    """Tango's statistic from a numerical maximum of the likelihood, squared."""
    low, high = max(0.0, -delta), (1 - delta) / 2

    def unlikely(q):
        cells = ((b, q + delta), (c, q), (n - b - c, 1 - 2 * q - delta))
        return -sum(k * math.log(max(p, 1e-300)) for k, p in cells if k)

    q = optimize.minimize_scalar(unlikely, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (b - c - n * delta) ** 2 / (n * (2 * q + delta - delta * delta))


@pytest.mark.parametrize(("b", "c", "n"), [(3, 1, 20), (0, 4, 50), (9, 9, 40), (30, 12, 449), (2, 0, 10)])
def test_tango_inverts_the_score_test(b, c, n):
    for bound in tango(b, c, n):
        assert likely(b, c, n, bound) == pytest.approx(1.959964**2, rel=1e-3)


def test_tango_at_the_edges():
    z2 = 1.959964**2
    assert tango(0, 0, 100) == pytest.approx((-z2 / (100 + z2), z2 / (100 + z2)))
    assert tango(5, 0, 5)[1] == pytest.approx(1)
    low, high = tango(7, 3, 60)
    assert tango(3, 7, 60) == pytest.approx((-high, -low))
    assert tango(0, 0, 1) == pytest.approx((-z2 / (1 + z2), z2 / (1 + z2)))


def coverage(n, spans, both, truth):
    """How often the intervals `spans` of the discordant counts `both` hold the true difference, exactly."""
    p, q = truth
    chance = stats.multinomial.pmf([(b, c, n - b - c) for b, c in both], n, (p, q, 1 - p - q))
    return sum(w for w, (low, high) in zip(chance, spans, strict=True) if low - 1e-9 <= p - q <= high + 1e-9)


TRUTHS = [(0.001, 0.001), (0.01, 0.0), (0.01, 0.01), (0.03, 0.01), (0.1, 0.05), (0.1, 0.1), (0.3, 0.1)]


def test_intervals_over_images_cover_with_few_discordant_images_too():
    n = 40
    both = [(b, c) for b, c in product(range(n + 1), repeat=2) if b + c <= n]
    score = [tango(b, c, n) for b, c in both]
    # for two seeds that are alike, as for one, each image's difference is -1, 0 or 1
    mean = [Difference((Pair(n, b, b, c),) * 2, b + c).images for b, c in both]
    for spans in (score, mean):
        result = [coverage(n, spans, both, truth) for truth in TRUTHS]
        assert min(result) > 0.935
        assert sum(result) / len(result) > 0.95


@pytest.mark.parametrize(("hard", "wins"), [(0.02, 0.5), (0.3, 0.6), (0.5, 0.9)])
def test_the_interval_of_several_seeds_covers(hard, wins):
    """Three seeds whose nets differ on a share of images only, and there mostly alike: of 2,000 test sets, 94 %."""
    rng, n, k = np.random.default_rng(1), 80, 3
    tilt = np.where(rng.random((2000, n, 1)) < wins, 0.8, 0.1)  # an image favours A or B, whichever the seed
    sides = np.where(rng.random((2000, n, k)) < tilt, 1, -1) * (rng.random((2000, n, 1)) < hard)
    truth = hard * (2 * (wins * 0.8 + (1 - wins) * 0.1) - 1)
    held = 0
    for one in sides:
        pairs = tuple(Pair(n, 0, int((s > 0).sum()), int((s < 0).sum())) for s in one.T)
        low, high = Difference(pairs, float((one.mean(1) ** 2).sum())).images
        held += low <= truth <= high
    assert held / 2000 > 0.935


@pytest.mark.parametrize("df", [1, 2, 3, 4, 9, 30, 100])
def test_the_power_of_student(df):
    assert stats.nct.sf(stats.t.ppf(0.975, df), df, t_shift(df)) == pytest.approx(0.8, abs=1e-5)


def test_student_equals_the_table():
    result = [round(t_quantile(0.975, df), 3) for df in (1, 2, 3, 4, 5, 10)]
    assert result == [12.706, 4.303, 3.182, 2.776, 2.571, 2.228]


def test_holm():
    # worked by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 raised to the one before
    given = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(given) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(holm(given)) == list(given)
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


@pytest.mark.parametrize(("n", "share"), [(449, 0.0), (449, 0.02), (449, 0.3), (1000, 0.15), (45, 0.2)])
def test_the_detectable_difference_is_detected_four_times_in_five(n, share):
    delta = detectable(n, share)
    share = max(share, delta)
    chance = ((share + delta) / 2, max((share - delta) / 2, 0), 1 - share)
    draws = np.random.default_rng(0).multinomial(n, chance, size=4000)
    shown = [mcnemar(int(b), int(c)) < 0.05 and b > c for b, c in draws[:, :2]]
    assert np.mean(shown) == pytest.approx(0.785, abs=0.03)


def test_the_detectable_difference_solves_connors_formula():
    delta, share = detectable(45, 0.2), 0.2
    n = (1.959964 * share**0.5 + 0.841621 * (share - delta**2) ** 0.5) ** 2 / delta**2
    assert n == pytest.approx(45, rel=1e-5)


def test_five_images_can_show_nothing():
    assert mcnemar(0, 5) > 0.05 > mcnemar(0, 6)
    assert math.isnan(detectable(5, 0.5))
    assert 0.8 < detectable(6, 0.5) <= 1


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(24, 12, 449), (12, 24, 449), (5, 0, 60), (6, 0, 60), (9, 2, 20)])
def test_the_interval_over_images_excludes_0_exactly_where_p_is_below_5_per_cent(only_a, only_b, n):
    """Tango's interval alone excludes 0 for 24 and 12 of 449, where McNemar's exact p is 0.065."""
    low, high = Difference((Pair(n, only_a, only_a, only_b),), 0).images
    assert (low <= 0 <= high) == (mcnemar(only_a, only_b) >= 0.05)
