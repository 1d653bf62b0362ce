"""The twin must never be easier to defend than the net: what cannot be traced faithfully is attacked as it is."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ardor
import ardor.data.split
import ardor.models.builders
from ardor.attacks import PGD, quick
from ardor.attacks.threat import Linf
from ardor.engine.folding import FoldedNet, folded
from ardor.engine.modes import attack_view
from ardor.engine.precision import computed
from ardor.losses import ce
from ardor.noise import Noise

X = Noise(0, torch.arange(12), "x").uniform((3, 32, 32))
Y = torch.arange(12) % 10


def lively(net):
    """Batch statistics and affine parts that matter."""
    for k, m in enumerate(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor, low in ((m.running_mean, -0.3), (m.running_var, 0.5), (m.weight.data, 0.5), (m.bias.data, -0.2)):
            tensor.copy_(low + Noise(k, torch.tensor([0]), str(low)).uniform(tensor.shape)[0])
    return net.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [("small_cnn", {}), ("resnet18", {}), ("resnet50", {}), ("mobilenet_v2", {"mean": (0.5,) * 3, "std": (0.2,) * 3}),
     ("wide_resnet", {"depth": 10, "width": 1}), ("wide_resnet_silu", {"depth": 10, "width": 1})],
)  # fmt: skip
def test_every_net_of_ours_has_a_twin_of_the_same_logits_and_gradients(name, options):
    net = lively(ardor.models.build(name, channels=3, **options))
    x = X[:3]
    twin = folded(net)
    assert isinstance(twin, FoldedNet)
    answers = []
    for f in (net, twin):
        z = x.clone().requires_grad_()
        logits = f(z)
        answers.append((logits.detach(), torch.autograd.grad(ce(logits, Y[:3]).sum(), z)[0]))
    for a, b in zip(*answers, strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm()


@pytest.mark.parametrize(
    ("name", "norms"),
    [("mobilenetv3_small_050", 34), ("regnety_002", 44), ("resnet18", 20), ("convnext_atto", 0), ("resnet50_gn", 0)],
)
def test_a_net_of_timm_has_a_twin_without_its_batch_norms(name, norms):
    pytest.importorskip("timm")
    shallow = {"layers": [1, 1, 1, 1]} if name == "resnet50_gn" else {}
    net = lively(ardor.models.build(f"timm:{name}", **shallow))
    with attack_view(net) as twin:
        assert isinstance(twin, FoldedNet)
        answers = []
        for f in (net, twin):
            z = X[:3].clone().requires_grad_()
            logits = f(z)
            answers.append((logits.detach(), torch.autograd.grad(ce(logits, Y[:3]).sum(), z)[0]))
        assert twin.matches
        assert sum(layer.__dict__["norm"] is not None for layer in twin.folded) == norms
    for a, b in zip(*answers, strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(0.9)
    torch.testing.assert_close(folded(net)(X[:3]), net(X[:3]), rtol=1e-3, atol=1e-4)


def test_a_net_of_timm_that_keeps_tensors_of_earlier_calls_is_attacked_as_it_is():
    pytest.importorskip("timm")
    net = ardor.models.build("timm:levit_128s", img_size=32).eval()
    assert folded(net) is net
    net(X[:2])
    assert folded(net) is net


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"])
def test_verdicts_of_a_net_of_timm_are_those_without_a_twin(name, monkeypatch):
    pytest.importorskip("timm")
    size = {"img_size": 32} if name.startswith("vit") else {}
    net = lively(ardor.models.build(f"timm:{name}", **size))
    split = ardor.data.split.Split(X, net(X).argmax(1), 10, "made", "test")
    suite = ardor.attacks.Suite("short", Linf(1 / 255), {"pgd": PGD(Linf(1 / 255), steps=3)})
    with_twin = ardor.evaluate(net, split, suite)
    monkeypatch.setattr("ardor.engine.modes.folded", lambda net, *_: net)
    without = ardor.evaluate(net, split, suite)
    assert with_twin.verdicts == without.verdicts


def test_it_follows_training():
    net = lively(ardor.models.build("small_cnn", channels=3))
    before = folded(net)(X)
    net.train()(X)  # batch statistics move
    with torch.no_grad():
        net.linear.weight.mul_(-1)
    torch.testing.assert_close(folded(net.eval())(X), net(X), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(X), before)


class Forked(nn.Module):
    """Its first convolution and its sum are read twice: a ReLU must not write over them, nor over the images."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, x):
        a = self.conv(torch.relu(x - 0.5))
        b = a + 0.1
        c = F.relu(b) - 2 * b + F.relu(a) + 3 * a
        return self.head((c + F.relu(c * 2)).mean((2, 3)))


def test_what_is_read_twice_is_not_written_over():
    Forked.foldable = True
    net, x = Forked().eval(), X.clone()
    twin = folded(net)
    assert isinstance(twin, FoldedNet)
    z = x.clone().requires_grad_()
    torch.testing.assert_close(twin(z), net(x), rtol=1e-4, atol=1e-6)
    (a,), (b,) = (torch.autograd.grad(f(z).square().sum(), z) for f in (twin, net))
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    assert torch.equal(z, X)


class Relus(nn.Module):
    """A ReLU behind each kind of value: those that nothing else reads, and those that it must leave as they are."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x):
        a = self.two(F.relu(self.one(F.relu(x))))  # the images themselves; a convolution
        b = self.three(F.relu(a) - a) + 1  # a is read twice
        c = F.relu6(torch.add(F.relu(b), 1))  # a sum; torch's sum
        d = F.relu(c + 1) + F.relu(c * 2) + c  # a sum; a product, which needs what it gave
        return F.relu(d.flatten(1)) + F.relu(d[:, 0, :1, 0])  # views: of a value that another reads


def test_only_what_nothing_else_reads_is_written_over():
    """The twin of a net that a wrong one would change is given up, and its answers tell nothing: here is the graph."""
    Relus.foldable = True
    graph = folded(Relus().eval()).__dict__["graph"].graph
    relus = [node for node in graph.nodes if node.target in (F.relu, F.relu6)]
    over = [node.kwargs.get("inplace", False) for node in relus]
    assert over == [False, True, False, True, True, True, False, False, False]


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (8 * x).round() / 8

    @staticmethod
    def backward(ctx, grad):
        return grad


class Quantised(nn.Module):
    """A straight-through quantiser: a trace keeps its forward and loses its gradient."""

    def __init__(self):
        super().__init__()
        self.net = ardor.models.build("small_cnn", channels=3)

    def forward(self, x):
        return self.net(Round.apply(x))


def test_a_custom_gradient_is_not_lost():
    net = lively(Quantised())
    assert folded(net) is net
    z = X.clone().requires_grad_()
    with attack_view(net) as view:
        (grad,) = torch.autograd.grad(ce(view(z), Y).sum(), z)
    assert (grad != 0).float().mean() > 0.9


def test_a_users_own_layers_are_attacked_as_they_are():
    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.m = torch.zeros(3, 1, 1)
            self.net = ardor.models.build("small_cnn", channels=3)

        def forward(self, x):
            if self.training:
                self.m = (0.9 * self.m + 0.1 * x.mean((0, 2, 3))[:, None, None]).detach()
            return self.net(x - self.m)

    net = Slow().eval()
    assert folded(net) is net


def test_a_replaced_layer_is_seen():
    net = lively(ardor.models.build("small_cnn", channels=3))
    folded(net)(X)
    net.linear = nn.Linear(64, 10)
    torch.testing.assert_close(folded(net)(X), net(X), rtol=1e-4, atol=1e-5)
    net.layers[0][0].weight = nn.Parameter(torch.ones_like(net.layers[0][0].weight))
    torch.testing.assert_close(folded(net)(X), net(X), rtol=1e-4, atol=1e-5)


def test_a_hook_is_heard_whenever_it_was_hung():
    net = lively(ardor.models.build("small_cnn", channels=3))
    folded(net)(X)
    heard = []
    handle = net.layers[0].register_forward_hook(lambda *_: heard.append(1))
    with attack_view(net) as view:
        PGD(Linf(0.1), steps=4)(view, X, Y, Noise(0, torch.arange(12)))
    assert len(heard) == 4
    handle.remove()
    assert isinstance(folded(net), FoldedNet)


def inverted(net, x):
    return net.head(net.features(1 - x))


@pytest.mark.parametrize("looked_at", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        lambda net, patch: setattr(net, "forward", lambda x: inverted(net, x)),
        lambda net, patch: setattr(net, "_call_impl", lambda x: inverted(net, x)),
        lambda net, patch: patch.setattr(type(net), "forward", inverted),
        lambda net, patch: patch.setattr(nn.ReLU, "forward", lambda self, x: x.tanh()),
        lambda net, patch: patch.setattr(
            nn.Conv2d, "forward", lambda self, x: self._conv_forward(x.tanh(), self.weight, None)
        ),
        lambda net, patch: setattr(net.layers[0][2], "__class__", nn.Tanh),
        lambda net, patch: vars(net.layers[0][0]).update(padding_mode="circular"),
        lambda net, patch: vars(net.layers[0][1]).update(eps=10.0),
        lambda net, patch: net.layers[0][1]._buffers.update(running_mean=None, running_var=None),
    ],
)
def test_code_and_settings_replaced_at_any_time_are_attacked(change, looked_at, monkeypatch):
    net = lively(ardor.models.build("small_cnn", channels=3))
    if looked_at:
        folded(net)(X)
    before = net(X)
    change(net, monkeypatch)
    with attack_view(net) as view:
        torch.testing.assert_close(view(X), net(X), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(X), before, rtol=1e-2)


def test_a_global_hook_at_any_time_is_part_of_the_net():
    net, heard = lively(ardor.models.build("small_cnn", channels=3)), []
    folded(net)(X)
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: heard.append(type(module).__name__))
    try:
        folded(net)(X)
    finally:
        hook.remove()
    assert heard.count("BatchNorm2d") == 4


def test_a_trace_of_other_logits_is_tried_once(caplog):
    net = lively(ardor.models.build("small_cnn", channels=3))
    view, calls = folded(net), []
    view.__dict__["graph"].linear = nn.Linear(64, 10)
    assert torch.equal(view(X), net(X))
    net.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(view(X), net(X))
    assert len(calls) == 2
    assert caplog.text.count("SmallCNN answers otherwise") == 1
    net._forward_hooks.clear()
    assert folded(net) is net


def test_verdicts_with_and_without_twins_are_the_same(monkeypatch):
    net = lively(ardor.models.build("small_cnn", channels=3))
    data = ardor.data.split.Split(X, Y, 10, "x", "test")
    with_twin = ardor.evaluate(net, data, quick(Linf(0.03)))
    monkeypatch.setattr("ardor.engine.modes.folded", lambda net, *declared: net)
    without = ardor.evaluate(copy.deepcopy(net), data, quick(Linf(0.03)))
    assert with_twin.verdicts == without.verdicts


def test_a_compiled_twin_answers_like_the_net_for_every_batch_and_weight(caplog):
    net = lively(ardor.models.build("small_cnn", channels=3, width=4))
    student = computed(net, "float32", "float32", compiled=True)
    for scale in (1.0, -0.5):
        with torch.no_grad():
            net.linear.weight.mul_(scale)
        for rows in (slice(0, 8), slice(8, 12)):  # the second shape is not compiled
            z = X[rows].clone().requires_grad_()
            with attack_view(student) as view:
                logits = view(z)
                (grad,) = torch.autograd.grad(ce(logits, Y[rows]).sum(), z)
            w = X[rows].clone().requires_grad_()
            torch.testing.assert_close(logits, net(w), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(grad, torch.autograd.grad(ce(net(w), Y[rows]).sum(), w)[0], rtol=1e-3, atol=1e-6)
    shape, run = folded(net).compilations[torch.float32]
    assert shape == (8, 3, 32, 32)
    assert run is not None


def test_batches_of_another_shape_are_not_compiled(monkeypatch):
    shapes = []

    def watched(graph, x):
        return lambda x: shapes.append(tuple(x.shape)) or graph(x)

    monkeypatch.setattr("ardor.engine.folding.compile_", watched)
    net = lively(ardor.models.build("small_cnn", channels=3, width=4))  # the twin holds no reference to it
    twin = folded(net, compiled=True)
    for rows in (slice(0, 8), slice(8, 12), slice(0, 8), slice(0, 7)):
        torch.testing.assert_close(twin(X[rows]), twin.as_given()(X[rows]), rtol=1e-4, atol=1e-5)
    assert shapes == [(8, 3, 32, 32)] * 2


def test_what_cannot_be_compiled_is_attacked_uncompiled(monkeypatch, caplog):
    net = lively(ardor.models.build("small_cnn", channels=3, width=4))

    def fails(graph, x):
        def run(x):
            raise torch._dynamo.exc.TorchDynamoException("no C++ compiler here")

        return run

    monkeypatch.setattr("ardor.engine.folding.compile_", fails)
    for _ in range(2):
        with attack_view(computed(net, "float32", "float32", compiled=True)) as view:
            torch.testing.assert_close(view(X), net(X), rtol=1e-4, atol=1e-5)
    assert caplog.text.count("attacked uncompiled: no C++ compiler here") == 1
