"""What a table of soft labels saves in a run, and its size on disk."""

from __future__ import annotations

from collections.abc import Sequence
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


def saving(recipe: Recipe, drawn: Sequence[tuple[int, int]], classes: int, dtype: DTYPE = "float32") -> Saving:
    """What a table saves in a run of recipe.epochs epochs over images whose views are drawn uniformly.

    Parameters
    ----------
    drawn
        Numbers of images of a kind, and how many of them an epoch has.

    Raises
    ------
    ConfigError
        Where there is no table: see `unnumbered`.
    """
    views, images = views_of(numbering(recipe)), sum(number for number, _ in drawn)
    met = sum(number * views_met(recipe.epochs * some / number, views) for number, some in drawn)
    cold = max(0.0, 1 - met / (recipe.epochs * sum(some for _, some in drawn)))  # not -0 by rounding
    return Saving(views, cold, size_of(images, views, classes, dtype))


def views_met(epochs: float, views: int) -> float:
    """The expected number of different views of an image in so many epochs."""
    return float(views * (1 - (1 - 1 / views) ** epochs))
