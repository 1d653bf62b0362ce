"""The metadata of an exported file: docs/export.md lists the keys."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from torch import nn

from ardor.data.split import Split
from ardor.deployment.export.onnx_graph import IMAGES, LOGITS
from ardor.deployment.export.seal import FORMAT
from ardor.evaluation.report import Report
from ardor.models import hash_of
from ardor.storage.config import describe
from ardor.types import Threat
from ardor.version import __version__

PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"), "torch-export": (), "executorch": ("executorch", "torchao")
}  # fmt: skip
"""What each kind of file needs beside torch."""


def metadata_of(
    net: nn.Module, to: str, images: Split, calibrated: Split | None, threat: Threat, reports: Sequence[Report]
) -> dict[str, Any]:
    """All but what is measured on the file itself. reports: those of other weights are left out."""
    weights, interface = hash_of(net), interface_of(images.shape)
    if to.startswith("executorch"):
        interface["input"]["batch"] = 1
    return {
        "format": FORMAT,
        "ardor": __version__,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", *PACKAGES[to.removesuffix("-int8")])},
        "to": to,
        "net": describe(net),
        "weights": weights,
        **interface,
        "classes": list(images.class_names),
        "threat": describe(threat) | {"eps": float(threat.eps)},
        "check": _of(images),
        "calibration": None if calibrated is None else _of(calibrated),
        "reports": [figures(report) for report in reports if report.model.get("hash") == weights],
    }


def interface_of(shape: Sequence[int]) -> dict[str, Any]:
    """The keys `input` and `output` of an exported file's metadata and of a Hub folder, for images (C, H, W)."""
    image = {"name": IMAGES, "layout": "NCHW", "shape": list(shape), "dtype": "float32", "range": [0, 1]}
    return {"input": image | {"normalisation": "inside"}, "output": {"name": LOGITS, "dtype": "float32"}}


def _of(images: Split) -> dict[str, Any]:
    return {"name": images.name, "part": images.part, "n": len(images), "hash": images.hash}


def figures(report: Report) -> dict[str, Any]:
    """Clean and robust accuracy in [0, 1] of a report, with its suite, threat, data and n."""
    return {
        "suite": report.suite,
        "threat": report.threat,
        "data": {key: report.data[key] for key in ("name", "part", "hash")},
        "n": report.n,
        "accuracy": {name: share.value for name, share in report.figures().items()},
    }
