"""Each cause of a bad teacher, planted: the gate names it, and it alone; a sound teacher of any seed may teach."""

import copy
import dataclasses
import importlib.util
import json
import math
import re
import shutil
import types
from pathlib import Path

import pytest
import torch
from flawed import Wrapped
from torch import nn

import ardor
from ardor.attacks import PGD
from ardor.commands import gate as command
from ardor.data.split import Split
from ardor.errors import ConfigError, DataError, ModelError
from ardor.gate import Claim, Entropy, Gate, claim_of, gate, require, wants_robust
from ardor.gate.bench import Bench
from ardor.gate.causes import GAIN, at_chance, brings_back, chance_of, class_order, enough, repairs
from ardor.gate.robust import short, within
from ardor.losses import margin
from ardor.models import known as known_teachers
from ardor.noise import Noise
from ardor.report.stats import Proportion
from ardor.testing import require_same, snapshot
from ardor.testing.shared import global_rng
from ardor.threat import L2, Linf

SHARED = Path(__file__).parents[2] / "shared"
EPS = 0.1
THREAT = Linf(EPS)
ORDER = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]


@pytest.fixture(scope="module")
def digits():
    return ardor.data.load("digits")


@pytest.fixture(scope="module")
def val(digits):
    """More images than val has, so that intervals are narrow."""
    return digits[2]


def coloured(split):
    x = split.images
    return dataclasses.replace(split, images=torch.cat([x, 0.5 * x, 1 - x], 1))


def taught(method, train, epochs, seed=0, width=8, **options):
    net = ardor.models.build("small_cnn", classes=10, channels=train.shape[0], width=width, seed=seed, **options)
    recipe = ardor.Recipe(
        epochs=epochs, batch=64, lr=0.2, augment="none", schedule="one-cycle", device="cpu", seed=seed
    )
    ardor.distill(net, None, method, train, recipe)
    return net.eval()


def sat(eps=EPS):
    return ardor.methods.SAT(PGD(Linf(eps), steps=3))


@pytest.fixture(scope="module")
def sound(digits):
    return taught(sat(), digits[0], 4)


@pytest.fixture(scope="module")
def normalised(digits):
    """The same, normalising inside."""
    return taught(sat(), digits[0], 4, mean=[0.31], std=[0.37])


@pytest.fixture(scope="module")
def natural(digits):
    return taught(ardor.methods.Natural(), digits[0], 3)


@pytest.fixture(scope="module")
def record(sound, val):
    seen = gate(sound, val, THREAT)
    return Claim(seen.clean.value, seen.robust.value, EPS, "sound", data="digits", shape=(1, 8, 8))


def names(seen):
    return [finding.name for finding in seen.findings]


# What is measured


def test_a_sound_teacher_passes_and_was_measured(sound, val, record):
    seen = gate(sound, val, THREAT, record=record)
    assert seen.findings == []
    assert not seen.refused
    assert seen.transfer is None
    assert seen.n == seen.clean.n == seen.robust.n == 449
    with torch.no_grad():
        logits = sound(val.images)
    right = logits.argmax(1) == val.labels
    assert seen.clean.k == int(right.sum()) > 430
    x_adv = PGD(THREAT, steps=20)(sound, val.images, val.labels, Noise(0, val.index, "gate"))
    with torch.no_grad():
        attacked = sound(x_adv)
    assert abs(seen.robust.k - int((right & (attacked.argmax(1) == val.labels)).sum())) <= 1
    assert 300 < seen.robust.k < 360
    p = logits.softmax(1)
    nats = -(p * p.log()).sum(1)
    assert seen.entropy.clean == pytest.approx(float(nats.mean()), rel=1e-3)
    hard = margin(attacked, val.labels).topk(113).indices
    assert seen.entropy.hard == pytest.approx(float(nats[hard].mean()), rel=0.01)
    assert seen.entropy.hard > 2 * seen.entropy.clean
    require(seen)


def test_the_share_of_the_entropy_is_of_log_c():
    assert Entropy(1.0, None, 10).share(math.log(10)) == 1
    uniform = Wrapped(nn.Flatten(), after=lambda z: z[:, :10] * 0)
    split = Split(
        torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10, 10, "", "val"
    )
    assert gate(uniform, split, THREAT).entropy.clean == pytest.approx(math.log(10))


def test_transfer_counts_the_students_examples_that_fool_the_teacher(sound, natural, val):
    seen = gate(sound, val, THREAT, student=natural, seed=3)
    x_adv = PGD(THREAT, steps=20)(natural, val.images, val.labels, Noise(3, val.index, "gate"))
    with torch.no_grad():
        right = [net(val.images).argmax(1) == val.labels for net in (sound, natural)]
        wrong = [net(x_adv).argmax(1) != val.labels for net in (sound, natural)]
    fooled = right[0] & right[1] & wrong[1]
    assert abs(seen.transfer.n - int(fooled.sum())) <= 2
    assert abs(seen.transfer.k - int((fooled & wrong[0]).sum())) <= 2
    assert 0 < seen.transfer.k < seen.transfer.n < 400
    same = gate(natural, val, THREAT, student=natural).transfer
    assert same.k == same.n > 200, "its own examples"
    assert f"{seen.transfer} % of {seen.transfer.n}" in seen.text()


def test_a_student_without_adversarial_examples_and_one_that_does_not_fit(sound, natural, val):
    seen = gate(sound, val, Linf(1e-6), student=natural, limit=50)
    assert seen.transfer == Proportion(0, 0)
    assert "it has none here" in seen.text()
    with pytest.raises(ModelError, match="student"):
        gate(sound, val, THREAT, student=Wrapped(natural, after=lambda z: z[:, :7]), limit=50)


def test_nothing_depends_on_batch_and_nothing_is_left_behind(sound, natural, val):
    teacher, student = copy.deepcopy(sound).train(), copy.deepcopy(natural).train()
    next(teacher.parameters()).requires_grad_(False)
    before, rng = (snapshot(teacher), snapshot(student)), global_rng()
    one = gate(teacher, val, THREAT, student=student, limit=60)
    assert global_rng() == rng
    require_same(before[0], snapshot(teacher), "gate", "teacher")
    require_same(before[1], snapshot(student), "gate", "student")
    odd = gate(teacher, val, THREAT, student=student, limit=60, batch=17)
    assert (one.clean, one.robust, one.transfer) == (odd.clean, odd.robust, odd.transfer)
    assert one.n == 60
    assert not any(module._forward_hooks for module in teacher.modules())


def test_a_method_without_attacks_wants_no_robust_teacher(natural, val):
    assert names(gate(natural, val, Linf(0.25))) == ["not_robust"]
    seen = gate(natural, val, Linf(0.25), robust=False)
    assert seen.findings == []
    assert seen.robust is None
    assert seen.entropy.hard is None
    assert "PGD-20 at eps 0.25: not measured" in seen.text()
    wanting = {name: wants_robust(getattr(ardor.methods, name)()) for name in ardor.methods.__all__}
    assert not wanting["KD"]
    assert wanting["RSLAD"]
    assert wanting["ARD"]
    assert not wants_robust(ardor.methods.KD)
    assert wants_robust(object()), "a method of one's own is not known to do without"


def test_parts_are_told(sound, val):
    told = []
    gate(sound, val, THREAT, limit=20, progress=lambda *row: told.append(row))
    assert told == [("clean", 0, 4), ("causes", 1, 4), ("PGD-20", 2, 4), ("student", 3, 4)]


# Sound teachers


@pytest.mark.parametrize("seed", range(6))
def test_sound_teachers_of_other_seeds_pass_with_and_without_a_record(digits, val, seed):
    """Wide and narrow, hardly trained and well; on few images and many; against the record of all the images."""
    method = ardor.methods.Natural() if seed % 2 else sat()
    net = taught(method, digits[0], 1 + seed // 2, seed, width=4 + 4 * (seed % 2))
    eps = (0.03, 0.1)[seed % 2 == 0]
    whole = gate(net, val, Linf(eps))
    assert whole.findings == []
    said = Claim(whole.clean.value, whole.robust.value, eps, "whole")
    for images, limit in ((val, 100), (digits[1], 1000), (val, 30)):
        assert gate(net, images, Linf(eps), limit=limit, record=said, seed=seed).findings == []
        assert gate(net, images, Linf(eps), limit=limit, seed=seed).findings == []


def test_better_than_the_record_is_welcome(sound, val):
    assert gate(sound, val, THREAT, record=Claim(0.5, 0.2, EPS, "modest")).findings == []


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


def shuffled(z):
    return z[:, ORDER]


def planted(cause, sound, normalised, natural):
    net = natural if cause == "not_robust" else PLANTED[cause][1](sound, normalised)
    if cause == "not_loaded: no batch norm":
        net[1].weight.data = torch.linspace(-1, 1, 640)[torch.arange(640) * 37 % 640].reshape(10, 64)
    return net.eval()


@pytest.mark.parametrize("cause", PLANTED)
def test_a_planted_cause_is_named_and_it_alone(sound, normalised, natural, val, record, cause):
    seen = gate(planted(cause, sound, normalised, natural), val, THREAT, record=record)
    assert names(seen) == [cause.partition(":")[0]]
    assert seen.refused
    assert PLANTED[cause][0] in seen.findings[0].evidence
    assert seen.findings[0].severity == "error"
    assert (seen.robust is None) == (cause != "not_robust"), "nothing is measured with what is broken"
    text = seen.text()
    assert text.endswith("Refused.")
    assert seen.findings[0].next in text
    with pytest.raises(ModelError, match=f"got {names(seen)[0]}: .*type --gate=false"):
        require(seen)


@pytest.mark.parametrize(
    "cause",
    ["mis_normalised: 0 .. 255", "not_loaded: all", "not_loaded: some", "not_loaded: no batch norm", "class_order"],
)
def test_plain_causes_show_without_a_record(sound, normalised, natural, val, cause):
    seen = gate(planted(cause, sound, normalised, natural), val, THREAT)
    assert names(seen) == [cause.partition(":")[0]]
    assert "record: none" in seen.text()


def test_channels_in_another_order_and_published_statistics(digits, val):
    train, images = coloured(digits[0]), coloured(val)
    net = taught(ardor.methods.Natural(), train, 3)
    clean = gate(net, images, THREAT, robust=False).clean.value
    said = Claim(clean, None, None, "colour")
    assert gate(net, images, THREAT, robust=False, record=said).findings == []
    (found,) = gate(Wrapped(net, before=lambda x: x.flip(1)), images, THREAT, robust=False, record=said).findings
    assert found.name == "mis_normalised"
    assert "blue, green, red" in found.evidence
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    (found,) = gate(Wrapped(net, before=lambda x: x * std + mean), images, THREAT, robust=False, record=said).findings
    assert found.name == "mis_normalised"
    assert "with the images normalised by mean" in found.evidence
    assert re.search(r"--teacher.mean 0\.\d+ 0\.\d+ 0\.\d+ --teacher.std 0\.\d+ 0\.\d+ 0\.\d+,", found.next)


def test_8_bit_images(sound, val, record):
    bits = dataclasses.replace(val, images=(val.images * 255).round().to(torch.uint8))
    assert "mean 0.303" in repairs(sound, val)[0].seen
    assert "mean 0.303" in repairs(sound, bits)[0].seen
    assert gate(sound, bits, THREAT, record=record).findings == []
    assert names(gate(Wrapped(sound, before=lambda x: x / 255), bits, THREAT, record=record)) == ["mis_normalised"]


def test_other_images_are_named(sound, val, record):
    turned = dataclasses.replace(val, images=val.images.rot90(1, (2, 3)), name="turned")
    (found,) = gate(sound, turned, THREAT, record=record).findings
    assert found.name == "other_images"
    assert "of turned" in found.evidence
    assert "about digits" in found.evidence
    renamed = dataclasses.replace(val, name="npz:digits.npz")
    assert gate(sound, renamed, THREAT, record=record).findings == [], "another name for the same images"


def test_other_classes_and_other_sizes(sound, val, record):
    (found,) = gate(Wrapped(sound, after=lambda z: z[:, :7]), val, THREAT).findings
    assert found.name == "misfit"
    assert "10 classes, got 7" in found.evidence
    assert found.next.startswith("type --teacher.classes")
    large = dataclasses.replace(val, images=val.images.repeat_interleave(2, 2).repeat_interleave(2, 3))
    seen = gate(sound, large, THREAT, record=record)
    assert names(seen) == ["misfit"]
    assert "(1, 8, 8)" in seen.findings[0].evidence
    assert seen.clean is None
    assert "clean: not measured" in seen.text()
    (found,) = gate(Wrapped(sound, after=lambda z: z / (z.amax() * 0)), val, THREAT).findings
    assert found.name == "misfit"
    assert "finite" in found.evidence
    assert names(gate(copy.deepcopy(sound).half(), val, THREAT)) == ["misfit"]
    assert names(gate(Wrapped(sound, before=lambda x: x[:, :, :2, :2].flatten()), val, THREAT)) == ["misfit"]


def test_norm_layers_that_nothing_uses_are_let_go(sound, val, record):
    spare = copy.deepcopy(sound)
    spare.unused = nn.BatchNorm2d(3)
    assert gate(spare, val, THREAT).findings == []
    assert gate(half_loaded(sound), val, THREAT, record=Claim(0.2, 0.1, EPS, "modest")).findings == []


def test_fewer_images_than_classes_and_one_class(sound, val):
    assert names(gate(sound, val, THREAT, limit=5, robust=False)) == []
    assert at_chance(Proportion(45, 449), 0.1)
    assert not at_chance(Proportion(80, 449), 0.1)
    three = val.take(val.labels == 3)
    assert names(gate(sound, three, THREAT, robust=False)) == []
    assert names(gate(sound, val.take([int((val.labels == c).nonzero()[0]) for c in (0, 1)]), THREAT)) == []


def test_where_one_class_is_common_its_name_alone_is_no_skill_and_a_little_more_is(sound, natural, val):
    mostly = val.take(torch.cat([(val.labels == 3).nonzero()[:, 0], torch.arange(12)]))
    constant = Wrapped(sound, after=lambda z: 0.001 * z + 100 * torch.eye(10)[3])
    (found,) = gate(constant, mostly, THREAT, robust=False).findings
    assert (found.name, found.severity) == ("near_chance", "warning"), "a sound net may be no better on so few"
    assert names(gate(constant, mostly.take(torch.arange(len(mostly)).repeat(9)), THREAT)) == ["not_loaded"]
    common = val.take((val.labels == 3) | (val.index % 40 == 0))
    biased = Wrapped(sound, after=lambda z: z + 12 * torch.eye(10)[3])
    seen = gate(biased, common, THREAT, robust=False)
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
    seen = gate(net, few, THREAT, record=Claim(0.8, None, None, "modest", data="others"))
    assert names(seen) == ["near_chance"]
    assert not seen.refused
    require(seen)
    assert "80.0 [58.4, 91.9] % of 20 images" in seen.findings[0].evidence
    assert "50.0 % of which" in seen.findings[0].evidence
    assert "say 126:" in seen.findings[0].next
    net, many = two_classes(200, 116)
    seen = gate(net, many, THREAT, record=Claim(0.58, None, None, "modest"))
    assert names(seen) == ["near_chance"]
    assert "say 400:" in seen.findings[0].next
    missed = gate(net, many, THREAT, record=Claim(0.95, None, None, "boaster"))
    assert names(missed) == ["not_loaded"]
    assert missed.refused


def test_without_a_record_few_images_at_chance_are_warned_of_and_many_refused():
    assert names(gate(*two_classes(20, 16), THREAT)) == ["near_chance"]
    assert names(gate(*two_classes(124, 70), THREAT)) == ["near_chance"]
    assert names(gate(*two_classes(126, 70), THREAT)) == ["not_loaded"]
    assert gate(*two_classes(126, 98), THREAT).findings == []
    assert names(gate(*two_classes(20, 11), THREAT, record=Claim(0.98, None, None, "good"))) == ["not_loaded"]


def test_enough_images_keep_a_net_halfway_from_looking_blind():
    assert [enough(c) for c in (0.5, 0.1, 0.01)] == [126, 29, 14]
    for chance in (0.5, 0.1, 0.01):
        n, half = enough(chance), (1 + chance) / 2
        low = half - 3 * math.sqrt(half * (1 - half) / n)
        assert not at_chance(Proportion(math.ceil(low * n), n), chance)
        assert at_chance(Proportion(math.floor(low * n) - 1, n), chance)


def test_a_record_is_missed_where_chance_would_miss_it_once_in_a_thousand():
    binom = pytest.importorskip("scipy.stats").binom
    for n, said in ((3, 0.98), (20, 0.8), (135, 0.95), (1000, 0.7)):
        missed = [short(Proportion(k, n), said, 0.01) for k in range(n + 1)]
        assert missed == [bool(binom.cdf(k, n, said - 0.01) < 0.0013499) for k in range(n + 1)]
        assert missed[0]
    assert not short(Proportion(0, 1000), 0.01, 0.01)
    assert not short(Proportion(2, 3), 1.0, 0.01)


def test_three_images_refuse_no_sound_run(sound, val, record):
    for start in range(0, 60, 3):
        part = val.take(slice(start, start + 3))
        assert not gate(sound, part, THREAT, record=record, robust=False).refused


# Robustness


def test_trained_for_a_smaller_eps_or_natural(digits, natural, val):
    quarter = taught(sat(0.03), digits[0], 4)
    (found,) = gate(quarter, val, Linf(0.25), limit=200).findings
    assert found.name == "not_robust"
    assert "smaller eps, about 0.0625" in found.next
    assert "at half of this eps" in found.evidence
    (found,) = gate(quarter, val, Linf(0.15), record=Claim(0.9, 0.6, 0.15, "boaster"), limit=200).findings
    assert "about 0.075" in found.next
    (found,) = gate(natural, val, Linf(0.5), limit=200).findings
    assert "it looks natural" in found.next


def test_the_record_is_compared_at_its_own_eps(sound, val, record):
    small = dataclasses.replace(record, robust=0.9, eps=0.03)
    (found,) = gate(sound, val, THREAT, record=small, limit=200).findings
    assert (found.name, found.severity) == ("other_eps", "warning")
    assert "linf eps 0.03, and the threat is linf eps 0.1" in found.evidence
    seen = gate(sound, val, THREAT, record=dataclasses.replace(small, robust=0.99), limit=200)
    assert names(seen) == ["not_robust"], "the warning goes with it"
    assert "where it leaves" in seen.findings[0].evidence
    assert names(gate(sound, val, THREAT, record=dataclasses.replace(record, eps=EPS * 0.985), limit=200)) == []
    far = gate(sound, val, THREAT, record=dataclasses.replace(record, norm="l2", robust=0.99), limit=200)
    assert names(far) == ["other_eps"], "of another norm nothing follows"
    assert not far.refused
    assert names(gate(sound, val, L2(0.2), record=record, limit=200)) == ["other_eps"]


def test_a_weaker_attack_leaves_more_right_than_pgd_20(sound, val, record):
    k, n = round(record.robust * 449), 449
    high = Proportion(k, n).value + 0.1
    assert names(gate(sound, val, THREAT, record=dataclasses.replace(record, robust=high))) == ["not_robust"]
    weaker = dataclasses.replace(record, robust=high, attack="PGD-10")
    assert gate(sound, val, THREAT, record=weaker).findings == []
    weaker = dataclasses.replace(weaker, robust=high + 0.1)
    assert names(gate(sound, val, THREAT, record=weaker)) == ["not_robust"]


# Pieces


def test_an_image_that_was_wrong_before_the_attack_is_never_right_under_it(sound, val):
    part = val.take(slice(0, 20))
    bench = Bench(sound, sound, part, 20, 0)
    assert within(bench, torch.zeros(20, dtype=torch.bool), THREAT, 1e-4).k == 0
    assert within(bench, torch.ones(20, dtype=torch.bool), THREAT, 1e-4).k > 15


def test_an_order_is_one_to_one_even_where_classes_are_never_predicted():
    z = torch.zeros(6, 3)
    z[:, 2] = 5.0
    order = class_order(z, torch.tensor([0, 0, 0, 1, 1, 2]))
    assert sorted(order.tolist()) == [0, 1, 2]
    assert int(order[0]) == 2


def test_a_repair_must_win_more_than_luck_would():
    before, after = torch.zeros(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    after[: round(100 * GAIN)] = True
    assert brings_back(before, after, None)
    after[0] = False
    assert not brings_back(before, after, None)
    said = Claim(0.2, None, None, "")
    assert brings_back(before, after, said)
    few = torch.zeros(10, dtype=torch.bool)
    assert not brings_back(few, torch.arange(10) < 3, said), "three of ten"
    assert not brings_back(after, after, Claim(0.1, None, None, "")), "nothing won is nothing repaired"


def test_repairs_fit_the_channels_and_try_what_is_inside(normalised, val):
    said = [repair.seen for repair in repairs(normalised, val)]
    assert len(said) == 8
    assert not any("blue" in seen or "ImageNet" in seen for seen in said)
    assert any("MNIST" in seen for seen in said)


def test_numbers_that_cannot_be_meant(sound, val):
    with pytest.raises(DataError, match="batch"):
        gate(sound, val, THREAT, batch=0)
    with pytest.raises(ConfigError, match="at least 1 image"):
        gate(sound, val, THREAT, limit=0)
    with pytest.raises(ConfigError, match=r"0\.6925"):
        Claim(69.25, None, None, "me")
    with pytest.raises(ConfigError, match="eps"):
        Claim(0.9, 0.5, None, "me")


def test_require_names_the_first_error_and_lets_warnings_pass():
    finding = ardor.gate.judge.Finding
    warned = Gate(1, THREAT, findings=[finding("other_eps", "warning", "seen", "next")])
    require(warned)
    warned.findings += [finding("misfit", "error", "one", "do one"), finding("not_robust", "error", "two", "do two")]
    with pytest.raises(ModelError, match="got misfit: one; do one, or type --gate=false to train all the same"):
        require(warned)
    with pytest.raises(ModelError, match="got misfit: one; do one, or leave the row out$"):
        require(warned, otherwise="leave the row out")


# Records


def test_the_record_of_a_known_teacher(monkeypatch):
    said = types.SimpleNamespace(
        id="Known2026",
        data="cifar10",
        clean=0.85,
        autoattack=0.53,
        eps=0.031,
        norm="Linf",
        shape=(3, 32, 32),
        classes=10,
    )
    monkeypatch.setattr(known_teachers, "known_of", lambda net: said)
    claim = claim_of("robustbench:Known2026", nn.Identity())
    assert claim == Claim(0.85, 0.53, 0.031, "Known2026", "AutoAttack", "linf", "cifar10", (3, 32, 32))
    monkeypatch.setattr(known_teachers, "known_of", lambda net: None)
    assert claim_of("resnet18", nn.Identity()) is None
    assert claim_of(None, nn.Identity()) is None


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    recipe = ardor.Recipe(
        epochs=2, batch=64, lr=0.2, augment="none", schedule="one-cycle", device="cpu", val_attack=PGD(THREAT, steps=7)
    )
    net = ardor.models.build("small_cnn", classes=10, channels=1, width=8)
    ardor.distill(net, None, sat(), digits[0], dataclasses.replace(recipe, val_every=1), val=digits[1], run=folder)
    return folder


def test_the_record_of_a_run_is_of_the_checkpoint_that_was_loaded(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    claim = claim_of(run, ardor.models.load(run, checkpoint="last"))
    last = [line for line in lines if line.get("epoch") == 2][-1]
    assert (claim.clean, claim.robust) == (last["val_clean"], last["val_robust"])
    assert claim.of == f"{run} (last)"
    best = claim_of(str(run), ardor.models.load(run))
    assert best.robust == max(line["val_robust"] for line in lines if "val_robust" in line)
    assert (best.eps, best.attack, best.norm, best.data) == (EPS, "PGD-7", "linf", "digits")
    assert best.of == f"{run} (best)"
    assert claim_of(run, nn.Identity()) == best


def test_a_run_that_was_never_validated_has_no_record(run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.yaml", "best.safetensors"):
        (bare / name).write_bytes((run / name).read_bytes())
    assert claim_of(bare, nn.Identity()) is None


# The shell


def shell(words, capsys):
    app = command.app(words)
    code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    return code, capsys.readouterr().out


def test_ardor_gate_on_a_run(run, capsys):
    code, out = shell([str(run), "--student", str(run), "--student.checkpoint", "last"], capsys)
    assert code == 0
    assert out.startswith(f"{run} as a teacher, on 135 images of digits (val)\n")
    assert "under PGD-7 at eps 0.1" in out
    assert "PGD-20 at eps 0.1: " in out
    assert "examples: not measured" not in out
    assert out.endswith("Passed.\n")
    code, out = shell([str(run), "--threat.eps", "0.4", "--limit", "60"], capsys)
    assert code == 1
    assert "error: not_robust" in out
    code, out = shell([str(run), "--threat.eps", "0.4", "--method", "kd", "--part", "test"], capsys)
    assert code == 0
    assert "PGD-20 at eps 0.4: not measured" in out
    assert "of digits (test)" in out


def test_ardor_gate_on_weights(run, capsys):
    words = ["small_cnn", "--teacher.weights", str(run / "best.safetensors"), "--teacher.width", "8"]
    code, out = shell([*words, "--data", "digits", "--threat.eps", "0.1", "--seed", "2"], capsys)
    assert code == 0
    assert "record: none" in out
    with pytest.raises(ConfigError, match="--data"):
        shell(words, capsys)
    with pytest.raises(ConfigError, match="expected a teacher"):
        shell([], capsys)
    with pytest.raises(ConfigError, match="got /nosuch, where there is none: check the path"):
        shell(["/nosuch"], capsys)
    with pytest.raises(ConfigError, match=r'got "resnet81", which is neither .did you mean "resnet18"'):
        shell(["resnet81"], capsys)


# Nets of others


MEAN, STD = (torch.tensor(v).reshape(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)))
PUBLISHED = {
    "nothing": lambda net: net,
    "normalised by mean": lambda net: Wrapped(net, before=lambda x: x * STD + MEAN),
    "without the normalisation": lambda net: Wrapped(net, before=lambda x: (x - MEAN) / STD),
    "0 .. 255": lambda net: Wrapped(net, before=lambda x: x / 255),
    "blue, green, red": lambda net: Wrapped(net, before=lambda x: x.flip(1)),
    "in the order": lambda net: Wrapped(net, after=shuffled),
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A net without batch norm that others made, test images, and what its index says of it."""
    if not (SHARED / "checkpoints" / "index.json").is_file():
        pytest.skip("the published nets are not beside the repository")
    folder = tmp_path_factory.mktemp("published")
    copies = [shutil.copy(SHARED / part, folder) for part in ("data/packs.py", "checkpoints/archs.py")]
    spec = importlib.util.spec_from_file_location("packs_of_the_gate", copies[0])
    packs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packs)
    arrays = packs.read(SHARED / "data" / "cifar10_test.pack.zip")
    images, labels = (torch.from_numpy(arrays[key][:400]) for key in ("x_test", "y_test"))
    split = Split(images.permute(0, 3, 1, 2).contiguous(), labels.long(), 10, "cifar10", "test")
    name = "cifar10_resnet2b_adv2"
    said = json.loads((SHARED / "checkpoints" / "index.json").read_text())[name]
    claim = Claim(said["clean_10000"], said["pgd20_first200"]["2/255"], 2 / 255, name, data="cifar10")
    weights = SHARED / "checkpoints" / f"{name}.safetensors"
    net = ardor.models.load(f"{copies[1]}:PlainResNet", weights=weights, width=8, stages=1, flat=1024)
    return Wrapped(net, before=lambda x: (x - MEAN) / STD).eval(), split, claim


@pytest.mark.parametrize("flaw", PUBLISHED)
def test_a_published_net_and_what_may_happen_to_it(published, flaw):
    net, split, claim = published
    seen = gate(PUBLISHED[flaw](net), split, Linf(2 / 255), record=claim)
    assert seen.refused == (flaw != "nothing")
    assert len(seen.findings) == seen.refused
    assert all(flaw in finding.evidence for finding in seen.findings)
