"""Colour jitter and RandAugment's operations: those of Pillow and torchvision, within a grey level."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from ardor.data import colour
from ardor.noise import Noise

N, LEVEL = 6, 1 / 255


def images(channels=3, height=21, width=33, n=N):
    """Smooth colours, a flat image and noise, as multiples of 1 / 255."""
    noise = Noise(0, torch.arange(n), "colours")
    x = noise.uniform((channels, 3, 4))
    x = torch.nn.functional.interpolate(x, (height, width), mode="bilinear")
    x[0] = noise.uniform((channels, 1, 1))[0]
    x[1] = noise.uniform((channels, height, width))[1]
    return (x * 200 + 20).round() / 255


def as_pillow(x):
    return [Image.fromarray((image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()) for image in x]


def as_tensor(pictures):
    return torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures]) / 255


def constant(value, n=N):
    return torch.full((n,), float(value))


@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color", "Sharpness"])
@pytest.mark.parametrize("factor", [0.0, 0.37, 1.0, 1.6])
def test_enhancements_are_those_of_pillow(name, factor):
    x = images()
    operation = {"Color": colour.saturation}.get(name) or getattr(colour, name.lower())
    theirs = as_tensor([getattr(ImageEnhance, name)(p).enhance(factor) for p in as_pillow(x)])
    # Pillow rounds the other image, and then cuts off the blend
    assert (operation(x, constant(factor)) - theirs).abs().max() <= (1 + abs(1 - factor)) * LEVEL + 1e-6


@pytest.mark.parametrize("factor", [0.0, 0.37, 1.6])
def test_colours_are_those_of_torchvision(factor):
    functional = pytest.importorskip("torchvision.transforms.functional")
    x = images()
    for name in ("brightness", "contrast", "saturation"):
        theirs = getattr(functional, f"adjust_{name}")(x, factor)
        assert (getattr(colour, name)(x, constant(factor)) - theirs).abs().max() < 0.1 * LEVEL
    for shift in (-0.5, -0.1, 0.0, 0.2):
        ours, theirs = colour.hue(x, constant(shift)), functional.adjust_hue(x, shift)
        assert (ours - theirs).abs().max() < 0.01 * LEVEL
        assert torch.allclose(ours.amax(1), x.amax(1), atol=1e-6)


def test_operations_on_values_are_those_of_pillow():
    x = images()
    pictures = as_pillow(x)
    for bits in (1, 4, 8):
        theirs = as_tensor([ImageOps.posterize(p, bits) for p in pictures])
        assert (colour.posterised(x, constant(bits)) - theirs).abs().max() < 1e-6
    for threshold in (0, 93, 128.5, 255):
        theirs = as_tensor([ImageOps.solarize(p, threshold) for p in pictures])
        assert (colour.solarised(x, constant(threshold)) - theirs).abs().max() < 1e-6
    assert (colour.equalised(x) - as_tensor(map(ImageOps.equalize, pictures))).abs().max() < 1e-6
    assert (colour.autocontrasted(x) - as_tensor(map(ImageOps.autocontrast, pictures))).abs().max() <= LEVEL + 1e-6


def test_moves_are_those_of_pillow():
    x = images()
    pictures = as_pillow(x)
    for matrix in ((1, 0.3, 0, 0, 1, 0), (1, 0, 0, -0.21, 1, 0), (1, 0, 5, 0, 1, -3)):
        theirs = as_tensor([p.transform(p.size, Image.Transform.AFFINE, matrix) for p in pictures])
        moved = colour.moved(x, [matrix[:3], matrix[3:]])
        assert (moved - theirs).abs().amax(1).gt(1e-6).double().mean() < 0.02, "only ties of two pixels differ"
    for degrees in (-30, 0, 17.5):
        theirs = as_tensor([p.rotate(degrees) for p in pictures])
        turned = colour.rotated(x, constant(degrees))
        assert (turned - theirs).abs().amax(1).gt(1e-6).double().mean() < 0.02
    each = colour.rotated(x, torch.linspace(-30, 30, N))
    assert torch.equal(each[2], colour.rotated(x[2:3], torch.linspace(-30, 30, N)[2:3])[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_is_changed_by_its_own_numbers(channels):
    x, index = images(channels, n=64), torch.arange(64)
    whole = [
        colour.jittered(x, Noise(1, index, "c"), (0.4, 0.4, 0.4, 0.1)),
        colour.randaugmented(x, Noise(1, index, "r"), 2, 9),
    ]
    for rows in (*index.split(37), index.flip(0), index[5:6]):
        jittered = colour.jittered(x[rows], Noise(1, rows, "c"), (0.4, 0.4, 0.4, 0.1))
        drawn = colour.randaugmented(x[rows], Noise(1, rows, "r"), 2, 9)
        assert torch.equal(jittered, whole[0][rows])
        assert torch.equal(drawn, whole[1][rows])
    for changed in whole:
        assert changed.shape == x.shape
        assert changed.dtype == x.dtype
        assert 0 <= changed.min() <= changed.max() <= 1
        assert (changed != x).flatten(1).any(1).double().mean() > 0.7
    assert torch.equal(colour.jittered(x, Noise(1, index), (0, 0, 0, 0)), x)
    assert torch.equal(x, images(channels, n=64)), "what is given is left as it was"


def test_factors_fill_the_range_of_torchvision():
    x = torch.full((4000, 3, 1, 1), 0.25)
    factors = colour.jittered(x, Noise(0, torch.arange(4000), "c"), (1.5, 0, 0, 0))[:, 0, 0, 0] / 0.25
    assert 0 <= factors.min() < 0.01
    assert 2.49 < factors.max() <= 2.5
    assert abs(factors.mean() - 1.25) < 0.06


def test_every_operation_is_drawn_and_its_magnitude_matters(monkeypatch):
    seen = []

    def watched(number):
        return lambda x, amount: seen.extend([(number, round(float(a), 4)) for a in amount]) or x

    monkeypatch.setattr(colour, "OPERATIONS", tuple(map(watched, range(14))))
    colour.randaugmented(images(n=200), Noise(0, torch.arange(200), "r"), 2, 9)
    assert len(seen) == 400
    assert set(seen) == {(number, side * 0.3) for number in range(14) for side in (-1, 1)}


def test_operations_have_the_strength_of_torchvision():
    transforms = pytest.importorskip("torchvision.transforms.autoaugment")
    x = images(height=40, width=40)
    kind = transforms.InterpolationMode.NEAREST
    table = transforms.RandAugment()._augmentation_space(31, (40, 40))
    for operation, (name, (levels, signed)) in zip(colour.OPERATIONS, table.items(), strict=True):
        level = float(levels[21] if levels.ndim else 0)
        pictures = [transforms._apply_op(p, name, level, kind, [0, 0, 0]) for p in as_pillow(x)]
        amount = -0.7 if "Translate" in name else 0.7  # where it comes from, not where it goes
        off = (operation(x, constant(amount)) - as_tensor(pictures)).abs().amax(1)
        assert off.gt(2.5 * LEVEL).double().mean() < 0.02, (name, signed)
