"""A moment inside an epoch: what a loop may tell while it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """Step `step` of `steps`, from 1, of epoch `epoch` of `epochs` is done.

    images_per_second: of this epoch so far. terms: the mean loss terms of this epoch so far, by name.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    terms: Mapping[str, float]
