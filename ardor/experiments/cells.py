"""A cell on disk: what made it, how far it is, and who works on it.

cells/NAME/sSEED.yaml    the words that train it, the recipe's hash, ardor's version; later: trained, or failed
cells/NAME/sSEED.lock    held by the process that works on it; the system frees a dead one's
cells/NAME/sSEED/        its run, with a report for each judgement
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import ardor
from ardor import __version__ as VERSION
from ardor import models
from ardor.errors import ArdorError
from ardor.evaluation.report import Report
from ardor.experiments.tables import Cell, EvaluationSpec, TableSpec
from ardor.storage.config import as_text, differences, number, read_yaml, to_yaml
from ardor.storage.files import write_atomic
from ardor.storage.tensors import checksum, read_tensors
from ardor.version import __version__

State: TypeAlias = Literal["open", "trained", "done", "foreign", "failed"]
WHERE = tuple(f"--{key}=" for key in ("data.root", "recipe.device", "teacher.weights", "teacher.root", "gate"))
"""Words that say where things lie, not what they are: hashes of the data and of the teacher's weights stand beside."""

TEACHERS = ("--teacher=", "--teacher.weights=", "--teacher.natural=", "--teacher.robust=")


def state_of(asked: TableSpec, cell: Cell) -> tuple[State, str]:
    """How far a cell is, and for a foreign or failed one why."""
    path, run = note_of(asked, cell), asked.run(cell.name)
    if not run.exists():
        return "open", ""
    if not path.is_file():
        return "foreign", f"a run without {path.name} beside it"
    try:
        said = read_yaml(path)
        found = differences(made_by(asked, cell), dict(said.get("made", {})))
        if found:
            return "foreign", "; ".join(found[:3])
        if "failed" in said:
            return "failed", str(said["failed"])
        if not said.get("trained"):
            return "open", ""
        return ("trained" if left(asked, cell) else "done"), ""
    except (ArdorError, ValueError, TypeError) as error:
        return "foreign", f"damaged: {error}"


def made_by(asked: TableSpec, cell: Cell) -> dict[str, Any]:
    """What decides a cell's result: words but for places, the recipe, the data, the teacher's weights, the program."""
    recipe = Path(cell.words[0]) if not cell.words[0].startswith("-") else None
    said: dict[str, Any] = {"ardor": __version__, "data": asked.images}
    if recipe is not None:
        said["recipe"] = f"{recipe.name} {hashlib.sha256(recipe.read_bytes()).hexdigest()[:16]}"
    words = [word for word in cell.words[recipe is not None :] if not word.startswith(WHERE)]
    pairs = {key: value for key, _, value in (word.removeprefix("--").partition("=") for word in words)}
    said["words"] = {key: _inside(asked.folder, value) for key, value in pairs.items()}
    named = [word.partition("=")[2] for word in cell.words if word.startswith(TEACHERS)]
    if hashes := [weights for name in named if (weights := weights_of(name))]:
        said["teacher's weights"] = hashes
    return said


def _inside(folder: Path, value: str) -> str:
    """A path in the bench's folder, wherever that lies."""
    return f"BENCH{value.removeprefix(str(folder))}" if value.startswith(f"{folder}{os.sep}") else value


def weights_of(name: str, checkpoint: str = "best") -> str:
    """A hash of the weights in a run's folder or a file; "" where there is none."""
    path = Path(name) / f"{checkpoint}.safetensors" if Path(name).is_dir() else Path(name)
    if not path.is_file():
        return ""
    there = path.stat()
    return _hash(path, there.st_mtime_ns, there.st_size)


@cache
def _hash(path: Path, _changed: int, _size: int) -> str:
    if path.suffix == ".safetensors":  # the order of its metadata may differ between equal files
        return checksum(read_tensors(path)[0])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def note_of(asked: TableSpec, cell: Cell) -> Path:
    """The file beside a cell's run."""
    run = asked.run(cell.name)
    return run.with_name(f"{run.name}.yaml")


def lock_of(asked: TableSpec, cell: Cell) -> Path:
    """Held while a cell is made: other processes, on any machine that shares the folder, leave it alone."""
    return note_of(asked, cell).with_suffix(".lock")


def note(asked: TableSpec, cell: Cell, **said: Any) -> None:
    """Write down what made a cell, and how far it is."""
    content = {"made": made_by(asked, cell), "code": code(), **said}
    write_atomic(note_of(asked, cell), lambda temporary: temporary.write_text(to_yaml(content), encoding="utf-8"))


@cache
def code() -> str:
    """A hash of ardor's own files: one version may be many states of the code while it is written."""
    digest = hashlib.sha256()
    package = Path(ardor.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def left(asked: TableSpec, cell: Cell) -> list[EvaluationSpec]:
    """The judgements without a report of the weights that are there. Raises where weights or a report are damaged."""
    return [judgement for judgement in cell.judged if not _is_judged(asked, cell, judgement)]


def _is_judged(asked: TableSpec, cell: Cell, judgement: EvaluationSpec) -> bool:
    path, run = report_path(asked, cell, judgement), asked.run(cell.name)
    if not path.is_file():
        return False
    if judgement.suite == "gap":
        return True
    stat = path.stat()
    weights, version = _judged(path, stat.st_mtime_ns, stat.st_size)
    there = weights_of(str(run), judgement.checkpoint)
    return (weights, version) == (_net(run, judgement.checkpoint, there), VERSION)


@cache
def _judged(path: Path, _changed: int, _size: int) -> tuple[str, str]:
    report = Report.load(path)
    return report.model["hash"], report.versions["ardor"]


@cache
def _net(run: Path, checkpoint: str, _weights: str) -> str:
    return models.hash_of(models.load(run, checkpoint=checkpoint))


def report_path(asked: TableSpec, cell: Cell, judgement: EvaluationSpec) -> Path:
    """Where a judgement's report lies, named as `ardor evaluate` names it, but for a transfer's source."""
    run = asked.run(cell.name)
    if judgement.suite == "gap":
        return run / "variance_gap.json"
    words = [judgement.suite, "linf", as_text(number(asked.eps)).replace("/", "_"), judgement.checkpoint]
    words += [f"limit{judgement.limit}"] if judgement.limit else []
    words += [f"from{source_hash(asked, judgement)}"] if judgement.source else []
    return run / f"report-{'-'.join(words)}.json"


def source_hash(asked: TableSpec, judgement: EvaluationSpec) -> str:
    """The weights that a transfer is from: a cell's, or those of what --transfer_from names."""
    own = asked.run(judgement.source)
    name = str(own) if own.is_dir() else judgement.source
    return weights_of(name) or "".join(c for c in judgement.source if c.isalnum())


def report_of(asked: TableSpec, cell: Cell, judgement: EvaluationSpec) -> Report | None:
    """A judgement's report, if it is there."""
    path = report_path(asked, cell, judgement)
    return Report.load(path) if path.is_file() and judgement.suite != "gap" else None
