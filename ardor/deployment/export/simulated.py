"""Simulated: an exported graph computed in torch, so that a white-box attack has gradients to follow.

A quantised graph is simulated value by value in float32: q = clip(round(x / s) + z), x^ = s (q - z). Rounding has no
gradient, so d round(u) / du = 1 is taken (the straight-through estimator of Bengio et al., 2013); clipping keeps its
gradient, which is where the ReLU of such a graph is. Attacks follow these gradients; verdicts are the runtime's.
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any

import torch
from torch import Tensor, nn

from ardor.deployment.export.operators import OPERATORS, along
from ardor.errors import ExportError
from ardor.storage.imports import require_package

RANGES = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}
"""The ranges of ONNX's integer types by number: uint8, int8, uint16, int16."""


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


class Simulated(nn.Module):
    """The graph of an ONNX model in torch: images (B, C, H, W) to logits (B, classes), with gradients, on the CPU.

    Nodes that depend on no image, dequantised weights above all, are computed once.

    Parameters
    ----------
    content : bytes
        The serialised model.

    Raises
    ------
    ExportError: an operator that is not simulated, with its layer. ConfigError: the package onnx is missing.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        onnx = require_package("onnx", "onnx", "gradients through an ONNX file")
        graph = onnx.load_from_string(content).graph
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._ranges = {i.name: RANGES[i.data_type] for i in graph.initializer if i.data_type in RANGES}
        self._constants: dict[str, Any] = {"": None}  # an input that is left out has no name
        self._constants |= {i.name: _tensor(onnx.numpy_helper.to_array(i)) for i in graph.initializer}
        self._nodes: list[tuple[Any, dict[str, Any]]] = []
        for node in graph.node:
            if node.op_type not in (*OPERATORS, "QuantizeLinear") or node.domain not in ("", "ai.onnx"):
                raise ExportError(
                    f"expected operators that can be simulated with gradients, got {node.op_type}{layer(node.name)}: "
                    "evaluate the file without them, by --suite square and by transfer from its net"
                )
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if all(name in self._constants for name in node.input):
                self._constants[node.output[0]] = self._computed(node, attributes, self._constants)
            else:
                self._nodes.append((node, attributes))
        self.eval()

    def forward(self, x: Tensor, clipped: dict[str, float] | None = None) -> Tensor:
        """Logits (B, classes) of images x (B, C, H, W). clipped: filled with what the method `clipped` returns."""
        # a CPU's convolutions are faster in channels last; the values are the same
        layout = torch.channels_last if x.ndim == 4 else torch.preserve_format
        values: dict[str, Any] = {self._input: x.to(memory_format=layout)}
        for node, attributes in self._nodes:
            values[node.output[0]] = self._computed(node, attributes, ChainMap(values, self._constants), clipped)
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

    def _computed(self, node: Any, attributes: Any, values: Any, clipped: dict[str, float] | None = None) -> Tensor:
        inputs = [values[name] for name in node.input]
        if node.op_type != "QuantizeLinear":
            return OPERATORS[node.op_type](*inputs, **attributes)
        x, *parameters = inputs
        scale, zero = (along(value, x, attributes.get("axis", 1)) for value in parameters)
        low, high = self._ranges[node.input[2]]
        if clipped is not None:
            q = (x / scale).round() + zero
            lost = (q > high) | ((q < low) & (zero > low))
            clipped[node.input[0]] = float(lost.float().mean())
        quantised: Tensor = _Quantised.apply(x, scale, zero, low, high)  # type: ignore[no-untyped-call]
        return quantised


def layer(node: str) -> str:
    """` in the layer NAME` of a node called NAME/OPERATOR; empty for a node without a name."""
    return f" in the layer {node.rpartition('/')[0] or node}" if node else ""


def _tensor(array: Any) -> Tensor:
    """float32 for operands, quantised weights and zero points too; int64 (shapes, axes) and bool unchanged."""
    tensor = torch.from_numpy(array.copy())
    return tensor if tensor.dtype in (torch.int64, torch.bool) else tensor.float()
