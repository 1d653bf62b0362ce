"""What a table of soft labels saves in a run, and its size on disk."""

from __future__ import annotations

from dataclasses import dataclass

from ardor.training.recipe import Recipe
from ardor.training.soft_labels.table import DTYPE, size_of, views_of

ENUMERABLE = ("crop-flip", "crop", "none")


@dataclass(frozen=True)
class Saving:
    """What a table of soft labels saves in a run.

    Parameters
    ----------
    views : int
        Of an image.
    cold, warm : float
        Expected share, in [0, 1], of the teacher's clean forward passes that is saved, from an empty and a full table.
    size : int
        Bytes of a full table.
    """

    views: int
    cold: float
    warm: float
    size: int


def enumerable(recipe: Recipe) -> str | None:
    """Why the views of an image cannot be numbered, and soft labels not be cached; None where they can."""
    if recipe.augment in ENUMERABLE:
        return None
    return (
        f"soft labels are not kept: the views of augment {recipe.augment} cannot be numbered, "
        f"as those of {', '.join(ENUMERABLE)} can"
    )


def crop_of(recipe: Recipe) -> tuple[int, bool]:
    """(padding, flip) of the views that a recipe's augmentation draws."""
    return (0, False) if recipe.augment == "none" else (recipe.padding, recipe.augment == "crop-flip")


def saving(recipe: Recipe, images: int, classes: int, dtype: DTYPE = "float32") -> Saving:
    """What a table saves in a run of recipe.epochs epochs over `images` images, whose views are drawn uniformly."""
    views = views_of(*crop_of(recipe))
    cold = 1 - views_met(recipe.epochs, views) / recipe.epochs
    return Saving(views, cold, 1.0, size_of(images, views, classes, dtype))


def views_met(epochs: int, views: int) -> float:
    """The expected number of different views of an image in so many epochs."""
    return views * (1 - (1 - 1 / views) ** epochs)
