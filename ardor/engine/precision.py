"""The precision of passes in training: bfloat16 or float16 in place of float32, where a recipe declares it.

Either stays inside the net. Weights, their gradients, the optimiser, logits, features, losses and batch statistics
are float32, and so are validation, evaluation and the examination of a teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

PRECISION: TypeAlias = Literal["float32", "bfloat16", "float16"]
ATTACK_PRECISION: TypeAlias = Literal["float32", "bfloat16"]
"""float16 would round the small gradients of an image to 0."""
TEACHER_PRECISION: TypeAlias = ATTACK_PRECISION
"""As of the attack: some methods differentiate to the teacher's input."""


class Computed:
    """A net with a precision of its passes in training, and another in `attack_view`; its outputs are float32.

    Every attribute but `features` and `head` is the net's.

    Parameters
    ----------
    net : nn.Module
        The student, or the teacher.
    training, attack : torch.dtype
        float32, bfloat16, or in training float16.
    compiled : bool
        Whether the attack compiles the folded net.
    view : callable, optional
        What computes the logits in place of `net`, in its own precision: its folded net.
    """

    def __init__(
        self,
        net: nn.Module,
        training: torch.dtype,
        attack: torch.dtype,
        compiled: bool = False,
        view: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.net, self.training_dtype, self.attack_dtype, self.compiled = net, training, attack, compiled
        self.view = view

    def __call__(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return passed(self.net, self.training_dtype, x) if self.view is None else self.view(x)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look these up before there is a net
            raise AttributeError(name)
        value = getattr(self.__dict__["net"], name)
        return partial(passed, value, self.training_dtype) if name in ("features", "head") else value

    def as_given(self) -> nn.Module:
        """The net itself."""
        return self.net


def passed(net: Callable[[Tensor], Tensor], dtype: torch.dtype, x: Tensor) -> Tensor:
    """A pass in `dtype`, by autocast, which leaves the weights in float32."""
    if dtype == torch.float32:
        return net(x)
    with torch.autocast(x.device.type, dtype=dtype):
        out = net(x)
    return out.to(x.dtype)


def computed(net: nn.Module, training: PRECISION, attack: ATTACK_PRECISION, compiled: bool = False) -> Any:
    """The student of a method's terms: the net itself in float32 without compilation, else `Computed`."""
    if training == attack == "float32" and not compiled:
        return net
    return Computed(net, getattr(torch, training), getattr(torch, attack), compiled)
