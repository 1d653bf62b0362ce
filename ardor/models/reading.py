"""A file of weights to a state dict, without running code in the file."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ardor.errors import CheckpointError
from ardor.models.mismatch import some
from ardor.storage.files import require_readable

State = dict[str, Tensor]

# Keys of the state dict in files of training programs; the first one present is taken.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "student")


def read(path: Path) -> State:
    """Names to tensors on the CPU; a file not called `.safetensors` is read as torch.save's. Raises CheckpointError."""
    if path.is_dir():
        raise CheckpointError(f"expected a file of weights, got the folder {path}: a run is named without weights")
    if not path.is_file():
        raise CheckpointError(f"expected a file of weights, got {path}, which is not there: check the path")
    require_readable(path, CheckpointError)
    return _unwrap(_read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path), path)


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        _refuse_foreign(path, magic=())
        raise CheckpointError(
            f"expected a complete safetensors file, got {path}, which is truncated or of another kind ({error}): "
            "copy or download it again"
        ) from error


def _read_torch(path: Path) -> object:
    _refuse_foreign(path, magic=(b"PK", b"\x80"))  # a zip, as torch saves since 1.6, or a bare pickle, as before
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of formats that are refused here anyway
            return cast(object, torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a hostile or broken file can fail in any way: each is a refusal
        if isinstance(error, pickle.UnpicklingError) or "TorchScript" in str(error):
            culprit = re.search(r"GLOBAL (\S+)", str(error))
            raise CheckpointError(
                f"expected plain tensors in {path}, got pickled code or objects"
                f"{f' ({culprit[1]})' if culprit else ''}, which was not run: ask for a .safetensors file, or, where "
                "you trust its origin, save its state_dict() with safetensors.torch.save_file and load that"
            ) from error
        raise CheckpointError(
            f"expected a complete file of torch.save, got {path}, which is truncated or damaged "
            f"({type(error).__name__}): copy or download it again"
        ) from error


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


def _unwrap(content: object, path: Path) -> State:
    """The state dict inside what was saved: names to plain tensors."""
    for _ in range(3):  # no deeper: a pickled dict may contain itself
        if isinstance(content, dict):
            content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), content)
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
    ]
    if foreign:
        raise CheckpointError(
            f"expected a state dict (names to tensors) in {path}, got entries that are no plain tensors "
            f"({some(foreign)}): save net.state_dict(), alone or under one of {', '.join(WRAPPERS)}"
        )
    return content
