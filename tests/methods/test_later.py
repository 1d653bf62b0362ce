"""The methods after 2021 against their formulas, written out here once more without ardor's losses."""

import copy

import pytest
import torch
from torch import nn

from ardor.attacks import PGD
from ardor.engine.modes import freeze
from ardor.errors import ConfigError
from ardor.methods import (
    ABSLD,
    ADR,
    AKD2,
    ARD,
    DGAD,
    IGDM,
    KD,
    LBGAT,
    MTARD,
    RSLAD,
    SAAD,
    AdaAD,
    AdaIAD,
    FairRSLAD,
    PeerAiD,
    VarianceGap,
)
from ardor.models import build
from ardor.noise import Noise
from tests.conftest import Fixed, TinyNet, batch, filled, moved, pair
from tests.methods.test_methods import cross_entropy, divergence, of_class, probabilities

# Each formula: method, student, teacher, x, x', y, epoch -> terms, written with probabilities


def adaad(m, s, t, x, a, y, epoch):
    terms = {"robust": m.scale * m.alpha * divergence(t(a), s(a))}
    return terms if m.alpha == 1 else {**terms, "clean": m.scale * (1 - m.alpha) * divergence(t(x), s(x))}


def adaiad(m, s, t, x, a, y, epoch):
    trust = of_class(probabilities(t(a)), y) ** m.b
    teacher = m.t * m.t * divergence(t(a), s(a), m.t)
    if epoch < m.begin:
        return {"teacher": teacher}
    return {"teacher": (trust if m.weighted_teacher else 1) * teacher, "self": (1 - trust) * divergence(s(x), s(a))}


def swapped(z, y):
    rows = []
    for row, k in zip(z, y.tolist(), strict=True):
        order, top = list(range(len(row))), int(row.argmax())
        order[k], order[top] = top, k
        rows.append(row[order])
    return torch.stack(rows)


def dgad(m, s, t, x, a, y, epoch):
    rows = [
        divergence(swapped(t(x), y), s(x))[i] if int(t(x)[i].argmax()) != k else divergence(swapped(t(a), y), s(a))[i]
        for i, k in enumerate(y.tolist())
    ]
    difference = probabilities(s(a)) - probabilities(s(x))
    return {"distil": torch.stack(rows), "consistency": m.beta * (difference**2).sum(1) / difference.shape[1]}


def igdm(m, s, t, x, a, y, epoch):
    base = {RSLAD: rslad, AdaAD: adaad, ARD: ard}[type(m.base)](m.base, s, t, x, a, y, epoch)
    plus, minus = x + m.b * (a - x), x - m.c * (a - x)
    return {**base, "gradient": m.alpha * epoch / m.ramp * divergence(t(plus) - t(minus), s(plus) - s(minus))}


def rslad(m, s, t, x, a, y, epoch):
    return {
        "robust": m.scale * m.alpha * divergence(t(x), s(a)),
        "clean": m.scale * (1 - m.alpha) * divergence(t(x), s(x)),
    }


def ard(m, s, t, x, a, y, epoch):
    return {
        "robust": m.scale * m.alpha * m.t * m.t * divergence(t(x), s(a), m.t),
        "clean": (1 - m.alpha) * cross_entropy(s(x), y),
    }


def shannon(z):
    p = probabilities(z)
    return -sum(p[:, c] * p[:, c].log() for c in range(p.shape[1]))


def saad(m, s, t, x, a, y, epoch):
    h = shannon(t(a))
    w = m.gain * (h - h.min()) if m.weights == "entropy" else torch.ones_like(h)
    n = w / (w.max() + 1e-8) if m.weights == "entropy" else torch.zeros_like(h)
    terms = {"robust": w * divergence(t(a), s(a))}
    if m.alpha:
        minus = x - (a - x)
        terms["gradient"] = w * m.alpha * epoch / m.ramp * divergence(t(a) - t(minus), s(a) - s(minus))
    if m.beta:
        terms["clean"] = m.beta * (1 - n) * divergence(t(x), s(x))
    return terms


def akd2(m, s, t, x, a, y, epoch):
    return {
        "label": (1 - m.robust - m.natural) * cross_entropy(s(a), y),
        "robust": m.robust * m.t * m.t * divergence(t["robust"](a), s(a), m.t),
        "natural": m.natural * m.t * m.t * divergence(t["natural"](a), s(a), m.t),
    }


def mtard_first(m, s, t, x, a, y, epoch):  # r_k = 1 in the first step, so that the weights stay 1/2
    return {
        "robust": m.scale / 2 * divergence(t["robust"](a), s(a)),
        "natural": m.scale / 2 * divergence(t["natural"](x), s(x)),
    }


def peeraid(m, s, t, x, a, y, epoch):
    p = m.reference
    target = s(a) if m.leak else s(a).detach()
    return {
        "peer": m.g1 * cross_entropy(p(a), y) + m.scale * m.g2 * divergence(target, p(a)),
        "student": m.l1 * cross_entropy(s(a), y)
        + m.scale * m.l2 * m.t**2 * divergence(p(a).detach(), s(a), m.t)
        + m.scale * m.l3 * m.t**2 * divergence(s(x), s(a), m.t),
    }


def lbgat(m, s, t, x, a, y, epoch):
    guide = m.reference
    return {
        "boundary": ((s(a) - guide(x)) ** 2).sum(1) / 10,
        "natural": cross_entropy(guide(x), y),
        "robust": m.beta * divergence(s(x), s(a)),
    }


def adr(m, s, t, x, a, y, epoch):  # in step 0 the first tau and lam
    p = probabilities(m.reference.eval()(x), m.tau[0]).detach()
    rows = []
    for q, k in zip(p, y.tolist(), strict=True):
        weight = min(1, max(0, m.lam[0] - float(q.max() - q[k])))
        rows.append(weight * q + (1 - weight) * torch.eye(10, dtype=q.dtype)[k])
    label = torch.stack(rows)
    return {"robust": -(label * probabilities(s(a)).log()).sum(1)}


FORMULAS = [
    (AdaAD(), adaad, 1),
    (AdaAD(alpha=0.7, scale=0.1), adaad, 5),
    (AdaIAD(), adaiad, 60),
    (AdaIAD(), adaiad, 61),
    (AdaIAD(begin=1, b=0.7, t=2.0, weighted_teacher=True), adaiad, 1),
    (DGAD(), dgad, 1),
    (DGAD(beta=0.3), dgad, 4),
    (IGDM(), igdm, 10),
    (IGDM(AdaAD(), alpha=20.0, ramp=100), igdm, 3),
    (IGDM(ARD(alpha=0.8, t=4.0)), igdm, 200),
    (IGDM(AdaAD(alpha=0.5), c=0.0), igdm, 60),
    (IGDM(b=0.5, c=0.25), igdm, 60),
    (SAAD(), saad, 7),
    (SAAD(alpha=0.0), saad, 7),
    (SAAD(inner="clean", weights="none", beta=0.4, alpha=10.0, ramp=20), saad, 3),
    (SAAD(inner="teacher", beta=0.4, gain=2.0), saad, 3),
    (AKD2(), akd2, 1),
    (AKD2(robust=0.1, natural=0.6, t=2.0), akd2, 1),
    (MTARD(), mtard_first, 1),
    (MTARD(scale=0.1, balance_temperatures=True), mtard_first, 300),
    (PeerAiD(), peeraid, 1),
    (PeerAiD(g1=0.5, g2=2.0, l1=0.3, l2=0.4, l3=0.7, t=2.0, scale=0.1, leak=True), peeraid, 9),
    (LBGAT(), lbgat, 1),
    (LBGAT(beta=0.0), lbgat, 1),
    (ADR(), adr, 1),
    (ADR(tau=(1.5, 1.0), lam=(0.5, 0.9)), adr, 30),
    (FairRSLAD(), rslad, 1),
    (FairRSLAD(alpha=0.7, scale=0.1), rslad, 9),
    (ABSLD(), rslad, 1),
    (ABSLD(alpha=0.7, scale=0.1), rslad, 9),
]


def teachers_of(method, teacher):
    """The teacher, or two for a method that names two."""
    if not hasattr(method, "teachers"):
        return teacher
    other = filled(TinyNet(1, 10, 12), 5).eval().requires_grad_(False)
    return nn.ModuleDict({"robust": teacher, "natural": other})


def ready(method, student, teacher, x, point):
    """A copy whose attack goes to `point`; `reference` is a copy of the net that it trains along or averages."""
    method = copy.deepcopy(method)
    (method.base if hasattr(method, "base") else method).attack = Fixed(point)
    if hasattr(method, "prepare"):
        method.prepare(student, teacher, x)
    for name in ("peer_", "natural_", "average_"):
        if getattr(method, name, None) is not None:
            filled(getattr(method, name), 6)
            method.reference = copy.deepcopy(getattr(method, name))
    return method


@pytest.mark.parametrize(("method", "formula", "epoch"), FORMULAS, ids=lambda v: getattr(v, "__name__", str(v)[:60]))
def test_terms_and_gradients_equal_the_formula(method, formula, epoch):
    x, y, noise = batch()
    point = moved(x)
    student, teacher = pair()
    teacher = teachers_of(method, teacher)
    if not hasattr(method, "teachers"):
        y[::2] = teacher(x).argmax(1)[::2]  # every other image is right, the rest are wrong
    method = ready(method, student, teacher, x, point)
    reference = copy.deepcopy(student)
    terms = method.terms(student, teacher, x, y, epoch=epoch, noise=noise)
    expected = formula(method, reference, teacher, x, point, y, epoch)

    assert list(terms) == list(expected)
    for name, term in terms.items():
        assert term.shape == (len(x),)
        torch.testing.assert_close(term, expected[name], rtol=1e-7, atol=1e-10, check_dtype=False)
    for parts in (terms, expected):
        torch.stack([part.mean() for part in parts.values()]).sum().backward()
    along = [getattr(method, name).parameters() for name in ("peer_", "natural_") if hasattr(method, name)]
    mine = [*student.parameters(), *(p for part in along for p in part)]
    theirs = [*reference.parameters(), *(method.reference.parameters() if along else ())]
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-10)
    assert max(float(p.grad.abs().max()) for p in student.parameters()) > 1e-4


# The inner objectives: the gradient at the point tells which targets are detached


def climb_both(m, s, t, x, y, z):
    return divergence(t(z), s(z))


def climb_soft(m, s, t, x, y, z):
    return divergence(t(x), s(z))


def climb_linear(m, s, t, x, y, z):
    at = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(sum(row[k] for row, k in zip(t(at), y.tolist(), strict=True)), at)
    target = t(x).clone()
    rows = []
    for i, k in enumerate(y.tolist()):
        shift = torch.zeros(10, dtype=x.dtype)
        shift[k] = 1
        rows.append(target[i] + shift * m.lam * (g[i] * (z[i] - x[i])).sum())
    return divergence(torch.stack(rows), s(z))


def climb_ce(m, s, t, x, y, z):
    return cross_entropy(s(z), y)


def climb_own(m, s, t, x, y, z):
    return divergence(s(x).detach(), s(z))


def climb_peer(m, s, t, x, y, z):
    return divergence(m.reference.eval()(x).detach(), s(z))


INNER = [
    (AdaAD(), climb_both),
    (AdaIAD(), climb_both),
    (DGAD(), climb_both),
    (IGDM(), climb_soft),
    (IGDM(AdaAD()), climb_both),
    (SAAD(), climb_linear),
    (SAAD(lam=0.3), climb_linear),
    (SAAD(inner="clean"), climb_soft),
    (SAAD(inner="teacher"), climb_both),
    (FairRSLAD(), climb_soft),
    (ABSLD(), climb_soft),
    (AKD2(), climb_ce),
    (MTARD(), climb_ce),
    (LBGAT(), climb_own),
    (PeerAiD(), climb_peer),
]


@pytest.mark.parametrize(("method", "objective"), INNER, ids=lambda v: getattr(v, "__name__", repr(v)[:40]))
def test_the_inner_objective(method, objective):
    x, y, noise = batch()
    point = moved(x)
    student, teacher = pair()
    teacher = teachers_of(method, teacher)
    reference = copy.deepcopy(student).eval()
    method = ready(method, student, teacher, x, point)
    method.terms(student, teacher, x, y, epoch=60, noise=noise)

    z = point.clone().requires_grad_()
    expected = objective(method, reference, teacher, x, y, z)
    (grad,) = torch.autograd.grad(expected.sum(), z)
    attack = method.attack
    torch.testing.assert_close(attack.value, expected.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(attack.grad, grad, rtol=1e-8, atol=1e-12)


# The passes in train mode, and those of the teacher


@pytest.mark.parametrize(
    ("method", "passes", "asked"),
    [
        (AdaAD(), "a", "a"),
        (AdaAD(alpha=0.5), "xa", "ax"),
        (AdaIAD(), "xa", "a"),
        (DGAD(), "xa", "xa"),
        (IGDM(), "axm", "xam"),
        (IGDM(AdaAD()), "am", "am"),
        (IGDM(ARD()), "axm", "xam"),
        (IGDM(RSLAD(), c=0.0), "ax", "xa"),
        (IGDM(VarianceGap()), "axm", "xam"),
        (SAAD(inner="clean"), "am", "xam"),
        (SAAD(inner="clean", alpha=0.0, beta=0.5), "ax", "xa"),
        (FairRSLAD(), "ax", "x"),
        (ABSLD(), "ax", "x"),
        (PeerAiD(), "ax", ""),
        (LBGAT(), "ax", ""),
        (ADR(), "a", ""),
    ],
    ids=repr,
)
def test_passes(method, passes, asked):
    x, y, noise = batch()
    point = moved(x)
    student, teacher = pair()
    named = {"x": x, "a": point, "m": 2 * x - point}
    method = ready(method, student, teacher, x, point)
    seen, answered = [], []
    student.layers[0].register_forward_hook(lambda m, a, o: seen.append(a[0].detach()) if m.training else None)
    teacher.layers[0].register_forward_hook(lambda m, a, o: None if a[0].requires_grad else answered.append(a[0]))
    method.terms(student, teacher, x, y, epoch=1, noise=noise)
    for got, names in ((seen, passes), (answered, asked)):
        assert len(got) == len(names)
        for images, name in zip(got, names, strict=True):
            torch.testing.assert_close(images, named[name], rtol=0, atol=1e-12)


# Learned state: a function of the steps, which changes in `advance` alone


class Near:
    """A maximiser that asks once, and goes to a point that no gradient decides: signs would amplify rounding."""

    def maximise(self, objective, x, noise):
        objective(moved(x))
        return moved(x)


def stepped(method, student, teacher, epochs=2, seed=0):
    """The method after steps of two batches an epoch."""
    method = copy.deepcopy(method)
    method.attack = Near()
    method.prepare(student, teacher, batch(seed=seed)[0])
    for epoch in range(1, epochs + 1):
        for number in (1, 2):
            x, y, _ = batch(seed=10 * epoch + number)
            noise = Noise(0, torch.arange(len(x)), "state", epoch)
            method.terms(student, teacher, x, y, epoch=epoch, noise=noise)
            method.advance(student, epoch=epoch, last=number == 2, average=None)
    return method


@pytest.mark.parametrize("method", [MTARD(), ADR(), MTARD(balance_temperatures=True)], ids=lambda m: repr(m)[:50])
def test_terms_may_be_called_twice(method):
    student, teacher = pair()
    teacher = teachers_of(method, teacher)
    method = stepped(method, student, teacher)
    x, y, noise = batch()
    twice = copy.deepcopy(method)
    twice.terms(copy.deepcopy(student), teacher, x, y, epoch=3, noise=noise)
    for one in (method, twice):
        net = copy.deepcopy(student)
        one.terms(net, teacher, x, y, epoch=3, noise=noise)
        one.advance(net, epoch=3, last=True, average=None)
    for name, value in vars(method).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, getattr(twice, name), rtol=1e-6, atol=1e-9)


def test_mtard_gives_more_weight_to_the_term_that_has_fallen_less():
    x, y, _noise = batch()
    student, teacher = pair()
    nets = teachers_of(MTARD(), teacher)
    method = ready(MTARD(h=0.5, balance_temperatures=True, g=0.3), student, nets, x, moved(x))
    w, first, tau = [0.5, 0.5], None, [1.0, 1.0]
    for epoch in (1, 216):
        for seed in range(3):
            x, y, noise = batch(seed=seed + epoch)
            point = moved(x, seed)
            method.attack.point = point
            p_r, p_n = nets["robust"](point) / tau[0], nets["natural"](x) / tau[1]
            losses = [
                float(divergence(p_r, student(point)).mean().detach()),
                float(divergence(p_n, student(x)).mean().detach()),
            ]
            first = first or losses
            r = [a / b for a, b in zip(losses, first, strict=True)]
            drop = 0.1 if epoch > 215 else 1
            w[1] = w[1] - 0.5 * drop * (w[1] - r[1] / (r[0] + r[1]))
            w[0] = 1 - w[1]
            terms = method.terms(student, nets, x, y, epoch=epoch, noise=noise)
            got = [float(terms["robust"].mean()), float(terms["natural"].mean())]
            assert got == pytest.approx([w[0] * losses[0], w[1] * losses[1]], rel=1e-5)
            method.advance(student, epoch=epoch, last=False, average=None)
            h = [float(shannon(p).mean()) for p in (p_r, p_n)]
            tau = [
                min(10, max(1, tau[0] - 0.3 * drop * ((h[0] > h[1]) - (h[0] < h[1])))),
                min(10, max(1, tau[1] - 0.3 * drop * ((h[1] > h[0]) - (h[1] < h[0])))),
            ]
    assert max(tau) > 1


def test_fair_rslad_weights_the_classes_that_are_attacked_easily():
    student, teacher = pair()
    method = FairRSLAD(attack=PGD(steps=3), low=0.5, high=3.0)
    method.prepare(student, teacher, batch()[0])
    right, images = [0.0] * 10, [0] * 10
    for number in (1, 2):
        x, y, noise = batch(seed=number)
        counts = [0] * len(x)

        class Counting:
            def maximise(self, objective, x, noise, counts=counts, y=y):
                def counted(z):
                    with torch.no_grad():
                        now = copy.deepcopy(student).eval()(z).argmax(1) == y
                    for i, ok in enumerate(now.tolist()):
                        counts[i] += ok
                    return objective(z)

                return PGD(steps=3).maximise(counted, x, noise)

        method.attack = Counting()
        method.terms(student, teacher, x, y, epoch=1, noise=noise)
        method.advance(student, epoch=1, last=number == 2, average=None)
        for k, count in zip(y.tolist(), counts, strict=True):
            right[k] += count
            images[k] += 1
    k = [r / n if n else sum(right) / sum(images) for r, n in zip(right, images, strict=True)]
    u = [(v + 1e-5) ** -2 for v in k]
    expected = [min(3.0, max(0.5, 10 * v / sum(u))) for v in u]
    assert len(set(expected)) > 1
    assert method.weight_.tolist() == pytest.approx(expected, rel=1e-4)
    assert not method.counts_.any()  # a new epoch counts from 0
    x, y, noise = batch(seed=1)
    terms = method.terms(copy.deepcopy(student), teacher, x, y, epoch=2, noise=noise)
    plain = FairRSLAD(attack=method.attack)
    plain.prepare(student, teacher, x)
    unweighted = plain.terms(copy.deepcopy(student), teacher, x, y, epoch=2, noise=noise)
    torch.testing.assert_close(terms["clean"], method.weight_[y] * unweighted["clean"], check_dtype=False)


@pytest.mark.parametrize(("epoch", "h"), [(1, 0.1), (214, 0.1), (215, 0.01), (285, 0.0001)])
def test_absld_sharpens_the_targets_of_harder_classes(epoch, h):
    x, y, noise = batch()
    student, teacher = pair()
    point = moved(x)
    method = ready(ABSLD(), student, teacher, x, point)
    method.terms(student, teacher, x, y, epoch=epoch, noise=noise)
    method.advance(student, epoch=epoch, last=True, average=None)
    for row, images in enumerate((point, x)):
        loss = cross_entropy(student(images), y)
        means = {c: float(loss[y == c].mean()) for c in set(y.tolist())}
        middle = sum(means.values()) / len(means)
        off = {c: v - middle for c, v in means.items()}
        largest = max(map(abs, off.values()))
        expected = [1 - h * off.get(c, 0) / largest for c in range(10)]
        assert method.tau_[row].tolist() == pytest.approx(expected, rel=1e-5)
    x2, y2, noise = batch(seed=3)
    method.attack.point = x2
    terms = method.terms(student, teacher, x2, y2, epoch=epoch, noise=noise)
    target = teacher(x2) / method.tau_[1][y2][:, None].double()
    torch.testing.assert_close(terms["clean"], divergence(target, student(x2)) / 6, rtol=1e-5, atol=1e-8)
    target = teacher(x2) / method.tau_[0][y2][:, None].double()
    torch.testing.assert_close(terms["robust"], divergence(target, student(x2)) * 5 / 6, rtol=1e-5, atol=1e-8)
    product = copy.deepcopy(method)
    product.product = True
    terms = product.terms(student, teacher, x2, y2, epoch=epoch, noise=noise)
    target = teacher(x2) / (method.tau_[1] * method.tau_[0])[y2][:, None].double()
    torch.testing.assert_close(terms["clean"], divergence(target, student(x2)) / 6, rtol=1e-5, atol=1e-8)


def test_equal_losses_leave_absld_as_it_is():
    student, teacher = pair()
    method = ABSLD()
    method.prepare(student, teacher, batch()[0])
    method.batch_ = torch.ones(3, 10)
    method.advance(student, epoch=1, last=True, average=None)
    assert torch.equal(method.tau_, torch.ones(2, 10))


def test_adr_averages_weights_and_statistics_after_each_step():
    student, _ = pair()
    x, y, noise = batch()
    method = ADR(decay=0.9, steps=2)
    method.prepare(student, None, x)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1)
    student(x)
    method.advance(student, epoch=1, last=False, average=None)
    for name, value in method.average_.state_dict().items():
        now = student.state_dict()[name]
        expected = 0.9 * before[name] + 0.1 * now if value.is_floating_point() else now
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    assert (method._at(2.5, 2.0), method._at(0.7, 0.95)) == pytest.approx((2.25, 0.825))  # half way
    method.advance(student, epoch=1, last=False, average=dict(student.named_parameters()))
    for name, p in student.named_parameters():
        assert torch.equal(method.average_.get_parameter(name), p)
    assert method._at(2.5, 2.0) == pytest.approx(2.0)
    method.terms(student, None, x, y, epoch=1, noise=noise)["robust"].sum().backward()
    assert all(p.grad is None for p in method.average_.parameters())


def test_a_peer_begins_with_weights_of_its_own_seed():
    student, _ = pair()
    for make, name in ((PeerAiD, "peer_"), (LBGAT, "natural_")):
        one, two, other = (make(seed=seed) for seed in (1, 1, 2))
        for method in (one, two, other):
            method.prepare(student, None, batch()[0])
        weights = [getattr(m, name).layers[0].weight for m in (one, two, other)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        assert not torch.equal(weights[0], student.layers[0].weight)
        assert [*map(id, one.parameters())] == [*map(id, getattr(one, name).parameters())]


def test_a_peer_is_not_the_student_that_is_built_from_the_same_seed():
    student = build("small_cnn", channels=1, width=2, seed=1)
    for method, name in ((PeerAiD(seed=1), "peer_"), (LBGAT(seed=1), "natural_")):
        method.prepare(student, None, batch()[0])
        pairs = zip(student.parameters(), getattr(method, name).parameters(), strict=True)
        assert not any(torch.equal(p, q) for p, q in pairs if p.ndim > 1)


@pytest.mark.parametrize("method", [FairRSLAD(), ABSLD(), MTARD(balance_temperatures=True)], ids=repr)
def test_a_row_that_is_no_image_of_the_step_is_not_counted(method):
    x, y, noise = batch()
    student, teacher = pair()
    teacher = teachers_of(method, teacher)
    results = []
    for rows in (slice(0, 5), slice(0, 6)):
        one = ready(method, copy.deepcopy(student).eval(), teacher, x, moved(x)[rows])
        index = torch.cat([noise.index[:5], torch.tensor([-1])])[rows]
        one.terms(copy.deepcopy(student).eval(), teacher, x[rows], y[rows], epoch=1, noise=Noise(0, index, "", 1))
        results.append((one.batch_, getattr(one, "next_", one.batch_)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert float(results[0][0][-1].sum()) == 5


def test_a_student_that_is_its_natural_teacher_begins_with_finite_weights():
    x, y, noise = batch()
    student, teacher = pair()
    student.eval()
    method = ready(MTARD(), student, teacher, x, moved(x))
    terms = method.terms(student, {"robust": teacher, "natural": student}, x, y, epoch=1, noise=noise)
    assert all(term.isfinite().all() for term in terms.values())
    assert method.next_[0].tolist() == [0.5, 0.5]


def test_a_teacher_that_is_differentiated_keeps_no_gradient():
    x, y, noise = batch()
    for method in (AdaAD(), SAAD(), IGDM(AdaAD())):
        student, teacher = pair()
        with freeze(teacher.requires_grad_(True)):
            terms = method.terms(student, teacher, x, y, epoch=1, noise=noise)
        torch.stack([t.mean() for t in terms.values()]).sum().backward()
        assert all(p.grad is None for p in teacher.parameters())


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match=r"expected a base of IGDM with an attack, got KD, which has no x'"):
        IGDM(KD())
    with pytest.raises(
        ConfigError, match=r"a base of IGDM with one teacher, got MTARD, which has robust and natural: "
    ):
        IGDM(MTARD())
    for make, name, value in (
        (IGDM, "ramp", 0), (SAAD, "ramp", 0), (ADR, "steps", 0), (ABSLD, "low", 0.0), (ABSLD, "high", 0.9),
        (FairRSLAD, "high", 0.1),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"expected method.{name} as a .*, got {value}: "):
            make(**{name: value})
    x, y, noise = batch(images=1)
    student, teacher = pair()
    with pytest.raises(ConfigError, match=r"at least 2 images .* got 1, .*weights=.none."):
        SAAD(attack=PGD(steps=1)).terms(student, teacher, x, y, epoch=1, noise=noise)
    x, y, noise = batch()
    with pytest.raises(ConfigError, match=r'a base of IGDM without a term "gradient", got SAAD, which has its own'):
        IGDM(SAAD(attack=PGD(steps=1))).terms(student, teacher, x, y, epoch=1, noise=noise)
    IGDM(SAAD(attack=PGD(steps=1), alpha=0.0)).terms(student, teacher, x, y, epoch=1, noise=noise)
