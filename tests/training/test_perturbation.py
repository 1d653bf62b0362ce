"""Adversarial weight perturbation: against a step written out by hand, and a replay that repeats no attack."""

import copy

import pytest
import torch

from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.errors import ConfigError, DivergedError
from ardor.methods import ABSLD, ADR, AKD2, IGDM, KD, MTARD, RSLAD, SAT, TRADES, AdaAD, FairRSLAD, PeerAiD, VarianceGap
from ardor.training.cost import plan
from ardor.training.loop import distill, epochs, step
from ardor.training.state import learned_state
from tests.conftest import Fixed, batch, moved, pair, splits
from tests.methods.test_later import teachers_of
from tests.training.conftest import PGD2, ended, job_for, net, recipe, require_same

PGD3 = PGD(Linf(0.1), 3)


def sgd(student, method):
    return torch.optim.SGD([*student.parameters(), *getattr(method, "parameters", tuple)()], 0.1, momentum=0.9)


def test_a_step_is_that_of_the_paper():
    x, y, noise = batch()
    point = moved(x)
    student, _ = pair()
    method = TRADES(attack=Fixed(point))
    w = [p.detach().clone() for p in student.parameters()]
    names = [name for name, _ in student.named_parameters()]
    mine = copy.deepcopy(student)

    def gradients():
        clean = mine(x)
        p, q = clean.softmax(1), mine(point).log_softmax(1)
        loss = -clean.log_softmax(1)[range(len(x)), y] + 6 * (p * (p.log() - q)).sum(1)
        return torch.autograd.grad(loss.mean(), list(mine.parameters()))

    v = gradients()
    delta = [
        0.01 * torch.sqrt((p**2).sum()) * g / torch.sqrt((g**2).sum()) if p.ndim > 1 and "weight" in name else 0 * p
        for name, p, g in zip(names, w, v, strict=True)
    ]
    buffers = copy.deepcopy(pair()[0])  # its statistics move once, by the passes at w + delta
    with torch.no_grad():
        for one in (mine, buffers):
            for p, d in zip(one.parameters(), delta, strict=True):
                p.add_(d)
    expected = [p - 0.1 * g for p, g in zip(w, gradients(), strict=True)]
    buffers(x), buffers(point)

    step(student, None, method, sgd(student, method), x, y, epoch=1, noise=noise, awp=0.01)
    for name, p, q in zip(names, student.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-8, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    for (name, b), c in zip(student.named_buffers(), buffers.buffers(), strict=True):
        torch.testing.assert_close(b, c, rtol=1e-10, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    plain, _ = pair()
    step(plain, None, method, sgd(plain, method), x, y, epoch=1, noise=noise)
    assert any(not torch.allclose(p, q) for p, q in zip(plain.parameters(), student.parameters(), strict=True))


ALL = [SAT(), KD(), RSLAD(), VarianceGap(), IGDM(AdaAD()), ADR(), FairRSLAD(), ABSLD(), MTARD(), PeerAiD(), AKD2()]


@pytest.mark.parametrize("method", ALL, ids=lambda m: type(m).__name__)
def test_a_replay_repeats_neither_the_attack_nor_the_teacher(method):
    x, y, noise = batch()
    student, teacher = pair()
    teacher, method = teachers_of(method, teacher), copy.deepcopy(method)
    asked, climbed = [], []
    for one in teacher.values() if hasattr(method, "teachers") else [teacher]:
        one.layers[0].register_forward_hook(lambda m, a, o: None if a[0].requires_grad else asked.append(a[0]))

    class Counting:
        threat = PGD3.threat

        def maximise(self, objective, x, noise):
            climbed.append(1)
            return PGD3.maximise(objective, x, noise)

    if hasattr(method, "attack"):
        method.attack = Counting()
    given = getattr(method, "attack", None)
    if hasattr(method, "prepare"):
        method.prepare(student, teacher, x)
    counts = []
    states = []
    for awp in (0.0, 0.01):
        asked.clear(), climbed.clear()
        own, trial = copy.deepcopy(student), copy.deepcopy(method)
        step(own, dict(teacher.items()) if hasattr(method, "teachers") else teacher, trial, sgd(own, trial), x, y,
             epoch=1, noise=noise, awp=awp)  # fmt: skip
        counts.append((len(asked), len(climbed)))
        if hasattr(trial, "advance"):
            trial.advance(own, epoch=1, last=False, average=None)
        states.append(learned_state(trial))
        assert int(own.layers[1].num_batches_tracked) <= 3, "batch statistics of one pass"
        assert type(getattr(trial, "attack", None)) is type(given)
    assert counts[1][1] == counts[0][1]
    assert counts[1][0] == counts[0][0] + isinstance(method, IGDM)  # x - d, which is computed anew
    for key, value in states[0].items():
        assert value.shape == states[1][key].shape
        if not value.is_floating_point():
            assert torch.equal(value, states[1][key]), key
    if isinstance(method, FairRSLAD):
        assert torch.equal(states[0]["counts_"], states[1]["counts_"]), "the attack's counts, once"
    if isinstance(method, ADR):
        assert int(states[1]["step_"]) == 1


def test_a_loss_that_is_not_finite_changes_no_weight():
    x, y, noise = batch()
    student, _ = pair()
    before = {k: v.clone() for k, v in student.named_parameters()}

    class Later:
        """Finite at w, infinite at w + delta."""

        calls = 0

        def terms(self, student, teacher, x, y, *, epoch, noise):
            self.calls += 1
            return {"loss": student(x).square().sum(1) * (1 if self.calls == 1 else torch.inf)}

    with pytest.raises(DivergedError):
        step(student, None, Later(), sgd(student, None), x, y, epoch=1, noise=noise, awp=0.01)
    for name, p in student.named_parameters():
        assert torch.equal(p, before[name]), name


class Twice(ADR):
    """Averages where the loss is computed, and so twice in a step."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        terms = super().terms(student, teacher, x, y, epoch=epoch, noise=noise)
        with torch.no_grad():
            for mean, p in zip(self.average_.parameters(), student.parameters(), strict=True):
                mean.lerp_(p, 0.1)
        return terms

    def advance(self, student, *, epoch, last, average):
        pass


class Anew(Twice):
    def terms(self, student, teacher, x, y, *, epoch, noise):
        terms = ADR.terms(self, student, teacher, x, y, epoch=epoch, noise=noise)
        self.average_ = copy.deepcopy(student).eval()
        return terms


@pytest.mark.parametrize("kind", [Twice, Anew])
def test_a_method_that_changes_its_net_in_terms_is_refused(kind):
    x, y, noise = batch()
    student, _ = pair()
    before = {k: v.clone() for k, v in student.state_dict().items()}
    method = kind(attack=PGD3)
    method.prepare(student, None, x)
    words = f"terms of {kind.__name__} that may be called twice.*changes average_.*change it in advance"
    with pytest.raises(ConfigError, match=words):
        step(student, None, method, sgd(student, None), x, y, epoch=1, noise=noise, awp=0.01)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert method.attack is PGD3
    step(student, None, method, sgd(student, None), x, y, epoch=1, noise=noise)


def test_perturbation_begins_at_its_epoch_and_resumes(tmp_path):
    train, val = splits(48)

    def run(folder, **changes):
        distill(net(), net(5), RSLAD(attack=PGD2), train, recipe(milestones=(9,), **changes), val=val,
                run=tmp_path / folder)  # fmt: skip
        return ended(tmp_path / folder)

    plain, late, at_once = run("plain"), run("late", awp=0.01, awp_from=3), run("once", awp=0.01)
    losses = [[line["loss"] for line in one[0]] for one in (plain, late, at_once)]
    assert losses[0][:2] == losses[1][:2]
    assert losses[0][2] != losses[1][2]
    assert losses[0][0] != losses[2][0]
    again = net(), net(5), RSLAD(attack=PGD2), train, recipe(milestones=(9,), awp=0.01)
    going = epochs(*again, val=val, run=tmp_path / "parts")
    next(going)
    going.close()
    require_same(run("parts", awp=0.01), at_once)


def test_a_plan_counts_the_outer_passes_twice_and_the_attack_once(tmp_path):
    costs = [
        plan(job_for(RSLAD(attack=PGD2), teacher=net(5, classes=10), run=tmp_path, awp=awp)) for awp in (0.0, 0.01)
    ]
    assert [round(cost.attack, 1) for cost in costs] == [4, 4]
    assert [round(cost.learning, 1) for cost in costs] == [6, 12]
    assert [round(cost.teacher, 1) for cost in costs] == [1, 1]
