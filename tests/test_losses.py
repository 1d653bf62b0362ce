import math

import numpy as np
import pytest
import torch

from ardor.attacks import PGD
from ardor.errors import ModelError
from ardor.losses import BY_NAME, ce, dlr, kl, margin
from ardor.methods.mart import bce
from ardor.noise import Noise

B, C = 9, 5


def logits(purpose, classes=C, scale=3.0):
    return scale * Noise(0, torch.arange(B), purpose).normal((classes,), torch.float64)


Y = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])


def soft(z, t=1.0):
    e = [math.exp(v / t) for v in z]
    return [v / sum(e) for v in e]


def same(got, rows, rel=1e-12):
    assert got.shape == (B,)
    np.testing.assert_allclose(got.detach().numpy(), rows, rtol=rel)


def test_cross_entropy():
    z = logits("z")
    same(ce(z, Y), [-math.log(soft(z[i].tolist())[Y[i]]) for i in range(B)])


@pytest.mark.parametrize("t", [1, 4.0, 30])
def test_kl_is_summed_over_classes_target_first_and_softened_on_both_sides(t):
    p, q = logits("p"), logits("q")
    rows = []
    for i in range(B):
        a, b = soft(p[i].tolist(), t), soft(q[i].tolist(), t)
        rows.append(sum(a[c] * math.log(a[c] / b[c]) for c in range(C)))
    same(kl(p, q, t), rows, 1e-9)
    assert not torch.allclose(kl(p, q, t), kl(q, p, t), rtol=1e-3)


def test_kl_of_two_classes_by_hand():
    # P = (3/4, 1/4), Q = (1/2, 1/2): 3/4 log 3/2 + 1/4 log 1/2
    p, q = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    assert float(kl(p, q)) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    assert float(kl(q, p)) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-6)


def test_kl_keeps_the_gradient_on_both_sides():
    p, q = logits("p").requires_grad_(), logits("q").requires_grad_()
    gp, gq = torch.autograd.grad(kl(p, q, 3).sum(), (p, q))
    sp, sq = (torch.tensor([soft(r, 3) for r in z.tolist()], dtype=torch.float64) for z in (p, q))
    assert torch.allclose(gq, (sq - sp) / 3, atol=1e-12)
    rows = (sp * (sp / sq).log()).sum(1, keepdim=True)
    assert torch.allclose(gp, sp * ((sp / sq).log() - rows) / 3, atol=1e-12)


def test_kl_of_equals_is_zero_and_far_logits_are_finite():
    assert torch.equal(kl(logits("p"), logits("p")), torch.zeros(B, dtype=torch.float64))
    far = torch.tensor([[200.0, 0.0, -200.0]])
    assert kl(far, far.flip(1)).isfinite().all()
    assert kl(far, far.flip(1)) > 100


def test_margin_leaves_the_true_class_out():
    z = logits("z")
    rows = [max(float(z[i, j]) for j in range(C) if j != Y[i]) - float(z[i, Y[i]]) for i in range(B)]
    same(margin(z, Y), rows)
    # of a correct image it is negative: with the true class among the others it would be 0
    assert torch.equal(margin(z, z.argmax(1)) < 0, torch.ones(B, dtype=torch.bool))
    assert torch.equal(margin(z, Y) > 0, z.argmax(1) != Y)


def test_dlr():
    z, rows = logits("z"), []
    for i in range(B):
        first, _, third, *_ = sorted(z[i].tolist(), reverse=True)
        other = max(float(z[i, j]) for j in range(C) if j != Y[i])
        rows.append(-(float(z[i, Y[i]]) - other) / (first - third + 1e-12))
    same(dlr(z, Y), rows)


def test_dlr_does_not_feel_shift_or_scale_and_its_denominator_has_a_gradient():
    z = logits("z")
    assert torch.allclose(dlr(z, Y), dlr(7 * z + 3, Y))
    z.requires_grad_()
    (g,) = torch.autograd.grad(dlr(z, Y).sum(), z)
    # a function that no scaling changes has no gradient along its argument
    assert torch.allclose((g * z).sum(1), torch.zeros(B, dtype=torch.float64), atol=1e-9)
    assert g.abs().sum() > 0


def test_dlr_of_a_tie_is_finite():
    assert dlr(torch.zeros(1, 4), torch.tensor([1])).isfinite().all()


def test_dlr_with_two_classes_is_refused_in_words():
    with pytest.raises(ModelError, match=r"at least 3 classes, got 2.*margin"):
        dlr(logits("z", classes=2), Y % 2)
    with pytest.raises(ModelError, match="margin"):
        PGD(loss="dlr")(lambda x: x.flatten(1)[:, :2], torch.rand(B, 1, 2, 2), Y % 2, Noise(0, torch.arange(B)))
    assert dlr(logits("z", classes=3), Y % 3).isfinite().all()
    assert margin(logits("z", classes=2), Y % 2).isfinite().all()


def test_marts_boosted_cross_entropy():
    z, rows = logits("z"), []
    for i in range(B):
        p = soft(z[i].tolist())
        other = max(p[j] for j in range(C) if j != Y[i])
        rows.append(-math.log(p[Y[i]]) - math.log(1.0001 - other + 1e-12))
    same(bce(z, Y), rows)


def test_every_loss_is_per_example_and_no_company_changes_it():
    z = logits("z")
    assert set(BY_NAME.items()) == {("ce", ce), ("margin", margin), ("dlr", dlr)}
    for loss in BY_NAME.values():
        alone = torch.cat([loss(z[i : i + 1], Y[i : i + 1]) for i in range(B)])
        assert torch.allclose(loss(z, Y), alone, rtol=1e-14)


@pytest.mark.parametrize("loss", [ce, margin, dlr, bce])
def test_gradients_agree_with_differences(loss):
    z = logits("z").requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss(v, Y), z)


def test_gradient_of_kl_agrees_with_differences():
    p, q = logits("p").requires_grad_(), logits("q").requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: kl(a, b, 2.5), (p, q))
