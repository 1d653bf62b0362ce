"""Take the cells that nobody has taken, train and judge each, until none is left.

Any number of processes may do this on one folder at once. A killed one loses what its cell did since its last
checkpoint: the run goes on from there, and a journal keeps the verdicts of AutoAttack batch by batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from ardor import data as datasets
from ardor import models
from ardor.attacks import Suite, suites
from ardor.attacks.suites import SUITES
from ardor.attacks.threat import Linf
from ardor.cli.commands.train import job_of
from ardor.data.split import Split
from ardor.diagnostics.teacher import require
from ardor.engine.threads import restored
from ardor.errors import ArdorError, DivergedError
from ardor.evaluation.checks.recipe import with_training
from ardor.evaluation.progress import Progress
from ardor.evaluation.variance import gaps_of
from ardor.evaluation.verdicts import evaluate
from ardor.experiments.cells import left, lock_of, note, report_path, state_of
from ardor.experiments.label_study import Both
from ardor.experiments.tables import TAUGHT, Cell, EvaluationSpec, Table
from ardor.storage.config import number, read_yaml
from ardor.storage.locks import locked
from ardor.training.epoch import EpochRecord
from ardor.training.job import Job, gate_of, records_of, set_threads
from ardor.training.preflight import check_setup
from ardor.training.recipe import find_device

POLL = 1.0
"""Seconds between two looks at cells that others work on."""

ProgressCallback: TypeAlias = Callable[[Cell, EpochRecord | Progress | str], None]
"""Called with the cell, and an epoch that is done, the progress of an attack, or a sentence."""


@dataclass(frozen=True)
class Trouble:
    """A cell that could not be made: foreign, failed, or taught by such a one; and why."""

    cell: Cell
    why: str


def work(table: Table, tell: ProgressCallback, after: Callable[[Cell], Any] = lambda cell: None) -> list[Trouble]:
    """Make every cell that is missing; what is foreign or failed is left as it is and handed back.

    after: called with each cell that is finished. Waits for cells in other processes' hands, and takes a dead one's.
    """
    _look_ahead(table, tell)
    trouble: dict[str, Trouble] = {}
    waited = False
    while True:
        waiting = _pass(table, trouble, tell, after)
        if not waiting:
            return list(trouble.values())
        if not waited:
            tell(waiting[0], f"waits for other processes, {len(waiting)} cells")
        waited = True
        time.sleep(POLL)


def _look_ahead(table: Table, tell: ProgressCallback) -> None:
    """Refuse a named teacher that is absent, does not fit or is not what it claims, before hours go into others."""
    taught = [c for c in table.cells if c.row[-1] in TAUGHT and state_of(table.asked, c)[0] == "open"]
    if taught and (table.asked.teacher or not table.asked.scale.widest):
        job = job_of([*taught[0].words, f"--run={table.asked.run(taught[0].name)}"])
        check_setup(job.student, job.teacher, job.method, job.train, job.val)
        _require_teacher(table, taught[0], job, tell)
    judged = [(cell, j) for cell in table.cells for j in cell.judged if j.source == table.asked.transfer_from != ""]
    if judged:
        cell, judgement = judged[0]
        data = job_of(cell.words, taught=False).val
        _suite(table, judgement, Linf(number(table.asked.eps)), data)


def _pass(
    table: Table, trouble: dict[str, Trouble], tell: ProgressCallback, after: Callable[[Cell], Any]
) -> list[Cell]:
    """Look at every cell once, in order; those that must wait."""
    waiting, done = [], set()
    for cell in table.cells:
        if cell.name in trouble:
            continue
        state, why = state_of(table.asked, cell)
        missing = [need for need in cell.needs if need not in done]
        if state in ("foreign", "failed"):
            trouble[cell.name] = Trouble(cell, why)
        elif state == "done":
            done.add(cell.name)
        elif any(need in trouble for need in missing):
            trouble[cell.name] = Trouble(cell, f"it needs {missing[0]}")
        elif missing:
            waiting.append(cell)
        elif _make(table, cell, trouble, tell):
            if cell.name not in trouble:
                done.add(cell.name)
                after(cell)
        else:
            waiting.append(cell)
    return waiting


def _make(table: Table, cell: Cell, trouble: dict[str, Trouble], tell: ProgressCallback) -> bool:
    """Train and judge a cell; False where another process has it."""
    with locked(lock_of(table.asked, cell), wait=False) as mine, restored():
        if not mine:
            return False
        state, why = state_of(table.asked, cell)  # another process may have done it since
        if state in ("foreign", "failed"):
            trouble[cell.name] = Trouble(cell, why)
            return True
        try:
            if state == "open":
                _train(table, cell, tell)
            for judgement in left(table.asked, cell):
                _judge(table, cell, judgement, tell)
        except ArdorError as error:  # one cell's trouble is no other's
            trouble[cell.name] = Trouble(cell, str(error))
            if isinstance(error, DivergedError):  # so it would again: nothing in it is left to chance
                note(table.asked, cell, failed=str(error))
        return True


def _train(table: Table, cell: Cell, tell: ProgressCallback) -> None:
    """From the beginning, or from the last checkpoint."""
    began = time.perf_counter()
    run = table.asked.run(cell.name)
    job = job_of([*cell.words, f"--run={run}", f"--soft_labels_in={table.asked.folder / '.soft-labels'}"])
    job.threads = table.asked.threads
    check_setup(job.student, job.teacher, job.method, job.train, job.val)
    set_threads(job)
    _require_teacher(table, cell, job, tell)
    note(table.asked, cell)  # not before: what a refused teacher never began is nobody's
    for record in records_of(job):
        tell(cell, record)
    seconds = round(time.perf_counter() - began, 1)  # of this sitting
    note(table.asked, cell, trained=True, epochs=job.recipe.epochs, images=len(job.train), seconds=seconds)


def _require_teacher(table: Table, cell: Cell, job: Job, tell: ProgressCallback) -> None:
    """Refuse a teacher that is not what it claims to be; the labels' natural teacher is meant to be weak.

    The student trained by SAT, where the bench has it, says how many of its adversarial examples transfer.
    """
    sat = next((c for c in table.cells if c.name == f"sat-{cell.row[0]}/s{cell.seed}"), None)
    finished = sat is not None and state_of(table.asked, sat)[0] == "done"
    student = models.load(table.asked.run(sat.name)) if sat is not None and finished else None
    seen = None if isinstance(job.teacher, Both) else gate_of(job, student)
    if seen is not None:
        lines = "; ".join(line for line in seen.text().splitlines()[:4] if "not measured" not in line)
        tell(cell, f"taught by {job.taught_by}: {lines}; {'refused' if seen.refused else 'passed'}")
        require(seen)


def _judge(table: Table, cell: Cell, judgement: EvaluationSpec, tell: ProgressCallback) -> None:
    """Write the report of one judgement."""
    asked, run = table.asked, table.asked.run(cell.name)
    threat = Linf(number(asked.eps))
    if judgement.suite == "gap":
        gaps_of(run, threat, judgement.limit or 1000)
        return
    config = read_yaml(run / "config.yaml")
    net = models.load(run, checkpoint=judgement.checkpoint).to(find_device(config["recipe"]["device"]))
    split = _test_part(table, config)
    split = split.limit(judgement.limit) if judgement.limit else split
    where = report_path(asked, cell, judgement)
    suite = _suite(table, judgement, threat, split)
    journal = where.with_name(where.stem.replace("report-", "journal-", 1)) if suite.sequential else None
    batch = min(256, len(split))
    report = evaluate(net, split, suite, batch=batch, journal=journal, progress=lambda p: tell(cell, p))
    report.title, report.training = f"{run} ({judgement.checkpoint})", config
    report.findings = with_training(report.findings, config, threat.eps)
    report.save(where)


def _test_part(table: Table, config: dict[str, Any]) -> Split:
    """The test images of a run's data, where they lie for this process."""
    words = dict(word.removeprefix("--data.").split("=", 1) for word in table.asked.data_words)
    return datasets.load_test(**{**config["data"], **words, "name": table.asked.data})


def _suite(table: Table, judgement: EvaluationSpec, threat: Linf, split: Split) -> Suite:
    if judgement.suite == "transfer":
        source = _source(table, judgement.source)
        models.require_fit(source, split.shape, split.classes, "surrogate")
        return suites.transfer(threat, source)
    return SUITES[judgement.suite](threat)


def _source(table: Table, name: str) -> nn.Module:
    """The net that transfer is from: a cell of this bench, or what --transfer_from names."""
    run = table.asked.run(name)
    return models.load(run if run.is_dir() else Path(name))
