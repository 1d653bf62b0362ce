"""The radius of the training attack over a run: 0 at first, then a linear ramp, for a student that starts not robust.

A robust objective from the start can fail outright on such a student; a radius of 0 and then a ramp repairs it
("Epsilon-Scheduling", arXiv 2509.23325). Debenedetti et al. (2022) ramp over the first 10 epochs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ardor.errors import ConfigError
from ardor.noise import Noise
from ardor.training.recipe import Recipe
from ardor.types import Images, Objective, Threat


def radius_at(recipe: Recipe, epochs_done: float) -> float:
    """The radius of the training attack after `epochs_done` epochs, as a share of the whole: 0 to 1."""
    if recipe.eps_ramp is None:
        return 1.0
    begin, end = recipe.eps_ramp
    if epochs_done < begin:
        return 0.0
    return 1.0 if epochs_done >= end else (epochs_done - begin) / (end - begin)


@contextlib.contextmanager
def at_radius(method: Any, share: float) -> Iterator[None]:
    """The method with its attack at a share of its radius, and of its step where it has one; restored on exit."""
    if share == 1:
        yield
        return
    attack = method.attack
    object.__setattr__(method, "attack", _scaled(attack, share))  # also where the method is frozen
    try:
        yield
    finally:
        object.__setattr__(method, "attack", attack)


def require_radius(method: Any) -> None:
    """Refuse a method without an attack whose radius can be changed. Raises ConfigError."""
    attack = getattr(method, "attack", None)
    if not all(map(dataclasses.is_dataclass, (attack, getattr(attack, "threat", None)))):
        raise ConfigError(
            f"expected a method with an attack under a threat, for --recipe.eps_ramp, got {type(method).__name__}: "
            "leave --recipe.eps_ramp out"
        )


def _scaled(attack: Any, share: float) -> Any:
    if share == 0:
        return Still(attack.threat)
    step = getattr(attack, "step", None)
    changes = {} if step is None else {"step": step * share}
    threat = dataclasses.replace(attack.threat, eps=attack.threat.eps * share)
    return dataclasses.replace(attack, threat=threat, **changes)


@dataclass(frozen=True)
class Still:
    """The attack of radius 0: x' = x, without a pass of the net."""

    threat: Threat

    def maximise(self, objective: Objective, x: Images, noise: Noise) -> Images:
        """The images themselves."""
        return x.detach()
