"""`ardor gate`: whether a teacher is what it claims to be, before hours are spent on it."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from ardor.cli import display
from ardor.cli.selection import Overrides, config_of, find_split, find_threat, require_overrides, trained_threat
from ardor.diagnostics.record import record_of
from ardor.diagnostics.teacher import LIMIT, wants_robust
from ardor.diagnostics.teacher import examine_teacher as judge
from ardor.errors import ConfigError
from ardor.models.loading import net_for, require_there
from ardor.storage.config import find_class
from ardor.training.recipe import find_device


def gate(
    teacher: Annotated[str | None, Parameter(name="TEACHER", help="a run's folder or a net's name; first")] = None,
    /,
    *,
    data: Annotated[str | None, Parameter(help="the data set; default the run's own")] = None,
    student: Annotated[str | None, Parameter(help="a trained net of the student's kind: a run, or a name")] = None,
    method: Annotated[str, Parameter(help="that the teacher is for; kd wants no robust one")] = "rslad",
    threat: Annotated[str | None, Parameter(help="linf or l2; default the run's own")] = None,
    part: Annotated[Literal["val", "test", "train"], Parameter(help="of the data")] = "val",
    limit: Annotated[int, Parameter(help="how many images, classes in proportion")] = LIMIT,
    batch: Annotated[int, Parameter(help="images at a time")] = 256,
    seed: Annotated[int, Parameter(help="of the attacks' random starts")] = 0,
    device: Annotated[str, Parameter(help="auto, cpu, cuda ...")] = "auto",
    overrides: Annotated[Overrides | None, Parameter(parse=False)] = None,
) -> int:
    """Measure a teacher on validation images: clean accuracy and PGD-20 against its record, the entropy
    of its soft labels, and how many of a student's adversarial examples fool it too.

    TEACHER is a folder that `ardor train` made, whose data and threat are used unless you type others, or a net's name
    with --teacher.weights and --data. A teacher that is not what its record says is refused, with the likely cause:
    mis-normalised, weights never loaded, another class order, other images, not robust.

    Each finding is explained in docs/gate.md. The exit code is 1 where the teacher is refused, else 0.

    Examples:

    `ardor gate runs/teacher --student runs/sat`

    `ardor gate resnet18 --teacher.weights w.safetensors --data cifar10 --threat.eps 8/255`
    """
    if teacher is None:
        raise ConfigError("expected a teacher, got none: type ardor gate RUN, or a name and --teacher.weights FILE")
    require_there(teacher)  # before its data are asked for
    overrides = overrides or {}
    require_overrides(overrides, "threat", "data", "teacher", "student")
    trained = config_of(teacher)
    threat_ = find_threat(threat, overrides, trained_threat(teacher))
    split = find_split(trained, data, part, overrides)
    where = find_device(device)
    net = net_for("teacher", {"name": teacher, **overrides.get("teacher", {})}, split, fresh=False).to(where)
    pupil = None
    if student is not None:
        pupil = net_for("student", {"name": student, **overrides.get("student", {})}, split, fresh=False)
        pupil = pupil.to(where)
    with display.progress("gate", 100) as move:
        seen = judge(
            net,
            split,
            threat_,
            record=record_of(teacher, net),
            student=pupil,
            robust=wants_robust(find_class(method, "method", "method")),
            limit=limit,
            batch=batch,
            seed=seed,
            progress=lambda name, done, todo: move(100 * done // todo, name),
        )
    display.say(f"{teacher} as a teacher, on {seen.n} images of {split.name} ({split.part})")
    display.say(seen.text())
    return 1 if seen.refused else 0
