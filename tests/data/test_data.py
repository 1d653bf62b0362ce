"""The data room: what is cut stays apart, and a view of an image is its own."""

import importlib.util
import random
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ardor import data
from ardor.data import augment, digits
from ardor.data.split import Split, as_float
from ardor.errors import ConfigError, DataError
from ardor.noise import Noise
from ardor.storage.config import describe
from tests.conftest import SHARED
from tests.data.conftest import arrays, binary_files, npz, put, python_files

REAL = SHARED / "data"


# --- Split ----------------------------------------------------------------------------------------------------------


def make_split(n=40, classes=4, **changes):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (n, 3, 5, 6), np.uint8))
    return Split(
        **{"images": images, "labels": torch.arange(n) % classes, "classes": classes, "name": "made", "part": "train"}
        | changes
    )


def test_split_knows_its_shape_and_numbers_its_images():
    split = make_split()
    assert (len(split), split.shape, split.class_names) == (40, (3, 5, 6), ("0", "1", "2", "3"))
    assert split.index.tolist() == list(range(40))


def test_batch_is_float_in_the_unit_interval_and_keeps_the_stored_images():
    split = make_split()
    x, y, index = split.batch(torch.tensor([3, 1]))
    assert x.dtype == torch.float32
    assert torch.equal(x, split.images[[3, 1]].float() / 255)
    assert (y.tolist(), index.tolist()) == ([3, 1], [3, 1])
    x.zero_()
    assert split.images[3].any()


def test_index_follows_take_limit_and_masks():
    split = make_split().take([7, 30, 2, 9])
    assert split.index.tolist() == [7, 30, 2, 9]
    assert split.take(split.labels == 3).index.tolist() == [7]  # a mask, not rows 0 and 1
    assert split.take(slice(1, 3)).index.tolist() == [30, 2]
    limited = make_split().limit(10, seed=3)
    assert torch.equal(limited.images, make_split().images[limited.index])
    assert limited.index.tolist() == sorted(limited.index.tolist())


@pytest.mark.parametrize(
    "rows", [[0.5], [2.0], ["1"], [None], [40], [-41], 3, [[0]], [True], [float("nan")], [2**63], [1j]]
)
def test_rows_that_are_no_positions_are_refused(rows):
    with pytest.raises(DataError, match=r"whole numbers from -40 to 39"):
        make_split().take(rows)


def test_limit_keeps_the_classes_in_proportion_and_is_fixed_by_its_seed():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    split = make_split(100, 3, labels=labels)
    for n in (1, 7, 10, 50, 99):
        counts = torch.bincount(split.limit(n).labels, minlength=3) / n
        assert int((split.limit(n).labels >= 0).sum()) == n
        assert torch.all((counts - torch.tensor([0.6, 0.3, 0.1])).abs() * n <= 1)
    assert split.limit(10, seed=1).hash == split.limit(10, seed=1).hash != split.limit(10, seed=2).hash
    assert split.limit(1000) is split
    with pytest.raises(ConfigError, match="at least 1"):
        split.limit(0)


def test_hash_sees_images_labels_and_index():
    split = make_split()
    changed = split.images.clone()
    changed[5, 0, 0, 0] ^= 1
    hashes = {
        split.hash,
        make_split(images=changed).hash,
        make_split(labels=split.labels.flip(0)).hash,
        make_split(index=torch.arange(40) + 1).hash,
    }
    assert len(hashes) == 4
    assert make_split().hash == split.hash


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": torch.rand(40, 3, 5, 6) * 255}, "0-255"),
        ({"images": torch.randn(40, 3, 5, 6)}, "normalised"),
        ({"images": torch.rand(40, 3, 5, 6) + 0.5}, "clip or rescale"),
        ({"images": torch.rand(40, 3, 5, 6).index_fill(0, torch.tensor([4]), float("nan"))}, "NaN"),
        ({"images": torch.zeros(40, 3, 5, 6, dtype=torch.int32)}, "int32"),
        ({"images": torch.zeros(40, 5, 6)}, r"\(40, 5, 6\)"),
        ({"images": torch.zeros(39, 3, 5, 6)}, "39 images"),
        ({"images": torch.zeros(0, 3, 5, 6), "labels": torch.zeros(0, dtype=torch.int64)}, "empty"),
        ({"labels": torch.arange(40)}, r"0 \.\. 39"),
        ({"labels": torch.arange(40) % 4 - 1}, r"-1 \.\. 2"),
        ({"labels": torch.arange(40) / 40}, "float32"),
        ({"class_names": ("cat", "dog")}, "2"),
    ],
)
def test_split_refuses(changes, words):
    with pytest.raises(DataError, match=words):
        make_split(**changes)


# --- cut, load, digits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "n"), [(0.1, 10), (0.25, 25), (1, 1), (37, 37), (99, 99)])
def test_cut_parts_are_disjoint_stratified_and_whole(share, n):
    whole = make_split(100, 3, labels=torch.tensor([0] * 60 + [1] * 30 + [2] * 10))
    rest, held = data.cut(whole, share, seed=5)
    assert (len(held), held.part, rest.part) == (n, "val", "train")
    assert sorted([*rest.index.tolist(), *held.index.tolist()]) == list(range(100))
    assert torch.equal(held.images, whole.images[held.index])
    assert torch.equal(rest.labels, whole.labels[rest.index])
    counts = torch.bincount(held.labels, minlength=3)
    assert torch.all((counts - n * torch.tensor([0.6, 0.3, 0.1])).abs() <= 1)


@pytest.mark.parametrize("share", [0, -0.5, 40, 1000, 1.5, float("nan"), float("inf"), 1e-9])
def test_cut_refuses_shares_that_leave_nothing(share):
    with pytest.raises(ConfigError, match="a count from 1 to 39"):
        data.cut(make_split(), share, seed=0)


def test_digits():
    from sklearn.datasets import load_digits

    train, val, test = data.load("digits", val=0.2, seed=1)
    raw = load_digits()
    assert (len(train), len(val), len(test)) == (1078, 270, 449)
    for split, part in ((train, "train"), (val, "val"), (test, "test")):
        assert (split.part, split.classes, split.shape, split.marks) == (part, 10, (1, 8, 8), ())
        assert split.images.dtype == torch.float32
        assert torch.equal(split.images[:, 0], torch.tensor(raw.images[split.index] / 16, dtype=torch.float32))
        assert torch.equal(split.labels, torch.tensor(raw.target[split.index]))
        share = torch.bincount(split.labels) / len(split)
        assert torch.all((share - torch.from_numpy(np.bincount(raw.target) / 1797)).abs() < 0.01)
    assert len({*train.index.tolist(), *val.index.tolist(), *test.index.tolist()}) == 1797


def test_the_digits_are_read_without_an_import_of_scikit_learn(monkeypatch):
    whole = digits._arrays.__wrapped__()
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.datasets.load_digits", lambda: pytest.fail("imported"))
        digits._arrays.cache_clear()
        assert len(data.load("digits")[0]) == 1213
    elsewhere = type("Spec", (), {"submodule_search_locations": ["/nowhere"]})
    monkeypatch.setattr(digits, "find_spec", lambda name: elsewhere)
    for one, other in zip(whole, digits._arrays.__wrapped__(), strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_the_seed_moves_val_and_never_test():
    _, val0, test0 = data.load("digits", seed=0)
    _, val1, test1 = data.load("digits", seed=1)
    assert test0.hash == test1.hash == data.load_test("digits").hash
    assert val0.hash != val1.hash
    assert val0.hash == data.load("digits", seed=0)[1].hash
    # the split of every published figure on digits
    assert test0.index[:8].tolist() == [5, 9, 21, 22, 23, 24, 29, 38]


def test_a_run_can_reload_its_splits_from_their_source():
    splits = data.load("digits", val=50, seed=7, protocol="holdout")
    assert splits[0].source == {"name": "digits", "root": "data", "val": 50, "seed": 7, "protocol": "holdout"}
    assert describe(splits[0].source) == splits[0].source
    assert [s.hash for s in data.load(**splits[1].source)] == [s.hash for s in splits]
    assert data.load_test(**splits[0].source).source == splits[0].source


def test_paper_protocol_selects_on_test_and_says_so():
    train, val, test = data.load("digits", protocol="paper")
    assert len(train) == 1348
    assert (val.part, test.part) == ("val", "test")
    assert val.hash == test.hash
    marks = ("test set took part in selection",)
    assert train.marks == val.marks == test.marks == test.take([1]).marks == marks
    assert data.load_test("digits", protocol="paper").marks == marks


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    digits._arrays.cache_clear()  # of a test before
    with pytest.raises(DataError, match=r'pip install "ardor\[demo\]"'):
        data.load("digits")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cifar01", {}, 'did you mean "cifar10"'),
        ("CIFAR10", {}, 'did you mean "cifar10"'),
        ("photoz", {}, 'got "photoz", and there is no such folder$'),
        ("npz", {}, "npz:PATH"),
        ("npz:", {}, "npz:PATH"),
        ("digits", {"protocol": "papper"}, "for example 'paper'"),
        ("digits", {"sede": 1}, 'got "sede".*did you mean "seed"'),
        ("digits", {"layout": "nhwc"}, 'got "layout"'),
        ("npz:a.npz", {"lay_out": "nhwc"}, 'did you mean "layout"'),
        ("digits", {"val": 0}, "a count from 1 to"),
    ],
)
def test_load_refuses_names_and_options(name, options, words):
    with pytest.raises(ConfigError, match=words):
        data.load(name, **options)


# --- augmentation ---------------------------------------------------------------------------------------------------


def slow_view(image, view, padding):
    """One image at a time, as the paper says it: pad, cut, mirror."""
    _, height, width = image.shape
    offset, mirrored = divmod(view, 2)
    dy, dx = divmod(offset, 2 * padding + 1)
    cut = F.pad(torch.from_numpy(image), (padding,) * 4).numpy()[:, dy : dy + height, dx : dx + width]
    return cut[:, :, ::-1] if mirrored else cut


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 5),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.uint8]),
)
def test_crop_flip_is_the_slow_loop(shape, padding, flip, seed, dtype):
    x = (torch.from_numpy(np.random.default_rng(abs(seed)).random(shape)) * 200).to(dtype)
    out, view = augment.crop_flip(x, Noise(seed, torch.arange(shape[0])), padding, flip)
    assert (out.dtype, out.shape, view.dtype, view.shape) == (dtype, x.shape, torch.int64, shape[:1])
    assert int(view.min()) >= 0
    assert int(view.max()) < 2 * (2 * padding + 1) ** 2
    slow = np.stack([slow_view(image, v, padding) for image, v in zip(x.double().numpy(), view.tolist(), strict=True)])
    assert np.array_equal(out.double().numpy(), slow)
    assert torch.equal(augment.view_of(x, view, padding, flip), out)
    assert flip or not (view % 2).any()


def test_every_view_is_named_by_its_offsets_and_its_mirror():
    x = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    for dy in range(3):
        for dx in range(3):
            for mirrored in range(2):
                view = torch.tensor([(dy * 3 + dx) * 2 + mirrored])
                expected = F.pad(x, (1,) * 4)[:, :, dy : dy + 4, dx : dx + 4]
                assert torch.equal(augment.view_of(x, view, 1), expected.flip(3) if mirrored else expected)
                assert torch.equal(augment.view_of(x, view, 1, flip=False), expected)


def test_views_are_uniform_and_half_are_mirrored():
    n = 162 * 200
    _, view = augment.crop_flip(torch.zeros(n, 1, 1, 1), Noise(0, torch.arange(n), "view"))
    counts = torch.bincount(view, minlength=162).double()
    assert len(counts) == 162
    assert float(((counts - 200) ** 2 / 200).sum()) < 230  # chi squared with 161 degrees of freedom: p = 0.0003
    assert abs(float((view % 2).double().mean()) - 0.5) < 0.01


def test_an_images_view_ignores_its_batch_and_the_global_generator():
    x = torch.rand(16, 3, 8, 8)
    whole, view = augment.crop_flip(x, Noise(1, torch.arange(16), "view", epoch=3))
    rows = torch.tensor([5, 15, 0])
    part, part_view = augment.crop_flip(x[rows], Noise(1, rows, "view", epoch=3))
    assert torch.equal(part, whole[rows])
    assert torch.equal(part_view, view[rows])
    last, _ = augment.crop_flip(x.to(memory_format=torch.channels_last), Noise(1, torch.arange(16), "view", epoch=3))
    assert torch.equal(last, whole)
    assert not torch.equal(augment.crop_flip(x, Noise(1, torch.arange(16), "view", epoch=4))[1], view)


def test_the_result_is_fresh_memory():
    x = torch.rand(2, 1, 4, 4)
    kept = x.clone()
    augment.crop_flip(x, Noise(0, torch.arange(2)), padding=0, flip=False)[0].zero_()
    assert torch.equal(x, kept)


def test_global_generators_are_untouched(tmp_path):
    name = npz(tmp_path, arrays())
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for source in ("digits", name):
        train, _, _ = data.load(source)
        train.limit(5)
        x, _, index = train.batch(slice(0, 4))
        augment.crop_flip(x, Noise(0, index))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


# --- real images, where the machine has them ------------------------------------------------------------------------
real = pytest.mark.skipif(not (REAL / "packs.py").is_file(), reason="no real images beside the repository")


@real
@pytest.mark.parametrize(
    ("name", "shape"), [("cifar10", (3, 32, 32)), ("cifar100", (3, 32, 32)), ("mnist", (1, 28, 28))]
)
def test_real_npz(name, shape):
    train, val, test = data.load(f"npz:{REAL}/{name}_tiny.npz", val=100)
    assert (test.shape, len(val), test.classes) == (shape, 100, int(name[5:]) if name[5:].isdigit() else 10)
    assert torch.bincount(val.labels).tolist() == [100 // test.classes] * test.classes
    assert 0.05 < float(as_float(train.images).mean()) < 0.6


@real
def test_real_images_in_both_official_layouts(tmp_path):
    spec = importlib.util.spec_from_file_location("packs", REAL / "packs.py")
    packs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packs)
    pack = packs.load("cifar100", REAL)
    batches = {
        part: (pack[f"x_{part}"].transpose(0, 3, 1, 2).reshape(-1, 3072), pack[f"y_{part}"] // 5, pack[f"y_{part}"])
        for part in ("train", "test")
    }
    for layout, files in enumerate((binary_files, python_files)):
        (tmp_path / str(layout)).mkdir()
        put(tmp_path / str(layout), "cifar100", files("cifar100", batches), layout, "archive")
    binary, python = (data.load("cifar100", root=str(tmp_path / str(layout))) for layout in range(2))
    assert [s.hash for s in binary] == [s.hash for s in python]
    assert np.array_equal(binary[2].images.permute(0, 2, 3, 1).numpy(), pack["x_test"])
    assert (len(binary[0]), len(binary[2])) == (4500, 1000)


def test_load_with_a_limit_keeps_val_and_test_and_comes_again_from_its_source():
    whole, some = data.load("digits"), data.load("digits", limit=200)
    assert [part.hash for part in some[1:]] == [part.hash for part in whole[1:]]
    assert (len(some[0]), some[0].of) == (200, len(whole[0]))
    assert set(some[0].index.tolist()) < set(whole[0].index.tolist())
    assert not set(some[0].index.tolist()) & set(some[1].index.tolist())
    shares = [torch.bincount(part.labels, minlength=10) / len(part) for part in (some[0], whole[0])]
    assert torch.all((shares[0] - shares[1]).abs() * 200 <= 1)
    assert [part.hash for part in data.load(**some[0].source)] == [part.hash for part in some]
    assert some[0].source["limit"] == 200
    assert "limit" not in whole[0].source
    assert data.load("digits", limit=0)[0].hash == whole[0].hash == data.load("digits", limit=10_000)[0].hash
    assert data.load("digits", limit=200, seed=1)[0].hash != some[0].hash
    assert data.load_test(**some[0].source).hash == whole[2].hash
