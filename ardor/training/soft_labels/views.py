"""How the views of an image are numbered: what a row of the table is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ardor.data import augment
from ardor.errors import ConfigError
from ardor.training.recipe import Recipe


def unnumbered(recipe: Recipe) -> str:
    """Why the recipe's views have no numbers, so that no soft labels are cached; "" where they have."""
    return augment.unnumbered(
        recipe.augment, recipe.views, recipe.jitter, recipe.randaugment, recipe.erase, recipe.cutout, recipe.late,
        recipe.mix,
    )  # fmt: skip


def numbering(recipe: Recipe) -> dict[str, Any]:
    """The part of a table's identity that the recipe determines. Raises ConfigError where its views have no numbers."""
    if reason := unnumbered(recipe):
        raise ConfigError(f"expected views that soft labels can be cached for, got others: {reason}")
    kind = recipe.augment
    # a table in float32, which is older than the choice, does not name it
    passes = {} if recipe.teacher_precision == "float32" else {"precision": recipe.teacher_precision}
    if recipe.resized:
        area, ratio = map(float, recipe.area), map(float, recipe.ratio)
        return {"augment": kind, "area": [*area], "ratio": [*ratio], "views": recipe.views, **passes}
    padding, flip = {"none": (0, False), "crop": (recipe.padding, False), "crop-flip": (recipe.padding, True)}[kind]
    return {"padding": padding, "flip": flip, **passes}


def views_of(numbers: Mapping[str, Any]) -> int:
    """The number of views of an image: 162 for padding 4 and flip.

    Parameters
    ----------
    numbers : Mapping
        Of `numbering`, or the identity of a table.
    """
    if "views" in numbers:
        return int(numbers["views"])
    return int((2 * numbers["padding"] + 1) ** 2 * (1 + numbers["flip"]))
