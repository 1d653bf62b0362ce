"""bfloat16 stays inside the student's passes: what comes out and who attacks gets it in float32."""

import copy

import pytest
import torch
from torch import nn

import ardor.engine.folding
from ardor.engine.folding import FoldedNet, folded
from ardor.engine.modes import attack_view
from ardor.engine.precision import Computed, computed, passed
from ardor.losses import ce
from ardor.storage.tensors import read_tensors
from ardor.training.averaging import EMA
from ardor.training.loop import distill
from tests.conftest import bits, filled, same, splits
from tests.engine.conftest import BOTH, CLASSES, Spied, X, Y, net, off, recipe

ROUNDED = (1e-4, 0.05)
"""How far bfloat16, with its 8 bits, lies from float32: further than float32's own rounding, and not far."""


def logits_and_gradient(view, x=X):
    z = x.clone().requires_grad_()
    logits = view(z)
    (grad,) = torch.autograd.grad(ce(logits, Y).sum(), z)
    return logits.detach(), grad


# --- what a method gets


class Watch:
    """A user's method that looks at all it is given."""

    def __init__(self):
        self.wrong, self.given = [], []

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.given.append(student)
        logits, h = student(x), student.features(x)
        again = student.head(h)
        self.wrong += [t.dtype for t in (logits, h, again, *student.parameters()) if t.dtype != torch.float32]
        assert not torch.is_autocast_enabled("cpu")
        return {"clean": ce(logits, y), "again": ce(again, y)}


@pytest.mark.parametrize("changes", [BOTH, {"precision": "bfloat16"}, {"attack_precision": "bfloat16"}])
def test_float32_comes_out_and_learns(tmp_path, changes):
    train, val = splits()
    student, method = net(), Watch()
    distill(student, None, method, train, recipe(**changes), val=val, run=tmp_path / "run", averaging=EMA(0.9))
    assert method.wrong == []
    assert all(isinstance(given, Computed) and given.as_given() is student for given in method.given)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in student.parameters())
    assert all(b.dtype in (torch.float32, torch.int64) for b in student.buffers())
    for name in ("last", "best", "averaged", "state"):
        tensors = read_tensors(tmp_path / "run" / f"{name}.safetensors")[0]
        assert {t.dtype for t in tensors.values()} <= {torch.float32, torch.int64}, name


def test_without_bfloat16_a_method_gets_the_net_itself():
    method, student = Watch(), net()
    distill(student, None, method, splits()[0], recipe(epochs=1))
    assert all(given is student for given in method.given)
    assert computed(student, "float32", "float32") is student


def test_passes_are_rounded_and_near():
    student = net()
    handle = computed(student, "bfloat16", "float32")
    for ours, theirs in ((handle, student), (handle.features, student.features)):
        low, high = ROUNDED
        assert low < off(ours(X), theirs(X)) < high
        assert ours(X).dtype == torch.float32
    h = student.features(X)
    assert ROUNDED[0] / 10 < off(handle.head(h), student.head(h)) < ROUNDED[1]
    attack_only = computed(student, "float32", "bfloat16")
    assert torch.equal(attack_only(X), student(X))
    assert torch.equal(attack_only.features(X), student.features(X))


def test_gradients_are_near_and_of_the_weights_themselves():
    student, other = net().train(), net().train()
    handle = computed(student, "bfloat16", "bfloat16")
    ce(handle(X), Y).mean().backward()
    ce(other(X), Y).mean().backward()
    assert all(p.grad.dtype == torch.float32 for p in student.parameters())
    ours, theirs = (torch.cat([p.grad.flatten() for p in n.parameters()]) for n in (student, other))
    assert ROUNDED[0] < off(ours, theirs) < 0.1
    assert off(student.layers[0][1].running_mean, other.layers[0][1].running_mean) < 0.02


def test_anything_else_is_the_nets_own():
    student = net()
    handle = computed(student, "bfloat16", "float32")
    assert handle.layers is student.layers
    assert all(p is q for p, q in zip(handle.parameters(), student.parameters(), strict=True))
    handle.train()
    assert student.training is handle.training is True
    assert handle.state_dict().keys() == student.state_dict().keys()


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, CLASSES)

    def forward(self, x):
        return self.linear(x.flatten(1))


def test_a_net_without_features_says_so_itself():
    handle = computed(Plain(), "bfloat16", "bfloat16")
    assert not hasattr(handle, "features")
    with pytest.raises(AttributeError, match="'Plain' object has no attribute 'features'"):
        distill(Plain(), None, Watch(), splits()[0], recipe(**BOTH))
    with pytest.raises(AttributeError, match="__nothing__"):
        handle.__nothing__  # noqa: B018


def test_a_copy_of_the_handle_trains_the_copy():
    student = net().eval()
    before = bits(student)
    handle = computed(student, "bfloat16", "float32")
    other = copy.deepcopy(handle)
    assert isinstance(other, Computed)
    assert other.as_given() is not student
    assert torch.equal(other(X), handle(X))
    optimiser = torch.optim.SGD(other.parameters(), lr=0.1)
    other.train()
    ce(other(X), Y).mean().backward()
    optimiser.step()
    assert same(bits(student), before)
    assert not student.training
    assert not any(torch.equal(p, q) for p, q in zip(other.as_given().parameters(), student.parameters(), strict=True))
    assert all(p.grad is None for p in student.parameters())
    assert copy.copy(handle).as_given() is student


# --- the attack


def test_the_attack_gets_the_twin_with_rounded_weights():
    student = net().train()
    exact = attack_view(student)
    with exact as view:
        theirs = logits_and_gradient(view)
    handle = computed(student, "float32", "bfloat16")
    with attack_view(handle) as view:
        assert isinstance(view, FoldedNet)
        folded = view.__dict__["folded"]
        assert {f.__dict__["weight"].dtype for f in folded} == {torch.bfloat16}
        assert {f.__dict__["bias"].dtype for f in folded} == {torch.bfloat16}
        ours = logits_and_gradient(view)
        assert not student.training
        assert not any(p.requires_grad for p in student.parameters())
    assert student.training
    assert all(p.requires_grad for p in student.parameters())
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert ROUNDED[0] < off(a, b) < ROUNDED[1]
    with attack_view(student) as view:
        assert all(map(torch.equal, logits_and_gradient(view), theirs)), "float32 again, to the last bit"


def test_a_first_pass_in_bfloat16_is_compared_in_float32(monkeypatch):
    """Else what bfloat16 rounds would pass for a trace that answers otherwise, or hide one."""
    student, dtypes = net().eval(), []
    real = ardor.engine.folding.close
    monkeypatch.setattr("ardor.engine.folding.close", lambda a, b: dtypes.append(off(a, b)) or real(a, b))
    twin = folded(student, torch.bfloat16)
    first = twin(X)
    assert max(dtypes) < 1e-5
    assert ROUNDED[0] < off(first, student(X)) < ROUNDED[1]
    assert torch.equal(first, twin(X)), "the first pass is one like the others"
    assert {f.__dict__["weight"].dtype for f in twin.__dict__["folded"]} == {torch.bfloat16}


def test_a_twin_that_answers_otherwise_leaves_the_net_in_bfloat16(caplog):
    student = net()
    handle = computed(student, "float32", "bfloat16")
    twin = folded(student.eval(), torch.bfloat16)
    twin.__dict__["graph"].linear = nn.Linear(16, CLASSES)
    with attack_view(handle) as view:
        answer = view(X)
        assert torch.equal(answer, passed(student, torch.bfloat16, X))
        assert answer.dtype == torch.float32
    assert "answers otherwise" in caplog.text
    with attack_view(handle) as view:
        assert isinstance(view, Computed)
        assert torch.equal(view(X), answer)
    with attack_view(student) as view:
        assert view is student


def test_the_rounded_twin_follows_training():
    student = net()
    handle = computed(student, "bfloat16", "bfloat16")
    with attack_view(handle) as view:
        before = view(X)
    with torch.no_grad():
        student.layers[0][0].weight.mul_(2)
        student.layers[1][1].running_mean.add_(0.3)
    with attack_view(handle) as view:
        assert off(view(X), student.eval()(X)) < ROUNDED[1]
        assert not torch.equal(view(X), before)


@pytest.mark.parametrize("make", [net, lambda: filled(Spied("student"), 1).float()], ids=["ours", "users"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_every_kind_of_view_computes_in_bfloat16(make, training):
    student, other = make().eval(), make().eval()
    before = bits(student)
    with attack_view(other, training=training) as view:
        theirs = logits_and_gradient(view)
    with attack_view(computed(student, "float32", "bfloat16"), training=training) as view:
        assert isinstance(view, Computed) == (training or isinstance(student, Spied))
        ours = logits_and_gradient(view)
        assert student.training == training
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert ROUNDED[0] < off(a, b) < 0.1
    assert not student.training
    assert same(bits(student), before) != training, "batch statistics drift where the attack is in train mode"
    with attack_view(computed(student, "bfloat16", "float32"), training=training) as view:
        assert not isinstance(view, Computed), "bfloat16 is the training's alone"
        passes = logits_and_gradient(view)
    assert off(passes[0], theirs[0]) < 1e-2
