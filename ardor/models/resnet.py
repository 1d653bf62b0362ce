"""ResNet-18 and ResNet-50 (He et al., CVPR 2016), in the CIFAR form or with the paper's stem.

The stem is one 3x3 convolution of stride 1 without max-pooling, for images of at most 64 pixels, or the paper's 7x7 of
stride 2 with max-pooling, for larger ones; the last pooling is global, so any size of 8 and more works. Names are those
of github kuangliu/pytorch-cifar, so its checkpoints and their many descendants load.
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ardor.models.normalise import Numbers, normalise
from ardor.models.stem import Stem, is_large


def _shortcut(fan_in: int, fan_out: int, stride: int) -> nn.Sequential:
    if stride == 1 and fan_in == fan_out:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(fan_in, fan_out, 1, stride, bias=False), nn.BatchNorm2d(fan_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    foldable: ClassVar[bool] = True

    expansion = 1

    def __init__(self, fan_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = _shortcut(fan_in, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, fan_in, H, W) -> (B, planes, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up to four times the planes, beside a shortcut. The stride is on the 3x3."""

    foldable: ClassVar[bool] = True

    expansion = 4

    def __init__(self, fan_in: int, planes: int, stride: int) -> None:
        super().__init__()
        fan_out = self.expansion * planes
        self.conv1 = nn.Conv2d(fan_in, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, fan_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(fan_out)
        self.shortcut = _shortcut(fan_in, fan_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, fan_in, H, W) -> (B, 4 planes, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Four stages of 64, 128, 256 and 512 planes. Images (B, channels, H, W) in [0, 1] -> logits (B, classes)."""

    foldable: ClassVar[bool] = True
    stem: Stem = "cifar"

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        repeats: tuple[int, int, int, int],
        classes: int,
        channels: int,
        stem: Stem,
        mean: Numbers | None,
        std: Numbers | None,
    ) -> None:
        super().__init__()
        self.normalise = normalise(channels, mean, std)
        large = is_large(stem)
        self.conv1 = nn.Conv2d(
            channels, 64, 7 if large else 3, 2 if large else 1, padding=3 if large else 1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(64)
        if large:  # attributes of these nets alone: the others keep their identity
            self.stem = stem
            self.pool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(block, 64, 64, repeats[0], stride=1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, repeats[1], stride=2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, repeats[2], stride=2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, repeats[3], stride=2)
        self.linear = nn.Linear(512 * block.expansion, classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 512 or 2048), the input of the last linear layer."""
        out = F.relu(self.bn1(self.conv1(self.normalise(x))))
        out = self.pool(out) if self.stem == "imagenet" else out
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        pooled: Tensor = out.mean((2, 3))
        return pooled

    def head(self, features: Tensor) -> Tensor:
        """(B, 512 or 2048) -> (B, classes)."""
        logits: Tensor = self.linear(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        return self.head(self.features(x))


def _stage(
    block: type[BasicBlock] | type[Bottleneck], fan_in: int, planes: int, repeats: int, stride: int
) -> nn.Sequential:
    first = block(fan_in, planes, stride)
    return nn.Sequential(first, *(block(planes * block.expansion, planes, 1) for _ in range(repeats - 1)))


def resnet18(
    classes: int = 10,
    channels: int = 3,
    *,
    stem: Stem = "cifar",
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> ResNet:
    """ResNet-18: 11,173,962 parameters for 10 classes, 512 features, 0.56 GMAC at 32x32.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    stem
        "cifar", or "imagenet" for images above 64 pixels.
    mean, std
        One number per channel on the [0, 1] scale; None and None pass raw images on.

    Raises
    ------
    ConfigError
        For a number that does not fit.
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), classes, channels, stem, mean, std)


def resnet50(
    classes: int = 10,
    channels: int = 3,
    *,
    stem: Stem = "cifar",
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> ResNet:
    """ResNet-50: 23,520,842 parameters for 10 classes, 2048 features; the usual surrogate of transfer attacks.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    stem
        "cifar", or "imagenet" for images above 64 pixels.
    mean, std
        One number per channel on the [0, 1] scale; None and None pass raw images on.

    Raises
    ------
    ConfigError
        For a number that does not fit.
    """
    return ResNet(Bottleneck, (3, 4, 6, 3), classes, channels, stem, mean, std)
