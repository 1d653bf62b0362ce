"""More epochs for a run: where those that are done would have been the same in a run that was longer from the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ardor.errors import RunError
from ardor.storage.config import describe
from ardor.storage.runs import Run
from ardor.training.radius import radius_at
from ardor.training.recipe import Recipe, lr_at


def begun_config(run: Run, config: Mapping[str, Any], recipe: Recipe) -> Mapping[str, Any]:
    """`config` with the number of epochs that the run was begun with, where it may have more of them.

    Raises
    ------
    RunError
        For fewer epochs, and where the rates of finished steps belong to the length.
    """
    present: Any = run.config.get("recipe") if run.exists else None
    epochs = present.get("epochs") if isinstance(present, dict) else None
    if not isinstance(epochs, int) or epochs == recipe.epochs:
        return config
    if recipe.epochs < epochs:
        raise RunError(
            f"expected the {epochs} epochs of {run.folder} or more, got {recipe.epochs}: type --recipe.epochs "
            f"{epochs}, or --run with a new name"
        )
    milestones = present.get("milestones")
    former = replace(recipe, epochs=epochs, milestones=milestones and tuple(milestones))
    moments = [eighth / 8 for eighth in range(8 * run.begun_epochs())]
    if any(_values(former, moment) != _values(recipe, moment) for moment in moments):
        raise RunError(
            f"expected a schedule whose rates do not depend on the number of epochs, to lengthen {run.folder} from "
            f"{epochs} to {recipe.epochs} epochs, got {_schedule(former, recipe)}: type --run with a new name and "
            f"--student.weights {run.checkpoint('last')}"
        )
    return {**config, "recipe": {**config["recipe"], "epochs": epochs, "milestones": milestones}}


def _values(recipe: Recipe, epochs_done: float) -> tuple[float, float]:
    return lr_at(recipe, epochs_done), radius_at(recipe, epochs_done)


def _schedule(former: Recipe, recipe: Recipe) -> str:
    if recipe.schedule != "milestones":
        return recipe.schedule if isinstance(recipe.schedule, str) else str(describe(recipe.schedule)["name"])
    before, after = (", ".join(map(str, one.drops)) for one in (former, recipe))
    return f"milestones at {after} in place of {before} (a run's folder as RECIPE keeps them)"
