"""What a table of soft labels saves in a run, and its size on disk."""

from __future__ import annotations

from dataclasses import dataclass

from ardor.training.recipe import Recipe
from ardor.training.soft_labels.table import DTYPE, size_of
from ardor.training.soft_labels.views import numbering, views_of


@dataclass(frozen=True)
class Saving:
    """What a table of soft labels saves in a run.

    Parameters
    ----------
    views : int
        Of an image.
    cold : float
        Expected share, in [0, 1], of the teacher's clean forward passes that is saved by a table which is empty at
        first; a full one saves all.
    size : int
        Bytes of a full table.
    """

    views: int
    cold: float
    size: int


def saving(recipe: Recipe, images: int, classes: int, dtype: DTYPE = "float32") -> Saving:
    """What a table saves in a run of recipe.epochs epochs over `images` images, whose views are drawn uniformly.

    Raises ConfigError where there is no table: see `unnumbered`.
    """
    views = views_of(numbering(recipe))
    cold = 1 - views_met(recipe.epochs, views) / recipe.epochs
    return Saving(views, cold, size_of(images, views, classes, dtype))


def views_met(epochs: int, views: int) -> float:
    """The expected number of different views of an image in so many epochs."""
    return views * (1 - (1 - 1 / views) ** epochs)
