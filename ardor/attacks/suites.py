"""Suites: named collections of attacks under one threat.

Steps are given for eps = 8/255 in the papers (2/255 and 0.003); under another radius or norm they keep their ratio to
eps, so `paper(Linf(8 / 255))` is the tables' protocol to the letter.
"""

from __future__ import annotations

from dataclasses import dataclass

from ardor.attacks.cw import CW
from ardor.attacks.fgsm import FGSM
from ardor.attacks.pgd import PGD
from ardor.errors import ConfigError
from ardor.threat import Linf
from ardor.types import Attack, Threat


@dataclass(frozen=True)
class Suite:
    """Attacks by name, all under `threat`; each starts from every correctly classified image, whatever the others do.

    An image is robust under the suite if it survives every attack in it.
    """

    name: str
    threat: Threat
    attacks: dict[str, Attack]

    def __post_init__(self) -> None:
        if not self.attacks:
            raise ConfigError(f"expected at least one attack in the suite {self.name}, got none: add PGD(threat), say")


def paper(threat: Threat) -> Suite:
    """The white-box attacks of the RSLAD paper's tables, AutoAttack apart: FGSM, PGD_SAT, PGD_TRADES, CW_inf."""
    margin = "cw_inf" if isinstance(threat, Linf) else "cw_l2"
    return Suite(
        "paper",
        threat,
        {
            "fgsm": FGSM(threat),
            "pgd_sat": PGD(threat, steps=20),
            "pgd_trades": PGD(threat, steps=20, step=0.003 * (threat.eps / (8 / 255))),
            margin: CW(threat, steps=20),
        },
    )


def quick(threat: Threat) -> Suite:
    """For validation and a first look, not for a claim: PGD-10 on cross-entropy."""
    return Suite("quick", threat, {"pgd_10": PGD(threat, steps=10)})
