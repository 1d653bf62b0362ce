"""What a run costs is counted on real steps, which touch nothing."""

import copy
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import ardor
from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.errors import ConfigError, ModelError
from ardor.losses import ce, kl
from ardor.methods import ARD, IAD, KD, MART, RSLAD, SAT, TRADES, Natural, VarianceGap
from ardor.testing.shared import TinyNet, global_rng, require_same, snapshot
from ardor.training.cost import Work, _peak, plan
from ardor.training.memory import largest_batch
from ardor.training.optimisers import SGD
from ardor.training.soft_labels import saving
from tests.training.conftest import ERRORS, Greedy, job_for


def counted(method, teacher=None, **others):
    cost = plan(job_for(method, teacher=teacher, **others), steps=2)
    return cost.attack, cost.learning, cost.teacher, cost.kept


TAUGHT = TinyNet(width=16, seed=1)


@pytest.mark.parametrize(
    ("method", "attack", "learning", "teacher", "kept"),
    [
        (Natural(), 0, 3, 0, 0),
        (SAT(), 20, 3, 0, 0),
        (TRADES(), 21, 6, 0, 0),
        (MART(), 20, 6, 0, 0),
        (KD(), 0, 3, 1, 1),
        (ARD(), 20, 6, 1, 1),
        (IAD(), 20, 6, 2, 1),
        (RSLAD(), 20, 6, 1, 1),
        (VarianceGap(), 20, 6, 2, 0),  # it takes features of x, which no table of soft labels holds
        (VarianceGap(lc=0), 20, 6, 2, 1),
        (VarianceGap(lc=0, lg=0), 20, 6, 1, 1),
        (ARD(train_mode_attack=True), 20, 6, 1, 1),
        (SAT(attack=PGD(steps=3)), 6, 3, 0, 0),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, int) else str(v),
)
def test_each_method_costs_what_its_formula_needs(method, attack, learning, teacher, kept):
    found = counted(method, TAUGHT if teacher else None)
    assert found == pytest.approx((attack, learning, teacher, kept), abs=1e-9)


def test_a_pass_that_no_loss_uses_is_forward_only():
    assert counted(IAD(), TAUGHT, epochs=59) == pytest.approx((21, 3, 1, 1))  # the card: 24F + 1T before `begin`


class AdaAD:
    """The attack climbs the difference of student and teacher: 26F + 22T."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        with attack_view(student) as net:
            x_adv = PGD().maximise(lambda z: kl(teacher(z), net(z)), x, noise)
        return {"robust": kl(teacher(x_adv).detach(), student(x_adv)), "clean": kl(teacher(x).detach(), student(x))}


class Plain:
    """An attack as it is often written: on the learning net, with the gradients of its weights on."""

    def __init__(self, grad):
        self.grad = grad

    def terms(self, student, teacher, x, y, *, epoch, noise):
        z = x.clone().requires_grad_()
        loss = ce(student(z), y).sum()
        if self.grad:
            torch.autograd.grad(loss, z)
        else:
            loss.backward()
        return {"clean": ce(student(x), y)}


class Half:
    """Learns from half of the batch, and computes features twice."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        with torch.no_grad():
            student.features(x), student.features(x)
        return {"clean": ce(student(x[::2]), y[::2])}


def test_methods_of_ones_own_are_counted_too():
    assert counted(AdaAD(), TAUGHT) == pytest.approx((20, 6, 22, 1))
    assert counted(Plain(grad=True)) == pytest.approx((2, 3, 0, 0))
    assert counted(Plain(grad=False)) == pytest.approx((0, 6, 0, 0))  # it pays for the weights' gradient
    attack, learning, *_ = counted(Half())
    features = (9 * 8 * 64 + 9 * 8 * 8 * 16) / (9 * 8 * 64 + 9 * 8 * 8 * 16 + 80)
    assert (attack, learning) == pytest.approx((2 * features, 1.5))


class Early:
    """Learns from a pass that was made before the attack."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        clean = student(x)
        with attack_view(student) as net:
            x_adv = PGD().maximise(lambda z: ce(net(z), y), x, noise)
        return {"clean": ce(clean, y) + 0 * x_adv.sum()}


class FromTheImage:
    """The first question to the teacher is about x itself, and wants a gradient, which no table has."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        with attack_view(student) as net:
            x_adv = PGD(steps=1, start="none").maximise(lambda z: kl(teacher(z), net(z)), x, noise)
        return {"robust": kl(teacher(x_adv).detach(), student(x_adv)), "clean": kl(teacher(x).detach(), student(x))}


def test_what_an_attack_passes_is_not_learned_from_nor_kept():
    assert counted(Early()) == pytest.approx((20, 3, 0, 0))
    assert counted(FromTheImage(), TAUGHT) == pytest.approx((2, 6, 4, 1))


class Quantised(nn.Module):
    """Its layers are never called: counted as a whole."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        return nn.functional.linear(x.flatten(1), self.linear.weight.round(decimals=3), self.linear.bias)


def test_nets_of_other_kinds_are_counted():
    student = TinyNet()
    nn.utils.parametrizations.spectral_norm(student.layers[3])
    assert counted(RSLAD(), TAUGHT, student=student) == pytest.approx((20, 6, 1, 1))
    assert counted(RSLAD(), TAUGHT, student=Quantised()) == pytest.approx((20, 6, 1, 1))
    student = TinyNet()
    student.layers.requires_grad_(False)  # only the head learns
    weights = 80 / (9 * 8 * 64 + 9 * 8 * 8 * 16 + 80)
    cost = plan(job_for(SAT(), student=student), steps=2)
    assert cost.student == pytest.approx(20 + 2 * weights + 1, abs=1e-6)
    conv = nn.Conv1d(1, 4, 3, padding=1, bias=False)
    student = nn.Sequential(nn.Flatten(2), conv, nn.Flatten(), nn.Linear(256, 10))
    conv.requires_grad_(False)
    assert counted(SAT(), student=student)[1] == pytest.approx(3 * 2560 / (2560 + 3 * 4 * 64))


@pytest.mark.parametrize("method", [VarianceGap(), ARD(train_mode_attack=True)], ids=["gap", "ard"])
def test_nothing_is_touched(method, tmp_path):
    student, teacher = TinyNet().train(), TinyNet(width=16, seed=1).train()
    student.layers[1].eval()
    job = job_for(method, student, teacher, run=tmp_path / "run")
    before, rng, own = (snapshot(student), snapshot(teacher)), global_rng(), copy.deepcopy(vars(method))
    plan(job, steps=2)
    largest_batch(job)
    require_same(before[0], snapshot(student), method, "on the student")
    require_same(before[1], snapshot(teacher), method, "on the teacher")
    assert rng == global_rng()
    assert vars(method) == own
    assert not list(tmp_path.iterdir())
    assert all(not m._forward_hooks and not m._forward_pre_hooks for net in (student, teacher) for m in net.modules())
    assert all(p.grad is None and not p._backward_hooks for p in student.parameters())


def test_no_number_is_drawn_from_the_global_generators():
    student = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))
    rng = global_rng()
    plan(job_for(Natural(), student=student), steps=2)
    largest_batch(job_for(Natural(), student=student))
    assert rng == global_rng()


def test_only_the_cost_counts_so_no_rate_makes_the_steps_diverge():
    assert plan(job_for(Natural(), lr=1e30, optimiser=SGD(momentum=0.0)), steps=3).learning == pytest.approx(3)


class Shaped(Natural):
    """Looks at a batch beforehand."""

    looked = ()

    def prepare(self, student, teacher, x):
        Shaped.looked += (len(x),)


def test_the_method_is_prepared_with_a_batch_of_its_own(monkeypatch):
    monkeypatch.setattr(Shaped, "looked", ())
    plan(job_for(Shaped()), steps=2)
    assert set(Shaped.looked) == {8}
    monkeypatch.setattr(
        "ardor.training.cost.Work.learn", lambda work, number, size: Greedy(4, ERRORS[0], []).look(size)
    )
    assert largest_batch(job_for(Shaped(), batch=16)) == 4
    assert Shaped.looked[-3:] == (16, 8, 4)


def test_the_teacher_is_measured_on_a_whole_batch(monkeypatch):
    answers = []

    def timed(work, run, *args):
        answer = run(*args)
        answers.extend([answer] if run.__name__ == "label" else [])
        return 1.0

    monkeypatch.setattr("ardor.training.cost.Work.timed", timed)
    cost = plan(job_for(RSLAD(), teacher=TAUGHT), steps=2)
    assert [a.shape for a in answers] == [(8, 10), (8, 10)]
    assert cost.table == saving(ardor.Recipe(epochs=100, augment="crop", padding=1), [(40, 40)], 10)
    nothing = plan(job_for(SAT()), steps=2)
    assert (nothing.table, nothing.labelling, nothing.saved(1.0)) == (None, 0.0, 0.0)


def test_a_gpu_is_waited_for_before_and_after(monkeypatch):
    seen = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda device: seen.append(device.type))
    monkeypatch.setattr(
        "ardor.training.cost.time", SimpleNamespace(perf_counter=lambda: seen.append("clock") or len(seen))
    )
    job = job_for(Natural())
    work = Work(job, None, None, torch.device("cuda"))
    assert work.timed(seen.append, "run") == 3
    assert seen == ["cuda", "clock", "run", "cuda", "clock"]


def test_seconds_are_a_median_without_the_first_and_hours_the_whole_run(monkeypatch):
    moments = {"steps": iter([100.0, 2.0, 4.0, 9.0]), "teacher": iter([50.0, 1.0, 1.0, 2.0]), "val": iter([6.0])}

    def timed(work, run, *args):
        run(*args)
        kinds = {"learn": "steps", "label": "teacher", "validate": "val"}
        return next(moments[kinds[run.__name__]])

    monkeypatch.setattr("ardor.training.cost.Work.timed", timed)
    seen = []
    job = job_for(RSLAD(), teacher=TAUGHT, epochs=9, val_every=4, val_size=6)
    cost = plan(job, steps=4, progress=seen.append)
    assert seen == ["passes", "steps", "validation"]
    assert (cost.batch, cost.seconds, cost.labelling) == (8, 4.0, 1.0)
    assert cost.images_per_second == 2.0
    assert cost.validation == 3 * 6.0  # after epochs 4, 8 and 9
    assert cost.hours == pytest.approx((9 * 40 / 2 + 18) / 3600)
    assert cost.table.views == 9
    assert cost.saved(1.0) == pytest.approx(9 * 40 * 1.0 / 8 / 3600)
    assert cost.table.cold == pytest.approx(1 - 9 * (1 - (8 / 9) ** 9) / 9)


def test_a_look_is_scaled_from_one_batch_of_it(monkeypatch):
    monkeypatch.setattr("ardor.training.cost.batch_for", lambda data: 4)
    looked = []
    monkeypatch.setattr("ardor.training.cost.validate", lambda net, part, *_: looked.append(len(part)))
    monkeypatch.setattr("ardor.training.cost.Work.timed", lambda work, run, *args: run(*args) or 1.0)
    assert plan(job_for(Natural(), epochs=10, val_size=0), steps=2).validation == 10 * 12 / 4
    assert looked == [4]
    assert plan(job_for(Natural(), epochs=10, val_size=6), steps=2).validation == 10 * 6 / 4
    job = job_for(Natural(), epochs=10, val_size=1000)
    monkeypatch.setattr("ardor.training.cost.validate", lambda net, *_: looked.append(net))
    assert plan(job, steps=2).validation == 10 * 12 / 4  # there are no more
    assert looked[-1] is not job.student  # which may be on another device


def test_slow_steps_are_measured_on_fewer_images(monkeypatch):
    sizes = []
    monkeypatch.setattr("ardor.training.cost.LIMIT", 0.0)
    monkeypatch.setattr("ardor.training.cost.Work.timed", lambda work, run, *args: sizes.append(args[-1]) or 1.0)
    cost = plan(job_for(SAT()), steps=2)
    assert sizes[0] == 2
    assert (cost.seconds, cost.measured) == (8 / 2 * 1.0, 2)
    assert "for 8 images, 2 images/s (from 2 images)" in cost.text()
    assert cost.text().endswith("resident, the whole process (with 2 images)")


class Hungry:
    """Holds 200 MB for a moment."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        torch.ones(50_000_000).add_(1)
        return {"clean": ce(student(x), y)}


def test_memory_is_the_peak_of_the_process():
    before = plan(job_for(Natural()), steps=2).memory
    during = plan(job_for(Hungry()), steps=2).memory
    assert 150e6 < during - before < 400e6
    assert before > 50e6


def test_memory_of_validation_is_part_of_the_peak(monkeypatch):
    threads = threading.active_count()
    before = plan(job_for(Natural()), steps=2).memory
    monkeypatch.setattr("ardor.training.cost.validate", lambda *_: torch.ones(50_000_000).add_(1).sum())
    assert plan(job_for(Natural()), steps=2).memory - before > 150e6
    assert threading.active_count() == threads  # nobody looks at it any longer


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own peak is in kB on Linux")
def test_the_peak_is_the_resident_size_and_outlives_what_was_held():
    import resource

    with _peak(torch.device("cpu")) as peak:
        before = peak()
        held = torch.ones(50_000_000)
        at_most = peak()
        del held
        assert 150e6 < at_most - before < 250e6
        assert peak() == at_most <= 1.2 * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_memory_of_a_gpu_is_torchs_peak_since_the_beginning(monkeypatch):
    seen = []
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", seen.append)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda device: 7)
    with _peak(torch.device("cuda")) as peak:
        assert seen == [torch.device("cuda")]
        assert peak() == 7


def test_refusals_are_those_of_training():
    with pytest.raises(ConfigError, match="at least 2 steps.*got 1"):
        plan(job_for(SAT()), steps=1)
    with pytest.raises(ModelError, match="expected a teacher"):
        plan(job_for(RSLAD()))


def test_epochs_at_radius_0_cost_what_a_step_without_an_attack_does():
    cost = plan(job_for(SAT(), eps_ramp=(30, 40), accumulate=2), steps=2)
    assert (cost.still, cost.parts) == (30, 2)
    assert cost.attack > 0
    seconds = (70 * cost.seconds + 30 * cost.still_seconds) * cost.images / cost.batch + cost.validation
    assert cost.hours == pytest.approx(seconds / 3600)
    assert "the attack has radius 0 in 30 epochs" in cost.text()
    assert "in 2 parts" in cost.text()
