"""Normalise: the first layer of every net here, so that nothing is normalised outside the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ardor.errors import ConfigError

Numbers = Sequence[float]
"""One number per image channel, on the [0, 1] scale."""


class Normalise(nn.Module):
    """(x - mean) / std per channel: (B, C, H, W) -> (B, C, H, W).

    The buffers are not part of the state dict: most published checkpoints lack them, and a run's config has them.
    """

    foldable: ClassVar[bool] = True

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Numbers, std: Numbers) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to images of mean 0 and deviation 1."""
        return (x - self.mean) / self.std


def normalise(channels: int, mean: Numbers | None, std: Numbers | None) -> nn.Module:
    """The first layer for images of `channels` channels: None and None pass raw images on. Raises ConfigError."""
    if mean is None and std is None:
        return nn.Identity()
    if mean is None or std is None:
        raise ConfigError("expected mean and std together, got one of them: give both, or neither for raw images")
    # A single number would broadcast over the channels, and three numbers would turn a grey image into a colour one.
    if not len(mean) == len(std) == channels:
        raise ConfigError(
            f"expected {channels} numbers in mean and in std, one per image channel, got {len(mean)} and {len(std)}: "
            f"give {channels} of each"
        )
    if not all(s > 0 for s in std):
        raise ConfigError(f"expected every std above 0, got {list(std)}: give deviations on the [0, 1] scale")
    return Normalise(mean, std)
