"""Weights & Biases: a run on its server, or in the run's folder where the server cannot be reached."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ardor.storage.imports import require_package

log = logging.getLogger(__name__)

PATIENCE = 30  # seconds for the server's first answer, and for a person who is asked for a key
FAREWELL = 300  # seconds for what is still to be sent at the end; without a limit a lost network is waited for for ever


class Wandb:
    """A run of the project "ardor", called as its folder; who and where is what `wandb login` and wandb's files say."""

    def __init__(self, run: Path, config: Mapping[str, Any], known: str | None, first: int) -> None:
        self.id: str | None = known or uuid.uuid4().hex[:12]
        wandb = require_package("wandb", "wandb", "--log wandb")
        settings: dict[str, Any] = {"console": "off", "silent": True}  # what is shown is ours to show
        settings |= {"finish_timeout": FAREWELL, "finish_timeout_raises": True}
        said = {"project": "ardor", "name": run.resolve().name, "id": self.id, "dir": str(run), "config": dict(config)}
        try:
            online = wandb.Settings(**settings, init_timeout=PATIENCE, login_timeout=PATIENCE)
            self._run = wandb.init(**said, resume="allow", settings=online)
            cause = "nobody is logged in" if self._run.disabled else None
        except wandb.errors.Error as error:
            cause = " ".join(str(error).split())
            wandb.teardown()  # what did not begin would hold the id
        if cause:
            log.warning("wandb keeps this run in %s (%s): send it with wandb sync", run / "wandb", cause)
            self._run = wandb.init(**said, settings=wandb.Settings(**settings, mode="offline"))

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """One point on each curve; an epoch that the server has already is ignored there."""
        self._run.log(dict(values), step=epoch)

    def close(self, finished: bool) -> None:
        """Finish, or leave it marked as broken off."""
        self._run.finish(exit_code=0 if finished else 1)
