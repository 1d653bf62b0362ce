"""Simulated: an exported graph computed in torch, so that a white-box attack has gradients to follow.

A quantised graph is simulated value by value in float32: q = clip(round(x / s) + z), x^ = s (q - z). Rounding has no
gradient, so it is passed straight through, d round(u) / du = 1 (Bengio et al., 2013); clipping keeps its own, which is
where the ReLU of such a graph lives. Attacks follow these gradients; what counts is what the runtime answers.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ardor.deployment.export.operators import OPERATORS, along
from ardor.errors import ExportError
from ardor.storage.imports import require_package

HOLDS = {2: (0, 255), 3: (-128, 127), 4: (0, 65535), 5: (-32768, 32767)}
"""What integers of ONNX's type number can say: uint8, int8, uint16, int16."""


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
    """The graph of an ONNX model: images (B, C, H, W) to logits (B, classes), with gradients, on the CPU.

    content: the serialised model. What depends on no image, dequantised weights above all, is computed once. Raises
    ExportError for an operator that is not simulated, named with its layer, and ConfigError without the package onnx.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__()
        onnx = require_package("onnx", "onnx", "gradients through an ONNX file")
        graph = onnx.load_from_string(content).graph
        self._input, self._output = graph.input[0].name, graph.output[0].name
        self._holds = {i.name: HOLDS[i.data_type] for i in graph.initializer if i.data_type in HOLDS}
        self._fixed: dict[str, Any] = {"": None}  # an input that is left out has no name
        self._fixed |= {i.name: _tensor(onnx.numpy_helper.to_array(i)) for i in graph.initializer}
        self._clipped: dict[str, float] | None = None
        self._nodes: list[tuple[Any, dict[str, Any]]] = []
        for node in graph.node:
            _require_known(node)
            words = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if all(name in self._fixed for name in node.input):
                self._fixed[node.output[0]] = self._computed(node, words, self._fixed)
            else:
                self._nodes.append((node, words))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes)."""
        # a CPU's convolutions are faster in channels last; the values are the same
        layout = torch.channels_last if x.ndim == 4 else torch.preserve_format
        found: dict[str, Any] = {self._input: x.to(memory_format=layout)}
        for node, words in self._nodes:
            found[node.output[0]] = self._computed(node, words, ChainMap(found, self._fixed))
        logits: Tensor = found[self._output]
        return logits

    @torch.no_grad()
    def clipped(self, x: Tensor) -> dict[str, float]:
        """For each value that is quantised on the way of images x, the share that its integers cannot say.

        Where the lowest integer stands for 0, what lies below it is the ReLU's, and no loss.
        """
        self._clipped = {}
        try:
            self(x)
            return self._clipped
        finally:
            self._clipped = None

    def _computed(self, node: Any, words: Mapping[str, Any], values: Mapping[str, Any]) -> Tensor:
        inputs = [values[name] for name in node.input]
        if node.op_type != "QuantizeLinear":
            return OPERATORS[node.op_type](inputs, words)
        x, scale, zero = inputs[0], along(inputs[1], inputs[0], words), along(inputs[2], inputs[0], words)
        low, high = self._holds[node.input[2]]
        if self._clipped is not None:
            q = (x / scale).round() + zero
            lost = (q > high) | ((q < low) & (zero > low))
            self._clipped[node.input[0]] = float(lost.float().mean())
        quantised: Tensor = _Quantised.apply(x, scale, zero, low, high)  # type: ignore[no-untyped-call]
        return quantised


def _require_known(node: Any) -> None:
    if node.op_type not in (*OPERATORS, "QuantizeLinear") or node.domain not in ("", "ai.onnx"):
        where = f" in the layer {node.name.rpartition('/')[0] or node.name}" if node.name else ""
        raise ExportError(
            f"expected operators that can be simulated with gradients, got {node.op_type}{where}: judge the file "
            "without them, by --suite square and by images made against its net"
        )


def _tensor(array: Any) -> Tensor:
    """float32 for whatever is computed with, quantised weights and zero points too; shapes and axes stay int64."""
    tensor = torch.from_numpy(array.copy())
    return tensor if tensor.dtype in (torch.int64, torch.bool) else tensor.float()
