"""A run of a configuration: its objects, its checks, and its epochs."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.data import load, options_of
from ardor.data.split import Split
from ardor.diagnostics.record import record_of
from ardor.diagnostics.teacher import LIMIT, TeacherReport, examine_teacher, wants_linear, wants_robust
from ardor.engine.threads import threads_for, use_threads
from ardor.errors import ConfigError
from ardor.evaluation.checks.data import missing_classes
from ardor.evaluation.checks.recipe import of_images, of_recipe
from ardor.evaluation.findings import Finding, present
from ardor.models.loading import net_for
from ardor.models.teachers import each
from ardor.storage.config import build, describe, find_class
from ardor.storage.files import shortened
from ardor.storage.imports import nearest
from ardor.storage.runs import Run
from ardor.training.averaging import Averaging
from ardor.training.epoch import EpochRecord, ProgressCallback
from ardor.training.lengthening import begun_config
from ardor.training.loop import epochs
from ardor.training.preflight import check_setup, resolve_config, uses_teacher
from ardor.training.recipe import Recipe, find_device
from ardor.training.saving import TEN_MINUTES, Every
from ardor.training.soft_labels import SoftLabelCache


@dataclass
class Job:
    """A run that is ready to start.

    Parameters
    ----------
    student, teacher, method, train, val, recipe, averaging, soft_labels
        As `ardor.epochs` takes them.
    run : Path
        The run's folder.
    taught_by : dict of str to str
        The teacher's name in the configuration, by "", or the name of each of several.
    gate : bool
        Whether the teacher is examined first.
    log : str, optional
        Trackers, with commas.
    threads : int, optional
        Of torch; None is the run's own, or the rule of `threads_for`.
    save_every : int or timedelta, optional
        As `ardor.epochs` takes it.
    """

    student: nn.Module
    teacher: nn.Module | None
    method: Any
    train: Split
    val: Split
    recipe: Recipe
    run: Path
    taught_by: Mapping[str, str] = field(default_factory=dict)
    gate: bool = True
    log: str | None = None
    averaging: Averaging | None = None
    soft_labels: SoftLabelCache | None = None
    threads: int | None = None
    save_every: Every | None = TEN_MINUTES

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], run: Path | None = None, *, teacher: bool = True, trust_code: bool = False
    ) -> Job:
        """The objects that a configuration names.

        Parameters
        ----------
        config : mapping
            `data`, `student`, and where they are not the defaults `teacher`, `method`, `threat`, `recipe`,
            `averaging`, as `ardor.storage.config.build` takes them.
        run : Path, optional
            The run's folder; None is runs/METHOD-STUDENT-DATA-sSEED.
        teacher : bool
            False leaves the teacher out.
        trust_code : bool
            Accept code that the config.yaml of a teacher's run names: see `ardor.storage.trust`. The configuration
            itself is as typed: what is read from a file is checked where it is read.

        Raises
        ------
        ConfigError, DataError, ModelError, CheckpointError
            As the functions that make the objects.
        """
        parts = parts_of(config)
        train, val, _ = build(parts["data"], "data")
        method, recipe = method_of(parts), recipe_of(parts)
        student = net_for("student", {"seed": recipe.seed, **parts["student"]}, train, fresh=True)
        named = parts.get("teacher", {})
        taught_by = named_teachers(method, named) if teacher and uses_teacher(method) else {}
        return cls(
            student,
            _teacher(named, train, trust_code) if taught_by else None,
            method,
            train,
            val,
            recipe,
            run or default_run(parts, recipe.seed),
            taught_by,
            averaging=build(parts["averaging"], "averaging") if parts.get("averaging") else None,
        )


def named_teachers(method: Any, config: Mapping[str, Any]) -> dict[str, str]:
    """The name of the teacher's net by "", or of each teacher's by its own. Raises ConfigError."""
    several = getattr(type(method), "teachers", ())
    if not several:
        extra = [] if config.get("name") else [key for key in ("robust", "natural") if key in config]
        if extra:
            raise ConfigError(
                f"expected one teacher for {type(method).__name__}, got --teacher.{extra[0]}: type --teacher RUN"
            )
        return {"": config["name"]} if config.get("name") else {}
    parts = {name: _named(config.get(name)) for name in several}
    if missing := [name for name, part in parts.items() if not part.get("name")]:
        got = f"--teacher {config['name']}" if config.get("name") else "none"
        raise ConfigError(
            f"expected the teachers {' and '.join(several)} for {type(method).__name__}, got "
            f"{got if len(missing) == len(several) else 'no ' + missing[0]}: type "
            + " ".join(f"--teacher.{name} RUN" for name in several)
        )
    return {name: part["name"] for name, part in parts.items()}


def _named(part: Any) -> Mapping[str, Any]:
    return {"name": part} if isinstance(part, str) else part or {}


def _teacher(config: Mapping[str, Any], train: Split, trust_code: bool) -> nn.Module:
    """The teacher, or each by name."""
    if config.get("name"):
        return net_for("teacher", config, train, fresh=False, trust_code=trust_code)
    nets = {
        name: net_for(f"teacher.{name}", _named(part), train, fresh=False, trust_code=trust_code)
        for name, part in config.items()
    }
    return nn.ModuleDict(nets)


KEYS = ("data", "student", "teacher", "method", "threat", "recipe", "averaging")
"""The keys of a run's configuration."""


def parts_of(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The parts of a configuration, each with its name. Raises ConfigError, also without data or a student."""
    if unknown := [key for key in config if key not in KEYS]:
        near = nearest(unknown[0], KEYS)
        raise ConfigError(f'expected the keys {", ".join(KEYS)}, got "{unknown[0]}"{near}: correct it')
    parts = {key: {"name": part} if isinstance(part, str) else part or {} for key, part in config.items()}
    for key, part in parts.items():
        if not isinstance(part, Mapping):
            raise ConfigError(f"expected {key}: NAME or {key}: {{name: NAME}}, got {part!r}: write one of them")
    for key in ("data", "student"):
        if not parts.get(key, {}).get("name"):
            raise ConfigError(f"expected --{key} with a name, got none: type for example ardor train sat --data digits")
    return parts


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with every default written out, which is a recipe of the same run; no image or net is read.

    Raises
    ------
    ConfigError
        As `Job.from_config`, for what can be told from the configuration alone.
    """
    parts = parts_of(config)
    method, recipe = method_of(parts), recipe_of(parts)
    defaults = {
        key: p.default for key, p in inspect.signature(load).parameters.items() if p.default not in (p.empty, None)
    }
    data = options_of(parts["data"])
    whole: dict[str, Any] = {"data": describe({"name": data["name"]} | defaults | data)}
    whole["student"] = {**parts["student"], "seed": parts["student"].get("seed", recipe.seed)}
    if uses_teacher(method) and named_teachers(method, teacher := parts.get("teacher", {})):
        whole["teacher"] = dict(teacher)
    whole["method"] = describe(method)
    whole["recipe"] = {key: value for key, value in describe(recipe).items() if key != "name"}
    if parts.get("averaging"):
        whole["averaging"] = describe(build(parts["averaging"], "averaging"))
    return whole


def method_of(config: Mapping[str, Any]) -> Any:
    """The method of a configuration, its attack under the configuration's threat. Raises ConfigError."""
    content = {"name": "rslad", **(config.get("method") or {})}
    if base := content.get("base"):
        base = {"name": base} if isinstance(base, str) else base
        content["base"] = method_of({"method": base, "threat": config.get("threat")})
    make = find_class(content["name"], "method", "method")
    required = any(p.default is p.empty for p in inspect.signature(make).parameters.values())
    default: Any = None if required else make()
    _set_threat(default, config.get("threat"))
    method = build(content, "method", default=default)
    typed = content.get("attack")
    if typed and not (isinstance(typed, Mapping) and "threat" in typed):  # another attack than the default's
        _set_threat(method, config.get("threat"))
    return method


def _set_threat(method: Any, threat: Any) -> None:
    """Put the method's attack, if it has one, under the configuration's threat, if there is one."""
    attack: Any = getattr(method, "attack", None)
    if threat and hasattr(attack, "threat"):
        attack = dataclasses.replace(attack, threat=build(threat, "threat", default=attack.threat))
        object.__setattr__(method, "attack", attack)  # also where it is frozen, or its base's


def recipe_of(config: Mapping[str, Any]) -> Recipe:
    """The recipe of a configuration; validation is under the method's threat unless it names another one.

    Raises
    ------
    ConfigError
        As `build`.
    """
    content = config.get("recipe") or {}
    threat = getattr(getattr(method_of(config), "attack", None), "threat", None)
    if threat is None:
        threat = build(config.get("threat"), "threat", default=Linf())
    recipe: Recipe = build(content, "recipe", default=Recipe(val_attack=PGD(threat, steps=10)))
    attack: Any = recipe.val_attack
    if "threat" in (content.get("val_attack") or {}) or not hasattr(attack, "threat"):
        return recipe
    return dataclasses.replace(recipe, val_attack=dataclasses.replace(attack, threat=threat))


def default_run(config: Mapping[str, Any], seed: int) -> Path:
    """runs/METHOD-STUDENT-DATA-sSEED, in characters that every file system accepts."""
    names = [(config.get("method") or {}).get("name", "rslad"), config["student"]["name"], config["data"]["name"]]
    return Path("runs") / shortened("-".join(Path(name.replace(":", "_")).name for name in [*names, f"s{seed}"]))


def records_of(
    job: Job, progress: ProgressCallback | None = None, stop: Callable[[], bool] | None = None
) -> Iterator[EpochRecord]:
    """The records of `ardor.epochs`."""
    return epochs(
        job.student, job.teacher, job.method, job.train, job.recipe, val=job.val, run=job.run,
        averaging=job.averaging, soft_labels=job.soft_labels, progress=progress,
        save_every=job.save_every, stop=stop,
    )  # fmt: skip


def set_threads(job: Job) -> None:
    """Set torch's number of threads: the job's, else that of the run it resumes, else the rule's."""
    number, run = job.threads, Run(job.run)
    if number is None and run.exists and isinstance(previous := run.config.get("threads"), int) and previous > 0:
        number = min(previous, os.cpu_count() or 1)  # the run may come from a larger machine
    if number is None:
        number = threads_for(job.student.to(find_device(job.recipe.device)), job.train.shape)
    use_threads(number)


def config_of_job(job: Job) -> dict[str, Any]:
    """The config.yaml of the run."""
    return resolve_config(
        job.student, job.teacher, job.method, job.train, job.val, job.recipe, job.averaging, job.soft_labels
    )


def findings_of(job: Job, recipe: str | None = None) -> list[Finding]:
    """Findings on values of the recipe that silently change results; nothing is written.

    Parameters
    ----------
    recipe : str, optional
        As `of_images` takes it.

    Raises
    ------
    ArdorError
        As training before its first step.
    """
    find_device(job.recipe.device)
    check_setup(job.student, job.teacher, job.method, job.train, job.val, job.averaging, job.recipe)
    config = config_of_job(job)
    Run(job.run).require(begun_config(Run(job.run), config, job.recipe))
    return [*of_recipe(config), *of_images(config, job.train.shape, recipe), *present(missing_classes(job.train))]


def gate_of(
    job: Job, student: nn.Module | None = None, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, TeacherReport]:
    """Examine the teacher, or each of several, on the validation images.

    Parameters
    ----------
    student : nn.Module, optional
        A trained net of the student's kind, for the share of its adversarial examples that transfer.
    progress : callable, optional
        As in `examine_teacher`.

    Returns
    -------
    dict of str to TeacherReport
        By the teacher's name in words. Empty without a teacher or gate, and for a run that resumes. A teacher that the
        method calls natural need not be robust.
    """
    if job.teacher is None or not job.gate or Run(job.run).states():
        return {}
    trained = getattr(getattr(job.method, "attack", None), "threat", None)
    threat = trained or getattr(job.recipe.val_attack, "threat", None) or Linf()
    return {
        f"{name} {job.taught_by.get(name, '')}".strip(): examine_teacher(
            net.to(find_device(job.recipe.device)),
            job.val,
            threat,
            record=record_of(job.taught_by.get(name), net),
            student=student,
            robust=wants_robust(job.method) and name != "natural",
            linear=wants_linear(job.method),
            limit=min(LIMIT, len(job.train)),  # a smoke test trains on fewer images
            progress=progress,
        )
        for name, net in each(job.teacher).items()
    }
