"""The number of threads of torch on a CPU: one for a small net, whose layers are shorter than a barrier."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from ardor.engine.flops import macs
from ardor.errors import ConfigError
from ardor.noise import seeded

SMALL = 20e6
"""Multiply-accumulates of one image below which a net is small."""


def threads_for(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """1 for a small net on a CPU, else torch's present number.

    Parameters
    ----------
    net : nn.Module
        Torch's number where none of its layers can be counted.
    shape : tuple of int
        (C, H, W) of an image.
    """
    present = torch.get_num_threads()
    if present == 1 or any(p.device.type != "cpu" for p in net.parameters()):
        return present
    with seeded(0):  # for a net with random layers
        return 1 if 0 < macs(net, shape) < SMALL else present


def use_threads(number: int) -> None:
    """Set torch's number of threads. Raises ConfigError below 1."""
    if number < 1:
        raise ConfigError(f"expected a number of threads of at least 1, got {number}: type --threads 1")
    torch.set_num_threads(number)


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Restore torch's number of threads on exit."""
    number = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(number)
