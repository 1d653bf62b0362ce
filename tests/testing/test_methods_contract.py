"""Every method keeps the contract, and the contract can fail: methods that break one promise are refused."""

import copy
import inspect
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

import ardor
import ardor.noise
from ardor.attacks import FGSM, PGD
from ardor.attacks.threat import L2, Linf
from ardor.engine.modes import attack_view
from ardor.losses import ce, kl
from ardor.methods import (
    ABSLD,
    ADR,
    AKD2,
    ARD,
    DGAD,
    IAD,
    IGDM,
    KD,
    LBGAT,
    MART,
    MTARD,
    RSLAD,
    SAAD,
    SAT,
    TRADES,
    AdaAD,
    AdaIAD,
    FairRSLAD,
    Natural,
    PeerAiD,
    VarianceGap,
)
from ardor.noise import Noise
from ardor.testing import TinyNet, check_method
from ardor.types import Method, uses_labels
from tests.conftest import batch, filled, pair

ALL = [Natural, SAT, TRADES, MART, KD, ARD, IAD, RSLAD, VarianceGap]
ALL += [AdaAD, AdaIAD, IGDM, SAAD, ADR, FairRSLAD, ABSLD, MTARD, DGAD, PeerAiD, AKD2, LBGAT]


# The contract


@pytest.mark.parametrize("make", ALL)
def test_every_method_keeps_the_contract(make):
    method = make()
    assert isinstance(method, Method)
    check_method(method)


@pytest.mark.parametrize(
    "method",
    [
        ARD(alpha=0.5, train_mode_attack=True, attack=PGD(L2(0.3), 2, start="unclipped")),
        IAD(begin=1, weighted_teacher=False, train_mode_attack=True, attack=FGSM()),
        VarianceGap(lc=0.5, lg=0, attack=FGSM()),
        VarianceGap(lc=0, lg=0.5, attack=FGSM(L2(0.5))),
        RSLAD(scale=0.1, attack=PGD(steps=1, loss="margin")),
    ],
    ids=repr,
)
def test_options_keep_the_contract(method):
    check_method(method, channels=3, classes=4, seed=3)


class Labelled(RSLAD):
    """Of a class whose parent uses no labels."""


class Untrue(RSLAD):
    uses_labels = False

    def terms(self, student, teacher, x, y, *, epoch, noise):
        return {"clean": nn.functional.cross_entropy(student(x), y, reduction="none")}


WITHOUT_LABELS = [
    RSLAD(), AdaAD(), VarianceGap(), KD(alpha=1), IGDM(), IGDM(base=AdaAD()), SAAD(inner="clean"),
    SAAD(inner="teacher"),
]  # fmt: skip


@pytest.mark.parametrize("method", WITHOUT_LABELS, ids=repr)
def test_methods_without_labels(method):
    assert not uses_labels(method)
    check_method(method)


@pytest.mark.parametrize("make", ALL)
def test_a_method_uses_labels_unless_it_says_so(monkeypatch, make):
    monkeypatch.setattr("ardor.testing.method.uses_labels", lambda method: False)
    weights = make in (FairRSLAD, ABSLD)  # of each class, equal at first
    told = uses_labels(make()) and not weights
    with pytest.raises(AssertionError, match="to use no labels") if told else nullcontext():
        check_method(make())


def test_whether_labels_are_used_is_not_inherited():
    assert uses_labels(Labelled())
    assert uses_labels(IGDM(base=Labelled()))
    with pytest.raises(AssertionError, match="to use no labels"):
        check_method(Untrue())


def test_contract_on_nets_of_ones_own():
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
    check_method(RSLAD(attack=FGSM()), student=student, teacher=TinyNet(width=4, seed=9))
    check_method(VarianceGap(attack=FGSM()), student=TinyNet(width=16), teacher=TinyNet(width=8))


def test_every_public_method_is_in_this_file():
    assert set(ardor.methods.__all__) == {make.__name__ for make in ALL}
    for make in ALL:
        formula = "term  min" if make is IGDM else "outer  min"
        assert formula in inspect.getdoc(inspect.getmodule(make))


# The contract can fail


@dataclass
class Broken:
    kind: str = ""
    attack: FGSM = field(default_factory=FGSM)
    learned_: torch.Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def terms(self, student, teacher, x, y, *, epoch, noise):
        soft = teacher(x).detach()
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: kl(soft, net(z)), x, noise)
        return getattr(self, self.kind)(student, teacher, soft, x_adv, x, y, epoch)

    def sound(self, student, teacher, soft, x_adv, x, y, epoch):
        return {"robust": kl(soft, student(x_adv))}

    def nothing(self, *args):
        return {}

    def a_number(self, student, *args):
        return {"robust": 1.0}

    def matrix(self, student, teacher, soft, x_adv, x, y, epoch):
        return {"robust": student(x_adv)}

    def infinite_late(self, *args):
        terms = self.sound(*args)
        return terms if args[-1] < 100 else {"robust": terms["robust"] / 0}

    def detached(self, *args):
        return {"robust": self.sound(*args)["robust"].detach()}

    def head_only(self, student, teacher, soft, x_adv, x, y, epoch):
        return {"robust": kl(soft, student.head(student.features(x_adv).detach()))}

    def teaches_the_teacher(self, student, teacher, soft, x_adv, x, y, epoch):
        return {"robust": kl(teacher(x), student(x_adv))}

    def teacher_in_train_mode(self, student, teacher, soft, x_adv, x, y, epoch):
        teacher.train()
        teacher(x)
        teacher.eval()
        return {"robust": kl(soft, student(x_adv))}

    def thaws_the_teacher(self, student, teacher, *args):
        teacher.requires_grad_(True)
        return self.sound(student, teacher, *args)

    def student_left_in_eval(self, student, *args):
        terms = self.sound(student, *args)
        student.eval()
        return terms

    def student_all_in_train(self, student, *args):
        student.train()
        return self.sound(student, *args)

    def thaws_the_student(self, student, *args):
        student.requires_grad_(True)
        return self.sound(student, *args)

    def steps_itself(self, student, *args):
        with torch.no_grad():
            student.linear.weight.mul_(0.99)
        return self.sound(student, *args)

    def backward_itself(self, student, *args):
        terms = self.sound(student, *args)
        terms["robust"].mean().backward(retain_graph=True)
        return terms

    def global_rng(self, student, teacher, soft, x_adv, x, y, epoch):
        return {"robust": kl(soft, student(x + 0.01 * torch.randn_like(x)))}

    def in_place(self, student, teacher, soft, x_adv, x, y, epoch):
        x.mul_(0.999)
        return {"robust": kl(soft, student(x))}

    def changes_its_mind(self, *args):
        CALLS.append(1)
        return {"robust": len(CALLS) * self.sound(*args)["robust"]}

    def learns_in_secret(self, *args):
        self.count = getattr(self, "count", 0) + 1
        return self.sound(*args)

    def learns_a_number(self, *args):
        self.mean_ = 1.0
        return self.sound(*args)


@dataclass
class Secretive(Broken):
    secret: float = field(default=1.0, repr=False)


CALLS = []
PROMISES = {
    "nothing": "dict of terms",
    "a_number": "as a tensor",
    "matrix": "or a scalar",
    "infinite_late": "finite",
    "detached": "depend on the student",
    "head_only": "move the student's layers.0.weight",
    "teaches_the_teacher": "detach the teacher's logits",
    "teacher_in_train_mode": "buffers as they were on the teacher",
    "thaws_the_teacher": "flags as they were on the teacher",
    "student_left_in_eval": "modes as they were on the student",
    "student_all_in_train": "modes as they were on the student",
    "thaws_the_student": "flags as they were on the student",
    "steps_itself": "parameters as they were on the student",
    "backward_itself": "gradients as they were on the student",
    "global_rng": "draw from `noise`",
    "in_place": "copy its arguments",
    "changes_its_mind": "same terms for the same noise",
    "learns_in_secret": "learn in attributes that end in _",
    "learns_a_number": "tensors and modules",
}


@pytest.mark.parametrize("kind", PROMISES)
def test_the_contract_refuses(kind):
    with pytest.raises(AssertionError, match=PROMISES[kind]):
        check_method(Broken(kind))


class NoDataclass:
    def terms(self, student, teacher, x, y, *, epoch, noise):
        return {"clean": ce(student(x), y)}


@dataclass
class Forgetful:
    """Learns a tensor whose shape a new instance does not have."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.mean_ = x.mean(0)
        return {"clean": ce(student(x), y)}


@dataclass
class Odd:
    """Prepares something that a checkpoint would lose."""

    name: str = "bank"
    value: object = None

    def prepare(self, student, teacher, x):
        setattr(self, self.name, torch.zeros(3) if self.value is None else self.value)

    def terms(self, student, teacher, x, y, *, epoch, noise):
        return {"clean": ce(student(x), y)}


@dataclass
class RandomPrepare:
    def prepare(self, student, teacher, x):
        self.w_ = torch.randn(3)

    def terms(self, student, teacher, x, y, *, epoch, noise):
        return {"clean": ce(student(x), y)}


@dataclass
class Careful:
    """Learns by the contract."""

    def prepare(self, student, teacher, x):
        self.mean_ = torch.zeros_like(x[0])
        self.map_ = nn.Linear(2, 2)
        self.none_ = None
        nn.init.zeros_(self.map_.weight)

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.mean_ = 0.9 * self.mean_ + 0.1 * x.mean(0)
        return {"clean": ce(student(x), y) + self.mean_.sum()}


def test_the_contract_refuses_what_a_record_or_a_checkpoint_would_lose():
    with pytest.raises(AssertionError, match="make it a dataclass"):
        check_method(NoDataclass())
    with pytest.raises(AssertionError, match=r"without \['secret'\]"):
        check_method(Secretive("sound"))
    check_method(Broken("sound"))
    with pytest.raises(AssertionError, match=r"tensors and modules, named with a final _, got bank, tensor"):
        check_method(Odd())
    with pytest.raises(AssertionError, match="named with a final _, got mean_, 3"):
        check_method(Odd("mean_", 3))
    with pytest.raises(AssertionError, match="in prepare, got a global random generator moved"):
        check_method(RandomPrepare())


def test_the_contract_refuses_state_that_a_fresh_method_cannot_take_up():
    with pytest.raises(AssertionError, match="restore its learned state from a checkpoint"):
        check_method(Forgetful())


def test_the_contract_accepts_a_method_that_learns():
    class Seeded(Careful):
        def prepare(self, student, teacher, x):
            with ardor.noise.seeded(0):
                super().prepare(student, teacher, x)

    check_method(Seeded())


def test_the_contract_accepts_positional_reprs_and_tuples():
    @dataclass
    class Mine:
        attack: PGD = field(default_factory=lambda: PGD(Linf(0.1), 1))
        weights: tuple = (1, -0.5)
        words: dict = field(default_factory=lambda: {"a": [1, None]})

        def terms(self, student, teacher, x, y, *, epoch, noise):
            return {"clean": ce(student(x), y)}

    check_method(Mine())


def test_noise_of_a_method_moves_only_with_seed_epoch_and_image():
    x, _, _ = batch()
    student, teacher = pair()

    def robust(seed, epoch, rows=slice(None)):
        noise = Noise(seed, torch.arange(len(x)), "method", epoch)[rows]
        with attack_view(copy.deepcopy(student)) as net:
            return RSLAD().attack.maximise(lambda z: kl(teacher(x[rows]), net(z)), x[rows], noise)

    base = robust(0, 1)
    assert torch.equal(base, robust(0, 1))
    assert torch.allclose(base[3:5], robust(0, 1, slice(3, 5)), atol=1e-12)
    assert not torch.equal(base, robust(1, 1))
    assert not torch.equal(base, robust(0, 2))


def test_filled_nets_differ_between_modes():
    # or no test above could tell an attack in train mode from one in eval mode
    x, _, _ = batch()
    net = filled(TinyNet())
    assert float((net.train()(x) - net.eval()(x)).detach().abs().max()) > 0.1
