"""What a table of soft labels saves, and what it takes: known before anything long starts."""

from __future__ import annotations

from dataclasses import dataclass

from ardor.training.recipe import Recipe
from ardor.training.soft_labels.table import DTYPE, size_of, views_of

ENUMERABLE = ("crop-flip", "crop", "none")


@dataclass(frozen=True)
class Saving:
    """views: of an image. cold, warm: expected shares of clean teacher forwards saved. size: bytes of a full table.

    cold is a run that starts with an empty table, warm one that finds it full.
    """

    views: int
    cold: float
    warm: float
    size: int


def enumerable(recipe: Recipe) -> str | None:
    """Why the views of an image cannot be numbered, so that soft labels cannot be kept; None where they can."""
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
    """How many different views of an image are expected in so many epochs."""
    return views * (1 - (1 - 1 / views) ** epochs)
