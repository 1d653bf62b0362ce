"""Training methods, one file each: dataclasses with `terms`. A third-party method is any object with `terms`."""

from ardor.methods.ard import ARD
from ardor.methods.iad import IAD
from ardor.methods.kd import KD
from ardor.methods.mart import MART
from ardor.methods.natural import Natural
from ardor.methods.rslad import RSLAD
from ardor.methods.sat import SAT
from ardor.methods.trades import TRADES
from ardor.methods.variance_gap import VarianceGap

__all__ = ["ARD", "IAD", "KD", "MART", "RSLAD", "SAT", "TRADES", "Natural", "VarianceGap"]
