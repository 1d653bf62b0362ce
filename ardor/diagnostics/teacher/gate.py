"""examine_teacher: clean accuracy, PGD-20, the record, the likely cause, and what predicts a good teacher."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor, nn

from ardor.data.split import Split
from ardor.diagnostics.probe import STEPS, Mask, Probe, pgd, right, share_of
from ardor.diagnostics.record import Record
from ardor.diagnostics.teacher.causes import at_chance, chance_of, diagnose
from ardor.diagnostics.teacher.result import Entropy, TeacherReport
from ardor.diagnostics.teacher.robustness import ROUNDED, not_robust, other_eps, short
from ardor.engine.modes import attack_view
from ardor.errors import DataError, ModelError
from ardor.evaluation.attacked import batch_for
from ardor.evaluation.findings import Finding, present
from ardor.evaluation.proportion import Proportion
from ardor.losses import margin
from ardor.models import require_fit
from ardor.models.fit import require_gradient
from ardor.noise import seeded
from ardor.storage.arguments import typed
from ardor.types import Threat

LIMIT, PARTS = 1000, 4

HARD = 4
"""The share of hard images is 1 / HARD."""

ProgressCallback: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of the next part, the number of finished parts and the number of all."""


@typed
def examine_teacher(
    teacher: nn.Module,
    val: Split,
    threat: Threat,
    *,
    record: Record | None = None,
    student: nn.Module | None = None,
    robust: bool = True,
    linear: bool = False,
    limit: int = LIMIT,
    batch: int | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> TeacherReport:
    """Measure `teacher` on validation images, and refuse it where it does not match its record.

    Parameters
    ----------
    teacher
        The net.
    val
        The images.
    threat
        Threat of the training to come.
    record
        See `record_of`; without one only flaws that show by themselves are found.
    student
        Trained net of the student's kind, for the transfer.
    robust
        Whether the method needs a robust teacher; False leaves PGD-20 out.
    linear
        Whether the method needs a locally linear teacher, as IGDM does: a finding then says so.
    limit
        Largest number of images, classes in proportion.
    batch
        Images at once; by default 256, or fewer where they are large.
    seed
        Seed of the random starts.
    progress
        Called before each part.

    Returns
    -------
    TeacherReport
        A teacher that does not fit the data is a finding, no error. Modes, flags, gradients and the global generator
        are restored.

    Raises
    ------
    DataError
        For a batch below 1.
    ConfigError
        For a limit below 1.
    ModelError
        Where the student does not fit.
    """
    batch = batch_for(val) if batch is None else batch
    if batch < 1:
        raise DataError(f"expected a batch of at least 1 image, got {batch}: type for example 256")
    part = val.limit(limit)
    report = TeacherReport(len(part), threat, claim=record)
    tell = progress or (lambda name, done, todo: None)
    with seeded(seed), attack_view(teacher) as view:  # the same numbers for a net that is random itself
        tell("clean", 0, PARTS)
        probe = Probe(teacher, view, part, batch, seed)
        logits = _logits(probe, report, robust)
        if logits is None:
            return report
        _measure_clean(probe, logits, report, lambda: tell("causes", 1, PARTS))
        if report.refused:
            return report
        tell(f"PGD-{STEPS}", 2, PARTS)
        if robust:
            _measure_robust(probe, logits, report, linear)
        tell("student", 3, PARTS)
        if student is not None:
            report.transfer = _transfer(probe, right(logits, probe.labels), student, threat)
    return report


def wants_robust(method: Any) -> bool:
    """Whether a method, or its class, needs a robust teacher: all but those that declare otherwise (KD)."""
    kind = method if isinstance(method, type) else type(method)
    return bool(vars(kind).get("wants_robust_teacher", True))


def wants_linear(method: Any) -> bool:
    """Whether a method, or its class, matches the teacher's input gradients, as IGDM does."""
    kind = method if isinstance(method, type) else type(method)
    return bool(vars(kind).get("wants_linear_teacher", False))


def _logits(probe: Probe, report: TeacherReport, robust: bool) -> Tensor | None:
    """The logits of the clean images; None, with a finding, where the net does not fit the data."""
    claim, shape = report.claim, probe.data.shape
    try:
        if claim is not None and claim.shape not in (None, shape):  # a net that ends in a mean takes any size
            raise ModelError(
                f"expected images of shape {claim.shape} for {claim.of}, got {shape}: choose another teacher or data"
            )
        require_fit(probe.net, shape, probe.data.classes, "teacher")
        if robust:
            require_gradient(probe.net, shape, "teacher")
        return probe.logits()
    except ModelError as error:
        evidence, _, advice = str(error).rpartition(": ")
        report.findings.append(Finding("misfit", "error", evidence, advice))
        return None


def _measure_clean(probe: Probe, logits: Tensor, report: TeacherReport, tell: Callable[[], None]) -> None:
    """Clean accuracy and entropy; the cause, unless the record is reached."""
    y, claim = probe.labels, report.claim
    report.clean = share_of(right(logits, y))
    report.entropy = Entropy(float(_entropy(logits).mean()), None, probe.data.classes)
    chance, reached = chance_of(logits, y), claim is not None and not short(report.clean, claim.clean, ROUNDED)
    if not reached or at_chance(report.clean, chance):
        tell()
        report.findings += present(diagnose(probe, logits, claim, chance, reached))


def _measure_robust(probe: Probe, logits: Tensor, report: TeacherReport, linear: bool) -> None:
    """PGD-20 against the record or chance, and the entropy on hard images."""
    clean, y = right(logits, probe.labels), probe.labels
    attacked = probe.logits(pgd(report.threat))
    report.robust = share_of(clean & right(attacked, y))
    hard = margin(attacked, y).argsort(descending=True, stable=True)[: math.ceil(len(y) / HARD)]
    report.entropy = Entropy(float(_entropy(logits).mean()), float(_entropy(logits[hard]).mean()), probe.data.classes)
    report.findings += present(not_robust(probe, clean, report, linear) or other_eps(report.claim, report.threat))


def _transfer(probe: Probe, clean: Mask, student: nn.Module, threat: Threat) -> Proportion:
    """Of the student's adversarial examples from images that both classify correctly, those that fool the teacher."""
    y = probe.labels
    with attack_view(student) as view:
        require_fit(student, probe.data.shape, probe.data.classes, "student")
        source = dataclasses.replace(probe, net=student, view=view)
        x_adv = list(source.images(pgd(threat)))
        fooled = clean & right(source.logits(), y) & ~right(source.logits(images=x_adv), y)
    return share_of(~right(probe.logits(images=x_adv), y)[fooled])


def _entropy(logits: Tensor) -> Tensor:
    """(N,) nats."""
    log_p = logits.double().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)
