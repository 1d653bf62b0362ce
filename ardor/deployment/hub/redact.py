"""The published configuration of a run, without the folders of the machine that it ran on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ardor.storage.runs import LOCATIONS, without_unused_teacher

# /data/me/x.npz, ~/x.npz, ../x.npz and npz:/data/me/x.npz, but neither 8/255, hf:owner/net nor https://host/x
_PLACE = re.compile(r"(?<![\w./~])(?:~|\.{1,2})?/(?:[^\s/:]+/)*([^\s/:]+)")

# a run's folder that stands before the name of a file
_BEFORE = re.compile(r"(?<!\S)(?:[^\s/:]+/)+(?=[^\s/:]+\.(?:onnx|pt2|safetensors)\b)")


def redact(value: Any) -> Any:
    """Text, or any JSON value, with each path on this machine cut to its last name."""
    if isinstance(value, str):
        return _BEFORE.sub("", _PLACE.sub(r"\1", value))
    if isinstance(value, Mapping):
        return {key: redact(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact(inner) for inner in value]
    return value


def trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config.yaml without the locations of files and the number of threads."""
    dropped = {*LOCATIONS} - {"fingerprint.ardor"}
    public: dict[str, Any] = {}
    for key, value in without_unused_teacher(config).items():
        if key not in dropped:
            inner = isinstance(value, Mapping)
            public[key] = {k: v for k, v in value.items() if f"{key}.{k}" not in dropped} if inner else value
    return dict(redact(public))
