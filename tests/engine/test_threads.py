"""The rule for torch's number of threads, and how the commands apply it."""

import os

import pytest
import torch
import yaml
from torch import nn

from ardor.cli.main import main
from ardor.engine.flops import macs
from ardor.engine.threads import SMALL, restored, threads_for, use_threads
from ardor.errors import ConfigError
from ardor.models import build
from ardor.testing import TinyNet, global_rng

DIGITS = ["--data", "digits", "--student", "small_cnn", "--student.width", "4", "--method", "natural"]


@pytest.fixture
def four():
    """Torch's own number is 4."""
    with restored():
        torch.set_num_threads(4)
        yield


@pytest.fixture
def calls(monkeypatch):
    """The numbers that torch is given; a command's own number, then the one before it, for each command."""
    numbers, real = [], torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda number: (numbers.append(number), real(number)))
    return numbers


class Random(TinyNet):
    """Draws from the global generator even in eval mode."""

    def forward(self, x):
        return super().forward(x + torch.rand_like(x))


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(("name", "shape", "number"), [("small_cnn", (3, 32, 32), 1), ("mobilenet_v2", (3, 32, 32), 4)])
def test_a_small_net_gets_one_thread_and_a_larger_one_torchs_number(name, shape, number):
    net = build(name, channels=shape[0])
    assert (macs(net, shape) < SMALL) == (number == 1)
    assert threads_for(net, shape) == number
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four")
def test_the_border_is_excluded(monkeypatch):
    conv = nn.Conv2d(1, 1, 1)
    for side, number in ((9, 1), (10, 4)):
        monkeypatch.setattr("ardor.engine.threads.SMALL", 100)
        assert threads_for(conv, (1, side, side)) == number


@pytest.mark.usefixtures("four")
def test_a_net_whose_cost_is_unknown_or_on_another_device_keeps_torchs_number():
    assert threads_for(nn.Flatten(), (1, 8, 8)) == 4
    assert threads_for(TinyNet().to("meta"), (1, 8, 8)) == 4


@pytest.mark.usefixtures("four")
def test_the_global_generator_does_not_move():
    before = global_rng()
    assert threads_for(Random(), (1, 8, 8)) == 1
    assert global_rng() == before


def test_a_number_below_one_is_refused():
    with pytest.raises(ConfigError, match="at least 1, got 0: pass threads=1"):
        use_threads(0)


def test_restored_sets_the_number_back():
    number = torch.get_num_threads()
    with pytest.raises(ValueError, match="inside"), restored():
        use_threads(number + 1)
        assert torch.get_num_threads() == number + 1
        raise ValueError("inside")
    assert torch.get_num_threads() == number


@pytest.mark.usefixtures("four")
def test_a_run_keeps_its_number_unless_another_is_typed(tmp_path, monkeypatch, calls):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    config, used = tmp_path / "run" / "config.yaml", []

    def train(*words):
        assert main(["train", *DIGITS, "--recipe.epochs", "1", "--run", str(config.parent), *words]) == 0
        used.append(yaml.safe_load(config.read_text())["threads"])
        assert torch.get_num_threads() == 4, "after the command"

    train("--threads", "2")
    train()
    train("--threads", "3")
    config.write_text(config.read_text().replace("threads: 2", "threads: 64"))
    train()
    assert calls[::2] == [2, 2, 3, 4], "64 threads of another machine become those of this one's cores"
    assert used[:3] == [2, 2, 2]


@pytest.mark.usefixtures("four")
def test_the_rule_holds_for_the_other_commands(tmp_path, calls):
    run = tmp_path / "run"
    assert main(["train", *DIGITS, "--recipe.epochs", "1", "--run", str(run)]) == 0
    evaluate = ["evaluate", str(run), "--suite", "quick", "--limit", "10"]
    assert main(evaluate) == 0
    assert main([*evaluate, "--threads", "2"]) == 0
    assert calls[::2] == [1, 1, 2]
    assert set(calls[1::2]) == {4}


def test_zero_threads_is_one_sentence(capsys):
    assert main(["train", *DIGITS, "--threads", "0"]) == 2
    assert "at least 1, got 0" in capsys.readouterr().err
