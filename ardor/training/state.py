"""TODO ardor.training.state."""

from __future__ import annotations

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
    """What learns in a run, how far it is, and the best validation robust accuracies so far."""

    student: nn.Module
    method: Any
    optimiser: torch.optim.Optimizer
    averaging: Averaging | None = None
    average: Average | None = None
    done: int = 0
    best: float = -1.0
    best_averaged: float = -1.0


def learned_by(method: object) -> dict[str, Any]:
    """A method's learned state: tensors and modules in attributes that end in one underscore."""
    own = (
        {k: v for k, v in vars(method).items() if k.endswith("_") and not k.endswith("__")}
        if hasattr(method, "__dict__")
        else {}
    )
    return {k: v for k, v in own.items() if isinstance(v, Tensor | nn.Module)}


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
    # fused, an update can be left out without the host knowing yet
    fused = all(p.is_cuda for group in groups for p in group["params"])
    optimiser = torch.optim.SGD(
        groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=True if fused else None
    )
    if fused and recipe.momentum:  # it would keep what lay in memory, where its first update is left out
        for p in (p for group in groups for p in group["params"]):
            optimiser.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimiser


def init_state(
    student: nn.Module,
    teacher: nn.Module | None,
    method: Any,
    train: Split,
    recipe: Recipe,
    device: torch.device,
    averaging: Averaging | None,
) -> TrainState:
    """Everything that learns, on its device, and the same in every process."""
    student.to(device)
    if teacher is not None:
        teacher.to(device)  # before its table is named, which is of the device that answers
    if recipe.sync_batchnorm and distributed.world_size() > 1:
        student = distributed.synchronised(student, device)
    distributed.broadcast([*student.parameters(), *student.buffers()])
    if hasattr(method, "prepare"):
        with frozen(teacher, device) as teaching:
            method.prepare(student, teaching, train.batch(slice(0, recipe.batch))[0].to(device))
    distributed.broadcast([*learned_tensors(method), *getattr(method, "parameters", tuple)()])
    average = None if averaging is None else Average.of(student)
    return TrainState(student, method, make_optimiser(student, method, recipe), averaging, average)


def learned_tensors(method: Method) -> list[Tensor]:
    """What a method has learned so far."""
    learned = learned_by(method).values()
    return [t for v in learned for t in (v.state_dict().values() if isinstance(v, nn.Module) else [v])]
