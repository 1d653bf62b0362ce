"""Batch-norm folding for attacks: a trace of a net in eval mode, channels last, without batch norms.

In eval mode a batch norm is one scale and shift per channel, so behind a convolution it is part of its weights: fewer
passes over memory, equal but for rounding. A folded net takes the net's present weights each time it is requested.

A trace holds Python's decisions of one call, and loses the backward pass of a custom autograd function, which would
hide gradients and fake robustness. So only nets of torch's, timm's and ardor's own layers are folded; at the first
pass, logits and input gradients must match the net's; and a net whose layers, their settings and code, parameters or
hooks have changed is traced again. Any other net is attacked as it is.
"""

from __future__ import annotations

import logging
import math
import operator
import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ardor.engine.precision import passed

log = logging.getLogger(__name__)

_traced: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[Any, ...], FoldedNet | None]] = weakref.WeakKeyDictionary()
_BOOKKEEPING = frozenset(vars(nn.Module()))
_PLAIN = (int, float, str, tuple, list, dict, type(None))
PIXELS = 2**16  # of a chunk
GLOBAL_HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")


def folded(net: nn.Module, dtype: torch.dtype = torch.float32, compiled: bool = False) -> Any:
    """The folded net of `net`, which is in eval mode, with its present weights; `net` itself where it cannot be folded.

    Parameters
    ----------
    dtype : torch.dtype
        bfloat16 for passes by autocast, with the folded weights rounded once; logits stay float32.
    compiled : bool
        Use torch.compile for batches of the first one's shape; on a GPU as a CUDA graph.
    """
    if not is_known(net):
        return net
    parts = _parts(net)
    if net not in _traced or _traced[net][0] != parts:
        _traced[net] = (parts, _trace(net))
    result = _traced[net][1]
    if result is None:
        return net
    result.refresh(dtype)
    result.compiled = compiled
    return result


def is_known(net: nn.Module) -> bool:
    """Whether every layer is torch's, timm's or declared `foldable`, and computes what its class does.

    A class is `foldable` if it sets that attribute itself: a subclass may compute something else. A trace skips hooks,
    global ones too, and takes a function in an attribute, such as a replaced `forward`, as it is at that moment.
    """
    return not any(vars(torch.nn.modules.module)[f"_global_{hooks}"] for hooks in GLOBAL_HOOKS) and all(
        (vars(type(m)).get("foldable", False) or type(m).__module__.startswith("torch.nn.") or _is_timm(m))
        and not (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks)
        and not any(map(callable, vars(m).values()))
        for m in net.modules()
    )


def _is_timm(module: nn.Module) -> bool:
    """Whether a layer is timm's, and keeps no tensors of earlier calls, which would be constants of a trace."""
    return type(module).__module__.startswith("timm.") and not any("cache" in name for name in vars(module))


def is_norm_act(module: nn.Module | None) -> bool:
    """Whether a layer is timm's batch norm with an activation and without dropout."""
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    return name == "timm.layers.norm_act.BatchNormAct2d" and type(module.drop) is nn.Identity  # type: ignore[union-attr]


class _Tracer(fx.Tracer):
    """Timm's batch norms stay whole, as torch's do."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_norm_act(m) or super().is_leaf_module(m, module_qualified_name)


def _parts(net: nn.Module) -> tuple[Any, ...]:
    """What a trace depends on: layers, parameters and buffers by identity; settings, classes and their `forward`."""
    parts: list[Any] = [id(part) for group in (net.parameters(), net.buffers()) for part in group]
    for module in net.modules():
        cls = type(module)
        parts += [id(module), cls, cls.forward, cls.__call__]
        parts += [
            (name, repr(value) if isinstance(value, _PLAIN) else id(value))
            for name, value in vars(module).items()
            if name not in _BOOKKEEPING
        ]
    return tuple(parts)


def as_given(view: Any) -> Any:
    """The net behind a view of it, such as a folded net; any other net is returned."""
    return view.as_given() if hasattr(type(view), "as_given") else view


class FoldedNet:
    """A traced net whose convolutions contain the batch norms behind them; every attribute is the net's."""

    def __init__(self, net: nn.Module, graph: fx.GraphModule, folded: list[Folded]) -> None:
        self.net, self.reference = weakref.proxy(net), weakref.ref(net)
        self.graph, self.folded = graph, folded
        self.matches: bool | None = None  # before the first pass
        self.dtype, self.compiled = torch.float32, False
        self.compilations: dict[torch.dtype, tuple[torch.Size, Any]] = {}

    def as_given(self) -> Any:
        """The net itself."""
        return self.reference()

    def refresh(self, dtype: torch.dtype = torch.float32) -> None:
        """Take the net's present weights, and compute in `dtype` from now on."""
        self.dtype = dtype
        for layer in self.folded:
            layer.refresh(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Images to logits, as the net in eval mode."""
        if self.matches is None:
            self.matches = self._compare(x)
            if not self.matches:
                _traced[self.as_given()] = (_parts(self.as_given()), None)
        if not self.matches:
            return passed(self.as_given(), self.dtype, x)
        x = x.contiguous(memory_format=torch.channels_last)
        return self._compiled(x) if self.compiled else self._in_chunks(x)

    def _in_chunks(self, x: Tensor) -> Tensor:
        """A pass, on a CPU chunk by chunk, so that activations stay in its caches; a row depends on no other."""
        number = 1 if x.is_cuda else math.ceil(len(x) / chunk_of(x.shape[2:]))
        if number == 1:
            return passed(self.graph, self.dtype, x)
        return torch.cat([passed(self.graph, self.dtype, part) for part in x.tensor_split(number)])

    def _compiled(self, x: Tensor) -> Tensor:
        """A compiled pass for the shape of the first batch; another shape, the last batch's, is not compiled."""
        if self.dtype not in self.compilations:
            self.compilations[self.dtype] = x.shape, compile_(self.graph, x)
        shape, run = self.compilations[self.dtype]
        if run is not None and shape == x.shape:
            try:
                return passed(run, self.dtype, x).clone()  # a CUDA graph overwrites its output in the next call
            except torch._dynamo.exc.TorchDynamoException as error:
                name, cause = type(self.as_given()).__name__, " ".join(str(error).split())[:200]
                log.warning("%s cannot be compiled and is attacked uncompiled: %s", name, cause)
                self.compilations[self.dtype] = (shape, None)
        return self._in_chunks(x)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look these up before there is a net
            raise AttributeError(name)
        return getattr(self.__dict__["net"], name)

    def _compare(self, x: Tensor) -> bool:
        """Whether logits and input gradients are those of the net, compared in float32."""
        net, dtype = self.as_given(), self.dtype
        self.refresh()
        ours, expected = _logits_and_gradient(self.graph, x), _logits_and_gradient(net, x)
        self.refresh(dtype)
        if all(close(a, b) for a, b in zip(ours, expected, strict=True)):
            return True
        log.warning("a %s answers otherwise than its trace: attacked as it is", type(net).__name__)
        return False


class Folded(nn.Module):
    """A convolution and the batch norm behind it as one convolution: W' = W g, b' = (b - mean) g + beta."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | nn.SyncBatchNorm | None) -> None:
        super().__init__()
        self.__dict__.update(conv=conv, norm=norm)  # not as submodules, and the weights not as parameters
        self.refresh()

    @torch.no_grad()
    def refresh(self, dtype: torch.dtype = torch.float32) -> None:
        """Fold the present weights and running statistics, and round to `dtype`."""
        conv, norm = self.__dict__["conv"], self.__dict__["norm"]
        weight, bias = conv.weight, conv.bias
        if norm is not None:
            gain = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
            bias = ((0 if bias is None else bias) - norm.running_mean) * gain + (0 if norm.bias is None else norm.bias)
            weight = weight * gain[:, None, None, None]
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        bias = None if bias is None else bias.detach()
        if dtype != torch.float32:
            weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        self.__dict__.update(weight=weight, bias=bias)

    def as_conv(self) -> nn.Conv2d:
        """A layer of torch with the folded weights."""
        conv, weight, bias = (self.__dict__[name] for name in ("conv", "weight", "bias"))
        channels = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding
        layer = nn.Conv2d(*channels, conv.dilation, conv.groups, bias is not None, device="meta")
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        conv = self.__dict__["conv"]
        weight, bias = self.__dict__["weight"], self.__dict__["bias"]
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def chunk_of(size: Sequence[int]) -> int:
    """Images of (H, W) that pass a net at once on a CPU: 64 of 32 x 32, 1,024 of 8 x 8, at least 8."""
    return max(PIXELS // math.prod(size), 8)


def compile_(graph: fx.GraphModule, x: Tensor) -> Any:
    """The graph by torch.compile, which compiles at the first call."""
    return torch.compile(graph, fullgraph=True, dynamic=False, mode="reduce-overhead" if x.is_cuda else "default")


def _logits_and_gradient(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_()
        logits = net(z)
        (grad,) = torch.autograd.grad(logits.square().sum(), z)
    return logits.detach(), grad


def close(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding and a rare kink, by the norm of the difference."""
    return a.shape == b.shape and bool((a - b).norm() <= 1e-2 * b.norm() + 1e-12)


def _trace(net: nn.Module) -> FoldedNet | None:
    try:
        graph = fx.GraphModule(net, _Tracer().trace(net))
    except Exception as error:
        log.info("%s cannot be traced and is attacked as it is: %s", type(net).__name__, error)
        return None
    return FoldedNet(net, graph, _fold(graph))


def _fold(traced: fx.GraphModule) -> list[Folded]:
    """Replace each convolution, and the batch norm behind it where nothing else reads it, by one folded convolution."""
    modules = dict(traced.named_modules())
    folded: list[Folded] = []
    for node in list(traced.graph.nodes):
        conv = modules.get(node.target) if node.op == "call_module" else None
        if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros":
            continue
        reader: Any = next(iter(node.users)) if len(node.users) == 1 else None
        norm = modules.get(reader.target) if reader is not None and reader.op == "call_module" else None
        with_act = is_norm_act(norm)
        foldable = with_act or type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm)
        foldable = foldable and norm.running_var is not None  # type: ignore[union-attr]
        folded.append(Folded(conv, norm if foldable else None))
        node.target = f"folded_{len(folded)}"
        traced.add_submodule(node.target, folded[-1])
        if foldable and with_act:
            reader.target += ".act"
        elif foldable:
            reader.replace_all_uses_with(node)
            traced.graph.erase_node(reader)
    _relu_in_place(traced)
    traced.recompile()
    return folded


def _relu_in_place(traced: fx.GraphModule) -> None:
    """Let a ReLU overwrite its input where nothing else reads it: convolutions and sums do not need their output."""
    for node in traced.graph.nodes:
        before = node.args[0] if node.args else None
        if node.op != "call_function" or node.target not in (F.relu, F.relu6) or not isinstance(before, fx.Node):
            continue
        source = traced.get_submodule(before.target) if before.op == "call_module" else before.target  # type: ignore[arg-type]
        if len(before.users) == 1 and (source in (operator.add, torch.add) or isinstance(source, Folded)):
            node.kwargs = {**node.kwargs, "inplace": True}
