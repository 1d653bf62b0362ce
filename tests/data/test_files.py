"""Images in npz files, in folders and from a user's own function."""

import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ardor import data
from ardor.errors import ConfigError, DataError
from tests.conftest import ROOT, splits
from tests.data.conftest import Bomb, arrays, npz


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW", "NHWC1", "NCHW1"])
def test_npz_layouts(tmp_path, dtype, layout):
    shape = {"NHW": (6, 7), "NHWC": (6, 7, 3), "NCHW": (3, 6, 7), "NHWC1": (6, 7, 1), "NCHW1": (1, 6, 7)}[layout]
    made = arrays(shape=shape, dtype=dtype)
    train, val, test = data.load(npz(tmp_path, made), val=5)
    x = made["x_train"]
    x = x[:, None] if layout == "NHW" else np.moveaxis(x, 3, 1) if layout.startswith("NHWC") else x
    expected = torch.from_numpy(x.astype(np.uint8 if dtype == np.uint8 else np.float32))
    for split in (train, val):
        assert split.images.dtype == expected.dtype
        assert torch.equal(split.images, expected[split.index])
        assert torch.equal(split.labels, split.index % 5)
    assert (len(train), len(val), len(test), test.classes) == (15, 5, 10, 5)


def test_npz_with_its_own_val_and_names(tmp_path):
    made = arrays() | {"x_val": np.zeros((3, 6, 7, 3), np.uint8), "y_val": np.array([[0], [1], [2]], np.uint8)}
    made["class_names"] = np.array(["a", "b", "c", "d", "e", "f"])
    train, val, test = data.load(npz(tmp_path, made))
    assert (len(train), len(val), val.labels.tolist()) == (20, 3, [0, 1, 2])
    assert test.class_names == train.class_names == tuple("abcdef")
    assert data.load(npz(tmp_path, made), protocol="paper")[1].hash == test.hash


@pytest.mark.parametrize("keys", [("x", "y"), ("x_test", "y_test")])
def test_npz_for_evaluation_only(tmp_path, keys):
    made = arrays()
    name = npz(tmp_path, dict(zip(keys, (made["x_test"], made["y_test"]), strict=True)))
    test = data.load_test(name, classes=7)
    assert (len(test), test.classes, test.part, test.source["classes"]) == (10, 7, "test", 7)
    assert data.load_test(**test.source).hash == test.hash
    with pytest.raises(DataError, match="load_test"):
        data.load(name)


@pytest.mark.parametrize("shape", [(3, 7, 3), (1, 7, 3), (3, 7, 1)])
def test_an_ambiguous_layout_is_asked_for(tmp_path, shape):
    made = arrays(shape=shape)
    name = npz(tmp_path, made)
    with pytest.raises(DataError, match=r"both axis 1 and axis 3.*layout=.nhwc"):
        data.load(name)
    assert data.load_test(name, layout="nchw").shape == shape
    assert data.load_test(name, layout="nhwc").shape == (shape[2], *shape[:2])


def test_many_channels_need_a_layout(tmp_path):
    name = npz(tmp_path, arrays(shape=(6, 7, 4)))
    with pytest.raises(DataError, match="neither axis 1 nor axis 3"):
        data.load(name)
    assert data.load_test(name, layout="nhwc").shape == (4, 6, 7)
    with pytest.raises(ConfigError, match="hwcn"):
        data.load(name, layout="hwcn")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_test": np.full((10, 6, 7, 3), 200.0)}, "0-255"),
        ({"x_test": np.full((10, 6, 7, 3), -1.5)}, "normalised"),
        ({"x_test": np.full((10, 6, 7, 3), np.nan)}, "NaN"),
        ({"x_test": np.zeros((10, 6, 7, 3), np.int64)}, "int64"),
        ({"x_test": np.zeros((10, 42), np.uint8)}, r"\(10, 42\)"),
        ({"x_test": np.zeros((10, 8, 8, 3), np.uint8)}, r"test: \(3, 8, 8\)"),
        ({"x_test": np.zeros((0, 6, 7, 3), np.uint8), "y_test": np.zeros(0, int)}, "empty"),
        ({"x_test": np.zeros((9, 6, 7, 3), np.uint8)}, "9 images, 10 labels"),
        ({"y_test": np.arange(10) - 1}, r"-1 \.\. 8"),
        ({"y_test": np.arange(10) / 2}, "float64"),
        ({"y_test": np.eye(10, dtype=int)}, "argmax"),
        ({"y_test": np.arange(10) + 10**9}, "not identifiers"),
        ({"y_test": np.array([None] * 10)}, "object arrays"),
        ({"x_test": np.array([Bomb(os.mkdir, "/nowhere/at/all")] * 10)}, "object arrays"),
        ({"class_names": np.array(["a", "b"])}, r"0 \.\. 1"),
    ],
)
def test_npz_refuses(tmp_path, changes, words):
    with pytest.raises(DataError, match=words):
        data.load(npz(tmp_path, arrays() | changes))


def test_a_bomb_in_an_npz_is_not_run(tmp_path):
    mark = tmp_path / "mark"
    name = npz(tmp_path, arrays() | {"notes": np.array([Bomb(os.mkdir, str(mark))])})
    with pytest.raises(DataError, match="without object arrays"):
        data.load(name)
    assert not mark.exists()


def test_labels_beyond_the_classes_option(tmp_path):
    with pytest.raises(DataError, match=r"0 \.\. 2"):
        data.load(npz(tmp_path, arrays()), classes=3)


def test_missing_arrays_are_named(tmp_path):
    made = arrays()
    del made["y_test"]
    with pytest.raises(DataError, match="add y_test"):
        data.load(npz(tmp_path, made))
    with pytest.raises(DataError, match="add x_test, y_test"):
        data.load(npz(tmp_path, {"images": made["x_train"]}))


@pytest.mark.parametrize("how", ["cut", "text", "pickle", "npy", "flip", "empty"])
def test_a_damaged_npz_is_refused_by_name(tmp_path, how):
    name = npz(tmp_path, arrays())
    path = tmp_path / "made.npz"
    whole = path.read_bytes()
    npy = io.BytesIO()
    np.save(npy, arrays()["x_train"])
    at = len(whole) // 3
    flipped = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
    path.write_bytes(
        {
            "cut": whole[: len(whole) // 2],
            "text": b"hello",
            "pickle": pickle.dumps(Bomb(os.mkdir, str(tmp_path / "mark"))),
            "npy": npy.getvalue(),
            "flip": flipped,
            "empty": b"",
        }[how]
    )
    with pytest.raises(DataError, match=r"made\.npz"):
        data.load(name)
    assert [p.name for p in tmp_path.iterdir()] == ["made.npz"]


def test_an_absent_npz(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz, which is not there"):
        data.load(f"npz:{tmp_path}/none.npz")


# --- folder ---------------------------------------------------------------------------------------------------------


def write_images(root, parts=("train", "test"), classes=("cat", "dog"), n=4, size=(6, 5), mode="RGB"):
    rng = np.random.default_rng(3)
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, (*size, 3), np.uint8)
                Image.fromarray(pixels).convert(mode).save(root / part / name / f"{i}.png")
    return f"folder:{root}"


def test_folder_is_read_by_class_and_name(tmp_path):
    name = write_images(tmp_path, parts=("train", "val", "test"))
    (tmp_path / "train" / "notes.txt").write_text("not a class")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".cache").mkdir()
    for hidden in ("._0.png", ".hidden.png"):
        (tmp_path / "train" / "cat" / hidden).write_bytes(b"\0\5\x16\7")
    train, val, test = data.load(name)
    assert (len(train), len(val), len(test)) == (8, 8, 8)
    assert (train.class_names, train.labels.tolist(), train.shape) == (("cat", "dog"), [0] * 4 + [1] * 4, (3, 6, 5))
    pixels = np.asarray(Image.open(tmp_path / "test" / "dog" / "2.png"))
    assert np.array_equal(test.images[6].permute(1, 2, 0).numpy(), pixels)
    assert test.index.tolist() == list(range(8))


def test_folder_without_val_has_one_cut(tmp_path):
    train, val, _ = data.load(write_images(tmp_path), val=0.25)
    assert sorted([*train.index.tolist(), *val.index.tolist()]) == list(range(8))
    assert val.labels.tolist() == [0, 1]


def test_folder_grey_and_size(tmp_path):
    name = write_images(tmp_path)
    grey = data.load_test(name, grey=True)
    expected = np.asarray(Image.open(tmp_path / "test" / "cat" / "0.png").convert("L"))
    assert np.array_equal(grey.images[0, 0].numpy(), expected)
    resized = data.load_test(name, size=4)
    assert (resized.shape, resized.source["size"]) == ((3, 4, 4), 4)
    with pytest.raises(ConfigError, match=r"data\.size"):
        data.load(name, size=0)


def test_class_folders_alone_are_divided_by_file_name(tmp_path):
    name = write_images(tmp_path / "a", parts=[""], n=10)
    (tmp_path / "a" / "dog" / "._3.png").write_text("not an image")
    train, val, test = data.load(name, val=0.25)
    assert (len(train), len(val), len(test), test.labels.tolist()) == (12, 4, 4, [0, 0, 1, 1])
    assert train.marks == test.marks == ("test is 20 % of one folder, by file name",)
    pixels = torch.cat([split.images for split in (train, val, test)]).flatten(1)
    assert len(pixels.unique(dim=0)) == 20, "no image is in two parts"
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert data.load_test(f"folder:{tmp_path}/b").hash == test.hash
    for file in sorted((tmp_path / "b" / "cat").iterdir())[1:]:
        file.unlink()
    with pytest.raises(DataError, match="at least 2 images in .*cat, one of them for the test, got 1"):
        data.load(f"folder:{tmp_path}/b")


def test_the_rest_of_a_cut_may_take_the_memory_of_the_whole():
    whole = splits(n=600, val=1)[0]
    kept, held = data.cut(whole, 0.3, 1)
    copy = replace(whole, images=whole.images.clone())
    rest, out = data.cut(copy, 0.3, 1, reuse=True)
    assert (rest.hash, out.hash) == (kept.hash, held.hash)
    assert rest.images.data_ptr() == copy.images.data_ptr()


MEASURED = """
import pathlib, re, sys
from ardor import data
data.load(sys.argv[1], val=1)
pathlib.Path("/proc/self/clear_refs").write_text("5")
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
before = peak()
splits = data.load(sys.argv[2])
print((peak() - before) / sum(split.images.numel() for split in splits))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_files_take_little_more_memory_than_their_pixels(tmp_path):
    write_images(tmp_path, n=2)
    file = tmp_path / "image.jpg"
    Image.new("RGB", (224, 224), (200, 90, 3)).save(file)
    for part, n in (("train", 1600), ("test", 160)):  # 265 MB, beside which threads and libraries, 20 to 30, are few
        (tmp_path / "large" / part / "cat").mkdir(parents=True)
        for i in range(n):
            (tmp_path / "large" / part / "cat" / f"{i}.jpg").hardlink_to(file)
    names = [f"folder:{tmp_path}", f"folder:{tmp_path}/large"]
    words = [sys.executable, "-c", MEASURED, *names]
    result = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    assert float(result.stdout) < 1.3


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_every_8_bit_mode_becomes_rgb(tmp_path, mode):
    assert data.load_test(write_images(tmp_path, mode=mode)).shape == (3, 6, 5)


@pytest.mark.parametrize(
    ("suffix", "mode"), [*((suffix, "RGB") for suffix in ("PNG", "jpg", "jpeg", "webp", "bmp")), ("jpg", "CMYK")]
)
def test_every_format(tmp_path, suffix, mode):
    name = write_images(tmp_path, parts=["test"], n=1)
    Image.new("RGB", (5, 6), (10, 200, 30)).convert(mode).save(tmp_path / "test" / "cat" / f"a.{suffix}")
    image = data.load_test(name).images[1]
    assert (image.float().mean((1, 2)) - torch.tensor([10.0, 200.0, 30.0])).abs().max() < 4


def test_folder_for_evaluation_only(tmp_path):
    name = write_images(tmp_path, parts=["test"])
    assert len(data.load_test(name)) == 8
    with pytest.raises(DataError, match="load_test"):
        data.load(name)


def add_wide_image(root):
    Image.new("RGB", (9, 9)).save(root / "train" / "dog" / "wide.png")


def cut_image(root):
    file = root / "train" / "dog" / "3.png"
    file.write_bytes(file.read_bytes()[:60])


def deep_image(root):
    Image.fromarray(np.full((6, 5), 40000, np.uint16)).save(root / "train" / "dog" / "deep.png")


def deep_colours(root):
    """A PNG of 16 bits a channel, which Pillow cannot write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header, rows = struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0), zlib.compress((b"\0" + b"ab" * 15) * 6)
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    )
    (root / "train" / "dog" / "deep.png").write_bytes(content)


def animation(root):
    first, second = (Image.new("RGB", (5, 6), colour) for colour in ("red", "blue"))
    first.save(root / "train" / "dog" / "moving.png", save_all=True, append_images=[second])


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (add_wide_image, r"wide\.png.*size=5"),
        (cut_image, r"dog.3\.png, which does not read"),
        (deep_image, r"deep\.png.*more than 8 bits"),
        (deep_colours, r"deep\.png.*mode RGB has more than 8 bits"),
        (animation, r"moving\.png.*an animation of 2 images"),
        (lambda root: (root / "train" / "dog" / "x.jpg").touch(), r"x\.jpg, which does not read"),
        (lambda root: (root / "train" / "dog" / "x.jpg").write_text("hello"), r"x\.jpg, which does not read"),
        (lambda root: (root / "test" / "cat").rename(root / "test" / "cta"), "cat, cta in one of them only"),
        (lambda root: (root / "train" / "emu").mkdir(), "emu in one of them only"),
        (lambda root: [(root / p / "emu").mkdir() for p in ("train", "test")], "emu, got none"),
        (lambda root: (root / "test").rename(root / "tset"), "got train, tset"),
    ],
)
def test_folder_refuses(tmp_path, harm, words):
    name = write_images(tmp_path)
    harm(tmp_path)
    with pytest.raises(DataError, match=words):
        data.load(name)


def test_folder_of_parts_of_two_sizes(tmp_path):
    write_images(tmp_path, parts=["train"])
    with pytest.raises(DataError, match=r"train: \(3, 6, 5\).*test: \(3, 8, 8\)"):
        data.load(write_images(tmp_path, parts=["test"], size=(8, 8)))


def test_absent_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        data.load(f"folder:{tmp_path}/none")
    with pytest.raises(DataError, match="got nothing"):
        data.load(f"folder:{tmp_path}")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="one folder per class"):
        data.load(f"folder:{tmp_path}")


# --- a user's own ---------------------------------------------------------------------------------------------------
OWN = """
import numpy as np, torch
from ardor.data import Split

def arrays(n=8, bright=False):
    x = np.full((n, 4, 4), 255 if bright else 7, np.uint8)
    return x, np.arange(n) % 2, torch.from_numpy(x[:2]), torch.arange(2)

def splits(n):
    make = lambda part: Split(torch.zeros(n, 1, 4, 4), torch.arange(n) % 2, 2, "own", part, marks=("a mark",))
    return make("train"), make("a"), make("b")

def anything(**options):
    return arrays()

def broken(): raise RuntimeError("its own")
def wrong(): return 1, 2
number = 3
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path}/own.py"


def test_a_users_arrays_and_splits(own):
    train, val, test = data.load(f"{own}:arrays", val=2, n=12, bright=True)
    assert (len(train), len(val), len(test), int(test.images.max())) == (10, 2, 2, 255)
    assert [s.hash for s in data.load(**train.source)] == [s.hash for s in (train, val, test)]
    train, val, test = data.load(f"{own}:splits", n=6)
    assert (len(train), len(val), val.part, test.part) == (6, 6, "val", "test")
    assert train.marks == val.marks == test.marks == ("a mark",)
    assert data.load(f"{own}:splits", n=6, protocol="paper")[0].marks == ("a mark", "test set took part in selection")
    assert len(data.load_test(f"{own}:anything", whatever=1)) == 2


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("arrays", {"brigth": True}, ConfigError, 'did you mean "bright"'),
        ("splits", {}, ConfigError, "missing a required argument: 'n'"),
        ("number", {}, ConfigError, "to be a function, got int"),
        ("wrong", {}, DataError, "got int, int"),
        ("broken", {}, RuntimeError, "its own"),
        ("nothing", {}, ConfigError, "nothing"),
    ],
)
def test_a_users_function_that_does_not_fit(own, name, options, error, words):
    with pytest.raises(error, match=words):
        data.load(f"{own}:{name}", **options)


def test_readers_show_their_options(own):
    import inspect

    assert list(inspect.signature(data.reader(f"{own}:arrays")).parameters) == ["n", "bright"]
    assert list(inspect.signature(data.reader("npz:a.npz")).parameters)[3:] == ["layout", "classes"]
