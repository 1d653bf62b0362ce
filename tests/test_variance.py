import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from nets import Fixed, batch, filled, moved, pair
from torch import nn

from ardor.attacks import PGD
from ardor.data.split import Split
from ardor.errors import ModelError
from ardor.methods import RSLAD, VarianceGap
from ardor.noise import Noise
from ardor.testing import TinyNet, check_method, global_rng, require_same, snapshot
from ardor.threat import Linf
from ardor.variance import RADII, GapPoint, Projector, answer, covariance, l_cov, l_gram, pearson, variance_gap

B = 12


def features(purpose, d, rows=B):
    return Noise(0, torch.arange(rows), purpose).normal((d,), torch.float64) + 3


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def cov_term(h_s, h_t, h_clean, w=None):
    """The loss on covariances in numpy, from its definition."""
    c_s, c_t, c_clean = (np.cov(h, rowvar=False) for h in (h_s, h_t, h_clean))
    if w is not None:
        c_s = w @ c_s @ w.T
    s = np.trace(c_clean) / len(c_clean)
    return ((c_s / s - c_t / s) ** 2).sum() / ((c_clean / s) ** 2).sum()


def gram_term(z, target):
    p, q = softmax(z), softmax(target)
    total = 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            total += ((p[i] * p[j]).sum() - (q[i] * q[j]).sum()) ** 2
    return total / len(p) ** 2


# The statistics


def test_covariance_is_numpys():
    h = features("h", 7)
    np.testing.assert_allclose(covariance(h).numpy(), np.cov(h.numpy(), rowvar=False), rtol=1e-12)
    assert covariance(h[:2]).shape == (7, 7)


def test_covariance_of_half_precision_is_computed_in_float32():
    h = features("h", 7).to(torch.bfloat16)
    c = covariance(h)
    assert c.dtype == torch.float32
    np.testing.assert_allclose(c.numpy(), np.cov(h.double().numpy(), rowvar=False), rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(covariance(features("h", 7).float()), covariance(features("h", 7).float()))
        inside = covariance(features("h", 7).float())
    assert torch.equal(inside, covariance(features("h", 7).float()))


def test_the_matmul_precision_is_put_back():
    torch.set_float32_matmul_precision("medium")
    try:
        covariance(features("h", 3).float())
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_l_cov_equals_its_definition():
    h_s, h_t, clean = features("s", 5), 2 * features("t", 5), features("c", 5)
    assert float(l_cov(h_s, h_t, clean)) == pytest.approx(cov_term(*(h.numpy() for h in (h_s, h_t, clean))), rel=1e-12)
    w = features("w", 5, 8)  # 8 x 5
    h_t, clean = features("t", 8), features("c", 8)
    expected = cov_term(*(h.numpy() for h in (h_s, h_t, clean)), w.numpy())
    assert float(l_cov(h_s, h_t, clean, w)) == pytest.approx(expected, rel=1e-12)


def test_l_cov_is_one_without_variance_and_zero_for_the_teachers_features():
    h_t = features("t", 5)
    assert float(l_cov(torch.full((B, 5), 7.0, dtype=torch.float64), h_t, h_t)) == pytest.approx(1, abs=1e-12)
    assert float(l_cov(h_t, h_t, h_t)) == 0
    assert float(l_cov(h_t + 5, h_t, h_t)) == pytest.approx(0, abs=1e-20)  # the mean is no part of it
    assert float(l_cov(h_t[torch.randperm(B)], h_t, h_t)) == pytest.approx(0, abs=1e-20)


def test_l_cov_has_no_unit_and_its_scale_is_the_clean_teachers():
    h_s, h_t, clean = features("s", 5), features("t", 5), features("c", 5)
    assert float(l_cov(10 * h_s, 10 * h_t, 10 * clean)) == pytest.approx(float(l_cov(h_s, h_t, clean)))
    # the student's own scale must matter, and so must the clean batch's
    assert float(l_cov(2 * h_s, h_t, clean)) != pytest.approx(float(l_cov(h_s, h_t, clean)), rel=1e-2)
    assert float(l_cov(h_s, h_t, 2 * clean)) == pytest.approx(float(l_cov(h_s, h_t, clean)) / 16)
    zero = torch.zeros(B, 5, dtype=torch.float64)
    assert float(l_cov(zero, h_t, clean)) != pytest.approx(1, rel=1e-2)


def test_l_cov_sends_gradient_to_the_student_and_the_map_but_not_to_its_scale():
    h_s, w = features("s", 5).requires_grad_(), features("w", 5, 8).requires_grad_()
    h_t, clean = features("t", 8), features("c", 8).requires_grad_()
    l_cov(h_s, h_t, clean, w).backward()
    assert h_s.grad.abs().sum() > 0
    assert w.grad.abs().sum() > 0
    assert clean.grad is None
    # s is a constant of the batch also in the difference
    loss = lambda h: l_cov(h, h_t, clean.detach(), w.detach())  # noqa: E731
    assert torch.autograd.gradcheck(loss, features("s", 5).requires_grad_())


def test_l_gram_equals_its_definition():
    z, target = features("z", 4), features("q", 4)
    assert float(l_gram(z, target)) == pytest.approx(gram_term(z.numpy(), target.numpy()), rel=1e-12)
    assert float(l_gram(z, z)) == 0
    assert float(l_gram(z + 3, z)) == pytest.approx(0, abs=1e-20)
    # two images, two classes: P = I for the student, all halves for the teacher; ((1/2)^2 * 4) / 4
    p, q = torch.tensor([[99.0, 0.0], [0.0, 99.0]]), torch.zeros(2, 2)
    assert float(l_gram(p, q)) == pytest.approx(0.25, rel=1e-6)


def test_l_gram_does_not_grow_with_the_batch():
    z, target = features("z", 4), features("q", 4)
    twice = l_gram(torch.cat([z, z]), torch.cat([target, target]))
    assert float(twice) == pytest.approx(float(l_gram(z, target)), rel=1e-12)


def test_answer_asks_for_features_only_where_wanted():
    student, _ = pair()
    student.eval()
    x, _, _ = batch()
    logits, h = answer(student, x, 0.1)
    assert torch.equal(h, student.features(x))
    assert torch.equal(logits, student(x))
    logits, h = answer(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double(), x, 0)
    assert h is None
    assert logits.shape == (B, 3)


# The projector


def train(projector, steps=8):
    optimiser = torch.optim.SGD(projector.parameters(), lr=0.5, momentum=0.9)
    h = features("h", projector.linear.in_features)
    t = features("t", projector.linear.out_features)
    first = projector().detach().clone()
    for _ in range(steps):
        optimiser.zero_grad()
        l_cov(h, t, t, projector()).backward()
        optimiser.step()
    assert float((projector() - first).detach().abs().max()) > 1e-2  # it learned something
    return projector().detach()


@pytest.mark.parametrize(("d_s", "d_t"), [(8, 16), (3, 7)])
def test_a_widening_map_stays_semi_orthogonal_and_keeps_the_variance(d_s, d_t):
    w = train(Projector(d_s, d_t).double())
    assert w.shape == (d_t, d_s)
    np.testing.assert_allclose((w.T @ w).numpy(), d_t / d_s * np.eye(d_s), atol=1e-5)  # W starts from a float32 basis
    c = covariance(features("any", d_s))
    mapped = w @ c @ w.T
    assert float(mapped.trace() / d_t) == pytest.approx(float(c.trace() / d_s), rel=1e-5)


@pytest.mark.parametrize(("d_s", "d_t"), [(16, 8), (7, 3)])
def test_a_narrowing_map_stays_semi_orthogonal_and_keeps_even_variance(d_s, d_t):
    w = train(Projector(d_s, d_t).double())
    np.testing.assert_allclose((w @ w.T).numpy(), np.eye(d_t), atol=1e-5)  # W starts from a float32 basis
    mapped = w @ (0.7 * torch.eye(d_s, dtype=torch.float64)) @ w.T
    assert float(mapped.trace() / d_t) == pytest.approx(0.7, rel=1e-5)


def test_projector_comes_from_its_own_seed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b, c = Projector(4, 6, 0), Projector(4, 6, 0), Projector(4, 6, 1)
    assert torch.equal(a(), b())
    assert not torch.equal(a(), c())
    assert torch.equal(before, torch.get_rng_state())
    assert [p.shape for p in a.parameters()] == [(6, 4)]


def test_projector_is_there_where_widths_differ_only():
    x, _, _ = batch()
    student, teacher = pair()
    projector = Projector.between(student, teacher, x, 0)
    assert projector().shape == (16, 8)
    assert projector().dtype == torch.float64
    assert projector.gain == math.sqrt(2)
    assert student.training
    same = filled(TinyNet(width=16), 5)
    assert Projector.between(same, teacher, x, 0) is None


def test_equal_widths_train_no_parameter():
    x, y, noise = batch()
    _, teacher = pair()
    method = VarianceGap(attack=Fixed(moved(x)))
    assert list(method.parameters()) == []
    method.prepare(filled(TinyNet(width=16), 5), teacher, x)
    assert method.projector_ is None
    assert list(method.parameters()) == []
    terms = method.terms(filled(TinyNet(width=16), 5).train(), teacher, x, y, epoch=1, noise=noise)
    assert list(terms) == ["robust", "clean", "covariance", "gram"]


def test_no_projector_without_the_covariance_term():
    x, _, _ = batch()
    student, teacher = pair()
    method = VarianceGap(lc=0)
    method.prepare(student, teacher, x)
    assert method.projector_ is None


def test_the_projectors_parameters_are_the_methods():
    x, _, _ = batch()
    student, teacher = pair()
    method = VarianceGap()
    method.prepare(student, teacher, x)
    assert [id(p) for p in method.parameters()] == [id(p) for p in method.projector_.parameters()]
    other = VarianceGap(seed=1)
    other.prepare(student, teacher, x)
    assert not torch.equal(method.projector_(), other.projector_())


# What does not fit is refused in words


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
    twin = copy.deepcopy(student)
    terms = method.terms(student, teacher, x, y, epoch=5, noise=noise)

    def known(v):
        return v.detach().numpy()

    h, h_adv = (known(twin.features(z)) for z in (x, point))
    t, t_adv = (known(teacher.features(z)) for z in (x, point))
    w = known(method.projector_())
    covariances = cov_term(h, t, t, w) + cov_term(h_adv, t_adv, t, w)  # the clean teacher scales both
    s, s_adv, soft, soft_adv = (known(v) for v in (twin(x), twin(point), teacher(x), teacher(point)))
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
    twin, w = copy.deepcopy(student), method.projector_().detach()
    terms = method.terms(student, teacher, x, y, epoch=9, noise=noise)
    (terms["covariance"] + terms["gram"]).backward()

    def cov(h):
        c = h - h.sum(0) / len(h)
        return sum(row[:, None] * row[None, :] for row in c) / (len(h) - 1)

    c_clean = cov(teacher.features(x))
    total = 0
    for z in (x, point):
        h = twin.features(z)
        apart = (w @ cov(h) @ w.T - cov(teacher.features(z))).square().sum()
        p, q = twin.head(h).softmax(1), teacher(z).softmax(1)
        total = total + 0.2 * apart / c_clean.square().sum() + 1.5 * (p @ p.T - q @ q.T).square().sum() / len(x) ** 2
    total.backward()
    for (name, a), b in zip(student.named_parameters(), twin.parameters(), strict=True):
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
    assert list(terms) == ["robust", "clean"]
    assert all(v.isfinite().all() for v in terms.values())
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
    seen = []
    for step in range(count):
        x, y, _ = batch(seed=step)
        noise = Noise(0, torch.arange(len(x)), "method", step + 1)
        terms = method.terms(student, teacher, x, y, epoch=step + 1, noise=noise)
        optimiser.zero_grad()
        sum(term.mean() for term in terms.values()).backward()
        seen += [*terms.values(), *(p.grad.clone() for p in student.parameters())]
        optimiser.step()
    return seen, [*student.parameters(), *student.buffers()]


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
    twin = copy.deepcopy(student)
    ours = method.terms(student, teacher, x, y, epoch=1, noise=noise)
    theirs = RSLAD(attack=Fixed(moved(x))).terms(twin, teacher, x, y, epoch=1, noise=noise)
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
    net, data = filled(TinyNet(), 3).eval(), split()
    # decided by what differs between the images, so that an attack changes answers
    net.linear.bias.data = -net.linear.weight.data @ net.features(data.images).detach().mean(0)
    asked = copy.deepcopy(net).eval().requires_grad_(False)
    data = replace(data, labels=asked(data.images).argmax(1))
    net.train()
    net.linear.eval()
    before, rng = snapshot(net), global_rng()
    points = variance_gap(net, data, (0.1, 0.02), steps=3, seed=4)
    require_same(before, snapshot(net), variance_gap, "afterwards")
    assert rng == global_rng()

    x, y, index = data.batch(slice(None))
    assert [p.eps for p in points] == [0, 0.02, 0.1]
    assert points[0].accuracy == 1 > points[2].accuracy
    clean = np.cov(asked.features(x).numpy(), rowvar=False)
    for point in points:
        z = x
        if point.eps:
            attack = PGD(Linf(point.eps), 3, point.eps / 4, "uniform", "ce")
            z = attack(asked, x, y, Noise(4, index, "variance_gap"))
        c = np.cov(asked.features(z).numpy(), rowvar=False)
        v, v0 = np.trace(c) / 8, np.trace(clean) / 8
        assert point.variance == pytest.approx(v, rel=1e-9)
        assert point.signed == pytest.approx(v - v0, rel=1e-9, abs=1e-15)
        assert point.gap == pytest.approx(abs(v - v0), rel=1e-9, abs=1e-15)
        assert point.relative == pytest.approx((v - v0) / v0, rel=1e-9, abs=1e-15)
        assert point.frobenius == pytest.approx(np.sqrt(((c - clean) ** 2).sum()), rel=1e-9, abs=1e-15)
        assert point.accuracy == pytest.approx(float((asked(z).argmax(1) == y).double().mean()))


def test_the_gap_is_over_the_whole_set_whatever_the_batch():
    net, data = filled(TinyNet(), 3).eval(), split(13)
    whole = variance_gap(net, data, (0.05,), steps=2)
    for size in (1, 5):
        for a, b in zip(whole, variance_gap(net, data, (0.05,), steps=2, batch=size), strict=True):
            assert (a.eps, a.accuracy) == (b.eps, b.accuracy)
            assert a.variance == pytest.approx(b.variance, rel=1e-9)


def test_the_radii_are_the_papers():
    assert list(RADII) == [r / 255 for r in (0, 2, 4, 6, 8, 10, 12, 14, 16)]


def test_pearson_is_numpys():
    gaps, accuracies = [0, -0.2, 0.5, -0.9], [0.9, 0.8, 0.6, 0.1]
    points = [GapPoint(i / 10, a, 1 + g, g, g, 0) for i, (g, a) in enumerate(zip(gaps, accuracies, strict=True))]
    assert pearson(points) == pytest.approx(np.corrcoef(np.abs(gaps), accuracies)[0, 1], rel=1e-12)
    assert math.isnan(pearson([GapPoint(0, 0.5, 1, 0, 0, 0), GapPoint(0.1, 0.5, 2, 1, 1, 1)]))
