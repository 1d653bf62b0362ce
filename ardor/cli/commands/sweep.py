"""`ardor sweep`: a recipe with options that vary, compared on the validation images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ardor import experiments
from ardor.attacks.suites import SUITES
from ardor.cli import display
from ardor.cli.cells import DEFAULT, CellWords, make_only, require_made, show_plan, watching
from ardor.cli.commands.train import NAMED, TrainWords
from ardor.cli.selection import Method, Overrides
from ardor.engine.threads import use_threads
from ardor.errors import ConfigError
from ardor.experiments.axes import parse_axes, parse_suggestions
from ardor.experiments.cell import Sweep
from ardor.experiments.cells import state_of
from ardor.experiments.sweep import enter, evaluate_best, with_suite
from ardor.experiments.sweep_sheet import write_sweep
from ardor.experiments.trials import Trials, run_trials
from ardor.storage.files import shortened
from ardor.storage.imports import nearest
from ardor.training.job import default_run, parts_of

TESTED = [name for name in SUITES if name not in ("transfer", "deployed")]


def sweep(
    recipe: Path | None = None,
    /,
    cells: CellWords = DEFAULT,
    *,
    over: list[str] | None = None,
    trials: int | None = None,
    suggest: list[str] | None = None,
    sampler_seed: int = 0,
    suite: str | None = None,
    every: bool = False,
    data: str | None = None,
    student: str | None = None,
    teacher: str | None = None,
    method: Method = None,
    threat: str | None = None,
    averaging: str | None = None,
    variant: str = "",
    gate: Annotated[bool, Parameter(negative="--no_gate")] = True,
    out: Path | None = None,
    threads: int | None = None,
    plan: bool = False,
    trust_code: bool = False,
    overrides: Overrides,
) -> int:
    """Train a recipe with options that vary, and compare the nets on the validation images.

    RECIPE and its options are those of `ardor train`. `--over OPTION=A,B` gives an option values, and every combination
    is trained: 0:3 are 0, 1 and 2; over recipe.seed the table has mean and SD. `--trials N` lets Optuna suggest them
    instead. The best row is chosen on the validation images; `--suite` then evaluates it on the test images.

    Stop it at any moment: the same command continues. `--on ray` trains several nets at once, on one machine or on many
    that share the folder.

    Examples:

    `ardor sweep sat --data digits --over recipe.lr=0.1,0.2 --over recipe.seed=0:3`

    `ardor sweep rslad --data digits --over method.alpha=0,1/2,1 --suite autoattack`

    `ardor sweep sat --data digits --trials 30 --suggest recipe.lr=log:0.01..0.3`

    Parameters
    ----------
    recipe
        YAML file or name of a shipped recipe; first.
    over
        OPTION=A,B,... or OPTION=FIRST:END without END; once for each option.
    trials
        Number of trials in all; those in the folder count.
    suggest
        OPTION=LOW..HIGH, log:LOW..HIGH, int:LOW..HIGH or A|B of the trials; once for each option.
    sampler_seed
        Seed of Optuna's sampler.
    suite
        Evaluate the best row on the test images: paper, autoattack, apgd, square.
    every
        Evaluate all rows, not the best alone.
    data
        digits, cifar10, cifar100, npz:FILE, folder:PATH, store:PATH or file.py:Name.
    student
        Net to train.
    teacher
        A run, or a net by its name.
    method
        Its name, or file.py:Name; default rslad.
    threat
        linf or l2, for the method's attack and for validation.
    averaging
        ema or swa.
    variant
        Variant of RECIPE: released or smoke; several with commas.
    gate
        Measure the teacher first; --gate=false trains from it in any case.
    out
        Folder of everything; default runs/sweep/METHOD-STUDENT-DATA.
    threads
        Threads of torch; default 1 for a small net on a CPU.
    plan
        Display the cells and their cost only.
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """
    words = TrainWords(
        data=data, student=student, teacher=teacher, method=method, threat=threat, averaging=averaging, variant=variant,
        gate=gate, trust_code=trust_code,
    )  # fmt: skip
    config = words.parts(recipe, overrides)
    _require_words(over, trials, suggest, suite, {"--plan": plan, "--only": cells.only, "--every": every})
    options: dict[str, Any] = {"gate": gate, "threads": threads, "trust_code": trust_code}
    if threads is not None:
        use_threads(threads)
    folder = out or _default_out(config, words.variants)
    own = {"over": over, "trials": trials, "suggest": suggest, "sampler_seed": sampler_seed or None, "suite": suite}
    command = _command(recipe, words, own | {"every": [] if every else None}, overrides)
    if trials is not None:
        study = Trials(config, parse_suggestions(suggest or ()), folder, sampler_seed, **options)
        return _trials(study, trials, command, suite, cells)
    made = experiments.grid(config, parse_axes(over or ()), folder, **options)
    if plan:
        return show_plan(with_suite(made, suite, every), cells, best=suite is not None and not every)
    if cells.only:
        enter(made)
        return make_only(made, cells.only, command)
    total = len(made.cells)
    with cells.engine() as engine, watching("sweep", total, lambda: _done(made)) as (progress, finished):
        paths, problems = experiments.run_sweep(made, command, progress, finished, engine, suite, every)
    _show(paths)
    require_made(problems, made.spec)
    return 0


def _trials(study: Trials, number: int, command: str, suite: str | None, cells: CellWords) -> int:
    with cells.engine() as engine, watching("trials", number, lambda: _done(study.sweep)) as (progress, finished):
        problems = run_trials(study, number, command, progress, finished, engine)
        if suite:
            problems += evaluate_best(study.sweep, suite, progress, finished, engine)
    _show(write_sweep(study.sweep, command, problems))
    require_made(problems, study.sweep.spec)
    return 0


def _require_words(
    over: list[str] | None, trials: int | None, suggest: list[str] | None, suite: str | None, others: dict[str, Any]
) -> None:
    """Raise ConfigError for options that contradict each other."""
    if bool(over) == (trials is not None):
        got = "both" if over else "neither"
        raise ConfigError(f"expected --over or --trials, got {got}: type for example --over recipe.lr=0.1,0.2")
    if trials is None and suggest:
        raise ConfigError("expected --trials with --suggest, got none: type --trials 30")
    if trials is not None and trials < 1:
        raise ConfigError(f"expected at least one trial, got {trials}: type --trials 30")
    if trials is not None and (given := [option for option, value in others.items() if value]):
        raise ConfigError(f"expected {given[0]} with --over, got --trials, whose cells come one by one: leave it out")
    if others["--every"] and not suite:
        raise ConfigError("expected --suite with --every, got none: type --suite paper")
    if suite is not None and suite not in TESTED:
        listed = ", ".join(TESTED)
        raise ConfigError(f'expected --suite as one of {listed}, got "{suite}"{nearest(suite, TESTED)}: correct it')


def _default_out(config: dict[str, Any], variants: list[str]) -> Path:
    try:
        parts = parts_of(config)
    except ConfigError:
        return Path("runs") / "sweep" / "unnamed"  # refused with the same sentence as the cells are made
    name = default_run(parts, 0).name.removesuffix("-s0")
    return Path("runs") / "sweep" / shortened("-".join([*variants, name]))


def _command(recipe: Path | None, words: TrainWords, own: dict[str, Any], overrides: Overrides) -> str:
    """The command that makes the same sweep anywhere."""
    typed: dict[str, Any] = {key: getattr(words, key) for key in NAMED}
    typed |= {"variant": ",".join(words.variants) or None, "trust_code": [] if words.trust_code else None, **own}
    typed |= {f"{part}.{key}": value for part, options in overrides.items() for key, value in options.items()}
    line = ["ardor", "sweep", *([str(recipe)] if recipe else [])]
    for key, value in typed.items():
        if value is not None:
            line += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(line if words.gate else [*line, "--gate=false"])


def _done(made: Sweep) -> int:
    return sum(state_of(made.spec, cell)[0] == "done" for cell in made.cells)


def _show(paths: list[Path]) -> None:
    display.say(f"{paths[1].read_text(encoding='utf-8')}\nWritten: {', '.join(map(str, paths))}")
