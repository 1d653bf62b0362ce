"""`ardor teachers rank`: several teachers side by side, before one is distilled from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ardor.cli import display
from ardor.cli.selection import Overrides, data_of, device_of, find_split, find_threat, threat_of
from ardor.diagnostics.teacher import LIMIT
from ardor.diagnostics.teacher.ranking import as_dict, rank_teachers, ranking
from ardor.errors import ConfigError
from ardor.models.loading import net_for, require_there


def rank(
    *teachers: Annotated[str, Parameter(name="TEACHER")],
    student: str | None = None,
    data: str | None = None,
    threat: str | None = None,
    part: Literal["val", "test", "train"] = "val",
    limit: int = LIMIT,
    batch: int | None = None,
    seed: int = 0,
    json: Path | None = None,
    trust_code: bool = False,
    overrides: Overrides,
) -> int:
    """Measure several teachers on the same images: accuracy, PGD-20, entropy of soft labels, transfer of a student's
    adversarial examples.

    Each TEACHER is a run's folder or a net's name with weights of its own. Data and threat are the first one's unless
    you type others. No column decides which teacher is best for a student, so nothing is sorted: a good teacher's soft
    labels on the hardest images are neither certain nor uniform, and the student's adversarial examples fool it now and
    then.

    Example:

    `ardor teachers rank runs/sat runs/trades runs/natural --student runs/small`

    Parameters
    ----------
    teachers
        Folders of runs, or names of nets.
    student
        Trained net of the student's kind: a run, or a name.
    data
        Data set; default the first run's.
    threat
        linf or l2; default the first run's.
    part
        Part of the data.
    limit
        Largest number of images, classes in proportion.
    batch
        Images at a time; default 256, or fewer where they are large.
    seed
        Seed of the attacks' random starts.
    json
        File for the measurements; - is standard output, instead of the text.
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """
    if len(dict.fromkeys(teachers)) < 2:
        got = f"{teachers[0]} alone: type ardor gate {teachers[0]} for one" if teachers else "none: type their folders"
        raise ConfigError(f"expected at least two teachers, got {got}")
    display.require_files(json)
    for name in teachers:
        require_there(name)  # before the data are loaded
    used = find_threat(threat, overrides, threat_of(teachers[0]))
    split, place = find_split(data_of(teachers[0], data, trust_code), data, part, overrides), device_of(overrides)
    nets = {
        name: net_for("teacher", {"name": name}, split, fresh=False, trust_code=trust_code).to(place)
        for name in dict.fromkeys(teachers)
    }
    of_student = {"name": student, **overrides.get("student", {})}
    taught = net_for("student", of_student, split, fresh=False, trust_code=trust_code).to(place) if student else None
    with display.progress("teachers", len(nets)) as move:
        done = iter(range(len(nets)))
        reports = rank_teachers(
            nets, split, used, student=taught, limit=limit, batch=batch, seed=seed,
            progress=lambda name: move(next(done), name),
        )  # fmt: skip
    n = next(iter(reports.values())).n
    text = f"On {n} images of {split.name} ({split.part}), as typed, not ranked\n\n{ranking(reports)}"
    display.result(text, {json: display.as_json({name: as_dict(report) for name, report in reports.items()})})
    return 0
