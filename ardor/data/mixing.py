"""CutMix and mixup on a batch on its device: each image and another one, by random numbers of the image.

cutmix  a box of the other, at the same place: sides int(sqrt(1 - l) W), the centre uniform over the pixels, cut at the
        border (Yun et al., ICCV 2019)
mixup   l x + (1 - l) other (Zhang et al., ICLR 2018)

l ~ Beta(alpha, alpha) is drawn per image, where the papers' code draws one per batch. Labels are not mixed.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ardor.data.idbh import inside
from ardor.noise import Noise
from ardor.types import Images

MIX: TypeAlias = Literal["none", "cutmix", "mixup"]


def mixed(x: Images, other: Images, noise: Noise, kind: MIX, alpha: float = 1.0) -> Images:
    """Each of the images (B, C, H, W) in [0, 1] with the one at its place in `other`, of the same shape."""
    if kind == "none":
        return x
    share = beta(noise, alpha)
    if kind == "mixup":
        return torch.lerp(other, x, share.to(x)[:, None, None, None])
    sides = (1 - share.to(torch.float64)).sqrt()
    height, width = ((side * sides).floor().to(torch.int64) for side in x.shape[2:])
    top, left = (noise.integers(side) - own // 2 for side, own in zip(x.shape[2:], (height, width), strict=True))
    return torch.where(inside(x, torch.stack([top, left, height, width], 1)), other, x)


def beta(noise: Noise, alpha: float) -> Tensor:
    """(B,) float32 in [0, 1], of the distribution Beta(alpha, alpha).

    By Bailey's polar method for Student's t with 2 alpha degrees of freedom (Devroye, WSC 1996).
    """
    u, v = (noise.uniform((2,), torch.float64) + 2.0**-25).T
    t = (u ** (-1 / alpha) - 1).sqrt() * (2 * math.pi * v).cos()
    share: Tensor = (1 + t.atan().sin()) / 2  # sin atan t = t / sqrt(1 + t^2), also where t is infinite
    return share.to(torch.float32)
