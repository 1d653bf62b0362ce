"""Training methods, one file each: dataclasses with `terms`. A third-party method is any object with `terms`."""

from ardor.methods.absld import ABSLD
from ardor.methods.adaad import AdaAD
from ardor.methods.adaiad import AdaIAD
from ardor.methods.adr import ADR
from ardor.methods.akd2 import AKD2
from ardor.methods.ard import ARD
from ardor.methods.dgad import DGAD
from ardor.methods.fair_rslad import FairRSLAD
from ardor.methods.iad import IAD
from ardor.methods.igdm import IGDM
from ardor.methods.kd import KD
from ardor.methods.lbgat import LBGAT
from ardor.methods.mart import MART
from ardor.methods.mtard import MTARD
from ardor.methods.natural import Natural
from ardor.methods.peeraid import PeerAiD
from ardor.methods.rslad import RSLAD
from ardor.methods.saad import SAAD
from ardor.methods.sat import SAT
from ardor.methods.trades import TRADES
from ardor.methods.variance_gap import VarianceGap

__all__ = [
    "ABSLD",
    "ADR",
    "AKD2",
    "ARD",
    "DGAD",
    "IAD",
    "IGDM",
    "KD",
    "LBGAT",
    "MART",
    "MTARD",
    "RSLAD",
    "SAAD",
    "SAT",
    "TRADES",
    "AdaAD",
    "AdaIAD",
    "FairRSLAD",
    "Natural",
    "PeerAiD",
    "VarianceGap",
]
