"""ONNX's operators in torch, as far as the nets that are exported here use them (opset 18 to 20).

Each takes its inputs, None for one that is left out, and the node's attributes. QuantizeLinear is in `simulated`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Inputs: TypeAlias = list[Any]
Words: TypeAlias = Mapping[str, Any]


def along(scale: Tensor, x: Tensor, words: Words) -> Tensor:
    """A scale or zero point (K,) shaped to stand along the axis of x that it belongs to; a single one as it is."""
    if scale.ndim == 0:
        return scale
    shape = [1] * x.ndim
    shape[words.get("axis", 1)] = -1
    return scale.reshape(shape)


def _dequantize(i: Inputs, w: Words) -> Tensor:
    q: Tensor = i[0]
    scale = along(i[1], q, w)
    return q * scale if len(i) < 3 or i[2] is None else (q - along(i[2], q, w)) * scale


def _conv(i: Inputs, w: Words) -> Tensor:
    x, padding = _padding(i[0], w, 0.0)
    bias = i[2] if len(i) > 2 else None
    return F.conv2d(x, i[1], bias, w.get("strides", 1), padding, w.get("dilations", 1), w.get("group", 1))


def _max_pool(i: Inputs, w: Words) -> Tensor:
    x, padding = _padding(i[0], w, -torch.inf)
    strides, dilations = w.get("strides", [1, 1]), w.get("dilations", 1)
    return F.max_pool2d(x, w["kernel_shape"], strides, padding, dilations, bool(w.get("ceil_mode", 0)))


def _average_pool(i: Inputs, w: Words) -> Tensor:
    x, padding = _padding(i[0], w, 0.0)
    with_pads = bool(w.get("count_include_pad", 0))
    return F.avg_pool2d(x, w["kernel_shape"], w.get("strides", [1, 1]), padding, bool(w.get("ceil_mode", 0)), with_pads)


def _padding(x: Tensor, w: Words, value: float) -> tuple[Tensor, tuple[int, int]]:
    """The same number of pixels at both ends is torch's own padding; others are put there first."""
    top, left, bottom, right = w.get("pads", (0, 0, 0, 0))
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _gemm(i: Inputs, w: Words) -> Tensor:
    a, b = (m.mT if w.get(flag, 0) else m for m, flag in ((i[0], "transA"), (i[1], "transB")))
    product: Tensor = w.get("alpha", 1.0) * (a @ b)
    return product if len(i) < 3 or i[2] is None else product + w.get("beta", 1.0) * i[2]


def _batch_norm(i: Inputs, w: Words) -> Tensor:
    x, scale, shift, mean, variance = i
    return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=w.get("epsilon", 1e-5))


def _axes(i: Inputs, w: Words) -> list[int] | None:
    given = i[1].tolist() if len(i) > 1 and i[1] is not None else w.get("axes")
    return list(given) if given is not None and len(given) else None


def _reduced(how: Callable[..., Tensor]) -> Callable[[Inputs, Words], Tensor]:
    def reduce(i: Inputs, w: Words) -> Tensor:
        x: Tensor = i[0]
        axes = _axes(i, w)
        if axes is None and w.get("noop_with_empty_axes", 0):
            return x
        return how(x, axes if axes is not None else list(range(x.ndim)), bool(w.get("keepdims", 1)))

    return reduce


def _reshape(i: Inputs, w: Words) -> Tensor:
    x: Tensor = i[0]
    shape = i[1].tolist()
    keep = not w.get("allowzero", 0)
    return x.reshape([x.shape[k] if n == 0 and keep else n for k, n in enumerate(shape)])


def _flatten(i: Inputs, w: Words) -> Tensor:
    x: Tensor = i[0]
    axis = w.get("axis", 1) % (x.ndim + 1)
    rows = int(torch.tensor(x.shape[:axis]).prod())
    return x.reshape(rows, -1)


def _clip(i: Inputs, _: Words) -> Tensor:
    x: Tensor = i[0]
    low, high = ((i[k] if len(i) > k else None) for k in (1, 2))
    return x if low is None and high is None else x.clamp(low, high)


def _pad(i: Inputs, w: Words) -> Tensor:
    x: Tensor = i[0]
    pads = i[1].tolist()
    value = float(i[2]) if len(i) > 2 and i[2] is not None else 0.0
    axes = i[3].tolist() if len(i) > 3 and i[3] is not None else range(x.ndim)
    before, after = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    around = [0] * (2 * x.ndim)
    for axis, one, other in zip(axes, before, after, strict=True):
        place = 2 * (x.ndim - 1 - axis % x.ndim)  # torch counts from the last axis
        around[place : place + 2] = one, other
    mode = w.get("mode", b"constant").decode()
    if mode == "constant":
        return F.pad(x, around, value=value)
    return F.pad(x, around[:4], mode={"edge": "replicate"}.get(mode, mode))


def _slice(i: Inputs, _: Words) -> Tensor:
    x: Tensor = i[0]
    starts, ends = i[1].tolist(), i[2].tolist()
    axes = i[3].tolist() if len(i) > 3 and i[3] is not None else range(len(starts))
    steps = i[4].tolist() if len(i) > 4 and i[4] is not None else [1] * len(starts)
    places = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places[axis] = slice(start, end, step)
    return x[tuple(places)]


def _gather(i: Inputs, w: Words) -> Tensor:
    x: Tensor = i[0]
    index, axis = i[1], w.get("axis", 0)
    found = x.index_select(axis, index.reshape(-1) % x.shape[axis])
    return found.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :] if axis != -1 else ())


def _unsqueeze(i: Inputs, _: Words) -> Tensor:
    x: Tensor = i[0]
    axes = i[1].tolist()
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(i: Inputs, w: Words) -> Tensor:
    x: Tensor = i[0]
    axes = _axes(i, w)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _layer_norm(i: Inputs, w: Words) -> Tensor:
    x, axis = i[0], w.get("axis", -1)
    shift = i[2] if len(i) > 2 else None
    return F.layer_norm(x, x.shape[axis:], i[1], shift, w.get("epsilon", 1e-5))


FLOAT = 1
"""ONNX's number for float32; everything else that is cast to here counts or compares."""

OPERATORS: dict[str, Callable[[Inputs, Words], Tensor]] = {
    "Abs": lambda i, _: i[0].abs(),
    "Add": lambda i, _: i[0] + i[1],
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda i, w: i[0].float() if w["to"] == FLOAT else i[0].long(),
    "Clip": _clip,
    "Concat": lambda i, w: torch.cat(i, w["axis"]),
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": lambda i, _: i[0] / i[1] if i[0].is_floating_point() else i[0] // i[1],
    "Elu": lambda i, w: F.elu(i[0], w.get("alpha", 1.0)),
    "Erf": lambda i, _: i[0].erf(),
    "Exp": lambda i, _: i[0].exp(),
    "Expand": lambda i, _: i[0] + i[0].new_zeros(i[1].tolist()),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": lambda i, w: F.gelu(i[0], approximate=w.get("approximate", b"none").decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda i, _: i[0].mean(tuple(range(2, i[0].ndim)), keepdim=True),
    "GlobalMaxPool": lambda i, _: i[0].amax(tuple(range(2, i[0].ndim)), keepdim=True),
    "HardSigmoid": lambda i, w: (w.get("alpha", 0.2) * i[0] + w.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda i, _: F.hardswish(i[0]),
    "Identity": lambda i, _: i[0],
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda i, w: F.leaky_relu(i[0], w.get("alpha", 0.01)),
    "Log": lambda i, _: i[0].log(),
    "LogSoftmax": lambda i, w: i[0].log_softmax(w.get("axis", -1)),
    "MatMul": lambda i, _: i[0] @ i[1],
    "Max": lambda i, _: torch.stack(torch.broadcast_tensors(*i)).amax(0),
    "MaxPool": _max_pool,
    "Min": lambda i, _: torch.stack(torch.broadcast_tensors(*i)).amin(0),
    "Mul": lambda i, _: i[0] * i[1],
    "Neg": lambda i, _: -i[0],
    "PRelu": lambda i, _: torch.where(i[0] >= 0, i[0], i[0] * i[1]),
    "Pad": _pad,
    "Pow": lambda i, _: i[0] ** i[1],
    "Reciprocal": lambda i, _: 1 / i[0],
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "Relu": lambda i, _: i[0].relu(),
    "Reshape": _reshape,
    "Shape": lambda i, w: torch.tensor(i[0].shape)[w.get("start", 0) : w.get("end")],
    "Sigmoid": lambda i, _: i[0].sigmoid(),
    "Slice": _slice,
    "Softmax": lambda i, w: i[0].softmax(w.get("axis", -1)),
    "Softplus": lambda i, _: F.softplus(i[0]),
    "Sqrt": lambda i, _: i[0].sqrt(),
    "Squeeze": _squeeze,
    "Sub": lambda i, _: i[0] - i[1],
    "Tanh": lambda i, _: i[0].tanh(),
    "Transpose": lambda i, w: i[0].permute(w.get("perm", tuple(reversed(range(i[0].ndim))))),
    "Unsqueeze": _unsqueeze,
}
"""By the name ONNX gives them. What is not here is not simulated, and the file is judged without gradients."""
