"""The recipe of a run: its values, the learning rate at any step, and the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ardor.attacks.suites import SUITES
from ardor.data.mixing import MIX
from ardor.data.split import Split
from ardor.engine import distributed
from ardor.engine.precision import ATTACK_PRECISION, PRECISION, TEACHER_PRECISION
from ardor.errors import ConfigError
from ardor.noise import Noise, order
from ardor.storage.arguments import check_fields, require_value
from ardor.training.optimisers import SGD, Optimiser, is_function, is_optimiser
from ardor.types import Attack

__all__ = ["Recipe"]

NAMED: TypeAlias = Literal["milestones", "cosine", "one-cycle"]
SCHEDULE: TypeAlias = NAMED | Callable[..., float]
AUGMENT: TypeAlias = Literal[
    "crop-flip",
    "crop",
    "none",
    "resized-crop-flip",
    "resized-crop",
    "cropshift-flip",
    "cropshift",
    "idbh-weak",
    "idbh-strong",
]

MOST_VIEWS = 2**16


@dataclass(frozen=True)
class Recipe:
    """How to train: optimiser, schedule, augmentation, and the choice of the best checkpoint. Defaults: RSLAD's.

    Parameters
    ----------
    epochs
        Passes over train.
    batch
        Images of a step, over all processes; the last partial batch is kept.
    lr
        Highest learning rate.
    optimiser
        sgd, adamw, or file.py:Name, called as `Name(groups, lr=..., **options)`. Its options are
        `--recipe.optimiser.weight_decay 5e-4` and so on.
    schedule
        milestones; cosine, from lr to 0; one-cycle, up from lr / 25 in the first 30 % and then down to 0; or
        file.py:Name, called as `Name(share, **options)` before each step with the share of the training that is done:
        a factor of lr.
    milestones
        Epochs, counted from 1, after which the rate drops; None scales 215, 260, 285 of 300 to the run's length.
    drop
        Factor of the rate at each milestone, in (0, 1].
    warmup
        Epochs in which the schedule's rate is multiplied by a factor that rises linearly from 1/100 to 1.
    clip
        Largest L2 norm of the gradient of all that is trained, student and method together, over all processes; a
        longer one is scaled to it. None does not clip.
    accumulate
        Parts of a batch that are computed one after the other, for less memory. The gradient is that of the whole
        batch for losses per image; scalar terms, batch norm and what a method counts by calls are of each part.
    awp
        Adversarial weight perturbation: its size, relative to the weights, such as 0.005; 0 is none.
    awp_from
        First epoch of it, counted from 1.
    eps_ramp
        Two epochs: the training attack has radius 0, and no pass, up to the first, and then a radius that rises
        linearly, step by step, to its own at the second; its step too. Validation is always at the full radius.
    patience
        Validations without a higher robust accuracy, of the student or of the average, after which the run ends; 0 is
        never. Averages that start later than that are not made.
    augment
        crop-flip or crop (digits, letters) of the padded image; resized-crop-flip or resized-crop: a box of random
        area, ratio and place of the whole image as it is stored; cropshift-flip or cropshift: a window moved to another
        place; idbh-weak or idbh-strong: that, a colour or shape and erasing (Li and Spratling, ICLR 2023); or none.
    late
        Another augmentation from epoch `late_from` on: cropshift-flip and then idbh-weak is RSLAD's measured gain. None
        keeps one. No soft labels are cached then.
    late_from
        First epoch of the late augmentation, counted from 1.
    erase
        Share of the images of which a box is erased. No soft labels are cached then.
    cutout
        Side of a square that is erased at a uniform place, in pixels; 0 is none. No soft labels are cached then.
    mix
        cutmix: a box of another image of the step; mixup: both, weighted; or none. For methods whose targets are the
        teacher's, which answers the mixed image: those that use labels are refused. No soft labels are cached then.
    mix_alpha
        The image's own share is of the distribution Beta(mix_alpha, mix_alpha), drawn per image.
    padding
        Padding of the crop, in pixels.
    area
        Lowest and highest share of the image's area in a resized crop.
    ratio
        Lowest and highest width / height of a resized crop.
    views
        Boxes of an image in a resized crop, the same in every run; 0 draws another one in every epoch, and no soft
        labels are cached.
    jitter
        Largest changes of brightness, contrast, saturation and hue, such as 0.4,0.4,0.4,0.1: factors from 1 - 0.4 to
        1 + 0.4, a turn of at most 0.1 of the circle of hues (at most 0.5). No soft labels are cached then.
    randaugment
        RandAugment: operations on each image and their magnitude of 30, such as 2,9. No soft labels are cached then.
    seed
        Seed of order, augmentation and attack starts.
    val_attack
        Attack of the validation that selects the best checkpoint, or in Python the name of a suite, such as "paper",
        for its worst case; None is PGD-10 on cross-entropy. Suite and PGD-10 are under the method's threat. The
        options of an attack are `--recipe.val_attack.steps 20` and so on.
    val_size
        Images of val that are attacked, classes in proportion; 0 is all.
    val_every
        Epochs from one validation to the next.
    device
        cpu, cuda, cuda:1 and so on; auto is a GPU if there is one.
    precision
        float32, bfloat16 or, on GPUs, float16 for the student's passes in the outer step. Both change results, and
        reports name them. float16 has a scale of the loss: steps that overflow are skipped, and it is halved.
    attack_precision
        float32 or bfloat16 for the student's passes in the training attack, whose steps are then rounded.
    teacher_precision
        float32 or bfloat16 for the teacher's passes. Its soft labels are rounded then, and reports name it.
    compile
        Compile the attack's folded net, and the teacher's passes without gradients: a minute at first.
    sync_batchnorm
        Batch norm over the batches of all processes (GPUs only); else over each process's own.
    """

    epochs: int = 300
    batch: int = 128
    lr: float = 0.1
    optimiser: Optimiser = SGD()
    schedule: SCHEDULE = "milestones"
    milestones: tuple[int, ...] | None = None
    drop: float = 0.1
    warmup: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    awp: float = 0.0
    awp_from: int = 1
    eps_ramp: tuple[float, float] | None = None
    patience: int = 0
    augment: AUGMENT = "crop-flip"
    late: AUGMENT | None = None
    late_from: int = 1
    erase: float = 0.0
    cutout: int = 0
    mix: MIX = "none"
    mix_alpha: float = 1.0
    padding: int = 4
    area: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    views: int = 0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    randaugment: tuple[int, int] = (0, 0)
    seed: int = 0
    val_attack: Attack | str | None = None
    val_size: int = 1000
    val_every: int = 1
    device: str = "auto"
    precision: PRECISION = "float32"
    attack_precision: ATTACK_PRECISION = "float32"
    teacher_precision: TEACHER_PRECISION = "float32"
    compile: bool = False
    sync_batchnorm: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr", "val_every"):
            self._require(name, "a number above 0", lambda v: v > 0)
        for name in ("epochs", "batch", "val_every", "val_size", "padding", "seed"):
            self._require(name, "a whole number of 0 or more, below 2**63", lambda v: 0 <= v < 2**63)
        self._require("optimiser", "sgd, adamw or file.py:Name", is_optimiser)
        if "lr" in getattr(self.optimiser, "keywords", ()):
            raise ConfigError("expected the learning rate as --recipe.lr, got --recipe.optimiser.lr: type --recipe.lr")
        self._require("drop", "a factor above 0, at most 1", lambda v: 0 < v <= 1)
        self._require("milestones", "epochs from 1 up", lambda v: v is None or all(m >= 1 for m in v))
        what = f"one of {', '.join(get_args(NAMED))}, or file.py:Name"
        self._require("schedule", what, lambda v: v in get_args(NAMED) or is_function(v))
        self._require("warmup", "epochs from 0 to those of the run", lambda v: 0 <= v <= self.epochs)
        self._require("clip", "a norm above 0, or none", lambda v: v is None or v > 0)
        self._require("accumulate", "parts from 1 to the images of the batch", lambda v: 1 <= v <= self.batch)
        self._require("awp", "a share of the weights' norm, from 0 to below 1", lambda v: 0 <= v < 1)
        self._require("awp_from", "an epoch from 1 up", lambda v: v >= 1)
        what = "two epochs of the run, the first of them first"
        self._require("eps_ramp", what, lambda v: v is None or (len(v) == 2 and 0 <= v[0] <= v[1] <= self.epochs))
        what = f"an attack such as PGD(threat, steps=20), or a suite: {', '.join(SUITES)}"
        self._require("val_attack", what, lambda v: not isinstance(v, str) or v in SUITES)
        self._require("patience", "a number of validations, or 0 for none", lambda v: v >= 0)
        choices = {
            "augment": AUGMENT, "precision": PRECISION, "attack_precision": ATTACK_PRECISION,
            "teacher_precision": TEACHER_PRECISION,
        }  # fmt: skip
        for name, choice in choices.items():
            self._require(name, f"one of {', '.join(get_args(choice))}", get_args(choice).__contains__)
        check_fields(self)
        self._require_augmentation()

    def _require_augmentation(self) -> None:
        """Refuse values out of range, and options of another augmentation than the recipe's. Raises ConfigError."""
        self._require("area", "shares above 0 and at most 1, the lower first", lambda v: 0 < v[0] <= v[1] <= 1)
        self._require("ratio", "ratios above 0, the lower first", lambda v: 0 < v[0] <= v[1] < math.inf)
        self._require("views", f"a number of boxes from 0 to {MOST_VIEWS}", lambda v: 0 <= v <= MOST_VIEWS)
        what = "changes of brightness, contrast, saturation and hue of 0 or more, of hue at most 0.5"
        self._require("jitter", what, lambda v: min(v) >= 0 and v[3] <= 0.5)
        what = "a number of operations and a magnitude from 0 to 30"
        self._require("randaugment", what, lambda v: v[0] >= 0 and 0 <= v[1] <= 30)
        self._require("erase", "a share from 0 to 1", lambda v: 0 <= v <= 1)
        self._require("cutout", "a side in pixels, or 0", lambda v: v >= 0)
        self._require("mix_alpha", "a number above 0", lambda v: v > 0)
        if self.mix == "none":
            self._require("mix_alpha", "1, its default: recipe.mix none has no strength", lambda v: v == 1)
        self._require("late_from", "an epoch from 1 up", lambda v: v >= 1)
        self._require(
            "late", f"one of {', '.join(get_args(AUGMENT))}, or none", (None, *get_args(AUGMENT)).__contains__
        )
        for name in ("padding",) if self.resized else ("area", "ratio", "views"):
            preset = getattr(type(self), name)
            self._require(name, f"{preset}, its default: {self.augment} has no {name}", preset.__eq__)

    def _require(self, name: str, what: str, valid: Callable[[Any], bool]) -> None:
        require_value(f"recipe.{name}", getattr(self, name), what, valid)

    @property
    def resized(self) -> bool:
        """Whether a view is a box of the whole image, resized."""
        return any(kind.startswith("resized-crop") for kind in (self.augment, self.late or ""))

    @property
    def drops(self) -> tuple[int, ...]:
        """The epochs after which the rate drops."""
        if self.milestones is not None:
            return self.milestones
        return tuple(round(self.epochs * m / 300) for m in (215, 260, 285))


def lr_at(recipe: Recipe, epochs_done: float) -> float:
    """The learning rate of the step after `epochs_done` epochs, a fraction inside an epoch."""
    rate = recipe.lr * _factor(recipe, epochs_done)
    if epochs_done < recipe.warmup:
        rate *= 0.01 + 0.99 * epochs_done / recipe.warmup
    return rate


def _factor(recipe: Recipe, epochs_done: float) -> float:
    """The schedule, as a factor of the highest rate. Raises ConfigError for a third-party one of another result."""
    if recipe.schedule == "milestones":
        return float(recipe.drop ** sum(m <= math.floor(epochs_done + 1e-9) for m in recipe.drops))
    share = epochs_done / recipe.epochs
    if recipe.schedule == "cosine":
        return (1 + math.cos(math.pi * share)) / 2
    if callable(recipe.schedule):
        factor = recipe.schedule(share)
        require_value("recipe.schedule", factor, "a function to a finite number of 0 or more", lambda v: 0 <= v < 1e9)
        return float(factor)
    if share < 0.3:
        return 1 / 25 + (1 - 1 / 25) * share / 0.3
    return (1 + math.cos(math.pi * (share - 0.3) / 0.7)) / 2


def batches(recipe: Recipe, purpose: str, epoch: int, train: Split) -> list[Tensor]:
    """The rows of each step of an epoch in a random order; a last image that would be alone joins the step before."""
    real = train.real.nonzero().flatten()
    mixed = order(recipe.seed, purpose, epoch, train.index[real])
    if train.extra is not None and len(real) < len(train):
        return _mixed(recipe, purpose, epoch, train.extra.share, real[mixed], (~train.real).nonzero().flatten())
    steps = list(mixed.split(recipe.batch))
    if len(steps) > 1 and len(steps[-1]) == 1:  # it has no batch statistics
        steps[-2:] = [torch.cat(steps[-2:])]
    return steps


def _mixed(recipe: Recipe, purpose: str, epoch: int, share: float, real: Tensor, extra: Tensor) -> list[Tensor]:
    """ceil(real / B) steps of B images: int(share B) extra ones, with replacement, the rest real ones, without."""
    size, device = recipe.batch, real.device
    steps = []
    for number, some in enumerate(real.split(size - int(share * size))[: math.ceil(len(real) / size)]):
        places = number * size + torch.arange(size, device=device)
        drawn = Noise(recipe.seed, places, f"{purpose}/extra", epoch).integers(len(extra))[len(some) :]
        rows = torch.cat([some, extra[drawn]])
        steps.append(rows[order(recipe.seed, f"{purpose}/mix", epoch, places)])  # parts of a batch are mixed, too
    return steps


def drawn(recipe: Recipe, train: Split) -> list[tuple[int, int]]:
    """The real images and how many of them the steps of an epoch have, and the same of extra ones."""
    real = int(train.real.sum())
    if real == len(train) or train.extra is None:
        return [(real, real)]
    steps = math.ceil(real / recipe.batch)
    some = min(real, steps * (recipe.batch - int(train.extra.share * recipe.batch)))
    return [(real, some), (len(train) - real, steps * recipe.batch - some)]


def images_of_epoch(recipe: Recipe, train: Split) -> int:
    """Images in the steps of an epoch."""
    return sum(images for _, images in drawn(recipe, train))


def find_device(name: str) -> torch.device:
    """The device of a name such as cpu or cuda:1; "auto" is a GPU if there is one. Raises ConfigError."""
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        # torchrun's processes on one machine take different GPUs, as far as there are enough
        return torch.device("cuda", distributed.local_rank() % torch.cuda.device_count())
    try:
        torch.zeros(1, device=name).cpu()  # the device meta fails here
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ConfigError(f"expected a device that this machine has, got {name!r}: type --recipe.device cpu") from error
