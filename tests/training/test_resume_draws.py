"""What nets draw themselves, and what any optimiser remembers: a resumed run equals an uninterrupted one."""

import contextlib
import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from ardor import methods
from ardor.engine import distributed
from ardor.errors import ConfigError
from ardor.noise import seed_of, seeded
from ardor.storage.tensors import read_tensors, write_tensors
from ardor.training.loop import epochs
from tests.conftest import bits, same, splits
from tests.training.conftest import PGD2, ended, net, recipe, require_same


class Draws(nn.Module):
    """Dropout, and a branch that is left out for some images: drop path."""

    def __init__(self):
        super().__init__()
        self.net = net()
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        kept = torch.bernoulli(torch.full((len(x), 1), 0.8)) / 0.8 if self.training else 1.0
        return self.net(self.drop(x)) + kept * x.mean((1, 2, 3))[:, None]


def trained(folder, method, most=None, make=Draws, settings=None):
    train, val = splits()
    student = make()
    settings = settings or recipe()
    list(itertools.islice(epochs(student, net(4), method, train, settings, val=val, run=folder), most))
    return student


@pytest.mark.parametrize(
    "method",
    [methods.Natural(), methods.ARD(attack=PGD2), methods.IAD(attack=PGD2)],  # the last two attack in train mode
    ids=["natural", "ard", "iad"],
)
def test_a_net_that_draws_resumes_as_uninterrupted(tmp_path, method):
    whole = trained(tmp_path / "whole", method)
    torch.manual_seed(random.randrange(10**9))  # another process has another generator
    trained(tmp_path / "parts", method, 1)
    torch.manual_seed(random.randrange(10**9))
    assert same(bits(whole), bits(trained(tmp_path / "parts", method)))
    require_same(ended(tmp_path / "whole"), ended(tmp_path / "parts"))


def test_every_step_and_process_draws_its_own_numbers_and_the_callers_generators_go_on(monkeypatch):
    drawn = []

    class Watch(methods.Natural):
        def terms(self, student, teacher, x, y, *, epoch, noise):
            drawn.append(float(torch.rand(())))
            return super().terms(student, teacher, x, y, epoch=epoch, noise=noise)

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    trained(None, Watch())
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    monkeypatch.setattr(distributed, "rank_zero_first", contextlib.nullcontext)
    trained(None, Watch())
    assert len(set(drawn)) == len(drawn) == 2 * 9


def test_a_seed_of_several_numbers():
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)
    seeds = {seed_of(*numbers) for numbers in itertools.product(range(-2, 4), repeat=3)}
    assert len(seeds) == 6**3
    assert all(0 <= seed < 2**63 for seed in seeds)
    with seeded(seed_of(2**64 - 1)):
        torch.rand(())


OPTIMISERS = {
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9),
    "plain": lambda groups, lr: torch.optim.SGD(groups, lr=lr),
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr * 0.1, amsgrad=True),
    "rmsprop": lambda groups, lr: torch.optim.RMSprop(groups, lr=lr * 0.1, momentum=0.5, centered=True),
    "asgd": lambda groups, lr: torch.optim.ASGD(groups, lr=lr),
}


class Counts(torch.optim.SGD):
    """It remembers float64 of float32 weights, a flag, a number and nothing at all, and changes a number of a group."""

    def __init__(self, groups, lr):
        super().__init__(groups, lr=lr)
        for group in self.param_groups:
            group |= {"calls": 0, "factor": 1.0}

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["calls"] += 1
            group["factor"] *= 0.9
            for p in group["params"]:
                entry = self.state[p]
                entry["wide"] = entry.get("wide", torch.zeros_like(p, dtype=torch.float64)) + p.detach().double() / 3
                entry |= {"number": entry.get("number", 0.1) * 1.1, "flag": True, "nothing": None}
                p.data.add_(entry["wide"].float(), alpha=-1e-3 * entry["number"] * group["factor"] * group["calls"])


class Lists(Counts):
    def step(self, closure=None):
        super().step(closure)
        self.state[self.param_groups[0]["params"][0]]["past"] = [1.0]


@pytest.mark.parametrize("name", [*OPTIMISERS, "counts"])
def test_any_optimiser_resumes_as_uninterrupted(tmp_path, monkeypatch, name):
    make = OPTIMISERS.get(name, Counts)
    monkeypatch.setattr(
        "ardor.training.state.make_optimiser", lambda student, method, recipe: make([*student.parameters()], recipe.lr)
    )
    whole = trained(tmp_path / "whole", methods.Natural(), make=net)
    trained(tmp_path / "parts", methods.Natural(), 1, make=net)
    assert same(bits(whole), bits(trained(tmp_path / "parts", methods.Natural(), make=net)))
    require_same(ended(tmp_path / "whole"), ended(tmp_path / "parts"))


def test_what_no_checkpoint_can_hold_of_an_optimiser_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ardor.training.state.make_optimiser", lambda student, method, recipe: Lists([*student.parameters()], 0.1)
    )
    with pytest.raises(ConfigError, match=r"remembers tensors and numbers.*got list of Lists in 0/past: take another"):
        trained(tmp_path / "run", methods.Natural(), make=net)


def test_a_state_of_before_there_were_other_optimisers_is_read(tmp_path):
    whole = trained(tmp_path / "whole", methods.Natural(), make=net)
    trained(tmp_path / "parts", methods.Natural(), 1, make=net)
    path = tmp_path / "parts" / "state.safetensors"
    tensors, metadata = read_tensors(path)
    former = {}
    for key, value in tensors.items():
        part, _, name = key.partition("/")
        former["momentum/" + name.removesuffix("/momentum_buffer") if part == "optimiser" else key] = value
    assert any(key.startswith("momentum/0") for key in former)
    write_tensors(path, former, {key: metadata[key] for key in ("epoch", "best", "best_averaged")})
    assert same(bits(whole), bits(trained(tmp_path / "parts", methods.Natural(), make=net)))
