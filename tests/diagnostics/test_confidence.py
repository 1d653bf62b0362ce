"""The images of which a net is most confident: which are kept, their labels, and files that are not replaced."""

import numpy as np
import pytest
import torch
from torch import nn

from ardor.data.extra import read_extra
from ardor.diagnostics.data import Kept, keep_confident
from ardor.errors import ConfigError, ModelError, RunError


class Bright(nn.Module):
    """Logits (m, 0, 1 - m) times 4 of the mean m of the images: surest where they are darkest or brightest."""

    def forward(self, x):
        assert not self.training
        m = x.mean((1, 2, 3))
        return 4 * torch.stack([m, 0 * m, 1 - m], 1)


VALUES = np.array([120, 255, 130, 0, 250, 128, 10, 200, 90, 255], np.uint8)
"""Of all pixels of each image; the surest are 1, 3 and 9, then 4, then 6."""


def written(folder, channels=1, **more):
    images = np.broadcast_to(VALUES[:, None, None, None], (10, 4, 5, channels)).copy()
    np.savez(folder / "made.npz", image=images, **more)
    return f"npz:{folder / 'made.npz'}"


@pytest.mark.parametrize("labels", [None, np.arange(10)])
@pytest.mark.parametrize("batch", [3, 256])
def test_the_surest_are_kept_in_their_order(tmp_path, labels, batch):
    name = written(tmp_path, **({} if labels is None else {"label": labels}))
    out, done = tmp_path / "new" / "out.npz", []
    kept = keep_confident(name, Bright().train(), 0.4, out, batch=batch, progress=lambda *at: done.append(at))
    images, found = read_extra(f"npz:{out}")
    assert images.shape == (4, 1, 4, 5)
    assert images[:, 0, 0, 0].tolist() == [255, 0, 250, 255]
    assert found.tolist() == ([0, 2, 0, 0] if labels is None else [1, 3, 4, 9])
    least = torch.tensor([4 * 250 / 255, 0, 4 * 5 / 255], dtype=torch.float64).softmax(0)[0]
    assert kept == Kept(4, 10, pytest.approx(float(least), abs=1e-6), labels is not None)
    assert done[-1] == (10, 10)


def test_one_image_is_kept_at_least(tmp_path):
    assert keep_confident(written(tmp_path), Bright(), 0.01, tmp_path / "out.npz").images == 1
    assert keep_confident(written(tmp_path), Bright(), 1.0, tmp_path / "all.npz").images == 10


def test_a_file_that_exists_is_not_replaced(tmp_path):
    name, out = written(tmp_path), tmp_path / "out.npz"
    out.write_bytes(b"mine")
    with pytest.raises(RunError, match="expected a new file"):
        keep_confident(name, Bright(), 0.5, out)

    def made_meanwhile(done, todo):
        (tmp_path / "later.npz").write_bytes(b"mine")

    with pytest.raises(RunError, match="expected a new file"):
        keep_confident(name, Bright(), 0.5, tmp_path / "later.npz", progress=made_meanwhile)
    assert out.read_bytes() == (tmp_path / "later.npz").read_bytes() == b"mine"
    with pytest.raises(RunError, match="expected a new file"):
        keep_confident(name, Bright(), 0.5, tmp_path / "made.npz")


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_out_of_range_is_refused(tmp_path, share):
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        keep_confident(written(tmp_path), Bright(), share, tmp_path / "out.npz")


def test_other_names_and_nets_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in \.npz"):
        keep_confident(written(tmp_path), Bright(), 0.5, tmp_path / "out")
    with pytest.raises(ModelError, match=r"takes images of \(1, 4, 5\)"):
        keep_confident(written(tmp_path), nn.Conv2d(3, 4, 1), 0.5, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
