"""`ardor plan`: the cost of a recipe, before anything long starts."""

from __future__ import annotations

from pathlib import Path

from ardor.cli import display
from ardor.cli.commands.train import DEFAULT, TrainWords
from ardor.cli.selection import Overrides
from ardor.evaluation.checks.recipe import of_images
from ardor.training.cost import STEPS
from ardor.training.cost import plan as cost_of
from ardor.training.job import config_of_job
from ardor.training.memory import explain_oom, is_oom


def plan(
    recipe: Path | None = None, /, words: TrainWords = DEFAULT, *, steps: int = STEPS, overrides: Overrides
) -> int:
    """The cost of `ardor train` with the same words: passes, hours, memory. Nothing is written.

    It takes a few real steps on the recipe's images and one batch of validation, on copies. F is a forward pass of the
    student, T one of the teacher, per image and step; hours are this machine's at this moment.

    Example:

    `ardor plan rslad --data cifar10 --data.root DATA --teacher.weights FILE`

    Parameters
    ----------
    recipe
        As for `ardor train`; first.
    steps
        Real steps; the first, which warms up, is not counted.
    """
    words.require_processes(recipe, overrides)
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
    if words.processes > 1:
        batch, count = job.recipe.batch, words.processes
        display.say(f"Of one process; of {count}, each has {-(-batch // count)} of the {batch} images of a step.")
    for finding in of_images(config_of_job(job), job.train.shape):
        display.err.print(str(finding), markup=False)
    return 0
