"""The nets of the demo: a robust teacher that ships with ardor, its students, and students of fewer and fewer labels.

They read 1,797 real handwritten digits. Only the public interface is used.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ardor import models
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.methods import (
    ABSLD,
    ADR,
    AKD2,
    ARD,
    DGAD,
    IAD,
    IGDM,
    KD,
    LBGAT,
    MART,
    MTARD,
    RSLAD,
    SAAD,
    SAT,
    TRADES,
    AdaAD,
    AdaIAD,
    FairRSLAD,
    Natural,
    PeerAiD,
    VarianceGap,
)  # fmt: skip
from ardor.storage.imports import nearest
from ardor.training.optimisers import SGD
from ardor.training.recipe import Recipe, batches

THREAT = Linf(0.2)
"""A fifth of the range from white to black: a person still reads the digit."""

QUICK = "two epochs of tiny nets, to see that everything runs"

STUDENT_WIDTH = 8
TEACHER, TEACHER_NET = "teacher (SAT)", "ardor:digits-cnn32-sat"
EPOCHS = 12
DEPLOYED = ("rslad",)
"""The students that a short demo compares with their files: ten CPU-seconds each, and natural ones fall in any form."""
MEASURED = ("natural", "sat", "rslad")
"""The students that a short demo measures at growing radii."""

LABELS = (400, 200, 100)
"""Numbers of labels of further SAT students."""
FEW = {f"sat ({n} labels)": n for n in LABELS}
METHODS: dict[str, Any] = {
    "natural": Natural(),
    "sat": SAT(),
    **dict.fromkeys(FEW, SAT()),
    "rslad": RSLAD(),
    "trades": TRADES(),
    "mart": MART(),
    "kd": KD(),
    "ard": ARD(),
    "iad": IAD(begin=round(EPOCHS * 60 / 200)),
    "variance_gap": VarianceGap(),
    "adaad": AdaAD(),
    "adaiad": AdaIAD(begin=1 + round(EPOCHS * 60 / 200)),
    "igdm": IGDM(ramp=EPOCHS),
    "saad": SAAD(ramp=EPOCHS),
    "adr": ADR(steps=19 * EPOCHS),
    "fair_rslad": FairRSLAD(),
    "absld": ABSLD(drops=tuple(round(EPOCHS * drop / 300) for drop in (215, 260, 285))),
    "mtard": MTARD(drops=tuple(round(EPOCHS * drop / 300) for drop in (215, 260, 285))),
    "dgad": DGAD(),
    "peeraid": PeerAiD(),
    "akd2": AKD2(),
    "lbgat": LBGAT(),
}
"""The students by name. What the papers count in epochs or steps is in proportion to `EPOCHS`."""

SHORT = ("natural", "sat", *FEW, "rslad")
ALL = tuple(METHODS)
RECIPE = Recipe(
    batch=64,
    lr=0.2,
    schedule="one-cycle",
    optimiser=SGD(weight_decay=5e-4),
    augment="none",
    val_attack=PGD(THREAT, steps=10),
    device="cpu",
)
"""Short, as the data are few; no crop, since digits fill their 8 pixels."""


@dataclass(frozen=True)
class Job:
    """One net of the demo.

    Parameters
    ----------
    name : its row on the page.
    folder : of its seed.
    method : None for the teacher, which is not trained.
    labels : images that it is trained on, another draw for each seed; 0 is all.
    epochs : over all images; over fewer as many as have as many steps.
    deployed : compare it with its exported files.
    measured : measure it at growing radii.
    """

    name: str
    folder: Path
    method: Any = None
    width: int = STUDENT_WIDTH
    seed: int = 0
    labels: int = 0
    epochs: int = EPOCHS
    deployed: bool = False
    measured: bool = False
    quick: bool = False

    @property
    def run(self) -> Path:
        """The folder of its run; the teacher's has its report alone."""
        return self.folder / ("teacher" if self.method is None else re.sub(r"\W+", "_", self.name).strip("_"))

    @property
    def role(self) -> Literal["teacher", "student"]:
        """As the page shows it."""
        return "teacher" if self.method is None else "student"

    @property
    def needs(self) -> str:
        """The student of its seed that must be finished first: the second teacher of a method with two."""
        return "natural" if getattr(self.method, "teachers", ()) else ""

    def net(self) -> nn.Module:
        """Its trained net."""
        return models.load(TEACHER_NET if self.method is None else self.run)


def jobs(out: Path, names: Iterable[str] = SHORT, seeds: Iterable[int] = range(3), quick: bool = False) -> list[Job]:
    """The nets of a demo: the teacher, then the students, seed by seed.

    Parameters
    ----------
    out : folder of the demo.
    names : of the students, keys of `METHODS`.
    quick : a trial, two epochs of tiny nets: its figures are no result.

    Raises
    ------
    ConfigError
        For a name that no student has.
    """
    names = list(names)
    if unknown := [name for name in names if name not in METHODS]:
        raise ConfigError(
            f'expected students of the demo, got "{unknown[0]}"{nearest(unknown[0], METHODS)}: name some of '
            f"{', '.join(METHODS)}"
        )
    everything = len(names) > len(SHORT)
    todo = [Job(TEACHER, out, quick=quick)]
    for seed in seeds:
        for name in names:
            labels = FEW.get(name, 0)
            first = not seed and not labels
            todo.append(
                Job(
                    name,
                    out / f"seed{seed}",
                    _under_threat(METHODS[name]),
                    width=4 if quick else STUDENT_WIDTH,
                    seed=seed,
                    labels=labels,
                    epochs=2 if quick else EPOCHS,
                    deployed=first and (everything or name in DEPLOYED),
                    measured=first and (everything or name in MEASURED),
                    quick=quick,
                )
            )
    return todo


def _under_threat(method: Any) -> Any:
    """A copy of the method with its attack, if it has one, under the demo's threat."""
    method = copy.deepcopy(method)
    if hasattr(method, "attack"):
        method.attack = dataclasses.replace(method.attack, threat=THREAT)
    return method


def images_of(job: Job, train: Split) -> Split:
    """The images that a job's net is trained on."""
    return train.limit(job.labels, job.seed) if job.labels else train


def recipe_of(job: Job, train: Split) -> Recipe:
    """`RECIPE` for a job: as many epochs as have the steps of `job.epochs` over all of `train`, or a few more.

    It is validated once, at its end: no checkpoint is chosen, and so no label of a validation image takes part.
    """
    recipe = dataclasses.replace(RECIPE, seed=job.seed)
    every, own = (len(batches(recipe, "order", 1, split)) for split in (train, images_of(job, train)))
    number = math.ceil(job.epochs * every / own)
    return dataclasses.replace(recipe, epochs=number, val_every=number)
