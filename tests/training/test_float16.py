"""float16 with a scale of the loss. The logic alone, on a CPU; torch's kernels of a GPU are not tested here."""

import json

import pytest
import torch

import ardor.training.preflight
from ardor import methods
from ardor.errors import ConfigError, DivergedError
from ardor.losses import ce
from ardor.noise import Noise
from ardor.storage.tensors import read_tensors
from ardor.training.loop import _accumulate, epochs, step
from tests.conftest import bits, same, splits
from tests.training.conftest import net, recipe
from tests.training.test_optimisers import require_resumed
from tests.training.test_recipe_steps import images, plain


class Overflows(methods.Natural):
    """A gradient that is not finite where the images say so, of a loss that is."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        loss = ce(student(x), y)
        if x.amax() > 1:
            loss.register_hook(lambda grad: grad * torch.inf)
        return {"clean": loss}


def trained(x, scaler, clip=None):
    student = plain(0)
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    words = {"epoch": 1, "noise": Noise(0, torch.arange(8)), "clip": clip}
    update = step(student, None, Overflows(), optimiser, x, torch.arange(8), scaler=scaler, **words)
    return bits(student), update


@pytest.mark.parametrize("clip", [None, 0.01])
def test_a_scale_of_the_loss_changes_no_step(clip):
    x = images(8)
    exact, update = trained(x, None, clip)
    scaled, of_scaled = trained(x, torch.amp.GradScaler("cpu", init_scale=1024.0), clip)
    for name, value in exact.items():
        torch.testing.assert_close(scaled[name], value)
    for name, norm in update.norms.items():
        torch.testing.assert_close(of_scaled.norms[name], norm)
    torch.testing.assert_close(of_scaled.loss, update.loss)


def test_a_step_that_overflows_is_skipped_and_is_a_divergence_below_a_scale_of_1():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for scale in (2.0, 1.0):
        after, update = trained(images(8) + 2, scaler)
        assert same(after, bits(plain(0)))
        assert float(update.scale) == scale
        sums = {}
        _accumulate([(1.0, update)], sums)
        assert sums["clean"] > 0
    _, update = trained(images(8) + 2, scaler)
    with pytest.raises(DivergedError, match="gradients of finite norm"):
        _accumulate([(1.0, update)], {})


def test_it_needs_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match="expected a GPU for precision=.float16., got cpu"):
        next(epochs(net(), None, methods.Natural(), splits()[0], recipe(precision="float16"), run=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="attack_precision as one of float32, bfloat16"):
        recipe(attack_precision="float16")


def test_the_scale_is_in_the_checkpoint(tmp_path, monkeypatch):
    """On a CPU, whose float16 is torch's own."""
    monkeypatch.setattr(ardor.training.preflight, "_require_float16", lambda recipe: None)
    real = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: real(device, init_scale=2.0**5, growth_interval=5))
    require_resumed(tmp_path, precision="float16")
    _, metadata = read_tensors(tmp_path / "parts" / "state.safetensors")
    assert json.loads(metadata["scaler"])["scale"] > 2.0**5
