"""How to train: the numbers of a recipe, the rate they give at any moment, and the device they name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch.distributed import get_node_local_rank

from ardor.engine.precision import PRECISION
from ardor.errors import ConfigError
from ardor.types import Attack

__all__ = ["Recipe"]

SCHEDULE: TypeAlias = Literal["milestones", "cosine", "one-cycle"]
AUGMENT: TypeAlias = Literal["crop-flip", "crop", "none"]


@dataclass(frozen=True)
class Recipe:
    """How to train: SGD, its schedule, the augmentation, and the choice of the best checkpoint. Defaults: RSLAD's.

    Parameters
    ----------
    epochs
        Passes over train.
    batch
        Images of a step, over all processes; the last partial batch is kept.
    lr
        Highest learning rate.
    momentum
        Momentum of SGD, in [0, 1).
    nesterov
        Nesterov's momentum.
    weight_decay
        Weight decay on all parameters of the student.
    schedule
        milestones; cosine, from lr to 0; or one-cycle, up from lr / 25 in the first 30 % and then down to 0.
    milestones
        Epochs, counted from 1, after which the rate drops; None scales 215, 260, 285 of 300 to the run's length.
    drop
        Factor of the rate at each milestone, in (0, 1].
    augment
        crop-flip, crop (digits, letters) or none.
    padding
        Padding of the crop, in pixels.
    seed
        Seed of order, augmentation and attack starts.
    val_attack
        Attack of the validation that selects the best checkpoint; None is PGD-10 on cross-entropy under the method's
        threat. Its options are `--recipe.val_attack.steps 20` and so on.
    val_size
        Images of val that are attacked, classes in proportion; 0 is all.
    val_every
        Epochs from one validation to the next.
    device
        cpu, cuda, cuda:1 and so on; auto is a GPU if there is one.
    precision
        float32 or bfloat16 for the student's passes in the outer step. bfloat16 changes results, and reports name it.
    attack_precision
        The same for its passes in the attack.
    compile
        Compile the attack's folded net by torch.compile, which takes a minute at first.
    sync_batchnorm
        Batch norm over the batches of all processes (GPUs only); else over each process's own.
    """

    epochs: int = 300
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 2e-4
    schedule: SCHEDULE = "milestones"
    milestones: tuple[int, ...] | None = None
    drop: float = 0.1
    augment: AUGMENT = "crop-flip"
    padding: int = 4
    seed: int = 0
    val_attack: Attack | None = None
    val_size: int = 1000
    val_every: int = 1
    device: str = "auto"
    precision: PRECISION = "float32"
    attack_precision: PRECISION = "float32"
    compile: bool = False
    sync_batchnorm: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr", "val_every"):
            _require(self, name, "a number above 0", lambda v: v > 0)
        for name in ("epochs", "batch", "val_every", "val_size", "padding", "seed"):
            _require(self, name, "a whole number of 0 or more, below 2**63", lambda v: v == int(v) and 0 <= v < 2**63)
        _require(self, "momentum", "a number from 0 to below 1", lambda v: 0 <= v < 1)
        _require(self, "nesterov", "false where momentum is 0", lambda v: not v or self.momentum > 0)
        _require(self, "weight_decay", "a number of 0 or more", lambda v: v >= 0)
        _require(self, "drop", "a factor above 0, at most 1", lambda v: 0 < v <= 1)
        _require(self, "schedule", "one of milestones, cosine, one-cycle", get_args(SCHEDULE).__contains__)
        _require(self, "augment", "one of crop-flip, crop, none", get_args(AUGMENT).__contains__)
        for name in ("precision", "attack_precision"):
            _require(self, name, "one of float32, bfloat16", get_args(PRECISION).__contains__)
        _require(self, "milestones", "epochs from 1 up", lambda v: v is None or all(m >= 1 for m in v))

    @property
    def drops(self) -> tuple[int, ...]:
        """The epochs after which the rate drops."""
        if self.milestones is not None:
            return self.milestones
        return tuple(round(self.epochs * m / 300) for m in (215, 260, 285))


def _require(recipe: Recipe, name: str, what: str, holds: Callable[[Any], bool]) -> None:
    value = getattr(recipe, name)
    try:
        fits = holds(value)
    except TypeError:  # a word where a number belongs
        fits = False
    if not fits:
        raise ConfigError(f"expected recipe.{name} as {what}, got {value!r}: type --recipe.{name} with such a value")


def lr_at(recipe: Recipe, epochs_done: float) -> float:
    """The rate after `epochs_done` epochs (a fraction inside an epoch), before the next step."""
    if recipe.schedule == "milestones":
        return recipe.lr * recipe.drop ** sum(m <= math.floor(epochs_done + 1e-9) for m in recipe.drops)
    share = epochs_done / recipe.epochs
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * share)) / 2
    if share < 0.3:
        return recipe.lr * (1 / 25 + (1 - 1 / 25) * share / 0.3)
    return recipe.lr * (1 + math.cos(math.pi * (share - 0.3) / 0.7)) / 2


def find_device(name: str) -> torch.device:
    """The device that `name` means; "auto" is a GPU if there is one. Raises ConfigError."""
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        # each of the processes that torchrun starts on a machine gets a GPU of its own, as far as there are any
        return torch.device("cuda", get_node_local_rank(fallback_rank=0) % torch.cuda.device_count())
    try:
        torch.zeros(1, device=name).cpu()  # a device that only describes tensors cannot give one back
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ConfigError(f"expected a device that this machine has, got {name!r}: type --recipe.device cpu") from error
