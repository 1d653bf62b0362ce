"""Paired comparison: the statistics against independent ones, and verdicts that claim no more than they may."""

import json
import math
import os
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import yaml

from ardor.checks import Finding
from ardor.commands import compare
from ardor.errors import ConfigError, RunError
from ardor.report import Report
from ardor.report.difference import Difference, Pair
from ardor.report.paired import paired
from ardor.report.sentences import holm_verdicts
from ardor.report.significance import detectable, holm, mcnemar, t_cdf, t_quantile, t_shift, tango

stats = pytest.importorskip("scipy.stats")
optimize = pytest.importorskip("scipy.optimize")

CONFIG = {
    "method": {"name": "rslad", "alpha": "5/6"},
    "student": {"name": "small_cnn", "width": 4, "seed": 0},
    "teacher": {"name": "small_cnn", "weights": "t/best.safetensors"},
    "data": {"name": "digits", "seed": 0, "root": "data"},
    "recipe": {"epochs": 3, "seed": 0, "device": "cpu"},
    "fingerprint": {"ardor": "0.1.0", "student": "s0", "teacher": "t0", "marks": []},
}


def config(seed=0, method="rslad", **more):
    said = {key: dict(value) for key, value in CONFIG.items()}
    said["recipe"]["seed"] = said["student"]["seed"] = seed
    said["fingerprint"]["student"] = f"s{seed}"
    said["method"]["name"] = method
    for key, value in more.items():
        said[key] |= value
    return said


def report(letters, hash="", training=None, **more):
    """A report of two attacks: `letters` under the first, and what the second makes of them."""
    verdicts = letters if isinstance(letters, dict) else {"pgd": letters, "cw": letters}
    n = len(next(iter(verdicts.values())))
    data = {"name": "digits", "part": "test", "of": n, "class_names": ["cat", "dog"], "hash": "feed", "marks": []}
    given = {
        "model": {"name": "small_cnn", "hash": hash or str(verdicts)},
        "data": data,
        "suite": "paper",
        "threat": {"name": "Linf", "eps": "8/255"},
        "attacks": {"pgd": {"name": "PGD", "steps": 20, "step": "2/255"}, "cw": {"name": "CW", "steps": 20}},
        "index": list(range(n)),
        "labels": [i % 2 for i in range(n)],
        "verdicts": verdicts,
        "seed": 0,
        "batch": 4,
        "versions": {"ardor": "0.1.0", "torch": "2.13.0"},
        "training": config() if training is None else training,
    }
    return Report(**(given | more))


def letters(n, right, start=0):
    """`right` robust images of n, in a row from `start`."""
    return "".join("r" if start <= i < start + right else "b" for i in range(n))


def pairs_of(n, *counts):
    """Reports of A and B per seed, of n images each: (only A, only B, both)."""
    a, b = [], []
    for seed, (only_a, only_b, both) in enumerate(counts):
        rest = "b" * (n - only_a - only_b - both)
        a.append(report("r" * only_a + "b" * only_b + "r" * both + rest, f"a{seed}", config(seed)))
        b.append(report("b" * only_a + "r" * only_b + "r" * both + rest, f"b{seed}", config(seed, "sat")))
    return a, b


# statistics


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 6), (5, 5), (1, 7), (6, 16), (100, 140), (7, 600)])
def test_mcnemar_is_the_binomial_test(b, c):
    expected = min(1.0, 2 * sum(math.comb(b + c, i) for i in range(min(b, c) + 1)) / 2 ** (b + c))
    assert mcnemar(b, c) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(b, c) == mcnemar(c, b)
    if b + c:
        assert mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-9)


def test_mcnemar_equals_published_values():
    # Fagerland, Lydersen and Laake, BMC Medical Research Methodology 2013: 1 and 7, 6 and 16 discordant
    assert (round(mcnemar(1, 7), 3), round(mcnemar(6, 16), 3)) == (0.070, 0.052)


def test_mcnemar_of_ten_thousand_discordant_images():
    assert mcnemar(4900, 5100) == pytest.approx(stats.binomtest(4900, 10000).pvalue, rel=1e-9)
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
        found = [coverage(n, spans, both, truth) for truth in TRUTHS]
        assert min(found) > 0.935
        assert sum(found) / len(found) > 0.95


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
def test_student_and_its_power(df):
    assert t_quantile(0.975, df) == pytest.approx(stats.t.ppf(0.975, df), abs=2e-6)
    assert t_quantile(0.9, df) == pytest.approx(stats.t.ppf(0.9, df), abs=2e-6)
    for t in (-30, -2, 0, 0.5, 4, 30):
        assert t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-6)
    assert stats.nct.sf(stats.t.ppf(0.975, df), df, t_shift(df)) == pytest.approx(0.8, abs=1e-5)


def test_student_equals_the_table():
    assert [round(t_quantile(0.975, df), 3) for df in (1, 2, 3, 4, 5, 10)] == [
        12.706,
        4.303,
        3.182,
        2.776,
        2.571,
        2.228,
    ]


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


# the comparison


def test_every_figure_follows_from_the_verdicts():
    a = report({"pgd": "rrrrbb-b", "cw": "rrbrrb-b"}, "a")
    b = report({"pgd": "rbrb-rrb", "cw": "rbrb-rbb"}, "b", config(0, "sat"))
    found = paired([a], [b])
    counts = {name: (d.pairs[0].right, d.pairs[0].only_a, d.pairs[0].only_b) for name, d in found.figures.items()}
    assert counts == {"clean": (7, 1, 1), "pgd": (4, 2, 2), "cw": (4, 3, 2), "worst_case": (3, 2, 2)}
    for name, difference in found.figures.items():
        assert (difference.pairs[0].a, difference.pairs[0].b) == (a.figures()[name], b.figures()[name])
    # worst case of A: images 0, 1, 3; of B: 0, 2, 5; even images are cats
    cat, dog = (found.classes[name].pairs[0] for name in ("cat", "dog"))
    assert (cat, dog) == (Pair(4, 1, 0, 1), Pair(4, 2, 2, 1))
    assert cat.b.k == 2
    for name, p in b.per_class().items():
        assert found.classes[name].pairs[0].b == p
    assert found.worst_class("a")[0][0] == "cat"
    assert found.worst_class("b")[0][0] == "dog"
    assert found.differ == ["method.name: rslad here, sat there"]
    assert found.findings == []


def test_one_seed_claims_nothing_about_methods():
    found = paired(*pairs_of(400, (30, 8, 200)))
    worst = found.figures["worst_case"]
    assert worst.shown
    assert worst.value == pytest.approx(22 / 400)
    assert worst.images == tango(30, 8, 400)
    assert worst.seeds is None
    assert math.isnan(worst.sd)
    assert found.verdict.startswith("A stands 5.50 points above B [+2.")
    assert "McNemar p = 0.00047," in found.verdict
    assert "another seed may turn it round, and one seed says nothing about the methods" in found.verdict
    turned = paired(*reversed(pairs_of(400, (30, 8, 200))))
    assert turned.verdict.startswith("A stands 5.50 points below B [-8.")


def test_no_difference_is_no_claim():
    found = paired(*pairs_of(400, (12, 9, 200)))
    assert not found.figures["worst_case"].shown
    least = 100 * detectable(400, 21 / 400)
    assert found.verdict.startswith("No difference shown: A - B is +0.75 points [-1.")
    assert f"less than about {least:.2f} points could hardly have been shown" in found.verdict
    assert "One seed says nothing about the methods" in found.verdict
    assert "4 images cannot show any" in paired(*pairs_of(4, (1, 0, 1))).verdict


def test_the_interval_alone_is_no_claim():
    """Tango's interval leaves 0 out before the exact test does: both must."""
    worst = paired(*pairs_of(161, (16, 6, 59))).figures["worst_case"]
    assert worst.images[0] > 0
    assert worst.p > 0.05
    assert not worst.shown


def test_what_is_shown_leaves_0_out_of_the_interval():
    for n in range(6, 120):
        lost = max((c for c in range(n // 2) if mcnemar(n - c, c) < 0.05), default=0)
        assert tango(n - lost, lost, 200)[0] > 0


def test_two_seeds_are_no_claim_on_methods():
    found = paired(*pairs_of(400, (60, 8, 200), (62, 8, 200)))
    assert not found.figures["worst_case"].shown
    assert found.verdict.startswith(
        "Two seeds say nothing about the methods: A - B is +13.25 points, SD 0.35; over test"
    )
    assert "so these nets differ. Train 3 seeds at least." in found.verdict
    even = paired(*pairs_of(400, (10, 8, 200), (9, 8, 200)))
    assert "these nets do not differ by more than" in even.verdict


def test_three_seeds_may_say_it():
    found = paired(*pairs_of(400, (40, 8, 200), (44, 8, 200), (36, 8, 200)))
    worst = found.figures["worst_case"]
    values = [32 / 400, 36 / 400, 28 / 400]
    assert worst.value == pytest.approx(0.08)
    assert worst.sd == pytest.approx(0.01)
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert worst.seeds == pytest.approx((0.08 - half, 0.08 + half))
    centre = 32 / 402  # by hand: Bonett and Price's variance over images, and that over seeds
    images, seeds = math.sqrt(((worst.squares + 2) / 402 - centre**2) / 402), 0.01 / math.sqrt(3)

    def half(level):  # Banerjee's: each error by its own quantile
        return math.hypot(stats.norm.isf(level / 2) * images, stats.t.isf(level / 2, 2) * seeds)

    assert worst.both == pytest.approx((centre - half(0.05), centre + half(0.05)))
    assert half(worst.p) == pytest.approx(centre, rel=1e-6)
    assert stats.ttest_1samp(values, 0).pvalue < worst.p < 0.05
    assert worst.least == pytest.approx(math.hypot((1.959964 + 0.841621) * images, t_shift(2) * seeds), rel=1e-5)
    assert worst.shown
    assert found.verdict.startswith(
        "The method of A stands 8.00 points above that of B [+4.04, +11.88] over seeds and test images together, "
        "p = 0.0072 (SD 1.00; over 3 seeds alone [+5.52, +10.48], over test images alone [+4.93, "
    )


def test_seeds_that_disagree_show_nothing():
    found = paired(*pairs_of(400, (80, 8, 200), (8, 40, 200), (60, 8, 200)))
    worst = found.figures["worst_case"]
    values = [72 / 400, -32 / 400, 52 / 400]
    assert worst.images[0] > 0
    assert stats.ttest_1samp(values, 0).pvalue < worst.p < 0.5
    assert t_shift(2) * np.std(values, ddof=1) / math.sqrt(3) < worst.least < 0.8
    assert found.verdict.startswith("No difference shown between the methods: A - B is +7.67 points")


def test_seeds_that_agree_on_a_few_images_show_nothing():
    """No spread over seeds is no proof: two images of forty may be chance."""
    a, b = pairs_of(40, (2, 0, 20), (2, 0, 20), (2, 0, 20))
    worst = paired(a, b).figures["worst_case"]
    floor = 1 / (40 * math.sqrt(12))  # the spread that rounding to whole images may hide
    half = stats.t.ppf(0.975, 2) * floor / math.sqrt(3)
    assert worst.seeds == pytest.approx((0.05 - half, 0.05 + half))
    assert worst.sd == pytest.approx(0), "what was seen"
    assert worst.images[0] < 0
    images = (4 / 42 - (2 / 42) ** 2) / 42
    assert worst.p_of_nets == pytest.approx(2 * stats.norm.sf(2 / 42 / math.sqrt(images)))
    assert 2 * stats.norm.sf(2 / 42 / math.sqrt(images)) < worst.p
    assert not worst.shown
    none = paired(*pairs_of(40, (0, 0, 20), (0, 0, 20), (0, 0, 20))).figures["worst_case"]
    assert none.p == pytest.approx(1)
    assert (none.shown, none.sd) == (False, 0.0)


def test_a_difference_on_many_images_is_never_certain_from_equal_seeds():
    """Three seeds that agree to the image are no proof: their spread is at least what whole images hide."""
    d = Difference((Pair(10000, 6000, 500, 100),) * 3, 600.0)
    assert 2 * stats.norm.sf(d._adjusted[0] / d._adjusted[1]) < d.p < 0.05
    assert d.both[1] - d.both[0] > d.seeds[1] - d.seeds[0] > 0
    assert d.shown


def seeds_of(rng, draws, n, k, tau, common):
    """Differences of two methods that are as good: (draws, n, k) in -1, 0, 1. tau: SD over seeds; common: of images."""
    tilt = common * rng.choice((-1, 1), (draws, n, 1)) + tau * rng.standard_normal((draws, 1, k)) / 0.3
    differ = rng.random((draws, n, k)) < 0.3
    return np.where(rng.random((draws, n, k)) < np.clip((1 + tilt) / 2, 0, 1), 1, -1) * differ


@pytest.mark.parametrize("k", [3, 5, 10])
@pytest.mark.parametrize(("tau", "common"), [(0.02, 0.9), (0.02, 0.3), (0.06, 0.9), (0.0, 0.9)])
def test_a_difference_that_is_none_is_shown_in_no_more_than_5_percent(k, tau, common):
    """By luck with the images, with the seeds, or with both: of 1,500 pairs of methods that are as good."""
    rng, n, shown = np.random.default_rng(k), 500, 0
    for _ in range(15):
        for one in seeds_of(rng, 100, n, k, tau, common):
            pairs = tuple(Pair(n, 250, int((s > 0).sum()), int((s < 0).sum())) for s in one.T)
            low, high = Difference(pairs, float((one.mean(1) ** 2).sum())).both
            shown += low > 0 or high < 0
    assert shown / 1500 <= 0.06


def test_shown_is_both_without_0():
    for only_a in range(20, 45):
        d = Difference(
            (Pair(400, 240, only_a, 8), Pair(400, 240, only_a + 2, 8), Pair(400, 240, only_a - 2, 8)), only_a
        )
        assert d.shown == (d.both[0] > 0)
        assert (d.p < 0.05) == d.shown


def test_the_interval_of_several_seeds_is_over_images_not_over_nets_times_images():
    """Three nets that differ on the same images know no more than one of them."""
    one = Difference((Pair(400, 240, 40, 8),), 48.0)
    a, b = pairs_of(400, *[(40, 8, 200)] * 3)
    three = paired(a, b).figures["worst_case"]
    assert three.squares == pytest.approx(48)
    width = three.images[1] - three.images[0]
    assert width == pytest.approx(one.images[1] - one.images[0], rel=0.05)
    # Bonett and Price's, by hand
    share, centre = 50 / 402, 32 / 402
    error = math.sqrt((share - centre**2) / 402)
    assert three.images == pytest.approx((centre - 1.959964 * error, centre + 1.959964 * error))
    # nets that differ on images of their own, each on 10 of 90: a mean difference of 1 / 3 on 30
    a = [report(letters(90, 10, 10 * s), f"a{s}", config(s)) for s in range(3)]
    b = [report(letters(90, 0), f"b{s}", config(s, "sat")) for s in range(3)]
    assert paired(a, b).figures["worst_case"].squares == pytest.approx(30 / 9)


def test_holm_over_the_classes():
    found = paired(*pairs_of(400, (30, 8, 200)))
    p = {name: d.p for name, d in found.classes.items()}
    assert found.adjusted == holm(p) != p
    assert {name: said["p_holm"] for name, said in found.as_dict()["classes"].items()} == holm(p)
    cat = next(line for line in found.text().splitlines() if line.startswith("| cat"))
    assert f" {holm(p)['cat']:.2g} |" in cat
    assert f" {p['cat']:.2g} |" not in cat


SAME = {
    "data.hash": dict(data={"name": "digits", "part": "test", "hash": "beef", "class_names": ["cat", "dog"]}),
    "images": dict(index=[0, 1, 2, 4]),
    "images: ": dict(labels=[0, 1, 0, 0]),
    "suite: paper here, quick": dict(suite="quick"),
    "sequential": dict(sequential=True),
    "threat.eps: 8/255 here, 4/255 there": dict(threat={"name": "Linf", "eps": "4/255"}),
    "attacks.cw.steps: 20 here, 30": dict(
        attacks={"pgd": report("r").attacks["pgd"], "cw": {"name": "CW", "steps": 30}}
    ),
    "seed: 0 here, 7 there": dict(seed=7),
    "order": dict(verdicts={"cw": "rrbb", "pgd": "rrbb"}),
}


@pytest.mark.parametrize(("words", "change"), SAME.items())
def test_what_was_judged_otherwise_is_refused(words, change):
    a, b = report("rbrb", "a"), report("rrbb", "b")
    with pytest.raises(ConfigError, match="type ardor evaluate with the same") as refused:
        paired([a], [replace(b, **change)])
    assert words in str(refused.value)
    with pytest.raises(ConfigError, match="expected all to be judged"):
        paired([a, replace(a, **change)], [b, b])


def test_seeds_that_do_not_pair_are_refused():
    a, b = pairs_of(40, (2, 0, 20), (3, 0, 20))
    with pytest.raises(ConfigError, match="got 2 and 1"):
        paired(a, b[:1])
    with pytest.raises(ConfigError, match="got 0 and 0"):
        paired([], [])
    with pytest.raises(ConfigError, match="each seed of B, got one twice"):
        paired(a, [b[0], replace(b[1], model=b[0].model)])
    with pytest.raises(ConfigError, match="each seed of A, got one twice"):
        paired([a[0], replace(a[1], training=config(0))], b)
    with pytest.raises(
        ConfigError, match=r"mine that differ only in the seed, got method\.name: rslad here, sat there"
    ):
        paired([a[0], replace(a[1], training=config(1, "sat"))], b, ("mine", "yours"))


def test_what_a_seed_may_change_is_not_refused():
    a, b = pairs_of(40, (2, 0, 20), (3, 0, 20))
    other = config(
        1, fingerprint={"teacher": "t1", "ardor": "0.2.0"}, teacher={"weights": "u"}, recipe={"device": "cuda"}
    )
    found = paired([a[0], replace(a[1], training=other)], b)
    assert [f.name for f in found.findings] == ["teachers"]


def test_a_teacher_is_known_by_its_fingerprint_not_by_where_it_lies():
    a, b = pairs_of(40, (2, 0, 20), (3, 0, 20))
    there = {"weights": "u", "natural": "./n", "robust": "../r", "root": "elsewhere", "download": True}
    moved = replace(a[1], training=config(1, teacher=there))
    assert paired([a[0], moved], b).findings == []
    assert paired([moved], [a[0]]).differ == []
    wider = replace(a[1], training=config(1, teacher={"width": 9}))
    with pytest.raises(ConfigError, match=r"teacher\.width"):
        paired([a[0], wider], b)


def test_another_checkpoint_is_warned_of():
    a, b = pairs_of(40, (2, 0, 20), (3, 0, 20))
    best, last = (
        replace(r, title=f"runs/(last) ({word})") for r, word in zip((a[0], b[0]), ("best", "last"), strict=True)
    )
    (found,) = paired([best], [last]).findings
    assert (found.name, found.severity) == ("checkpoints", "warning")
    assert "best of A, last of B" in found.evidence
    assert "--checkpoint" in found.next
    mixed = [best, replace(a[1], title="x (last)")]
    (found,) = paired(mixed, [replace(r, title="y (best)") for r in b]).findings
    assert "best and last of A, best of B" in found.evidence
    assert paired([best], [replace(b[0], title="x (best)")]).findings == []
    assert paired([best], b[:1]).findings == [], "of a net without a run nothing is known"


def test_holm_over_the_comparisons_of_a_table():
    table = {
        "plain": paired(*pairs_of(400, (60, 8, 200))),
        "weak": paired(*pairs_of(400, (22, 9, 200))),
        "none": paired(*pairs_of(400, (12, 9, 200))),
    }
    assert table["weak"].verdict.startswith("A stands 3.25 points above B")
    said = holm_verdicts(table)
    assert list(said) == list(table)
    assert said["plain"].startswith("A stands 13.00 points above B [")
    assert "McNemar p < 0.0001 (< 0.0001 by Holm over 3 comparisons), one seed" in said["plain"]
    p = mcnemar(22, 9)
    assert said["weak"].startswith("No difference shown: A - B is +3.25 points")
    assert f"McNemar p = {p:.2g} ({2 * p:.2g} by Holm over 3 comparisons)" in said["weak"]
    assert said["none"].startswith("No difference shown")
    assert holm_verdicts({"weak": table["weak"]}) == {"weak": table["weak"].verdict}
    assert holm_verdicts({}) == {}


def test_holm_over_two_seeds_three_and_a_doubt():
    two, three = (paired(*pairs_of(400, *[(23 + s, 10, 200) for s in range(k)])) for k in (2, 3))
    sure = paired(*pairs_of(4000, *[(240 + s, 8, 2000) for s in range(3)]))
    a, b = pairs_of(400, (60, 8, 200))
    a[0].findings = [Finding("zero_gradients", "error", "seen", "next")]
    doubt = paired(a, b)
    assert "so these nets differ" in two.verdict
    assert "The method of A stands" in sure.verdict
    said = holm_verdicts({"two": two, "three": three, "sure": sure, "doubt": doubt})
    assert said["doubt"] == doubt.verdict
    assert "these nets do not differ by more" in said["two"]
    assert "No difference shown between the methods" in said["three"]
    assert said["sure"].startswith("The method of A stands")
    assert "p < 0.0001 (< 0.0001 by Holm over 4 comparisons)" in said["sure"]
    p, others = three.figures["worst_case"].p, (sure.figures["worst_case"].p, two.figures["worst_case"].p_of_nets)
    assert f"p = {p:.2g} ({(4 - sum(o < p for o in others)) * p:.2g} by Holm over 4 comparisons)" in said["three"]
    both = holm_verdicts({"doubt": doubt, "two": two})
    assert f"({2 * two.figures['worst_case'].p_of_nets:.2g} by Holm over 2" in both["two"], "a doubt takes no place"


def test_findings_on_how_the_comparison_could_be_wrong():
    a, b = pairs_of(40, (2, 0, 20))
    later = replace(b[0], versions={"ardor": "0.2.0", "torch": "2.13.0"}, training=config(4, "sat"), model=a[0].model)
    later.data = {**later.data, "marks": ["test set took part in selection"]}
    found = paired(a, [later])
    assert [(f.name, f.severity) for f in found.findings] == [
        ("versions", "note"), ("selection", "warning"), ("same_net", "warning"), ("unlike_seeds", "note"),
    ]  # fmt: skip
    assert "ardor 0.1.0" in found.findings[0].evidence
    assert "ardor 0.2.0" in found.findings[0].evidence
    assert all(str(finding) in found.text() for finding in found.findings)
    marked = config(0, "sat", fingerprint={"marks": ["test set took part in selection"]})
    assert [f.name for f in paired(a, [replace(b[0], training=marked)]).findings] == ["selection"]
    unknown = paired([replace(a[0], training={})], b)
    assert unknown.differ == unknown.findings == []


def test_another_teacher_is_a_difference_between_the_sides():
    a, b = pairs_of(40, (2, 0, 20))
    other = replace(b[0], training=config(fingerprint={"teacher": "t1"}, teacher={"weights": "u"}))
    assert paired(a, [other]).differ == ["fingerprint.teacher: t0 here, t1 there"]


def test_a_figure_that_cannot_be_quoted_cannot_be_compared():
    a, b = pairs_of(400, (60, 8, 200))
    a[0].findings = [Finding("zero_gradients", "error", "seen", "next"), Finding("restarts", "warning", "seen", "next")]
    verdict = paired(a, b, ("mine", "yours")).verdict
    assert verdict == "No difference can be claimed: the report of mine found an error in it (zero_gradients)."


def test_the_text_of_one_seed():
    text = paired(*pairs_of(400, (30, 8, 200)), ("runs/rslad", "runs/sat")).text()
    lines = text.splitlines()
    assert lines[:4] == [
        "A: runs/rslad",
        "B: runs/sat",
        "400 images, digits (test), suite paper, Linf eps 8/255, one seed",
        "Trained with method.name: rslad here, sat there.",
    ]
    assert lines[5] == "| figure | n | A % | B % | A - B | 95 % interval | only A | only B | p | could show |"
    row = next(line for line in lines if line.startswith("| worst_case"))
    assert row.startswith("| worst_case | 400 | 57.50 | 52.00 | +5.50 | [+2.62, +8.75] | 30 | 8 | 0.00047 |")
    assert row.endswith(f"| 30 | 8 | 0.00047 | {100 * detectable(400, 38 / 400):.2f} |")
    assert "| class | n | A % | B % | A - B | 95 % interval | only A | only B | p (Holm) | could show |" in lines
    assert "Worst class of A: cat (115 of 200)" in lines
    assert "by class (p is corrected for their number, the intervals are not):" in text
    assert text.count("\n| ") == 1 + 4 + 1 + 2


def test_the_text_of_three_seeds():
    text = paired(*pairs_of(400, (40, 8, 200), (44, 8, 200), (36, 8, 200))).text()
    assert "3 seeds (0, 1, 2)" in text
    assert (
        "| figure | n | A % | B % | A - B | SD | 95 % | 95 % over seeds | 95 % over images | p | could show |" in text
    )
    assert "| worst_case | 400 | 60.00 | 52.00 | +8.00 | 1.00 | [+4.04, +11.88] | [+5.52, +10.48] | [+4.93, " in text
    assert "seed 1: worst_case +9.00, 44 only A has right, 8 only B, McNemar p < 0.0001" in text
    assert "Worst class of A: cat (120 of 200), cat (122 of 200), cat (118 of 200), mean 60.00 %" in text


def test_json_has_no_number_that_json_lacks():
    found = paired(*pairs_of(4, (1, 0, 1))).as_dict()
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    assert again["figures"]["worst_case"]["could_show"] is again["figures"]["worst_case"]["sd"] is None
    assert again["figures"]["worst_case"]["interval95_seeds"] is None
    assert again["figures"]["worst_case"]["interval95_both"] is None
    comparison = paired(*pairs_of(400, (40, 8, 200), (44, 8, 200), (36, 8, 200)))
    three = comparison.as_dict()
    assert tuple(three["figures"]["worst_case"]["interval95_both"]) == comparison.figures["worst_case"].both
    assert three["seeds"] == [0, 1, 2]
    assert three["figures"]["worst_case"]["pairs"][1] == {
        "n": 400, "a": 244, "b": 208, "only_a": 44, "only_b": 8, "mcnemar_p": mcnemar(44, 8),
    }  # fmt: skip
    assert three["classes"]["dog"]["p_holm"] >= three["classes"]["dog"]["p"]
    assert three["worst_class"]["b"][0] == {"class": "cat", "k": 104, "n": 200}


# the command


def run(path, letters, seed=0, method="rslad", names=("report-paper-linf-8_255-best.json",), age=0, **more):
    """A judged run's folder."""
    path.mkdir(parents=True)
    said = config(seed, method, **more)
    (path / "config.yaml").write_text(yaml.safe_dump(said))
    for back, name in enumerate(names):
        one = report(letters, f"{path}", said, suite=name.split("-")[1])
        one.save(path / name)
        os.utime(path / name, (1e9 - back - age, 1e9 - back - age))
    return path


def said_by(capsys, *words):
    capsys.readouterr()
    assert compare.app(words)(words, exit_on_error=False, print_error=False, result_action="return_value") == 0
    return capsys.readouterr().out


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_runs(here, capsys):
    run(here / "a", letters(40, 30))
    run(here / "b", letters(40, 10), method="sat")
    out = said_by(capsys, "a", "b", "--out", "c/ab.json")
    assert "A stands 50.00 points above B" in out
    assert "Saved to c/ab.json." in out
    kept = json.loads((here / "c/ab.json").read_text())
    assert (kept["format"], kept["a"], kept["b"]) == ("ardor-comparison-1", "a", "b")
    assert kept["figures"]["worst_case"]["difference"] == 0.5


def test_nothing_is_overwritten_by_a_refusal(here, capsys):
    run(here / "a", letters(40, 30))
    run(here / "b", letters(20, 10), method="sat")
    (here / "c.json").write_text("mine")
    with pytest.raises(ConfigError, match="the same images"):
        said_by(capsys, "a", "b", "--out", "c.json")
    assert (here / "c.json").read_text() == "mine"
    with pytest.raises(RunError, match="the folder a"):
        said_by(capsys, "a", "a", "--out", "a")


def test_the_newest_report_that_both_have(here, capsys):
    best = [f"report-{suite}-linf-8_255-best.json" for suite in ("quick", "autoattack", "paper")]
    last = "report-square-linf-8_255-last.json"
    run(here / "a", letters(40, 30), names=(last, *best))
    run(here / "b", letters(40, 20), names=(last, *best[1:]), method="sat")
    assert "suite autoattack" in said_by(capsys, "a", "b")
    assert "suite paper" in said_by(capsys, "a", "b", "--suite", "paper")
    assert "suite square" in said_by(capsys, "a", "b", "--checkpoint", "last")
    with pytest.raises(ConfigError, match=r"got b without such a report: type ardor evaluate b --suite quick$"):
        said_by(capsys, "a", "b", "--suite", "quick")
    with pytest.raises(ConfigError, match="type ardor evaluate a --suite paper --checkpoint last$"):
        said_by(capsys, "a", "b", "--suite", "paper", "--checkpoint", "last")
    run(here / "c", letters(40, 30), names=best[:1])
    with pytest.raises(ConfigError, match=r"expected one report that all runs have, got b has .*; c has .*quick"):
        said_by(capsys, "b", "c")


def test_report_files_and_runs_mix(here, capsys):
    names = [f"report-{suite}-linf-8_255-best.json" for suite in ("quick", "paper")]
    run(here / "a", letters(40, 30), names=names)
    report(letters(40, 20), "f", config(0, "sat")).save("f.json")
    assert "suite paper" in said_by(capsys, "a", "f.json")
    assert "suite paper" in said_by(capsys, "f.json", f"a/{names[1]}")
    with pytest.raises(ConfigError, match=r"expected a report of the suite quick, got paper in f\.json"):
        said_by(capsys, "a", "f.json", "--suite", "quick")
    report(letters(40, 20), "g", suite="plus").save("g.json")
    with pytest.raises(ConfigError, match="the file is of the suite plus"):
        said_by(capsys, "a", "g.json")


def test_a_report_file_of_the_runs_own_is_met_by_its_namesake(here, capsys):
    names = [f"report-paper-linf-{eps}-best.json" for eps in ("8_255", "4_255")]
    run(here / "a", letters(40, 30), names=names)
    run(here / "b", letters(40, 20), names=names, method="sat")
    for name in ("a", "b"):
        report(letters(40, 9), name, threat={"name": "Linf", "eps": "4/255"}).save(f"{name}/{names[1]}")
        os.utime(f"{name}/{names[1]}", (1, 1))
    assert "eps 4/255" in said_by(capsys, "a", f"b/{names[1]}")
    assert "eps 8/255" in said_by(capsys, "a", "b")


def test_folders_of_seeds_are_paired_by_seed(here, capsys):
    for seed in range(4):
        run(here / "a" / f"x{9 - seed}", letters(100, 60 + 2 * seed), seed)
    for seed in range(1, 5):
        run(here / "b" / f"s{seed}", letters(100, 30 + seed), seed, "sat")
    (here / "a" / "notes").mkdir()
    out = said_by(capsys, "a", "b")
    assert "3 seeds (1, 2, 3)" in out
    assert "seed 3: worst_case +33.00" in out
    assert "2 runs have no partner of their seed and were left out: a/x9, b/s4" in out
    assert "The method of A stands 32.00 points above that of B" in out
    assert "one seed" in said_by(capsys, "a", "b/s2")
    with pytest.raises(ConfigError, match="expected runs of the same seeds, got .* in a and 4 in b/s4"):
        said_by(capsys, "a", "b/s4")
    (here / "b/s3/report-paper-linf-8_255-best.json").unlink()
    with pytest.raises(ConfigError, match="got b/s3 without such a report"):
        said_by(capsys, "a", "b")


def test_folders_that_are_no_seeds_of_one_method_are_refused(here, capsys):
    run(here / "a" / "x", letters(40, 30))
    run(here / "a" / "y", letters(40, 20), 0, "sat")
    with pytest.raises(ConfigError, match="got seed 0 twice, in a/x and a/y"):
        said_by(capsys, "a", "a/x")
    run(here / "b" / "x", letters(40, 30))
    run(here / "b" / "y", letters(40, 20), 1, "sat")
    with pytest.raises(ConfigError, match=r"method\.name: rslad here, sat there"):
        said_by(capsys, "b", "b")
    run(here / "c" / "x", letters(40, 30), None)
    with pytest.raises(ConfigError, match=r"got c/x without recipe\.seed"):
        said_by(capsys, "c", "c")
    run(here / "d", letters(40, 30), "zero")
    with pytest.raises(ConfigError, match="expected recipe.seed as a whole number, got 'zero' in d"):
        said_by(capsys, "d", "d")


def test_what_is_no_run_is_refused(here, capsys):
    (here / "empty").mkdir()
    (here / "f.json").write_text("{}")
    for name in ("absent", "empty"):
        with pytest.raises(ConfigError, match=f"got {name}: type ardor evaluate RUN first"):
            said_by(capsys, name, name)
    with pytest.raises(ConfigError, match="expected a report that"):
        said_by(capsys, "f.json", "f.json")


def test_two_runs_of_two_seeds_are_compared_with_a_note(here, capsys):
    run(here / "a", letters(40, 30), 0)
    run(here / "b", letters(40, 10), 1, "sat")
    assert "seeds of training (A, B): (0, 1)" in said_by(capsys, "a", "b")
