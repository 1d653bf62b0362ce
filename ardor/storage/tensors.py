"""Tensors and metadata in safetensors files, replaced atomically."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ardor.errors import CheckpointError
from ardor.storage.files import require_readable, write_atomic


def is_finite(value: Tensor) -> bool:
    """Whether every value is finite; a mask of 0 and -infinity, which attention adds, is no divergence either."""
    if bool(value.isfinite().all()):
        return True
    zero = value == 0
    return value.is_floating_point() and bool(zero.any() and (zero | value.isneginf()).all())


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """A CRC-32 of names and bytes, as text: the format itself detects a short file, but not a flipped bit."""
    total = 0
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total = zlib.crc32(value.numpy().data, zlib.crc32(name.encode(), total))
    return str(total)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError where it is truncated, foreign or changed."""
    require_readable(path, CheckpointError)
    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"expected a complete safetensors file, got {path} ({error}): delete it or take an earlier copy"
        ) from error
    recorded = metadata.get("sum", "")  # earlier versions wrote none, and third parties another
    if recorded.isdigit() and recorded != checksum(tensors):
        raise CheckpointError(f"expected {path} as it was written, got other bytes: take an earlier copy")
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone. Raises CheckpointError where the file is truncated or foreign."""
    require_readable(path, CheckpointError)
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"expected a complete safetensors file, got {path} ({error}): delete it") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Replace a safetensors file atomically, with a checksum in its metadata. Raises RunError."""
    # a copy, because tensors that share memory are refused by the format
    plain = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    content = as_bytes(plain, metadata | {"sum": checksum(plain)})
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def as_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file, its metadata by name: safetensors itself writes them in another order in each process.

    Its `save_file` is not used: it makes a file that no other user may read.
    """
    content = save(dict(tensors), dict(metadata))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))
