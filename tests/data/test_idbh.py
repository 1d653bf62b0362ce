"""CropShift, IDBH and erasing: each image against numpy or Pillow, from the same numbers."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from ardor.data import idbh
from ardor.noise import Noise
from tests.data.test_colour import LEVEL, as_pillow, as_tensor, images

N = 48


def noise(purpose="v", epoch=1):
    return Noise(3, torch.arange(N), purpose, epoch)


def test_cropshift_moves_a_window_to_another_place():
    x = images(n=N, height=20, width=17)
    drawn = noise().uniform((6,), torch.float64).tolist()
    result = idbh.cropshift(x, noise(), 0, 11)
    for image, new, u in zip(x.numpy(), result.numpy(), drawn, strict=True):
        s = math.floor(u[0] * 11)
        columns = math.floor(u[1] * (s + 1))
        rows = s - columns
        top, left = math.floor(u[2] * (rows + 1)), math.floor(u[3] * (columns + 1))
        down, right = math.floor(u[4] * (rows + 1)), math.floor(u[5] * (columns + 1))
        height, width = 20 - rows, 17 - columns
        expected = np.zeros_like(image)
        expected[:, down : down + height, right : right + width] = image[:, top : top + height, left : left + width]
        assert np.array_equal(new, expected)
    sizes = {math.floor(u[0] * 11) for u in drawn}
    assert min(sizes) == 0
    assert max(sizes) == 10
    assert torch.equal(idbh.cropshift(x, noise(), 0, 1), x)
    for side, high in ((32, 11), (8, 3), (224, 71)):
        x = images(n=N, height=side, width=side)
        assert torch.equal(idbh.cropshift(x, noise()), idbh.cropshift(x, noise(), 0, high)), "in proportion"


def test_operations_are_those_of_pillow():
    x = images(n=N, height=24, width=24)
    pictures = as_pillow(x)
    u, side = noise("u").uniform(()), noise("s").integers(4)
    enhance = [
        (ImageEnhance.Color, 0.1, 1.9),
        (ImageEnhance.Brightness, 0.5, 1.9),
        (ImageEnhance.Contrast, 0.5, 1.9),
        (ImageEnhance.Sharpness, 0.1, 1.9),
    ]
    for number, (kind, low, high) in enumerate(enhance):
        theirs = [kind(p).enhance(low + (high - low) * float(v)) for p, v in zip(pictures, u, strict=True)]
        difference = (idbh.OPERATIONS[number](x, u, side) - as_tensor(theirs)).abs().max()
        assert difference <= 1.5 * LEVEL, kind.__name__  # Pillow rounds its grey image, which 1.9 takes further
    for number, function in ((4, ImageOps.autocontrast), (5, ImageOps.equalize)):
        difference = (idbh.OPERATIONS[number](x, u, side) - as_tensor(map(function, pictures))).abs().max()
        assert difference <= LEVEL + 1e-6
    shear, turn = [], []
    for p, v, k in zip(pictures, u.double().tolist(), side.tolist(), strict=True):
        slope = math.tan(0.05 + 0.1 * v) * (1 if k % 2 else -1)
        a, b = (slope, 0) if k < 2 else (0, slope)
        shear.append(p.transform(p.size, Image.Transform.AFFINE, (1, a, -a * 12, b, 1, -b * 12)))
        turn.append(p.rotate((1 + math.floor(10 * v)) * (1 if k % 2 else -1)))
    for number, theirs in ((6, shear), (7, turn)):
        off = (idbh.OPERATIONS[number](x, u, side) - as_tensor(theirs)).abs().amax(1).gt(1e-6).double().mean()
        assert off < 0.02, "only ties of two pixels differ"


def test_every_operation_is_drawn(monkeypatch):
    seen = []

    def watched(number):
        def operation(x, amount, side):
            seen.extend((number, float(a), int(s)) for a, s in zip(amount, side, strict=True))
            return x

        return operation

    monkeypatch.setattr(idbh, "OPERATIONS", tuple(map(watched, range(8))))
    many = Noise(0, torch.arange(400), "o")
    idbh.one_operation(torch.zeros(400, 3, 2, 2), many)
    assert len(seen) == 400
    counts = np.bincount([number for number, *_ in seen])
    assert len(counts) == 8
    assert counts.min() > 25
    assert {side for *_, side in seen} == {0, 1, 2, 3}


def holes(x):
    """Of each image the mask of black pixels in an image of ones."""
    return (x == 0).all(1)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_box_of_a_share_of_the_images_is_erased(share):
    x = torch.ones(600, 3, 32, 32)
    masks = holes(idbh.erased(x, Noise(0, torch.arange(600), "e"), share))
    having = masks.flatten(1).any(1)
    assert abs(float(having.double().mean()) - share) < 0.07
    for mask in masks[having]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert int(mask.sum()) == height * width, "one full box"
        assert 0.01 < height * width / 1024 < 0.37
        assert 0.25 < height / width < 4


def test_cutout_is_cut_at_the_border():
    masks = holes(idbh.cutout(torch.ones(600, 3, 32, 32), Noise(0, torch.arange(600), "c"), 18))
    areas = masks.flatten(1).sum(1)
    assert int(areas.max()) == 18 * 18
    assert 80 <= int(areas.min()) < 110
    centres = {tuple(mask.nonzero()[-1].tolist()) for mask in masks}
    assert len(centres) > 250


@pytest.mark.parametrize("view", [idbh.idbh, idbh.cropshift, idbh.erased, idbh.cutout])
def test_an_image_is_changed_by_its_own_numbers(view):
    x, index = images(n=64, height=32, width=32), torch.arange(64)
    whole = view(x, Noise(1, index, "c", 2))
    for rows in (*index.split(37), index.flip(0), index[5:6]):
        assert torch.equal(view(x[rows], Noise(1, rows, "c", 2)), whole[rows])
    assert whole.shape == x.shape
    assert whole.dtype == x.dtype
    assert 0 <= whole.min() <= whole.max() <= 1
    assert not torch.equal(whole, view(x, Noise(1, index, "c", 3)))
    assert torch.equal(x, images(n=64, height=32, width=32)), "what is given is left as it was"


def test_the_weak_form_erases_half_of_the_images(monkeypatch):
    monkeypatch.setattr(idbh, "OPERATIONS", (lambda x, amount, side: x,) * 8)
    monkeypatch.setattr(idbh, "cropshift", lambda x, noise: x)
    x = torch.ones(600, 3, 32, 32)
    shares = [
        float(holes(idbh.idbh(x, Noise(0, torch.arange(600)), share)).flatten(1).any(1).double().mean())
        for share in (0.5, 1.0)
    ]
    assert shares == pytest.approx([0.5, 1.0], abs=0.07)
    x[..., 0] = 0.5
    mirrored = idbh.idbh(x, Noise(0, torch.arange(600)), 0.0)[:, 0, 0, 0] == 1
    assert abs(float(mirrored.double().mean()) - 0.5) < 0.07
