"""Paired comparison: sentences that claim no more than the evidence allows."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ardor.errors import ConfigError
from ardor.evaluation.comparison.difference import Difference, Pair
from ardor.evaluation.comparison.paired import compare
from ardor.evaluation.comparison.significance import detectable, holm, mcnemar, t_shift, tango
from ardor.evaluation.comparison.wording import as_dict, holm_verdicts, text, verdict
from ardor.evaluation.findings import Finding
from tests.evaluation.comparison.conftest import config, letters, pairs_of, report

# the comparison


def test_every_figure_follows_from_the_verdicts():
    a = report({"pgd": "rrrrbb-b", "cw": "rrbrrb-b"}, "a")
    b = report({"pgd": "rbrb-rrb", "cw": "rbrb-rbb"}, "b", config(0, "sat"))
    result = compare([a], [b])
    counts = {name: (d.pairs[0].right, d.pairs[0].only_a, d.pairs[0].only_b) for name, d in result.figures.items()}
    assert counts == {"clean": (7, 1, 1), "pgd": (4, 2, 2), "cw": (4, 3, 2), "worst_case": (3, 2, 2)}
    for name, difference in result.figures.items():
        assert (difference.pairs[0].a, difference.pairs[0].b) == (a.figures()[name], b.figures()[name])
    # worst case of A: images 0, 1, 3; of B: 0, 2, 5; even images are cats
    cat, dog = (result.classes[name].pairs[0] for name in ("cat", "dog"))
    assert (cat, dog) == (Pair(4, 1, 0, 1), Pair(4, 2, 2, 1))
    assert cat.b.k == 2
    for name, p in b.per_class().items():
        assert result.classes[name].pairs[0].b == p
    assert result.worst_class("a")[0][0] == "cat"
    assert result.worst_class("b")[0][0] == "dog"
    assert result.differ == ["method.name: rslad in A, sat in B"]
    assert result.findings == []


def test_one_seed_claims_nothing_about_methods():
    result = compare(*pairs_of(400, (30, 8, 200)))
    worst = result.figures["worst_case"]
    assert worst.shown
    assert worst.value == pytest.approx(22 / 400)
    assert worst.images == tango(30, 8, 400)
    assert worst.seeds is None
    assert math.isnan(worst.sd)
    assert verdict(result).startswith("A stands 5.50 points above B [+2.")
    assert "McNemar p = 0.00047," in verdict(result)
    assert "another seed may reverse it, and one seed is no evidence about the methods" in verdict(result)
    turned = compare(*reversed(pairs_of(400, (30, 8, 200))))
    assert verdict(turned).startswith("A stands 5.50 points below B [-8.")


def test_no_difference_is_no_claim():
    result = compare(*pairs_of(400, (12, 9, 200)))
    assert not result.figures["worst_case"].shown
    least = 100 * detectable(400, 21 / 400)
    assert verdict(result).startswith("No difference shown: A - B is +0.75 points [-1.")
    assert f"less than about {least:.2f} points would rarely be detected" in verdict(result)
    assert "One seed is no evidence about the methods" in verdict(result)
    assert "4 images cannot show any" in verdict(compare(*pairs_of(4, (1, 0, 1))))


def test_the_interval_claims_no_more_than_the_exact_test():
    """Tango's interval alone leaves 0 out before the exact test does."""
    worst = compare(*pairs_of(161, (16, 6, 59))).figures["worst_case"]
    assert tango(16, 6, 161)[0] > 0
    assert worst.images[0] == 0
    assert worst.p > 0.05
    assert not worst.shown


def test_what_is_shown_leaves_0_out_of_the_interval():
    for n in range(6, 120):
        lost = max((c for c in range(n // 2) if mcnemar(n - c, c) < 0.05), default=0)
        assert tango(n - lost, lost, 200)[0] > 0


def test_two_seeds_are_no_claim_on_methods():
    result = compare(*pairs_of(400, (60, 8, 200), (62, 8, 200)))
    assert not result.figures["worst_case"].shown
    assert verdict(result).startswith(
        "Two seeds are no evidence about the methods: A - B is +13.25 points, SD 0.35; over test"
    )
    assert "so these nets differ. Train 3 seeds at least." in verdict(result)
    even = compare(*pairs_of(400, (10, 8, 200), (9, 8, 200)))
    assert "these images show no difference of the nets" in verdict(even)


def test_three_seeds_may_say_it():
    result = compare(*pairs_of(400, (40, 8, 200), (44, 8, 200), (36, 8, 200)))
    worst = result.figures["worst_case"]
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
    assert verdict(result).startswith(
        "The method of A stands 8.00 points above that of B [+4.04, +11.88] over seeds and test images together, "
        "p = 0.0072 (SD 1.00; over 3 seeds alone [+5.52, +10.48], over test images alone [+4.93, "
    )


def test_seeds_that_disagree_show_nothing():
    result = compare(*pairs_of(400, (80, 8, 200), (8, 40, 200), (60, 8, 200)))
    worst = result.figures["worst_case"]
    values = [72 / 400, -32 / 400, 52 / 400]
    assert worst.images[0] > 0
    assert stats.ttest_1samp(values, 0).pvalue < worst.p < 0.5
    assert t_shift(2) * np.std(values, ddof=1) / math.sqrt(3) < worst.least < 0.8
    assert verdict(result).startswith("No difference shown between the methods: A - B is +7.67 points")


def test_seeds_that_agree_on_a_few_images_show_nothing():
    """No spread over seeds is no proof: two images of forty may be chance."""
    a, b = pairs_of(40, (2, 0, 20), (2, 0, 20), (2, 0, 20))
    worst = compare(a, b).figures["worst_case"]
    floor = 1 / (40 * math.sqrt(12))  # the spread that rounding to whole images may hide
    half = stats.t.ppf(0.975, 2) * floor / math.sqrt(3)
    assert worst.seeds == pytest.approx((0.05 - half, 0.05 + half))
    assert worst.sd == pytest.approx(0), "what was seen"
    assert worst.images[0] < 0
    images = (4 / 42 - (2 / 42) ** 2) / 42
    assert worst.p_of_nets == pytest.approx(2 * stats.norm.sf(2 / 42 / math.sqrt(images)))
    assert 2 * stats.norm.sf(2 / 42 / math.sqrt(images)) < worst.p
    assert not worst.shown
    none = compare(*pairs_of(40, (0, 0, 20), (0, 0, 20), (0, 0, 20))).figures["worst_case"]
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
    """Three nets that differ on the same images are no more evidence than one of them."""
    one = Difference((Pair(400, 240, 40, 8),), 48.0)
    a, b = pairs_of(400, *[(40, 8, 200)] * 3)
    three = compare(a, b).figures["worst_case"]
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
    assert compare(a, b).figures["worst_case"].squares == pytest.approx(30 / 9)


def test_holm_over_the_classes():
    result = compare(*pairs_of(400, (30, 8, 200)))
    p = {name: d.p for name, d in result.classes.items()}
    assert result.adjusted == holm(p) != p
    assert {name: row["p_holm"] for name, row in as_dict(result)["classes"].items()} == holm(p)
    cat = next(line for line in text(result).splitlines() if line.startswith("| cat"))
    assert f" {holm(p)['cat']:.4f} |" in cat
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
        compare([a], [replace(b, **change)])
    assert words in str(refused.value)
    with pytest.raises(ConfigError, match="expected all to be judged"):
        compare([a, replace(a, **change)], [b, b])


def test_seeds_that_do_not_pair_are_refused():
    a, b = pairs_of(40, (2, 0, 20), (3, 0, 20))
    with pytest.raises(ConfigError, match="got 2 and 1"):
        compare(a, b[:1])
    with pytest.raises(ConfigError, match="got 0 and 0"):
        compare([], [])
    with pytest.raises(ConfigError, match="each seed of B, got one twice"):
        compare(a, [b[0], replace(b[1], model=b[0].model)])
    with pytest.raises(ConfigError, match="each seed of A, got one twice"):
        compare([a[0], replace(a[1], training=config(0))], b)
    with pytest.raises(ConfigError, match=r"mine that differ only in the seed, got method\.name: rslad here, sat"):
        compare([a[0], replace(a[1], training=config(1, "sat"))], b, ("mine", "yours"))


def test_what_a_seed_may_change_is_not_refused():
    a, b = pairs_of(40, (2, 0, 20), (3, 0, 20))
    fingerprint = {"teacher": "t1", "ardor": "0.2.0"}
    other = config(1, fingerprint=fingerprint, teacher={"weights": "u"}, recipe={"device": "cuda"})
    result = compare([a[0], replace(a[1], training=other)], b)
    assert [f.name for f in result.findings] == ["teachers"]


def test_a_teacher_is_identified_by_its_fingerprint_not_by_its_place():
    a, b = pairs_of(40, (2, 0, 20), (3, 0, 20))
    place = {"weights": "u", "natural": "./n", "robust": "../r", "root": "elsewhere", "download": True}
    moved = replace(a[1], training=config(1, teacher=place))
    assert compare([a[0], moved], b).findings == []
    assert compare([moved], [a[0]]).differ == []
    wider = replace(a[1], training=config(1, teacher={"width": 9}))
    with pytest.raises(ConfigError, match=r"teacher\.width"):
        compare([a[0], wider], b)


def test_another_checkpoint_is_warned_of():
    a, b = pairs_of(40, (2, 0, 20), (3, 0, 20))
    best, last = replace(a[0], title="runs/(last) (best)"), replace(b[0], title="runs/(last) (last)")
    (finding,) = compare([best], [last]).findings
    assert (finding.name, finding.severity) == ("checkpoints", "warning")
    assert "best of A, last of B" in finding.evidence
    assert "--checkpoint" in finding.next
    mixed = [best, replace(a[1], title="x (last)")]
    (finding,) = compare(mixed, [replace(r, title="y (best)") for r in b]).findings
    assert "best and last of A, best of B" in finding.evidence
    assert compare([best], [replace(b[0], title="x (best)")]).findings == []
    assert compare([best], b[:1]).findings == [], "a net without a run has no checkpoint"


def test_holm_over_the_comparisons_of_a_table():
    table = {
        "plain": compare(*pairs_of(400, (60, 8, 200))),
        "weak": compare(*pairs_of(400, (22, 9, 200))),
        "none": compare(*pairs_of(400, (12, 9, 200))),
    }
    assert verdict(table["weak"]).startswith("A stands 3.25 points above B")
    sentences = holm_verdicts(table)
    assert list(sentences) == list(table)
    assert sentences["plain"].startswith("A stands 13.00 points above B [")
    assert "McNemar p < 0.0001 (< 0.0001 by Holm over 3 comparisons), one seed" in sentences["plain"]
    p = mcnemar(22, 9)
    assert sentences["weak"].startswith("No difference shown: A - B is +3.25 points")
    assert f"McNemar p = {p:.2g} ({2 * p:.2g} by Holm over 3 comparisons)" in sentences["weak"]
    assert sentences["none"].startswith("No difference shown")
    assert holm_verdicts({"weak": table["weak"]}) == {"weak": verdict(table["weak"])}
    assert holm_verdicts({}) == {}


def test_holm_over_two_seeds_three_and_a_doubt():
    two, three = (compare(*pairs_of(400, *[(23 + s, 10, 200) for s in range(k)])) for k in (2, 3))
    sure = compare(*pairs_of(4000, *[(240 + s, 8, 2000) for s in range(3)]))
    a, b = pairs_of(400, (60, 8, 200))
    a[0].findings = [Finding("zero_gradients", "error", "seen", "next")]
    doubt = compare(a, b)
    assert "so these nets differ" in verdict(two)
    assert "The method of A stands" in verdict(sure)
    sentences = holm_verdicts({"two": two, "three": three, "sure": sure, "doubt": doubt})
    assert sentences["doubt"] == verdict(doubt)
    assert "these images show no difference of the nets" in sentences["two"]
    assert "No difference shown between the methods" in sentences["three"]
    assert sentences["sure"].startswith("The method of A stands")
    assert "p < 0.0001 (< 0.0001 by Holm over 4 comparisons)" in sentences["sure"]
    p, others = three.figures["worst_case"].p, (sure.figures["worst_case"].p, two.figures["worst_case"].p_of_nets)
    assert f"p = {p:.2g} ({(4 - sum(o < p for o in others)) * p:.2g} by Holm over 4 comparisons)" in sentences["three"]
    both = holm_verdicts({"doubt": doubt, "two": two})
    assert f"({2 * two.figures['worst_case'].p_of_nets:.2g} by Holm over 2" in both["two"], "a doubt takes no place"


def test_findings_on_how_the_comparison_could_be_wrong():
    a, b = pairs_of(40, (2, 0, 20))
    later = replace(b[0], versions={"ardor": "0.2.0", "torch": "2.13.0"}, training=config(4, "sat"), model=a[0].model)
    later.data = {**later.data, "marks": ["test set took part in selection"]}
    result = compare(a, [later])
    assert [(f.name, f.severity) for f in result.findings] == [
        ("versions", "note"), ("selection", "warning"), ("same_net", "warning"), ("unlike_seeds", "note"),
    ]  # fmt: skip
    assert "ardor 0.1.0" in result.findings[0].evidence
    assert "ardor 0.2.0" in result.findings[0].evidence
    assert all(str(finding) in text(result) for finding in result.findings)
    marked = config(0, "sat", fingerprint={"marks": ["test set took part in selection"]})
    assert [f.name for f in compare(a, [replace(b[0], training=marked)]).findings] == ["selection"]
    unknown = compare([replace(a[0], training={})], b)
    assert unknown.differ == unknown.findings == []


def test_another_teacher_is_a_difference_between_the_sides():
    a, b = pairs_of(40, (2, 0, 20))
    other = replace(b[0], training=config(fingerprint={"teacher": "t1"}, teacher={"weights": "u"}))
    assert compare(a, [other]).differ == ["fingerprint.teacher: t0 in A, t1 in B"]


def test_a_figure_that_cannot_be_quoted_cannot_be_compared():
    a, b = pairs_of(400, (60, 8, 200))
    a[0].findings = [Finding("zero_gradients", "error", "seen", "next"), Finding("restarts", "warning", "seen", "next")]
    sentence = verdict(compare(a, b, ("mine", "yours")))
    assert sentence == "No difference can be claimed: the report of mine has an error (zero_gradients)."
