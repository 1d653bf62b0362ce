"""`ardor runs`: what there is, how far it is, and what to type next."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from ardor.cli import display
from ardor.evaluation.run_states import RunState, run_states

MOST = 20
"""Next steps that are shown."""


def runs(folder: Path = Path("runs"), /, *, json: Path | None = None) -> int:
    """List the runs in a folder with their state, best figures and next step. Nothing is loaded or written.

    A run is training, stopped (`ardor train RUN` continues it), finished, or damaged, with the reason. Figures are
    validation accuracies of the best epoch, then those of the strongest suite that has judged the best checkpoint as it
    is, with n; figures of other suites or n are not to be ranked, so nothing is sorted by them.

    Examples:

    `ardor runs`

    `ardor runs runs/bench --json -`

    Parameters
    ----------
    folder
        Folder of runs, and of folders of runs; default runs.
    json
        File for the list; - is standard output, instead of the table.
    """
    found = run_states(folder)
    if json is not None:
        count = f"{len(found)} run{'s' * (len(found) != 1)}"
        display.result(f"{count} in {folder}", {json: display.as_json([one.as_dict() for one in found])})
    elif not found:
        display.say(f"No runs in {folder}. Next: ardor train sat --data digits")
    else:
        _show(found)
    return 0


def _show(found: list[RunState]) -> None:
    """One row of a run, and its next step below it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "state", "val % clean / robust", "test % clean / robust"):
        table.add_column(title, overflow="fold")
    for one in found:
        test = f"{_pair(one.clean, one.robust)} ({one.suite}, n = {one.n:,})" if one.suite else ""
        table.add_row(*map(Text, (one.run, str(one), _pair(one.val_clean, one.val_robust), test)))
    display.out.print(table, soft_wrap=False)
    if steps := [one.next for one in found if one.next]:
        more = [f"and {len(steps) - MOST} more, which --json has"] if len(steps) > MOST else []
        display.say("\n".join(["", "Next:", *steps[:MOST], *more]))


def _pair(clean: float | None, robust: float | None) -> str:
    return "" if clean is None or robust is None else f"{100 * clean:.1f} / {100 * robust:.1f}"
