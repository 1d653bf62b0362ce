"""A small convolutional net for small images: the teacher and the students of a demo, and the net of quick tests.

Four 3x3 convolutions with batch norm, strides 1, 2, 1, 2, then a global average: any side of 4 and more works, 8x8
and 28x28 alike. The stem keeps the full resolution: with its stride there, a net of equal cost lost 2 to 5 points of
robust accuracy on 8x8 digits.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ardor.errors import ConfigError
from ardor.models.normalise import Numbers, normalise


class SmallCNN(nn.Module):
    """Images (B, channels, H, W) in [0, 1] -> logits (B, classes)."""

    foldable: ClassVar[bool] = True

    def __init__(self, classes: int, channels: int, width: int, mean: Numbers | None, std: Numbers | None) -> None:
        super().__init__()
        if width < 1:
            raise ConfigError(f"expected a width of 1 or more, got {width}: type --model.width 16")
        self.normalise = normalise(channels, mean, std)
        self.layers = nn.Sequential(
            _conv(channels, width, stride=1),
            _conv(width, 2 * width, stride=2),
            _conv(2 * width, 2 * width, stride=1),
            _conv(2 * width, 4 * width, stride=2),
        )
        self.linear = nn.Linear(4 * width, classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 4 width), the input of the last linear layer."""
        pooled: Tensor = self.layers(self.normalise(x)).mean((2, 3))
        return pooled

    def head(self, features: Tensor) -> Tensor:
        """(B, 4 width) -> (B, classes)."""
        logits: Tensor = self.linear(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        return self.head(self.features(x))


def _conv(fan_in: int, fan_out: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(fan_out), nn.ReLU())


def small_cnn(
    classes: int = 10,
    channels: int = 1,
    *,
    width: int = 16,
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> SmallCNN:
    """Four 3x3 convolutions and a linear layer, for small images.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    width
        Channels of the first convolution. 4 is a tiny student (2,294 parameters, 21 kMAC at 8x8), 32 a teacher
        (131,178 parameters, 1.2 MMAC); 16 costs 3.7 MMAC at 28x28.
    mean, std
        One number per channel on the [0, 1] scale; None and None pass raw images on.

    Raises
    ------
    ConfigError
        For a number that does not fit.
    """
    return SmallCNN(classes, channels, width, mean, std)
