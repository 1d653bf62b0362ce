"""A net of the same architecture with new weights."""

from __future__ import annotations

import copy

from torch import nn

from ardor.noise import seed_of, seeded

PURPOSE = 0x4E4554
"""Keeps the draws apart from those of `models.build` with the same seed, whose net may be this very one."""


def untrained(net: nn.Module, seed: int) -> nn.Module:
    """A copy of `net` whose layers have drawn their weights anew; a layer without `reset_parameters` keeps its own."""
    net = copy.deepcopy(net)
    with seeded(seed_of(PURPOSE, seed)):
        for module in net.modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()
    return net
