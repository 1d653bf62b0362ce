"""TODO ardor.storage.tensors."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ardor.errors import CheckpointError
from ardor.storage.files import write_atomic


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of names and bytes: the format itself notices a short file, not a flipped bit."""
    total = 0
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total = zlib.crc32(value.numpy().data, zlib.crc32(name.encode(), total))
    return str(total)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises CheckpointError where it is truncated or foreign."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"expected a whole safetensors file, got {path} ({error}): delete it or take an earlier copy"
        ) from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file in place of the one that is there, whole. Raises RunError."""
    # a copy, because tensors that share memory are refused by the format
    plain = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:  # it wraps the system's refusal: a full disk, say
            raise OSError(str(error)) from error

    write_atomic(path, write)
