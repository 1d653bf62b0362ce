"""What a run trains: student, method, optimiser and average, and how far they are."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ardor.data.split import Split
from ardor.engine import distributed
from ardor.engine.modes import frozen
from ardor.errors import ConfigError
from ardor.storage.config import describe
from ardor.storage.imports import cause_of
from ardor.training.averaging import Average, Averaging
from ardor.training.recipe import Recipe
from ardor.types import Method


@dataclass
class TrainState:
    """What a checkpoint holds: all that is trained, how far it is, and the best robust accuracies so far.

    done: finished epochs. step: finished steps of the epoch after them. sums: of the loss terms of those steps, as far
    as this process has the images, each weighted by its share of the epoch. seconds: that the steps took.
    scaler: of the loss, with float16. stale: validations since the last one that was the best, of the student or of
    the average.
    """

    student: nn.Module
    method: Any
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    averaging: Averaging | None = None
    average: Average | None = None
    done: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    best: float = -1.0
    best_averaged: float = -1.0
    stale: int = 0

    def finish_epoch(self) -> dict[str, float]:
        """Begin to count the steps of a new epoch; the sums of the old one."""
        sums, self.step, self.sums, self.seconds = self.sums, 0, {}, 0.0
        return sums


def init_state(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Any,
    train: Split,
    recipe: Recipe,
    device: torch.device,
    averaging: Averaging | None,
) -> TrainState:
    """The state of a new run, on `device` and equal in every process."""
    student.to(device)
    if teacher is not None:
        teacher.to(device)  # before its soft labels are opened, which belong to a device
    if recipe.sync_batchnorm and distributed.world_size() > 1:
        student = distributed.synchronised(student, device)
    distributed.broadcast([*student.parameters(), *student.buffers()])
    if hasattr(method, "prepare"):
        with frozen(teacher, device) as net:
            method.prepare(student, net, train.batch(slice(0, recipe.batch))[0].to(device))
    distributed.broadcast([*learned_state(method).values(), *getattr(method, "parameters", tuple)()])
    average = None if averaging is None else Average.of(student)
    scaler = torch.amp.GradScaler(device.type) if recipe.precision == "float16" else None
    return TrainState(student, method, make_optimiser(student, method, recipe), scaler, averaging, average)


def named_parameters(student: Any, method: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """All that is trained, by its name in a message: the student's parameters, then the method's."""
    yield from student.named_parameters()
    for i, p in enumerate(getattr(method, "parameters", tuple)()):
        yield f"{type(method).__name__}.parameters()[{i}]", p


def make_optimiser(student: nn.Module, method: Method | None, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser of all that is trained. Raises ConfigError where a third-party one cannot be used."""
    make, groups = recipe.optimiser, _groups(student, method, recipe)
    name = describe(make)["name"]
    try:
        optimiser = make(groups, lr=recipe.lr)
    except Exception as error:
        raise ConfigError(
            f"expected an optimiser of parameter groups and lr, got {cause_of(error)} from {name}: correct it or its "
            "options"
        ) from error
    wanted = {id(p) for group in groups for p in group["params"]}
    if not isinstance(optimiser, torch.optim.Optimizer):
        problem = f"a torch.optim.Optimizer, got {type(optimiser).__name__}: return one"
    elif {id(p) for group in optimiser.param_groups for p in group["params"]} != wanted:
        problem = "an optimiser of the parameters that it is given, got one of others: return one of these"
    elif any(p.default is p.empty for p in inspect.signature(optimiser.step).parameters.values() if p.kind < 2):
        problem = f"an optimiser with step(), got {type(optimiser).__name__}, whose step takes a function: name another"
    else:
        return optimiser
    raise ConfigError(f"expected from {name} {problem}")


def _groups(student: nn.Module, method: Method | None, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups: with weight decay, and without it norms and biases, and the method's unless it has its own."""
    trained = list(student.parameters())
    decay_all = getattr(recipe.optimiser, "decay_all", False)
    plain = [] if decay_all else [p for p in trained if p.ndim < 2]
    decay, of_method = getattr(method, "weight_decay", 0.0), list(getattr(method, "parameters", tuple)())
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if decay_all or p.ndim > 1]}]
    groups.append({"params": plain + ([] if decay else of_method), "weight_decay": 0.0})
    groups.append({"params": of_method if decay else [], "weight_decay": decay})
    return [group for group in groups if group["params"]]


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> float:
    """Set the learning rate of every parameter group, and return it."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def learned_by(method: object) -> dict[str, Any]:
    """The tensors and modules in attributes of a method, and of its base, that end in one underscore."""
    learned = {
        name: value
        for name, value in getattr(method, "__dict__", {}).items()
        if name.endswith("_") and not name.endswith("__") and isinstance(value, Tensor | nn.Module)
    }
    of_base = learned_by(base) if hasattr(base := getattr(method, "base", None), "terms") else {}
    return learned | {f"base.{name}": value for name, value in of_base.items()}


def set_learned(method: object, name: str, value: Tensor) -> None:
    """Set a tensor by its name in `learned_by`."""
    base, _, own = name.rpartition("base.")
    setattr(operator.attrgetter(base + "base")(method) if "." in name else method, own, value)


def learned_state(method: object) -> dict[str, Tensor]:
    """The tensors of a method's learned state by their names in a checkpoint."""
    tensors: dict[str, Tensor] = {}
    for name, value in learned_by(method).items():
        is_module = isinstance(value, nn.Module)
        tensors |= {f"{name}.{key}": v for key, v in value.state_dict().items()} if is_module else {name: value}
    return tensors
