"""`ardor plan`: the cost of a recipe, before anything long starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ardor.cli import display
from ardor.cli.commands.train import DEFAULT, TrainWords
from ardor.cli.selection import Overrides
from ardor.training.cost import STEPS
from ardor.training.cost import plan as cost_of
from ardor.training.memory import explain_oom, is_oom


def plan(
    recipe: Annotated[Path | None, Parameter(name="RECIPE", help="as for ardor train; first")] = None,
    /,
    words: TrainWords = DEFAULT,
    *,
    steps: Annotated[int, Parameter(help="real steps; the first, which warms up, is not counted")] = STEPS,
    overrides: Annotated[Overrides | None, Parameter(parse=False)] = None,
) -> int:
    """The cost of `ardor train` with the same words: passes, hours, memory. Nothing is written.

    It takes a few real steps on the recipe's images and one batch of validation, on copies. F is a forward pass of the
    student, T one of the teacher, per image and step; hours are this machine's at this moment.

    Example:

    `ardor plan rslad --data cifar10 --data.root DATA --teacher.weights FILE`
    """
    job = words.job(recipe, overrides)
    try:
        with display.progress("plan", 3) as move:
            parts = ["passes", "steps", "validation"]
            cost = cost_of(job, steps, lambda part: move(parts.index(part), part))
    except Exception as error:
        if not is_oom(error):
            raise
        raise explain_oom(error, job) from None
    display.say(cost.text())
    return 0
