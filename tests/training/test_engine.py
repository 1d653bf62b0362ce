"""A device that nobody waits for, and runs of before there were averages."""

import pytest
import torch
import yaml
from torch import nn

import ardor.training.loop
from ardor import methods
from ardor.errors import DivergedError
from ardor.losses import ce
from ardor.noise import Noise
from ardor.storage.tensors import read_tensors, write_tensors
from ardor.training.averaging import EMA
from ardor.training.loop import distill, epochs, step
from ardor.training.optimisers import SGD
from ardor.training.state import make_optimiser
from tests.conftest import bits, same, splits
from tests.training.conftest import ended, net, recipe, require_same

# --- a device that nobody waits for


class Natural(methods.Natural):
    """A loss that is not finite where the images say so."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        return {"clean": ce(student(x), y) / (x.amax() < 2)}


def test_an_update_from_a_loss_that_is_not_finite_is_left_out_without_asking():
    train, _ = splits()
    student = net()
    optimiser = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, fused=True)
    x, y, index = train.batch(slice(0, 16))
    words = {"epoch": 1, "noise": Noise(0, index)}

    def state():
        return [p.detach().clone() for p in student.parameters()] + [
            s["momentum_buffer"].clone() for s in optimiser.state.values()
        ]

    step(student.train(), None, Natural(), optimiser, x, y, **words)
    before = state()
    update = step(student, None, Natural(), optimiser, x + 2, y, **words, where="epoch 3, step 7")
    assert all(map(torch.equal, before, state()))
    step(student, None, Natural(), optimiser, x, y, **words)
    assert not any(map(torch.equal, before, state()))
    with pytest.raises(DivergedError, match="got inf at epoch 3, step 7"):
        ardor.training.loop._accumulate([(1.0, update)], {})


def test_it_is_found_out_before_anything_is_written(tmp_path, monkeypatch):
    train, val = splits()
    calls = []
    real = torch.optim.SGD
    monkeypatch.setattr("torch.optim.SGD", lambda *args, **kwargs: real(*args, **kwargs | {"fused": True}))

    class Bad(Natural):
        def terms(self, student, teacher, x, y, *, epoch, noise):
            calls.append(epoch)
            return super().terms(student, teacher, x + 2 * (len(calls) == 4), y, epoch=epoch, noise=noise)

    records = epochs(net(), None, Bad(), train, recipe(), val=val, run=tmp_path / "run", averaging=EMA())
    next(records)
    before = ended(tmp_path / "run")
    with pytest.raises(DivergedError, match="epoch 2, step 1"):
        next(records)
    require_same(before, ended(tmp_path / "run"))


class OnGPU(nn.Parameter):
    """A parameter that says it is on a GPU, so that its optimiser is the one of GPUs."""

    is_cuda = True


def test_a_fused_update_may_leave_out_the_first_step_and_a_late_parameter():
    """A momentum that begins as whatever lay in memory, or as nothing beside others that began, must not be read."""
    student = nn.Linear(2, 2)
    for name, p in list(student.named_parameters()):
        setattr(student, name, OnGPU(p.detach().clone()))
    optimiser = make_optimiser(student, methods.Natural(), recipe(optimiser=SGD(weight_decay=0.0)))
    assert optimiser.param_groups[0]["fused"]
    student.weight.grad = torch.ones(2, 2)
    optimiser.found_inf = torch.ones(())
    optimiser.step()
    assert (optimiser.state[student.weight]["momentum_buffer"] == 0).all()
    optimiser.found_inf = torch.zeros(())
    before = bits(student)
    optimiser.step()
    student.bias.grad = torch.ones(2)
    optimiser.step()
    torch.testing.assert_close(student.bias.detach(), before["bias"] - 0.05)
    torch.testing.assert_close(student.weight.detach(), before["weight"] - 0.05 * 2.9)


def test_a_run_of_before_there_were_averages_goes_on(tmp_path):
    """Its config.yaml has not heard of them; nor its state."""
    train, val = splits()
    words = (None, methods.Natural(), train, recipe())
    whole = net()
    distill(whole, *words, val=val, run=tmp_path / "whole")
    next(iter(epochs(net(), *words, val=val, run=tmp_path / "run")))
    path = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key in ("averaging", "soft_labels", "processes"):
        del config[key]
    for key in ("precision", "attack_precision", "compile", "sync_batchnorm"):
        config["recipe"].pop(key, None)
    config["recipe"] |= {key: config["recipe"]["optimiser"][key] for key in ("momentum", "nesterov", "weight_decay")}
    del config["recipe"]["optimiser"]
    path.write_text(yaml.safe_dump(config))
    tensors, metadata = read_tensors(tmp_path / "run" / "state.safetensors")
    del metadata["best_averaged"]
    write_tensors(tmp_path / "run" / "state.safetensors", tensors, metadata)
    student = net()
    assert [r.epoch for r in epochs(student, *words, val=val, run=tmp_path / "run")] == [2, 3]
    assert same(bits(student), bits(whole))
