"""`ardor train`: a recipe, or names and options, to a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from cyclopts import App, Parameter

from ardor import data as datasets
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.cli import display
from ardor.cli.nets import data_options, make_net, net_options
from ardor.cli.options import SPELLING, built, grouped, options_for, piece, values, with_options
from ardor.cli.selection import Selection, find_threat, first_stage, given, pick, with_named, with_threat
from ardor.diagnostics.teacher import require
from ardor.engine import distributed
from ardor.errors import ConfigError
from ardor.methods.find import METHODS, find_method
from ardor.models.builders import BUILDERS
from ardor.training.averaging import EMA, SWA
from ardor.training.job import Job, config_of_job, findings_of, gate_of, records_of, set_threads
from ardor.training.memory import explain_oom, is_oom
from ardor.training.recipe import Recipe, find_device
from ardor.training.soft_labels import SoftLabelCache
from ardor.training.trackers import Sink, log_to

NAMES = ("data", "student", "teacher", "method", "threat", "averaging")

AVERAGING: dict[str, Callable[..., Any]] = {"ema": EMA, "swa": SWA}

HELP = """Train a student, from a teacher where the method has one, and keep the run in a folder.

RECIPE is a YAML file with the keys below (see recipes/), or a run's folder to go on with; every key can be typed
instead, and what is typed wins. The options of a method, net or data set are those of the one you name: `ardor train
--method trades --help` shows TRADES's. The same command again goes on with the run where it stopped.

Examples:

`ardor train --data digits --student small_cnn --method sat --threat.eps 0.15 --recipe.epochs 20 --run runs/teacher`

`ardor train --data digits --student small_cnn --student.width 4 --teacher runs/teacher --method mine.py:Mine`
"""


def app(argv: Sequence[str]) -> App:
    """The command with the options of what `argv` names."""
    return _app(argv, train)


def job_of(argv: Sequence[str], taught: bool = True) -> Job:
    """What `ardor train ARGV` would do, words as --option=VALUE with underscores; taught=False leaves the teacher out.

    Raises as that command does, and CycloptsError.
    """
    words = [word for word in argv if taught or not word.startswith("--teacher")]
    command = _app(words, described, taught, result_action="return_value", default_parameter=SPELLING)
    return cast(Job, command(words, exit_on_error=False, print_error=False))


def _app(argv: Sequence[str], function: Callable[..., Any], taught: bool = True, **settings: Any) -> App:
    asked = first_stage(argv, NAMES, recipe=True)
    if not taught:
        asked.names.pop("teacher", None)
        asked.content.pop("teacher", None)
    options = options_of(asked, argv)  # takes the names of inner attacks out of the recipe, so it comes first
    command = App(name="train", help=HELP, config=asked.config, **settings)
    command.default(with_options(function, options))
    return command


def described(
    recipe_file: Annotated[
        Path | None, Parameter(name="RECIPE", help="a YAML file, or a run to go on with; must come first")
    ] = None,
    /,
    *,
    run: Annotated[Path | None, Parameter(help="the run's folder; default runs/METHOD-STUDENT-DATA-sSEED")] = None,
    data: Annotated[
        str | None, Parameter(help="digits, cifar10, cifar100, npz:FILE, folder:PATH or file.py:Name")
    ] = None,
    student: Annotated[str | None, Parameter(help=f"{', '.join(BUILDERS)} or file.py:Name")] = None,
    teacher: Annotated[
        str | None, Parameter(help="a run, a net with --teacher.weights FILE, robustbench:ID, hf:OWNER/NAME, timm:NAME")
    ] = None,
    method: Annotated[str, Parameter(help=f"{', '.join(METHODS)} or file.py:Name")] = "rslad",
    threat: Annotated[str | None, Parameter(help="linf or l2, for the method's attack and for validation")] = None,
    smoke: Annotated[bool, Parameter(help="RECIPE's `smoke:` form, to see that all runs", negative="")] = False,
    gate: Annotated[bool, Parameter(help="examine the teacher first; =false trains from it all the same")] = True,
    log: Annotated[str | None, Parameter(help="tensorboard, wandb, mlflow: one or more, with commas")] = None,
    averaging: Annotated[str | None, Parameter(help="ema or swa: judge an average of the weights beside them")] = None,
    soft_labels: Annotated[
        Literal["float32", "float16", "live"], Parameter(help="keep what the teacher says of clean images, or ask anew")
    ] = "float32",
    soft_labels_in: Annotated[Path | None, Parameter(help="folder of kept soft labels; default beside RUN")] = None,
    threads: Annotated[
        int | None, Parameter(help="of torch; default RUN's own, in a new run 1 for a small net on a CPU")
    ] = None,
    more: Any = None,
) -> Job:
    """What the words and `more` describe."""
    asked, argv = more.asked, more.argv
    there = recipe_file if recipe_file and recipe_file.is_dir() else None
    if recipe_file not in (asked.path, there) or (there and there / "config.yaml" != asked.path):
        raise ConfigError(f"expected RECIPE as the first word, got {recipe_file} behind an option: type --option=VALUE")
    for key in ("data", "student"):
        if key not in asked.names:
            raise ConfigError(f"expected --{key} with a name, got none: type say --data digits --student small_cnn")
    images, val, _ = datasets.load(asked.names["data"], **values(more.data))
    method_, recipe = built(more.method), built(more.recipe)
    threat = getattr(getattr(method_, "attack", None), "threat", None)
    if threat is not None and not given(argv, asked, "recipe.val_attack.threat"):
        # validation follows the threat that the method trains under
        recipe = dataclasses.replace(recipe, val_attack=dataclasses.replace(recipe.val_attack, threat=threat))
    of_student = {"seed": recipe.seed} | {k: v for k, v in values(more.student).items() if v is not None}
    net = make_net("student", asked.names["student"], of_student, images, fresh=True)
    from_net = None
    if "teacher" in asked.names:
        from_net = make_net("teacher", asked.names["teacher"], values(more.teacher), images, fresh=False)
    folder = run or there or default_run(asked, recipe.seed, smoke)
    keep = (
        None if soft_labels == "live" else SoftLabelCache(soft_labels_in or folder.parent / ".soft-labels", soft_labels)
    )
    average = built(more.averaging) if "averaging" in asked.names else None
    return Job(
        net, from_net, method_, images, val, recipe, folder, asked.names.get("teacher"), gate, log, average, keep,
        threads,
    )  # fmt: skip


@functools.wraps(described)
def train(*args: Any, **kwargs: Any) -> int:
    """Train what the words describe; where torchrun started several processes, the first one speaks and writes."""
    job = described(*args, **kwargs)
    with distributed.joined(find_device(job.recipe.device)):
        first = distributed.rank() == 0
        found = findings_of(job)
        set_threads(job)
        sink = log_to([job.log] if job.log and first else [], job.run, config_of_job(job))
        if first:
            for finding in found:
                display.err.print(str(finding), markup=False)
            if (seen := gate_of(job)) is not None:
                display.say(f"teacher {job.taught_by}\n{seen.text()}\n")
                require(seen)
        try:
            _run(job, sink, quiet=not first)
        except Exception as error:
            if not is_oom(error):
                raise
            raise explain_oom(error, job) from None
        if first:
            display.say(f"Kept in {job.run}. Next: ardor evaluate {job.run}")
    return 0


def _run(job: Job, sink: Sink, quiet: bool) -> None:
    """Epoch by epoch, drawn and logged."""
    with display.watching(job.recipe.epochs, str(job.run), quiet) as tell, contextlib.closing(sink):
        for record in records_of(job, tell):
            tell(record)
            sink.record(record)


def default_run(asked: Selection, seed: int, smoke: bool = False) -> Path:
    """runs/METHOD-STUDENT-DATA-sSEED, of letters that every file system takes."""
    words = ["smoke"] if smoke else []
    words += [asked.names.get("method", "rslad"), asked.names["student"], asked.names["data"], f"s{seed}"]
    return Path("runs") / "-".join(Path(word.replace(":", "_")).name for word in words)


def options_of(asked: Selection, argv: Sequence[str]) -> type:
    """One dataclass with the options of every piece that is named."""
    threat = find_threat(asked, argv, None)
    make = find_method(asked.names.get("method", "rslad"))
    complete = all(p.default is not p.empty for p in inspect.signature(make).parameters.values())
    default = with_named(with_threat(make(), threat), asked.content.get("method")) if complete else None
    recipe = with_named(Recipe(val_attack=PGD(threat or Linf(), steps=10)), asked.content.get("recipe"))
    pieces: dict[str, Any] = {
        "method": options_for(make, default),
        "recipe": options_for(Recipe, recipe),
        "threat": options_for(type(threat or Linf()), threat or Linf()),
        "data": data_options(asked.names.get("data")),
    }
    pieces |= {
        who: net_options(asked.names[who], runs=who == "teacher")
        for who in ("student", "teacher")
        if who in asked.names
    }
    if "averaging" in asked.names:
        pieces["averaging"] = options_for(pick(asked.names["averaging"], AVERAGING, "an average"))
    rows = [piece(key, options) for key, options in pieces.items()]
    return grouped(rows, asked=asked, argv=list(argv))
