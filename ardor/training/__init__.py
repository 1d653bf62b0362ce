"""Training: `epochs` and `distill`, the recipe, the averages of the weights, and the records of the epochs."""

from ardor.training.averaging import EMA, SWA
from ardor.training.epoch import EpochRecord, History, StepProgress
from ardor.training.loop import distill, epochs
from ardor.training.recipe import Recipe

Epoch = EpochRecord
"""The name of `EpochRecord` in version 0.1, kept for one release."""

__all__ = ["EMA", "SWA", "Epoch", "EpochRecord", "History", "Recipe", "StepProgress", "distill", "epochs"]
