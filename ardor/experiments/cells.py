"""The folder of a cell: its state, and what it was made from.

cells/NAME/sSEED.yaml    the config, ardor's version, hashes of the data and the teacher; later: trained, or failed
cells/NAME/sSEED.lock    held by the process that makes the cell; the system releases a dead one's
cells/NAME/sSEED/        its run, with a report for each evaluation
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypedDict

from ardor import models
from ardor.attacks.threat import Linf
from ardor.errors import ArdorError
from ardor.evaluation.report import Report
from ardor.experiments.cell import MEASURED, Cell, EvaluationSpec, Setting
from ardor.models.identity import is_of
from ardor.storage.code import digest_of
from ardor.storage.config import as_text, differences, read_yaml, to_yaml
from ardor.storage.files import write_text
from ardor.storage.reading import checked
from ardor.storage.runs import Run
from ardor.storage.tensors import checksum, read_tensors
from ardor.training.job import method_of, recipe_of
from ardor.types import Threat
from ardor.version import __version__

State: TypeAlias = Literal["open", "trained", "done", "foreign", "failed"]
LOCATIONS = ("data.root", "recipe.device", "teacher.weights", "teacher.root")
"""Keys of where things are, not of what they are: hashes of the data and of the teacher's weights stand beside."""


def state_of(spec: Setting, cell: Cell) -> tuple[State, str]:
    """The state of a cell, and for a foreign or failed one the reason."""
    path, run = note_of(spec, cell), spec.run(cell.name)
    if not run.exists():
        return "open", ""
    if not path.is_file():
        return "foreign", f"a run without {path.name} beside it"
    try:
        note = read_note(path)
        origin = note.get("made", {})
        if "words" in origin:
            return "foreign", f"{path.name} is of an earlier ardor, with the words of a command for a config"
        if changes := differences(made_by(spec, cell), origin):
            return "foreign", "; ".join(changes[:3])
        if "failed" in note:
            return "failed", note["failed"]
        if not note.get("trained"):
            return "open", ""
        return ("trained" if pending(spec, cell) else "done"), ""
    except (ArdorError, ValueError, TypeError) as error:
        return "foreign", f"damaged: {error}"


def made_by(spec: Setting, cell: Cell) -> dict[str, Any]:
    """What determines a cell's result: version, data, config without locations, and the teacher's weights."""
    config = portable(cell.config, spec.folder)
    origin = {"ardor": __version__, "data": spec.images, "config": config}
    if hashes := _teachers_weights(cell.config.get("teacher", {})):
        origin["teacher's weights"] = hashes
    if named := list(_files_of_code(cell.config)):
        origin["code"] = {file: digest_of(Path(file).absolute()) for file in named}
    return origin


def _teachers_weights(config: Mapping[str, Any]) -> list[str]:
    """A hash of the weights of the teacher, or of each, from a run or a file."""
    parts = [config[key] for key in ("natural", "robust") if config.get(key)]
    nets = [config, *(part if isinstance(part, Mapping) else {"name": part} for part in parts)]
    named = [(net[key], net.get("checkpoint", "best")) for net in nets for key in ("name", "weights") if net.get(key)]
    return [digest for name, checkpoint in named if (digest := weights_of(name, checkpoint))]


def _files_of_code(config: Any) -> Iterator[str]:
    """The files of every `file.py:Name` in a config, at any depth: an optimiser's, a schedule's, a base method's."""
    if isinstance(config, Mapping):
        for part in config.values():
            yield from _files_of_code(part)
    elif isinstance(config, str) and ".py:" in config:
        yield config.rpartition(":")[0]


def portable(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A config without locations; paths in `folder` begin with BENCH."""
    return {
        key: {name: _portable(value, folder) for name, value in part.items() if f"{key}.{name}" not in LOCATIONS}
        for key, part in config.items()
    }


def _portable(value: Any, folder: Path) -> Any:
    inside = isinstance(value, str) and value.startswith(f"{folder}{os.sep}")
    return f"BENCH{value.removeprefix(str(folder))}" if inside else value


def weights_of(name: str, checkpoint: str = "best") -> str:
    """A hash of the weights in a run's folder or a file; "" where there is none."""
    path = Run(name).checkpoint(checkpoint) if Path(name).is_dir() else Path(name)
    return _hash(*_stamp(path)) if path.is_file() else ""


def _stamp(path: Path) -> tuple[Path, int, int]:
    """A file with its time and size, as a key of what was read from it."""
    stat = path.stat()
    return path, stat.st_mtime_ns, stat.st_size


@cache
def _hash(path: Path, _changed: int, _size: int) -> str:
    if path.suffix == ".safetensors":  # the order of its metadata may differ between equal files
        return checksum(read_tensors(path)[0])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def note_of(spec: Setting, cell: Cell) -> Path:
    """The file beside a cell's run."""
    return spec.run(cell.name).with_suffix(".yaml")


class Note(TypedDict, total=False):
    """What a cell is made from, and its progress."""

    made: dict[str, Any]
    code: str
    trained: bool
    failed: str
    epochs: int
    images: int
    seconds: float


def read_note(path: Path) -> Note:
    """A cell's note. Raises ConfigError where it is damaged."""
    note: Note = checked(read_yaml(path), Note, path)
    return note


def write_note(spec: Setting, cell: Cell, **progress: Any) -> None:
    """Write what a cell is made from, and its progress."""
    content = {"made": made_by(spec, cell), "code": code_hash(), **progress}
    write_text(note_of(spec, cell), to_yaml(content))


@cache
def code_hash() -> str:
    """A hash of ardor's files: during development one version has many states."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def pending(spec: Setting, cell: Cell) -> list[EvaluationSpec]:
    """The evaluations without a report of the present weights by this version. Raises where a file is damaged."""
    return [evaluation for evaluation in cell.evaluations if not _is_current(spec, cell, evaluation)]


def _is_current(spec: Setting, cell: Cell, evaluation: EvaluationSpec) -> bool:
    path, run = report_path(spec, cell, evaluation), spec.run(cell.name)
    if not path.is_file() or evaluation.suite in MEASURED:
        return path.is_file()
    return _is_of(run, evaluation.checkpoint, weights_of(str(run), evaluation.checkpoint), *_stamp(path))


@cache
def _is_of(run: Path, checkpoint: str, _weights: str, path: Path, _changed: int, _size: int) -> bool:
    """Whether a report is by this version of the net that the run's checkpoint has now."""
    report = Report.load(path)
    current = report.versions.get("ardor") == __version__
    return current and is_of(report.model, models.load(run, checkpoint=checkpoint))


def report_path(spec: Setting, cell: Cell, evaluation: EvaluationSpec) -> Path:
    """The file of a report, named as `ardor evaluate` names it, with a hash of the source of a transfer attack."""
    run = Run(spec.run(cell.name))
    if evaluation.suite in MEASURED:
        return {"gap": run.variance_gap, "passes": run.passes}[evaluation.suite]
    threat = threat_of(cell)
    words = type(threat).__name__.lower(), as_text(threat.eps).replace("/", "_")
    parts = [evaluation.suite, *words, evaluation.checkpoint]
    parts += [f"limit{evaluation.limit}"] if evaluation.limit else []
    if evaluation.source:
        weights = weights_of(str(source_of(spec, evaluation)))
        parts += [f"from{weights or ''.join(filter(str.isalnum, evaluation.source))}"]
    return run.report(parts)


def threat_of(cell: Cell) -> Threat:
    """The threat that a cell's net is trained and evaluated under."""
    method, recipe = method_of(cell.config), recipe_of(cell.config)
    attacks: tuple[Any, ...] = getattr(method, "attack", None), recipe.val_attack
    return next((attack.threat for attack in attacks if hasattr(attack, "threat")), Linf())


def source_of(spec: Setting, evaluation: EvaluationSpec) -> Path:
    """The run or file of the net that a transfer attack starts from: a cell's, else one that the user names."""
    run = spec.run(evaluation.source)
    return run if run.is_dir() else Path(evaluation.source)


def report_of(spec: Setting, cell: Cell, evaluation: EvaluationSpec) -> Report | None:
    """The report of an evaluation; None before there is one, and for `MEASURED`."""
    path = report_path(spec, cell, evaluation)
    return Report.load(path) if path.is_file() and evaluation.suite not in MEASURED else None
