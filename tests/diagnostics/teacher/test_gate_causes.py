"""Each cause of a bad teacher, planted: the gate names it, and it alone; a sound teacher of any seed may teach."""

import copy
import dataclasses
import math
import re

import pytest
import torch
from scipy.stats import binom
from torch import nn

import ardor.models.builders
from ardor.attacks.threat import L2, Linf
from ardor.data.split import Split
from ardor.diagnostics.record import Record
from ardor.diagnostics.teacher import examine_teacher, require
from ardor.diagnostics.teacher.causes import at_chance, chance_of, enough, repairs
from ardor.diagnostics.teacher.robustness import short
from ardor.errors import ModelError, as_arguments
from ardor.evaluation.proportion import Proportion
from ardor.noise import Noise
from tests.conftest import Wrapped
from tests.diagnostics.teacher.conftest import EPS, ORDER, THREAT, names, shuffled
from tests.fixtures.make import coloured, trained

pytestmark = pytest.mark.processor


# Planted causes


def without_layer(net):
    bare = copy.deepcopy(net)
    bare.normalise = nn.Identity()
    return bare


def half_loaded(net):
    part = copy.deepcopy(net)
    part.layers[1][1].reset_running_stats()
    return part


def damaged(net):
    broken = copy.deepcopy(net)
    weight = broken.layers[2][0].weight.data
    weight += 1.5 * weight.std() * Noise(0, torch.arange(len(weight)), "damage").normal(weight.shape[1:])
    return broken


PLANTED = {
    "mis_normalised: lacks": ("with the images normalised by mean 0.30", lambda s, n: without_layer(n)),
    "mis_normalised: twice": (
        "without the normalisation by mean 0.31 and std 0.37 (the net's layer 0)",
        lambda s, n: Wrapped(n, before=lambda x: (x - 0.31) / 0.37),
    ),
    "mis_normalised: 0 .. 255": ("values of 0 .. 255", lambda s, n: Wrapped(s, before=lambda x: x / 255)),
    "mis_normalised: -1 .. 1": ("0.5 ([-1, 1])", lambda s, n: Wrapped(s, before=lambda x: (x + 1) / 2)),
    "not_loaded: all": (
        "all 4 batch norms have the statistics of a new net",
        lambda s, n: ardor.models.build("small_cnn", classes=10, channels=1, width=8, seed=1),
    ),
    "not_loaded: some": ("1 of 4 batch norms have the statistics of a new net", lambda s, n: half_loaded(s)),
    "not_loaded: no batch norm": (
        "at chance, whatever",
        lambda s, n: nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False).requires_grad_(False)),
    ),
    "class_order": (f"in the order {torch.tensor(ORDER).argsort().tolist()}", lambda s, n: Wrapped(s, after=shuffled)),
    "below_record": ("the record of sound", lambda s, n: damaged(s)),
    "not_robust": ("at a quarter", lambda s, n: None),
}


def planted(cause, sound, normalised, natural):
    net = natural if cause == "not_robust" else PLANTED[cause][1](sound, normalised)
    if cause == "not_loaded: no batch norm":
        net[1].weight.data = torch.linspace(-1, 1, 640)[torch.arange(640) * 37 % 640].reshape(10, 64)
    return net.eval()


@pytest.mark.parametrize("cause", PLANTED)
def test_a_planted_cause_is_named_and_it_alone(sound, normalised, natural, val, record, cause):
    seen = examine_teacher(planted(cause, sound, normalised, natural), val, THREAT, record=record)
    assert names(seen) == [cause.partition(":")[0]]
    assert seen.refused
    assert PLANTED[cause][0] in seen.findings[0].evidence
    assert seen.findings[0].severity == "error"
    if cause != "mis_normalised: twice":  # its clean accuracy is so near the record that either figure may show it
        assert (seen.robust is None) == (cause != "not_robust"), "nothing is measured with what is broken"
    text = seen.text()
    assert text.endswith("Refused.")
    assert as_arguments(seen.findings[0].next) in text
    with pytest.raises(ModelError, match=f"got {names(seen)[0]}: .*pass gate=False"):
        require(seen)


@pytest.mark.parametrize(
    "cause",
    ["mis_normalised: 0 .. 255", "not_loaded: all", "not_loaded: some", "not_loaded: no batch norm", "class_order"],
)
def test_plain_causes_show_without_a_record(sound, normalised, natural, val, cause):
    seen = examine_teacher(planted(cause, sound, normalised, natural), val, THREAT)
    assert names(seen) == [cause.partition(":")[0]]
    assert "record: none" in seen.text()


def test_a_wrong_scale_that_shows_under_attack_alone(normalised, val, record):
    """The clean accuracy reaches the record; the net is robust once the scale is right, and a natural one is not."""
    twice = planted("mis_normalised: twice", None, normalised, None)
    modest = dataclasses.replace(record, clean=0.9)
    (found,) = examine_teacher(twice, val, THREAT, record=modest).findings
    assert (found.name, found.severity) == ("mis_normalised", "error")
    assert found.evidence.startswith("PGD-20 at eps 0.1 leaves ")
    assert "without the normalisation by mean 0.31 and std 0.37 (the net's layer 0)" in found.evidence
    assert names(examine_teacher(twice, val, Linf(0.05), record=modest)) == ["mis_normalised"], "at the record's eps"
    natural = Wrapped(trained("natural"), before=lambda x: (x - 0.31) / 0.37).eval()
    assert names(examine_teacher(natural, val, THREAT, record=dataclasses.replace(record, clean=0.2))) == ["not_robust"]


def test_channels_in_another_order_and_published_statistics(val):
    net, images = trained("coloured"), coloured(val)
    clean = examine_teacher(net, images, THREAT, robust=False).clean.value
    said = Record(clean, None, None, "colour")
    assert examine_teacher(net, images, THREAT, robust=False, record=said).findings == []
    (found,) = examine_teacher(
        Wrapped(net, before=lambda x: x.flip(1)), images, THREAT, robust=False, record=said
    ).findings
    assert found.name == "mis_normalised"
    assert "blue, green, red" in found.evidence
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    (found,) = examine_teacher(
        Wrapped(net, before=lambda x: x * std + mean), images, THREAT, robust=False, record=said
    ).findings
    assert found.name == "mis_normalised"
    assert "with the images normalised by mean" in found.evidence
    assert re.search(r"--teacher.mean 0\.\d+ 0\.\d+ 0\.\d+ --teacher.std 0\.\d+ 0\.\d+ 0\.\d+,", found.next)


def test_8_bit_images(sound, val, record):
    bits = dataclasses.replace(val, images=(val.images * 255).round().to(torch.uint8))
    assert "mean 0.303" in repairs(sound, val)[0].seen
    assert "mean 0.303" in repairs(sound, bits)[0].seen
    assert examine_teacher(sound, bits, THREAT, record=record).findings == []
    assert names(examine_teacher(Wrapped(sound, before=lambda x: x / 255), bits, THREAT, record=record)) == [
        "mis_normalised"
    ]


def test_other_images_are_named(sound, val, record):
    turned = dataclasses.replace(val, images=val.images.rot90(1, (2, 3)), name="turned")
    (found,) = examine_teacher(sound, turned, THREAT, record=record).findings
    assert found.name == "other_images"
    assert "of turned" in found.evidence
    assert "about digits" in found.evidence
    renamed = dataclasses.replace(val, name="npz:digits.npz")
    assert examine_teacher(sound, renamed, THREAT, record=record).findings == [], "another name for the same images"


def test_other_classes_and_other_sizes(sound, val, record):
    (found,) = examine_teacher(Wrapped(sound, after=lambda z: z[:, :7]), val, THREAT).findings
    assert found.name == "misfit"
    assert "10 classes, got 7" in found.evidence
    assert found.next == "choose a net for 10 classes, or data of 7"
    large = dataclasses.replace(val, images=val.images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    seen = examine_teacher(sound, large, THREAT, record=record)
    assert names(seen) == ["misfit"]
    assert "(1, 8, 8)" in seen.findings[0].evidence
    assert seen.clean is None
    assert "clean: not measured" in seen.text()
    (found,) = examine_teacher(Wrapped(sound, after=lambda z: z / (z.amax() * 0)), val, THREAT).findings
    assert found.name == "misfit"
    assert "finite" in found.evidence
    assert names(examine_teacher(copy.deepcopy(sound).half(), val, THREAT)) == ["misfit"]
    assert names(examine_teacher(Wrapped(sound, before=lambda x: x[:, :, :2, :2].flatten()), val, THREAT)) == ["misfit"]


def test_norm_layers_that_nothing_uses_are_let_go(sound, val, record):
    spare = copy.deepcopy(sound)
    spare.unused = nn.BatchNorm2d(3)
    assert examine_teacher(spare, val, THREAT).findings == []
    assert examine_teacher(half_loaded(sound), val, THREAT, record=Record(0.2, 0.1, EPS, "modest")).findings == []


def test_fewer_images_than_classes_and_one_class(sound, val):
    assert names(examine_teacher(sound, val, THREAT, limit=5, robust=False)) == []
    assert at_chance(Proportion(45, 449), 0.1)
    assert not at_chance(Proportion(80, 449), 0.1)
    three = val.take(val.labels == 3)
    assert names(examine_teacher(sound, three, THREAT, robust=False)) == []
    assert names(examine_teacher(sound, val.take([int((val.labels == c).nonzero()[0]) for c in (0, 1)]), THREAT)) == []


def test_where_one_class_is_common_its_name_alone_is_no_skill_and_a_little_more_is(sound, natural, val):
    mostly = val.take(torch.cat([(val.labels == 3).nonzero()[:, 0], torch.arange(12)]))
    constant = Wrapped(sound, after=lambda z: 0.001 * z + 100 * torch.eye(10)[3])
    (found,) = examine_teacher(constant, mostly, THREAT, robust=False).findings
    assert (found.name, found.severity) == ("near_chance", "warning"), "a sound net may be no better on so few"
    assert names(examine_teacher(constant, mostly.take(torch.arange(len(mostly)).repeat(9)), THREAT)) == ["not_loaded"]
    common = val.take((val.labels == 3) | (val.index % 40 == 0))
    biased = Wrapped(sound, after=lambda z: z + 12 * torch.eye(10)[3])
    seen = examine_teacher(biased, common, THREAT, robust=False)
    assert seen.clean.value < 0.95
    assert seen.findings == []
    logits = torch.eye(4)[[0, 0, 1, 3]]
    assert chance_of(logits, torch.tensor([0, 1, 1, 2])) == pytest.approx(0.5 * 0.25 + 0.25 * 0.5)


def two_classes(n, right):
    """n images that hold their class, a net that reads it, and the first `right` of them as they should be."""
    y = torch.arange(n) % 2
    shown = torch.where(torch.arange(n) < right, y, 1 - y)
    x = torch.zeros(n, 1, 2, 2)
    x[:, 0, 0] = torch.stack([1 - shown, shown], 1).float()
    net = Wrapped(nn.Flatten(), after=lambda z: 9 * z[:, :2])
    return net, Split(x, y, 2, "two", "val")


def test_where_the_record_is_reached_chance_refuses_nobody():
    net, few = two_classes(20, 16)
    seen = examine_teacher(net, few, THREAT, record=Record(0.8, None, None, "modest", data="others"))
    assert names(seen) == ["near_chance"]
    assert not seen.refused
    require(seen)
    assert "80.0 [58.4, 91.9] % of 20 images" in seen.findings[0].evidence
    assert "50.0 % of which" in seen.findings[0].evidence
    assert "judge 126 images or more: ardor gate TEACHER --limit 126" in seen.findings[0].next
    assert seen.text().endswith("Passed, with the warning above.")
    net, many = two_classes(200, 116)
    seen = examine_teacher(net, many, THREAT, record=Record(0.58, None, None, "modest"))
    assert names(seen) == ["near_chance"]
    assert "as recorded, and not above blind guesses" in seen.findings[0].evidence
    assert "train the teacher longer" in seen.findings[0].next
    missed = examine_teacher(net, many, THREAT, record=Record(0.95, None, None, "boaster"))
    assert names(missed) == ["not_loaded"]
    assert missed.refused


def test_where_the_record_is_reached_other_images_or_classes_are_no_evidence(sound, val):
    hardly_trained = Wrapped(sound, before=lambda x: x / 255)  # right far more often on other images than its own
    seen = examine_teacher(hardly_trained, val, THREAT, record=Record(0.1, None, None, "one epoch"), robust=False)
    assert names(seen) == ["near_chance"]
    assert not seen.refused


def test_without_a_record_few_images_at_chance_are_warned_of_and_many_refused():
    assert names(examine_teacher(*two_classes(20, 16), THREAT)) == ["near_chance"]
    assert names(examine_teacher(*two_classes(124, 70), THREAT)) == ["near_chance"]
    assert names(examine_teacher(*two_classes(126, 70), THREAT)) == ["not_loaded"]
    assert examine_teacher(*two_classes(126, 98), THREAT).findings == []
    assert names(examine_teacher(*two_classes(20, 11), THREAT, record=Record(0.98, None, None, "good"))) == [
        "not_loaded"
    ]


def test_enough_images_keep_a_net_halfway_from_looking_blind():
    assert [enough(c) for c in (0.5, 0.1, 0.01)] == [126, 29, 14]
    for chance in (0.5, 0.1, 0.01):
        n, half = enough(chance), (1 + chance) / 2
        low = half - 3 * math.sqrt(half * (1 - half) / n)
        assert not at_chance(Proportion(math.ceil(low * n), n), chance)
        assert at_chance(Proportion(math.floor(low * n) - 1, n), chance)


def test_a_record_is_missed_where_chance_would_miss_it_once_in_a_thousand():
    for n, said in ((3, 0.98), (20, 0.8), (135, 0.95), (1000, 0.7)):
        missed = [short(Proportion(k, n), said, 0.01) for k in range(n + 1)]
        assert missed == [bool(binom.cdf(k, n, said - 0.01) < 0.0013499) for k in range(n + 1)]
        assert missed[0]
    assert not short(Proportion(0, 1000), 0.01, 0.01)
    assert not short(Proportion(2, 3), 1.0, 0.01)


def test_three_images_refuse_no_sound_run(sound, val, record):
    for start in range(0, 60, 3):
        part = val.take(slice(start, start + 3))
        assert not examine_teacher(sound, part, THREAT, record=record, robust=False).refused


# Robustness


def test_trained_for_a_smaller_eps_or_natural(natural, val):
    quarter = trained("smaller_eps")
    (found,) = examine_teacher(quarter, val, Linf(0.25), limit=200).findings
    assert found.name == "not_robust"
    assert "smaller eps, about 0.0625" in found.next
    assert "at half of this eps" in found.evidence
    (found,) = examine_teacher(quarter, val, Linf(0.15), record=Record(0.9, 0.6, 0.15, "boaster"), limit=200).findings
    assert "about 0.075" in found.next
    (found,) = examine_teacher(natural, val, Linf(0.5), limit=200).findings
    assert "it looks natural" in found.next
    assert found.next.endswith("choose a robust one, or a method such as kd")
    (found,) = examine_teacher(natural, val, Linf(0.5), limit=200, linear=True).findings
    assert found.next.endswith("a robust one, for this method needs a locally linear teacher, which no natural net is")


def test_the_record_is_compared_at_its_own_eps(sound, val, record):
    small = dataclasses.replace(record, robust=0.9, eps=0.03)
    (found,) = examine_teacher(sound, val, THREAT, record=small, limit=200).findings
    assert (found.name, found.severity) == ("other_eps", "warning")
    assert "linf eps 0.03, and the threat is linf eps 0.1" in found.evidence
    seen = examine_teacher(sound, val, THREAT, record=dataclasses.replace(small, robust=0.99), limit=200)
    assert names(seen) == ["not_robust"], "the warning goes with it"
    assert "where it leaves" in seen.findings[0].evidence
    assert (
        names(examine_teacher(sound, val, THREAT, record=dataclasses.replace(record, eps=EPS * 0.985), limit=200)) == []
    )
    far = examine_teacher(sound, val, THREAT, record=dataclasses.replace(record, norm="l2", robust=0.99), limit=200)
    assert names(far) == ["other_eps"], "of another norm nothing follows"
    assert not far.refused
    assert names(examine_teacher(sound, val, L2(0.2), record=record, limit=200)) == ["other_eps"]


def test_a_weaker_attack_leaves_more_right_than_pgd_20(sound, val, record):
    k, n = round(record.robust * 449), 449
    high = Proportion(k, n).value + 0.1
    assert names(examine_teacher(sound, val, THREAT, record=dataclasses.replace(record, robust=high))) == ["not_robust"]
    weaker = dataclasses.replace(record, robust=high, attack="PGD-10")
    assert examine_teacher(sound, val, THREAT, record=weaker).findings == []
    weaker = dataclasses.replace(weaker, robust=high + 0.1)
    assert names(examine_teacher(sound, val, THREAT, record=weaker)) == ["not_robust"]
