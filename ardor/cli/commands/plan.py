"""`ardor plan`: what a recipe will cost, before anything long starts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, Parameter

from ardor.cli import display
from ardor.cli.commands.train import NAMES, described, options_of
from ardor.cli.options import with_options
from ardor.cli.selection import first_stage
from ardor.training.cost import STEPS
from ardor.training.cost import plan as plan_of
from ardor.training.memory import explain_oom, is_oom

HELP = """Say what `ardor train` with the same words will cost: passes, hours, memory. Nothing is written.

It takes a few real steps on the recipe's images and one batch of validation, on copies. F is a forward pass of the
student, T one of the teacher, per image and step; hours are this machine's at this moment.

Example:

`ardor plan recipes/rslad_cifar10_resnet18.yaml --data.root DATA --teacher.weights FILE`
"""

_Steps = Annotated[int, Parameter(help="real steps; the first, which warms up, is not counted")]


def app(argv: Sequence[str]) -> App:
    """The command with the options of what `argv` names: those of `ardor train`, and --steps."""
    asked = first_stage(argv, NAMES, recipe=True)
    options = options_of(asked, argv)  # takes the names of inner attacks out of the recipe, so it comes first
    command = App(name="plan", help=HELP, config=asked.config)
    command.default(with_options(plan, options))
    return command


@functools.wraps(described)
def plan(*args: Any, steps: int = STEPS, **kwargs: Any) -> int:
    """Time it, count it, say it."""
    job = described(*args, **kwargs)
    try:
        with display.progress("plan", 3) as move:
            parts = ["passes", "steps", "validation"]
            cost = plan_of(job, steps, lambda what: move(parts.index(what), what))
    except Exception as error:
        if not is_oom(error):
            raise
        raise explain_oom(error, job) from None
    display.say(cost.text())
    return 0


_own = inspect.signature(described).parameters
_rows = [*_own.values(), inspect.Parameter("steps", inspect.Parameter.KEYWORD_ONLY, default=STEPS, annotation=_Steps)]
plan.__signature__ = inspect.Signature(_rows)  # type: ignore[attr-defined]
plan.__annotations__ = {**described.__annotations__, "steps": _Steps}
