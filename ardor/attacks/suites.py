"""Suites: named collections of attacks under one threat.

Steps are given for eps = 8/255 in the papers (2/255 and 0.003); under another radius or norm they keep their ratio to
eps, so `paper(Linf(8 / 255))` is the tables' protocol to the letter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from ardor.attacks.apgd import APGD
from ardor.attacks.cw import CW
from ardor.attacks.fab import FAB
from ardor.attacks.fgsm import FGSM
from ardor.attacks.pgd import PGD
from ardor.attacks.square import Square
from ardor.attacks.threat import L2, Linf
from ardor.attacks.transfer import Transfer
from ardor.errors import ConfigError, ThreatError
from ardor.models.weights import hash_of
from ardor.types import Attack, Threat


@dataclass(frozen=True)
class Suite:
    """Attacks by name, all under `threat`. An image is robust under the suite if it survives every attack in it.

    sequential: each attack sees the survivors of those before it, as AutoAttack does; else each starts from every
    correctly classified image, whatever the others do.
    """

    name: str
    threat: Threat
    attacks: dict[str, Attack]
    sequential: bool = False

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


def autoattack(threat: Threat) -> Suite:
    """AutoAttack `standard` (Croce and Hein, ICML 2020), what robust accuracy means in the field's tables."""
    return Suite(
        "autoattack",
        threat,
        {
            "apgd_ce": APGD(threat),
            "apgd_t": APGD(threat, loss="dlr", targets=9),
            "fab_t": FAB(_norm(threat)),
            "square": Square(_norm(threat)),
        },
        sequential=True,
    )


def plus(threat: Threat) -> Suite:
    """AutoAttack `plus`: the untargeted attacks with five restarts, and the targeted ones."""
    return Suite(
        "plus",
        threat,
        {
            "apgd_ce": APGD(threat, restarts=5),
            "apgd_dlr": APGD(threat, loss="dlr", restarts=5),
            "fab": FAB(_norm(threat), targets=0, restarts=5),
            "square": Square(_norm(threat)),
            "apgd_t": APGD(threat, loss="dlr", targets=9),
            "fab_t": FAB(_norm(threat)),
        },
        sequential=True,
    )


def rand(threat: Threat) -> Suite:
    """AutoAttack `rand`, for a net that is random itself: each gradient is the mean of 20 draws."""
    attacks: dict[str, Attack] = {
        "apgd_ce": APGD(threat, draws=20),
        "apgd_dlr": APGD(threat, loss="dlr", draws=20),
    }
    return Suite("rand", threat, attacks, sequential=True)


def apgd(threat: Threat) -> Suite:
    """APGD alone, on cross-entropy and DLR: AutoAttack's first look, at a fiftieth of its cost."""
    return Suite("apgd", threat, {"apgd_ce": APGD(threat), "apgd_dlr": APGD(threat, loss="dlr")}, sequential=True)


def square(threat: Threat) -> Suite:
    """Square alone: what 5,000 queries find without a gradient."""
    return Suite("square", threat, {"square": Square(_norm(threat))}, sequential=True)


def transfer(threat: Threat, source: nn.Module) -> Suite:
    """PGD-20 and CW-20 made against `source`, a net with the same classes: what whoever has another net can do."""
    margin = "transfer_cw_inf" if isinstance(threat, Linf) else "transfer_cw_l2"
    weights = hash_of(source)
    return Suite(
        "transfer",
        threat,
        {
            "transfer_pgd20": Transfer(PGD(threat, steps=20, step=threat.eps / 4), source, weights),
            margin: Transfer(CW(threat, steps=20, step=threat.eps / 4), source, weights),
        },
    )


def deployed(threat: Threat, source: nn.Module | None = None, queries: int = 5000) -> Suite:
    """Three answers to how robust a file for a device is, each from all images it gets right.

    By images that PGD-20 and CW-20 made against `source`, the net that was exported (left out where there is none);
    by APGD on cross-entropy and DLR against the file itself, along the gradients of its simulated graph; and by Square,
    which only asks the file, with so many `queries` for each image. An image counts as robust if it survives all.
    """
    first = {} if source is None else transfer(threat, source).attacks
    own: dict[str, Attack] = {
        "apgd_ce": APGD(threat),
        "apgd_dlr": APGD(threat, loss="dlr"),
        "square": Square(_norm(threat), queries=queries),
    }
    return Suite("deployed", threat, first | own)


def _norm(threat: Threat) -> Linf | L2:
    """FAB and Square know these two norms by heart."""
    if isinstance(threat, Linf | L2):
        return threat
    raise ThreatError(f"expected Linf or L2 for FAB and Square, got {type(threat).__name__}: try suites.apgd(threat)")


SUITES: dict[str, Callable[[Threat], Suite]] = {
    "paper": paper,
    "quick": quick,
    "autoattack": autoattack,
    "plus": plus,
    "rand": rand,
    "apgd": apgd,
    "square": square,
}
