"""The cost of a net in multiply-accumulates and passes, counted on real passes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ardor.engine.folding import as_given
from ardor.engine.modes import attack_view, device_of
from ardor.types import Images, Logits, Net


def macs(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one image of `shape` (C, H, W): convolutions and matrix products."""
    with torch.no_grad(), attack_view(net), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *shape, dtype=torch.float32, device=device_of(net)))
    return int(counter.get_total_flops()) // 2


class CountedNet:
    """A net that counts the images of its forward passes and of the backward passes to its input.

    Parameters
    ----------
    net : callable
        Images to logits.
    tick : callable, optional
        Called after every forward pass with the number of passes so far, whatever their batch size.
    """

    def __init__(self, net: Net, tick: Callable[[int], None] | None = None) -> None:
        self.net, self.tick = net, tick
        self.reset()

    def __call__(self, x: Images) -> Logits:
        """Images to logits."""
        logits = self.net(x)
        self.forwards += len(x)
        self.calls += 1
        if logits.requires_grad:
            logits.register_hook(self._back)
        if self.tick is not None:
            self.tick(self.calls)
        return logits

    def as_given(self) -> Any:
        """The net itself; this view where it is of the net itself."""
        net = as_given(self.net)
        return self if net is self.net else net

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["net"], name)

    def reset(self) -> None:
        """Set the counts to 0."""
        self.forwards = self.backwards = self.calls = 0

    def _back(self, grad: Tensor) -> None:
        self.backwards += len(grad)
        self.calls += 1


@dataclass
class Passes:
    """Passes through a net's layers, in multiply-accumulates: forward, back to the input, and to the weights."""

    forward: float = 0.0
    backward: float = 0.0
    weights: float = 0.0

    @property
    def total(self) -> float:
        """All three."""
        return self.forward + self.backward + self.weights


@contextlib.contextmanager
def count_flops(layers: Sequence[nn.Module]) -> Iterator[Passes]:
    """Count the passes through `layers` of a net; their hooks, which also keep the net from folding, end with it."""
    passes = Passes()
    hooks = [hook for layer in layers for hook in _watch(layer, passes)]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def _watch(layer: nn.Module, passes: Passes) -> list[Any]:
    """Hooks on a layer, and on its largest parameter, which are called only where its gradient is computed."""
    waiting = 0.0  # backward passes since the last forward one: to the weights too, if their hook is called
    weight = max((p for p in layer.parameters() if p.requires_grad), key=Tensor.numel, default=None)

    def forward(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal waiting
        waiting, cost, learns = 0.0, _macs(layer, out), weight is not None and weight.requires_grad
        passes.forward += cost

        def backward(grad: Tensor) -> None:
            nonlocal waiting
            passes.backward += cost
            waiting += cost * learns

        if out.requires_grad:
            out.register_hook(backward)

    def weights(grad: Tensor) -> None:
        nonlocal waiting
        passes.weights += waiting
        waiting = 0.0

    return [layer.register_forward_hook(forward), *([weight.register_hook(weights)] if weight is not None else [])]


def _macs(layer: nn.Module, out: Tensor) -> float:
    if isinstance(layer, nn.Linear):
        return out.numel() * layer.in_features
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return out.numel() * math.prod(layer.weight.shape[1:])
    return len(out)
