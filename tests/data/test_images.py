"""Images that are not in memory: a split of them is the same split, and no pixel is read before it is asked for."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ardor.data.images import Images, hashes_of, positions, resized_crops
from ardor.data.split import Split, cut, sample
from ardor.errors import DataError


class Lazy:
    """A tensor behind the protocol, which counts the images that are read."""

    dtype = torch.uint8

    def __init__(self, pixels: Tensor, read: list[int] | None = None) -> None:
        self.pixels, self.shape, self.full = pixels, pixels.shape, tuple(pixels.shape[2:])
        self.read = [] if read is None else read

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows):
        rows = positions(rows, len(self))
        self.read += rows.tolist()
        return self.pixels[rows]

    def take(self, rows):
        return Lazy(self.pixels[positions(rows, len(self))], self.read)

    def crops(self, rows, boxes, size):
        return resized_crops(self[rows], boxes, size)

    def hashes(self):
        return hashes_of(self.pixels)


def pixels(n=40, shape=(3, 12, 10)):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8))


def split(images, classes=4):
    return Split(images, torch.arange(len(images)) % classes, classes, "made", "train")


def same(a, b):
    assert a.hash == b.hash
    for mine, other in zip(a.batch(slice(None)), b.batch(slice(None)), strict=True):
        assert torch.equal(mine, other)
    assert (repr(a), a.shape, a.full) == (repr(b), b.shape, b.full)


def boxes(n):
    rng = np.random.default_rng(1)
    top, left = rng.integers(0, 5, n), rng.integers(0, 5, n)
    return torch.from_numpy(
        np.stack([top, left, rng.integers(2, 8, n), rng.integers(2, 6, n), rng.integers(0, 2, n)], 1)
    )


def test_a_split_is_the_same_whether_its_images_are_in_memory_or_not():
    memory, lazy = split(pixels()), split(Lazy(pixels()))
    same(memory, lazy)
    for taken in (lambda s: s.take([7, 3, -1]), lambda s: s.take(s.labels == 2), lambda s: s.limit(9, 1).to("cpu")):
        same(taken(memory), taken(lazy))
    for mine, other in zip(cut(memory, 0.25, 0), cut(lazy, 0.25, 0, reuse=True), strict=True):
        same(mine, other)
    rows = torch.tensor([5, 1, 30])
    for mine, other in zip(memory.crops(rows, boxes(3), 7), lazy.crops(rows, boxes(3), 7), strict=True):
        assert torch.equal(mine, other)


def test_taking_limiting_cutting_and_hashing_read_no_pixel():
    lazy = split(Lazy(pixels()))
    assert isinstance(lazy.images, Images)
    rest, _ = cut(lazy, 0.25, 0)
    assert len(rest.limit(8).take([0]).hash) == 16
    assert lazy.images.read == []
    lazy.batch(torch.tensor([3]))
    assert lazy.images.read == [3]


def test_the_hash_is_of_each_pixel_label_and_index():
    images = pixels()
    known = split(images).hash
    other = images.clone()
    other[17, 2, 11, 9] ^= 1
    transposed = images.transpose(2, 3).contiguous()
    changed = [other, images[1:], images.flip(0), transposed, images.float() / 255]
    hashes = [split(Lazy(x) if x.dtype == torch.uint8 else x).hash for x in changed]
    hashes.append(Split(images, torch.zeros(40, dtype=torch.int64), 4, "made", "train").hash)
    hashes.append(Split(images, torch.arange(40) % 4, 4, "made", "train", index=torch.arange(40) + 1).hash)
    assert len({known, *hashes}) == 1 + len(hashes)
    assert not np.array_equal(*(hashes_of(torch.zeros(1, 1, *size)) for size in ((2, 3), (3, 2))))


def test_a_box_of_the_size_asked_for_is_cut_and_another_resized_as_torch_does():
    images = pixels(2)
    whole = resized_crops(images, torch.tensor([[1, 2, 6, 6, 0], [1, 2, 6, 6, 1]]), 6)
    assert torch.equal(whole[0], images[0, :, 1:7, 2:8])
    assert torch.equal(whole[1], images[1, :, 1:7, 2:8].flip(2))
    small = resized_crops(images[:1], torch.tensor([[0, 1, 12, 8, 0]]), (5, 4))
    exact = F.interpolate(images[:1, :, :, 1:9].double(), (5, 4), mode="bilinear", antialias=True)
    assert small.dtype == torch.uint8
    assert (small - exact).abs().max() <= 1
    large = resized_crops(torch.ones(1, 3, 12, 10), torch.tensor([[0, 1, 5, 7, 0]]), 11)
    assert large.max() <= 1  # float images stay in [0, 1]


def test_crops_depend_on_neither_batch_nor_memory_layout():
    images, box = pixels(), boxes(40)
    whole = resized_crops(images, box, 9)
    assert torch.equal(
        torch.cat([resized_crops(x, b, 9) for x, b in zip(images.split(7), box.split(7), strict=True)]), whole
    )
    assert torch.equal(resized_crops(images.contiguous(memory_format=torch.channels_last), box, 9), whole)


def test_statistics_are_of_a_sample_that_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr("ardor.data.split.SAMPLE", 10 * 3 * 12 * 10)
    lazy = split(Lazy(pixels()))
    assert sample(lazy).index.tolist() == [*range(0, 40, 4)]
    assert sample(small := split(pixels(10))) is small
    assert lazy.images.read == []


def test_images_of_another_kind_are_refused():
    lazy = Lazy(pixels())
    lazy.dtype = torch.float32
    with pytest.raises(DataError, match="expected uint8 images on demand, got torch.float32"):
        split(lazy)
    with pytest.raises(DataError, match="expected images of Split as a Tensor or an Images, got list"):
        Split([pixels()], torch.zeros(1, dtype=torch.int64), 1, "made", "train")
