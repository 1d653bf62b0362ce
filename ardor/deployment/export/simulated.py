"""Simulated: an exported graph computed in torch, so that a white-box attack has gradients to follow.

A quantised graph is simulated value by value in float32: q = clip(round(x / s) + z), x^ = s (q - z). Rounding has no
gradient, so d round(u) / du = 1 is taken (the straight-through estimator of Bengio et al., 2013); clipping keeps its
gradient, which is where the ReLU of such a graph is. Attacks follow these gradients; verdicts are the runtime's.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ardor.deployment.export.operators import DTYPES, OPERATORS, along
from ardor.errors import ExportError
from ardor.storage.imports import require_package

BLACK_BOX = "evaluate the file without them, by --suite square and by transfer from its net"

OLDEST = 13
"""The first opset in which Softmax is along one axis, as in `operators`."""


class _Quantised(torch.autograd.Function):
    """clip(round(x / s) + z, low, high), with dq/dx = 1 / s wherever nothing is clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        q = (x / scale).round_().add_(zero)
        ctx.save_for_backward((q >= low) & (q <= high), scale)
        return q.clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inside, scale = ctx.saved_tensors
        return grads[0] * inside / scale, None, None, None, None


def _integers(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int) -> tuple[Tensor, Tensor, int, int]:
    """Scale and zero point in a shape that broadcasts to x, and the range of the integers."""
    zero = torch.zeros((), dtype=torch.uint8) if zero is None else zero
    info = torch.iinfo(zero.dtype)
    return along(scale, x, axis), along(zero.to(x.dtype), x, axis), info.min, info.max


def _quantise(x: Tensor, scale: Tensor, zero: Tensor | None = None, axis: int = 1) -> Tensor:
    quantised: Tensor = _Quantised.apply(x, *_integers(x, scale, zero, axis))  # type: ignore[no-untyped-call]
    return quantised


def _lost(x: Tensor, scale: Tensor, zero: Tensor | None = None, axis: int = 1) -> float:
    """The share of values that integers clip, without those of a ReLU."""
    scale, zero, low, high = _integers(x, scale, zero, axis)
    q = (x / scale).round() + zero
    return float(((q > high) | ((q < low) & (zero > low))).float().mean())


class Simulated(nn.Module):
    """The graph of an ONNX model in torch: images (B, C, H, W) to logits (B, classes), with gradients, on the CPU.

    Nodes that depend on no image, dequantised weights above all, are computed once.

    Parameters
    ----------
    content : bytes
        The serialised model.

    Raises
    ------
    ExportError: an operator, or a variant of one, that is not simulated, with its layer. ConfigError: the package onnx
    is missing.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        onnx = require_package("onnx", "onnx", "gradients through an ONNX file")
        model = onnx.load_from_string(content)
        opsets = {entry.domain: entry.version for entry in model.opset_import}
        if opsets.get("", OLDEST) < OLDEST:
            raise ExportError(
                f"expected opset {OLDEST} or later to simulate a graph with gradients, got {opsets['']}: {BLACK_BOX}"
            )
        graph = model.graph
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._constants: dict[str, Any] = {"": None}  # an input that is left out has no name
        for initial in graph.initializer:
            if dtype := DTYPES.get(initial.data_type):  # a node that needs another type is refused below
                array = onnx.numpy_helper.to_array(initial)
                array = array.astype("float32") if dtype is torch.bfloat16 else array.copy()  # NumPy has no bfloat16
                self._constants[initial.name] = torch.from_numpy(array).to(dtype)
        self._nodes: list[tuple[Any, dict[str, Any]]] = []
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if all(name in self._constants for name in node.input):
                self._constants |= self._computed(node, attributes, self._constants)
            else:
                self._nodes.append((node, attributes))
        self.eval()

    def forward(self, x: Tensor, clipped: dict[str, float] | None = None) -> Tensor:
        """Logits (B, classes) of images x (B, C, H, W). clipped: filled with what the method `clipped` returns."""
        # a CPU's convolutions are faster in channels last; the values are the same
        layout = torch.channels_last if x.ndim == 4 else torch.preserve_format
        values: dict[str, Any] = {self._input: x.to(memory_format=layout)}
        for node, attributes in self._nodes:
            values |= self._computed(node, attributes, ChainMap(values, self._constants), clipped)
        logits: Tensor = values[self._output]
        return logits

    @torch.no_grad()
    def clipped(self, x: Tensor) -> dict[str, float]:
        """By name of each value that is quantised, the share in [0, 1] that its integers clip on images x.

        Values below the lowest integer are not counted where that integer stands for 0: they are the ReLU's.
        """
        shares: dict[str, float] = {}
        self(x, shares)
        return shares

    def _computed(
        self, node: Any, attributes: Any, values: Any, clipped: dict[str, float] | None = None
    ) -> dict[str, Tensor]:
        """The node's outputs by name. Raises ExportError where they are not simulated, whatever the reason."""
        compute = _quantise if node.op_type == "QuantizeLinear" else OPERATORS.get(node.op_type)
        try:
            if compute is None or node.domain not in ("", "ai.onnx"):
                raise NotImplementedError("no such operator")
            inputs = [values[name] for name in node.input]
            if clipped is not None and compute is _quantise:
                clipped[node.input[0]] = _lost(*inputs, **attributes)
            computed = compute(*inputs, **attributes)
        except Exception as error:  # torch's own for an operand, and Python's for an attribute
            cause = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise ExportError(
                f"expected operators that can be simulated with gradients, got {node.op_type}{layer(node.name)} "
                f"({cause}): {BLACK_BOX}"
            ) from error
        return dict(zip(node.output, computed if isinstance(computed, tuple) else (computed,), strict=False))


@torch.enable_grad()
def require_same(simulated: Simulated, runtime: Callable[[Tensor], Tensor], x: Tensor, tolerance: float) -> None:
    """Refuse a simulation whose logits of images x (B, C, H, W) are not the runtime's, or have no gradient at x.

    Parameters
    ----------
    simulated, runtime
        Images to logits (B, classes).
    x
        The images, which the runtime takes at once.
    tolerance
        The largest distance of the logits, relative to their norm.

    Raises
    ------
    ExportError
    """
    ours, theirs = simulated(x.clone().requires_grad_()), runtime(x)
    far = float((ours.detach() - theirs).norm()) if ours.shape == theirs.shape else float("inf")
    if not far <= tolerance * float(theirs.norm()) + 1e-6:
        raise ExportError(
            f"expected a simulated graph with the runtime's logits, got some at a distance of {far:.2g}: {BLACK_BOX}"
        )
    if not ours.requires_grad:
        raise ExportError(
            f"expected a graph with a gradient, got one whose logits depend on the images through integers: {BLACK_BOX}"
        )


def layer(node: str) -> str:
    """` in the layer NAME` of a node called NAME/OPERATOR; empty for a node without a name."""
    return f" in the layer {node.rpartition('/')[0] or node}" if node else ""
