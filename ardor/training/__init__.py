"""The training loop, its recipe and state, checkpoints, validation and averages of the weights."""

from ardor.training.averaging import EMA, SWA
from ardor.training.epoch import EpochRecord
from ardor.training.loop import distill, epochs
from ardor.training.recipe import Recipe

Epoch = EpochRecord
"""The name of `EpochRecord` in version 0.1, kept for one release."""

__all__ = ["EMA", "SWA", "Epoch", "EpochRecord", "Recipe", "distill", "epochs"]
