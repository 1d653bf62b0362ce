"""The cost of a bench or sweep, from a few real steps of every kind of cell, before anything long starts.

Hours are this machine's at this moment, with one process; attacks are counted as if every image withstood them, so
they are an upper bound. Nets have fresh weights, and no file of a published teacher is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ardor import data as datasets
from ardor import models
from ardor.attacks import PGD
from ardor.attacks.rounds import fitted
from ardor.attacks.suites import SUITES
from ardor.data.split import Split
from ardor.engine.flops import macs
from ardor.engine.modes import attack_view, frozen, train_mode
from ardor.experiments.cell import Cell, Cells
from ardor.experiments.cells import pending, state_of, threat_of
from ardor.experiments.label_study import Both
from ardor.experiments.scales import MAX_MACS
from ardor.models.known import find
from ardor.models.loading import net_for
from ardor.noise import Noise, seeded
from ardor.storage.config import merged, to_yaml
from ardor.storage.runs import Run
from ardor.training.job import Job, method_of
from ardor.training.loop import step
from ardor.training.preflight import check_setup, uses_teacher
from ardor.training.recipe import find_device, images_of_epoch
from ardor.training.state import make_optimiser, set_rate

STEPS = 3
"""Real steps for each kind of cell; the first, a warm-up, is not counted."""


@dataclass(frozen=True)
class Cost:
    """What remains of a cell, in seconds.

    Parameters
    ----------
    train : of training, with validation.
    evaluate : of its evaluations, at most.
    """

    cell: Cell
    train: float
    evaluate: float


def plan(table: Cells, progress: Callable[[str], None] = lambda name: None) -> list[Cost]:
    """The cost of every unfinished cell; nothing is written.

    Parameters
    ----------
    progress : called with the name of each cell that is measured.

    Raises
    ------
    ArdorError
        As training would.
    """
    tests = 0
    speeds: dict[str, tuple[float, float, Job]] = {}
    costs = []
    for cell in table.cells:
        if (state := state_of(table.spec, cell)[0]) not in ("open", "trained"):
            continue
        kind = to_yaml(merged(cell.config, {"recipe": {"seed": 0}}))
        if kind not in speeds:
            progress(cell.name)
            speeds[kind] = _speed(table, cell)
        per_image, per_pass, job = speeds[kind]
        tests = tests or len(datasets.load_test(**job.train.source))
        epochs = job.recipe.epochs - len(Run(table.spec.run(cell.name)).metrics()) if state == "open" else 0
        validated = epochs / job.recipe.val_every * (job.recipe.val_size or len(job.val))
        train = (
            epochs * images_of_epoch(job.recipe, job.train) * per_image + validated * 21 * per_pass
        )  # PGD-10 and the clean images
        costs.append(Cost(cell, train, _passes(table, cell, job, tests) * per_pass))
    return costs


def _speed(table: Cells, cell: Cell) -> tuple[float, float, Job]:
    """Seconds per image of a training step, and per image and pass of an attack."""
    job = Job.from_config(cell.config, teacher=False)
    device = find_device(job.recipe.device)
    student, teacher = job.student.to(device), _teacher(table, cell, job.train)
    check_setup(student, teacher, job.method, job.train, job.val)
    size = min(job.recipe.batch, len(job.train), 8 if macs(job.student, job.train.shape) > MAX_MACS else 64)
    x, y, index = (v.to(device) for v in job.train.batch(slice(0, size)))
    if hasattr(job.method, "prepare"):
        job.method.prepare(student, teacher, x)
    optimiser = make_optimiser(student, job.method, job.recipe)
    set_rate(optimiser, 0.0)  # only time is measured, and the loss of an untrained teacher may diverge
    noise, epoch = Noise(0, index, "plan"), job.recipe.epochs
    with seeded(0), frozen(teacher, device), train_mode(student):
        train = _seconds(lambda: step(student, teacher, job.method, optimiser, x, y, epoch=epoch, noise=noise))
    attack = PGD(threat_of(cell), steps=3)
    with attack_view(student) as view:
        attacked = _seconds(lambda: attack(view, x, y, noise))
    return train / size, attacked / size / attack.cost(job.train.classes), job


def _seconds(run: Callable[[], object]) -> float:
    """The shortest of STEPS calls, the first of which is not counted."""
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def _teacher(table: Cells, cell: Cell, split: Split) -> nn.Module | None:
    """A net as the cell's teacher, with fresh weights where the bench trains it or it is a published one."""
    teachers = [c for c in table.cells if c.name in cell.needs and c.row[0] == "teacher"]
    if nets := [Job.from_config(c.config).student for c in teachers]:
        if len(nets) == 1:
            return nets[0]
        natural, robust = nets
        several = getattr(type(method_of(cell.config)), "teachers", ())
        return (
            nn.ModuleDict({"robust": robust, "natural": natural}) if several else Both(natural, robust, split.classes)
        )
    config = cell.config.get("teacher")
    if not config or not uses_teacher(method_of(cell.config)):
        return None
    source, _, name = str(config["name"]).partition(":")
    known = find(name, split.classes) if source == "robustbench" else None
    if known is None:
        return net_for("teacher", config, split, fresh=False, trust_code=table.spec.trust_code)
    return models.build(known.builder, classes=known.classes, **known.options)


def _passes(table: Cells, cell: Cell, job: Job, tests: int) -> float:
    """Passes of an image through the net that the pending evaluations cost at most, summed over images."""
    threat, classes, total = threat_of(cell), job.train.classes, 0.0
    for evaluation in pending(table.spec, cell):
        attacks: list[Any]
        if evaluation.suite == "passes":
            continue
        if evaluation.suite == "gap":
            attacks = [PGD(threat, steps=20)] * 8  # radii
        elif evaluation.suite == "transfer":  # on the source, whose cost is taken as the student's
            attacks = [PGD(threat, steps=20), PGD(threat, steps=20, loss="margin")]
        else:
            attacks = list(SUITES[evaluation.suite](threat).attacks.values())
        per_image = sum(fitted(attack, classes).cost(classes) for attack in attacks)
        total += min(evaluation.limit or tests, tests) * per_image
    return total
