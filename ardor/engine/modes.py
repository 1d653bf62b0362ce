"""The modes of a model, each a context that restores the model on exit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ardor.engine.folding import folded
from ardor.engine.precision import Computed
from ardor.engine.recorded import Recorded

AnyModule = TypeVar("AnyModule", bound=nn.Module)


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restore every submodule's mode and every parameter's `requires_grad` on exit, also after an error."""
    modes = [(m, m.training) for m in model.modules() if hasattr(m, "training")]  # none after torch.jit.freeze
    flags = [(p, p.requires_grad) for p in model.parameters() if not is_lazy(p)]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for p, requires_grad in flags:
            p.requires_grad_(requires_grad)


@contextlib.contextmanager
def attack_view(model: Any, *, training: bool = False) -> Iterator[Any]:
    """The net of an attack: eval mode, parameters without gradients, both restored on exit.

    Parameters
    ----------
    model : nn.Module or a view of one
        Where it is the loop's student, the passes are in the recipe's attack_precision.
    training : bool
        Attack the net itself in train mode, as the released ARD and IAD do: batch statistics are the batch's, and the
        running ones drift.

    Yields
    ------
    callable
        The folded net (engine/folding.py): the same function but for rounding, and faster; the net itself where it
        cannot be folded.
    """
    dtype, compiled = torch.float32, False
    if isinstance(model, Recorded):  # an attack's passes are not recorded
        model = model.as_given()
    if isinstance(model, Computed):
        model, dtype, compiled = model.as_given(), model.attack_dtype, model.compiled
    with restored(model):
        _fix(model, training)
        view = model if training else folded(model, dtype, compiled)
        yield Computed(model, dtype, dtype) if view is model and dtype != torch.float32 else view


@contextlib.contextmanager
def freeze(model: AnyModule) -> Iterator[AnyModule]:
    """A teacher: eval mode, parameters without gradients. Not `no_grad`: a method may differentiate to its input."""
    with restored(model):
        _fix(model, False)
        yield model


def _fix(model: nn.Module, training: bool) -> None:
    """Set the mode, and switch the gradients of the parameters off; a scripted net has no `requires_grad_`."""
    with contextlib.suppress(NotImplementedError):  # an exported program has one mode, of its export
        model.train(training)
    for p in model.parameters():
        if not is_lazy(p):  # which `require_fit` refuses
            p.requires_grad_(False)


@contextlib.contextmanager
def train_mode(model: AnyModule) -> Iterator[AnyModule]:
    """A student in training: train mode in every submodule."""
    with restored(model):
        model.train()
        yield model


def device_of(net: Any) -> torch.device:
    """The device of the net's parameters; the CPU where it has none."""
    return next((p.device for p in net.parameters()), torch.device("cpu"))


def frozen(teacher: nn.Module | None, device: torch.device) -> contextlib.AbstractContextManager[nn.Module | None]:
    """`freeze` on the device; a context of None where there is no teacher."""
    return contextlib.nullcontext() if teacher is None else freeze(teacher.to(device))
