"""MobileNetV2 for small images (Sandler et al., CVPR 2018), in the CIFAR form of github kuangliu/pytorch-cifar.

Differs from the paper as that code does: the stem and the second stage have stride 1 unless `stem` is "imagenet", ReLU
instead of ReLU6, and a block of stride 1 always adds a residual, through a 1x1 convolution where the channels change.
Names are that code's. A width below 1 scales every layer, the last too (which the paper keeps), to multiples of 4 (the
paper's are of 8).
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ardor.errors import ConfigError
from ardor.models.normalise import Numbers, normalise
from ardor.models.stem import Stem, is_large

# (expansion, channels out, repeats, stride of the first block)
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class Block(nn.Module):
    """1x1 expansion, 3x3 per channel, 1x1 projection without activation."""

    foldable: ClassVar[bool] = True

    def __init__(self, fan_in: int, fan_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        planes = expansion * fan_in
        self.residual = stride == 1
        self.conv1 = nn.Conv2d(fan_in, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, groups=planes, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, fan_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(fan_out)
        self.shortcut = nn.Sequential()
        if self.residual and fan_in != fan_out:
            self.shortcut = nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, bias=False), nn.BatchNorm2d(fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, fan_in, H, W) -> (B, fan_out, H / stride, W / stride)."""
        planes = F.relu(self.bn1(self.conv1(x)))
        planes = F.relu(self.bn2(self.conv2(planes)))
        out: Tensor = self.bn3(self.conv3(planes))
        return out + self.shortcut(x) if self.residual else out


class MobileNetV2(nn.Module):
    """Seventeen inverted residual blocks. Images (B, channels, H, W) in [0, 1] -> logits (B, classes)."""

    foldable: ClassVar[bool] = True
    stem: Stem = "cifar"

    def __init__(
        self, classes: int, channels: int, width: float, stem: Stem, mean: Numbers | None, std: Numbers | None
    ) -> None:
        super().__init__()
        if not width > 0:
            raise ConfigError(f"expected a width above 0, got {width:g}: type --model.width 1")
        first, wide, last = (_scaled(planes, width) for planes in (32, 320, 1280))
        if large := is_large(stem):  # an attribute of these nets alone: the others keep their identity
            self.stem = stem
        self.normalise = normalise(channels, mean, std)
        self.conv1 = nn.Conv2d(channels, first, 3, 2 if large else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layers = nn.Sequential(*_blocks(first, width, large))
        self.conv2 = nn.Conv2d(wide, last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(last)
        self.linear = nn.Linear(last, classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 1280 width), the input of the last linear layer."""
        out = F.relu(self.bn1(self.conv1(self.normalise(x))))
        out = F.relu(self.bn2(self.conv2(self.layers(out))))
        return out.mean((2, 3))

    def head(self, features: Tensor) -> Tensor:
        """(B, 1280 width) -> (B, classes)."""
        logits: Tensor = self.linear(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        return self.head(self.features(x))


def _scaled(planes: int, width: float) -> int:
    return max(4, 4 * round(planes * width / 4))


def _blocks(fan_in: int, width: float, large: bool) -> list[Block]:
    blocks = []
    for expansion, planes, repeats, first_stride in _STAGES:
        first_stride = 2 if large and planes == 24 else first_stride
        fan_out = _scaled(planes, width)
        for k in range(repeats):
            blocks.append(Block(fan_in, fan_out, expansion, first_stride if k == 0 else 1))
            fan_in = fan_out
    return blocks


def mobilenet_v2(
    classes: int = 10,
    channels: int = 3,
    *,
    width: float = 1.0,
    stem: Stem = "cifar",
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> MobileNetV2:
    """MobileNetV2: 2,296,922 parameters for 10 classes, 1280 features, 0.09 GMAC at 32x32.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    width
        Factor of all widths; 0.25 has 165,730 parameters and costs 0.5 MMAC at 8x8.
    stem
        "cifar", or "imagenet", the paper's strides, for images above 64 pixels.
    mean, std
        One number per channel on the [0, 1] scale; None and None pass raw images on.

    Raises
    ------
    ConfigError
        For a number that does not fit.
    """
    return MobileNetV2(classes, channels, width, stem, mean, std)
