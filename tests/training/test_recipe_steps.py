"""Warm-up and schedules, clipping, accumulation, the ramp of the radius, and the end of a run by its patience."""

import copy
import dataclasses
import math
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from ardor import methods
from ardor.attacks import APGD, FGSM, PGD, WorstCase
from ardor.attacks.threat import L2, Linf
from ardor.errors import ConfigError, RunError
from ardor.losses import ce
from ardor.noise import Noise, seeded
from ardor.storage.config import build, describe
from ardor.training.averaging import EMA
from ardor.training.loop import epochs, step
from ardor.training.optimisers import SGD, AdamW
from ardor.training.radius import Still, at_radius, radius_at
from ardor.training.recipe import Recipe, lr_at
from ardor.training.state import learned_state, named_parameters
from tests.conftest import splits
from tests.training.conftest import PGD2, ended, lines, net, recipe, require_same, rslad
from tests.training.test_optimisers import require_resumed

# --- the rate


def test_warm_up_multiplies_the_rate_of_any_schedule():
    for schedule in ("milestones", "cosine", "one-cycle"):
        plain, warm = (Recipe(epochs=10, schedule=schedule, warmup=warmup) for warmup in (0, 2))
        assert lr_at(warm, 0) == pytest.approx(lr_at(plain, 0) / 100)
        assert lr_at(warm, 1) == pytest.approx(lr_at(plain, 1) * 0.505)
        assert [lr_at(warm, t) for t in (2, 2.5, 9)] == [lr_at(plain, t) for t in (2, 2.5, 9)]


SCHEDULES = "def poly(share, power=1.0):\n    return (1 - share) ** power\n\ndef none(share):\n    return None\n"


def test_a_third_party_schedule(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.py").write_text(SCHEDULES)
    plain = build({"schedule": "s.py:poly"}, "recipe", default=Recipe(epochs=4, lr=1.0))
    assert lr_at(plain, 1) == 0.75
    content = {"name": "s.py:poly", "power": 2.0}
    squared = build({"schedule": content}, "recipe", default=Recipe(epochs=4, lr=1.0))
    assert lr_at(squared, 1) == 0.75**2
    assert describe(squared)["schedule"] == content
    assert describe(build(describe(squared), "recipe")) == describe(squared)
    wrong = build({"schedule": "s.py:none"}, "recipe", default=recipe())
    with pytest.raises(ConfigError, match="schedule as a function to a finite number of 0 or more, got None"):
        next(epochs(net(), None, methods.Natural(), splits()[0], wrong, run=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"warmup": -1}, "warmup as epochs from 0"),
        ({"warmup": 301}, "warmup as epochs from 0 to those of the run"),
        ({"clip": 0}, "clip as a norm above 0"),
        ({"accumulate": 129}, "accumulate as parts from 1 to the images of the batch"),
        ({"accumulate": 0}, "accumulate as parts from 1"),
        ({"patience": -1}, "patience as a number of validations"),
        ({"eps_ramp": "5"}, "eps_ramp as 2 values"),
        ({"eps_ramp": [5, 4]}, "eps_ramp as two epochs of the run"),
        ({"eps_ramp": [5, 301]}, "eps_ramp as two epochs of the run"),
        ({"schedule": "cosin"}, "schedule as one of milestones, cosine, one-cycle or file.py:Name, got 'cosin'"),
        ({"schedule": "s.py:none"}, "not there"),
    ],
)
def test_a_value_that_is_refused(content, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(content, "recipe", default=Recipe())


# --- one step


def images(n):
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def plain(seed):
    """A net without batch norm, in float64: the sign of a gradient that is nearly 0 depends on rounding."""
    with seeded(seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 10)).double()


def gradients(method, x, y, **options):
    """The gradients of a step, by name, its update, and what the method has learned after it."""
    student, teacher, method = plain(0), plain(1).eval(), copy.deepcopy(method)
    if hasattr(method, "teachers"):
        teacher = {"robust": teacher, "natural": plain(2).eval()}
    if hasattr(method, "prepare"):
        method.prepare(student, teacher, x)
    trained = [*student.parameters(), *getattr(method, "parameters", tuple)()]
    optimiser = torch.optim.SGD(trained, lr=0.0)
    update = step(
        student.train(), teacher, method, optimiser, x, y, epoch=1, noise=Noise(0, torch.arange(len(x)) + 5),
        **options,
    )  # fmt: skip
    if hasattr(method, "advance"):
        method.advance(student, epoch=1, last=True, average=None)
    return {name: p.grad for name, p in named_parameters(student, method)}, update, learned_state(method)


PER_IMAGE = [
    methods.Natural(), methods.SAT(attack=PGD2), methods.TRADES(attack=PGD2), methods.MART(attack=PGD2),
    methods.ARD(attack=PGD2), methods.RSLAD(attack=PGD2), methods.KD(), methods.IAD(attack=PGD2, begin=0),
    methods.AdaAD(attack=PGD2), methods.AdaIAD(attack=PGD2, begin=0), methods.IGDM(methods.RSLAD(attack=PGD2)),
    methods.SAAD(attack=PGD2, weights="none", beta=0.5), methods.ADR(attack=PGD2), methods.FairRSLAD(attack=PGD2),
    methods.ABSLD(attack=PGD2), methods.DGAD(attack=PGD2), methods.PeerAiD(attack=PGD2), methods.AKD2(attack=PGD2),
    methods.LBGAT(attack=PGD2), methods.MTARD(attack=PGD2, h=0.0),
]  # fmt: skip


@pytest.mark.parametrize("method", PER_IMAGE, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("parts", [2, 5, 11])
def test_accumulation_gives_the_gradient_of_the_whole_batch(method, parts):
    x, y = images(11), torch.arange(11) % 10
    whole, update, learned = gradients(method, x, y)
    sum_, accumulated, of_parts = gradients(method, x, y, parts=parts)
    for name, grad in whole.items():
        scale = grad.abs().max()
        assert (sum_[name] - grad).abs().max() <= 1e-6 * max(1, scale), name
    for name, mean in update.terms.items():
        torch.testing.assert_close(accumulated.terms[name], mean)
    torch.testing.assert_close(accumulated.loss, update.loss)
    torch.testing.assert_close(of_parts, learned)


@pytest.mark.parametrize("parts", [2, 5])
def test_the_state_of_mtard_is_that_of_the_whole_batch(parts):
    """Its weights are of the parts so far, so that the gradient is not."""
    x, y = images(11), torch.arange(11) % 10
    method = methods.MTARD(attack=PGD2, h=0.5, g=0.1, balance_temperatures=True)
    (_, _, one), (_, _, several) = gradients(method, x, y), gradients(method, x, y, parts=parts)
    torch.testing.assert_close(several, one)
    assert float(one["balance_"][1].min()) > 0, "the first losses"
    assert not torch.equal(one["balance_"][2], torch.ones(2)), "the temperatures moved"


def test_a_gradient_is_scaled_to_the_largest_norm_and_a_shorter_one_is_not():
    x, y = images(8), torch.arange(8) % 10
    whole, update, _ = gradients(methods.Natural(), x, y)
    norm = math.sqrt(sum(float(g.square().sum()) for g in whole.values()))
    clipped, same, _ = gradients(methods.Natural(), x, y, clip=norm / 3)
    for name, grad in whole.items():
        torch.testing.assert_close(clipped[name], grad / 3, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(same.norms[name], update.norms[name])  # as computed
    longer, _, _ = gradients(methods.Natural(), x, y, clip=norm * 2)
    assert all(torch.equal(longer[name], grad) for name, grad in whole.items())


# --- the radius


def test_the_radius_of_a_ramp():
    ramp = Recipe(epochs=10, eps_ramp=(2, 6))
    assert [radius_at(ramp, t) for t in (0, 1.9, 2, 3, 5.5, 6, 9)] == [0, 0, 0, 0.25, 0.875, 1, 1]
    assert [radius_at(Recipe(epochs=10, eps_ramp=(2, 2)), t) for t in (0, 1.9, 2)] == [0, 0, 1]
    assert radius_at(Recipe(), 0) == 1


def test_an_attack_at_a_share_of_its_radius():
    for attack, scaled in [
        (PGD(Linf(0.1)), PGD(Linf(0.025))),
        (PGD(L2(1.0), step=0.2), PGD(L2(0.25), step=0.05)),
        (FGSM(Linf(0.1)), FGSM(Linf(0.025))),
        (APGD(Linf(0.1)), APGD(Linf(0.025))),
    ]:
        method = methods.SAT(attack=attack)
        with at_radius(method, 0.25):
            assert method.attack == scaled
        assert method.attack is attack
        with at_radius(method, 0.0):
            x = torch.rand(2, 1, 2, 2)
            assert torch.equal(method.attack.maximise(None, x, None), x)
        with at_radius(method, 1.0):
            assert method.attack is attack


def test_at_radius_0_no_attack_pass_is_made_and_the_images_are_exact():
    x, y = images(8), torch.arange(8) % 10
    calls = []

    student = plain(0)
    student.register_forward_pre_hook(lambda net, args: calls.append(args[0]))
    optimiser = torch.optim.SGD(student.parameters(), lr=0.0)
    step(
        student.train(), None, methods.SAT(), optimiser, x, y, epoch=1, noise=Noise(0, torch.arange(8)), radius=0.0
    )  # fmt: skip
    assert len(calls) == 1
    assert torch.equal(calls[0], x)


@dataclasses.dataclass
class Records:
    """Cross-entropy, and the radius of every step."""

    attack: PGD = PGD(Linf(0.1), steps=1)

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.radii.append(0.0 if isinstance(self.attack, Still) else self.attack.threat.eps)
        return {"clean": ce(student(x), y)}


def test_a_run_with_a_ramp_rises_step_by_step_and_validates_at_the_full_radius(tmp_path, monkeypatch):
    train, val = splits()
    method = Records()
    method.radii = []
    validated = []
    real = PGD.maximise

    def spy(self, objective, x, noise):
        validated.append(self.threat.eps)
        return real(self, objective, x, noise)

    monkeypatch.setattr(PGD, "maximise", spy)
    list(epochs(net(), None, method, train, recipe(eps_ramp=(1, 2)), val=val, run=tmp_path / "run"))
    n = len(method.radii) // 3
    assert method.radii[:n] == [0.0] * n
    assert method.radii[n : 2 * n] == pytest.approx([0.1 * i / n for i in range(n)])
    assert method.radii[2 * n :] == [0.1] * n
    assert {*validated} == {PGD2.threat.eps}
    assert [line["eps"] for line in lines(tmp_path / "run")] == pytest.approx([0, 0.1 * (n - 1) / n, 0.1])


def test_a_ramp_needs_an_attack():
    with pytest.raises(ConfigError, match="expected a method with an attack under a threat.*got Natural"):
        next(epochs(net(), None, methods.Natural(), splits()[0], recipe(eps_ramp=(0, 1))))


# --- runs


def falling(share, power):
    return (1 - share) ** power


@pytest.mark.parametrize(
    "changes",
    [
        {"warmup": 1.5, "schedule": "cosine"},
        {"clip": 0.1},
        {"accumulate": 3},
        {"eps_ramp": (1, 2.5)},
        {"schedule": partial(falling, power=2)},
        {"optimiser": SGD(decay_all=False), "accumulate": 2, "clip": 1.0, "warmup": 2.0, "eps_ramp": (0, 3)},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_resumed_equals_uninterrupted(tmp_path, changes):
    require_resumed(tmp_path, **changes)


def test_each_value_changes_the_run(tmp_path):
    """One that the loop did not pass on would leave the weights."""
    train, val = splits()
    for changes in ({}, {"warmup": 1.5}, {"clip": 0.01}, {"eps_ramp": (1, 2)}, {"optimiser": AdamW()}):
        folder = tmp_path / "-".join(["run", *changes])
        list(epochs(net(), net(1), rslad(), train, recipe(epochs=2, **changes), val=val, run=folder))
    weights = {(path / "last.safetensors").read_bytes() for path in tmp_path.iterdir()}
    assert len(weights) == 5


@dataclasses.dataclass
class Constant:
    """A loss that moves nothing, so that no validation is better than the first."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        return {"clean": ce(student(x), y) * 0}


@pytest.mark.parametrize("averaging", [None, EMA()])
def test_patience_ends_a_run_and_the_same_call_finds_it_ended(tmp_path, averaging):
    train, val = splits()

    def run(name, **changes):
        words = recipe(epochs=9, patience=2, optimiser=SGD(weight_decay=0.0), **changes)
        return epochs(net(), None, Constant(), train, words, val=val, run=tmp_path / name, averaging=averaging)

    records = list(run("whole"))
    assert [record.epoch for record in records] == [1, 2, 3]
    assert [record.stopped for record in records] == [False, False, True]
    assert [line["stopped"] for line in lines(tmp_path / "whole")] == [False, False, True]
    assert list(run("whole")) == []
    part = run("parts")
    next(part), next(part)
    part.close()
    assert [record.epoch for record in run("parts")] == [3]
    require_same(ended(tmp_path / "whole"), ended(tmp_path / "parts"))
    assert [record.epoch for record in run("every", val_every=3)] == list(range(1, 10))


def test_patience_needs_validation():
    with pytest.raises(ConfigError, match="expected val, whose accuracy ends the run"):
        next(epochs(net(), None, methods.Natural(), splits()[0], recipe(patience=1)))


def test_a_checkpoint_is_selected_under_a_suite_by_its_name(tmp_path):
    """Under the method's threat; a second call with another suite is another run."""
    (train, val), method = splits(), methods.SAT(attack=PGD2)
    asked = recipe(epochs=1, val_attack="paper")
    (record,) = epochs(net(), None, method, train, asked, val=val, run=tmp_path / "run")
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["recipe"]["val_attack"] == {
        "name": "worst_case", "threat": {"name": "Linf", "eps": 0.1}, "suite": "paper"
    }  # fmt: skip
    worst = recipe(epochs=1, val_attack=WorstCase(PGD2.threat, "paper"))
    assert next(epochs(net(), None, method, train, worst, val=val)).val_robust == record.val_robust
    with pytest.raises(RunError, match="suite"):
        next(epochs(net(), None, method, train, recipe(epochs=1, val_attack="quick"), val=val, run=tmp_path / "run"))
