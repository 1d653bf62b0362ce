"""run_states: the runs below a folder with their state, best figures and next step, without loading any of them.

Only the ends of files are read, and nothing is written, so that a folder of hundreds of runs is listed at once.
What a result is worth is for `compare`, `check` and `report`, which compare identities; here a report counts as long as
its checkpoint is not newer.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any, TypedDict

from ardor.errors import ArdorError, ConfigError, RunError
from ardor.evaluation.protocol import STRENGTH
from ardor.storage.locks import holder
from ardor.storage.reading import checked, parse_json
from ardor.storage.runs import Run, suite_of
from ardor.storage.tensors import read_metadata

EPOCHS = re.compile(r"^recipe:\n(?: .*\n)*?  epochs: (\d+)$", re.MULTILINE)
HOLDER = re.compile(r"process (\d+) on (\S+)")
HEAD, TAIL = 16_384, 65_536
"""Bytes of the beginning of a report, where its figures are, and of the end of the metrics."""


class _Epoch(TypedDict, total=False):
    """The keys of a line of the metrics that are read."""

    epoch: int
    val_clean: float | None
    val_robust: float | None


class _Share(TypedDict):
    """The keys of a figure that are read."""

    accuracy: float
    n: int


class _Figures(TypedDict):
    """The figures of a report that are read."""

    clean: _Share
    worst_case: _Share


@dataclass(frozen=True)
class RunState:
    """A run as a list shows it.

    Attributes
    ----------
    run : str
        Its folder.
    state : str
        damaged, training, stopped or finished.
    epoch, epochs : int
        Finished epochs, and those of its configuration.
    held : str
        The process that trains in the folder; "" for none.
    val_clean, val_robust : float or None
        Validation accuracies of the best epoch, in [0, 1].
    suite : str
        The strongest suite that has judged the best checkpoint as it is; "" for none.
    clean, robust : float or None
        Accuracies under it; robust is the worst case.
    n : int
        Its images.
    exported : list of str
        Exported files.
    note : str
        Why a run is damaged.
    next : str
        The command to type next; "" where there is none.
    """

    run: str
    state: str
    epoch: int = 0
    epochs: int = 0
    held: str = ""
    val_clean: float | None = None
    val_robust: float | None = None
    suite: str = ""
    clean: float | None = None
    robust: float | None = None
    n: int = 0
    exported: list[str] = field(default_factory=list)
    note: str = ""
    next: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The values by name."""
        return asdict(self)

    def __str__(self) -> str:
        of = f"epoch {self.epoch}/{self.epochs}" if self.epochs else ""
        parts = [f"{self.state} {of}".strip() if self.state != "finished" else f"finished, {self.epoch} epochs"]
        parts += [f"judged by {self.suite}"] if self.suite else []
        parts += ["exported"] if self.exported else []
        parts += [self.held] if self.held else []
        return ", ".join([*parts, *([self.note] if self.note else [])])


def run_states(folder: str | Path = "runs") -> list[RunState]:
    """The runs in a folder and in the folders below it, by name; a folder that is a run is that run.

    Raises
    ------
    RunError
        Where there is no such folder.
    """
    if not Path(folder).is_dir():
        raise RunError(f"expected a folder of runs, got no {folder}: type ardor train first, or name another folder")
    return [_state(Run(path)) for path in _runs(Path(folder))]


def _runs(folder: Path) -> Iterator[Path]:
    """The folders with a config.yaml, and those of runs that lost theirs; nothing inside a run is one."""
    names = set(os.listdir(folder)) if os.access(folder, os.R_OK | os.X_OK) else set()
    run = Run(folder)
    if not names.isdisjoint(path.name for path in (run.config_file, run.metrics_file, run.state)):
        yield folder
        return
    for name in sorted(names):
        if not name.startswith(".") and (folder / name).is_dir() and not (folder / name).is_symlink():
            yield from _runs(folder / name)


def _state(run: Run) -> RunState:
    """The state of a run. A damaged file is told, never raised: the others are listed all the same."""
    known: dict[str, Any] = {"run": str(run.folder)}
    try:
        last, best = _metrics(run)
        epochs, last_epoch = _epochs(run), int(last.get("epoch", 0))
        known |= {"epoch": last_epoch, "epochs": epochs, "held": _held(run)}
        known |= {f"val_{key}": best.get(f"val_{key}") for key in ("clean", "robust")}
        _require_checkpoints(run, last_epoch)
        known |= _judged(run)
    except (OSError, ValueError, ArdorError) as error:
        return RunState(**known, state="damaged", note=" ".join(str(error).split()))
    known["exported"] = [path.name for path in run.exported_files()]
    done = last_epoch >= epochs or bool(last.get("stopped"))
    state = "training" if known["held"] else "finished" if done else "stopped"
    return RunState(**known, state=state, next=_next(run, state, known))


def _epochs(run: Run) -> int:
    config = run.config_file
    match = EPOCHS.search(config.read_text(encoding="utf-8")) if run.exists else None
    if match is None:
        raise ValueError(f"{config} without recipe.epochs" if run.exists else f"no {config}")
    return int(match[1])


def _metrics(run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """The last record, and the last that was the best; a line that a kill cut short is left out."""
    if not run.metrics_file.is_file():
        return {}, {}
    with run.metrics_file.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        lines = file.read().rpartition(b"\n")[0].split(b"\n")
    last = _record(lines[-1], run)
    best = next((line for line in reversed(lines) if b'"best": true' in line), b"")
    if not best and len(lines) < last.get("epoch", 0):  # before the part that was read
        with run.metrics_file.open("rb") as file:
            best = next((line for line in reversed(file.read().split(b"\n")) if b'"best": true' in line), b"")
    return last, _record(best, run)


def _record(line: bytes, run: Run) -> dict[str, Any]:
    if not line:
        return {}
    record: dict[str, Any] = checked(parse_json(line, run.metrics_file), _Epoch, run.metrics_file)
    return record


def _held(run: Run) -> str:
    """The process in the lock of the training, where it lives or is on another machine; the lock is not touched."""
    text = holder(run.lock()) if run.lock().is_file() else ""
    match = HOLDER.search(text)
    if match is None or (match[2] == platform.node() and not _lives(int(match[1]))):
        return ""
    return f"held by {match[0]}"


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OverflowError:  # a number that no process has
        return False
    except OSError:  # of another user
        return True
    return True


def _require_checkpoints(run: Run, epoch: int) -> None:
    """Raise CheckpointError for weights that are cut short or foreign, and ValueError where all are gone."""
    names = run.checkpoints()
    if epoch and not names:
        raise ValueError("no checkpoint of its epochs")
    for name in names:
        read_metadata(run.checkpoint(name))


def _judged(run: Run) -> dict[str, Any]:
    """The figures of the strongest report of the best checkpoint that is not older than it."""
    best = run.checkpoint("best") if run.checkpoint("best").is_file() else run.checkpoint("last")
    if not best.is_file():
        return {}
    since, found = best.stat().st_mtime, []
    for path in run.reports():
        words = path.stem.split("-")
        if best.stem not in words[2:] or suite_of(path) not in STRENGTH or path.stat().st_mtime < since:
            continue
        if {"val", "train"}.isdisjoint(words) and (figures := _figures(path)):
            n = figures["worst_case"]["n"]
            found.append((STRENGTH.index(suite_of(path)), -n, path.name, figures))
    if not found:
        return {}
    rank, negative, _, figures = min(found, key=lambda one: one[:3])
    accuracies = {key: figures[of]["accuracy"] for key, of in (("clean", "clean"), ("robust", "worst_case"))}
    return {"suite": STRENGTH[rank], "n": -negative, **accuracies}


def _figures(path: Path) -> dict[str, Any]:
    """The figures at the beginning of a report; empty where there are none."""
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(HEAD)
    _, key, rest = head.partition('"figures": ')
    if not key:
        return {}
    try:
        _, end = json.JSONDecoder().raw_decode(rest)
        figures: dict[str, Any] = checked(parse_json(rest[:end], path), _Figures, path)
    except (ValueError, RecursionError, ConfigError):
        return {}
    return figures


def _next(run: Run, state: str, known: dict[str, Any]) -> str:
    """The command that a run waits for."""
    place = quote(str(run.folder))
    if state in ("training", "damaged"):
        return ""
    if state == "stopped":
        return f"ardor train {place}"
    if not known.get("suite"):
        return f"ardor evaluate {place}"
    if known["suite"] not in ("autoattack", "plus", "rand"):
        return f"ardor evaluate {place} --suite autoattack"
    if not known["exported"]:
        return f"ardor export {place}"
    return f"ardor push {place}" if run.comparison().is_file() else f"ardor deploy {place}"
