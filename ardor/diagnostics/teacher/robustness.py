"""PGD-20 on a teacher against its record, and the likely cause of a robust accuracy below it."""

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
"""Tolerance beyond what chance explains: published figures are rounded, machines differ."""

WEAKER = 0.05
"""The same where the record was made by an attack weaker than PGD-20, such as the ten steps of a run's validation."""

SAME_EPS = 0.02
"""A radius within this share of another is the same: 0.031 stands for 8/255 in the oldest records."""


def not_robust(probe: Probe, clean: Mask, report: TeacherReport, linear: bool = False) -> Finding | None:
    """PGD-20 below the record at the record's eps, or below chance at the threat's; or mis_normalised instead.

    linear: whether the method needs a locally linear teacher, so that no other kind of teacher is advised.
    """
    claim, robust = report.claim, report.robust or Proportion(0, 0)
    missed = ""
    if claim is not None and claim.robust is not None and claim.norm == _norm(report.threat):
        at_record = robust if _same_eps(claim, report.threat) else within(probe, clean, report.threat, claim.eps or 0)
        if short(at_record, claim.robust, ROUNDED if claim.attack == AUTOATTACK else WEAKER):
            cause = _mis_normalised(probe, clean, report.threat, claim)
            if cause is not None:
                return cause
            missed = f", and the record of {claim.of} says {claim.attack} {100 * claim.robust:.1f} % at eps "
            missed += as_text(claim.eps or 0) + ("" if at_record is robust else f", where it leaves {at_record} %")
    if not missed and robust.interval[1] >= 1 / probe.data.classes:
        return None
    half, quarter = (within(probe, clean, report.threat, report.threat.eps / k) for k in (2, 4))
    eps = as_text(report.threat.eps)
    evidence = (
        f"PGD-{STEPS} at eps {eps} leaves {robust} % of {robust.n} images right{missed}; "
        f"at half of this eps {half} %, at a quarter {quarter} %"
    )
    robust_one = "a robust one" + ", for this method needs a locally linear teacher, which no natural net is" * linear
    advice = f"it looks natural, for nothing withstands a quarter either: choose {robust_one}"
    advice += "" if linear else ", or a method such as kd"
    least = report.clean.value / 2 if report.clean else 0.0
    if max(half.value, quarter.value) >= least:  # the largest eps at which half of the clean accuracy is left
        smaller = report.threat.eps / (2 if half.value >= least else 4)
        advice = f"it looks trained for a smaller eps, about {smaller:.3g}, or natural: choose {robust_one}"
    return Finding("not_robust", "error", evidence, advice)


def other_eps(claim: Record | None, threat: Threat) -> Finding | None:
    """A warning where the record is for another threat than the training."""
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
    """A wrong scale of the images: another one restores the record under PGD-20 and gains clean images, too.

    On the wrong scale a net with batch norm may lose few clean images, and many more under attack.
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


def short(measured: Proportion, claimed: float, slack: float) -> bool:
    """Whether an accuracy is below the record by more than chance and `slack` explain, by the binomial distribution."""
    return claimed > slack and float(scipy.special.bdtr(measured.k, measured.n, claimed - slack)) < RARE
