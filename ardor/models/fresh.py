"""A net of the same architecture with new weights."""

from __future__ import annotations

import copy

from torch import nn

from ardor.noise import seeded


def untrained(net: nn.Module, seed: int) -> nn.Module:
    """A copy of `net` whose layers have drawn their weights anew; a layer without `reset_parameters` keeps its own."""
    net = copy.deepcopy(net)
    with seeded(seed):
        for module in net.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return net
