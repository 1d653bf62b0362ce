"""The batch of a step: images of the train split on the device, augmented as the recipe says."""

from __future__ import annotations

import torch
from torch import Tensor

from ardor.data.augment import crop_flip
from ardor.data.boxes import boxes_of
from ardor.data.colour import jittered, randaugmented
from ardor.data.idbh import cropshift, cutout, erased, idbh
from ardor.data.mixing import mixed
from ardor.data.split import Split
from ardor.noise import Noise
from ardor.training.recipe import Recipe
from ardor.types import Images, Labels


def augmented(
    train: Split,
    rows: Tensor,
    recipe: Recipe,
    epoch: int,
    device: torch.device,
    purpose: str = "augment",
    partners: Tensor | None = None,
) -> tuple[Images, Labels, Tensor, Tensor]:
    """A batch of training images.

    An image's view is determined by the recipe, the epoch, its position in the data set and `purpose`: batch, order and
    processes have no effect. The number of a resized crop is drawn so; its box is of the number and the position alone.
    With `recipe.mix` it is joined to the view of the image that stands before it in the step.

    Parameters
    ----------
    rows : Tensor
        (B,) rows of the split.
    epoch : int
        Counted from 1.
    purpose : str
        Name of the random stream.
    partners : Tensor, optional
        (B,) rows of the images that these are mixed with; by default each with the one before it.

    Returns
    -------
    tuple of Tensor
        The augmented images (B, C, H, W), float32 in [0, 1] on `device`; labels, positions in the data set, and numbers
        of the views, (B,) int64 each, where the split has them.
    """
    if recipe.mix == "none":
        return _coloured(train, rows, recipe, epoch, device, purpose)
    both = torch.cat([rows, rows.roll(1) if partners is None else partners])
    once, places = both.unique(return_inverse=True)  # in one process every image is read once
    x, *others = _coloured(train, once, recipe, epoch, device, purpose)
    own, partner = places.split(len(rows))
    y, index, view = (value[own.to(value.device)] for value in others)
    noise = Noise(recipe.seed, index, f"{purpose}/mix", epoch)
    own, partner = own.to(x.device), partner.to(x.device)
    return mixed(x[own], x[partner], noise, recipe.mix, recipe.mix_alpha), y, index, view


def _coloured(
    train: Split, rows: Tensor, recipe: Recipe, epoch: int, device: torch.device, purpose: str
) -> tuple[Images, Labels, Tensor, Tensor]:
    """The batch in its views, with colours and holes: all that is of one image alone."""
    x, y, index, view = _viewed(train, rows, recipe, epoch, device, purpose)
    noise = Noise(recipe.seed, index, f"{purpose}/colour", epoch)
    x = jittered(x, noise, recipe.jitter) if any(recipe.jitter) else x
    x = randaugmented(x, noise, *recipe.randaugment) if recipe.randaugment[0] else x
    x = erased(x, noise, recipe.erase) if recipe.erase else x
    x = cutout(x, noise, recipe.cutout) if recipe.cutout else x
    return x, y, index, view


def _viewed(
    train: Split, rows: Tensor, recipe: Recipe, epoch: int, device: torch.device, purpose: str
) -> tuple[Images, Labels, Tensor, Tensor]:
    """The batch in its views, whose numbers determine them."""
    noise = Noise(recipe.seed, train.index[rows], purpose, epoch)
    kind = recipe.augment if recipe.late is None or epoch < recipe.late_from else recipe.late
    if kind.startswith("resized-crop"):
        view, flip = noise.integers(recipe.views or 2**31), kind.endswith("flip")
        boxes = boxes_of(noise.index, view, train.full, recipe.area, recipe.ratio, flip)
        x, y, index = train.crops(rows, boxes, train.shape[1:])
        return x.to(device), y, index, view
    x, y, index = train.batch(rows)
    x, view = x.to(device), torch.zeros_like(index)
    if kind in ("crop", "crop-flip"):
        x, view = crop_flip(x, noise, recipe.padding, flip=kind == "crop-flip")
    elif kind.startswith("cropshift"):
        x = cropshift(crop_flip(x, noise, 0)[0] if kind.endswith("flip") else x, noise)
    elif kind.startswith("idbh"):
        x = idbh(x, noise, 0.5 if kind == "idbh-weak" else 1.0)
    return x, y, index, view
