"""What a student's passes compute in, where a recipe declares it: bfloat16 for float32, a compiled twin.

bfloat16 stays inside the net. Weights, their gradients, the optimiser, logits, features, losses and batch statistics
are float32, and so are the teacher, validation and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

PRECISION: TypeAlias = Literal["float32", "bfloat16"]


class Computed:
    """A net whose passes compute in `training`, and in `attack` where `attack_view` hands it out; float32 comes out.

    compiled: its twin shall be, for the attack. Anything but a call, `features` and `head` is the net's own.
    """

    def __init__(self, net: nn.Module, training: torch.dtype, attack: torch.dtype, compiled: bool = False) -> None:
        self.__dict__.update(net=net, training_dtype=training, attack_dtype=attack, compiled=compiled)

    def __call__(self, x: Tensor) -> Tensor:
        """Images to logits."""
        return passed(self.__dict__["net"], self.__dict__["training_dtype"], x)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask for these before there is a net
            raise AttributeError(name)
        found = getattr(self.__dict__["net"], name)
        return partial(passed, found, self.__dict__["training_dtype"]) if name in ("features", "head") else found

    def as_given(self) -> nn.Module:
        """The net itself."""
        return self.__dict__["net"]  # type: ignore[no-any-return]


def passed(net: Callable[[Tensor], Tensor], dtype: torch.dtype, x: Tensor) -> Tensor:
    """One pass in `dtype`: by autocast, which keeps the weights as they are."""
    if dtype == torch.float32:
        return net(x)
    with torch.autocast(x.device.type, dtype=dtype):
        out = net(x)
    return out.to(x.dtype)


def computed(net: nn.Module, training: PRECISION, attack: PRECISION, compiled: bool = False) -> Any:
    """The net as a method gets it: itself where nothing is declared."""
    if training == attack == "float32" and not compiled:
        return net
    return Computed(net, getattr(torch, training), getattr(torch, attack), compiled)
