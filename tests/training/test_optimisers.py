"""Optimisers of a recipe: their groups, their configurations, third-party ones, and resuming with each."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from ardor import methods
from ardor.errors import ConfigError
from ardor.storage.config import build, describe
from ardor.training.loop import epochs
from ardor.training.optimisers import SGD, AdamW
from ardor.training.recipe import Recipe
from ardor.training.state import make_optimiser
from tests.conftest import splits
from tests.training.conftest import ended, net, recipe, require_same, rslad

ODD = '''
import torch
from functools import partial


class Odd(torch.optim.Optimizer):
    """SGD with a mean of the gradients, a number of steps, and a factor of the whole optimiser in its state."""

    def __init__(self, params, lr, rho: float = 0.5, tags: tuple[str, ...] = ("a",), weight_decay=0.1):
        super().__init__(params, {"lr": lr, "rho": rho, "seen": 0, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["seen"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state.setdefault("count", 0)
                state.setdefault("scale", 1.0)
                state.setdefault("means", torch.zeros(2, *p.shape, dtype=torch.float64))
                state["count"] += 1
                state["scale"] *= 0.9
                state["means"][state["count"] % 2].lerp_(p.grad.double(), group["rho"])
                step = state["means"].sum(0).to(p.dtype) * state["scale"] / group["seen"] ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=group["lr"])


def none(groups, lr):
    return "none"


def other(groups, lr):
    return torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=lr)


def lbfgs(groups, lr):
    return torch.optim.LBFGS([p for group in groups for p in group["params"]], lr=lr)


def broken(groups, lr):
    raise ValueError("my own mistake")
'''


@pytest.fixture
def odd(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("odd.py").write_text(ODD)
    return lambda name="Odd", **options: build({"name": f"odd.py:{name}", **options}, "optimiser")


def decays(optimiser):
    """(weight decay, shapes) of each group."""
    return [(group["weight_decay"], [tuple(p.shape) for p in group["params"]]) for group in optimiser.param_groups]


@pytest.mark.parametrize(
    ("optimiser", "expected"),
    [
        (SGD(), [(2e-4, [(3, 2), (3,), (3,), (3,)])]),
        (SGD(decay_all=False), [(2e-4, [(3, 2)]), (0.0, [(3,), (3,), (3,)])]),
        (AdamW(weight_decay=0.1), [(0.1, [(3, 2)]), (0.0, [(3,), (3,), (3,)])]),
        (AdamW(decay_all=True), [(0.05, [(3, 2), (3,), (3,), (3,)])]),
        (partial(torch.optim.RMSprop, weight_decay=0.3), [(0.3, [(3, 2)]), (0.0, [(3,), (3,), (3,)])]),
    ],
)
def test_decay_of_norms_and_biases(optimiser, expected):
    student = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    assert decays(make_optimiser(student, methods.Natural(), recipe(optimiser=optimiser))) == expected


@pytest.mark.parametrize("optimiser", [SGD(), AdamW()])
def test_a_methods_parameters_have_no_decay(optimiser):
    method = methods.Natural()
    method.parameters = lambda: [nn.Parameter(torch.ones(4, 4))]
    *_, (decay, shapes) = decays(make_optimiser(nn.Linear(2, 3, bias=False), method, recipe(optimiser=optimiser)))
    assert (decay, shapes) == (0.0, [(4, 4)])


def test_a_configuration_with_options(odd):
    default = Recipe()
    assert build({"optimiser": "adamw"}, "recipe", default=default).optimiser == AdamW()
    assert build({"optimiser": {"momentum": "0.5"}}, "recipe", default=default).optimiser == SGD(momentum=0.5)
    content = {"name": "odd.py:Odd", "rho": "1/4", "tags": ["b", "c"]}
    custom = build({"optimiser": content}, "recipe", default=default)
    assert custom.optimiser.keywords == {"rho": 0.25, "tags": ("b", "c")}
    described = describe(custom)["optimiser"]
    assert described == content
    assert describe(build({"optimiser": described}, "recipe", default=default)) == describe(custom)
    assert describe(Recipe(optimiser=torch.optim.RMSprop))["optimiser"] == {"name": "torch.optim.rmsprop:RMSprop"}


@pytest.mark.parametrize(
    "make", [AdamW, SGD, partial(SGD, momentum=0.0), lambda: partial(torch.optim.RMSprop, centered=True)]
)
def test_resumed_equals_uninterrupted(tmp_path, make):
    require_resumed(tmp_path, optimiser=make())


def test_a_third_party_optimiser_with_numbers_in_its_state_resumes(tmp_path, odd):
    require_resumed(tmp_path, optimiser=odd(rho="1/4"))


def require_resumed(folder, **changes):
    """A run that ends after its first epoch and goes on has the files of one that does not end."""
    train, val = splits()
    for name in ("whole", "parts"):
        run = epochs(net(), net(1), rslad(), train, recipe(**changes), val=val, run=folder / name)
        next(run)
        if name == "parts":
            run.close()
            run = epochs(net(), net(1), rslad(), train, recipe(**changes), val=val, run=folder / name)
        list(run)
    require_same(ended(folder / "whole"), ended(folder / "parts"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"momentum": 0.5}, "expected optimiser.momentum=, got momentum=: pass optimiser.momentum="),
        ({"weight_decay": 0}, "expected optimiser.weight_decay=, got"),
        ({"optimiser": "adam"}, 'got "adam" .did you mean "adamw"'),
        ({"optimiser": "os:no"}, "expected the optimiser .no. in os"),
        ({"optimiser": {"name": "sgd", "betas": [0.9, 0.99]}}, "got optimiser.betas=.*it takes momentum"),
        ({"optimiser": {"name": "adamw", "betas": [0.9]}}, "betas as 2 values"),
        ({"optimiser": {"name": "adamw", "betas": [0.9, 1]}}, "betas as two numbers from 0 to below 1"),
        ({"optimiser": {"name": "adamw", "eps": 0}}, "eps as a number above 0"),
        (
            {"optimiser": {"name": "torch.optim:RMSprop", "lr": 1}},
            "expected the learning rate as lr=, got optimiser.lr=",
        ),
        ({"optimiser": {"name": "torch.optim:RMSprop", "alpa": 1}}, "did you mean optimiser.alpha"),
    ],
)
def test_a_configuration_that_is_refused(content, sentence):
    with pytest.raises(ConfigError, match=sentence):
        build(content, "recipe", default=Recipe())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("none", "expected from odd.py:none a torch.optim.Optimizer, got str"),
        ("other", "expected from odd.py:other an optimiser of the parameters"),
        ("broken", "got ValueError: my own mistake from odd.py:broken"),
    ],
)
def test_a_third_party_optimiser_that_cannot_be_used(tmp_path, odd, name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        next(epochs(net(), None, methods.Natural(), splits()[0], recipe(optimiser=odd(name)), run=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_optimiser_whose_step_takes_a_function(odd):
    with pytest.raises(ConfigError, match="got LBFGS, whose step takes a function"):
        make_optimiser(nn.Linear(2, 2), methods.Natural(), recipe(optimiser=odd("lbfgs")))
