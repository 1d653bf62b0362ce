"""The steps of an epoch: no image alone, where a batch norm needs two."""

import pytest
import torch
from torch import nn

from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.methods import Natural
from ardor.training.averaging import EMA
from ardor.training.loop import distill
from ardor.training.preflight import check_setup
from ardor.training.recipe import batches
from tests.training.conftest import recipe


def narrow():
    """A net with a batch norm on maps of 1 x 1 pixels."""
    return nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4))


def images(n):
    return Split(torch.rand(n, 1, 8, 8), torch.arange(n) % 4, 4, "toy", "train")


@pytest.mark.parametrize(("n", "sizes"), [(33, [16, 17]), (32, [16, 16]), (34, [16, 16, 2]), (1, [1]), (17, [17])])
def test_a_last_image_joins_the_step_before(n, sizes):
    steps = batches(recipe(batch=16), "order", 1, images(n))
    assert [len(rows) for rows in steps] == sizes
    assert sorted(torch.cat(steps).tolist()) == list(range(n))


def test_a_batch_norm_on_single_pixels_is_trained_on_any_number_of_images():
    distill(narrow(), None, Natural(), images(17), recipe(epochs=1), val=images(4), averaging=EMA())


@pytest.mark.parametrize(
    ("n", "batch", "processes", "advice"),
    [(8, 1, 1, "batch=2"), (1, 4, 1, "add training images"), (11, 4, 2, "batch=5"), (9, 3, 2, "4|5")],
)
def test_one_image_of_a_step_is_refused_before_any_work(monkeypatch, n, batch, processes, advice):
    monkeypatch.setattr("ardor.engine.distributed.world_size", lambda: processes)
    with pytest.raises(ConfigError, match=rf"at least 2 images of each step.*({advice})"):
        check_setup(narrow(), None, Natural(), images(n), None, None, recipe(batch=batch))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    check_setup(plain, None, Natural(), images(n), None, None, recipe(batch=batch))
