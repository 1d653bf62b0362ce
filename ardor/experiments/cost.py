"""The cost of a bench or sweep, from a few real steps of every kind of cell, before anything long starts.

Hours are this machine's at this moment, with one process; attacks are counted as if every image withstood them, so
they are an upper bound. Nets have fresh weights, and no file of a published teacher is needed. A step is the loop's
own, in the recipe's precision; the soft labels that earlier cells of the same teacher cache are left out of later ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ardor import data as datasets
from ardor import models
from ardor.attacks import PGD
from ardor.attacks.rounds import fitted
from ardor.attacks.suites import SUITES
from ardor.data.split import Split
from ardor.engine.flops import macs
from ardor.engine.modes import attack_view
from ardor.experiments.cell import Cell, Cells
from ardor.experiments.cells import pending, state_of, threat_of
from ardor.experiments.label_study import Both
from ardor.models.known import find
from ardor.models.loading import net_for
from ardor.models.teachers import each
from ardor.noise import Noise
from ardor.storage.config import merged, to_yaml
from ardor.storage.runs import Run
from ardor.training.cost import batch_of, copied, passes_of
from ardor.training.job import Job, method_of
from ardor.training.preflight import check_setup, uses_teacher
from ardor.training.recipe import images_of_epoch
from ardor.training.soft_labels import unnumbered
from ardor.training.soft_labels.savings import views_met
from ardor.training.soft_labels.views import numbering, views_of

LARGE_MACS = 100_000_000
"""Per image, of a net whose steps are measured with few images."""

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
    speeds: dict[str, Speed] = {}
    looked_up: dict[str, float] = {}
    costs = []
    for cell in table.cells:
        if (state := state_of(table.spec, cell)[0]) not in ("open", "trained"):
            continue
        kind = to_yaml(merged(cell.config, {"recipe": {"seed": 0}}))
        if kind not in speeds:
            progress(cell.name)
            speeds[kind] = _speed(table, cell)
        speed = speeds[kind]
        job, images = speed.job, images_of_epoch(speed.job.recipe, speed.job.train)
        tests = tests or len(datasets.load_test(**job.train.source))
        epochs = job.recipe.epochs - len(Run(table.spec.run(cell.name)).metrics()) if state == "open" else 0
        nets = 1 if job.averaging is None else 2  # PGD-10 and the clean images, of the student and of its average
        validated = nets * epochs / job.recipe.val_every * (job.recipe.val_size or len(job.val)) * 21 * speed.attack
        train = images * (epochs * speed.step - _cached(speed, epochs, looked_up) * speed.label) + validated
        costs.append(Cost(cell, train, _passes(table, cell, job, tests) * speed.attack))
    return costs


@dataclass(frozen=True)
class Speed:
    """Seconds per image.

    Parameters
    ----------
    step : of training, where the teacher computes every batch.
    label : of the teacher's passes in it that cached soft labels replace.
    attack : of one pass of an attack, in float32.
    table : identity of the soft labels; "" where none are cached.
    """

    step: float
    label: float
    attack: float
    table: str
    job: Job


def _cached(speed: Speed, epochs: int, looked_up: dict[str, float]) -> float:
    """The epochs' worth of soft labels that a cell finds, after those that the cells before it have computed."""
    if not speed.table:
        return 0.0
    views, before = views_of(numbering(speed.job.recipe)), looked_up.get(speed.table, 0.0)
    looked_up[speed.table] = before + epochs
    return epochs - (views_met(before + epochs, views) - views_met(before, views))


def _speed(table: Cells, cell: Cell) -> Speed:
    """The speed of a cell's kind, from a few steps of the loop at its batch."""
    job = Job.from_config(cell.config, teacher=False)
    job.teacher = _teacher(table, cell, job.train)
    check_setup(job.student, job.teacher, job.method, job.train, job.val)
    nets = [job.student, *(each(job.teacher).values() if job.teacher else ())]
    few = max(macs(net, job.train.shape) for net in nets) > LARGE_MACS
    size = min(batch_of(job), 8) if few else batch_of(job)
    kept = passes_of(job)[3]
    with copied(job) as work:
        train = _shortest(lambda: work.timed(work.learn, 0, size))
        x = work.images(size)
        label = _shortest(lambda: work.timed(work.label, x)) if kept else 0.0
        y, index = (part[:size].to(work.device) for part in (job.train.labels, job.train.index))
        attack = PGD(threat_of(cell), steps=3)
        with attack_view(work.state.student) as view:
            attacked = _shortest(lambda: work.timed(attack, view, x, y[: len(x)], Noise(0, index[: len(x)], "plan")))
    named = {"teacher": cell.config.get("teacher"), "data": cell.config["data"]["name"]}
    cached = to_yaml(named) if kept and not unnumbered(job.recipe) else ""
    per_pass = attacked / size / attack.cost(job.train.classes)
    return Speed(train / size, kept * label / size, per_pass, cached, job)


def _shortest(timed: Callable[[], float]) -> float:
    """The shortest of STEPS calls, the first of which is not counted."""
    return min([timed() for _ in range(STEPS)][1:])


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
