import copy

import pytest
import torch
from torch import nn

from ardor.engine.modes import attack_view, freeze, train_mode
from ardor.testing import TinyNet, require_same, snapshot
from tests.conftest import batch, filled


def mixed():
    """A net whose submodules and parameters disagree: a frozen batch norm inside a net that trains."""
    net = filled(TinyNet()).train()
    net.layers[1].eval()
    net.layers[1].weight.requires_grad_(False)
    net.linear.eval()
    net.linear.bias.requires_grad_(False)
    return net


def modes(net):
    return {m.training for m in net.modules()}


def wants(net):
    return {p.requires_grad for p in net.parameters()}


@pytest.mark.parametrize(
    ("view", "training", "gradients"),
    [
        (attack_view, {False}, {False}),
        (lambda net: attack_view(net, training=True), {True}, {False}),
        (freeze, {False}, {False}),
        (train_mode, {True}, {True, False}),
    ],
)
def test_every_submodule_and_flag_is_set_and_put_back(view, training, gradients):
    net = mixed()
    before = snapshot(net)
    with view(net):
        assert modes(net) == training
        assert wants(net) == gradients
    require_same(before, snapshot(net), view, "afterwards")


@pytest.mark.parametrize("view", [attack_view, freeze, train_mode])
def test_also_after_an_error(view):
    net = mixed()
    before = snapshot(net)
    with pytest.raises(RuntimeError), view(net):
        net(torch.zeros(1))
    require_same(before, snapshot(net), view, "after an error")


def test_also_after_an_attack_that_meddles():
    net = mixed()
    before = snapshot(net)
    with attack_view(net) as view:
        view.train()
        view.requires_grad_(True)
    require_same(before, snapshot(net), attack_view, "after a change inside")


def test_nested_views_put_back_what_each_found():
    net = mixed()
    before = snapshot(net)
    with train_mode(net):
        outer = snapshot(net)
        with attack_view(net):
            with attack_view(net, training=True):
                assert modes(net) == {True}
            assert modes(net) == {False}
            assert wants(net) == {False}
        require_same(outer, snapshot(net), attack_view, "inside train_mode")
    require_same(before, snapshot(net), train_mode, "afterwards")


def test_a_shared_submodule_is_put_back_too():
    shared = nn.BatchNorm2d(1)
    net = nn.Sequential(shared, nn.Sequential(shared))
    net.train()
    shared.eval()
    with attack_view(net, training=True):
        assert shared.training
    assert not shared.training


def test_batch_statistics_drift_in_a_train_mode_attack_only():
    x, _, _ = batch()
    for training, drifts in ((False, False), (True, True)):
        net = filled(TinyNet()).train()
        before = [b.clone() for b in net.buffers()]
        with attack_view(net, training=training) as view:
            view(x)
        same = all(map(torch.equal, before, net.buffers()))
        assert same != drifts
        assert int(net.layers[1].num_batches_tracked) == int(drifts)


def test_what_is_handed_out_is_the_net_or_answers_like_it():
    x, _, _ = batch()
    net = mixed()
    for view in (freeze, train_mode, lambda n: attack_view(n, training=True)):
        with view(net) as inside:
            assert inside is net
    for step in range(3):
        expected = copy.deepcopy(net).eval()(x)
        with attack_view(net) as inside:
            torch.testing.assert_close(inside(x), expected, rtol=1e-9, atol=1e-9)
            assert not any(p.requires_grad for p in inside.parameters())
            assert not inside(x).requires_grad
        # as training moves on, so does what an attack sees
        with torch.no_grad():
            net.layers[0].weight.add_(0.1 * (step + 1))
            net.train()(x + step)


def test_a_frozen_teacher_still_passes_gradients_to_its_input():
    x, _, _ = batch()
    net = filled(TinyNet())
    with freeze(net) as teacher:
        x.requires_grad_()
        (g,) = torch.autograd.grad(teacher(x).sum(), x)
    assert g.abs().sum() > 0
    assert all(p.grad is None for p in net.parameters())
