"""The statistics of the variance method and its projector, against their definitions."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from ardor.losses import covariance, l_cov, l_gram, l_gram_features
from ardor.methods import VarianceGap
from ardor.methods.alignment import Projector, forward
from ardor.testing import TinyNet
from tests.conftest import Fixed, batch, filled, moved, pair
from tests.methods.conftest import B, cov_term, features, gram_term

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


def test_the_gram_matrix_of_features_needs_no_equal_widths():
    h, t = batch()[0].flatten(1)[:, :5], moved(batch()[0]).flatten(1)[:, :9]
    products = [[[float(a @ b) for b in of] for a in of] for of in (h, t)]
    squares = sum((p - q) ** 2 for rows in zip(*products, strict=True) for p, q in zip(*rows, strict=True))
    trace = sum(products[1][i][i] for i in range(len(t)))
    assert float(l_gram_features(h, t)) == pytest.approx(squares / trace**2, rel=1e-12)
    assert float(l_gram_features(7 * h, 7 * t)) == pytest.approx(squares / trace**2, rel=1e-12)
    assert float(l_gram_features(t, t)) == 0
    student, teacher = pair(student=4, teacher=6)
    x, y, noise = batch()
    method = VarianceGap(lc=0, lg=2.0, gram="features", attack=Fixed(moved(x)))
    method.prepare(student, teacher, x)
    assert not list(method.parameters())
    reference = copy.deepcopy(student)
    terms = method.terms(student, teacher, x, y, epoch=1, noise=noise)
    each = [l_gram_features(reference.features(z), teacher.features(z)) for z in (x, moved(x))]
    torch.testing.assert_close(terms["gram"], each[0] + each[1])


def test_l_gram_equals_its_definition():
    z, target = features("z", 4), features("q", 4)
    assert float(l_gram(z, target)) == pytest.approx(gram_term(z.numpy(), target.numpy()), rel=1e-12)
    assert float(l_gram(z, z)) == 0
    assert float(l_gram(z + 3, z)) == pytest.approx(0, abs=1e-20)
    # two images, two classes: P = I for the student, all halves for the teacher; ((1/2)^2 * 4) / 4
    p, q = torch.tensor([[99.0, 0.0], [0.0, 99.0]]), torch.zeros(2, 2)
    assert float(l_gram(p, q)) == pytest.approx(0.25, rel=1e-6)


def test_answer_asks_for_features_only_where_wanted():
    student, _ = pair()
    student.eval()
    x, _, _ = batch()
    logits, h = forward(student, x, 0.1)
    assert torch.equal(h, student.features(x))
    assert torch.equal(logits, student(x))
    logits, h = forward(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double(), x, 0)
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
