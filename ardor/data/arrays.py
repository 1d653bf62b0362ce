"""Arrays as splits: layouts recognised, labels checked; and `npz:PATH`, which is a file of such arrays."""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ardor.data.split import Split
from ardor.errors import ConfigError, DataError

Layout: TypeAlias = Literal["nhwc", "nchw"]

PARTS = ("train", "val", "test")
NAMES = ("x", "y", "class_names", *(f"{axis}_{part}" for axis in "xy" for part in PARTS))
"""The arrays of a file that are read."""
MOST_CLASSES = 65536


def read_npz(
    name: str, root: Path, download: bool, *, layout: Layout | None = None, classes: int | None = None
) -> dict[str, Split]:
    """`npz:PATH`: the arrays x_train, y_train, x_test, y_test; optional x_val, y_val and class_names.

    x_test, y_test alone (or named x, y) give a test part alone, for `load_test`. x: see `as_images`; y: integers (N,)
    or (N, 1). Other arrays are ignored. Nothing is unpickled.

    Parameters
    ----------
    name
        `npz:PATH`.
    root, download
        Without effect.
    layout
        Layout of x, nhwc or nchw; None recognises it.
    classes
        Number of classes; None is the number of class_names, else the largest label of all parts + 1.

    Raises
    ------
    DataError
        Where the file is absent, damaged or of another form.
    """
    arrays = unpack(Path(name.removeprefix("npz:")).expanduser())
    if "x" in arrays and "y" in arrays and "x_test" not in arrays:
        arrays["x_test"], arrays["y_test"] = arrays["x"], arrays["y"]
    return from_arrays(name, arrays, layout=layout, classes=classes)


def unpack(path: Path, names: Collection[str] = NAMES, large: str = "") -> dict[str, NDArray[Any]]:
    """The arrays of these names, others empty. An object array is a pickle, and is refused rather than run.

    large: the name of one that is left in the file, under a memory map, where the file is not compressed.
    """
    if not path.is_file():
        raise DataError(f"expected an npz file, got {path}, which is not there: check the path in npz:PATH")
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise DataError(f"expected named arrays in {path}, got one npy array: save with numpy.savez_compressed")
        with file:
            left = _mapped(path, large)
            _require_room(path, {*names} - {*left})
            arrays = {name: file[name] if name in names and name not in left else np.empty(0) for name in file.files}
            return arrays | left
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        reason = "no npz file, or pickled objects" if "allow_pickle" in str(error) else error  # which NumPy advises
        raise DataError(
            f"expected plain number arrays in a complete npz file, got {path} ({path.stat().st_size:,} bytes), which "
            f"cannot be read ({reason}): write it anew with numpy.savez_compressed, without object arrays"
        ) from error


def _mapped(path: Path, name: str) -> dict[str, NDArray[Any]]:
    """The array of this name under a private memory map; nothing where it is absent, compressed or of objects.

    It is read once, in parts, for the checksum that zipfile compares. Raises BadZipFile and ValueError.
    """
    with zipfile.ZipFile(path) as file:
        entry = file.NameToInfo.get(f"{name}.npy")
        if entry is None or entry.compress_type != zipfile.ZIP_STORED:
            return {}
        with file.open(entry) as array:
            shape, by_column, dtype = _header(array)
            start = array.tell()
            while array.read(1 << 20):
                pass
    if dtype.hasobject or not math.prod(shape):
        return {}
    with path.open("rb") as raw:  # of the local header alone: the directory may have another extra field
        raw.seek(entry.header_offset + 26)
        start += entry.header_offset + 30 + sum(struct.unpack("<HH", raw.read(4)))
    return {name: np.memmap(path, dtype, "c", start, shape, "F" if by_column else "C")}


def _header(array: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and type of an array at the start of its file."""
    version = np.lib.format.read_magic(array)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(array)
    return header


def physical_memory() -> int:
    """This machine's memory in bytes; 1 TB where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 1 << 40


def _require_room(path: Path, names: Collection[str]) -> None:
    """Compare the shapes that the headers declare with the file and with this machine's memory. Raises ValueError."""
    total, memory = 0, physical_memory()
    with zipfile.ZipFile(path) as file:
        for entry in file.infolist():
            if not entry.filename.endswith(".npy"):
                continue
            with file.open(entry) as array:
                shape, _, dtype = _header(array)
                size, present = math.prod(shape) * dtype.itemsize, entry.file_size - array.tell()
            if dtype.hasobject:
                raise ValueError(f"{entry.filename} holds objects")
            if entry.filename.removesuffix(".npy") not in names:
                continue
            if size != present:
                raise ValueError(f"{entry.filename} declares {shape} of {dtype}, {size:,} bytes, and has {present:,}")
            total += size
    if total > memory:
        raise ValueError(f"its arrays take {total:,} bytes, and this machine has {memory:,}")


def from_arrays(
    name: str, arrays: Mapping[str, NDArray[Any]], *, layout: Layout | None = None, classes: int | None = None
) -> dict[str, Split]:
    """Splits from x_train, y_train, x_val, y_val, x_test, y_test (test at least) and class_names. Raises DataError."""
    if layout not in (None, "nhwc", "nchw"):
        raise ConfigError(f'expected data.layout nhwc or nchw, got "{layout}": leave it out to have it recognised')
    parts = [part for part in PARTS if part == "test" or f"x_{part}" in arrays or f"y_{part}" in arrays]
    if missing := sorted({f"{axis}_{part}" for part in parts for axis in "xy"} - set(arrays)):
        listed = ", ".join(sorted(arrays)) or "nothing"
        raise DataError(
            f"{name}: expected the arrays x_train, y_train, x_test, y_test, got {listed}: add {', '.join(missing)}"
        )
    images = {part: as_images(arrays[f"x_{part}"], f"{name} ({part})", layout) for part in parts}
    labels = {part: as_labels(arrays[f"y_{part}"], f"{name} ({part})") for part in parts}
    names = tuple(str(n) for n in np.asarray(arrays.get("class_names", ())).ravel())
    count = classes or len(names) or max((int(y.max()) for y in labels.values() if len(y)), default=0) + 1
    if count > MOST_CLASSES:
        raise DataError(
            f"{name}: expected at most {MOST_CLASSES} classes, got {count}: labels number the classes from 0, "
            "they are not identifiers"
        )
    return {part: Split(images[part], labels[part], count, name, part, class_names=names) for part in parts}


def as_images(array: Any, where: str, layout: Layout | None = None) -> Tensor:
    """(N, C, H, W) uint8 or float32 from (N, H, W), (N, H, W, C) or (N, C, H, W); `Split` checks the range.

    Parameters
    ----------
    array
        uint8 or floating point.
    where
        The array's name in messages.
    layout
        nhwc or nchw; None takes the one of axes 1 and 3 that has 1 or 3 entries as the channels.

    Raises
    ------
    DataError
        Where both axes or neither can be the channels, and for values of another type.
    """
    array = np.asarray(array)
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise DataError(f"{where}: expected images in uint8 or floats in [0, 1], got {array.dtype}: convert them first")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim != 4:
        raise DataError(
            f"{where}: expected images of shape (N, H, W), (N, H, W, C) or (N, C, H, W), got {array.shape}: reshape"
        )
    elif (layout or _layout(array.shape, where)) == "nhwc":
        array = array.transpose(0, 3, 1, 2)
    dtype = np.uint8 if array.dtype == np.uint8 else np.float32
    # Writeable and contiguous is what torch can share; only an array that is not is copied.
    return torch.from_numpy(np.require(array, dtype, ["C", "W"]))


def _layout(shape: tuple[int, ...], where: str) -> Layout:
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        axes = "both axis 1 and axis 3" if first else "neither axis 1 nor axis 3"
        raise DataError(
            f"{where}: expected 1 or 3 channels on one axis, got {shape}, where {axes} can be the channels: "
            "type --data.layout nhwc or --data.layout nchw, or transpose"
        )
    return "nchw" if first else "nhwc"


def as_labels(array: Any, where: str) -> Tensor:
    """(N,) int64 from integers of shape (N,) or (N, 1). Raises DataError."""
    array = np.asarray(array)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected integer labels of shape (N,), got {array.dtype} {array.shape}: "
            'convert with y.astype("int64"), or y.argmax(1) for one-hot rows'
        )
    return torch.from_numpy(np.require(array, np.int64, ["C", "W"]))
