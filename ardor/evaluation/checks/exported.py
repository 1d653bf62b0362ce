"""Checks on an exported file: its calibration, its clipping, its gradients.

The net is a `deployment.export.onnx_session.Session`, whose gradients are those of a simulation of its graph, or a
`deployment.export.executorch.Program`, which has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ardor.evaluation.findings import Finding, present
from ardor.types import Images

if TYPE_CHECKING:
    from ardor.evaluation.report import Report


INT8 = "-int8"
"""The end of the names of quantised formats."""


@torch.no_grad()
def of_file(net: Any, x: Images) -> list[Finding]:
    """Every finding on an exported file, from images x (B, C, H, W); none on any other net."""
    metadata = getattr(net, "metadata", None)
    if not metadata:
        return []
    int8 = metadata["to"].endswith(INT8)
    findings = [few_calibration(metadata["calibration"]["n"]) if int8 else None]
    if not net.without_gradients:
        simulated = net.simulated(x.cpu())
        findings += [gradients_simulated(int((simulated.argmax(1) == net(x).cpu().argmax(1)).sum()), len(x))]
        findings += [saturated(net.simulated.clipped(x.cpu())) if int8 else None]
    return present(*findings)


APART = 0.01
"""gradients_simulated: of the images. Simulations of five INT8 files predicted all of 300 as the runtime did."""


def gradients_simulated(equal: int, n: int) -> Finding | None:
    """Gradients are those of a simulation; where its predictions are not the file's, they mislead."""
    evidence = f"gradients are those of a simulation, which predicts {equal} of {n} clean images as the file does"
    if n - equal <= APART * n:
        return Finding(
            "gradients_simulated", "note", evidence, "every success of an attack was judged by the file itself"
        )
    advice = "do not quote what follows these gradients: quote transfer and Square, and compare this runtime's version"
    return Finding("gradients_simulated", "warning", evidence, advice)


ENOUGH = 64
"""few_calibration: images. On four published nets 16 left 1 to 9 % of the test images' logits out of range, 64 0.1 to
0.6 %, and 256 none."""


def few_calibration(n: int) -> Finding | None:
    """INT8 ranges from so few images that others do not fit into them."""
    evidence = f"INT8 was calibrated on {n} images, whose ranges others will leave"
    advice = "export it again with at least 256 training images"
    return Finding("few_calibration", "warning", evidence, advice) if n < ENOUGH else None


CLIPPED = 0.01
"""saturated: of a layer's values on the images judged. With 64 calibration images and more, 0.6 % at most."""


def saturated(clipped: Mapping[str, float]) -> Finding | None:
    """Values that INT8 cuts off, by layer: what is cut has no gradient and no effect."""
    worst, share = max(clipped.items(), key=lambda item: item[1], default=("", 0.0))
    evidence = f"INT8 cuts off {100 * share:.1f} % of the values of {worst} on the images judged"
    advice = "export it again, calibrated on more training images, or on some that look like these"
    return Finding("saturated", "warning", evidence, advice) if share > CLIPPED else None


HIDDEN, FEW = 0.002, 3
"""hidden_by_quantisation: of all images, and images. Two starts of one attack on one net were up to 2 of 300 apart."""


def hidden_by_quantisation(report: Report) -> Finding | None:
    """The INT8 file withstands attacks along its gradients, but not transfer or Square."""
    counts = {kind: share.k for kind, share in report.by_access().items()}
    if not str(report.model.get("to")).endswith(INT8) or "white-box" not in counts:
        return None
    white = counts.pop("white-box")
    if not counts or white - min(counts.values()) <= max(HIDDEN * report.n, FEW):
        return None
    names = {"transfer": "images made against another net", "query": "Square"}
    others = " and ".join(f"{names[kind]} {k}" for kind, k in counts.items())
    evidence = f"attacks along the file's own gradients leave {white} of {report.n} images right, {others}"
    advice = "INT8 hides gradients: quote the worst case, as an upper bound, never the white-box figure alone"
    return Finding("hidden_by_quantisation", "error", evidence, advice)
