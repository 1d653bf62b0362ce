"""The identity of a net is that of its function: equal weights in other code, settings or order are another net."""

import copy
import enum
import functools
import json
import os
import random
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ardor import models
from ardor.models.identity import identity, key_of, same_function, signature_of
from ardor.storage.config import RANDOM, differences
from tests import warm
from tests.conftest import ROOT, bits, filled, same

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
    "a member of an enum": (Net(scale=enum.Enum("E", {"A": 1}).A), Net(scale=enum.Enum("E", {"A": 2}).A)),
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


class Drawn(Net):
    def forward(self, x):
        return self.fc(x.flatten(1) + self.size * torch.rand(()))

    def __init__(self, size=1.0):
        super().__init__(size=size)


def keyed(make):
    return having(Net(), lambda net: setattr(net, "kept", make([net, net.fc])))


EQUAL = {
    "compiled": lambda: torch.compile(torchs(), backend="eager"),
    "a dict by layers": lambda: keyed(dict.fromkeys),
    "a set of layers": lambda: keyed(set),
    "generators": lambda: having(
        Net(rngs=[np.random.default_rng(0), random.Random(0)]),
        lambda net: (net.rngs[0].integers(9), net.rngs[1].random()),
    ),
}


@pytest.mark.parametrize("what", EQUAL)
def test_a_net_that_is_built_again_is_the_same(what):
    one, other = (filled(EQUAL[what]()).float().eval() for _ in range(2))
    before = identity(one, SHAPE)
    assert same_function(before, identity(other, SHAPE))
    one(torch.rand(2, *SHAPE))
    for rng in getattr(one, "rngs", ()):
        rng.random()
    assert same_function(before, identity(one, SHAPE))


def test_an_exported_program_is_the_same_in_every_process():
    free = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(torchs().eval(), (torch.rand(2, *SHAPE),), dynamic_shapes=free).module()
    assert not any("_mhash" in path for path in signature_of(program).texts)  # of text: another in each process


class Counting(Net):
    """Its state changes with each call, and its settings do not."""

    def __init__(self):
        super().__init__(calls=[], number=0, kept=None, counter=1.5, cache={}, last=None)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls.append(len(x))
        self.number += 1
        self.seen += 1
        self.kept = x if self.kept is None else self.kept
        self.cache[self.number] = self.last = x
        return self.fc(x.flatten(1))


def test_a_global_hook_is_part_of_every_net():
    net = filled(torchs(nn.ReLU())).float().eval()
    before = identity(net, SHAPE)
    hook = nn.modules.module.register_module_forward_hook(lambda module, x, z: None)
    try:
        assert not same_function(identity(net, SHAPE), before)
    finally:
        hook.remove()
    assert identity(net, SHAPE) == before


def test_a_net_whose_identical_calls_differ_has_no_logits_and_says_so():
    assert identity(filled(Drawn()).float(), SHAPE)["function"]["logits"] == RANDOM
    little = filled(Drawn(1e-4)).float()  # less than rounding may be
    drawn = identity(little, SHAPE)
    assert drawn["function"]["logits"] == RANDOM
    alike = {**drawn, "function": {**drawn["function"], "logits": [[0.0] * 4] * 2}}  # two calls that drew alike
    assert same_function(drawn, alike)
    pool = nn.Sequential(nn.FractionalMaxPool2d(2, output_size=5), nn.Flatten(), nn.Linear(75, 4))
    assert identity(filled(pool).float(), SHAPE)["function"]["logits"] == RANDOM


def test_the_net_and_the_generators_are_as_before():
    for net in (filled(torchs(nn.Dropout(), nn.BatchNorm1d(8))).float().train(), filled(Counting()).float(), Drawn()):
        net.fc = nn.Linear(1, 1).eval()
        next(net.parameters()).requires_grad_(False)
        modes, flags, weights = (
            [m.training for m in net.modules()],
            [p.requires_grad for p in net.parameters()],
            bits(net),
        )
        state, other = torch.get_rng_state(), random.getstate()
        with torch.no_grad():
            identity(net, (1, 1, 1))
        assert torch.equal(torch.get_rng_state(), state)
        assert random.getstate() == other
        assert modes == [m.training for m in net.modules()]
        assert flags == [p.requires_grad for p in net.parameters()]
        assert same(bits(net), weights)
        assert all(p.grad is None for p in net.parameters())


def test_state_that_a_call_changes_is_no_setting():
    net = filled(Counting()).float()
    before = identity(net, SHAPE)
    net(torch.rand(5, *SHAPE))
    net.seen.zero_()
    assert identity(net, SHAPE)["function"] == before["function"]
    assert identity(net, SHAPE)["function"] == before["function"]
    net.counter = 2.5
    assert identity(net, SHAPE)["function"]["layers"] != before["function"]["layers"]


USER = """
import functools, json, sys
import torch
from torch import nn
from parts import scale
SLOPE = 0.1

class Mine(nn.Module):
    names = {"a", "b", "c"}
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 4)
        self.sets, self.act = {"x", "y", "z"}, functools.partial(scale, factor=lambda z: SLOPE * z)
        nn.init.ones_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)
        self.fc.register_forward_hook(lambda module, x, z: 2 * z)
    def forward(self, x):
        return self.act(self.fc(x.flatten(1)))
"""
PRINT = "\nfrom ardor.models.identity import identity\nprint(json.dumps(identity(Mine(), (3, 8, 8))))"


@pytest.mark.parametrize("how", ["file", "main", "shell"])
def test_an_identity_is_the_same_in_every_process_until_the_code_changes(tmp_path, how):
    (tmp_path / "parts.py").write_text("def scale(z, factor): return factor(z)\n")
    (tmp_path / "mine.py").write_text(USER)
    (tmp_path / "script.py").write_text(USER + PRINT)
    words = {
        "file": ["-c", "from mine import *" + PRINT], "main": ["script.py"], "shell": ["-c", USER + PRINT],
    }[how]  # fmt: skip

    def printed(run=warm.run, **variables):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), "."]), **variables}
        done = run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    one = printed()  # hashes of strings are those of its server, at random
    assert one == printed(subprocess.run, PYTHONHASHSEED="2")
    (tmp_path / "parts.py").write_text("def scale(z, factor): return factor(z) - 0\n")
    other = printed()
    assert one["function"]["logits"] == other["function"]["logits"]
    assert not same_function(one, other)


def test_an_identity_is_of_the_helpers_as_they_were_imported(tmp_path):
    write = (tmp_path / "parts.py").write_text
    write("def flip(x): return x\n")
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, classes=4): super().__init__(); self.fc = nn.Linear(192, classes)\n"
        "    def forward(self, x):\n        from parts import flip\n        return self.fc(flip(x).flatten(1))\n"
    )
    first = models.build(f"{tmp_path / 'net.py'}:Net", classes=4)
    before = identity(first, SHAPE)
    write("def flip(x): return -x\n")
    second = models.build(f"{tmp_path / 'net.py'}:Net", classes=4)
    assert identity(first, SHAPE) == before
    assert identity(second, SHAPE)["function"]["code"] != before["function"]["code"]


def test_logits_are_compared_with_a_tolerance_and_enter_no_key():
    one = identity(filled(Net()).float(), SHAPE)
    near, far = copy.deepcopy(one), copy.deepcopy(one)
    near["function"]["logits"][0][0] *= 1 + 1e-4
    far["function"]["logits"] = [[-value for value in row] for row in far["function"]["logits"]]
    assert not differences(one, near)
    assert differences(one, far)
    assert key_of(one) == key_of(far)
