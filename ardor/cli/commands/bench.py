"""`ardor bench`: the papers' tables, cell by cell, by any number of processes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ardor import experiments as benches
from ardor.cli import display
from ardor.engine.threads import use_threads
from ardor.errors import ConfigError, DataError, ModelError
from ardor.evaluation.progress import Progress as Moment
from ardor.experiments.cells import note_of, state_of
from ardor.experiments.sheet import missing
from ardor.experiments.tables import METHODS, STUDENTS, Cell, Table, asked_for
from ardor.storage.imports import nearest
from ardor.training.epoch import EpochRecord

HELP = """Make a table of the papers: train and judge every net of it that is missing, and lay ours beside theirs.

TABLE is whitebox-cifar10, whitebox-cifar100 or blackbox-cifar10, the RSLAD paper's; or a study: labels-DATA (hard,
smoothed, natural or robust labels), alpha-DATA, alignment-DATA. Any of the five words takes your data with --data.

Scales: smoke (minutes, to see that all runs), small (hours on a CPU; small nets, 8 epochs), full (the papers' nets and
epochs; a GPU). Start it in as many terminals, or on as many machines that share the folder, as you like: each takes
other nets. Stop it at any moment: the same command goes on. The tables are written anew after every net.

Examples:

`ardor bench whitebox-digits --seeds 3`

`ardor bench whitebox-cifar10 --scale full --teacher_weights model_cifar_wrn.pt --plan`

`ardor bench blackbox --data npz:mine.npz --eps 4/255`
"""


def app(argv: Sequence[str]) -> App:
    """The command; it needs no first stage."""
    command = App(name="bench", help=HELP)
    command.default(bench)
    return command


def bench(
    table: Annotated[str, Parameter(name="TABLE", help="which table or study, and of which data")],
    /,
    *,
    scale: Annotated[Literal["smoke", "small", "full"], Parameter(help="how large")] = "small",
    seeds: Annotated[int, Parameter(help="nets of each kind, of seeds 0, 1, ...")] = 1,
    data: Annotated[str | None, Parameter(help="the data set, where TABLE names none")] = None,
    root: Annotated[str | None, Parameter(help="where the data lie; default data")] = None,
    eps: Annotated[str | None, Parameter(help="L-inf radius; default the papers', or the digits'")] = None,
    limit: Annotated[int | None, Parameter(help="at most so many train images; default the scale's")] = None,
    students: Annotated[list[str] | None, Parameter(help=", ".join(STUDENTS), consume_multiple=True)] = None,
    methods: Annotated[list[str] | None, Parameter(help=", ".join(METHODS), consume_multiple=True)] = None,
    teacher: Annotated[str | None, Parameter(help="a run or known teacher; default the paper's, or our own")] = None,
    teacher_weights: Annotated[str | None, Parameter(help="the file of its weights")] = None,
    transfer_from: Annotated[str | None, Parameter(help="a run for black-box transfer, not the bench's own")] = None,
    released: Annotated[bool, Parameter(help="full scale: the released codes' forms", negative="")] = False,
    gate: Annotated[bool, Parameter(help="examine a teacher first; =false trains from it all the same")] = True,
    out: Annotated[Path | None, Parameter(help="where everything goes; default runs/bench/DATA-SCALE")] = None,
    threads: Annotated[int | None, Parameter(help="of torch; default 1 for a small net on a CPU")] = None,
    plan: Annotated[bool, Parameter(help="only say what it will cost", negative="")] = False,
) -> int:
    """Plan, or work and write."""
    if seeds < 1:
        raise ConfigError(f"expected at least one seed, got {seeds}: type --seeds 3")
    if teacher_weights and not teacher and scale != "full":
        raise ConfigError(f"expected --teacher with --teacher_weights, got {teacher_weights} alone: name the net too")
    data_words = [] if root is None else [f"--data.root={root}"]
    taught = [] if teacher is None else [f"--teacher={teacher}"]
    taught += [] if teacher_weights is None else [f"--teacher.weights={teacher_weights}"]
    asked = asked_for(
        table,
        scale,
        data,
        eps,
        out.resolve() if out else None,
        seeds=seeds,
        students=_known(students, STUDENTS, "students"),
        methods=_known(methods, METHODS, "methods"),
        data_words=tuple(data_words),
        train=limit,
        teacher=tuple(taught),
        transfer_from=transfer_from or "",
        released=released,
        gate=gate,
        threads=threads,
    )
    if threads is not None:
        use_threads(threads)
    if not asked.scale.widest:
        benches.table_of(asked)  # which refuses what no image is needed for
    try:
        made = benches.table_of(asked.seen())
    except DataError as error:  # which speaks of options of `ardor train`
        raise DataError(str(error).replace("type --data.download true (download=True), or put", "put")) from error
    said: dict[str, Any] = {"data": data, "eps": eps, "limit": limit, "students": students, "methods": methods}
    said |= {"root": root, "teacher": teacher, "teacher_weights": teacher_weights, "transfer_from": transfer_from}
    said |= {"released": released or None}
    command = _command(table, scale, seeds, said)
    if plan:
        return _plan(made)
    return _work(made, command)


def _plan(table: Table) -> int:
    with display.progress("plan", len(table.cells)) as move:
        done: list[str] = []

        def tell(name: str) -> None:
            done.append(name)
            move(len(done), name)

        costs = benches.plan(table, tell)
    for cost in costs:
        display.say(f"{cost.cell.name:44} train {_hours(cost.train)}  attacks at most {_hours(cost.judge)}")
    train, judge = sum(c.train for c in costs), sum(c.judge for c in costs)
    display.say(
        f"{len(costs)} of {len(table.cells)} nets to make, by one process on this machine: train {_hours(train)}, "
        f"attacks at most {_hours(judge)}. The same command without --plan starts it."
    )
    return 0


def _work(table: Table, command: str) -> int:
    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    columns = (*parts, TextColumn("{task.fields[word]}"))
    with Progress(*columns, console=display.err, transient=True, disable=not display.err.is_terminal) as bars:
        total = len(table.cells)
        task = bars.add_task(table.asked.kind, total=total, completed=total - len(missing(table)), word="")

        def tell(cell: Cell, what: EpochRecord | Moment | str) -> None:
            if isinstance(what, str):
                display.say(f"{cell.name}: {what}")
                return
            word = str(what) if isinstance(what, EpochRecord) else f"{what.attack} {what.done}/{what.todo}"
            bars.update(task, description=cell.name, word=word)

        def after(cell: Cell) -> None:
            benches.write_sheets(table, command)
            done = total - len(missing(table))  # others may have finished cells too
            bars.update(task, completed=done)
            display.say(f"{done}/{total}  {cell.name} finished")

        trouble = benches.work(table, tell, after)
    paths = benches.write_sheets(table, command, trouble)
    display.say(paths[1].read_text(encoding="utf-8"))
    display.say(f"Written: {', '.join(map(str, paths))}")
    if trouble:
        first = trouble[0]
        state, _ = state_of(table.asked, first.cell)
        where = note_of(table.asked, first.cell)
        next_ = f"type --out with a new folder, or move {where} and the run beside it away"
        next_ = next_ if state in ("foreign", "failed") else "see the table"
        raise ModelError(
            f"expected every net of the table, got {len(trouble)} that could not be made, first {first.cell.name} "
            f"({first.why}): {next_}"
        )
    return 0


def _known(words: list[str] | None, choices: tuple[str, ...], what: str) -> tuple[str, ...]:
    for word in words or ():
        if word not in choices:
            raise ConfigError(f'expected {what} of {", ".join(choices)}, got "{word}"{nearest(word, choices)}')
    return tuple(words) if words else choices


def _command(table: str, scale: str, seeds: int, said: dict[str, Any]) -> str:
    """The words that make the same table anywhere."""
    words = ["ardor", "bench", table, "--scale", scale, "--seeds", str(seeds)]
    for key, value in said.items():
        if value is not None:
            many = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{key}", *map(str, many)]
    return shlex.join(words)


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:5.0f} s  "
    return f"{seconds / 60:5.1f} min" if seconds < 5400 else f"{seconds / 3600:5.1f} h  "
