"""What an exported file says of itself, and the seal that shows whether it is as it was exported.

An ONNX file is a protobuf message, and two such messages one after the other are their union. So the metadata is
appended to the model: `ardor`, a JSON object, then `ardor.sha256`, the hash of every byte before it. It can be checked
without the package onnx.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

FORMAT = "ardor-export-1"
KEY, SEAL = "ardor", "ardor.sha256"


def seal(body: bytes, said: Mapping[str, Any]) -> bytes:
    """A serialised ONNX model with its metadata and the hash of both."""
    whole = body + _entry(KEY, json.dumps(said))
    return whole + _entry(SEAL, hashlib.sha256(whole).hexdigest())


def is_sealed(content: bytes, digest: str) -> bool:
    """Whether `content` ends in the hash `digest` of everything before it."""
    end = _entry(SEAL, digest)
    return content.endswith(end) and hashlib.sha256(content[: -len(end)]).hexdigest() == digest


def probe(shape: tuple[int, int, int]) -> Tensor:
    """The image (1, C, H, W) in [0, 1] whose logits a file records: value k, row by row, is (37 k mod 256) / 255.

    Another range, layout or normalisation than the file says, or a runtime that computes otherwise, gives other logits.
    """
    c, h, w = shape
    return ((torch.arange(c * h * w) * 37) % 256).reshape(1, c, h, w).float() / 255


def _entry(key: str, value: str) -> bytes:
    """ModelProto.metadata_props, field 14: a message of a key, field 1, and a value, field 2."""
    inner = b"".join(tag + _length(text) + text for tag, text in ((b"\x0a", key.encode()), (b"\x12", value.encode())))
    return b"\x72" + _length(inner) + inner


def _length(text: bytes) -> bytes:
    """A protobuf varint: seven bits a byte, the lowest first."""
    n, found = len(text), b""
    while n > 127:
        found, n = found + bytes([n & 127 | 128]), n >> 7
    return found + bytes([n])
