"""The net that the tests of export share, its files, and what reads them."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import ardor
from ardor.data.split import Split
from tests.fixtures.make import trained

EPS = 0.1
FILES = {"onnx": "net.onnx", "onnx-int8": "net-int8.onnx", "torch-export": "net.pt2"}


@pytest.fixture(scope="session")
def digits():
    train, _, test = ardor.data.load("digits")
    return train, test


@pytest.fixture(scope="session")
def net():
    """A student that has learnt a little, with a normalisation and batch statistics of its own."""
    return trained("exported")


@pytest.fixture(scope="session")
def made(net, digits, tmp_path_factory):
    """Each kind of file, once."""
    folder, (train, test) = tmp_path_factory.mktemp("made"), digits
    words = {"calibrate": train, "check": test, "threat": ardor.Linf(EPS)}
    return {to: ardor.export(net, folder / name, to=to, **words) for to, name in FILES.items()}


@pytest.fixture
def once(monkeypatch):
    """Each net is traced once, where what comes after is tested."""
    room, programs, bodies = sys.modules["ardor.deployment.export.formats"], {}, {}
    traced, to_onnx = room.traced, room.to_onnx

    def trace(net, shape):
        if net not in programs:
            programs[net] = traced(net, shape)
        return programs[net]

    def graph(program):
        if id(program) not in bodies:
            bodies[id(program)] = to_onnx(program)
        return bodies[id(program)]

    monkeypatch.setattr(room, "traced", trace)
    monkeypatch.setattr(room, "to_onnx", graph)


class Odd(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def with_layer(function):
    """A net for (1, 8, 8) whose layer 1.1 computes `function`."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), Odd(function)), nn.Flatten(), nn.Linear(144, 10))


class Tracing(nn.Module):
    """A net that gives other logits when it is traced: `change(x)` is added."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        logits = self.net(x)
        return logits + self.change(x) if torch.compiler.is_exporting() else logits


def logits_of(net, x):
    with torch.no_grad():
        return net(x).numpy()


def split(shape, n=24, part="test", seed=0, classes=10):
    """Images in [0, 1] that no two parts share."""
    images = torch.from_numpy(np.random.default_rng([seed, len(part)]).random((n, *shape), dtype=np.float32))
    return Split(images, torch.arange(n) % classes, classes, "made", part)


def foreign(op="Relu", domain="", kind=1, shape=("n", 1, 8, 8), out=None, flat=True, **more):
    """A third-party model: one node, then the sum over rows."""
    from onnx import helper, numpy_helper

    nodes = [helper.make_node(op, ["x"], ["z"], name="block.2/odd", domain=domain, **more)]
    if flat:
        axes = [numpy_helper.from_array(np.array([1, 2]), "axes")]
        nodes.append(helper.make_node("ReduceSum", ["z", "axes"], ["y"], keepdims=0))
    else:
        axes, nodes[0].output[0] = [], "y"
    inputs = [helper.make_tensor_value_info("x", kind, shape)]
    outputs = [helper.make_tensor_value_info("y", kind, out)]
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, axes), opset_imports=opsets, ir_version=10)


def saved(model, tmp_path):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path
