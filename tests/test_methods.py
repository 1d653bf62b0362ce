"""Each method against its row of the table, written out here once more without ardor's losses."""

import copy
import inspect
from dataclasses import dataclass, field

import pytest
import torch
from nets import Fixed, batch, filled, moved, pair
from torch import nn

import ardor.methods
from ardor.attacks import FGSM, PGD
from ardor.losses import ce, kl
from ardor.methods import ARD, IAD, KD, MART, RSLAD, SAT, TRADES, Natural, VarianceGap
from ardor.modes import attack_view
from ardor.noise import Noise
from ardor.testing import TinyNet, check_method
from ardor.threat import L2, Linf
from ardor.types import Method

ALL = [Natural, SAT, TRADES, MART, KD, ARD, IAD, RSLAD, VarianceGap]


# The formulas, by hand: probabilities first, and sums over classes written as such


def probabilities(z, t=1.0):
    e = (z / t - (z / t).max(1, keepdim=True).values).exp()
    return e / e.sum(1, keepdim=True)


def of_class(p, y):
    return torch.stack([row[k] for row, k in zip(p, y.tolist(), strict=True)])


def cross_entropy(z, y):
    return -of_class(probabilities(z), y).log()


def divergence(target, z, t=1.0):
    """sum_c P_c log(P_c / Q_c), the target first."""
    p, q = probabilities(target, t), probabilities(z, t)
    return sum(p[:, c] * (p[:, c] / q[:, c]).log() for c in range(z.shape[1]))


def natural(m, s, s_adv, t, t_adv, y, epoch):
    return {"clean": cross_entropy(s, y)}


def sat(m, s, s_adv, t, t_adv, y, epoch):
    return {"robust": cross_entropy(s_adv, y)}


def trades(m, s, s_adv, t, t_adv, y, epoch):
    return {"clean": cross_entropy(s, y), "robust": m.beta * divergence(s, s_adv)}


def mart(m, s, s_adv, t, t_adv, y, epoch):
    p, f_y = probabilities(s_adv), of_class(probabilities(s), y)
    others = [torch.stack([r[j] for j in range(len(r)) if j != k]).max() for r, k in zip(p, y.tolist(), strict=True)]
    return {
        "boosted": -of_class(p, y).log() - (1.0001 - torch.stack(others) + 1e-12).log(),
        "robust": m.beta * divergence(s, s_adv) * (1.0000001 - f_y),
    }


def kd(m, s, s_adv, t, t_adv, y, epoch):
    return {"distil": m.alpha * m.t * m.t * divergence(t, s, m.t), "clean": (1 - m.alpha) * cross_entropy(s, y)}


def ard(m, s, s_adv, t, t_adv, y, epoch):
    return {
        "robust": m.scale * m.alpha * m.t * m.t * divergence(t, s_adv, m.t),
        "clean": (1 - m.alpha) * cross_entropy(s, y),
    }


def iad(m, s, s_adv, t, t_adv, y, epoch):
    if epoch < m.begin:
        return {"teacher": divergence(t, s_adv, m.t)}
    a = of_class(probabilities(t_adv), y) ** m.b
    return {
        "teacher": (a if m.weighted_teacher else 1) * divergence(t, s_adv, m.t),
        "self": (1 - a) * divergence(s, s_adv),
    }


def rslad(m, s, s_adv, t, t_adv, y, epoch):
    return {
        "robust": m.scale * m.alpha * divergence(t, s_adv),
        "clean": m.scale * (1 - m.alpha) * divergence(t, s),
    }


FORMULAS = [
    (Natural(), natural, 1),
    (SAT(), sat, 1),
    (TRADES(), trades, 1),
    (TRADES(beta=2.5), trades, 9),
    (MART(), mart, 1),
    (MART(beta=5.0), mart, 3),
    (KD(), kd, 1),
    (KD(alpha=0.3, t=2.0), kd, 1),
    (ARD(), ard, 1),
    (ARD(alpha=0.7, t=5.0, scale=0.1), ard, 2),
    (IAD(), iad, 1),
    (IAD(), iad, 59),
    (IAD(), iad, 60),
    (IAD(begin=1, b=1.0, t=3.0), iad, 1),
    (IAD(begin=2, weighted_teacher=False), iad, 1),
    (IAD(begin=2, weighted_teacher=False), iad, 2),
    (RSLAD(), rslad, 1),
    (RSLAD(alpha=0.9, scale=0.1), rslad, 300),
    (VarianceGap(lc=0, lg=0), rslad, 1),
    (VarianceGap(alpha=0.6, scale=0.1, lc=0, lg=0), rslad, 4),
]


def at(point, method):
    """The method with an attack that goes to `point`."""
    method = copy.deepcopy(method)
    if hasattr(method, "attack"):
        method.attack = Fixed(point)
    return method


@pytest.mark.parametrize(("method", "formula", "epoch"), FORMULAS, ids=lambda v: getattr(v, "__name__", str(v)[:60]))
def test_terms_and_gradients_equal_the_formula(method, formula, epoch):
    x, y, noise = batch()
    point = moved(x)
    student, teacher = pair()
    y[::2] = copy.deepcopy(student)(point).argmax(1)[::2]  # every other image is right under attack, the rest are wrong
    twin = copy.deepcopy(student)
    terms = at(point, method).terms(student, teacher, x, y, epoch=epoch, noise=noise)

    # batch statistics are the batch's own in train mode, so neither pass depends on the other
    expected = formula(method, twin(x), twin(point), teacher(x), teacher(point), y, epoch)

    assert list(terms) == list(expected)
    for name, term in terms.items():
        assert term.shape == (len(x),)
        torch.testing.assert_close(term, expected[name], rtol=1e-9, atol=1e-12)
    for parts in (terms, expected):
        torch.stack([part.mean() for part in parts.values()]).sum().backward()
    for (name, p), q in zip(student.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    assert max(float(p.grad.abs().max()) for p in student.parameters()) > 1e-4


def test_the_formulas_tell_the_variants_apart():
    # what a slip would compute must differ from the formula by far more than the tolerance above
    x, y, _ = batch()
    student, teacher = pair()
    s, s_adv, t, t_adv = student(x), student(moved(x)), teacher(x), teacher(moved(x))

    def differ(a, b):
        return float((a - b).detach().abs().max()) > 1e-3

    assert differ(divergence(t, s_adv), divergence(s_adv, t))
    assert differ(divergence(t, s_adv), divergence(t_adv, s_adv))
    assert differ(divergence(t, s_adv), divergence(t, s))
    assert differ(divergence(t, s_adv), divergence(t, s_adv) / 10)
    assert differ(of_class(probabilities(t_adv), y), of_class(probabilities(t), y))


# What the attack is asked to climb, where it starts from, and in which mode the student answers


def climb_ce(student, teacher, x, y, z):
    return cross_entropy(student(z), y)


def climb_own_kl(student, teacher, x, y, z):
    return divergence(student(x).detach(), student(z))


def climb_teacher_kl(student, teacher, x, y, z):
    return divergence(teacher(x), student(z))


INNER = [
    (SAT(), climb_ce),
    (TRADES(), climb_own_kl),
    (MART(), climb_ce),
    (ARD(), climb_ce),
    (IAD(), climb_ce),
    (RSLAD(), climb_teacher_kl),
    (VarianceGap(lc=0), climb_teacher_kl),
]


@pytest.mark.parametrize(("method", "climb"), INNER, ids=lambda v: getattr(v, "__name__", type(v).__name__))
def test_the_inner_objective(method, climb):
    x, y, noise = batch()
    point = moved(x)
    student, teacher = pair()
    asked = copy.deepcopy(student).eval()
    method = at(point, method)
    method.terms(student, teacher, x, y, epoch=60, noise=noise)

    z = point.clone().requires_grad_()
    expected = climb(asked, teacher, x, y, z)
    (grad,) = torch.autograd.grad(expected.sum(), z)
    torch.testing.assert_close(method.attack.value, expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(method.attack.grad, grad, rtol=1e-8, atol=1e-12)
    assert method.attack.x is x
    assert method.attack.noise is noise


@pytest.mark.parametrize("make", [ARD, IAD])
def test_a_train_mode_attack_uses_batch_statistics_and_lets_them_drift(make):
    x, y, noise = batch()
    point = moved(x)
    student, teacher = pair()
    asked = copy.deepcopy(student)
    method = at(point, make(train_mode_attack=True))
    method.terms(student, teacher, x, y, epoch=1, noise=noise)
    torch.testing.assert_close(method.attack.value, cross_entropy(asked(point), y).detach())
    assert int(student.layers[1].num_batches_tracked) == 3  # the attack's look, x' and x

    student, _ = pair()
    make(train_mode_attack=True).terms(student, teacher, x, y, epoch=1, noise=noise)
    assert int(student.layers[1].num_batches_tracked) == 12
    assert all(m.training for m in student.modules())


def test_the_attacks_are_the_papers():
    eight = Linf(8 / 255)
    for make in (SAT, ARD, IAD):
        assert make().attack == PGD(eight, 10, None, "uniform", "ce")
    for make in (TRADES, MART, RSLAD, VarianceGap):
        assert make().attack == PGD(eight, 10, None, "gaussian", "ce")


def test_the_defaults_are_the_papers():
    assert (TRADES().beta, MART().beta) == (6, 6)
    assert (KD().alpha, KD().t) == (0.9, 4)
    assert (ARD().alpha, ARD().t, ARD().scale, ARD().train_mode_attack) == (1, 30, 1, False)
    assert (IAD().b, IAD().t, IAD().begin, IAD().weighted_teacher, IAD().train_mode_attack) == (0.1, 1, 60, True, False)
    assert (RSLAD().alpha, RSLAD().scale) == (5 / 6, 1)


# The passes in train mode: how many, and in which order


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (Natural(), "x"),
        (SAT(), "a"),
        (TRADES(), "xa"),
        (MART(), "xa"),
        (KD(), "x"),
        (ARD(), "ax"),
        (ARD(alpha=0.5), "ax"),
        (IAD(), "ax"),
        (IAD(begin=1), "ax"),
        (RSLAD(), "ax"),
        (VarianceGap(lc=0, lg=0), "ax"),
        (VarianceGap(lc=0), "ax"),
        (VarianceGap(), "ax"),
    ],
    ids=repr,
)
def test_train_mode_passes(method, passes):
    x, y, noise = batch()
    point = moved(x)
    student, teacher = pair()
    twin = copy.deepcopy(student)
    seen = []
    # at the first convolution, for a method on features does not call the net itself
    student.layers[0].register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].detach().clone()) if module.training else None
    )
    method = at(point, method)
    if hasattr(method, "prepare"):
        method.prepare(student, teacher, x)
    method.terms(student, teacher, x, y, epoch=1, noise=noise)

    assert len(seen) == len(passes)
    for got, name in zip(seen, passes, strict=True):
        assert torch.equal(got, {"x": x, "a": point}[name])
        twin({"x": x, "a": point}[name])
    assert int(student.layers[1].num_batches_tracked) == len(passes)
    for (name, mine), theirs in zip(student.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


def test_the_teacher_sees_clean_images_except_where_a_formula_says_so():
    x, y, noise = batch()
    point = moved(x)
    student, teacher = pair()
    seen = []
    teacher.layers[0].register_forward_hook(lambda m, inputs, output: seen.append(torch.equal(inputs[0], x)))
    expected = {
        KD: [True],
        ARD: [True],
        RSLAD: [True],
        IAD: [True, False],  # T_y(x')
        VarianceGap: [True, False],  # its own scores on x'
    }
    for make, looks in expected.items():
        seen.clear()
        at(point, make(lc=0) if make is VarianceGap else make()).terms(student, teacher, x, y, epoch=60, noise=noise)
        assert seen == looks, make


@pytest.mark.parametrize("make", [Natural, SAT, TRADES, MART])
def test_methods_without_a_teacher_need_none(make):
    x, y, noise = batch()
    terms = make().terms(pair()[0], None, x, y, epoch=1, noise=noise)
    assert all(term.isfinite().all() for term in terms.values())


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


def test_contract_on_nets_of_ones_own():
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))
    check_method(RSLAD(attack=FGSM()), student=student, teacher=TinyNet(width=4, seed=9))
    check_method(VarianceGap(attack=FGSM()), student=TinyNet(width=16), teacher=TinyNet(width=8))


def test_every_public_method_is_in_this_file():
    assert set(ardor.methods.__all__) == {make.__name__ for make in ALL}
    for make in ALL:
        assert "outer  min" in inspect.getdoc(inspect.getmodule(make))


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
        self.seen = getattr(self, "seen", 0) + 1
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
    "teaches_the_teacher": "detach the teacher's answers",
    "teacher_in_train_mode": "buffers as they were on the teacher",
    "thaws_the_teacher": "flags as they were on the teacher",
    "student_left_in_eval": "modes as they were on the student",
    "student_all_in_train": "modes as they were on the student",
    "thaws_the_student": "flags as they were on the student",
    "steps_itself": "parameters as they were on the student",
    "backward_itself": "gradients as they were on the student",
    "global_rng": "draw from `noise`",
    "in_place": "copy what it is given",
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
    """Learns a tensor whose shape a fresh one does not know."""

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
    """Learns as the contract says."""

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
    with pytest.raises(AssertionError, match="find what it learned in its checkpoint"):
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
