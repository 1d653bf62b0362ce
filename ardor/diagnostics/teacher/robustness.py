"""PGD-20 on a teacher that should be robust: its record, and the likely cause where it is missed."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import scipy

from ardor.diagnostics.probe import STEPS, Mask, Probe, pgd, right, share_of
from ardor.diagnostics.record import AUTOATTACK, Record
from ardor.diagnostics.teacher.causes import SIGMAS, best_repair, brings_back, right_with
from ardor.diagnostics.teacher.result import TeacherReport
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Proportion
from ardor.storage.config import as_text
from ardor.types import Threat

RARE = math.erfc(SIGMAS / math.sqrt(2)) / 2

ROUNDED = 0.01
"""Beyond what chance explains: published figures are rounded, machines differ."""

WEAKER = 0.05
"""The same where the record was made by an attack weaker than PGD-20, such as the ten steps of a run's validation."""

SAME_EPS = 0.02
"""A radius within this share of another is the same: 0.031 stands for 8/255 in the oldest records."""


def not_robust(probe: Probe, clean: Mask, seen: TeacherReport) -> Finding | None:
    """PGD-20 below what the record says at its own eps, or below chance at the threat's; or mis_normalised instead."""
    claim, robust = seen.claim, seen.robust or Proportion(0, 0)
    missed = ""
    if claim is not None and claim.robust is not None and claim.norm == _norm(seen.threat):
        there = robust if _same_eps(claim, seen.threat) else within(probe, clean, seen.threat, claim.eps or 0)
        if short(there, claim.robust, ROUNDED if claim.attack == AUTOATTACK else WEAKER):
            cause = _mis_normalised(probe, clean, seen.threat, claim)
            if cause is not None:
                return cause
            said = f"{claim.attack} {100 * claim.robust:.1f} % at eps {as_text(claim.eps or 0)}"
            missed = f", and the record of {claim.of} says {said}"
            missed += "" if there is robust else f", where it leaves {there} %"
    if not missed and robust.interval[1] >= 1 / probe.data.classes:
        return None
    half, quarter = (within(probe, clean, seen.threat, seen.threat.eps / k) for k in (2, 4))
    eps = as_text(seen.threat.eps)
    evidence = (
        f"PGD-{STEPS} at eps {eps} leaves {robust} % of {robust.n} images right{missed}; "
        f"at half of this eps {half} %, at a quarter {quarter} %"
    )
    return Finding("not_robust", "error", evidence, _weakness(seen, half, quarter))


def _weakness(seen: TeacherReport, half: Proportion, quarter: Proportion) -> str:
    """Natural, or trained for a smaller eps: the widest at which half of the clean accuracy is left says for which."""
    least = seen.clean.value / 2 if seen.clean else 0.0
    for share, k in ((half, 2), (quarter, 4)):
        if share.value >= least:
            eps = f"{seen.threat.eps / k:.3g}"
            return f"it looks trained for a smaller eps, about {eps}, or natural: choose a robust one"
    return "it looks natural, for nothing withstands a quarter either: choose a robust one, or a method such as kd"


def other_eps(claim: Record | None, threat: Threat) -> Finding | None:
    """The record is for another threat than the student is to withstand."""
    if claim is None or claim.robust is None or (claim.norm == _norm(threat) and _same_eps(claim, threat)):
        return None
    evidence = (
        f"the record of {claim.of} is for {claim.norm} eps {as_text(claim.eps or 0)}, and the threat is "
        f"{_norm(threat)} eps {as_text(threat.eps)}"
    )
    return Finding("other_eps", "warning", evidence, "know that it was made for another threat than the student's")


def _same_eps(claim: Record, threat: Threat) -> bool:
    return abs((claim.eps or 0) / threat.eps - 1) <= SAME_EPS


def _norm(threat: Threat) -> str:
    return type(threat).__name__.lower()


def _mis_normalised(probe: Probe, clean: Mask, threat: Threat, claim: Record) -> Finding | None:
    """The scale of the images, where another one brings the record under PGD-20 back and wins clean images, too.

    A net with batch norm on the wrong scale may lose few clean images, and many more under attack.
    """
    repair, repaired = best_repair(probe)
    attack = pgd(_at(threat, claim.eps or 0))
    before = clean & right(probe.logits(attack), probe.labels)
    after = repaired & right_with(probe, repair, attack)
    if not brings_back(before, after, claim.robust):
        return None
    evidence = (
        f"PGD-{STEPS} at eps {as_text(claim.eps or 0)} leaves {share_of(before)} % of {len(before)} images right, and "
        f"{share_of(after)} % {repair.seen}"
    )
    return Finding("mis_normalised", "error", evidence, repair.next)


def within(probe: Probe, clean: Mask, threat: Threat, eps: float) -> Proportion:
    """Accuracy under PGD-20 at another radius."""
    return share_of(clean & right(probe.logits(pgd(_at(threat, eps))), probe.labels))


def _at(threat: Threat, eps: float) -> Any:
    """The same threat at another radius."""
    return dataclasses.replace(threat, eps=eps)  # type: ignore[type-var]


def short(seen: Proportion, said: float, slack: float) -> bool:
    """Whether an accuracy is below the record by more than chance and `slack` explain: exactly, for any few images."""
    return said > slack and float(scipy.special.bdtr(seen.k, seen.n, said - slack)) < RARE
