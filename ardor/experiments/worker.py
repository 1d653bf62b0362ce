"""Train and evaluate one cell: a function that may be called again after any interruption, and continues.

A killed process loses what its cell did since its last checkpoint: the run continues from there, and a journal keeps
the verdicts of AutoAttack batch by batch.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from typing import TypeAlias

from ardor import data as datasets
from ardor import models
from ardor.attacks import Suite, suites
from ardor.attacks.suites import SUITES
from ardor.data.split import Split
from ardor.diagnostics.teacher import require
from ardor.engine.threads import restored
from ardor.errors import ArdorError, DivergedError
from ardor.evaluation.checks.recipe import with_training
from ardor.evaluation.progress import Progress
from ardor.evaluation.variance import gaps_of
from ardor.evaluation.verdicts import evaluate
from ardor.experiments.cell import Cell, Cells, EvaluationSpec, Setting
from ardor.experiments.cells import State, note_of, pending, report_path, source_of, state_of, threat_of, write_note
from ardor.experiments.label_study import Both
from ardor.models import hash_of
from ardor.storage.files import write_text
from ardor.storage.imports import cause_of
from ardor.storage.locks import holder, locked
from ardor.storage.runs import Run, journal_of, mapping
from ardor.training.cost import passes_of
from ardor.training.epoch import EpochRecord
from ardor.training.job import Job, gate_of, method_of, records_of, set_threads
from ardor.training.preflight import check_setup, uses_teacher
from ardor.training.recipe import find_device, images_of_epoch
from ardor.training.soft_labels import SoftLabelCache

_PASSED: set[tuple[str, ...]] = set()
"""Teachers that the gate let pass in this process, by their weights, images, threat and student."""

ProgressCallback: TypeAlias = Callable[[Cell, EpochRecord | Progress | str], None]
"""Called with the cell, and a finished epoch, the progress of an attack, or a sentence."""


def make(table: Cells, cell: Cell, progress: ProgressCallback, wait: bool = True) -> tuple[State, str]:
    """Train and evaluate a cell as far as that is not done; its needs must be.

    Parameters
    ----------
    progress : called with each event.
    wait : for a process that makes the same cell.

    Returns
    -------
    tuple of State and str
        "done"; "foreign" or "failed" with the reason; "open", with the other process, where it does not wait for one.
    """
    lock = note_of(table.spec, cell).with_suffix(".lock")
    with locked(lock, wait=wait, required=False) as acquired, restored():
        if not acquired:
            return "open", holder(lock)
        state, reason = state_of(table.spec, cell)  # another process may have made it since
        if state in ("foreign", "failed"):
            return state, reason
        try:
            if state == "open":
                _train(table, cell, progress)
            for evaluation in pending(table.spec, cell):
                _evaluate(table.spec, cell, evaluation, progress)
        except ArdorError as error:  # the other cells can still be made
            if isinstance(error, DivergedError):  # training is deterministic: it would diverge again
                write_note(table.spec, cell, failed=str(error))
            return "failed", str(error)
        except Exception as error:  # in code of the user's, as a rule
            progress(cell, traceback.format_exc())
            return "failed", cause_of(error)
        return "done", ""


def require_named(table: Cells, progress: ProgressCallback) -> None:
    """Refuse a teacher or transfer source that the user or a recipe names, before hours go into other cells.

    Raises
    ------
    ArdorError
        For one that is missing, does not fit or does not match its record.
    """
    spec, teachers = table.spec, []
    for cell in table.cells:
        teacher = cell.config.get("teacher") if uses_teacher(method_of(cell.config)) else None
        of_a_cell = any(str(spec.run(need)) in (teacher or {}).values() for need in cell.needs)
        if teacher and not of_a_cell and teacher not in teachers and state_of(spec, cell)[0] == "open":
            teachers.append(teacher)
            job = _job(spec, cell)
            check_setup(job.student, job.teacher, job.method, job.train, job.val)
            _require_teacher(table, cell, job, progress)
    names = {cell.name for cell in table.cells} | {""}
    transfers = [(cell, e) for cell in table.cells for e in cell.evaluations if e.source not in names]
    for cell, evaluation in transfers[:1]:
        _suite(spec, cell, evaluation, Job.from_config(cell.config, teacher=False).val)


def _job(spec: Setting, cell: Cell) -> Job:
    job = Job.from_config(cell.config, spec.run(cell.name), trust_code=spec.trust_code)
    job.soft_labels = SoftLabelCache(spec.folder / ".soft-labels")
    job.gate, job.threads = spec.gate, spec.threads
    return job


def _train(table: Cells, cell: Cell, progress: ProgressCallback) -> None:
    """From the beginning, or from the last checkpoint."""
    start = time.perf_counter()
    job = _job(table.spec, cell)
    check_setup(job.student, job.teacher, job.method, job.train, job.val)
    set_threads(job)
    _require_teacher(table, cell, job, progress)
    write_note(table.spec, cell)  # after the gate: a refused teacher leaves no note
    for record in records_of(job):
        progress(cell, record)
    seconds = round(time.perf_counter() - start, 1)  # since this process began
    write_note(
        table.spec,
        cell,
        trained=True,
        epochs=job.recipe.epochs,
        images=images_of_epoch(job.recipe, job.train),
        seconds=seconds,
    )


def _require_teacher(table: Cells, cell: Cell, job: Job, progress: ProgressCallback) -> None:
    """Refuse a teacher that does not match its record; not the label study's, whose natural teacher is not robust.

    The student trained by SAT, where the bench has it, shows how many of its adversarial examples transfer. A named
    teacher is examined once in a process without such a student, and once with it: minutes for each of many cells.
    """
    if isinstance(job.teacher, Both) or job.teacher is None:
        return
    spec, like = table.spec, ("sat", cell.config["student"], cell.seed)
    trained = [
        c
        for c in table.cells
        if (c.config["method"]["name"], c.config["student"], c.seed) == like and state_of(spec, c)[0] == "done"
    ]
    examined = (hash_of(job.teacher), spec.images, str(threat_of(cell)), str(bool(trained) and cell.config["student"]))
    if examined in _PASSED:
        return
    student = models.load(spec.run(trained[0].name)) if trained else None

    def tell(name: str, done: int, todo: int) -> None:
        progress(cell, Progress(f"teacher, {name}", 1, 1, done, todo, 1.0, done / todo, None))

    for taught_by, report in gate_of(job, student, tell).items():
        lines = "; ".join(line for line in report.text().splitlines()[:4] if "not measured" not in line)
        progress(cell, f"taught by {taught_by}: {lines}; {'refused' if report.refused else 'passed'}")
        require(report)
    _PASSED.add(examined)


def _evaluate(spec: Setting, cell: Cell, evaluation: EvaluationSpec, progress: ProgressCallback) -> None:
    """Write the report of one evaluation."""
    run, threat = spec.run(cell.name), threat_of(cell)
    if evaluation.suite == "gap":
        gaps_of(run, threat, evaluation.limit or 1000)
        return
    if evaluation.suite == "passes":
        attack, learning, teacher, _ = passes_of(_job(spec, cell))
        write_text(Run(run).passes, json.dumps({"F": attack + learning, "T": teacher}))
        return
    config = Run(run).config
    net = models.load(run, checkpoint=evaluation.checkpoint).to(
        find_device(mapping(config.get("recipe")).get("device", "auto"))
    )
    split = datasets.load_test(**datasets.options_of(cell.config["data"]))
    split = split.limit(evaluation.limit) if evaluation.limit else split
    path, suite = report_path(spec, cell, evaluation), _suite(spec, cell, evaluation, split)
    journal, batch = journal_of(path) if suite.sequential else None, min(256, len(split))
    report = evaluate(net, split, suite, batch=batch, journal=journal, progress=lambda p: progress(cell, p))
    report.title, report.training = f"{run} ({evaluation.checkpoint})", config
    report.findings = with_training(report.findings, config, threat)
    report.save(path)


def _suite(spec: Setting, cell: Cell, evaluation: EvaluationSpec, split: Split) -> Suite:
    threat = threat_of(cell)
    if evaluation.suite != "transfer":
        return SUITES[evaluation.suite](threat)
    source = models.load(source_of(spec, evaluation), trust_code=spec.trust_code)
    models.require_fit(source, split.shape, split.classes, "surrogate")
    return suites.transfer(threat, source)
