"""The content of an exported file: its bytes, its seal, and the probe that shows whether a runtime computes its net.

An ONNX file is a protobuf message, and two such messages one after the other are their union. So the metadata is
appended to the model: `ardor`, a JSON object, then `ardor.sha256`, the hash of every byte before it. The seal can be
checked without the package onnx.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Required, TypedDict

import torch
from torch import Tensor

from ardor.errors import CheckpointError, ConfigError, ModelError, shown
from ardor.storage.reading import checked, parse_json

FORMAT = "ardor-export-1"
KEY, SEAL = "ardor", "ardor.sha256"

TOLERANCE = {"onnx": 1e-3, "executorch": 1e-3, "onnx-int8": 0.25, "executorch-int8": 0.25}
"""The largest distance of the probe's logits from the recorded ones, relative to their norm: processors round INT8
differently."""
LARGEST_INPUT = 1 << 26
"""Values of an image that a file of ardor is for."""


def seal(body: bytes, metadata: Mapping[str, Any]) -> bytes:
    """A serialised ONNX model with its metadata and the hash of both."""
    content = body + _entry(KEY, json.dumps(metadata))
    return content + _entry(SEAL, hashlib.sha256(content).hexdigest())


def is_sealed(content: bytes, digest: str) -> bool:
    """Whether `content` ends in the hash `digest` of everything before it."""
    end = _entry(SEAL, digest)
    return content.endswith(end) and hashlib.sha256(content[: -len(end)]).hexdigest() == digest


class _Input(TypedDict, total=False):
    layout: Required[str]
    shape: Required[list[int]]
    range: Required[list[float]]


class _Of(TypedDict, total=False):
    name: Required[str]
    n: int


class _Match(TypedDict, total=False):
    n: Required[int]
    equal: Required[int]


class _Parity(TypedDict, total=False):
    clean: Required[_Match]
    adversarial: Required[_Match]
    attack: dict[str, Any]


class _Metadata(TypedDict, total=False):
    """The keys of the metadata that are read."""

    format: Required[str]
    to: Required[str]
    weights: Required[str]
    input: Required[_Input]
    classes: Required[list[str]]
    probe: Required[list[float]]
    threat: dict[str, Any]
    check: _Of | None
    calibration: _Of | None
    parity: _Parity
    versions: dict[str, str]


def metadata_in(text: str | bytes, name: str) -> dict[str, Any]:
    """The metadata of an exported file from their JSON text. Raises CheckpointError."""
    try:
        metadata = parse_json(text, f"the metadata of {name}")
        checked(metadata, _Metadata, f"the metadata of {name}")
    except ConfigError as error:
        raise CheckpointError(f"{error}; or export it again with this version") from error
    shape = metadata["input"]["shape"]
    if metadata["format"] != FORMAT or metadata["to"] not in TOLERANCE or not (len(shape) == 3 and min(shape) > 0):
        raise CheckpointError(
            f"expected metadata of the format {FORMAT} in {name}, got format {shown(metadata['format'])}, to "
            f"{shown(metadata['to'])}, input {shown(shape)}: export it again with this version"
        )
    if math.prod(shape) > LARGEST_INPUT:
        raise CheckpointError(f"expected images of at most {LARGEST_INPUT:,} values for {name}, got {shape}: check it")
    return metadata


def probe(shape: Sequence[int]) -> Tensor:
    """The image (1, C, H, W) in [0, 1] whose logits a file records: value k, row by row, is (37 k mod 256) / 255.

    Another range, layout or normalisation than that of the metadata, or another computation, gives other logits.
    """
    c, h, w = shape
    return ((torch.arange(c * h * w) * 37) % 256).reshape(1, c, h, w).float() / 255


def require_probe(net: Any, metadata: Mapping[str, Any]) -> None:
    """Raise ModelError where a file's net does not reproduce the logits that were recorded for the probe."""
    recorded, logits = torch.tensor(metadata["probe"]), net(probe(metadata["input"]["shape"]))[0]
    far = float((logits - recorded).norm()) if logits.shape == recorded.shape else float("inf")
    if not far <= TOLERANCE[metadata["to"]] * float(recorded.norm()) + 1e-6:
        first, second = ([round(float(value), 3) for value in values[:3]] for values in (recorded, logits))
        raise ModelError(
            f"expected {net.name} to reproduce the logits {first} of its metadata's probe, got {second}: its range, "
            "layout or normalisation is not that of its metadata, or this runtime computes otherwise; export it again"
        )


def require_images(net: Any, x: Tensor) -> None:
    """Raise ModelError for images of another shape than a file's `shape`, in which None is any size."""
    if x.ndim != 4 or any(size not in (None, n) for size, n in zip(net.shape, x.shape[1:], strict=True)):
        shape = ", ".join("?" if n is None else str(n) for n in net.shape)
        raise ModelError(
            f"expected images (B, {shape}) for {net.name}, got {tuple(x.shape)}: take the data it was made for"
        )


def read(file: str | Path | bytes, kind: str) -> bytes:
    """The bytes of an exported file. Raises CheckpointError: missing, empty, or a Git LFS pointer."""
    if isinstance(file, bytes):
        return file
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise CheckpointError(f"expected {kind}, got {file} ({error.strerror}): check the path") from error
    if content.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"expected {kind}, got {file}, a Git LFS pointer: type git lfs pull there")
    if not content:
        raise CheckpointError(f"expected {kind}, got {file}, which is empty: copy or export it again")
    return content


def digest(content: bytes) -> Tensor:
    """The SHA-256 of a file's bytes as a buffer (32,) uint8, so that `hash_of` distinguishes files."""
    return torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)


def _entry(key: str, value: str) -> bytes:
    """ModelProto.metadata_props, field 14: a message of a key, field 1, and a value, field 2."""
    inner = b"".join(tag + _length(text) + text for tag, text in ((b"\x0a", key.encode()), (b"\x12", value.encode())))
    return b"\x72" + _length(inner) + inner


def _length(text: bytes) -> bytes:
    """A protobuf varint: seven bits a byte, the lowest first."""
    n, varint = len(text), b""
    while n > 127:
        varint, n = varint + bytes([n & 127 | 128]), n >> 7
    return varint + bytes([n])
