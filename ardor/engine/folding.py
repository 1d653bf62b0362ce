"""The attack's twin: the same function as a net in eval mode, with batch norm folded into convolutions, channels last.

In eval mode a batch norm is one scale and shift per channel, so after a convolution it disappears into its weights:
fewer passes over memory, exact but for rounding. The twin takes the net's present weights each time it is asked for.

A trace cannot see what Python code decides anew at each call, and loses the backward pass of a custom autograd
function, which would hide gradients and fake robustness. So only a net made of torch's and ardor's own layers has a
twin; the first time, its logits and input gradients must be the net's; and a net with other layers, parameters or hooks
than when it was traced is traced again. Any other net is attacked as it is.
"""

from __future__ import annotations

import logging
import operator
import weakref
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ardor.engine.precision import passed

log = logging.getLogger(__name__)

_traced: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], FoldedNet | None]] = weakref.WeakKeyDictionary()


def folded(net: nn.Module, dtype: torch.dtype = torch.float32, compiled: bool = False) -> Any:
    """The twin of `net`, which must be in eval mode, with its present weights; `net` itself where there can be none.

    dtype: bfloat16 for passes in it, by autocast, with the folded weights rounded once; logits stay float32.
    compiled: by torch.compile, for batches of the first one's shape; on a GPU as a CUDA graph.
    """
    if not is_known(net):
        return net
    parts = _parts(net)
    if net not in _traced or _traced[net][0] != parts:
        _traced[net] = (parts, _trace(net))
    twin = _traced[net][1]
    if twin is None:
        return net
    twin.refresh(dtype)
    twin.__dict__["compiled"] = compiled
    return twin


def is_known(net: nn.Module) -> bool:
    """Whether every layer is torch's or declared `foldable`, and no hook is there to miss what is folded away.

    A class is `foldable` if it sets that attribute itself: a subclass may compute something else.
    """
    return all(
        (vars(type(m)).get("foldable", False) or type(m).__module__.startswith("torch.nn."))
        and not (m._forward_hooks or m._forward_pre_hooks or m._backward_hooks)
        for m in net.modules()
    )


def _parts(net: nn.Module) -> tuple[int, ...]:
    """What a trace holds on to: a layer, parameter or buffer that is another object makes another net."""
    return tuple(id(part) for group in (net.modules(), net.parameters(), net.buffers()) for part in group)


def as_given(view: Any) -> Any:
    """The net that was given, where `view` stands in for it; any other net is itself."""
    return view.as_given() if hasattr(type(view), "as_given") else view


class FoldedNet:
    """A traced net whose convolutions carry the batch norms behind them. Anything but a call is the net's own."""

    def __init__(self, net: nn.Module, graph: fx.GraphModule, folded: list[Folded]) -> None:
        self.__dict__.update(net=weakref.proxy(net), key=weakref.ref(net), graph=graph, folded=folded, agreed=False)
        self.__dict__.update(dtype=torch.float32, compiled=False, made={})

    def as_given(self) -> nn.Module:
        """The net itself."""
        return self.__dict__["key"]()  # type: ignore[no-any-return]

    def refresh(self, dtype: torch.dtype = torch.float32) -> None:
        """Take the net's present weights, and compute in `dtype` from now on."""
        self.__dict__["dtype"] = dtype
        for pair in self.__dict__["folded"]:
            pair.refresh(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Images to logits, as the net in eval mode."""
        own = self.__dict__
        if not own["agreed"]:
            if not self._agrees(x):
                net = own["key"]()
                _traced[net] = (_parts(net), None)
                return passed(net, own["dtype"], x)
            own["agreed"] = True
        x = x.contiguous(memory_format=torch.channels_last)
        return self._compiled(x) if own["compiled"] else passed(own["graph"], own["dtype"], x)

    def _compiled(self, x: Tensor) -> Tensor:
        """The same, compiled for the shape of the first batch; another shape, the last batch's, is not worth it."""
        own = self.__dict__
        if own["dtype"] not in own["made"]:
            own["made"][own["dtype"]] = x.shape, compile_(own["graph"], x)
        shape, run = own["made"][own["dtype"]]
        if run is None or shape != x.shape:
            return passed(own["graph"], own["dtype"], x)
        try:
            return passed(run, own["dtype"], x).clone()  # a CUDA graph writes its next answer over this one
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = " ".join(str(error).split())[:200]
            log.warning("%s cannot be compiled and is attacked uncompiled: %s", type(own["key"]()).__name__, cause)
            own["made"][own["dtype"]] = (shape, None)
            return passed(own["graph"], own["dtype"], x)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask for these before there is a net
            raise AttributeError(name)
        return getattr(self.__dict__["net"], name)

    def _agrees(self, x: Tensor) -> bool:
        """Whether net and twin give the same logits and the same input gradients, in float32 whatever is asked."""
        net, dtype = self.__dict__["key"](), self.__dict__["dtype"]
        if dtype != torch.float32:
            self.refresh()
        ours, theirs = _logits_and_gradient(self.__dict__["graph"], x), _logits_and_gradient(net, x)
        if dtype != torch.float32:
            self.refresh(dtype)
        same = all(_close(a, b) for a, b in zip(ours, theirs, strict=True))
        if not same:
            log.warning("a %s answers otherwise than its trace: attacked as it is", type(net).__name__)
        return same


class Folded(nn.Module):
    """A convolution and the batch norm behind it as one convolution: W' = W g, b' = (b - mean) g + beta."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | nn.SyncBatchNorm | None) -> None:
        super().__init__()
        self.__dict__.update(conv=conv, norm=norm)
        self.refresh()

    @torch.no_grad()
    def refresh(self, dtype: torch.dtype = torch.float32) -> None:
        """Fold again, from the present weights and running statistics, and round to `dtype`."""
        conv, norm = self.__dict__["conv"], self.__dict__["norm"]
        weight, bias = conv.weight, conv.bias
        if norm is not None:
            gain = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
            bias = ((0 if bias is None else bias) - norm.running_mean) * gain + (0 if norm.bias is None else norm.bias)
            weight = weight * gain[:, None, None, None]
        weight = weight.detach().contiguous(memory_format=torch.channels_last)
        if dtype != torch.float32:
            weight, bias = weight.to(dtype), bias if bias is None else bias.to(dtype)
        self.__dict__.update(weight=weight, bias=bias if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        conv, own = self.__dict__["conv"], self.__dict__
        return F.conv2d(x, own["weight"], own["bias"], conv.stride, conv.padding, conv.dilation, conv.groups)


def compile_(graph: fx.GraphModule, x: Tensor) -> Any:
    """The graph as torch.compile makes it, when it is first called."""
    return torch.compile(graph, fullgraph=True, dynamic=False, mode="reduce-overhead" if x.is_cuda else "default")


def _logits_and_gradient(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = x.detach().clone().requires_grad_()
        logits = net(z)
        (grad,) = torch.autograd.grad(logits.square().sum(), z)
    return logits.detach(), grad


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding and a rare kink: the length of the difference beside the length of the values."""
    return a.shape == b.shape and bool((a - b).norm() <= 1e-2 * b.norm() + 1e-12)


def _trace(net: nn.Module) -> FoldedNet | None:
    try:
        graph = fx.symbolic_trace(net)
    except Exception as error:
        log.info("%s cannot be traced and is attacked as it is: %s", type(net).__name__, error)
        return None
    return FoldedNet(net, graph, _fold(graph))


def _fold(traced: fx.GraphModule) -> list[Folded]:
    """Replace each convolution, and the batch norm behind it where nothing else reads it, by one folded convolution."""
    modules = dict(traced.named_modules())
    folded = []
    for node in list(traced.graph.nodes):
        conv = modules.get(node.target) if node.op == "call_module" else None
        if type(conv) is not nn.Conv2d or conv.padding_mode != "zeros":
            continue
        behind: Any = next(iter(node.users), None)
        norm = modules.get(behind.target) if behind is not None and behind.op == "call_module" else None
        known = type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm)  # the same function in eval mode
        foldable = len(node.users) == 1 and known and norm.track_running_stats  # type: ignore[union-attr]
        pair = Folded(conv, norm if foldable else None)
        folded.append(pair)
        name = f"folded_{len(folded)}"
        traced.add_submodule(name, pair)
        node.target = name
        if foldable:
            behind.replace_all_uses_with(node)
            traced.graph.erase_node(behind)
    _relu_in_place(traced)
    traced.recompile()
    return folded


def _relu_in_place(traced: fx.GraphModule) -> None:
    """Let a ReLU write over its input where nothing else reads that: convolutions and sums need it no more."""
    for node in traced.graph.nodes:
        before = node.args[0] if node.args else None
        if node.op != "call_function" or node.target not in (F.relu, F.relu6) or not isinstance(before, fx.Node):
            continue
        made = traced.get_submodule(before.target) if before.op == "call_module" else before.target  # type: ignore[arg-type]
        if len(before.users) == 1 and (made in (operator.add, torch.add) or isinstance(made, Folded)):
            node.kwargs = {**node.kwargs, "inplace": True}
