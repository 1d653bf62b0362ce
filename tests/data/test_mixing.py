"""CutMix and mixup: each image by hand and against timm and torchvision, from the same numbers."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from ardor.data.mixing import beta, mixed
from ardor.noise import Noise
from tests.data.test_colour import images

N = 48


def noise(n=N, epoch=1):
    return Noise(3, torch.arange(n), "m", epoch)


def pairs(height=20, width=17):
    x = images(n=N + 1, height=height, width=width)
    return x[:-1], x[1:]


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0, 2.0, 8.0])
def test_shares_are_of_a_beta_distribution(alpha):
    shares = beta(noise(20_000), alpha).numpy()
    for point in np.linspace(0.01, 0.99, 50):  # not a KS test: float32 has few numbers just below 1
        below = scipy.stats.beta(alpha, alpha).cdf(point)
        assert abs((shares <= point).mean() - below) < 4 * math.sqrt(below * (1 - below) / 20_000) + 1e-6
    assert 0 <= shares.min() <= shares.max() <= 1


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 1e6, 1e300])
def test_shares_of_an_extreme_strength_are_numbers(alpha):
    shares = beta(noise(200), alpha)
    assert bool(((shares >= 0) & (shares <= 1)).all())
    far = shares.sub(0.5).abs()
    assert (far > 0.49).double().mean() > 0.95 if alpha < 1 else far.max() < 0.01


def test_mixup_is_the_weighted_mean():
    x, other = pairs()
    shares = beta(noise(), 0.7).tolist()
    for image, two, new, share in zip(x, other, mixed(x, other, noise(), "mixup", 0.7), shares, strict=True):
        torch.testing.assert_close(new, share * image + (1 - share) * two)
    white = torch.ones_like(x)
    assert torch.equal(mixed(white, white, noise(), "mixup"), white), "no value leaves [0, 1] by rounding"


def test_cutmix_has_a_box_of_the_other():
    x, other = pairs()
    stream = noise()
    shares, down, across = beta(stream, 1.0).tolist(), stream.integers(20).tolist(), stream.integers(17).tolist()
    result = mixed(x, other, noise(), "cutmix").numpy()
    sizes = set()
    for i in range(N):
        height, width = (int(side * math.sqrt(1 - shares[i])) for side in (20, 17))
        top, left = down[i] - height // 2, across[i] - width // 2
        expected = x[i].numpy().copy()
        rows, columns = slice(max(0, top), max(0, top + height)), slice(max(0, left), max(0, left + width))
        expected[:, rows, columns] = other[i].numpy()[:, rows, columns]
        assert np.array_equal(result[i], expected)
        sizes.add(height)
    assert len(sizes) > 10, "one box per image"


def test_a_box_is_that_of_timm_at_the_same_numbers(monkeypatch):
    timm = pytest.importorskip("timm.data.mixup")
    x, other = pairs()
    stream = noise()
    shares, down, across = beta(stream, 1.0).tolist(), stream.integers(20).tolist(), stream.integers(17).tolist()
    result = mixed(x, other, noise(), "cutmix")
    for i in range(N):
        centre = iter((down[i], across[i]))
        monkeypatch.setattr(timm.np.random, "randint", lambda low, high, size, centre=centre: next(centre))
        top, bottom, left, right = timm.rand_bbox((20, 17), shares[i])
        expected = x[i].clone()
        expected[:, top:bottom, left:right] = other[i, :, top:bottom, left:right]
        assert torch.equal(result[i], expected)


def test_mixup_is_that_of_torchvision_at_the_same_share():
    transforms = pytest.importorskip("torchvision.transforms.v2")
    x = images(n=N, height=20, width=17)
    for i, share in enumerate(beta(noise(), 1.0).tolist()):
        theirs = transforms.MixUp(num_classes=2).transform(
            x, {"lam": share, "labels": None, "batch_size": N}
        )  # each image with the one before it
        torch.testing.assert_close(mixed(x, x.roll(1, 0), noise(), "mixup")[i], theirs[i])


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_an_image_is_mixed_by_its_own_numbers(kind):
    x, other = pairs(32, 32)
    whole, index = mixed(x, other, noise(), kind), torch.arange(N)
    for rows in (*index.split(37), index.flip(0), index[5:6]):
        assert torch.equal(mixed(x[rows], other[rows], Noise(3, rows, "m", 1), kind), whole[rows])
    assert not torch.equal(whole, mixed(x, other, noise(epoch=2), kind))
    assert torch.equal(mixed(x, x, noise(), kind), x)
    before = [t.clone() for t in (x, other)]
    assert all(map(torch.equal, before, (x, other))), "what is given is left as it was"
    assert mixed(x, other, noise(), "none") is x
