"""Boxes of random resized crops: functions of an image and a number."""

import math

import pytest
import torch

from ardor.data import boxes_of
from ardor.data.boxes import BITS, TRIES
from ardor.noise import Noise

N = 64


def slow_boxes(index, number, full, area, ratio, flip):
    """torchvision's RandomResizedCrop.get_params, image by image, with the same random numbers."""
    noise = Noise(0, index * 2**32 + number, "box")
    shares, steps = noise.uniform((TRIES,), torch.float64), noise.integers(2**BITS, (TRIES,))
    places, mirrored = noise.integers(2**31, (2,)), noise.integers(2)
    height, width = full
    boxes = []
    for row in range(len(index)):
        for share, step in zip(shares[row].tolist(), steps[row].tolist(), strict=True):
            pixels = height * width * (area[0] + (area[1] - area[0]) * share)
            aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * step / 2**BITS)
            w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if 0 < w <= width and 0 < h <= height:
                rooms = zip(places[row].tolist(), (height - h, width - w), strict=True)
                top, left = (place * (room + 1) // 2**31 for place, room in rooms)
                break
        else:
            w, h = width, height
            if width / height < ratio[0]:
                h = round(w / ratio[0])
            elif width / height > ratio[1]:
                w = round(h * ratio[1])
            top, left = (height - h) // 2, (width - w) // 2
        boxes.append([top, left, h, w, int(mirrored[row]) * flip])
    return torch.tensor(boxes)


@pytest.mark.parametrize(
    ("full", "area", "ratio"),
    [((256, 256), (0.08, 1.0), (3 / 4, 4 / 3)), ((40, 97), (0.9, 1.0), (3 / 4, 4 / 3)),
     ((97, 40), (0.9, 1.0), (0.8, 0.9)),
     ((8, 8), (0.3, 0.3), (1.0, 1.0)), ((2, 3), (0.08, 0.2), (1 / 3, 3.0)), ((1, 1), (0.08, 1.0), (0.5, 2.0))],
)  # fmt: skip
@pytest.mark.parametrize("flip", [True, False])
def test_boxes_are_those_of_the_slow_loop(full, area, ratio, flip):
    index, number = torch.arange(N) * 7_000_003, torch.arange(N) * 19 % 5
    boxes = boxes_of(index, number, full, area, ratio, flip)
    assert boxes.dtype == torch.int64
    assert torch.equal(boxes, slow_boxes(index, number, full, area, ratio, flip))
    assert bool((boxes[:, 2:4] > 0).all())
    assert bool((boxes[:, :2] >= 0).all())
    assert bool((boxes[:, :2] + boxes[:, 2:4] <= torch.tensor(full)).all())


def test_a_box_depends_on_image_and_number_alone():
    index, number = torch.arange(N), torch.arange(N) % 32
    whole = boxes_of(index, number, (256, 200))
    for size in (37, 1):
        parts = [boxes_of(i, n, (256, 200)) for i, n in zip(index.split(size), number.split(size), strict=True)]
        assert torch.equal(torch.cat(parts), whole)
    order = Noise(3, index).bits(()).argsort()
    assert torch.equal(boxes_of(index[order], number[order], (256, 200)), whole[order])


def test_images_and_numbers_have_boxes_of_their_own():
    index, number = torch.arange(100).repeat_interleave(32), torch.arange(32).repeat(100)
    boxes = boxes_of(index, number, (256, 256))
    assert len(boxes.unique(dim=0)) > 3190
    assert 0.45 < boxes[:, 4].double().mean() < 0.55
    assert len(boxes_of(index[:1], torch.tensor([2**31 - 1]), (256, 256))) == 1


def test_sides_are_distributed_as_those_of_torchvision():
    transforms = pytest.importorskip("torchvision.transforms")
    image, n = torch.zeros(1, 256, 200), 4000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = [transforms.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)]
    ours = boxes_of(torch.arange(n), torch.zeros(n, dtype=torch.int64), (256, 200))[:, :4]
    shares = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    for one, other in zip(ours.double().T, torch.tensor(theirs).double().T, strict=True):
        assert bool(((one.quantile(shares) - other.quantile(shares)).abs() < 12).all())  # 5 standard errors
