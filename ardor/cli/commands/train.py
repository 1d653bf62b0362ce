"""`ardor train`: a recipe, or names and options, to a run folder."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ardor.cli import display
from ardor.cli.processes import launch, require_processes
from ardor.cli.selection import Method, Overrides, configuration, is_run_folder
from ardor.cli.stopping import stopping
from ardor.diagnostics.teacher import require
from ardor.engine import distributed
from ardor.errors import ConfigError
from ardor.storage.config import arguments, to_yaml
from ardor.storage.files import shortened
from ardor.storage.recipes import recipe_for
from ardor.storage.runs import Run
from ardor.storage.trust import names_code
from ardor.training.job import (
    Job,
    completed,
    config_of_job,
    default_run,
    findings_of,
    gate_of,
    recipe_of,
    records_of,
    set_threads,
)
from ardor.training.memory import explain_oom, is_oom
from ardor.training.recipe import find_device
from ardor.training.soft_labels import SoftLabelCache, unnumbered
from ardor.training.trackers import Sink

NAMED = ("data", "student", "teacher", "method", "threat", "averaging")
"""The options that name a part of the configuration."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainWords:
    """The options of `ardor train` and `ardor plan`.

    Parameters
    ----------
    run
        Folder of the run; default runs/METHOD-STUDENT-DATA-sSEED.
    data
        digits, cifar10, cifar100, npz:FILE, folder:PATH, store:PATH or file.py:Name.
    student
        small_cnn, resnet18, resnet50, mobilenet_v2, wide_resnet, wide_resnet_silu, timm:NAME or file.py:Name.
    teacher
        A run, a net with --teacher.weights FILE, ardor:NAME, robustbench:ID, hf:OWNER/NAME or timm:NAME.
    method
        Its name, or file.py:Name; default rslad.
    threat
        linf or l2, for the method's attack and for validation.
    averaging
        ema or swa: an average of the weights, validated beside them.
    variant
        Variant of RECIPE: released, or smoke for a trial of minutes; several with commas.
    gate
        Measure the teacher first; --gate=false trains from it in any case.
    log
        tensorboard, wandb or mlflow: one or more, with commas.
    soft_labels
        float32 or float16 to cache the soft labels of clean images, live for no cache; default float32.
    soft_labels_in
        Folder of cached soft labels; default beside the run.
    threads
        Threads of torch; default the run's, in a new run 1 for a small net on a CPU.
    save_every
        From one save of the state inside an epoch to the next: steps, or minutes as in 10m.
    processes
        Processes of this machine that share each step; on several machines torchrun starts them.
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """

    run: Path | None = None
    data: str | None = None
    student: str | None = None
    teacher: str | None = None
    method: Method = None
    threat: str | None = None
    averaging: str | None = None
    variant: str = ""
    gate: Annotated[bool, Parameter(negative="--no_gate")] = True
    log: str | None = None
    soft_labels: Literal["float32", "float16", "live"] | None = None
    soft_labels_in: Path | None = None
    threads: int | None = None
    save_every: str = "10m"
    processes: int = 1
    trust_code: bool = False

    @property
    def variants(self) -> list[str]:
        """The variants that were typed, smoke last."""
        return sorted(filter(None, self.variant.split(",")), key="smoke".__eq__)

    def configuration(self, recipe: Path | None, overrides: Overrides) -> dict[str, Any]:
        """The configuration of the run. Raises ConfigError."""
        names = {key: getattr(self, key) for key in NAMED}
        return configuration(recipe, self.variants, names, overrides, self.trust_code)

    def parts(self, recipe: Path | None, overrides: Overrides) -> dict[str, Any]:
        """The configuration without the flags that a file may have. Raises ConfigError."""
        config = self.configuration(recipe, overrides)
        return {key: part for key, part in config.items() if key not in FLAGS}

    def require_processes(self, recipe: Path | None, overrides: Overrides) -> None:
        """Refuse a number of processes that the recipe's steps cannot be shared by. Raises ConfigError."""
        if self.processes != 1:
            parts = self.configuration(recipe, overrides)
            named = {key: {"name": part} if isinstance(part, str) else part for key, part in parts.items()}
            of_run = recipe_of({key: part for key, part in named.items() if key in ("method", "threat", "recipe")})
            require_processes(self.processes, of_run.batch, of_run.device)

    def _with_file(self, recipe: Path | None, overrides: Overrides) -> tuple[TrainWords, dict[str, Any]]:
        """These options with the flags that a file has, and the configuration without them. Raises ConfigError."""
        config = self.configuration(recipe, overrides)
        in_file = arguments({key: config.pop(key) for key in FLAGS & set(config)}, "train", TrainWords)
        typed = {key: value for key, value in in_file.items() if getattr(self, key) == getattr(DEFAULT, key)}
        return replace(self, **typed), config

    def completed(self, recipe: Path | None, overrides: Overrides) -> dict[str, Any]:
        """The recipe of the same run with every default written out. Raises ConfigError."""
        words, config = self._with_file(recipe, overrides)
        whole = completed(config)
        flags = {key: getattr(words, key) for key in sorted(FLAGS - {"variant"})}
        flags = {key: value for key, value in flags.items() if value != getattr(DEFAULT, key)}
        if self.variants and words.run is None:
            flags["run"] = self._run_of_variants(default_run(whole, whole["recipe"]["seed"]))
        return whole | {key: str(value) if isinstance(value, Path) else value for key, value in flags.items()}

    def _run_of_variants(self, run: Path) -> Path:
        return run.with_name(shortened("-".join([*self.variants, run.name])))

    def job(self, recipe: Path | None, overrides: Overrides) -> Job:
        """The run that a command line describes. Raises ConfigError and what the pieces raise."""
        words, config = self._with_file(recipe, overrides)
        existing = recipe if is_run_folder(recipe) else None
        job = Job.from_config(config, words.run or existing, trust_code=self.trust_code)
        if self.variants and words.run is None:
            job.run = self._run_of_variants(job.run)
        if words.soft_labels != "live" and not unnumbered(job.recipe):  # a finding has the reason
            folder = words.soft_labels_in or job.run.parent / ".soft-labels"
            job.soft_labels = SoftLabelCache(folder, words.soft_labels or "float32")
        job.gate, job.log, job.threads = words.gate, words.log, words.threads
        job.save_every = _interval(str(words.save_every))
        return job


DEFAULT = TrainWords()
FLAGS = {f.name for f in fields(TrainWords)} - {*NAMED, "trust_code"}  # which no file grants itself


def train(
    recipe: Path | None = None,
    /,
    words: TrainWords = DEFAULT,
    *,
    print_config: bool = False,
    overrides: Overrides,
) -> int:
    """Train a student, from a teacher where the method has one, and keep the run in a folder.

    RECIPE is a YAML file, a shipped recipe's name (rslad, sat, ...), or a run's folder to continue; every key can be
    typed instead, and what is typed wins. Options of the method, net, data set or recipe are dotted: `--method.alpha
    5/6`, `--recipe.lr 0.05`; `ardor train --method trades --help` lists those of TRADES. The same command continues
    the run where it stopped.

    Examples:

    `ardor train sat --data digits --run runs/teacher`

    `ardor train rslad --data cifar10 --student mobilenet_v2 --variant released --data.root DATA`

    `ardor train --data digits --student small_cnn --student.width 4 --teacher runs/teacher --method mine.py:Mine`

    Parameters
    ----------
    recipe
        YAML file, name of a shipped recipe, or a run to continue; first.
    print_config
        Print the recipe with every default written out, and train nothing: `ardor train FILE` of it is the same run.
    """
    if print_config:
        display.result("", {Path("-"): to_yaml(words.completed(recipe, overrides))})
        return 0
    words.require_processes(recipe, overrides)
    if words.processes > 1:
        launch("train", words.processes, train_alone, recipe, replace(words, processes=1), overrides)
        return 0
    return train_alone(recipe, words, overrides)


def train_alone(recipe: Path | None, words: TrainWords, overrides: Overrides) -> int:
    """`train` in this process, beside others that torchrun or `launch` started."""
    job = words.job(recipe, overrides)
    with distributed.joined(find_device(job.recipe.device)):
        first = distributed.rank() == 0
        config = config_of_job(job)
        unnamed = recipe_for(config["method"]["name"], config["data"]["name"]) if recipe is None else None
        findings = findings_of(job, unnamed)
        set_threads(job)
        sink = Sink([job.log] if job.log and first else [], job.run, config_of_job(job))
        if first:
            for finding in findings:
                display.err.print(str(finding), markup=False)
            if words.teacher is not None and not job.taught_by:
                display.err.print(f"{type(job.method).__name__} uses no teacher: --teacher is left out", markup=False)
        with distributed.rank_zero_first():  # a wait that is reported
            if first:
                _require_teacher(job)
        try:
            watching = display.watching(job.recipe.epochs, str(job.run), not first)
            with stopping() as stop, watching as show, contextlib.closing(sink):
                before = len(Run(job.run).metrics())
                for record in records_of(job, show, stop):
                    show(record)
                    sink.record(record)
        except Exception as error:
            if not is_oom(error):
                raise
            raise explain_oom(error, job) from None
        stop.stop_command()
        if first:
            if "smoke" in words.variants:
                display.say("A trial (smoke): its figures are no result.")
            place, complete = shlex.quote(str(job.run)), before == len(Run(job.run).metrics())
            trust = " --trust-code" if any(names_code(config[key], key) for key in ("data", "student")) else ""
            state = "Complete before, in" if complete else "Kept in"
            display.say(f"{state} {job.run}. Next: ardor evaluate {place}{trust}")
    return 0


def _interval(text: str) -> int | timedelta:
    """Steps, or a time. Raises ConfigError."""
    with contextlib.suppress(ValueError, OverflowError):
        if not text.endswith("m"):
            return int(text)  # the loop refuses 0 and less
        if (minutes := float(text[:-1])) > 0:
            return timedelta(minutes=minutes)
    raise ConfigError(
        f"expected --save_every as steps or minutes, got {text}: type --save_every 500 or --save_every 10m"
    )


def _require_teacher(job: Job) -> None:
    """Display the gate's measurements. Raises ModelError for a teacher that does not match its record."""
    with display.progress("teacher gate", 100) as move:
        reports = gate_of(job, progress=lambda name, done, todo: move(100 * done // todo, name))
    for name, report in reports.items():
        display.say(f"teacher {name}\n{report.text()}\n")
        require(report)
