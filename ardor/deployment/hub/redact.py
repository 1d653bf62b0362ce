"""What is published of a run: its configuration, without the folders of the machine that it ran on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ardor.storage.runs import LOCATIONS

# /data/me/x.npz, ~/x.npz, ../x.npz and npz:/data/me/x.npz, but neither 8/255, hf:owner/net nor https://host/x
_PLACE = re.compile(r"(?<![\w./~])(?:~|\.{1,2})?/(?:[^\s/:]+/)*([^\s/:]+)")

# a run's folder that stands before the name of a file
_BEFORE = re.compile(r"(?<!\S)(?:[^\s/:]+/)+(?=[^\s/:]+\.(?:onnx|pt2|safetensors)\b)")


def redact(said: Any) -> Any:
    """Text, or anything that JSON can say, in which each path to a place of one machine is cut to its last name."""
    if isinstance(said, str):
        return _BEFORE.sub("", _PLACE.sub(r"\1", said))
    if isinstance(said, Mapping):
        return {key: redact(value) for key, value in said.items()}
    if isinstance(said, list | tuple):
        return [redact(value) for value in said]
    return said


def trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's config.yaml without where things lay and how many threads there were."""
    gone = {*LOCATIONS} - {"fingerprint.ardor"}
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in gone:
            continue
        inner = value.items() if isinstance(value, Mapping) else None
        found[key] = value if inner is None else {k: v for k, v in inner if f"{key}.{k}" not in gone}
    return dict(redact(found))
