"""Files of images, for the tests of the data room."""

import io
import pickle
import struct
import tarfile
from typing import ClassVar

import numpy as np

from ardor.data import archives

NAMES = {"cifar10": [f"word{i}" for i in range(10)], "cifar100": [f"fine_{i}" for i in range(100)]}


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


class Bomb:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


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
