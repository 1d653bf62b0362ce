"""ONNX's operators in torch, those that exported nets contain.

A function takes the node's inputs, None for one that is left out, and its attributes by their ONNX names; it returns
the output, or a tuple of outputs. It raises for an attribute, a mode or a rank that it does not compute: such a variant
is not simulated. QuantizeLinear is in `simulated`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
"""By ONNX's numbers."""


def along(scale: Tensor, x: Tensor, axis: int = 1) -> Tensor:
    """A scale or zero point (K,) in a shape that broadcasts along an axis of x; a scalar unchanged."""
    return scale if scale.ndim == 0 else scale.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])


def _dequantize(q: Tensor, scale: Tensor, zero: Tensor | None = None, axis: int = 1) -> Tensor:
    q = q.to(scale.dtype)
    return (q if zero is None else q - along(zero.to(scale.dtype), q, axis)) * along(scale, q, axis)


def _ints(values: Any) -> list[int]:
    """Integers of an input or, in older opsets, of an attribute; none where it is left out."""
    return [] if values is None else [int(n) for n in values]


def _by_rank(x: Tensor, *functions: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function for x (B, C, L), (B, C, H, W) or (B, C, D, H, W)."""
    return dict(zip((3, 4, 5), functions, strict=True))[x.ndim]


def _padded(x: Tensor, pads: Any, auto_pad: bytes, value: float, most: Any = ()) -> tuple[Tensor, list[int]]:
    """Equal padding at both ends, of up to `most`, is left to torch's own argument; any other is added to x."""
    if auto_pad not in (b"NOTSET", b"VALID"):
        raise NotImplementedError(f"auto_pad {auto_pad.decode()}")
    axes = x.ndim - 2
    before, after = list(pads[:axes]) or [0] * axes, list(pads[axes:]) or [0] * axes
    if before == after and all(p <= m for p, m in zip(before, most or before, strict=True)):
        return x, before
    around = [p for pair in zip(reversed(before), reversed(after), strict=True) for p in pair]
    return F.pad(x, around, value=value), [0] * axes


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, kernel_shape: Any = None, auto_pad: bytes = b"NOTSET",
    pads: Any = (), strides: Any = 1, dilations: Any = 1, group: int = 1,
) -> Tensor:  # fmt: skip
    x, padding = _padded(x, pads, auto_pad, 0.0)
    return _by_rank(x, F.conv1d, F.conv2d, F.conv3d)(x, weight, bias, strides, padding, dilations, group)


def _conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, kernel_shape: Any = None, auto_pad: bytes = b"NOTSET",
    pads: Any = (), strides: Any = 1, dilations: Any = 1, group: int = 1, output_padding: Any = 0,
) -> Tensor:  # fmt: skip
    same, padding = _padded(x, pads, auto_pad, 0.0)
    if same is not x:
        raise NotImplementedError(f"pads {pads}")
    convolve = _by_rank(x, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
    return convolve(x, weight, bias, strides, padding, output_padding, group, dilations)


def _max_pool(
    x: Tensor, kernel_shape: Any, auto_pad: bytes = b"NOTSET", pads: Any = (), strides: Any = 1, dilations: Any = 1,
    ceil_mode: int = 0, storage_order: int = 0,
) -> Tensor:  # fmt: skip
    x, padding = _padded(x, pads, auto_pad, -torch.inf, [k // 2 for k in kernel_shape])
    pool = _by_rank(x, F.max_pool1d, F.max_pool2d, F.max_pool3d)
    return pool(x, kernel_shape, strides, padding, dilations, bool(ceil_mode))


def _average_pool(
    x: Tensor, kernel_shape: Any, auto_pad: bytes = b"NOTSET", pads: Any = (), strides: Any = 1, ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:  # fmt: skip
    pool = _by_rank(x, F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
    same, padding = _padded(x, pads, auto_pad, 0.0, [k // 2 for k in kernel_shape])
    pooled = pool(same, kernel_shape, strides, padding, bool(ceil_mode), bool(count_include_pad))
    if same is x or count_include_pad:
        return pooled
    counted, _ = _padded(torch.ones_like(x), pads, auto_pad, 0.0, [k // 2 for k in kernel_shape])
    return pooled / pool(counted, kernel_shape, strides, padding, bool(ceil_mode))


def _batch_norm(
    x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor,
    epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0,
) -> Tensor:  # fmt: skip
    if training_mode:
        return F.batch_norm(x, None, None, scale, shift, True, eps=epsilon)
    factor = scale / (var + epsilon).sqrt()  # not F.batch_norm: statistics of the batch have a gradient
    return x * along(factor, x) + along(shift - mean * factor, x)


def _resize(
    x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None,
    mode: bytes = b"nearest", coordinate_transformation_mode: bytes = b"half_pixel", cubic_coeff_a: float = -0.75,
    nearest_mode: bytes = b"round_prefer_floor", antialias: int = 0, exclude_outside: int = 0,
    keep_aspect_ratio_policy: bytes = b"stretch", extrapolation_value: float = 0.0,
) -> Tensor:  # fmt: skip
    kind = {b"nearest": "nearest", b"linear": ("linear", "bilinear", "trilinear")[x.ndim - 3], b"cubic": "bicubic"}
    name, corners = kind[mode], None if mode == b"nearest" else coordinate_transformation_mode == b"align_corners"
    if mode == b"nearest" and coordinate_transformation_mode != b"asymmetric":
        name = "nearest-exact"
    size, scale = _ints(sizes)[2:] or None, None if scales is None else scales.tolist()[2:] or None
    return F.interpolate(x, size, None if size else scale, name, corners, False, bool(antialias))


def _gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None,
    alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0,
) -> Tensor:  # fmt: skip
    product = alpha * ((a.mT if transA else a) @ (b.mT if transB else b))
    return product if c is None else product + beta * c


def _reduced(reduce: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def operator(x: Tensor, axes: Any = None, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        dims = _ints(axes)
        return x if noop_with_empty_axes and not dims else reduce(x, dims or list(range(x.ndim)), bool(keepdims))

    return operator


def _reshape(x: Tensor, shape: Tensor, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[k] if n == 0 and not allowzero else n for k, n in enumerate(shape.tolist())])


PLACES: dict[bytes, Callable[[Tensor, int], Tensor]] = {
    b"edge": lambda place, n: place.clamp(0, n - 1),
    b"reflect": lambda place, n: n - 1 - (place % (2 * n - 2) - (n - 1)).abs(),
    b"wrap": lambda place, n: place % n,
}
"""The place in 0 .. n - 1 that a padded axis of length n has at a place before 0 or from n on, by the mode of Pad."""


def _pad(x: Tensor, pads: Any, value: Any = None, axes: Any = None, mode: bytes = b"constant") -> Tensor:
    ends = _ints(pads)
    for axis, before, after in zip(
        _ints(axes) or range(x.ndim), ends[: len(ends) // 2], ends[len(ends) // 2 :], strict=True
    ):
        n, behind = x.shape[axis], [0, 0] * (x.ndim - 1 - axis % x.ndim)  # torch counts from the last axis
        if mode == b"constant":
            x = F.pad(x, [*behind, before, after], value=0.0 if value is None else float(value))
        elif before or after:
            x = x.index_select(axis, PLACES[mode](torch.arange(-before, n + after), n))
    return x


def _slice(x: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    by = _ints(steps) or [1] * len(starts)
    for axis, start, end, step in zip(_ints(axes) or range(len(starts)), _ints(starts), _ints(ends), by, strict=True):
        places = range(x.shape[axis])[start:end:step]
        if step == 1:
            x = x.narrow(axis, places.start, len(places))
        else:
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return x


def _split(x: Tensor, sizes: Any = None, axis: int = 0, num_outputs: int = 0, split: Any = None) -> tuple[Tensor, ...]:
    given = _ints(sizes) or _ints(split)
    parts: tuple[Tensor, ...] = torch.split(x, given or -(-x.shape[axis] // num_outputs), axis)
    return parts


def _gather(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    axis %= x.ndim
    rows = x.index_select(axis, index.reshape(-1) % x.shape[axis])
    return rows.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _unsqueeze(x: Tensor, axes: Any) -> Tensor:
    dims = _ints(axes)
    for axis in sorted(axis % (x.ndim + len(dims)) for axis in dims):
        x = x.unsqueeze(axis)
    return x


def _depth_to_space(x: Tensor, blocksize: int, mode: bytes = b"DCR") -> Tensor:
    if mode == b"CRD":
        return F.pixel_shuffle(x, blocksize)
    b, c, h, w = x.shape
    blocks = x.reshape(b, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(b, c // blocksize**2, h * blocksize, w * blocksize)


def _layer_norm(
    x: Tensor, scale: Tensor, shift: Tensor | None = None, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    return F.layer_norm(x, x.shape[axis:], scale, shift, epsilon)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda x, to, saturate=1: x.to(DTYPES[to]),  # to integers and booleans without a gradient, as in torch
    "Celu": lambda x, alpha=1.0: F.celu(x, alpha),
    "Clip": lambda x, min=None, max=None: x if min is None and max is None else x.clamp(min, max),
    "Concat": lambda *x, axis: torch.cat(x, axis),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": lambda a, b: a / b if a.is_floating_point() else a.div(b, rounding_mode="trunc"),
    "Einsum": lambda *x, equation: torch.einsum(equation.decode(), *x),
    "Elu": F.elu,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": lambda x, shape: x + x.new_zeros(shape.tolist()),
    "Flatten": lambda x, axis=1: x.reshape(x.shape[:axis].numel(), -1),
    "Gather": _gather,
    "Gelu": lambda x, approximate=b"none": F.gelu(x, approximate=approximate.decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "InstanceNormalization": lambda x, scale, shift, epsilon=1e-5: F.instance_norm(
        x, weight=scale, bias=shift, eps=epsilon
    ),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, alpha=0.01: F.leaky_relu(x, alpha),
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "LogSoftmax": lambda x, axis=-1: x.log_softmax(axis),
    "MatMul": torch.matmul,
    "Max": lambda *x: torch.stack(torch.broadcast_tensors(*x)).amax(0),
    "MaxPool": _max_pool,
    "Min": lambda *x: torch.stack(torch.broadcast_tensors(*x)).amin(0),
    "Mish": F.mish,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "PRelu": lambda x, slope: torch.where(x >= 0, x, x * slope),
    "Pad": _pad,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "ReduceL1": _reduced(lambda x, dims, keep: x.abs().sum(dims, keep)),
    "ReduceL2": _reduced(lambda x, dims, keep: torch.linalg.vector_norm(x, dim=dims, keepdim=keep)),
    "ReduceLogSumExp": _reduced(torch.logsumexp),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda x, start=0, end=None: torch.tensor(x.shape)[start:end],
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": lambda x, axis=-1: x.softmax(axis),
    "Softplus": F.softplus,
    "Split": _split,
    "Sqrt": torch.sqrt,
    "Squeeze": lambda x, axes=None: x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes))),
    "Sub": torch.sub,
    "Sum": lambda *x: sum(x),
    "Tanh": torch.tanh,
    "Transpose": lambda x, perm=None: x.permute(perm or tuple(reversed(range(x.ndim)))),
    "Unsqueeze": _unsqueeze,
    "Where": torch.where,
}
"""By their ONNX names. A file with another operator, or another variant of one, is evaluated without gradients."""
