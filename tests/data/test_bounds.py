"""Data of few bytes that declare or unfold to much: refused in a sentence before memory is taken."""

import gzip
import io
import struct
import tarfile
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from ardor import data
from ardor.data import cifar
from ardor.data.folder import FolderImages
from ardor.errors import DataError

X, Y = np.zeros((8, 8, 8), np.uint8), np.arange(8) % 4


def npz(path, arrays, **declared):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=True)
            file.writestr(f"{name}.npy", stream.getvalue())
        for name, shape in declared.items():
            header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


def test_arrays_are_read_only_where_they_are_used(tmp_path):
    path = tmp_path / "d.npz"
    npz(path, {"x_test": X, "y_test": Y}, huge=(1 << 40,))
    assert len(data.load_test(f"npz:{path}")) == 8
    npz(path, {"y_test": Y}, x_test=(1 << 31, 8, 8))
    with pytest.raises(DataError, match=r"x_test\.npy declares"):
        data.load_test(f"npz:{path}")
    npz(path, {"x_test": np.array([{}] * 8, object), "y_test": Y})
    with pytest.raises(DataError, match="object"):
        data.load_test(f"npz:{path}")


def test_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 10)
    npz(tmp_path / "d.npz", {"x_test": X, "y_test": Y})
    with pytest.raises(DataError, match="this machine has 100"):
        data.load_test(f"npz:{tmp_path}/d.npz")
    (tmp_path / "f/test/a").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "f/test/a/0.png")
    assert isinstance(data.load_test(f"folder:{tmp_path}/f").images, FolderImages)  # decoded on demand
    with pytest.raises(DataError, match="memory of 100 bytes, got 192 of folder"):
        data.load_test(f"folder:{tmp_path}/f", on_demand=False)


@pytest.mark.parametrize("kind", ["member", "other member", "sparse", "header", "end"])
def test_archives_are_bounded(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(cifar, "MOST", 1 << 20)
    name = "cifar-10-batches-bin/" + ("other" if kind == "other member" else "data_batch_1.bin")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size = 0 if kind in ("header", "end") else 1 << 21
        if kind == "header":
            info.pax_headers = {"comment": "x" * (1 << 21)}
        if kind == "sparse":
            info.size = 0
            info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
        tar.addfile(info, io.BytesIO(b"\0" * (1 << 21)))
    content = stream.getvalue() + (b"\0" * (1 << 21) if kind == "end" else b"")
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz"):
        data.load("cifar10", root=str(tmp_path))


def test_an_image_of_many_pixels_is_refused(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    folder = tmp_path / "test" / "a"
    folder.mkdir(parents=True)
    head = struct.pack(">IIBBBBB", 13000, 13000, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    (folder / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    with warnings.catch_warnings(), pytest.raises(DataError, match="13000 x 13000 pixels"):
        warnings.simplefilter("error")  # Pillow's own warning does not come before the sentence
        data.load_test(f"folder:{tmp_path}", size=8)
