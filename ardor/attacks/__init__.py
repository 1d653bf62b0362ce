"""Attacks: frozen hyperparameters with `__call__(net, x, y, noise)`; the inner maximisers also have `maximise`."""

from ardor.attacks.cw import CW
from ardor.attacks.fgsm import FGSM
from ardor.attacks.pgd import PGD
from ardor.attacks.suites import Suite, paper, quick

__all__ = ["CW", "FGSM", "PGD", "Suite", "paper", "quick"]
