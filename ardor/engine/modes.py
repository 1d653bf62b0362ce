"""The modes of a model, put in one visible place: each of these always puts the model back as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from ardor.engine.folding import folded
from ardor.engine.precision import Computed

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put back every submodule's own mode and every parameter's own flag, whatever happened in between."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for p, requires_grad in flags:
            p.requires_grad_(requires_grad)


@contextlib.contextmanager
def attack_view(model: Any, *, training: bool = False) -> Iterator[Any]:
    """The net as an attack sees it: eval mode, parameters off, both restored on exit.

    What is handed out is the net's twin (folding.py): the same function with batch norm folded away, faster and equal
    but for rounding; a net that has none is handed out itself. training=True is the released ARD and IAD: the attack
    runs on the net itself in train mode, so batch statistics are the batch's own and the running ones drift. Where a
    recipe declares bfloat16 for the attack, the passes compute in it.
    """
    dtype, compiled = torch.float32, False
    if isinstance(model, Computed):
        model, dtype, compiled = model.as_given(), model.attack_dtype, model.compiled
    with restored(model):
        model.train(training)
        model.requires_grad_(False)
        view = model if training else folded(model, dtype, compiled)
        yield Computed(model, dtype, dtype) if view is model and dtype != torch.float32 else view


@contextlib.contextmanager
def freeze(model: AnyModule) -> Iterator[AnyModule]:
    """A teacher: eval mode, parameters off. Not `no_grad`: a method may differentiate through it to its input."""
    with restored(model):
        model.eval()
        model.requires_grad_(False)
        yield model


@contextlib.contextmanager
def train_mode(model: AnyModule) -> Iterator[AnyModule]:
    """A student that learns: train mode for its passes, and every submodule's own mode back afterwards."""
    with restored(model):
        model.train()
        yield model


def device_of(net: Any) -> torch.device:
    """The device of the net's parameters; the CPU where it has none."""
    return next((p.device for p in net.parameters()), torch.device("cpu"))


def frozen(teacher: nn.Module | None, device: torch.device) -> contextlib.AbstractContextManager[nn.Module | None]:
    """`freeze` on the device; a context of None where there is no teacher."""
    return contextlib.nullcontext() if teacher is None else freeze(teacher.to(device))
