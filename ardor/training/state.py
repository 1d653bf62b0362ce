"""What a run trains: student, method, optimiser and average, and how far they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ardor.data.split import Split
from ardor.engine import distributed
from ardor.engine.modes import frozen
from ardor.training.averaging import Average, Averaging
from ardor.training.recipe import Recipe
from ardor.types import Method


@dataclass
class TrainState:
    """What a checkpoint holds: all that is trained, the number of finished epochs, and the best robust accuracies."""

    student: nn.Module
    method: Any
    optimiser: torch.optim.Optimizer
    averaging: Averaging | None = None
    average: Average | None = None
    done: int = 0
    best: float = -1.0
    best_averaged: float = -1.0


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
    return TrainState(student, method, make_optimiser(student, method, recipe), averaging, average)


def named_parameters(student: Any, method: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """All that is trained, by its name in a message: the student's parameters, then the method's."""
    yield from student.named_parameters()
    for i, p in enumerate(getattr(method, "parameters", tuple)()):
        yield f"{type(method).__name__}.parameters()[{i}]", p


def make_optimiser(student: nn.Module, method: Method, recipe: Recipe) -> torch.optim.SGD:
    """SGD over the student with weight decay, and over the method's parameters without."""
    groups: list[dict[str, Any]] = [{"params": list(student.parameters()), "weight_decay": recipe.weight_decay}]
    if extra := list(getattr(method, "parameters", tuple)()):
        groups.append({"params": extra, "weight_decay": 0.0})
    parameters = [p for group in groups for p in group["params"]]
    fused = all(p.is_cuda for p in parameters) or None  # a fused update can be skipped without a host sync
    optimiser = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)
    if fused and recipe.momentum:  # a first update that is skipped would leave the buffers uninitialised
        for p in parameters:
            optimiser.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimiser


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> float:
    """Set the learning rate of every parameter group, and return it."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def learned_by(method: object) -> dict[str, Any]:
    """The tensors and modules in attributes of a method that end in one underscore."""
    return {
        name: value
        for name, value in getattr(method, "__dict__", {}).items()
        if name.endswith("_") and not name.endswith("__") and isinstance(value, Tensor | nn.Module)
    }


def learned_state(method: object) -> dict[str, Tensor]:
    """The tensors of a method's learned state by their names in a checkpoint."""
    tensors: dict[str, Tensor] = {}
    for name, value in learned_by(method).items():
        is_module = isinstance(value, nn.Module)
        tensors |= {f"{name}.{key}": v for key, v in value.state_dict().items()} if is_module else {name: value}
    return tensors
