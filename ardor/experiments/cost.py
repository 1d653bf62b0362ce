"""What a bench will cost: a few real steps of every kind of cell, before anything long starts.

Hours are this machine's at this moment, with one process; attacks are counted as if every image withstood them, so
they are a bound. Nets have fresh weights and no file of a teacher is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ardor import data as datasets
from ardor import models
from ardor.attacks import PGD, Suite
from ardor.attacks.rounds import fitted
from ardor.attacks.suites import SUITES
from ardor.attacks.threat import Linf
from ardor.cli.commands.train import job_of
from ardor.data.split import Split
from ardor.engine.modes import attack_view, freeze, train_mode
from ardor.experiments.cells import left, state_of
from ardor.experiments.label_study import Both
from ardor.experiments.tables import Cell, Table
from ardor.models.known import find
from ardor.noise import Noise, seeded
from ardor.storage.config import number, read_yaml
from ardor.storage.runs import Run
from ardor.training.job import Job
from ardor.training.loop import step
from ardor.training.preflight import check_setup
from ardor.training.recipe import find_device
from ardor.training.state import make_optimiser, set_rate

STEPS = 3
"""Real steps for each kind of cell; the first, which warms up, is not counted."""


@dataclass(frozen=True)
class Cost:
    """What is left of a cell, in seconds: learning, and at most for its attacks."""

    cell: Cell
    train: float
    judge: float


def plan(table: Table, tell: Callable[[str], None] = lambda name: None) -> list[Cost]:
    """What every unfinished cell costs. Nothing is written. Raises as training would."""
    tests = 0
    speeds: dict[tuple[str, ...], tuple[float, float, Job]] = {}
    found = []
    for cell in table.cells:
        state, _ = state_of(table.asked, cell)
        if state in ("done", "foreign", "failed"):
            continue
        kind = tuple(word for word in cell.words if not word.startswith("--recipe.seed="))
        if kind not in speeds:
            tell(cell.name)
            speeds[kind] = _speed(table, cell)
        per_image, per_pass, job = speeds[kind]
        tests = tests or len(datasets.load_test(**job.train.source))
        to_do = job.recipe.epochs - len(Run(table.asked.run(cell.name)).metrics()) if state == "open" else 0
        images = len(job.train) * to_do
        looks = images / len(job.train) / job.recipe.val_every
        validation = looks * (job.recipe.val_size or len(job.val)) * 21 * per_pass  # PGD-10 and the clean images
        found.append(Cost(cell, images * per_image + validation, _passes(table, cell, job, tests) * per_pass))
    return found


def _speed(table: Table, cell: Cell) -> tuple[float, float, Job]:
    """Seconds per image of a training step, and per image and pass of an attack."""
    job = job_of(cell.words, taught=False)
    device = find_device(job.recipe.device)
    student, teacher = job.student.to(device), _teacher(table, cell, job.train)
    check_setup(student, teacher, job.method, job.train, job.val)
    size = min(job.recipe.batch, len(job.train), 64 if table.asked.scale.widest else 8)
    x, y, index = (v.to(device) for v in job.train.batch(slice(0, size)))
    if hasattr(job.method, "prepare"):
        job.method.prepare(student, teacher, x)
    optimiser = make_optimiser(student, job.method, job.recipe)
    set_rate(optimiser, 0.0)  # only the time counts, and with a teacher that knows nothing a loss may run away
    noise = Noise(0, index, "plan")
    frozen = nullcontext() if teacher is None else freeze(teacher.to(device))

    def learn() -> None:
        step(student, teacher, job.method, optimiser, x, y, epoch=job.recipe.epochs, noise=noise)

    with seeded(0), frozen, train_mode(student):
        learned = [_timed(learn) for _ in range(STEPS)]
    attack = PGD(Linf(number(table.asked.eps)), steps=3)
    with attack_view(student) as view:
        attacked = [_timed(lambda: attack(view, x, y, noise)) for _ in range(STEPS)]
    return min(learned[1:]) / size, min(attacked[1:]) / size / attack.cost(job.train.classes), job


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _teacher(table: Table, cell: Cell, split: Split) -> nn.Module | None:
    """A net as the cell's teacher, with fresh weights."""
    by_name = {other.name: other for other in table.cells}
    taught_by = [by_name[need] for need in cell.needs if need.startswith("teacher-")]
    if len(taught_by) == 2:
        natural, robust = (job_of(other.words).student for other in taught_by)
        return Both(natural, robust, split.classes)
    if taught_by:
        return job_of(taught_by[0].words).student
    words = dict(word.removeprefix("--").partition("=")[::2] for word in cell.words)
    name = words.get("teacher") or _in_recipe(cell)
    if name is None:
        return None
    known = find(name.removeprefix("robustbench:"), split.classes) if name.startswith("robustbench:") else None
    if known is not None:
        return models.build(known.builder, classes=known.classes, **known.options)
    return models.load(name)


def _in_recipe(cell: Cell) -> str | None:
    said = None if cell.words[0].startswith("-") else read_yaml(Path(cell.words[0])).get("teacher")
    return str(said["name"]) if isinstance(said, dict) else said


def _passes(table: Table, cell: Cell, job: Job, tests: int) -> float:
    """Passes of an image through the net that the judgements left cost at most, all images together."""
    threat, classes, total = Linf(number(table.asked.eps)), job.train.classes, 0.0
    for judgement in left(table.asked, cell):
        images = min(judgement.limit or tests, tests)
        if judgement.suite == "gap":
            total += images * 8 * 40
            continue
        for suite in _suites(judgement.suite, threat):
            total += images * sum(fitted(attack, classes).cost(classes) for attack in suite.attacks.values())
    return total


def _suites(name: str, threat: Linf) -> Iterator[Suite]:
    if name == "transfer":  # as much as PGD-20 and CW-20 on the source, taken as the student's cost
        yield Suite("transfer", threat, {"pgd": PGD(threat, steps=20), "cw": PGD(threat, steps=20, loss="margin")})
    else:
        yield SUITES[name](threat)
