"""TODO ardor.training.job."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ardor.attacks.threat import Linf
from ardor.cli import display
from ardor.data.split import Split
from ardor.diagnostics.record import claim_of
from ardor.diagnostics.teacher import LIMIT, TeacherReport, wants_robust
from ardor.diagnostics.teacher import examine_teacher as judge_teacher
from ardor.engine.threads import threads_for, use_threads
from ardor.evaluation.checks import of_recipe
from ardor.evaluation.findings import Finding
from ardor.storage.config import read_yaml
from ardor.storage.runs import require_own
from ardor.training.averaging import Averaging
from ardor.training.epoch import EpochRecord, StepProgress
from ardor.training.loop import epochs
from ardor.training.preflight import check_setup, resolve_config
from ardor.training.recipe import Recipe, find_device
from ardor.training.soft_labels import SoftLabelCache


@dataclass
class Job:
    """A run as the words of a command describe it, ready to begin."""

    student: nn.Module
    teacher: nn.Module | None
    method: Any
    train: Split
    val: Split
    recipe: Recipe
    run: Path
    taught_by: str | None = None
    gate: bool = True
    log: str | None = None
    averaging: Averaging | None = None
    soft_labels: SoftLabelCache | None = None
    threads: int | None = None


def records_of(job: Job, tell: Callable[[StepProgress], None] | None = None) -> Iterator[EpochRecord]:
    """The run itself, epoch by epoch."""
    return epochs(
        job.student, job.teacher, job.method, job.train, job.recipe, val=job.val, run=job.run,
        averaging=job.averaging, soft_labels=job.soft_labels, tell=tell,
    )  # fmt: skip


def set_threads(job: Job) -> None:
    """Set torch's number of threads: that of --threads, else the run's own where it continues, else the rule's."""
    number, config = job.threads, job.run / "config.yaml"
    began = read_yaml(config).get("threads") if number is None and config.is_file() else None
    if isinstance(began, int) and began > 0:
        number = min(began, os.cpu_count() or 1)  # the run may come from a larger machine
    if number is None:
        number = threads_for(job.student.to(find_device(job.recipe.device)), job.train.shape)
    use_threads(number)


def config_of_job(job: Job) -> dict[str, Any]:
    """Everything that decides the result, resolved."""
    return resolve_config(
        job.student, job.teacher, job.method, job.train, job.val, job.recipe, job.averaging, job.soft_labels
    )


def findings_of(job: Job) -> list[Finding]:
    """What in the recipe silently changes results. Raises what training would at once, with nothing written."""
    find_device(job.recipe.device)
    check_setup(job.student, job.teacher, job.method, job.train, job.val, job.averaging, job.recipe)
    config = config_of_job(job)
    require_own(job.run, config)
    return of_recipe(config)


def gate_of(job: Job, student: nn.Module | None = None) -> TeacherReport | None:
    """What the teacher is worth, on the validation images; None for a run without one, or one that goes on.

    student: a trained net of the student's kind, for the share of its adversarial examples that transfer.
    """
    if job.teacher is None or not job.gate or (job.run / "state.safetensors").exists():
        return None
    trains_under = getattr(getattr(job.method, "attack", None), "threat", None)
    threat = trains_under or getattr(job.recipe.val_attack, "threat", None) or Linf()
    with display.progress("teacher gate", 100) as move:
        return judge_teacher(
            job.teacher.to(find_device(job.recipe.device)),
            job.val,
            threat,
            record=claim_of(job.taught_by, job.teacher),
            student=student,
            robust=wants_robust(job.method),
            limit=min(LIMIT, len(job.train)),  # a smoke test's teacher is not worth more images than its student
            progress=lambda name, done, todo: move(100 * done // todo, name),
        )
