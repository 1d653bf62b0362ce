"""Trackers of a run: its epochs in TensorBoard, W&B or MLflow. metrics.jsonl has the same values in any case.

log.json in the run's folder holds, for each tracker, the last epoch that was sent and the server's id of the run. So a
resumed run continues there, and epochs that were not sent are sent from metrics.jsonl. Nothing is written before the
first epoch is finished: until then the folder may still be refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

from ardor.errors import ConfigError
from ardor.storage.files import write_text
from ardor.storage.imports import nearest, require_package
from ardor.storage.reading import checked, read_json
from ardor.storage.runs import Run
from ardor.training.epoch import EpochRecord
from ardor.training.trackers.mlflow import MLflow
from ardor.training.trackers.tensorboard import TensorBoard
from ardor.training.trackers.wandb import Wandb

__all__ = ["Sink", "scalars"]

log = logging.getLogger(__name__)

Tracker: TypeAlias = TensorBoard | Wandb | MLflow
TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": MLflow}


class _Entry(TypedDict, total=False):
    """What log.json has of a tracker."""

    id: Any
    epoch: int


class Sink:
    """Sends the epochs of a run to trackers. A tracker that fails is dropped after one warning and never ends a run.

    Parameters
    ----------
    names : sequence of str
        Any of tensorboard, wandb, mlflow; one text may hold several, with commas.
    run : Path
        The run's folder.
    config : mapping
        The run's configuration, as in config.yaml.

    Raises
    ------
    ConfigError
        For another name, or a package that is not installed.
    """

    def __init__(self, names: Sequence[str], run: Path, config: Mapping[str, Any]) -> None:
        self._names = list(dict.fromkeys(part.strip() for name in names for part in name.split(",") if part.strip()))
        self._run, self._config = Run(run), config
        self._open: dict[str, Tracker] = {}
        self._finished = False
        for name in self._names:
            _require(name)

    def record(self, epoch: EpochRecord) -> None:
        """Send an epoch; at first also the earlier epochs that a tracker has missed."""
        self._finished = epoch.epoch >= epoch.epochs or epoch.stopped
        for name in list(self._names):
            with self._guarded(name):
                if name not in self._open:
                    self._start(name, epoch.epoch)
                self._send(name, asdict(epoch))

    def close(self) -> None:
        """Close all trackers."""
        for name in list(self._open):
            with self._guarded(name):
                self._open.pop(name).close(self._finished)

    def _start(self, name: str, epoch: int) -> None:
        entry = self._entries().get(name, {})
        first = min(entry.get("epoch", 0) + 1, epoch)
        self._open[name] = TRACKERS[name](self._run.folder, self._config, entry.get("id"), first)
        self._save(name, first - 1)  # before the first epoch: a kill must not leave a second run on the server
        for line in self._run.metrics():
            if first <= line["epoch"] < epoch:
                self._send(name, line)

    def _send(self, name: str, record: Mapping[str, Any]) -> None:
        self._open[name].write(record["epoch"], scalars(record))
        self._save(name, record["epoch"])

    def _save(self, name: str, epoch: int) -> None:
        text = json.dumps(self._entries() | {name: {"id": self._open[name].id, "epoch": epoch}})
        write_text(self._run.log, f"{text}\n")

    def _entries(self) -> dict[str, Any]:
        """The content of log.json; empty where it is missing or damaged."""
        try:
            return dict(checked(read_json(self._run.log), dict[str, _Entry], self._run.log))
        except ConfigError:
            return {}

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._names.remove(name)
            self._open.pop(name, None)
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            log.warning("%s is left out from here on (%s); %s has all", name, cause, self._run.metrics_file)


def _require(name: str) -> None:
    if name not in TRACKERS:
        raise ConfigError(
            f'expected {", ".join(TRACKERS)} for --log, got "{name}"{nearest(name, TRACKERS)}: type --log tensorboard'
        )
    if getattr(require_package(name, name, f"--log {name}"), "__file__", None) is None:
        # a folder of that name, such as the packages write themselves, can be imported too
        raise ConfigError(f'expected the package {name} for --log, got a folder: type pip install "ardor[{name}]"')


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of a line of metrics.jsonl by name, without those that were not measured."""
    named = {f"terms/{name}": value for name, value in record["terms"].items()}
    named |= {key: record.get(key) for key in ("loss", "lr", "seconds", "images_per_second")}
    named |= {f"{of}/{key}": record.get(f"{of}_{key}") for of in ("val", "averaged") for key in ("clean", "robust")}
    return {key: float(value) for key, value in named.items() if value is not None}
