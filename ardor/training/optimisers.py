"""Optimisers: settings that are called with parameter groups and a learning rate, and return a torch.optim.Optimizer.

SGD    v <- momentum v + g + decay w;  w <- w - lr v
AdamW  Adam whose decay is not part of the gradient: w <- w - lr decay w; Loshchilov and Hutter (ICLR 2019)

A third-party optimiser is `file.py:Name` or `torch.optim:RMSprop`, called as Name(groups, lr=..., **options): in Python
a class, a function or a functools.partial of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, ClassVar, TypeAlias

import torch

from ardor.storage.arguments import check_fields, require_value

__all__ = ["SGD", "AdamW"]

Optimiser: TypeAlias = Callable[..., torch.optim.Optimizer]
Groups: TypeAlias = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent.

    Parameters
    ----------
    momentum
        Momentum, in [0, 1).
    nesterov
        Nesterov's momentum.
    weight_decay
        Weight decay.
    decay_all
        Decay scales of norms and biases too, as the papers do; else only parameters of two dimensions or more.
    """

    config_name: ClassVar[str] = "sgd"

    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 2e-4
    decay_all: bool = True

    def __post_init__(self) -> None:
        key = "recipe.optimiser"
        require_value(f"{key}.momentum", self.momentum, "a number from 0 to below 1", lambda v: 0 <= v < 1)
        require_value(
            f"{key}.nesterov", self.nesterov, "false where momentum is 0", lambda v: not v or self.momentum > 0
        )
        require_value(f"{key}.weight_decay", self.weight_decay, "a number of 0 or more", lambda v: v >= 0)
        check_fields(self)

    def __call__(self, groups: Groups, *, lr: float) -> torch.optim.SGD:
        """The optimiser of parameter groups."""
        options = {"momentum": self.momentum, "nesterov": self.nesterov, "weight_decay": self.weight_decay}
        optimiser = torch.optim.SGD(groups, lr=lr, fused=on_gpu(groups) or None, **options)  # type: ignore[arg-type]
        if on_gpu(groups) and self.momentum:  # a first update that is skipped would leave the buffers uninitialised
            for p in (p for group in groups for p in group["params"]):
                optimiser.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return optimiser


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay.

    Parameters
    ----------
    betas
        Decay rates of the first and second moment, each in [0, 1).
    eps
        Added to the root of the second moment.
    weight_decay
        Weight decay; a step takes lr times it from the weights.
    decay_all
        Decay scales of norms and biases too; else only parameters of two dimensions or more.
    """

    config_name: ClassVar[str] = "adamw"

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.05
    decay_all: bool = False

    def __post_init__(self) -> None:
        key, what = "recipe.optimiser", "two numbers from 0 to below 1"
        require_value(f"{key}.betas", self.betas, what, lambda v: len(v) == 2 and all(0 <= beta < 1 for beta in v))
        require_value(f"{key}.eps", self.eps, "a number above 0", lambda v: v > 0)
        require_value(f"{key}.weight_decay", self.weight_decay, "a number of 0 or more", lambda v: v >= 0)
        check_fields(self)

    def __call__(self, groups: Groups, *, lr: float) -> torch.optim.AdamW:
        """The optimiser of parameter groups."""
        options = {"betas": self.betas, "eps": self.eps, "weight_decay": self.weight_decay}
        return torch.optim.AdamW(groups, lr=lr, fused=on_gpu(groups) or None, **options)  # type: ignore[arg-type]


def is_optimiser(value: Any) -> bool:
    """Whether a value can be an optimiser in a configuration: an object of a user's has no name there."""
    if isinstance(value, type):
        return issubclass(value, torch.optim.Optimizer)
    return isinstance(value, SGD | AdamW) or is_function(value)


def is_function(value: Any) -> bool:
    """Whether a value is a function, or one with keywords, which a configuration can name."""
    return isinstance(value, FunctionType) or (isinstance(value, partial) and not value.args)


def on_gpu(groups: Groups) -> bool:
    """Whether all parameters are on a GPU, where a fused update can be skipped without a host sync."""
    return all(p.is_cuda for group in groups for p in group["params"])
