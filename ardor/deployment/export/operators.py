"""ONNX's operators in torch, those that exported nets contain (opset 18 to 20).

A function takes the node's inputs, None for one that is left out, and its attributes by their ONNX names.
QuantizeLinear is in `simulated`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def along(scale: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """A scale or zero point (K,) in a shape that broadcasts along an axis of x; a scalar unchanged."""
    return scale if scale.ndim == 0 else scale.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])


def _dequantize(q: Tensor, scale: Tensor, zero: Tensor | None = None, axis: int = 1, **_: Any) -> Tensor:
    return (q if zero is None else q - along(zero, q, axis)) * along(scale, q, axis)


def _padded(x: Tensor, pads: Sequence[int], value: float) -> tuple[Tensor, tuple[int, int]]:
    """Equal padding at both ends is left to torch's own argument, the second value; any other is added to x."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None,
    pads: Any = (0,) * 4, strides: Any = 1, dilations: Any = 1, group: int = 1, **_: Any,
) -> Tensor:  # fmt: skip
    x, padding = _padded(x, pads, 0.0)
    return F.conv2d(x, weight, bias, strides, padding, dilations, group)


def _max_pool(
    x: Tensor,
    kernel_shape: Any,
    pads: Any = (0,) * 4,
    strides: Any = 1,
    dilations: Any = 1,
    ceil_mode: int = 0,
    **_: Any,
) -> Tensor:
    x, padding = _padded(x, pads, -torch.inf)
    return F.max_pool2d(x, kernel_shape, strides, padding, dilations, bool(ceil_mode))


def _average_pool(
    x: Tensor, kernel_shape: Any, pads: Any = (0,) * 4, strides: Any = 1,
    ceil_mode: int = 0, count_include_pad: int = 0, **_: Any,
) -> Tensor:  # fmt: skip
    x, padding = _padded(x, pads, 0.0)
    return F.avg_pool2d(x, kernel_shape, strides, padding, bool(ceil_mode), bool(count_include_pad))


def _gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None,
    alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,
) -> Tensor:  # fmt: skip
    product = alpha * ((a.mT if transA else a) @ (b.mT if transB else b))
    return product if c is None else product + beta * c


def _reduced(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def operator(x: Tensor, axes: Tensor | None = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        dims = [] if axes is None else axes.tolist()
        if not dims and noop_with_empty_axes:
            return x
        return reduce(x, dims or list(range(x.ndim)), bool(keepdims))

    return operator


def _reshape(x: Tensor, shape: Tensor, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[k] if n == 0 and not allowzero else n for k, n in enumerate(shape.tolist())])


def _pad(
    x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None, mode: bytes = b"constant"
) -> Tensor:
    dims = range(x.ndim) if axes is None else axes.tolist()
    around = [0] * (2 * x.ndim)
    for axis, before, after in zip(dims, *pads.reshape(2, -1).tolist(), strict=True):
        place = 2 * (x.ndim - 1 - axis % x.ndim)  # torch counts from the last axis
        around[place : place + 2] = before, after
    if mode == b"constant":
        return F.pad(x, around, value=0.0 if value is None else float(value))
    return F.pad(x, around[:4], mode="replicate" if mode == b"edge" else mode.decode())


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    dims = range(len(starts)) if axes is None else axes.tolist()
    by = [1] * len(starts) if steps is None else steps.tolist()
    places = [slice(None)] * x.ndim
    for axis, *bounds in zip(dims, starts.tolist(), ends.tolist(), by, strict=True):
        places[axis] = slice(*bounds)
    return x[tuple(places)]


def _gather(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    axis %= x.ndim
    rows = x.index_select(axis, index.reshape(-1) % x.shape[axis])
    return rows.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted((axes % (x.ndim + len(axes))).tolist()):
        x = x.unsqueeze(axis)
    return x


FLOAT = 1
"""ONNX's number for float32; any other type in an exported net is a count or a comparison."""

OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "AveragePool": _average_pool,
    "BatchNormalization": lambda x, a, b, mean, var, epsilon=1e-5, **_: F.batch_norm(x, mean, var, a, b, eps=epsilon),
    "Cast": lambda x, to, **_: x.float() if to == FLOAT else x.long(),
    "Clip": lambda x, low=None, high=None: x if low is None and high is None else x.clamp(low, high),
    "Concat": lambda *x, axis: torch.cat(x, axis),
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": lambda a, b: a / b if a.is_floating_point() else a // b,
    "Elu": F.elu,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": lambda x, shape: x + x.new_zeros(shape.tolist()),
    "Flatten": lambda x, axis=1: x.reshape(x.shape[: axis % (x.ndim + 1)].numel(), -1),
    "Gather": _gather,
    "Gelu": lambda x, approximate=b"none": F.gelu(x, approximate=approximate.decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "LayerNormalization": lambda x, a, b=None, axis=-1, epsilon=1e-5, **_: F.layer_norm(
        x, x.shape[axis:], a, b, epsilon
    ),
    "LeakyRelu": lambda x, alpha=0.01: F.leaky_relu(x, alpha),
    "Log": torch.log,
    "LogSoftmax": lambda x, axis=-1: x.log_softmax(axis),
    "MatMul": torch.matmul,
    "Max": lambda *x: torch.stack(torch.broadcast_tensors(*x)).amax(0),
    "MaxPool": _max_pool,
    "Min": lambda *x: torch.stack(torch.broadcast_tensors(*x)).amin(0),
    "Mul": torch.mul,
    "Neg": torch.neg,
    "PRelu": lambda x, slope: torch.where(x >= 0, x, x * slope),
    "Pad": _pad,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Shape": lambda x, start=0, end=None: torch.tensor(x.shape)[start:end],
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": lambda x, axis=-1: x.softmax(axis),
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Squeeze": lambda x, axes=None: x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist())),
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Transpose": lambda x, perm=None: x.permute(perm or tuple(reversed(range(x.ndim)))),
    "Unsqueeze": _unsqueeze,
}
"""By their ONNX names. A file with any other operator is evaluated without gradients."""
