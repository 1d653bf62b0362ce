"""The identity of a net is that of its function: equal weights in other code, settings or order are another net."""

import copy
import functools
import re
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ardor.models.identity import identity, key_of, same_function
from tests.conftest import filled

SHAPE = (3, 8, 8)


class Net(nn.Module):
    """A user's net with attributes."""

    def __init__(self, **attributes):
        super().__init__()
        self.fc = nn.Linear(192, 4)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Inverted(Net):
    def forward(self, x):
        return self.fc(1 - x.flatten(1))


class Scaled(Net):
    def forward(self, x):
        return self.scale * self.fc(x.flatten(1))

    def __init__(self, scale):
        super().__init__(scale=scale)


class Config:
    def __init__(self, eps):
        self.eps = eps


class Slotted:
    __slots__ = ("eps",)

    def __init__(self, eps):
        self.eps = eps


def torchs(*layers):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), *layers, nn.Linear(8, 4))


def convolution(**options):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, **options), nn.Flatten(), nn.Linear(256, 4))


def having(net, change):
    change(net)
    return net


def scaled(factor):
    return lambda z: factor * z


def register(hook):
    return lambda net: net[1].register_forward_hook(hook)


PAIRS = {
    "layers": (torchs(nn.ReLU()), torchs(nn.Tanh())),
    "a setting": (torchs(nn.LeakyReLU(0.01)), torchs(nn.LeakyReLU(1.5))),
    "a small setting": (torchs(nn.BatchNorm1d(8)), torchs(nn.BatchNorm1d(8, eps=1.1e-5))),
    "momentum": (torchs(nn.BatchNorm1d(8)), torchs(nn.BatchNorm1d(8, momentum=0.2))),
    "padding mode": (convolution(), convolution(padding_mode="reflect")),
    "order": (torchs(nn.ReLU(), nn.Tanh()), torchs(nn.Tanh(), nn.ReLU())),
    "one layer more": (torchs(nn.ReLU()), torchs(nn.ReLU(), nn.ReLU6())),
    "a drop rate": (torchs(nn.Dropout(0.1)), torchs(nn.Dropout(0.2))),
    "a hook": (torchs(), having(torchs(), register(lambda m, x, z: -z))),
    "a hook's function": (having(torchs(), register(lambda m, x, z: -z)),
                          having(torchs(), register(lambda m, x, z: z))),
    "a hook's closure": (having(torchs(), register(functools.partial(lambda f, m, x, z: f * z, 1.0))),
                         having(torchs(), register(functools.partial(lambda f, m, x, z: f * z, 1.1)))),
    "a pre-hook": (torchs(), having(torchs(), lambda n: n[1].register_forward_pre_hook(lambda m, x: (-x[0],)))),
    "a backward hook": (torchs(), having(
        torchs(), lambda n: n[1].register_full_backward_hook(lambda m, i, o: (-i[0],)))),
    "forward": (torchs(), having(torchs(), lambda n: setattr(n, "forward", lambda x: nn.Sequential.forward(n, 1 - x)))),
    "a layer's forward": (torchs(nn.ReLU()), having(torchs(nn.ReLU()), lambda n: setattr(n[2], "forward", torch.tanh))),
    "a parametrization": (torchs(), having(torchs(), lambda n: nn.utils.parametrizations.orthogonal(n[1]))),
    "the class": (Net(), Inverted()),
    "a number": (Net(scale=1.0), Net(scale=2.0)),
    "a whole number": (Net(scale=1), Net(scale=True)),
    "a NumPy number": (Net(scale=np.float32(1)), Net(scale=np.float32(2))),
    "a tuple": (Net(scale=(1, 2)), Net(scale=(1, 3))),
    "a list": (Net(scale=[1, 2]), Net(scale=[2, 1])),
    "a tuple for a list": (Net(scale=[1, 2]), Net(scale=(1, 2))),
    "a dict": (Net(scale={"a": 1}), Net(scale={"a": 2})),
    "a nested value": (Net(scale={"a": [(1, {"b": 2.0})]}), Net(scale={"a": [(1, {"b": 2.5})]})),
    "a set": (Net(scale={"a", "b"}), Net(scale={"a", "c"})),
    "bytes": (Net(scale=b"a"), Net(scale=b"b")),
    "a function": (Net(act=F.relu), Net(act=F.silu)),
    "a built-in function": (Net(act=torch.relu), Net(act=torch.tanh)),
    "a NumPy function": (Net(act=np.sin), Net(act=np.cos)),
    "a class": (Net(act=nn.ReLU), Net(act=nn.Tanh)),
    "a lambda": (Net(act=lambda z: z), Net(act=lambda z: -z)),
    "a lambda's constant": (Net(act=lambda z: 2 * z), Net(act=lambda z: 3 * z)),
    "a lambda's default": (Net(act=lambda z, k=2: k * z), Net(act=lambda z, k=3: k * z)),
    "a closure": (Net(act=scaled(2)), Net(act=scaled(3))),
    "a closure's tensor": (Net(act=scaled(torch.ones(2))), Net(act=scaled(torch.zeros(2)))),
    "a partial": (Net(act=functools.partial(F.leaky_relu, negative_slope=0.1)),
                  Net(act=functools.partial(F.leaky_relu, negative_slope=0.2))),
    "a tensor": (Net(mean=torch.zeros(3)), Net(mean=torch.tensor([0.0, 0.0, 1e-3]))),
    "an array": (Net(mean=np.zeros(3)), Net(mean=np.array([0.0, 0.0, 1e-3]))),
    "an array of objects": (Net(mean=np.array([1, "a"], object)), Net(mean=np.array([1, "b"], object))),
    "a buffer outside the state": tuple(
        having(Net(), lambda n, k=k: n.register_buffer("m", torch.tensor([k]), persistent=False)) for k in (0, 1)),
    "an object": (Net(config=Config(0.1)), Net(config=Config(0.2))),
    "an object with slots": (Net(config=Slotted(0.1)), Net(config=Slotted(0.2))),
    "an object in C": (Net(config=re.compile("a")), Net(config=re.compile("b"))),
    "a namespace": (Net(config=types.SimpleNamespace(eps=1)), Net(config=types.SimpleNamespace(eps=2))),
    "a bound method": (Net(act=Config(0.1).__init__), Net(act=Config(0.2).__init__)),
    "a net in a list": (Net(parts=[torchs(nn.ReLU())]), Net(parts=[torchs(nn.Tanh())])),
    "a dtype": (Net(dtype=torch.float32), Net(dtype=torch.bfloat16)),
    "shared layers": (nn.Sequential(nn.Flatten(), *[nn.Linear(192, 192)] * 2), nn.Sequential(
        nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192))),
    "a scripted net": (torch.jit.script(torchs(nn.ReLU())), torch.jit.script(torchs(nn.Tanh()))),
    "a scripted net's number": (torch.jit.script(Scaled(1.0)), torch.jit.script(Scaled(2.0))),
    "a traced net": (torch.fx.symbolic_trace(Net()), torch.fx.symbolic_trace(Inverted())),
}  # fmt: skip


@pytest.mark.parametrize("what", PAIRS)
def test_another_function_is_another_net(what):
    one, other = (filled(net).float().eval() for net in PAIRS[what])
    a, b = identity(one, SHAPE), identity(other, SHAPE)
    assert (a["hash"], a["function"]["layers"]) != (b["hash"], b["function"]["layers"])
    assert not same_function(a, b)
    assert a == identity(one, SHAPE)
    assert key_of(a) == key_of(identity(copy.deepcopy(one), SHAPE))


def test_a_replaced_class_or_forward_is_another_net(monkeypatch):
    net = filled(torchs(nn.ReLU())).float().eval()
    before = identity(net, SHAPE)["function"]
    with monkeypatch.context() as patch:
        patch.setattr(nn.ReLU, "forward", lambda self, x: x.tanh())
        assert identity(net, SHAPE)["function"]["layers"] != before["layers"]
    user = filled(Net()).float().eval()
    plain = identity(user, SHAPE)["function"]
    monkeypatch.setattr(Net, "forward", Inverted.forward)
    assert identity(user, SHAPE)["function"]["layers"] != plain["layers"]
    assert identity(net, SHAPE)["function"] == before
    nn.Module.__setattr__(net[2], "__class__", nn.Tanh)
    assert identity(net, SHAPE)["function"]["layers"] != before["layers"]
