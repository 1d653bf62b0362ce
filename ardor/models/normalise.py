"""Normalise: the first layer of every net here, so that nothing is normalised outside the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

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


class Normalised(nn.Module):
    """A net that was normalised outside, behind its normalisation; `features` and `head` are the net's, if it has them.

    Parameters
    ----------
    net : nn.Module
        Normalised images to logits.
    mean, std : sequence of float
        One number per channel on the [0, 1] scale.

    Raises
    ------
    ConfigError
        As `normalise`.
    """

    foldable: ClassVar[bool] = True

    def __init__(self, net: nn.Module, mean: Numbers | None, std: Numbers | None) -> None:
        super().__init__()
        self.normalise = normalise(len(mean or std or ()), mean, std)
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        logits: Tensor = self.net(self.normalise(x))
        return logits

    def __getattr__(self, name: str) -> Any:
        if name == "head":
            return self.net.head
        if name == "features":
            features: Any = self.net.features
            return lambda x: features(self.normalise(x))
        return super().__getattr__(name)


def composed(net: nn.Module, mean: Numbers, std: Numbers) -> dict[str, Any]:
    """The mean and std of one layer that does what these do before those of the net's first layer."""
    first = getattr(net, "normalise", None)
    if not isinstance(first, Normalise):
        return {"mean": list(mean), "std": list(std)}
    normalise(first.mean.numel(), mean, std)  # refuses other lengths
    inner = [[round(float(v), 7) for v in values.flatten()] for values in (first.mean, first.std)]
    pairs = list(zip(mean, std, *inner, strict=True))
    return {"mean": [m + s * m_in for m, s, m_in, _ in pairs], "std": [s * s_in for _, s, _, s_in in pairs]}
