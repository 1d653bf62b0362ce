"""The loop: one readable pass over the data per epoch, no hooks, no Trainer; every record goes to the caller."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ardor
from ardor import checkpoint
from ardor.attacks import PGD, Suite
from ardor.config import code_of, describe
from ardor.data.augment import crop_flip
from ardor.data.split import Split
from ardor.errors import ConfigError, DivergedError, ModelError
from ardor.evaluate import evaluate
from ardor.logs.moment import Moment
from ardor.models import hash_of, require_fit
from ardor.models.known import require_known
from ardor.modes import freeze, train_mode
from ardor.noise import Noise, order
from ardor.recipe import Recipe, find_device, lr_at
from ardor.types import Images, Labels, Method

DEFAULT = Recipe()

EVERY = 10
"""Steps between two words on how far an epoch is."""


@dataclass
class Epoch:
    """What an epoch did: mean loss terms by name, the last rate, seconds, and accuracies where `val` was looked at."""

    epoch: int
    epochs: int
    loss: float
    terms: dict[str, float]
    lr: float
    seconds: float
    images_per_second: float | None = None
    val_clean: float | None = None
    val_robust: float | None = None
    best: bool = False
    run: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        parts = [f"epoch {self.epoch}/{self.epochs}", f"loss {self.loss:.4f}"]
        parts += [f"{name} {value:.4f}" for name, value in self.terms.items()]
        if self.val_robust is not None and self.val_clean is not None:
            star = " *" if self.best else ""
            parts.append(f"val {100 * self.val_clean:.1f} clean {100 * self.val_robust:.1f} robust{star}")
        return "  ".join([*parts, f"lr {self.lr:.3g}", f"{self.seconds:.1f} s"])


def epochs(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Method,
    train: Split,
    recipe: Recipe = DEFAULT,
    *,
    val: Split | None = None,
    run: str | Path | None = None,
    tell: Callable[[Moment], None] | None = None,
) -> Iterator[Epoch]:
    """Train `student` and yield an Epoch after each. The student holds the last weights, run/best.safetensors the best.

    val: chooses the best checkpoint by robust accuracy; without it there is none. run: a folder for config.yaml,
    metrics.jsonl, best, last and the state to go on from; called again with the same arguments it continues there.
    tell: called every few steps with where the epoch is. The teacher is frozen in eval mode meanwhile and put back.
    Raises DivergedError before a loss that is not finite reaches the weights, RunError where the folder is unusable or
    holds another run, ModelError where nets and data do not fit.
    """
    device = find_device(recipe.device)
    require_ready(student, teacher, method, train, val)
    student.to(device)
    with _frozen(teacher, device) as teaching:
        _prepare(method, student, teaching, train, recipe, device)
    optimiser = make_optimiser(student, method, recipe)
    folder = checkpoint.open_run(run, config_of(student, teacher, method, train, val, recipe))
    done, best = checkpoint.resume(folder, student, optimiser, method)
    for epoch in range(done + 1, recipe.epochs + 1):
        with _frozen(teacher, device) as teaching:  # put back before every yield: two runs may share a teacher
            record = train_epoch(student, teaching, method, train, recipe, optimiser, epoch, tell)
        if val is not None and (epoch % recipe.val_every == 0 or epoch == recipe.epochs):
            record.val_clean, record.val_robust = validate(student, val, method, recipe)
            record.best = record.val_robust > best
            best = max(best, record.val_robust)
        record.run = str(folder) if folder else None
        checkpoint.save(folder, record, best, student, optimiser, method)
        yield record


def distill(*args: Any, **kwargs: Any) -> list[Epoch]:
    """`epochs` to the end: the records of all epochs. Arguments and errors as there."""
    return list(epochs(*args, **kwargs))


def train_epoch(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Method,
    train: Split,
    recipe: Recipe,
    optimiser: torch.optim.Optimizer,
    epoch: int,
    tell: Callable[[Moment], None] | None = None,
) -> Epoch:
    """One pass over `train` in an order of its own; images are augmented, attacked and learned from batch by batch."""
    began = time.perf_counter()
    device = next(student.parameters()).device
    batches = order(recipe.seed, "order", epoch, train.index).split(recipe.batch)
    sums: dict[str, float] = {}
    rate = recipe.lr
    with train_mode(student):
        for number, rows in enumerate(batches, 1):
            x, y, index = (v.to(device) for v in train.batch(rows))
            x = augmented(x, recipe, Noise(recipe.seed, index, "augment", epoch))
            rate = set_rate(optimiser, lr_at(recipe, epoch - 1 + (number - 1) / len(batches)))
            noise = Noise(recipe.seed, index, "method", epoch)
            where = f"epoch {epoch}, step {number}, lr {rate:.3g}"
            means = step(student, teacher, method, optimiser, x, y, epoch=epoch, noise=noise, where=where)
            for name, mean in means.items():
                sums[name] = sums.get(name, 0.0) + float(mean) * len(rows) / len(train)
            if tell is not None and number % EVERY == 0:
                share, speed = number / len(batches), number * recipe.batch / (time.perf_counter() - began)
                so_far = {name: value / share for name, value in sums.items()}
                tell(Moment(epoch, recipe.epochs, number, len(batches), speed, so_far))
    seconds = time.perf_counter() - began
    return Epoch(epoch, recipe.epochs, sum(sums.values()), sums, rate, seconds, len(train) / seconds)


def step(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Method,
    optimiser: torch.optim.Optimizer,
    x: Images,
    y: Labels,
    *,
    epoch: int,
    noise: Noise,
    where: str = "this step",
) -> dict[str, Tensor]:
    """Learn from one batch: its mean loss terms. A loss that is not finite never reaches the weights."""
    terms = method.terms(student, teacher, x, y, epoch=epoch, noise=noise)
    if not isinstance(terms, dict) or not terms:
        got = type(terms).__name__
        raise ConfigError(f"expected named terms of {type(method).__name__}, got {got}: return {{'clean': loss}}, say")
    means = {name: term.mean() for name, term in terms.items()}
    loss = torch.stack(list(means.values())).sum()
    _require_finite(loss, means, where)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return {name: mean.detach() for name, mean in means.items()}


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> float:
    """Give every parameter group the rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def make_optimiser(student: nn.Module, method: Method, recipe: Recipe) -> torch.optim.SGD:
    """SGD over the student with weight decay, and over the method's own parameters without."""
    groups: list[dict[str, Any]] = [{"params": list(student.parameters()), "weight_decay": recipe.weight_decay}]
    own = list(getattr(method, "parameters", tuple)())
    if own:
        groups.append({"params": own, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def augmented(x: Images, recipe: Recipe, noise: Noise) -> Images:
    """The batch as this epoch sees it."""
    if recipe.augment == "none":
        return x
    return crop_flip(x, noise, recipe.padding, flip=recipe.augment == "crop-flip")[0]


def validate(student: nn.Module, val: Split, method: Method, recipe: Recipe) -> tuple[float, float]:
    """Clean and robust accuracy on the validation images that every epoch is judged on."""
    part = val.limit(recipe.val_size, recipe.seed) if recipe.val_size else val
    attack = recipe.val_attack or default_val_attack(method)
    suite = Suite("validation", attack.threat, {"validation": attack})  # type: ignore[attr-defined]
    report = evaluate(student, part, suite, batch=min(256, len(part)), seed=recipe.seed)
    return report.clean.value, report.worst_case.value


def default_val_attack(method: Method) -> PGD:
    """PGD-10 on cross-entropy under the method's own threat, or Linf 8/255 where it has none."""
    threat = getattr(getattr(method, "attack", None), "threat", None)
    return PGD(threat, steps=10) if threat is not None else PGD(steps=10)


def _prepare(
    method: Any, student: nn.Module, teacher: nn.Module | None, train: Split, recipe: Recipe, device: Any
) -> None:
    if hasattr(method, "prepare"):
        method.prepare(student, teacher, train.batch(slice(0, recipe.batch))[0].to(device))


def require_ready(
    student: nn.Module, teacher: nn.Module | None, method: Method, train: Split, val: Split | None
) -> None:
    """Refuse nets, method and data that do not fit each other. Raises ConfigError and ModelError."""
    if isinstance(method, type) or not callable(getattr(method, "terms", None)):
        raise ConfigError(
            f"expected a method, an object with `terms`, got {method!r}: pass RSLAD(), say, not the class"
        )
    if next(student.parameters(), None) is None:
        raise ModelError("expected a student with parameters to train, got none: pass a net that has weights")
    require_fit(student, train.shape, train.classes, "student")
    if teacher is not None:
        require_fit(teacher, train.shape, train.classes, "teacher")
        require_known(teacher, train.shape, train.classes)
    elif _asks_for_a_teacher(method):
        name = type(method).__name__
        raise ModelError(f"{name} expected a teacher, got none: type --teacher with a run's folder, or pass a net")
    if val is not None and (val.shape, val.classes) != (train.shape, train.classes):
        raise ModelError(
            f"expected val like train, {train.shape} and {train.classes} classes, got {val.shape} and {val.classes}: "
            "cut val from the same data"
        )


def _asks_for_a_teacher(method: Method) -> bool:
    """One of ours says by the type of its `teacher` whether it wants one; a user's is believed to know."""
    own = type(method).__module__.startswith("ardor.methods.")
    return own and inspect.signature(method.terms).parameters["teacher"].annotation != "None"


def _frozen(teacher: nn.Module | None, device: torch.device) -> contextlib.AbstractContextManager[nn.Module | None]:
    return contextlib.nullcontext() if teacher is None else freeze(teacher.to(device))


def _require_finite(loss: Tensor, means: dict[str, Tensor], where: str) -> None:
    if torch.isfinite(loss):
        return
    terms = ", ".join(f"{name} {float(mean.detach()):.4g}" for name, mean in means.items())
    raise DivergedError(
        f"expected a finite loss, got {float(loss.detach())} at {where} ({terms}); the weights are those before this "
        "step: type a lower --recipe.lr, or look at the images and the teacher's logits"
    )


def config_of(
    student: nn.Module, teacher: nn.Module | None, method: Method, train: Split, val: Split | None, recipe: Recipe
) -> dict[str, Any]:
    """Everything that decides the result, resolved."""
    resolved = replace(recipe, milestones=recipe.drops, val_attack=recipe.val_attack or default_val_attack(method))
    return {
        "method": describe(method),
        "student": describe(student),
        "teacher": None if teacher is None else describe(teacher) | {"weights": getattr(teacher, "loaded_from", None)},
        "data": describe(train.source),
        "recipe": {k: v for k, v in describe(resolved).items() if k != "name"},
        # what the words above stood for when the run began: the same words may mean other bytes tomorrow
        "fingerprint": {
            "ardor": ardor.__version__,
            "method": code_of(type(method)),
            "student": hash_of(student),
            "teacher": None if teacher is None else hash_of(teacher),
            "train": train.hash,
            "val": None if val is None else val.hash,
            "marks": list(train.marks),
        },
    }
