"""Losses, gradients, weights and statistics that are not finite: none is saved, and the message names the cause."""

import math

import pytest
import torch
from torch import nn

from ardor.errors import DivergedError
from ardor.losses import ce
from ardor.training.averaging import EMA
from ardor.training.loop import distill, epochs
from ardor.training.optimisers import SGD
from tests.conftest import bits, splits
from tests.training.conftest import ended, net, recipe, require_same


class Overflows(torch.autograd.Function):
    """The identity with an infinite gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * math.inf


class Breaks:
    """Cross-entropy and a term of a trained weight; in the last step of epoch 2 `what` is not finite."""

    def __init__(self, what):
        self.what = what

    def prepare(self, student, teacher, x):
        self.weight_ = nn.Linear(1, 1)
        self.seen_ = torch.zeros(1)

    def parameters(self):
        return self.weight_.parameters()

    def terms(self, student, teacher, x, y, *, epoch, noise):
        now = self.what if epoch == 2 and len(x) == 8 else ""
        z, w = student(x), self.weight_(torch.ones(1))
        far = z - z.detach() + (now != "root")
        terms = {"clean": ce(z, y), "far": 0.01 * far.pow(2).sum(1).sqrt(), "mine": 0.01 * w.square().sum()}
        if now == "loss":
            terms["clean"] = terms["clean"] * math.nan
        if now == "gradient":
            terms["clean"] = ce(Overflows.apply(z), y)
        if now == "method":
            terms["mine"] = Overflows.apply(w).square().sum()
        if now == "learned":
            self.seen_ = self.seen_ / 0
        if now == "statistics":
            student(x * 1e30)
        scale = 1 if self.what != "update" else 1e17 if now else 1e-25
        return {name: scale * term for name, term in terms.items()}


CAUSES = {
    "loss": r"finite loss, got nan at epoch 2, step 3, .*clean nan",
    "root": r"finite norm, got nan for \S*layers.0.0.weight at epoch 2, step 3, .*far 0",
    "gradient": r"finite norm, got (nan|inf) for \S*layers.0.0.weight at epoch 2, step 3",
    "method": r"finite norm, got inf for (Breaks|Watched).parameters\(\)\[0\] at epoch 2, step 3",
    "learned": "after epoch 2, got NaN or infinity in method/seen_",
    "statistics": r"after epoch 2, got NaN or infinity in student/\S*running",
    "update": "after epoch 2, got NaN or infinity in student/",
}


@pytest.mark.parametrize("every", [1, 9])
@pytest.mark.parametrize(("what", "words"), CAUSES.items())
def test_nothing_that_is_not_finite_is_saved_and_a_run_resumes_from_the_epoch_before(tmp_path, what, words, every):
    train, val = splits()
    options = {"val_every": every} | ({"lr": 1e25, "optimiser": SGD(weight_decay=0.0)} if what == "update" else {})
    arguments = (None, Breaks(what), train, recipe(**options))
    records = epochs(net(), *arguments, val=val, run=tmp_path, averaging=EMA())
    next(records)
    before = ended(tmp_path)
    for _ in range(2):
        with pytest.raises(DivergedError, match=words) as caught:
            list(records)
        assert "lower" in str(caught.value)
        assert "a new run=, for a run's folder belongs to one configuration" in str(caught.value)
        require_same(before, ended(tmp_path))
        records = epochs(net(), *arguments, val=val, run=tmp_path, averaging=EMA())


@pytest.mark.parametrize("what", ["loss", "root", "method"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(monkeypatch, what, fused):
    """A fused optimiser, as on a GPU, skips the update without a host sync."""
    real, seen = torch.optim.SGD, []
    monkeypatch.setattr("torch.optim.SGD", lambda *args, **kwargs: real(*args, **kwargs | {"fused": fused or None}))

    class Watched(Breaks):
        def terms(self, student, teacher, x, y, **words):
            seen.append([bits(student), bits(self.weight_)])
            return super().terms(student, teacher, x, y, **words)

    student, method = net(), Watched(what)
    with pytest.raises(DivergedError, match=CAUSES[what]):
        distill(student, None, method, splits()[0], recipe())
    parameters = dict(student.named_parameters())
    assert all(torch.equal(p, seen[-1][0][name]) for name, p in parameters.items())
    assert all(torch.equal(p, seen[-1][1][name]) for name, p in method.weight_.named_parameters())


def test_logits_that_overflow_in_the_validation_are_a_divergence(tmp_path):
    """The weights are finite, and so were loss and gradients."""
    train, val = splits()
    method = Breaks("nothing")
    with pytest.raises(DivergedError, match=r"epoch 1.*lower"):
        distill(net(), None, method, train, recipe(lr=1e38, optimiser=SGD(weight_decay=0.0)), val=val, run=tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
