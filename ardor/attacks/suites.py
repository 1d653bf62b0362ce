"""Suites: named collections of attacks under one threat.

The papers give steps for eps = 8/255 (2/255 and 0.003); under another radius or norm they keep their ratio to eps, so
`paper(Linf(8 / 255))` is exactly the tables' protocol.
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
from ardor.attacks.threat import Linf, require_norm
from ardor.attacks.transfer import Transfer
from ardor.errors import ConfigError, shown
from ardor.models.weights import hash_of
from ardor.storage.arguments import check_fields, typed
from ardor.storage.imports import nearest
from ardor.types import Attack, Threat


@dataclass(frozen=True)
class Suite:
    """Attacks by name, all under one threat. An image is robust under the suite if it survives every attack in it.

    Parameters
    ----------
    name
        Name of the suite, in reports.
    threat
        The ball around x.
    attacks
        The attacks by name, in order; "clean", "worst_case" and "new_starts" are taken: reports use them.
    sequential
        Each attack runs on the survivors of those before it, as in AutoAttack; else on all correctly classified images.

    Raises
    ------
    ConfigError
        For a suite without attacks, and an attack with the name of another column.
    """

    name: str
    threat: Threat
    attacks: dict[str, Attack]
    sequential: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.attacks:
            raise ConfigError(
                f"expected at least one attack in the suite {self.name}, got none: add for example PGD(threat)"
            )
        if taken := [name for name in self.attacks if name in ("clean", "worst_case", "new_starts")]:
            raise ConfigError(
                f'expected another name for an attack of the suite {self.name}, got "{taken[0]}", which reports '
                "use: name it by what it does, say pgd_20"
            )


def paper(threat: Threat) -> Suite:
    """The white-box attacks of the RSLAD paper's tables, AutoAttack apart: FGSM, PGD_SAT, PGD_TRADES, CW_inf."""
    margin = "cw_inf" if isinstance(threat, Linf) else "cw_l2"
    attacks: dict[str, Attack] = {
        "fgsm": FGSM(threat),
        "pgd_sat": PGD(threat, steps=20),
        "pgd_trades": PGD(threat, steps=20, step=0.003 * (threat.eps / (8 / 255))),
        margin: CW(threat, steps=20),
    }
    return Suite("paper", threat, attacks)


def quick(threat: Threat) -> Suite:
    """PGD-10 on cross-entropy: for validation and a first estimate, not for a claim."""
    return Suite("quick", threat, {"pgd_10": PGD(threat, steps=10)})


def autoattack(threat: Threat) -> Suite:
    """AutoAttack `standard` (Croce and Hein, ICML 2020), what robust accuracy means in the field's tables."""
    attacks: dict[str, Attack] = {
        "apgd_ce": APGD(threat),
        "apgd_t": APGD(threat, loss="dlr", targets=9),
        "fab_t": FAB(require_norm(threat)),
        "square": Square(require_norm(threat)),
    }
    return Suite("autoattack", threat, attacks, sequential=True)


def plus(threat: Threat) -> Suite:
    """AutoAttack `plus`: the untargeted attacks with five restarts, and the targeted ones."""
    attacks: dict[str, Attack] = {
        "apgd_ce": APGD(threat, restarts=5),
        "apgd_dlr": APGD(threat, loss="dlr", restarts=5),
        "fab": FAB(require_norm(threat), targets=0, restarts=5),
        "square": Square(require_norm(threat)),
        "apgd_t": APGD(threat, loss="dlr", targets=9),
        "fab_t": FAB(require_norm(threat)),
    }
    return Suite("plus", threat, attacks, sequential=True)


def rand(threat: Threat) -> Suite:
    """AutoAttack `rand`, for a randomised net: each gradient is the mean of 20 draws."""
    attacks: dict[str, Attack] = {"apgd_ce": APGD(threat, draws=20), "apgd_dlr": APGD(threat, loss="dlr", draws=20)}
    return Suite("rand", threat, attacks, sequential=True)


def apgd(threat: Threat) -> Suite:
    """APGD alone, on cross-entropy and DLR: AutoAttack's first attacks, at a fiftieth of its cost."""
    return Suite("apgd", threat, {"apgd_ce": APGD(threat), "apgd_dlr": APGD(threat, loss="dlr")}, sequential=True)


def square(threat: Threat) -> Suite:
    """Square alone: 5,000 queries, no gradient."""
    return Suite("square", threat, {"square": Square(require_norm(threat))}, sequential=True)


@typed
def transfer(threat: Threat, source: nn.Module) -> Suite:
    """PGD-20 and CW-20 on `source`, a net with the same classes: the threat of an attacker with a surrogate net."""
    margin = "transfer_cw_inf" if isinstance(threat, Linf) else "transfer_cw_l2"
    weights = hash_of(source)
    attacks: dict[str, Attack] = {
        "transfer_pgd20": Transfer(PGD(threat, steps=20, step=threat.eps / 4), source, weights),
        margin: Transfer(CW(threat, steps=20, step=threat.eps / 4), source, weights),
    }
    return Suite("transfer", threat, attacks)


@typed
def deployed(threat: Threat, source: nn.Module | None = None, queries: int = 5000) -> Suite:
    """Three attacks on an exported file, each on all correctly classified images.

    Transfer: PGD-20 and CW-20 on `source`, the net that was exported. White box: APGD on cross-entropy and DLR along
    the gradients of the file's simulated graph. Black box: Square on the file's logits.

    Parameters
    ----------
    threat
        The ball around x; Linf or L2.
    source
        The exported net; None leaves the transfer attacks out.
    queries
        Square's queries per image.
    """
    transferred = {} if source is None else transfer(threat, source).attacks
    direct: dict[str, Attack] = {
        "apgd_ce": APGD(threat),
        "apgd_dlr": APGD(threat, loss="dlr"),
        "square": Square(require_norm(threat), queries=queries),
    }
    return Suite("deployed", threat, transferred | direct)


SUITES: dict[str, Callable[[Threat], Suite]] = {
    suite.__name__: suite for suite in (paper, quick, autoattack, plus, rand, apgd, square)
}
"""The suites of a threat alone, by name."""


def named(name: str, threat: Threat | None = None) -> Suite:
    """The suite called `name`, of `SUITES`.

    Parameters
    ----------
    name
        paper, quick, autoattack, plus, rand, apgd or square.
    threat
        The ball around x; Linf 8/255 by default.

    Raises
    ------
    ConfigError
        For another name, with the nearest right one.
    """
    if name not in SUITES:
        raise ConfigError(
            f'expected a suite as one of {", ".join(SUITES)}, got "{shown(name)}"{nearest(name, SUITES)}: type for '
            'example "autoattack", or pass an ardor.attacks.Suite'
        )
    return SUITES[name](Linf() if threat is None else threat)
