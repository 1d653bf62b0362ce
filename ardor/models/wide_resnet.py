"""Wide ResNets (Zagoruyko and Komodakis, BMVC 2016): the two forms in which robust teachers are published.

`wide_resnet` is that of github yaodongyu/TRADES: ReLU, raw images in [0, 1]. `wide_resnet_silu` is DeepMind's (Gowal
et al., arXiv 2010.03593; github google-deepmind/deepmind-research, adversarial_robustness/pytorch): SiLU, mean and std
inside, and the asymmetric padding of TensorFlow's SAME where the stride is 2. Names are those of each code, so that
the checkpoints load. Both pool globally, which at 32x32 is their 8x8 average.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ardor.errors import ConfigError
from ardor.models.normalise import Numbers, normalise

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


class Block(nn.Module):
    """Pre-activation, as in TRADES: where the channels change, the shortcut too starts from the activation."""

    foldable: ClassVar[bool] = True

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(fan_in)
        self.conv1 = nn.Conv2d(fan_in, fan_out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(fan_out)
        self.conv2 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.convShortcut = None if fan_in == fan_out else nn.Conv2d(fan_in, fan_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, fan_in, H, W) -> (B, fan_out, H / stride, W / stride)."""
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class SiluBlock(nn.Module):
    """The same block under DeepMind's names, with SiLU and SAME padding."""

    foldable: ClassVar[bool] = True

    def __init__(self, fan_in: int, fan_out: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(fan_in)
        # SAME padding for a stride of 2 on an even side: nothing on the left and top, one on the right and bottom.
        self.pad = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
        self.conv_0 = nn.Conv2d(fan_in, fan_out, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(fan_out)
        self.conv_1 = nn.Conv2d(fan_out, fan_out, 3, padding=1, bias=False)
        self.shortcut = None if fan_in == fan_out else nn.Conv2d(fan_in, fan_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, fan_in, H, W) -> (B, fan_out, H / stride, W / stride); H and W even where the stride is 2."""
        active = F.silu(self.batchnorm_0(x))
        middle = self.conv_0(F.pad(active, self.pad))
        out: Tensor = self.conv_1(F.silu(self.batchnorm_1(middle)))
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """TRADES' form. Images (B, channels, H, W) in [0, 1] -> logits (B, classes)."""

    foldable: ClassVar[bool] = True

    def __init__(
        self,
        classes: int,
        channels: int,
        depth: int,
        width: int,
        sub_block1: bool,
        mean: Numbers | None,
        std: Numbers | None,
    ) -> None:
        super().__init__()
        widths, n = (16, 16 * width, 32 * width, 64 * width), _repeats(depth)
        self.normalise = normalise(channels, mean, std)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = _group(Block, "layer", widths[0], widths[1], n, stride=1)
        if sub_block1:  # unused: it is in the published checkpoint, so its place must exist to load strictly
            self.sub_block1 = _group(Block, "layer", widths[0], widths[1], n, stride=1)
        self.block2 = _group(Block, "layer", widths[1], widths[2], n, stride=2)
        self.block3 = _group(Block, "layer", widths[2], widths[3], n, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)
        for module in self.modules():  # as TRADES: He's normal over the fan out, biases of the linear layer 0
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        nn.init.zeros_(self.fc.bias)

    def features(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 64 width), the input of the last linear layer."""
        out = self.block3(self.block2(self.block1(self.conv1(self.normalise(x)))))
        return F.relu(self.bn1(out)).mean((2, 3))

    def head(self, features: Tensor) -> Tensor:
        """(B, 64 width) -> (B, classes)."""
        logits: Tensor = self.fc(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        return self.head(self.features(x))


class WideResNetSilu(nn.Module):
    """DeepMind's form. Images (B, channels, H, W) in [0, 1] -> logits (B, classes)."""

    foldable: ClassVar[bool] = True

    def __init__(
        self, classes: int, channels: int, depth: int, width: int, mean: Numbers | None, std: Numbers | None
    ) -> None:
        super().__init__()
        widths, n = (16, 16 * width, 32 * width, 64 * width), _repeats(depth)
        self.normalise = normalise(channels, mean, std)
        self.init_conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            *(_group(SiluBlock, "block", widths[k], widths[k + 1], n, stride=1 if k == 0 else 2) for k in range(3))
        )
        self.batchnorm = nn.BatchNorm2d(widths[3])
        self.logits = nn.Linear(widths[3], classes)

    def features(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 64 width), the input of the last linear layer."""
        out = self.layer(self.init_conv(self.normalise(x)))
        return F.silu(self.batchnorm(out)).mean((2, 3))

    def head(self, features: Tensor) -> Tensor:
        """(B, 64 width) -> (B, classes)."""
        logits: Tensor = self.logits(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        return self.head(self.features(x))


def _repeats(depth: int) -> int:
    if depth < 10 or (depth - 4) % 6:
        raise ConfigError(
            f"expected a depth of 6 n + 4 for a wide ResNet, got {depth}: type one of 10, 16, 22, 28, 34, 40, 70, 94"
        )
    return (depth - 4) // 6


def _group(
    block: type[Block] | type[SiluBlock], level: str, fan_in: int, fan_out: int, repeats: int, stride: int
) -> nn.Sequential:
    """Blocks under the published names, which have one level more: block1.layer.0."""
    blocks = (block(fan_out if k else fan_in, fan_out, 1 if k else stride) for k in range(repeats))
    return nn.Sequential(OrderedDict({level: nn.Sequential(*blocks)}))


def wide_resnet(
    classes: int = 10,
    channels: int = 3,
    *,
    depth: int = 34,
    width: int = 10,
    sub_block1: bool = False,
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> WideResNet:
    """WRN-depth-width as in TRADES: 46,160,474 parameters for 10 classes at 34-10, 640 features, 6.7 GMAC at 32x32.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    depth
        Number of layers, 6 n + 4.
    width
        Factor of all widths.
    sub_block1
        The unused group of the published TRADES checkpoint, 48,262,586 parameters with it.
    mean, std
        One number per channel on the [0, 1] scale; None and None pass raw images on.

    Raises
    ------
    ConfigError
        For a number that does not fit.
    """
    return WideResNet(classes, channels, depth, width, sub_block1, mean, std)


def wide_resnet_silu(
    classes: int = 10,
    channels: int = 3,
    *,
    depth: int = 70,
    width: int = 16,
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> WideResNetSilu:
    """WRN-depth-width with SiLU as DeepMind's: 266,888,756 parameters for 100 classes at 70-16, 1024 features.

    Initial weights are torch's own, as in DeepMind's PyTorch code.

    Parameters
    ----------
    classes
        Number of logits.
    channels
        Channels of the images.
    depth
        Number of layers, 6 n + 4.
    width
        Factor of all widths.
    mean, std
        One number per channel on the [0, 1] scale. None and None are DeepMind's: CIFAR-100's for 100 classes and
        CIFAR-10's for any other number; images without three channels stay raw.

    Raises
    ------
    ConfigError
        For a number that does not fit.
    """
    if mean is None and std is None and channels == 3:
        mean, std = CIFAR100 if classes == 100 else CIFAR10
    return WideResNetSilu(classes, channels, depth, width, mean, std)
