"""CIFAR in its official layouts: what is read is what was written, and what is damaged is refused by name."""

import functools
import gzip
import hashlib
import http.server
import os
import pickle
import threading

import numpy as np
import pytest
import torch

from ardor import data
from ardor.data import archives, cifar
from ardor.errors import DataError
from tests.data.conftest import NAMES, Bomb, binary_files, put, python2, python_files, tar_bytes


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
        "download=True",
        "put cifar-100-binary.tar.gz from https://",
    ):
        assert words in str(caught.value)


# --- download -------------------------------------------------------------------------------------------------------


@pytest.fixture
def serve(monkeypatch):
    """serve(body, ...) answers every request with it from 127.0.0.1, which becomes the official address."""
    servers = []

    def start(body, status=200):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
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
        ({"body": b"another file"}, "a file of 12 bytes and md5"),
        ({"body": b"not found", "status": 404}, "404"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(tmp_path, serve, official, answer, words):
    serve(**answer)
    with pytest.raises(DataError, match=words) as caught:
        data.load("cifar10", root=str(tmp_path), download=True)
    assert not [p for p in tmp_path.iterdir() if not p.name.startswith(".")]
    for part in (cifar.URL, "by hand", str(tmp_path / "cifar-10-binary.tar.gz")):
        assert part in str(caught.value)


def test_the_official_addresses_are_pinned():
    assert cifar.URL == "https://www.cs.toronto.edu/~kriz/"
    assert {a.file: a.md5 for pair in archives.ARCHIVES.values() for a in pair} == {
        "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
        "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
        "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
        "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    }
