"""`ardor gate`: whether a teacher is what it claims to be, before hours are spent on it."""

from __future__ import annotations

from typing import Literal

from ardor.cli import display
from ardor.cli.selection import Overrides, data_of, device_of, find_split, find_threat, threat_of
from ardor.diagnostics.record import record_of
from ardor.diagnostics.teacher import LIMIT, wants_linear, wants_robust
from ardor.diagnostics.teacher import examine_teacher as judge
from ardor.errors import ConfigError
from ardor.models.loading import net_for, require_there
from ardor.storage.config import find_class


def gate(
    teacher: str | None = None,
    /,
    *,
    data: str | None = None,
    student: str | None = None,
    method: str = "rslad",
    threat: str | None = None,
    part: Literal["val", "test", "train"] = "val",
    limit: int = LIMIT,
    batch: int | None = None,
    seed: int = 0,
    trust_code: bool = False,
    overrides: Overrides,
) -> int:
    """Measure a teacher on validation images: clean accuracy and PGD-20 against its record, the entropy
    of its soft labels, and how many of a student's adversarial examples fool it too.

    TEACHER is a folder that `ardor train` made, whose data and threat are used unless you type others, or a net's name
    with --teacher.weights and --data. A teacher that misses its record is refused, with the likely cause:
    mis-normalised, weights never loaded, another class order, other images, not robust.

    Each finding has its evidence and the next step. The exit code is 1 where the teacher is refused, else 0.

    `--recipe.device cuda:1` names the device; the default is a GPU if there is one.

    Examples:

    `ardor gate runs/teacher --student runs/sat`

    `ardor gate resnet18 --teacher.weights w.safetensors --data cifar10 --threat.eps 8/255`

    Parameters
    ----------
    teacher
        Folder of a run, or name of a net; first.
    data
        Data set; default the run's.
    student
        Trained net of the student's kind: a run, or a name.
    method
        Method that the teacher is for; kd needs no robust one.
    threat
        linf or l2; default the run's.
    part
        Part of the data.
    limit
        Largest number of images, classes in proportion.
    batch
        Images at a time; default 256, or fewer where they are large.
    seed
        Seed of the attacks' random starts.
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """
    if teacher is None:
        raise ConfigError("expected a teacher, got none: type ardor gate RUN, or a name and --teacher.weights FILE")
    require_there(teacher)  # before its data are loaded
    used = find_threat(threat, overrides, threat_of(teacher))
    split = find_split(data_of(teacher, data, trust_code), data, part, overrides)
    place = device_of(overrides)
    nets = {
        key: net_for(key, {"name": name, **overrides.get(key, {})}, split, fresh=False, trust_code=trust_code).to(place)
        for key, name in (("teacher", teacher), ("student", student))
        if name is not None
    }
    kind = find_class(method, "method", "method")
    with display.progress("gate", 100) as move:
        report = judge(
            nets["teacher"],
            split,
            used,
            record=record_of(teacher, nets["teacher"]),
            student=nets.get("student"),
            robust=wants_robust(kind),
            linear=wants_linear(kind),
            limit=limit,
            batch=batch,
            seed=seed,
            progress=lambda name, done, todo: move(100 * done // todo, name),
        )
    display.say(f"{teacher} as a teacher, on {report.n} images of {split.name} ({split.part})\n{report.text()}")
    return 1 if report.refused else 0
