"""Extra images beside those of a train split: how both are read as one, and files that are refused."""

import numpy as np
import pytest
import torch

import ardor.data
from ardor.data.arrays import unpack
from ardor.data.extra import Joined, read_extra, with_extra
from ardor.data.images import hashes_of, resized_crops
from ardor.data.split import Split
from ardor.errors import ConfigError, DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 6, 5, 3), dtype=np.uint8)
WHOLE = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).contiguous()
REAL, EXTRA = WHOLE[:20], WHOLE[20:]


def real(images=REAL, index=None):
    index = torch.arange(len(images)) if index is None else index
    return Split(images, torch.arange(len(images)) % 4, 4, "made", "train", index=index)


def written(folder, name="extra.npz", **arrays):
    np.savez(folder / name, **arrays)
    return f"npz:{folder / name}"


def test_joined_images_are_those_of_one_tensor():
    joined, rows = Joined(REAL, EXTRA), torch.tensor([25, 3, 20, 19, 3])
    assert joined.shape == WHOLE.shape
    assert joined.full == (6, 5)
    assert isinstance(joined, ardor.data.images.Images)
    mask = torch.arange(30) % 3 == 0
    for some in (rows, mask, slice(15, 24), slice(0)):
        assert torch.equal(joined[some], WHOLE[some])
        assert torch.equal(joined.take(some)[:], WHOLE[some])
    assert (joined.take(rows).hashes() == hashes_of(WHOLE[rows])).all()
    boxes = torch.tensor([[0, 1, 4, 3, 1]]).repeat(5, 1) + torch.tensor([0, 0, 0, 0, 0])
    boxes[:, 0] = torch.arange(5) % 3
    assert torch.equal(joined.crops(rows, boxes, (3, 4)), resized_crops(WHOLE[rows], boxes, (3, 4)))
    nested = Joined(joined.take(slice(10, 30)), REAL)
    assert torch.equal(nested[:], torch.cat([WHOLE[10:], REAL]))


@pytest.mark.parametrize("floats", [False, True])
def test_extra_images_follow_the_real_ones(tmp_path, floats):
    name = written(tmp_path, image=PIXELS[20:], label=np.arange(10) % 4)
    images = REAL.float() / 255 if floats else REAL
    train = with_extra(real(images, torch.arange(20) * 2), name, 0.5)
    assert torch.equal(train.batch(slice(None))[0], WHOLE.float() / 255)
    assert train.index.tolist() == [*range(0, 40, 2), *range(39, 49)]
    assert train.real.tolist() == [True] * 20 + [False] * 10
    assert train.labels[20:].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert (train.extra.share, train.extra.labels) == (0.5, "file")
    assert "(10 of them extra)" in repr(train)
    taken = train.take([29, 0])
    assert taken.real.tolist() == [False, True]
    assert train.hash != real(images).hash


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_that_is_not_compressed_is_left_where_it_is(tmp_path, order):
    pixels = np.asarray(PIXELS[20:], order=order)
    name = written(tmp_path, label=np.arange(10) % 4, image=pixels)  # an array before it
    np.savez_compressed(tmp_path / "small.npz", image=pixels, label=np.arange(10) % 4)
    images, labels = read_extra(name)
    others, _ = read_extra(f"npz:{tmp_path / 'small.npz'}")
    assert torch.equal(images, EXTRA)
    assert torch.equal(images, others)
    assert labels.tolist() == [k % 4 for k in range(10)]
    arrays = [unpack(tmp_path / file, ("image",), large="image")["image"] for file in ("extra.npz", "small.npz")]
    assert [type(array) for array in arrays] == [np.memmap, np.ndarray]
    assert with_extra(real(), name).hash == with_extra(real(), f"npz:{tmp_path / 'small.npz'}").hash
    before = (tmp_path / "extra.npz").read_bytes()
    images[:] = 0
    assert (tmp_path / "extra.npz").read_bytes() == before, "a map of this process alone"


def test_an_altered_pixel_of_a_mapped_file_is_refused(tmp_path):
    name = written(tmp_path, image=PIXELS[20:])
    path = tmp_path / "extra.npz"
    content = bytearray(path.read_bytes())
    at = content.index(PIXELS[25].tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="Bad CRC-32"):
        read_extra(name)
    path.write_bytes(content[:200])
    with pytest.raises(DataError, match="cannot be read"):
        read_extra(name)


def test_a_source_with_extra_images(tmp_path):
    x = PIXELS[:20].astype(np.float32) / 255
    y = np.arange(20) % 4
    data = written(tmp_path, "data.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])
    name = written(tmp_path, image=PIXELS[20:])
    plain = ardor.data.load(data, val=0.2, limit=8)
    train, val, test = ardor.data.load(data, val=0.2, limit=8, extra=name, extra_share=0.4, extra_labels="teacher")
    assert (val.hash, test.hash) == (plain[1].hash, plain[2].hash)
    assert train.take(train.real).hash == plain[0].hash, "limit and val are of real images"
    assert train.index[8:].tolist() == list(range(20, 30)), "after every image of the real train part"
    assert train.extra.labels == "teacher"
    again = ardor.data.load(**train.source)
    assert again[0].hash == train.hash
    assert again[0].extra == train.extra
    assert ardor.data.load_test(**train.source).hash == test.hash
    assert "extra" not in plain[0].source
    assert "extra" not in val.source
    with pytest.raises(ConfigError, match="with npz:FILE"):
        ardor.data.load(data, extra_share=0.4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": PIXELS}, "expected the array image"),
        ({"image": PIXELS / 255}, r"uint8, got .* float64: convert"),
        ({"image": PIXELS[0]}, r"as \(N, H, W, C\) uint8"),
        ({"image": PIXELS[:0]}, r"as \(N, H, W, C\) uint8"),
        ({"image": PIXELS[:, :, :4]}, r"expected images \(H, W, C\) of \(6, 5, 3\).*got \(6, 4, 3\): resize"),
        ({"image": PIXELS[..., :1]}, r"got \(6, 5, 1\)"),
        ({"image": PIXELS[:3], "label": np.array([0, 4, 1])}, r"labels in 0 \.\. 3.*got 0 \.\. 4"),
        ({"image": PIXELS[:3], "label": np.array([0, -1, 1])}, r"got -1 \.\. 1"),
        ({"image": PIXELS[:3], "label": np.zeros(4, np.int64)}, "one label per image, got 4 for 3"),
        ({"image": PIXELS[:3], "label": np.zeros(3)}, "integer labels"),
        ({"image": np.array([object()])}, "object"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        with_extra(real(), written(tmp_path, **arrays))


def test_other_arguments_are_refused(tmp_path):
    name = written(tmp_path, image=PIXELS)
    for share in (0.0, 1.0, -0.1, 1.5):
        with pytest.raises(ConfigError, match="above 0 and below 1.*extra_share=0.7"):
            with_extra(real(), name, share)
    with pytest.raises(ConfigError, match="npz:FILE"):
        with_extra(real(), str(tmp_path / "extra.npz"))
    with pytest.raises(DataError, match="not there"):
        with_extra(real(), "npz:nowhere.npz")
    with pytest.raises(ConfigError, match="extra_labels|labels"):
        with_extra(real(), name, labels="mine")
    with pytest.raises(ConfigError, match="join the two files"):
        with_extra(with_extra(real(), name), name)
