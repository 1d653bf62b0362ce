"""A cell on disk: what made it, how far it is, and who works on it.

cells/NAME/sSEED.yaml    the words that train it, the recipe's hash, ardor's version; later: trained, or failed
cells/NAME/sSEED/        its run, with a report for each judgement
claims.lock              a byte for each cell, locked by the process that works on it; the system frees a dead one's
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import ardor
from ardor.bench.tables import Asked, Cell, Judgement
from ardor.config import as_text, differences, number, read_yaml, to_yaml
from ardor.errors import RunError
from ardor.files import refusal, write_atomic
from ardor.report import Report

State: TypeAlias = Literal["open", "trained", "done", "foreign", "failed"]
WHERE = tuple(
    f"--{key}="
    for key in ("data.root", "data.download", "recipe.device", "teacher.weights", "teacher.root", "teacher.download")
)
"""Words that say where things lie, not what they are: the run's own fingerprint has the hashes."""


def state_of(asked: Asked, cell: Cell) -> tuple[State, str]:
    """How far a cell is, and for a foreign or failed one why."""
    path = note_of(asked, cell)
    if not path.is_file():
        return ("foreign", f"a run without {path.name} beside it") if asked.run(cell.name).exists() else ("open", "")
    said = read_yaml(path)
    found = differences(made_by(asked, cell), said.get("made", {}))
    if found:
        return "foreign", "; ".join(found[:3])
    if "failed" in said:
        return "failed", str(said["failed"])
    if not said.get("trained"):
        return "open", ""
    return ("trained" if left(asked, cell) else "done"), ""


def made_by(asked: Asked, cell: Cell) -> dict[str, Any]:
    """What decides a cell's result: the words but for where things lie, the recipe's content, and the program."""
    recipe = Path(cell.words[0]) if not cell.words[0].startswith("-") else None
    words = [w.replace(str(asked.folder), "BENCH") for w in cell.words if not w.startswith(WHERE)]
    said: dict[str, Any] = {"ardor": ardor.__version__}
    files = [w.partition("=")[2] for w in cell.words if w.startswith(("--teacher=", "--teacher.weights="))]
    if hashes := [weights for file in files if (weights := weights_of(asked, file))]:
        said["teacher's weights"] = hashes
    if recipe is not None:
        said["recipe"] = f"{recipe.name} {hashlib.sha256(recipe.read_bytes()).hexdigest()[:16]}"
        words = words[1:]
    pairs = (word.removeprefix("--").partition("=") for word in words)
    return said | {"words": {key: value for key, _, value in pairs}}


def weights_of(asked: Asked, name: str) -> str:
    """A hash of the file, or of a run's best checkpoint, that a name of the user's means; "" for a cell of our own."""
    path = Path(name) / "best.safetensors" if Path(name).is_dir() else Path(name)
    if Path(name).is_relative_to(asked.folder) or not path.is_file():
        return ""
    there = path.stat()
    return _hash(path, there.st_mtime_ns, there.st_size)


@cache
def _hash(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def note_of(asked: Asked, cell: Cell) -> Path:
    """The file beside a cell's run."""
    run = asked.run(cell.name)
    return run.with_name(f"{run.name}.yaml")


def note(asked: Asked, cell: Cell, **said: Any) -> None:
    """Write down what made a cell, and how far it is."""
    content = {"made": made_by(asked, cell), **said}
    write_atomic(note_of(asked, cell), lambda temporary: temporary.write_text(to_yaml(content), encoding="utf-8"))


def left(asked: Asked, cell: Cell) -> list[Judgement]:
    """The judgements that have no report yet."""
    return [judgement for judgement in cell.judged if not report_path(asked, cell, judgement).is_file()]


def report_path(asked: Asked, cell: Cell, judgement: Judgement) -> Path:
    """Where a judgement's report lies, named as `ardor evaluate` names it, but for a transfer's source."""
    run = asked.run(cell.name)
    if judgement.suite == "gap":
        return run / "variance_gap.json"
    words = [judgement.suite, "linf", as_text(number(asked.eps)).replace("/", "_"), judgement.checkpoint]
    words += [f"limit{judgement.limit}"] if judgement.limit else []
    source = f"{judgement.source}{weights_of(asked, judgement.source)}"
    words += [f"from_{''.join(c if c.isalnum() or c == '-' else '_' for c in source)}"] if judgement.source else []
    return run / f"report-{'-'.join(words)}.json"


def report_of(asked: Asked, cell: Cell, judgement: Judgement) -> Report | None:
    """A judgement's report, if it is there."""
    path = report_path(asked, cell, judgement)
    return Report.load(path) if path.is_file() and judgement.suite != "gap" else None


class Claims:
    """Which cell this process works on: others, on any machine that shares the folder, leave it alone."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "claims.lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.path.open("ab")
        except OSError as error:
            raise refusal(self.path, error) from error

    @contextmanager
    def take(self, cell: str) -> Iterator[bool]:
        """Whether nobody else works on the cell; if so, nobody else will meanwhile. Raises RunError without locks."""
        try:
            import fcntl  # here, for Windows has none
        except ImportError as error:
            raise RunError("expected a system with file locks for a bench, got one without: use Linux") from error
        place = int.from_bytes(hashlib.blake2b(cell.encode(), digest_size=7).digest(), "little")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except (BlockingIOError, PermissionError):
            yield False
            return
        except OSError as error:
            raise RunError(
                f"expected a file system with locks for {self.path.parent}, got {error.strerror or error}: "
                "type --out with a folder on another disk"
            ) from error
        try:
            yield True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def close(self) -> None:
        """Let go of everything."""
        self._file.close()
