"""What every test runs under: one torch thread, so that runs compare, and reproducible hypothesis examples."""

import copy
import functools
import gc
import inspect
import math
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from hypothesis import settings
from torch import nn

from ardor.attacks import suites
from ardor.cli.commands.train import TrainWords
from ardor.cli.main import parse
from ardor.data.split import Split
from ardor.noise import Noise
from ardor.testing import TinyNet, problem
from tests.browser import AXE, axe_core
from tests.with_timm import declare

ROOT = Path(__file__).parent.parent
"""What `python -c` puts first on its path, and what the docs and recipes are in."""
SHARED = ROOT.parent / "shared"

torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start: as many tests run as there are cores
declare()
settings.register_profile("ardor", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("ardor")


def pytest_sessionstart():
    gc.disable()


def pytest_collection_finish():
    gc.enable()
    gc.freeze()  # the modules and the tests, a million objects, are not looked through again and again


@pytest.fixture(scope="session", autouse=True)
def one_registry():
    """Build torch's table of ONNX functions once for each opset: it is half of the time of an export of a small net."""
    try:
        from torch.onnx._internal.exporter import _registration
    except ImportError:  # without the extra onnx, or in another torch
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        build = functools.cache(_registration.ONNXRegistry.from_torchlib)
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(build))
        yield


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """`shared(name, make)`: a folder that `make(folder)` fills once for all the processes of a run of pytest."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def folder(name, make):
        with FileLock(root / f"{name}.lock"):
            if not (root / f"{name}.made").exists():
                make(root / name)
                (root / f"{name}.made").touch()
        return root / name

    return folder


@pytest.fixture
def few_queries(monkeypatch):
    """A twentieth of the queries that an attack on a file has by default."""
    plain = inspect.unwrap(suites.deployed)
    assert plain.__defaults__ == (None, 5000)
    monkeypatch.setattr(plain, "__defaults__", (None, 250))


@pytest.fixture(scope="session")
def axe(shared):
    """The source of axe-core; where npm cannot fetch it, the tests that need it are skipped."""
    source = axe_core(shared("axe", lambda folder: axe_core(folder)))
    return source or pytest.skip(f"no npm, or npm cannot fetch axe-core {AXE}")


# -- Small nets, batches and stand-ins that the tests share. Weights come from a hash, not from torch's initialisers.


def filled(net, seed=0):
    """Float64 weights and batch statistics that depend on nothing but `seed`: train and eval mode give other logits."""
    net.double()
    for i, (name, tensor) in enumerate([*net.named_parameters(), *net.named_buffers()]):
        if not tensor.is_floating_point():
            continue
        n = Noise(seed, torch.tensor([i]), "fill").normal((tensor.numel(),), torch.float64).reshape(tensor.shape)
        if "running_var" in name:
            value = 1 + 0.2 * n.abs()
        elif tensor.ndim > 1:
            value = n * math.sqrt(2 / tensor[0].numel())
        else:
            value = 0.2 * n + ("running" not in name and "weight" in name)
        tensor.data.copy_(value)
    return net


def pair(channels=1, classes=10, student=8, teacher=16):
    """A student in train mode and a frozen teacher, as the loop gives them to a method."""
    t = filled(TinyNet(channels, classes, teacher), 2).eval().requires_grad_(False)
    return filled(TinyNet(channels, classes, student), 1).train(), t


def batch(channels=1, size=8, classes=10, images=12, seed=0):
    """Float64 images with many exact 0 and 1, labels, and a stream."""
    x, y, index = problem(channels, size, classes, seed, images)
    return x.double(), y, Noise(seed, index, "test")


def moved(x, seed=0):
    """A point near x that no attack made."""
    n = Noise(seed, torch.arange(len(x)), "moved").normal(x.shape[1:], x.dtype)
    return (x + 0.05 * n).clamp(0, 1)


def splits(n=40, val=16, classes=4, name="made"):
    """Images whose brightness tells their class."""
    index = torch.arange(n + val)
    labels = index % classes
    images = (Noise(0, index, "images").uniform((1, 8, 8)) * 0.5 + labels[:, None, None, None] / (2 * classes)).clamp(
        0, 1
    )
    whole = Split(images, labels, classes, name, "train")
    return whole.take(slice(0, n)), whole.take(slice(n, None))


def bits(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class LinearNet(nn.Module):
    """Flatten and W x + b: the optimum of an attack on it is known."""

    def __init__(self, channels=1, size=8, classes=2, seed=0):
        super().__init__()
        self.linear = nn.Linear(channels * size * size, classes)
        filled(self, seed)

    def forward(self, x):
        return self.linear(x.flatten(1))


class MixedNet(nn.Module):
    """With what students are made of, and a ReLU that quantisation takes up: 8x8 grey images, ten classes."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.last = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Linear(24, 10)

    def forward(self, x):
        h = F.relu(self.norm(self.first((x - 0.3) / 0.4)))
        h = F.max_pool2d(h + F.relu6(self.second(h)), 2)
        return self.last(F.adaptive_avg_pool2d(h, 2).flatten(1))


class Fixed:
    """A maximiser that goes to a fixed point and remembers what it was asked to climb."""

    def __init__(self, point):
        self.point = point

    def maximise(self, objective, x, noise):
        self.x, self.noise, self.objective = x, noise, objective
        z = self.point.clone().requires_grad_()
        value = objective(z)
        (self.grad,) = torch.autograd.grad(value.sum(), z)
        self.value = value.detach()
        return self.point


class Wrapped(nn.Module):
    """`before` changes the images and `after` the logits of a copy of the net."""

    def __init__(self, net, before=lambda x: x, after=lambda z: z):
        super().__init__()
        self.net, self.before, self.after = copy.deepcopy(net), before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)))


class Half(nn.Module):
    """Weights in half precision, behind a door that takes float32."""

    def __init__(self, net, kind):
        super().__init__()
        self.net, self.kind = copy.deepcopy(net).to(kind), kind

    def forward(self, x):
        return self.net(x.to(self.kind)).float()


def job_of(words):
    """The run that `ardor train WORDS` would train."""
    _, bound = parse(["train", *words])
    return bound.arguments.get("words", TrainWords()).job(bound.arguments.get("recipe"), bound.arguments["overrides"])


# -- Calls of the system that fail.


def fail(patch, what, number, error):
    """Let the `number`th use of os.fsync, os.replace, or of Path.open for writing raise; a list with the uses so far.

    A file that is opened gets a few bytes before.
    """
    used, plain = [0], Path.open if what == "write" else getattr(os, what)

    def counted(*args, **kwargs):
        used[0] += 1
        if used[0] == number:
            raise error
        return plain(*args, **kwargs)

    def opened(path, mode="r", *args, **kwargs):
        if mode[0] not in "wax" or path.suffix == ".lock":
            return plain(path, mode, *args, **kwargs)
        used[0] += 1
        if used[0] == number:
            with plain(path, "ab") as file:
                file.write(b"half")
            raise error
        return plain(path, mode, *args, **kwargs)

    patch.setattr(*((Path, "open", opened) if what == "write" else (os, what, counted)))
    return used
