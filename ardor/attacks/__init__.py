"""Attacks: frozen hyperparameters with `__call__(net, x, y, noise)`; the inner maximisers also have `maximise`."""

from ardor.attacks import suites
from ardor.attacks.apgd import APGD
from ardor.attacks.cw import CW
from ardor.attacks.fab import FAB
from ardor.attacks.fgsm import FGSM
from ardor.attacks.pgd import PGD
from ardor.attacks.square import Square
from ardor.attacks.suites import Suite, autoattack, paper, plus, quick, rand
from ardor.attacks.worst_case import WorstCase

__all__ = [
    "APGD",
    "CW",
    "FAB",
    "FGSM",
    "PGD",
    "Square",
    "Suite",
    "WorstCase",
    "autoattack",
    "paper",
    "plus",
    "quick",
    "rand",
    "suites",
]
