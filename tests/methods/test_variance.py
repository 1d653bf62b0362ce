"""The method that aligns variances: refusals, terms, RSLAD bit for bit, and the diagnostic."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import ardor
from ardor.attacks import PGD
from ardor.attacks.threat import L2, Linf
from ardor.data.split import Split
from ardor.errors import ModelError
from ardor.evaluation.variance import RADII, GapPoint, pearson, radius_curve, variance_gap
from ardor.losses import covariance, l_cov
from ardor.methods import RSLAD, VarianceGap
from ardor.noise import Noise
from ardor.testing import TinyNet, check_method, global_rng, require_same, snapshot
from tests.conftest import Fixed, batch, filled, moved, pair
from tests.methods.conftest import cov_term, features, gram_term

# Nets that do not fit are refused


class Headless(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = TinyNet().double()

    def features(self, x):
        return self.net.features(x)

    def forward(self, x):
        return self.net(x)


class Constant(TinyNet):
    def features(self, x):
        return torch.ones(len(x), 16, dtype=x.dtype)


class Unpooled(TinyNet):
    def features(self, x):
        return self.layers(x)


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), TinyNet(width=16), "on the student, got Sequential"),
        (TinyNet(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "on the teacher, got Sequential"),
        (Headless(), TinyNet(width=16), "on the student, got Headless"),
        (TinyNet(), None, "on the teacher, got NoneType"),
        (TinyNet(), Constant(width=16), "features vary"),
        (Unpooled(), TinyNet(), "pool and flatten"),
        (TinyNet(), Unpooled(), "pool and flatten"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_net_that_does_not_fit(student, teacher, words):
    x, _, _ = batch()
    with pytest.raises(ModelError, match=words):
        VarianceGap().prepare(student.double(), teacher.double() if teacher else None, x)


def test_a_net_without_features_still_has_the_gram_term():
    x, y, noise = batch()
    net = nn.Sequential(nn.Flatten(), filled(nn.Linear(64, 10)))
    method = VarianceGap(lc=0, lg=1)
    method.prepare(net, net, x)
    terms = method.terms(net, copy.deepcopy(net).requires_grad_(False), x, y, epoch=1, noise=noise)
    assert list(terms) == ["robust", "clean", "gram"]


# The terms


def prepared(x, **options):
    student, teacher = pair()
    method = VarianceGap(attack=Fixed(moved(x)), **options)
    method.prepare(student, teacher, x)
    return method, student, teacher


def test_terms_equal_their_definition():
    x, y, noise = batch()
    point = moved(x)
    method, student, teacher = prepared(x, lc=0.4, lg=3.0, scale=0.1, warmup=5)
    reference = copy.deepcopy(student)
    terms = method.terms(student, teacher, x, y, epoch=5, noise=noise)

    def array(v):
        return v.detach().numpy()

    h, h_adv = (array(reference.features(z)) for z in (x, point))
    t, t_adv = (array(teacher.features(z)) for z in (x, point))
    w = array(method.projector_())
    covariances = cov_term(h, t, t, w) + cov_term(h_adv, t_adv, t, w)  # the clean teacher scales both
    s, s_adv, soft, soft_adv = (array(v) for v in (reference(x), reference(point), teacher(x), teacher(point)))
    grams = gram_term(s, soft) + gram_term(s_adv, soft_adv)
    assert list(terms) == ["robust", "clean", "covariance", "gram"]
    assert terms["covariance"].shape == terms["gram"].shape == ()
    # RSLAD's scale multiplies neither
    assert float(terms["covariance"].detach()) == pytest.approx(0.4 / 2 * covariances, rel=1e-9)
    assert float(terms["gram"].detach()) == pytest.approx(3 / 2 * grams, rel=1e-9)
    assert cov_term(h_adv, t_adv, t, w) != pytest.approx(cov_term(h_adv, t_adv, t_adv, w), rel=1e-3)


def test_gradients_of_the_terms_equal_hand_written_ones():
    x, y, noise = batch()
    point = moved(x)
    method, student, teacher = prepared(x, lc=0.4, lg=3.0)
    reference, w = copy.deepcopy(student), method.projector_().detach()
    terms = method.terms(student, teacher, x, y, epoch=9, noise=noise)
    (terms["covariance"] + terms["gram"]).backward()

    def cov(h):
        c = h - h.sum(0) / len(h)
        return sum(row[:, None] * row[None, :] for row in c) / (len(h) - 1)

    c_clean = cov(teacher.features(x))
    total = 0
    for z in (x, point):
        h = reference.features(z)
        apart = (w @ cov(h) @ w.T - cov(teacher.features(z))).square().sum()
        p, q = reference.head(h).softmax(1), teacher(z).softmax(1)
        total = total + 0.2 * apart / c_clean.square().sum() + 1.5 * (p @ p.T - q @ q.T).square().sum() / len(x) ** 2
    total.backward()
    for (name, a), b in zip(student.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
    assert all(p.grad.abs().sum() > 0 for p in method.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_the_covariance_term_warms_up():
    x, y, noise = batch()

    def term(epoch, warmup):
        method, student, teacher = prepared(x, lc=0.4, warmup=warmup)
        terms = method.terms(student, teacher, x, y, epoch=epoch, noise=noise[:])
        return {name: float(term.detach().mean()) for name, term in terms.items()}

    full = term(1, 0)
    for epoch, share in ((1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0), (5, 1.0), (400, 1.0)):
        got = term(epoch, 4)
        assert got["covariance"] == pytest.approx(share * full["covariance"], rel=1e-9), epoch
        for other in ("robust", "clean", "gram"):
            assert got[other] == full[other]
    assert term(1, 1) == full


def test_a_term_of_weight_zero_is_not_computed():
    x, y, noise = batch()
    for lc, lg, names in ((0.1, 0, "covariance"), (0, 1, "gram")):
        method, student, teacher = prepared(x, lc=lc, lg=lg)
        assert list(method.terms(student, teacher, x, y, epoch=1, noise=noise)) == ["robust", "clean", names]


def test_one_image_has_no_variance():
    x, y, noise = batch(images=1)
    method, student, teacher = prepared(batch()[0])
    method.attack = Fixed(moved(x))
    terms = method.terms(student, teacher, x, y, epoch=1, noise=noise)
    assert [float(terms[name].detach()) for name in ("covariance", "gram")] == [0, 0]
    assert all(v.isfinite().all() for v in terms.values())
    terms["covariance"].backward()  # several processes have gradients of the same parameters, W's among them
    assert all(p.grad is not None and not p.grad.any() for p in method.parameters())
    method.prepare(student, teacher, x)  # nor can one image say that a teacher is constant
    assert method.projector_ is not None


def test_two_images_have_some():
    x, y, noise = batch(images=2)
    method, student, teacher = prepared(x)
    terms = method.terms(student, teacher, x, y, epoch=1, noise=noise)
    assert all(v.isfinite().all() for v in terms.values())


# RSLAD is the case of no weights, bit for bit


def steps(method, count):
    """Losses, gradients of the first step and weights after `count` steps."""
    student, teacher = pair()
    if hasattr(method, "prepare"):
        method.prepare(student, teacher, batch()[0])
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    values = []
    for step in range(count):
        x, y, _ = batch(seed=step)
        noise = Noise(0, torch.arange(len(x)), "method", step + 1)
        terms = method.terms(student, teacher, x, y, epoch=step + 1, noise=noise)
        optimiser.zero_grad()
        sum(term.mean() for term in terms.values()).backward()
        values += [*terms.values(), *(p.grad.clone() for p in student.parameters())]
        optimiser.step()
    return values, [*student.parameters(), *student.buffers()]


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_without_weights_it_is_rslad_bit_for_bit(scale):
    ours, weights = steps(VarianceGap(scale=scale, lc=0, lg=0), 10)
    theirs, expected = steps(RSLAD(scale=scale), 10)
    assert len(ours) == len(theirs)
    assert all(map(torch.equal, ours, theirs))
    assert all(map(torch.equal, weights, expected))
    other, _ = steps(VarianceGap(scale=scale, lc=0.1, lg=0), 2)
    assert not torch.equal(other[-1], theirs[len(theirs) // 10 * 2 - 1])


def test_rslads_own_terms_are_the_same_bits_beside_the_others():
    x, y, noise = batch()
    method, student, teacher = prepared(x)
    reference = copy.deepcopy(student)
    ours = method.terms(student, teacher, x, y, epoch=1, noise=noise)
    theirs = RSLAD(attack=Fixed(moved(x))).terms(reference, teacher, x, y, epoch=1, noise=noise)
    for name in ("robust", "clean"):
        assert torch.equal(ours[name], theirs[name])


def test_contract_with_a_projector_that_has_learned():
    check_method(VarianceGap(lc=1.0, lg=1.0))
    check_method(VarianceGap(lc=1.0, lg=0.0), student=TinyNet(width=16), teacher=TinyNet(width=8))


def test_the_loss_pulls_the_students_variance_towards_the_teachers():
    h_t = features("t", 6, 40)
    h_s = (0.3 * features("s", 6, 40)).requires_grad_()
    before = float(covariance(h_s).detach().trace())
    l_cov(h_s, h_t, h_t).backward()
    after = covariance(h_s.detach() - 1.0 * h_s.grad)
    assert before < float(after.trace()) < float(covariance(h_t).trace())


# The diagnostic


def split(images=12):
    x, y, noise = batch(images=images)
    return Split(x, y, 10, "test", "test", index=noise.index)


def test_the_gap_by_hand():
    net, data = filled(TinyNet(), 3).float().eval(), split()
    # decided by what differs between the images, so that an attack changes answers
    net.linear.bias.data = -net.linear.weight.data @ net.features(data.images).detach().mean(0)
    reference = copy.deepcopy(net).eval().requires_grad_(False)
    data = replace(data, labels=reference(data.images).argmax(1))
    net.train()
    net.linear.eval()
    before, rng = snapshot(net), global_rng()
    points = variance_gap(net, data, (0.1, 0.02), steps=3, seed=4)
    require_same(before, snapshot(net), variance_gap, "afterwards")
    assert rng == global_rng()

    x, y, index = data.batch(slice(None))
    assert [p.eps for p in points] == [0, 0.02, 0.1]
    assert points[0].accuracy == 1 > points[2].accuracy
    clean = np.cov(reference.features(x).numpy(), rowvar=False)
    for point in points:
        z = x
        if point.eps:
            attack = PGD(Linf(point.eps), 3, point.eps / 4, "uniform", "ce")
            z = attack(reference, x, y, Noise(4, index, "variance_gap"))
        c = np.cov(reference.features(z).numpy(), rowvar=False)
        v, v0 = np.trace(c) / 8, np.trace(clean) / 8
        assert point.variance == pytest.approx(v, rel=1e-4)
        assert point.signed == pytest.approx(v - v0, rel=1e-4, abs=1e-6)
        assert point.gap == pytest.approx(abs(v - v0), rel=1e-4, abs=1e-6)
        assert point.relative == pytest.approx((v - v0) / v0, rel=1e-4, abs=1e-6)
        assert point.frobenius == pytest.approx(np.sqrt(((c - clean) ** 2).sum()), rel=1e-4, abs=1e-6)
        assert point.accuracy == pytest.approx(float((reference(z).argmax(1) == y).double().mean()))


def test_the_gap_is_over_the_whole_set_whatever_the_batch():
    net, data = filled(TinyNet(), 3).float().eval(), split(13)
    full = variance_gap(net, data, (0.05,), steps=2)
    for size in (1, 5):
        for a, b in zip(full, variance_gap(net, data, (0.05,), steps=2, batch=size), strict=True):
            assert (a.eps, a.accuracy) == (b.eps, b.accuracy)
            assert a.variance == pytest.approx(b.variance, rel=1e-4)


def test_the_radii_are_the_papers():
    assert list(RADII) == [r / 255 for r in (0, 2, 4, 6, 8, 10, 12, 14, 16)]


def test_pearson_is_numpys():
    gaps, accuracies = [0, -0.2, 0.5, -0.9], [0.9, 0.8, 0.6, 0.1]
    points = [GapPoint(i / 10, a, 1 + g, g, g, 0) for i, (g, a) in enumerate(zip(gaps, accuracies, strict=True))]
    assert pearson(points) == pytest.approx(np.corrcoef(np.abs(gaps), accuracies)[0, 1], rel=1e-12)
    assert math.isnan(pearson([GapPoint(0, 0.5, 1, 0, 0, 0), GapPoint(0.1, 0.5, 2, 1, 1, 1)]))


@pytest.mark.parametrize("threat", [Linf, L2])
def test_a_net_without_features_has_a_radius_curve_in_any_norm(threat):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    points = radius_curve(plain, ardor.data.load_test("digits").limit(20), [threat(0.1), threat(0.2)], steps=2)
    assert [point.eps for point in points] == [0, 0.1, 0.2]
    assert points[0].accuracy >= points[2].accuracy
    assert all(math.isnan(point.variance) for point in points)
