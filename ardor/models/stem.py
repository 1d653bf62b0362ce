"""The stem of a net: CIFAR's, without a stride, or that of the papers, for larger images."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ardor.errors import ConfigError

Stem: TypeAlias = Literal["cifar", "imagenet"]
SIDE = 64
"""The longest side, in pixels, of images for CIFAR's stem: at 224 pixels a pass costs 49 times one at 32."""


def is_large(stem: Stem) -> bool:
    """Whether a stem is for images above `SIDE`. Raises ConfigError for another word."""
    if stem not in ("cifar", "imagenet"):
        raise ConfigError(f'expected a stem of cifar or imagenet, got "{stem}": type --model.stem imagenet')
    return stem == "imagenet"
