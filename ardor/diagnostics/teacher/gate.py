"""gate: clean accuracy, PGD-20, the record, the cause, and what predicts a good teacher."""

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
from ardor.evaluation.findings import Finding, present
from ardor.evaluation.proportion import Proportion
from ardor.losses import margin
from ardor.models import require_fit
from ardor.noise import seeded
from ardor.types import Threat

LIMIT, PARTS = 1000, 4

HARD = 4
"""One image of so many is a hard one."""

ProgressCallback: TypeAlias = Callable[[str, int, int], None]
"""Called with what is done next, and how many parts are done of how many."""


def examine_teacher(
    teacher: nn.Module,
    val: Split,
    threat: Threat,
    *,
    record: Record | None = None,
    student: nn.Module | None = None,
    robust: bool = True,
    limit: int = LIMIT,
    batch: int = 256,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> TeacherReport:
    """Measure `teacher` on at most `limit` images of `val`, classes in proportion, and refuse it where it is not sound.

    record: see `record_of`; without it only flaws that show by themselves are found. student: a trained net of the
    student's kind, for the transfer. robust: whether the method wants a robust teacher; False leaves PGD-20 out. batch:
    images at once. seed: of the random starts. A teacher that does not fit the data is a finding, no error. Modes,
    flags, gradients and the global generator are put back. Raises DataError for a batch below 1, ConfigError for a
    limit below 1, ModelError where the student does not fit.
    """
    if batch < 1:
        raise DataError(f"expected a batch of at least 1 image, got {batch}: type for example 256")
    part = val.limit(limit)
    seen = TeacherReport(len(part), threat, claim=record)
    tell = progress or _nobody
    with seeded(seed), attack_view(teacher) as view:  # a net that is random itself meets the same numbers
        tell("clean", 0, PARTS)
        probe = Probe(teacher, view, part, batch, seed)
        logits = _answers(probe, seen)
        if logits is None:
            return seen
        _judge_clean(probe, logits, seen, lambda: tell("causes", 1, PARTS))
        if seen.refused:
            return seen
        tell(f"PGD-{STEPS}", 2, PARTS)
        _judge_robust(probe, logits, seen, robust)
        tell("student", 3, PARTS)
        if student is not None:
            seen.transfer = _transfer(probe, right(logits, probe.labels), student, threat)
    return seen


def _nobody(name: str, done: int, todo: int) -> None:
    """Nobody wants to be told."""


def wants_robust(method: Any) -> bool:
    """Whether a method, or its class, wants a robust teacher: all but those that declare otherwise (KD)."""
    kind = method if isinstance(method, type) else type(method)
    return bool(vars(kind).get("wants_robust_teacher", True))


def _answers(probe: Probe, seen: TeacherReport) -> Tensor | None:
    """The logits of the clean images; None, with a finding, where there are none."""
    try:
        _require_size(seen.claim, probe.data)
        require_fit(probe.net, probe.data.shape, probe.data.classes, "teacher")
        return probe.logits()
    except ModelError as error:
        evidence, _, advice = str(error).rpartition(": ")
        seen.findings.append(Finding("misfit", "error", evidence, advice))
        return None


def _require_size(claim: Record | None, data: Split) -> None:
    """A net that ends in a mean takes any size, so that nothing else would notice."""
    if claim is not None and claim.shape not in (None, data.shape):
        raise ModelError(
            f"expected images of shape {claim.shape} for {claim.of}, got {data.shape}: choose another teacher or data"
        )


def _judge_clean(probe: Probe, logits: Tensor, seen: TeacherReport, tell: Callable[[], None]) -> None:
    """Clean accuracy and entropy; the cause, unless the record is reached."""
    y, claim = probe.labels, seen.claim
    seen.clean = share_of(right(logits, y))
    seen.entropy = Entropy(float(_entropy(logits).mean()), None, probe.data.classes)
    chance, reached = chance_of(logits, y), claim is not None and not short(seen.clean, claim.clean, ROUNDED)
    if not reached or at_chance(seen.clean, chance):
        tell()
        seen.findings += present(diagnose(probe, logits, claim, chance, reached))


def _judge_robust(probe: Probe, logits: Tensor, seen: TeacherReport, robust: bool) -> None:
    """PGD-20 against the record or chance, and the entropy on hard images."""
    if not robust or seen.entropy is None:
        return
    clean, y = right(logits, probe.labels), probe.labels
    attacked = probe.logits(pgd(seen.threat))
    seen.robust = share_of(clean & right(attacked, y))
    hard = margin(attacked, y).argsort(descending=True, stable=True)[: math.ceil(len(y) / HARD)]
    seen.entropy = dataclasses.replace(seen.entropy, hard=float(_entropy(logits[hard]).mean()))
    weak = not_robust(probe, clean, seen)
    seen.findings += present(weak or other_eps(seen.claim, seen.threat))


def _transfer(probe: Probe, clean: Mask, student: nn.Module, threat: Threat) -> Proportion:
    """Of the student's adversarial examples, from images that both get right, those that the teacher gets wrong."""
    y = probe.labels
    with attack_view(student) as view:
        require_fit(student, probe.data.shape, probe.data.classes, "student")
        own = Probe(student, view, probe.data, probe.batch, probe.seed)
        x_adv = list(own.images(pgd(threat)))
        fooled = clean & right(own.logits(), y) & ~right(own.logits(images=x_adv), y)
    return share_of(~right(probe.logits(images=x_adv), y)[fooled])


def _entropy(logits: Tensor) -> Tensor:
    """(N,) nats."""
    log_p = logits.double().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)
