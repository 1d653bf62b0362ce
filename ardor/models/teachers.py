"""One teacher or several: a net, or an `nn.ModuleDict` of nets by the names that the method gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ardor.engine.folding import folded


def together(teacher: nn.Module | Mapping[str, nn.Module] | None) -> Any:
    """A mapping of nets as one module."""
    return nn.ModuleDict(teacher) if isinstance(teacher, Mapping) else teacher


def each(teacher: nn.Module) -> dict[str, nn.Module]:
    """The nets of a teacher by name: "" for one alone."""
    return dict(teacher.items()) if isinstance(teacher, nn.ModuleDict) else {"": teacher}


def each_folded(teacher: nn.Module, view: Callable[[nn.Module], Any] = folded) -> Any:
    """The folded teacher, or a dict of folded ones; `view` may compile them too."""
    nets = {name: view(net) for name, net in each(teacher).items()}
    return nets if isinstance(teacher, nn.ModuleDict) else nets[""]
