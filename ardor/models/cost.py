"""What a net costs: multiply-accumulates of one image, counted on a real forward pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ardor.modes import attack_view


def macs(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of `shape` (C, H, W); modes are put back."""
    counted = 0

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal counted
        if isinstance(layer, nn.Conv2d):
            counted += out[0].numel() * math.prod(layer.weight.shape[1:])
        elif isinstance(layer, nn.Linear):
            counted += out[0].numel() * layer.in_features

    hooks = [layer.register_forward_hook(count) for layer in net.modules()]
    try:
        with torch.no_grad(), attack_view(net):
            device = next((p.device for p in net.parameters()), torch.device("cpu"))
            net(torch.zeros(1, *shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return counted
