"""Take the cells that no process has taken, train and evaluate each, until none is left.

Any number of processes may do this on one folder at once. A killed one loses what its cell did since its last
checkpoint: the run continues from there, and a journal keeps the verdicts of AutoAttack batch by batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from ardor import data as datasets
from ardor import models
from ardor.attacks import Suite, suites
from ardor.attacks.suites import SUITES
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.diagnostics.teacher import require
from ardor.engine.threads import restored
from ardor.errors import ArdorError, DivergedError
from ardor.evaluation.checks.recipe import with_training
from ardor.evaluation.progress import Progress
from ardor.evaluation.variance import gaps_of
from ardor.evaluation.verdicts import evaluate
from ardor.experiments.cells import State, note_of, pending, report_path, source_of, state_of, write_note
from ardor.experiments.label_study import Both
from ardor.experiments.tables import DISTILLATION, Cell, EvaluationSpec, Table, TableSpec
from ardor.storage.config import number
from ardor.storage.locks import locked
from ardor.storage.runs import Run, journal_of, mapping
from ardor.training.epoch import EpochRecord
from ardor.training.job import Job, gate_of, records_of, set_threads
from ardor.training.preflight import check_setup
from ardor.training.recipe import find_device
from ardor.training.soft_labels import SoftLabelCache

POLL = 1.0
"""Seconds between two passes over cells that other processes work on."""

ProgressCallback: TypeAlias = Callable[[Cell, EpochRecord | Progress | str], None]
"""Called with the cell, and a finished epoch, the progress of an attack, or a sentence."""


@dataclass(frozen=True)
class Problem:
    """A cell that could not be made, since it is foreign, failed or needs such a one; and the reason."""

    cell: Cell
    reason: str


def work(
    table: Table, progress: ProgressCallback, finished: Callable[[Cell], Any] = lambda cell: None
) -> list[Problem]:
    """Make every missing cell, wait for those of other processes, and take over those of dead ones.

    Parameters
    ----------
    progress : called while a cell is made.
    finished : called with each cell that this process finished.

    Returns
    -------
    list of Problem
        The cells that could not be made, which are left as they are.

    Raises
    ------
    ArdorError
        For a named teacher or transfer source that is missing, does not fit or does not match its record.
    """
    _check_named_nets(table, progress)
    problems: dict[str, Problem] = {}
    waited = False
    while waiting := _pass(table, problems, progress, finished):
        if not waited:
            progress(waiting[0], f"waits for other processes, {len(waiting)} cells")
        waited = True
        time.sleep(POLL)
    return list(problems.values())


def _check_named_nets(table: Table, progress: ProgressCallback) -> None:
    """Refuse a teacher or transfer source that the user or a recipe names, before hours go into other cells."""
    spec = table.spec
    students = [c for c in table.cells if c.row[-1] in DISTILLATION and state_of(spec, c)[0] == "open"]
    if students and (spec.teacher or spec.scale.full):
        job = _job(table, students[0])
        check_setup(job.student, job.teacher, job.method, job.train, job.val)
        _require_teacher(table, students[0], job, progress)
    transfers = [(cell, e) for cell in table.cells for e in cell.evaluations if e.source == spec.transfer_from != ""]
    for cell, evaluation in transfers[:1]:
        _suite(spec, evaluation, Job.from_config(cell.config, teacher=False).val)


def _pass(
    table: Table, problems: dict[str, Problem], progress: ProgressCallback, finished: Callable[[Cell], Any]
) -> list[Cell]:
    """Visit every cell once, in order, and make those that can be made; the cells that must wait."""
    waiting: list[Cell] = []
    done: set[str] = set()
    for cell in table.cells:
        if cell.name in problems:
            continue
        state, reason = state_of(table.spec, cell)
        if state in ("open", "trained"):
            if barred := [need for need in cell.needs if need in problems]:
                state, reason = "failed", f"it needs {barred[0]}"
            elif done.issuperset(cell.needs):
                state, reason = _make(table, cell, progress)
                if state == "done":
                    finished(cell)
        if state in ("foreign", "failed"):
            problems[cell.name] = Problem(cell, reason)
        elif state == "done":
            done.add(cell.name)
        else:
            waiting.append(cell)
    return waiting


def _make(table: Table, cell: Cell, progress: ProgressCallback) -> tuple[State, str]:
    """Train and evaluate a cell, unless another process has it; its state afterwards."""
    spec = table.spec
    with locked(note_of(spec, cell).with_suffix(".lock"), wait=False) as acquired, restored():
        if not acquired:
            return "open", ""
        state, reason = state_of(spec, cell)  # another process may have made it since
        if state in ("foreign", "failed"):
            return state, reason
        try:
            if state == "open":
                _train(table, cell, progress)
            for evaluation in pending(spec, cell):
                _evaluate(table, cell, evaluation, progress)
        except ArdorError as error:  # the other cells can still be made
            if isinstance(error, DivergedError):  # training is deterministic: it would diverge again
                write_note(spec, cell, failed=str(error))
            return "failed", str(error)
        return "done", ""


def _job(table: Table, cell: Cell) -> Job:
    spec = table.spec
    job = Job.from_config(cell.config, spec.run(cell.name), trust_code=spec.trust_code)
    job.soft_labels = SoftLabelCache(spec.folder / ".soft-labels")
    job.gate, job.threads = spec.gate, spec.threads
    return job


def _train(table: Table, cell: Cell, progress: ProgressCallback) -> None:
    """From the beginning, or from the last checkpoint."""
    start = time.perf_counter()
    job = _job(table, cell)
    check_setup(job.student, job.teacher, job.method, job.train, job.val)
    set_threads(job)
    _require_teacher(table, cell, job, progress)
    write_note(table.spec, cell)  # after the gate: a refused teacher leaves no note
    for record in records_of(job):
        progress(cell, record)
    seconds = round(time.perf_counter() - start, 1)  # since this process began
    write_note(table.spec, cell, trained=True, epochs=job.recipe.epochs, images=len(job.train), seconds=seconds)


def _require_teacher(table: Table, cell: Cell, job: Job, progress: ProgressCallback) -> None:
    """Refuse a teacher that does not match its record; not the label study's, whose natural teacher is not robust.

    The student trained by SAT, where the bench has it, shows how many of its adversarial examples transfer.
    """
    if isinstance(job.teacher, Both):
        return
    spec, name = table.spec, f"sat-{cell.row[0]}/s{cell.seed}"
    trained = any(c.name == name and state_of(spec, c)[0] == "done" for c in table.cells)
    report = gate_of(job, models.load(spec.run(name)) if trained else None)
    if report is not None:
        lines = "; ".join(line for line in report.text().splitlines()[:4] if "not measured" not in line)
        progress(cell, f"taught by {job.taught_by}: {lines}; {'refused' if report.refused else 'passed'}")
        require(report)


def _evaluate(table: Table, cell: Cell, evaluation: EvaluationSpec, progress: ProgressCallback) -> None:
    """Write the report of one evaluation."""
    spec, run = table.spec, table.spec.run(cell.name)
    threat = Linf(number(spec.eps))
    if evaluation.suite == "gap":
        gaps_of(run, threat, evaluation.limit or 1000)
        return
    config = Run(run).config
    net = models.load(run, checkpoint=evaluation.checkpoint).to(
        find_device(mapping(config.get("recipe")).get("device", "auto"))
    )
    split = datasets.load_test(
        **datasets.options_of({**Run(run).part("data"), **spec.data_options, "name": spec.data})
    )  # as located here
    split = split.limit(evaluation.limit) if evaluation.limit else split
    path, suite = report_path(spec, cell, evaluation), _suite(spec, evaluation, split)
    journal, batch = journal_of(path) if suite.sequential else None, min(256, len(split))
    report = evaluate(net, split, suite, batch=batch, journal=journal, progress=lambda p: progress(cell, p))
    report.title, report.training = f"{run} ({evaluation.checkpoint})", config
    report.findings = with_training(report.findings, config, threat)
    report.save(path)


def _suite(spec: TableSpec, evaluation: EvaluationSpec, split: Split) -> Suite:
    threat = Linf(number(spec.eps))
    if evaluation.suite != "transfer":
        return SUITES[evaluation.suite](threat)
    source = models.load(source_of(spec, evaluation), trust_code=spec.trust_code)
    models.require_fit(source, split.shape, split.classes, "surrogate")
    return suites.transfer(threat, source)
