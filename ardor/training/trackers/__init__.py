"""Watching a run: what its epochs did, sent to TensorBoard, W&B or MLflow. metrics.jsonl holds the same in any case.

log.json in the run's folder keeps, for each log, how far it has come and what its server calls the run. So a run that
goes on also goes on there, and what was not sent is sent then, out of metrics.jsonl. Nothing is written before the
run's first epoch is done: until then it may still be refused, and its folder is not ours.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ardor.errors import ConfigError
from ardor.storage.files import write_atomic
from ardor.storage.imports import nearest, require_package
from ardor.storage.runs import Run, json_mapping
from ardor.training.trackers.mlflow import MLflow
from ardor.training.trackers.tensorboard import TensorBoard
from ardor.training.trackers.wandb import Wandb

if TYPE_CHECKING:
    from ardor.training.epoch import EpochRecord


log = logging.getLogger(__name__)

LOGS: dict[str, type[TensorBoard] | type[Wandb] | type[MLflow]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
}


def log_to(words: Sequence[str], run: Path, config: Mapping[str, Any]) -> Sink:
    """Where the epochs of a run are to be sent: any of tensorboard, wandb, mlflow; none is nowhere.

    run: the folder that `epochs` is given. config: everything that decides the result, as in its config.yaml. A word
    may hold several with commas. Raises ConfigError for a word that is none of these, or whose package is not there.
    """
    asked = list(dict.fromkeys(part.strip() for word in words for part in word.split(",") if part.strip()))
    for word in asked:
        if word not in LOGS:
            raise ConfigError(
                f'expected {", ".join(LOGS)} for --log, got "{word}"{nearest(word, LOGS)}: type --log tensorboard'
            )
        if getattr(require_package(word, word, f"--log {word}"), "__file__", None) is None:
            # a mere folder of that name, such as those the packages themselves leave behind, can be imported too
            raise ConfigError(f'expected the package {word} for --log, got a folder: type pip install "ardor[{word}]"')
    return Sink(asked, run, config)


class Log(Protocol):
    """One of the three, open for a run that goes on with epoch `first`; id is what its server calls the run."""

    id: str | None

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """Send the scalars of an epoch."""

    def close(self, finished: bool) -> None:
        """Say that this process sends no more, and whether the run is complete."""


class Sink:
    """Sends epochs to logs. One that fails is left alone after a single warning: a log never ends a run."""

    def __init__(self, words: Sequence[str], run: Path, config: Mapping[str, Any]) -> None:
        self._words, self._run, self._config = list(words), Run(run), config
        self._open: dict[str, Log] = {}
        self._finished = False

    def record(self, epoch: EpochRecord) -> None:
        """Send what an epoch did; the first time, the epochs before it that a log has missed as well."""
        self._finished = epoch.epoch >= epoch.epochs
        for word in list(self._words):
            with self._guarded(word):
                if word not in self._open:
                    self._begin(word, epoch.epoch)
                self._send(word, epoch.epoch, asdict(epoch))

    def close(self) -> None:
        """Let go of all logs."""
        for word in list(self._open):
            with self._guarded(word):
                self._open.pop(word).close(self._finished)

    def _begin(self, word: str, epoch: int) -> None:
        kept = _kept(self._run).get(word, {})
        first = min(kept.get("epoch", 0) + 1, epoch)
        self._open[word] = LOGS[word](self._run.folder, self._config, kept.get("id"), first)
        self._keep(word, first - 1)  # before anything is sent: a kill must not leave a second run on the server
        for line in self._run.metrics():
            if first <= line["epoch"] < epoch:
                self._send(word, line["epoch"], line)

    def _send(self, word: str, epoch: int, record: Mapping[str, Any]) -> None:
        self._open[word].write(epoch, scalars(record))
        self._keep(word, epoch)

    def _keep(self, word: str, epoch: int) -> None:
        text = json.dumps(_kept(self._run) | {word: {"id": self._open[word].id, "epoch": epoch}})
        write_atomic(self._run.log, lambda temporary: temporary.write_text(f"{text}\n", encoding="utf-8"))

    @contextmanager
    def _guarded(self, word: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._words.remove(word)
            self._open.pop(word, None)
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("%s is left out from here on (%s); %s has all", word, cause, self._run.metrics_file)


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """What of an epoch, as metrics.jsonl has it, can be drawn as curves, by name; what was not measured is left out."""
    named = {f"terms/{name}": value for name, value in record["terms"].items()}
    named |= {key: record.get(key) for key in ("loss", "lr", "seconds", "images_per_second")}
    named |= {f"{of}/{key}": record.get(f"{of}_{key}") for of in ("val", "averaged") for key in ("clean", "robust")}
    return {key: float(value) for key, value in named.items() if value is not None}


def _kept(run: Run) -> dict[str, Any]:
    return json_mapping(run.log.read_text(encoding="utf-8", errors="replace")) if run.log.is_file() else {}
