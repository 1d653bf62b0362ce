"""Validation during training: the accuracies that select the best checkpoint, of the student and of its average."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ardor.attacks import PGD, WorstCase
from ardor.attacks.rounds import fitted
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.engine import distributed
from ardor.engine.modes import attack_view, device_of
from ardor.evaluation.attacked import batch_for, correct
from ardor.noise import seeded
from ardor.training.augmentation import augmented
from ardor.training.averaging import restatistic
from ardor.training.recipe import Recipe, batches
from ardor.training.state import TrainState
from ardor.types import Attack, Images, Method

STATISTIC_BATCHES = 100
"""Training batches that the batch norm of an average is estimated on."""


def validate(student: nn.Module, val: Split, method: Method, recipe: Recipe) -> tuple[float, float]:
    """Clean and robust accuracy, in [0, 1], on the recipe's subset of `val`, the same in every epoch.

    Processes take whole batches each, so verdicts are those of one process.
    """
    part = val.limit(recipe.val_size, recipe.seed) if recipe.val_size else val
    batch = min(batch_for(part), len(part))
    shard = torch.arange(len(part)) // batch % distributed.world_size() == distributed.rank()
    attack = fitted(val_attack_of(recipe, method), val.classes)
    threat = getattr(attack, "threat", None)
    with seeded(recipe.seed), attack_view(student) as view:  # a net with random layers repeats its numbers
        clean = correct(student, view, part, None, "clean", alive=shard, batch=batch, pad=True)
        options: dict[str, Any] = {"batch": batch, "seed": recipe.seed, "pad": True, "threat": threat}
        robust = correct(student, view, part, attack, "validation", alive=clean, **options)
    counts = distributed.total({"clean": float(clean.sum()), "robust": float(robust.sum())})
    return counts["clean"] / len(part), counts["robust"] / len(part)


def val_attack_of(recipe: Recipe, method: Method) -> Attack:
    """The attack of the validation: the recipe's, the suite that it names, or PGD-10 on cross-entropy.

    The last two are under the method's own threat, or Linf 8/255 where it has none.
    """
    threat = getattr(getattr(method, "attack", None), "threat", None) or Linf(8 / 255)
    if isinstance(recipe.val_attack, str):
        return WorstCase(threat, recipe.val_attack)
    return recipe.val_attack or PGD(threat, steps=10)


def averaged(state: TrainState, train: Split, recipe: Recipe, epoch: int) -> nn.Module | None:
    """The student with averaged weights and its own batch-norm statistics; None where nothing is averaged yet."""
    if state.average is None or not state.average.count:
        return None
    net = state.average.net(state.student)
    restatistic(net, _batches(train, recipe, epoch, device_of(net)))
    return net


def _batches(train: Split, recipe: Recipe, epoch: int, device: torch.device) -> Iterator[Images]:
    """Clean training images, augmented as in training, in another order."""
    for rows in batches(recipe, "restatistic", epoch, train)[:STATISTIC_BATCHES]:
        yield augmented(train, rows, recipe, epoch, device, "restatistic/augment")[0]
