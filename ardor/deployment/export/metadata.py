"""What an exported file says of itself: docs/export.md lists the keys."""

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
"""What exports to each kind of file beside torch."""


def facts(
    net: nn.Module, to: str, images: Split, calibrated: Split | None, threat: Threat, reports: Sequence[Report]
) -> dict[str, Any]:
    """All but what was measured on the file itself. reports: those of this net are taken over."""
    weights = hash_of(net)
    packages = ("torch", *PACKAGES[to.removesuffix("-int8")])
    batch = {"batch": 1} if to.startswith("executorch") else {}
    return {
        "format": FORMAT,
        "ardor": __version__,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "to": to,
        "net": describe(net),
        "weights": weights,
        "input": {
            "name": IMAGES,
            "layout": "NCHW",
            "shape": list(images.shape),
            "dtype": "float32",
            "range": [0, 1],
            "normalisation": "inside",
        }
        | batch,
        "output": {"name": LOGITS, "dtype": "float32"},
        "classes": list(images.class_names),
        "threat": describe(threat) | {"eps": float(threat.eps)},
        "check": _of(images),
        "calibration": None if calibrated is None else _of(calibrated),
        "reports": [figures(report) for report in reports if report.model.get("hash") == weights],
    }


def _of(images: Split) -> dict[str, Any]:
    return {"name": images.name, "part": images.part, "n": len(images), "hash": images.hash}


def figures(report: Report) -> dict[str, Any]:
    """Clean and robust accuracy of an evaluation of the net."""
    return {
        "suite": report.suite,
        "threat": report.threat,
        "data": {key: report.data[key] for key in ("name", "part", "hash")},
        "n": report.n,
        "accuracy": {name: share.value for name, share in report.figures().items()},
    }
