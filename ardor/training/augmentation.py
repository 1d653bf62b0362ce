"""The batch of a step: images of the train split on the device, augmented as the recipe says."""

from __future__ import annotations

import torch
from torch import Tensor

from ardor.data.augment import crop_flip
from ardor.data.split import Split
from ardor.noise import Noise
from ardor.training.recipe import Recipe
from ardor.types import Images, Labels


def augmented(
    train: Split, rows: Tensor, recipe: Recipe, epoch: int, device: torch.device, purpose: str = "augment"
) -> tuple[Images, Labels, Tensor, Tensor]:
    """A batch of training images.

    An image's view is determined by the recipe, the epoch, its position in the data set and `purpose`: batch, order and
    processes have no effect.

    Parameters
    ----------
    rows : Tensor
        (B,) rows of the split.
    epoch : int
        Counted from 1.
    purpose : str
        Name of the random stream.

    Returns
    -------
    tuple of Tensor
        The augmented images (B, C, H, W), float32 in [0, 1] on `device`; labels, positions in the data set, and numbers
        of the views, (B,) int64 each, where the split has them.
    """
    x, y, index = train.batch(rows)
    noise, x = Noise(recipe.seed, index, purpose, epoch), x.to(device)
    if recipe.augment == "none":
        return x, y, index, torch.zeros_like(index)
    x, view = crop_flip(x, noise, recipe.padding, flip=recipe.augment == "crop-flip")
    return x, y, index, view
