"""`ardor bench`: the papers' tables, cell by cell."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ardor import experiments
from ardor.attacks.threat import Linf
from ardor.cli import display
from ardor.cli.cells import DEFAULT, CellWords, make_only, require_made, show_plan, watching
from ardor.cli.selection import Overrides, find_data
from ardor.engine.threads import use_threads
from ardor.errors import ConfigError
from ardor.experiments.cell import Cell
from ardor.experiments.distillation import Declared, declared_of
from ardor.experiments.sheet import missing
from ardor.experiments.tables import STUDENTS, Table, methods_of, spec_of
from ardor.storage.config import arguments
from ardor.storage.imports import nearest


def bench(
    table: str,
    /,
    cells: CellWords = DEFAULT,
    *,
    scale: Literal["smoke", "small", "full"] = "small",
    seeds: int = 1,
    data: str | None = None,
    students: list[str] | None = None,
    methods: list[str] | None = None,
    teacher: str | None = None,
    transfer_from: str | None = None,
    released: bool = False,
    gate: Annotated[bool, Parameter(negative="--no_gate")] = True,
    student: str | None = None,
    labels: list[str] | None = None,
    autoattack: list[str] | None = None,
    limit_test: int | None = None,
    limit_attack: int | None = None,
    out: Path | None = None,
    threads: int | None = None,
    plan: bool = False,
    trust_code: bool = False,
    overrides: Overrides,
) -> int:
    """Make a table of the papers: train and evaluate every net of it that is missing, and put ours beside theirs.

    TABLE is whitebox-cifar10, whitebox-cifar100 or blackbox-cifar10, the RSLAD paper's; or a study: labels-DATA (hard,
    smoothed, natural or robust labels), alpha-DATA, alignment-DATA, methods-DATA (every method under one recipe),
    ingredients-DATA (RSLAD with what helps any loss), distillation-DATA (what a strong teacher, named by --teacher,
    gives small students beside adversarial training with all and fewer labels). Each takes your data with --data.

    Scales: smoke (minutes, to see that all runs), small (hours on a CPU; small nets, 8 epochs), full (the papers' nets
    and epochs; a GPU). Stop it at any moment: the same command continues. The tables are rewritten after every net.
    `--on ray` makes several nets at once, on one machine or on many that share the folder.

    Examples:

    `ardor bench whitebox-digits --seeds 3`

    `ardor bench whitebox-cifar10 --scale full --teacher.weights model_cifar_wrn.pt --plan`

    `ardor bench blackbox --data npz:mine.npz --threat.eps 4/255`

    `ardor bench distillation-cifar10 --teacher runs/teacher --seeds 3 --method.attack.steps 5 --student wide_resnet
    --student.depth 10 --student.width 1 2 --recipe.epochs 20 --recipe.precision bfloat16 --plan`

    Parameters
    ----------
    table
        Table or study, and its data.
    scale
        smoke, small or full.
    seeds
        Nets of each kind, of seeds 0, 1, ...
    data
        Data set, where TABLE names none.
    students
        resnet18, mobilenet_v2: one or more.
    methods
        natural, sat, trades, ard, iad, rslad, variance_gap, of methods-DATA any method: one or more; of
        distillation-DATA also adaad, igdm-rslad and modern.
    teacher
        Run or known teacher; default the paper's, or one that is trained first.
    transfer_from
        Run for black-box transfer, instead of the bench's.
    released
        The variants of the released codes, at full scale.
    gate
        Measure the teacher first; --gate=false trains from it in any case.
    student
        Net of distillation-DATA; several values of an option are several students: --student.width 1 2 4. Its
        --recipe. and --method.attack. options hold for every row.
    labels
        Of distillation-DATA the shares of the labels for SAT: 1,0.2,0.04.
    autoattack
        Its checkpoints under AutoAttack: averaged, best, last; the others are under the suite `paper` alone.
    limit_test
        Its test images, 1,000 unless typed.
    limit_attack
        Its test images for AutoAttack, 1,000 unless typed.
    out
        Folder of everything; default runs/bench/DATA-SCALE.
    threads
        Threads of torch; default 1 for a small net on a CPU.
    plan
        Display the cost only.
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """
    if seeds < 1:
        raise ConfigError(f"expected at least one seed, got {seeds}: type --seeds 3")
    named, eps = overrides.get("teacher", {}), overrides.get("threat", {}).get("eps")
    if named and not teacher and scale != "full":
        raise ConfigError(f"expected --teacher with a name, got --teacher.{next(iter(named))} alone: type both")
    for option, words, choices in (("students", students, STUDENTS), ("methods", methods, methods_of(table))):
        for word in words or ():
            if word not in choices:
                near = nearest(word, choices)
                raise ConfigError(f'expected {option} of {", ".join(choices)}, got "{word}"{near}: correct it')
    arguments(overrides.get("threat", {}), "threat", Linf)
    typed: dict[str, Any] = {
        "student": student, "labels": labels, "autoattack": autoattack, "limit_test": limit_test,
        "limit_attack": limit_attack,
    }  # fmt: skip
    declared = _declared(table, typed, overrides)
    source = {} if "data" not in overrides else find_data({}, data or table.partition("-")[2], overrides)
    spec = spec_of(
        table,
        scale,
        data,
        eps,
        out,
        seeds=seeds,
        students=tuple(students or STUDENTS),
        methods=tuple(methods or ()),
        data_options={key: value for key, value in source.items() if key not in ("name", "limit")},
        train=source.get("limit"),
        teacher=named if teacher is None else {"name": teacher, **named},
        transfer_from=transfer_from or "",
        released=released,
        gate=gate,
        threads=threads,
        trust_code=trust_code,
        declared=declared,
        limit_test=limit_test,
        limit_attack=limit_attack,
    )
    if threads is not None:
        use_threads(threads)
    if not spec.scale.full:
        experiments.table_of(spec)  # refuses what needs no image
    result = experiments.table_of(spec.with_images())
    if plan:
        return show_plan(result, cells)
    options: dict[str, Any] = {
        "scale": scale, "seeds": seeds, "data": data, "students": students, "methods": methods,
        "teacher": teacher, "transfer_from": transfer_from, "released": [] if released else None,
        "trust_code": [] if trust_code else None, "no_gate": None if gate else [], **typed,
    }  # fmt: skip
    options |= dict(_dotted(overrides))
    command = ["ardor", "bench", table]  # the command that makes the same table anywhere
    for key, value in options.items():
        if value is not None:
            command += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return _work(result, shlex.join(command), cells)


def _declared(table: str, typed: Mapping[str, Any], overrides: Mapping[str, Any]) -> Declared:
    """What is declared for the table of distillation; no other has these options. Raises ConfigError."""
    kind, attack = table.partition("-")[0], overrides.get("method", {}).get("attack", {})
    dotted = {part: overrides.get(part, {}) for part in ("student", "recipe")} | {"method.attack": attack}
    given = [key for key, value in typed.items() if value is not None]
    given += [f"{part}.{key}" for part, options in dotted.items() for key in options]
    if kind != "distillation":
        if given:
            raise ConfigError(f"expected only options that {kind} uses, got --{given[0]}: leave it out")
        return Declared()
    for key in ("limit_test", "limit_attack"):
        if typed[key] is not None and typed[key] < 1:
            raise ConfigError(f"expected at least one test image, got --{key} {typed[key]}: type --{key} 1000")
    words = typed["student"] or "", dotted["student"], typed["labels"]
    return declared_of(*words, dotted["recipe"], attack, typed["autoattack"])


def _dotted(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted options of a nested mapping."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _work(table: Table, command: str, words: CellWords) -> int:
    if words.only:
        return make_only(table, words.only, command)
    total = len(table.cells)
    with words.engine() as engine, watching(table.spec.kind, total, lambda: total - len(missing(table))) as watch:
        progress, finished = watch

        def written(cell: Cell) -> None:
            experiments.write_sheets(table, command)
            finished(cell)

        problems = experiments.work(table, progress, written, engine)
        paths = experiments.write_sheets(table, command, problems)
    display.say(f"{paths[1].read_text(encoding='utf-8')}\nWritten: {', '.join(map(str, paths))}")
    require_made(problems, table.spec)
    return 0
