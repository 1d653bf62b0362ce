"""A file of weights to a state dict, without running code in the file."""

from __future__ import annotations

import _codecs
import argparse
import contextlib
import logging
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from ardor.errors import CheckpointError
from ardor.models.mismatch import some
from ardor.storage.files import require_readable
from ardor.storage.tensors import read_tensors

log = logging.getLogger(__name__)

State = dict[str, Tensor]

HARMLESS: list[Any] = [
    argparse.Namespace, np.dtype, np.ndarray,
    *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"},
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (_codecs.encode, "_codecs.encode"),
    *((np.empty(0).__reduce__()[0], f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]  # fmt: skip
"""Beside the weights: options of a command line, numbers and arrays of NumPy. None of them runs code of the file."""

# Keys of the state dict in files of training programs; the first one present is taken.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "student", "module")


def read(path: Path, state: str | None = None) -> State:
    """Names to tensors on the CPU; `state`: the key of one of several state dicts. Raises CheckpointError."""
    if path.is_dir():
        raise CheckpointError(f"expected a file of weights, got the folder {path}: a run is named without weights")
    if not path.is_file():
        raise CheckpointError(f"expected a file of weights, got {path}, which is not there: check the path")
    require_readable(path, CheckpointError)
    return _unwrap(_read_safetensors(path) if is_safetensors(path) else _read_torch(path), path, state)


def is_safetensors(path: Path) -> bool:
    """Whether a file is in this format: by its ending in any case, else by its first bytes, a length and a brace."""
    if path.suffix.lower() == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path) -> object:
    try:
        return read_tensors(path)[0]
    except CheckpointError as error:
        if not isinstance(error.__cause__, SafetensorError):
            raise
        _refuse_foreign(path, magic=())
        raise CheckpointError(
            f"expected a complete safetensors file, got {path}, which is truncated or of another kind "
            f"({error.__cause__}): copy or download it again"
        ) from error


def _read_torch(path: Path) -> object:
    _refuse_foreign(path, magic=(b"PK", b"\x80"))  # a zip, as torch saves since 1.6, or a bare pickle, as before
    try:
        _require_stored(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # torch warns of formats that are refused here anyway
            return cast(object, torch.load(path, map_location="cpu", weights_only=True))
    except CheckpointError:
        raise
    except Exception as error:  # a hostile or broken file can fail in any way: each is a refusal
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error):
            culprit, protocol = re.search(r"GLOBAL (\S+)", str(error)), _protocol_of(path)
            if protocol > 2 and culprit is None:
                raise CheckpointError(
                    f"expected {path} in pickle's protocol 2, got protocol {protocol}, which is not read: save it "
                    "again by torch.save(state, FILE) without pickle_protocol, or by safetensors.torch.save_file"
                ) from error
            raise CheckpointError(
                f"expected plain tensors in {path}, got pickled code or objects"
                f"{f' ({culprit[1]})' if culprit else ''}, which was not run: ask for a .safetensors file, or, where "
                "you trust its origin, save its state_dict() with safetensors.torch.save_file and load that"
            ) from error
        raise CheckpointError(
            f"expected a complete file of torch.save, got {path}, which is truncated or damaged "
            f"({type(error).__name__}): copy or download it again"
        ) from error


def _require_stored(path: Path) -> None:
    """Refuse much in few bytes: torch itself compresses nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            size, packed = sum(entry.file_size for entry in file.infolist()), path.stat().st_size
        if size > 8 * packed + 2**24:
            raise CheckpointError(
                f"expected a file of torch.save, got {path}, compressed from {size:,} to {packed:,} bytes: unpack it "
                "first"
            )


def _protocol_of(path: Path) -> int:
    """The protocol of a file's pickle; 0 where there is none."""
    with contextlib.suppress(OSError, zipfile.BadZipFile, StopIteration):
        start = path.read_bytes()[:2]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                start = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))[:2]
        return start[1] if start[:1] == b"\x80" else 0
    return 0


def _refuse_foreign(path: Path, magic: tuple[bytes, ...]) -> None:
    with path.open("rb") as file:
        start = file.read(60)
    if not start:
        raise CheckpointError(f"expected a file of weights, got {path}, which is empty: copy or download it again")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"expected a file of weights, got {path}, a Git LFS pointer: type git lfs pull there")
    text = start.isascii() and b"\0" not in start and not start.startswith(b"PK")
    if text or (magic and not start.startswith(magic)):
        shown = start[:20].decode("ascii", "replace")
        raise CheckpointError(
            f"expected a file of weights, got {path}, which begins with {shown!r}: it is something else, "
            "perhaps a saved web page; download it again, and keep its ending (.safetensors, .pt)"
        )


def _unwrap(content: object, path: Path, state: str | None) -> State:
    """The state dict inside what was saved: names to plain tensors."""
    if state is not None:
        nets = _nets(content)
        if state not in nets:
            raise CheckpointError(
                f'expected a state dict called "{state}" in {path}, got '
                f"{some(list(nets)) if nets else 'one without a name'}: type another --model.state, or leave it out"
            )
        content = nets[state]
    for _ in range(3):  # no deeper: a pickled dict may contain itself
        if isinstance(content, dict) and (key := next((k for k in WRAPPERS if isinstance(content.get(k), dict)), None)):
            if others := [other for other in _nets(content) if other != key]:  # an average of the weights, say
                log.warning(
                    "%s: %s is taken, not %s beside it: type --model.state %s for that",
                    *(path, key, some(others), others[0]),
                )
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(
            f"expected a state dict (names to tensors) in {path}, got "
            f"{'an empty dict' if isinstance(content, dict) else type(content).__name__}: save net.state_dict()"
        )
    foreign = [
        str(name)
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided)
        or value.is_quantized
        or value.is_meta
        or value.is_complex()
        or value.numel() * value.element_size() > value.untyped_storage().nbytes()  # expanded: any size from few bytes
    ]
    if foreign:
        raise CheckpointError(
            f"expected a state dict (names to tensors) in {path}, got entries that are no plain tensors "
            f"({some(foreign)}): save net.state_dict(), alone or under one of {', '.join(WRAPPERS)}"
        )
    return content


def _nets(content: object) -> dict[str, Any]:
    """The state dicts in what was saved, by their keys, each as it is or in a wrapper."""
    parts = {str(key): part for key, part in content.items()} if isinstance(content, dict) else {}
    return {
        key: part
        for key, part in parts.items()
        if isinstance(part, dict)
        and (
            any(isinstance(value, Tensor) for value in part.values())
            or any(isinstance(part.get(wrapper), dict) for wrapper in WRAPPERS)
        )
    }
