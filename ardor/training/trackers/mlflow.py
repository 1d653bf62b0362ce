"""MLflow: a run in the tracking store of its own configuration, a server or a file."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ardor.storage.imports import require_package

LONGEST = 500  # characters of a parameter that every store accepts


class MLflow:
    """A run of the experiment "ardor", named as its folder, with the config as parameters method.alpha and so on.

    Parameters
    ----------
    run : Path
        The run's folder.
    config : mapping
        The run's configuration.
    known : str or None
        The server's id of a run that continues.
    first : int
        The first epoch that is sent.
    """

    def __init__(self, run: Path, config: Mapping[str, Any], known: str | None, first: int) -> None:
        self._mlflow = require_package("mlflow", "mlflow", "--log mlflow")
        self._client = self._mlflow.MlflowClient()
        self.id: str | None = known
        if known:
            self._client.update_run(known, status="RUNNING")
            return
        existing = self._client.get_experiment_by_name("ardor")
        experiment = existing.experiment_id if existing else self._client.create_experiment("ardor")
        self.id = self._client.create_run(experiment, run_name=run.resolve().name).info.run_id
        Param = self._mlflow.entities.Param
        params = [Param(_plain(key), value[:LONGEST]) for key, value in flat(config).items()]
        for start in range(0, len(params), 100):  # the limit of one request
            self._client.log_batch(self.id, params=params[start : start + 100])

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """One point on each curve."""
        Metric, now = self._mlflow.entities.Metric, int(1000 * time.time())
        metrics = [Metric(_plain(name), value, now, epoch) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self, finished: bool) -> None:
        """Mark the run as finished or as interrupted."""
        self._client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A config as dotted keys with their values as text."""
    result: dict[str, str] = {}
    for key, value in config.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": str(value)}
    return result


def _plain(name: str) -> str:
    """A name with the characters that MLflow accepts."""
    return re.sub(r"[^\w\-. /]", "_", name)
