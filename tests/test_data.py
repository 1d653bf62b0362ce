"""The data room: what is read is what was written, what is damaged is refused by name, what is cut stays apart."""

import functools
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import pickle
import random
import struct
import sys
import tarfile
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ardor import data
from ardor.config import describe
from ardor.data import archives, cifar
from ardor.data.split import Split, as_float
from ardor.errors import ConfigError, DataError
from ardor.noise import Noise

SHARED = Path(__file__).parents[2] / "shared" / "data"


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


def test_limit_keeps_the_classes_in_proportion_and_is_fixed_by_its_seed():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    split = make_split(100, 3, labels=labels)
    for n in (1, 7, 10, 50, 99):
        counts = torch.bincount(split.limit(n).labels, minlength=3) / n
        assert int((split.limit(n).labels >= 0).sum()) == n
        assert torch.all((counts - torch.tensor([0.6, 0.3, 0.1])).abs() * n <= 1)
    assert split.limit(10, seed=1).hash == split.limit(10, seed=1).hash != split.limit(10, seed=2).hash
    assert split.limit(1000) is split


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


def test_limit_refuses_nothing():
    with pytest.raises(ConfigError, match="at least 1"):
        make_split().limit(0)


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


def test_the_seed_moves_val_and_never_test():
    _, val0, test0 = data.load("digits", seed=0)
    _, val1, test1 = data.load("digits", seed=1)
    assert test0.hash == test1.hash == data.load_test("digits").hash
    assert val0.hash != val1.hash
    assert val0.hash == data.load("digits", seed=0)[1].hash
    assert test0.index[:8].tolist() == [
        5,
        9,
        21,
        22,
        23,
        24,
        29,
        38,
    ]  # the split that every published figure on digits stands on


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
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r'pip install "ardor\[demo\]"'):
        data.load("digits")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cifar01", {}, 'did you mean "cifar10"'),
        ("CIFAR10", {}, 'did you mean "cifar10"'),
        ("npz", {}, "npz:PATH"),
        ("npz:", {}, "npz:PATH"),
        ("digits", {"protocol": "papper"}, 'did you mean "paper"'),
        ("digits", {"sede": 1}, 'got "sede".*did you mean "seed"'),
        ("digits", {"layout": "nhwc"}, 'got "layout"'),
        ("npz:a.npz", {"lay_out": "nhwc"}, 'did you mean "layout"'),
        ("digits", {"val": 0}, "a count from 1 to"),
    ],
)
def test_load_refuses_names_and_options(name, options, words):
    with pytest.raises(ConfigError, match=words):
        data.load(name, **options)


# --- CIFAR in the official layouts ----------------------------------------------------------------------------------

NAMES = {"cifar10": [f"word{i}" for i in range(10)], "cifar100": [f"fine_{i}" for i in range(100)]}


def pixels_of(name, n=4, test=6):
    """{official file stem: (pixels, coarse labels, labels)}"""
    rng = np.random.default_rng(1)
    stems = [*archives.BATCHES, "test_batch"] if name == "cifar10" else ["train", "test"]
    top = int(name[5:])
    return {
        stem: (rng.integers(0, 256, (k, 3072), np.uint8), rng.integers(0, 20, k), rng.integers(0, top, k))
        for stem in stems
        for k in [test if stem.startswith("test") else n]
    }


def binary_files(name, batches):
    files = {}
    for stem, (pixels, coarse, labels) in batches.items():
        columns = [labels[:, None]] if name == "cifar10" else [coarse[:, None], labels[:, None]]
        files[f"{stem}.bin"] = np.hstack([*columns, pixels]).astype(np.uint8).tobytes()
    meta = "batches.meta.txt" if name == "cifar10" else "fine_label_names.txt"
    return files | {meta: "\n".join([*NAMES[name], "", ""]).encode()}


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote str, which is what the official archives hold."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_str(self, obj):
        self.write(pickle.BINSTRING + struct.pack("<i", len(obj)) + obj)
        self.memoize(obj)

    dispatch[bytes] = save_str


def python2(thing):
    out = io.BytesIO()
    Python2Pickler(out, protocol=2).dump(thing)
    return out.getvalue().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


def python_files(name, batches, dumps=python2):
    files = {}
    for stem, (pixels, coarse, labels) in batches.items():
        batch = {b"batch_label": b"of some", b"data": pixels, b"filenames": [b"x.png"] * len(labels)}
        if name == "cifar10":
            batch[b"labels"] = labels.tolist()
        else:
            batch |= {b"coarse_labels": coarse.tolist(), b"fine_labels": labels.tolist()}
        files[stem] = dumps(batch)
    words = [word.encode() for word in NAMES[name]]
    meta = ("batches.meta", b"label_names") if name == "cifar10" else ("meta", b"fine_label_names")
    return files | {meta[0]: dumps({meta[1]: words})}


def write_folder(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)


def tar_bytes(folder, files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for file, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{file}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def put(root, name, files, layout, form):
    archive = archives.ARCHIVES[name][layout]
    if form == "archive":
        (root / archive.file).write_bytes(tar_bytes(archive.folder, files))
    else:
        write_folder(root if form == "root" else root / archive.folder, files)


@pytest.mark.parametrize("form", ["folder", "root", "archive"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_in_every_official_form_is_what_was_written(tmp_path, name, layout, form):
    batches = pixels_of(name)
    put(tmp_path, name, [binary_files, python_files][layout](name, batches), layout, form)
    train, val, test = data.load(name, root=str(tmp_path), val=3)
    first = [batch for stem, batch in batches.items() if not stem.startswith("test")]
    pixels = torch.from_numpy(np.concatenate([b[0] for b in first])).reshape(-1, 3, 32, 32)
    labels = torch.from_numpy(np.concatenate([b[2] for b in first]))
    for split in (train, val):
        assert split.images.dtype == torch.uint8
        assert torch.equal(split.images, pixels[split.index])
        assert torch.equal(split.labels, labels[split.index])
    assert sorted([*train.index.tolist(), *val.index.tolist()]) == list(range(len(labels)))
    last = batches["test_batch" if name == "cifar10" else "test"]
    assert torch.equal(test.images.flatten(1), torch.from_numpy(last[0]))
    assert torch.equal(test.labels, torch.from_numpy(last[2]))
    assert test.index.tolist() == list(range(6))
    assert test.class_names == tuple(NAMES[name])
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    data.load_test(name, root=str(tmp_path))
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}  # nothing is unpacked to disk


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_python_3_read_too(tmp_path, protocol):
    dumps = functools.partial(pickle.dumps, protocol=protocol)
    batches = pixels_of("cifar10")
    put(tmp_path, "cifar10", python_files("cifar10", batches, dumps), 1, "folder")
    assert torch.equal(
        data.load_test("cifar10", root=str(tmp_path)).images.flatten(1), torch.from_numpy(batches["test_batch"][0])
    )


def test_cifar_without_its_names_numbers_the_classes(tmp_path):
    files = binary_files("cifar10", pixels_of("cifar10"))
    del files["batches.meta.txt"]
    put(tmp_path, "cifar10", files, 0, "folder")
    assert data.load_test("cifar10", root=str(tmp_path)).class_names == tuple("0123456789")


class Bomb:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_bomb_is_refused_before_it_runs(tmp_path, protocol):
    mark = tmp_path / "mark"
    for bomb in (Bomb(os.mkdir, str(mark)), Bomb(eval, f"open({str(mark)!r}, 'w')"), Bomb(np.save, str(mark), 1)):
        files = python_files("cifar10", pixels_of("cifar10"))
        files["data_batch_3"] = pickle.dumps({b"data": bomb, b"labels": []}, protocol=protocol)
        put(tmp_path, "cifar10", files, 1, "folder")
        with pytest.raises(DataError, match=r"data_batch_3.*asks for .*nothing was run"):
            data.load("cifar10", root=str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["cifar-10-batches-py"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        python2([1, 2]),
        python2({b"data": np.zeros((2, 3072), np.uint8)}),
        python2({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}),
        python2({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10**30]}),
        python2({b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]}),
        python2({b"data": np.zeros((2, 100), np.uint8), b"labels": [1, 2]}),
        python2({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]})[:-900],
        python2({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 12]}),
    ],
)
def test_foreign_pickles_are_refused_by_name(tmp_path, content):
    files = python_files("cifar10", pixels_of("cifar10")) | {"test_batch": content}
    put(tmp_path, "cifar10", files, 1, "folder")
    with pytest.raises(DataError, match="test"):
        data.load("cifar10", root=str(tmp_path))


def test_a_pickle_cannot_name_a_codec(tmp_path):
    files = python_files("cifar10", pixels_of("cifar10"))
    files["test_batch"] = b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zipt\x52."
    put(tmp_path, "cifar10", files, 1, "folder")
    with pytest.raises(DataError, match=r"test_batch.*codec zip"):
        data.load("cifar10", root=str(tmp_path))


@pytest.mark.parametrize(("size", "words"), [(3073 * 4 - 1, r"data_batch_2\.bin.*12,291 bytes"), (0, "got 0 bytes")])
def test_a_truncated_record_file_is_refused_with_its_size(tmp_path, size, words):
    files = binary_files("cifar10", pixels_of("cifar10"))
    files["data_batch_2.bin"] = files["data_batch_2.bin"][:size]
    for form in ("folder", "archive"):
        folder = tmp_path / form
        folder.mkdir()
        put(folder, "cifar10", files, 0, form)
        with pytest.raises(DataError, match=words):
            data.load("cifar10", root=str(folder))


def test_the_official_set_must_have_every_image(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "TRAIN", 20)  # the official number, so that 5 files of 4 are the real thing
    monkeypatch.setattr(cifar, "TEST", 6)
    files = binary_files("cifar10", pixels_of("cifar10"))
    put(tmp_path, "cifar10", files, 0, "folder")
    data.load("cifar10", root=str(tmp_path))
    put(tmp_path, "cifar10", files | {"test_batch.bin": files["test_batch.bin"][: 3073 * 5]}, 0, "folder")
    with pytest.raises(DataError, match=r"expected 6 images in .*test_batch\.bin, got 5 \(15,365 bytes\)"):
        data.load("cifar10", root=str(tmp_path))
    assert (archives.TRAIN, archives.TEST) == (50_000, 10_000)


def test_labels_out_of_range_are_refused(tmp_path):
    batches = pixels_of("cifar10")
    batches["test_batch"][2][0] = 10
    put(tmp_path, "cifar10", binary_files("cifar10", batches), 0, "folder")
    with pytest.raises(DataError, match=r"0 \.\. 9"):
        data.load("cifar10", root=str(tmp_path))


@pytest.mark.parametrize("layout", [0, 1])
def test_a_missing_file_is_named(tmp_path, layout):
    files = [binary_files, python_files][layout]("cifar10", pixels_of("cifar10"))
    gone = [file for file in files if "batch_4" in file]
    del files[gone[0]]
    put(tmp_path, "cifar10", files, layout, "archive")
    with pytest.raises(DataError, match=f"expected {gone[0]} in .*tar.gz"):
        data.load("cifar10", root=str(tmp_path))


def damaged(archive, how):
    if how == "cut":
        return archive[: len(archive) // 2]
    if how == "last bytes cut":
        return archive[:-6]
    if how == "bad checksum":
        return archive[:-8] + bytes([archive[-8] ^ 1]) + archive[-7:]
    if how == "not a tar":
        return gzip.compress(b"hello" * 1000)
    return {"html": b"<!DOCTYPE html><html>moved</html>", "empty": b""}[how]


@pytest.mark.parametrize("how", ["cut", "last bytes cut", "bad checksum", "not a tar", "html", "empty"])
def test_a_damaged_archive_is_refused_by_name(tmp_path, how):
    archive = tar_bytes("cifar-10-batches-bin", binary_files("cifar10", pixels_of("cifar10")))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(damaged(archive, how))
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz"):
        data.load("cifar10", root=str(tmp_path))


def test_an_archive_of_something_else_is_refused(tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(tar_bytes("other", {"readme": b"hello"}))
    with pytest.raises(DataError, match="none of its files"):
        data.load("cifar10", root=str(tmp_path))


def test_absent_data_names_the_places_and_both_ways_out(tmp_path):
    with pytest.raises(DataError) as caught:
        data.load("cifar100", root=str(tmp_path / "nowhere"))
    for words in (
        "cifar-100-binary,",
        "cifar-100-python.tar.gz",
        "--data.download true",
        "put cifar-100-binary.tar.gz from https://",
    ):
        assert words in str(caught.value)


# --- download -------------------------------------------------------------------------------------------------------


@pytest.fixture
def serve(monkeypatch):
    """serve(body, ...) answers every request with it from 127.0.0.1, which becomes the official address."""
    servers = []

    def start(body, kind="application/x-gzip", status=200, promise=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(promise or len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        asked = []
        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(cifar, "URL", f"http://127.0.0.1:{server.server_port}/kriz/")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def official(monkeypatch):
    """A small archive that is the official one, by its md5."""
    content = tar_bytes("cifar-10-batches-bin", binary_files("cifar10", pixels_of("cifar10")))
    binary, python = archives.ARCHIVES["cifar10"]
    mine = archives.Archive(**{**vars(binary), "md5": hashlib.md5(content).hexdigest()})
    monkeypatch.setitem(archives.ARCHIVES, "cifar10", (mine, python))
    return content


def test_download_puts_the_archive_in_place_and_asks_once(tmp_path, serve, official):
    asked = serve(official)
    root = tmp_path / "new" / "folder"
    first = data.load_test("cifar10", root=str(root), download=True)
    assert data.load_test("cifar10", root=str(root), download=True).hash == first.hash
    assert asked == ["/kriz/cifar-10-binary.tar.gz"]
    assert [p.name for p in root.iterdir()] == ["cifar-10-binary.tar.gz"]
    assert (root / "cifar-10-binary.tar.gz").read_bytes() == official
    assert "download" not in first.source


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            {"body": b"<html>log in to this network</html>", "kind": "text/html; charset=utf-8"},
            "an HTML page",
        ),
        ({"body": b"another file"}, "a file of 12 bytes and md5"),
        ({"body": b"not found", "status": 404}, "404"),
        ({"body": b"x" * 5000, "promise": 90000}, "5,000 of 90,000 bytes"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(tmp_path, serve, official, answer, words):
    serve(**answer)
    with pytest.raises(DataError, match=words) as caught:
        data.load("cifar10", root=str(tmp_path), download=True)
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
    for said in (cifar.URL, "by hand", str(tmp_path / "cifar-10-binary.tar.gz")):
        assert said in str(caught.value)


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "URL", "http://127.0.0.1:9/")
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9.*by hand"):
        data.load("cifar10", root=str(tmp_path), download=True)
    assert list(tmp_path.iterdir()) == []


def test_the_official_addresses_are_pinned():
    assert cifar.URL == "https://www.cs.toronto.edu/~kriz/"
    assert {a.file: a.md5 for pair in archives.ARCHIVES.values() for a in pair} == {
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    }


# --- npz ------------------------------------------------------------------------------------------------------------


def arrays(n=20, test=10, shape=(6, 7, 3), dtype=np.uint8):
    rng = np.random.default_rng(2)
    made = {}
    for part, k in (("train", n), ("test", test)):
        x = rng.integers(0, 256, (k, *shape), np.uint8)
        made[f"x_{part}"] = x if dtype == np.uint8 else (x / 255).astype(dtype)
        made[f"y_{part}"] = np.arange(k) % 5
    return made


def npz(tmp_path, content):
    np.savez(tmp_path / "made.npz", **content)
    return f"npz:{tmp_path}/made.npz"


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
    with pytest.raises(DataError, match=r"both axis 1 and axis 3.*--data\.layout nhwc\|nchw"):
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


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_every_8_bit_mode_becomes_rgb(tmp_path, mode):
    assert data.load_test(write_images(tmp_path, mode=mode)).shape == (3, 6, 5)


@pytest.mark.parametrize("suffix", ["PNG", "jpg", "jpeg", "webp", "bmp"])
def test_every_format(tmp_path, suffix):
    name = write_images(tmp_path, parts=["test"], n=1)
    Image.new("RGB", (5, 6), (10, 200, 30)).save(tmp_path / "test" / "cat" / f"a.{suffix}")
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


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (add_wide_image, r"wide\.png.*--data\.size 5"),
        (cut_image, r"dog.3\.png, which does not read"),
        (deep_image, r"deep\.png.*more than 8 bits"),
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
    out, view = data.crop_flip(x, Noise(seed, torch.arange(shape[0])), padding, flip)
    assert (out.dtype, out.shape, view.dtype, view.shape) == (dtype, x.shape, torch.int64, shape[:1])
    assert int(view.min()) >= 0
    assert int(view.max()) < 2 * (2 * padding + 1) ** 2
    slow = np.stack([slow_view(image, v, padding) for image, v in zip(x.double().numpy(), view.tolist(), strict=True)])
    assert np.array_equal(out.double().numpy(), slow)
    assert torch.equal(data.view_of(x, view, padding, flip), out)
    assert flip or not (view % 2).any()


def test_every_view_is_named_by_its_offsets_and_its_mirror():
    x = torch.arange(1.0, 17).reshape(1, 1, 4, 4)
    for dy in range(3):
        for dx in range(3):
            for mirrored in range(2):
                view = torch.tensor([(dy * 3 + dx) * 2 + mirrored])
                expected = F.pad(x, (1,) * 4)[:, :, dy : dy + 4, dx : dx + 4]
                assert torch.equal(data.view_of(x, view, 1), expected.flip(3) if mirrored else expected)
                assert torch.equal(data.view_of(x, view, 1, flip=False), expected)


def test_views_are_uniform_and_half_are_mirrored():
    n = 162 * 200
    _, view = data.crop_flip(torch.zeros(n, 1, 1, 1), Noise(0, torch.arange(n), "view"))
    counts = torch.bincount(view, minlength=162).double()
    assert len(counts) == 162
    assert float(((counts - 200) ** 2 / 200).sum()) < 230  # chi squared with 161 degrees of freedom: p = 0.0003
    assert abs(float((view % 2).double().mean()) - 0.5) < 0.01


def test_an_images_view_ignores_its_batch_and_the_global_generator():
    x = torch.rand(16, 3, 8, 8)
    whole, view = data.crop_flip(x, Noise(1, torch.arange(16), "view", epoch=3))
    rows = torch.tensor([5, 15, 0])
    part, part_view = data.crop_flip(x[rows], Noise(1, rows, "view", epoch=3))
    assert torch.equal(part, whole[rows])
    assert torch.equal(part_view, view[rows])
    last, _ = data.crop_flip(x.to(memory_format=torch.channels_last), Noise(1, torch.arange(16), "view", epoch=3))
    assert torch.equal(last, whole)
    assert not torch.equal(data.crop_flip(x, Noise(1, torch.arange(16), "view", epoch=4))[1], view)


def test_the_result_is_fresh_memory():
    x = torch.rand(2, 1, 4, 4)
    kept = x.clone()
    data.crop_flip(x, Noise(0, torch.arange(2)), padding=0, flip=False)[0].zero_()
    assert torch.equal(x, kept)


def test_global_generators_are_untouched(tmp_path):
    name = npz(tmp_path, arrays())
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for source in ("digits", name):
        train, _, _ = data.load(source)
        train.limit(5)
        x, _, index = train.batch(slice(0, 4))
        data.crop_flip(x, Noise(0, index))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


def test_public_names():
    assert data.__all__ == sorted(data.__all__)
    assert all(hasattr(data, name) for name in data.__all__)
    assert torch.equal(as_float(torch.tensor([0, 255], dtype=torch.uint8)), torch.tensor([0.0, 1.0]))


# --- real images, where the machine has them ------------------------------------------------------------------------

real = pytest.mark.skipif(not (SHARED / "packs.py").is_file(), reason="no real images beside the repository")


@real
@pytest.mark.parametrize(
    ("name", "shape"), [("cifar10", (3, 32, 32)), ("cifar100", (3, 32, 32)), ("mnist", (1, 28, 28))]
)
def test_real_npz(name, shape):
    train, val, test = data.load(f"npz:{SHARED}/{name}_tiny.npz", val=100)
    assert (test.shape, len(val), test.classes) == (shape, 100, int(name[5:]) if name[5:].isdigit() else 10)
    assert torch.bincount(val.labels).tolist() == [100 // test.classes] * test.classes
    assert 0.05 < float(as_float(train.images).mean()) < 0.6


@real
def test_real_images_in_both_official_layouts(tmp_path):
    spec = importlib.util.spec_from_file_location("packs", SHARED / "packs.py")
    packs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packs)
    pack = packs.load("cifar100", SHARED)
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
