"""Each method against its row of the table, written out here once more without ardor's losses."""

import copy

import pytest
import torch

from ardor import methods
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.errors import ConfigError
from ardor.methods import ARD, IAD, KD, MART, RSLAD, SAT, TRADES, Natural, VarianceGap
from ardor.noise import Noise
from ardor.storage.config import build
from ardor.testing.shared import TinyNet
from tests.conftest import Fixed, batch, moved, pair

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
    return {"robust": m.scale * m.alpha * divergence(t, s_adv), "clean": m.scale * (1 - m.alpha) * divergence(t, s)}


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
    reference = copy.deepcopy(student)
    terms = at(point, method).terms(student, teacher, x, y, epoch=epoch, noise=noise)

    # in train mode batch statistics are of the batch, so neither pass depends on the other
    expected = formula(method, reference(x), reference(point), teacher(x), teacher(point), y, epoch)

    assert list(terms) == list(expected)
    for name, term in terms.items():
        assert term.shape == (len(x),)
        torch.testing.assert_close(term, expected[name], rtol=1e-9, atol=1e-12)
    for parts in (terms, expected):
        torch.stack([part.mean() for part in parts.values()]).sum().backward()
    for (name, p), q in zip(student.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    assert max(float(p.grad.abs().max()) for p in student.parameters()) > 1e-4


# The inner objective, its start, and the mode of the student


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


@pytest.mark.parametrize(("method", "objective"), INNER, ids=lambda v: getattr(v, "__name__", type(v).__name__))
def test_the_inner_objective(method, objective):
    x, y, noise = batch()
    point = moved(x)
    student, teacher = pair()
    reference = copy.deepcopy(student).eval()
    method = at(point, method)
    method.terms(student, teacher, x, y, epoch=60, noise=noise)

    z = point.clone().requires_grad_()
    expected = objective(reference, teacher, x, y, z)
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
    reference = copy.deepcopy(student)
    method = at(point, make(train_mode_attack=True))
    method.terms(student, teacher, x, y, epoch=1, noise=noise)
    torch.testing.assert_close(method.attack.value, cross_entropy(reference(point), y).detach())
    assert int(student.layers[1].num_batches_tracked) == 3  # the attack's pass, x' and x

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
    reference = copy.deepcopy(student)
    inputs = []
    # at the first convolution, as a method on features does not call the net
    student.layers[0].register_forward_hook(
        lambda module, args, output: inputs.append(args[0].detach().clone()) if module.training else None
    )
    method = at(point, method)
    if hasattr(method, "prepare"):
        method.prepare(student, teacher, x)
    method.terms(student, teacher, x, y, epoch=1, noise=noise)

    assert len(inputs) == len(passes)
    for got, name in zip(inputs, passes, strict=True):
        assert torch.equal(got, {"x": x, "a": point}[name])
        reference({"x": x, "a": point}[name])
    assert int(student.layers[1].num_batches_tracked) == len(passes)
    for (name, mine), theirs in zip(student.named_buffers(), reference.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("name", ["Natural", "SAT", "TRADES", "MART"])
def test_smoothing_is_of_the_labels_of_the_outer_minimisation(name):
    """CE with the labels (1 - s) y + s / C, and the attack's images unchanged."""
    s, x, y = 0.3, torch.rand(6, 1, 8, 8), torch.arange(6)
    student = TinyNet().eval()
    plain, smooth = (
        getattr(methods, name)(smoothing=value).terms(student, None, x, y, epoch=1, noise=Noise(0, torch.arange(6)))
        for value in (0.0, s)
    )
    key = {"SAT": "robust", "MART": "boosted"}.get(name, "clean")
    seen = []
    student.register_forward_hook(lambda net, args, out: seen.append(out))
    getattr(methods, name)().terms(student, None, x, y, epoch=1, noise=Noise(0, torch.arange(6)))
    log_p = seen[{"TRADES": -2}.get(name, -1)].log_softmax(1)
    hard = -log_p.gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(smooth[key] - plain[key], s * (-log_p.mean(1) - hard))
    assert all(torch.equal(smooth[other], plain[other]) for other in plain if other != key)


def test_smoothing_is_of_methods_with_labels_alone():
    with pytest.raises(ConfigError, match="expected an option of method, got smoothing="):
        build({"name": "rslad", "smoothing": 0.1}, "method")
    for value in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="method.smoothing as a number from 0 to below 1"):
            methods.SAT(smoothing=value)
