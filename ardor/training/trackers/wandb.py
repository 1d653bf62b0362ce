"""Weights & Biases: a run on its server, or in the run's folder where the server cannot be reached."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ardor.storage.imports import require_package

log = logging.getLogger(__name__)

LOGIN_SECONDS = 30
"""Limit of the server's first reply, and of the prompt for a key."""
FINISH_SECONDS = 300
"""Limit of the upload at the end; without it a lost network would block forever."""


class Wandb:
    """A run of the project "ardor", named as its folder; user and server are those of wandb's own settings.

    Parameters
    ----------
    run : Path
        The run's folder.
    config : mapping
        The run's configuration.
    known : str or None
        The server's id of a run that continues.
    first : int
        Not used: the server ignores epochs that it has.
    """

    def __init__(self, run: Path, config: Mapping[str, Any], known: str | None, first: int) -> None:
        self.id: str | None = known or uuid.uuid4().hex[:12]
        wandb = require_package("wandb", "wandb", "--log wandb")
        options = {"name": run.resolve().name, "id": self.id, "dir": str(run), "config": dict(config)}
        settings: dict[str, Any] = {"console": "off", "silent": True}  # the terminal is the caller's
        settings |= {"finish_timeout": FINISH_SECONDS, "finish_timeout_raises": True}
        try:
            online = wandb.Settings(**settings, init_timeout=LOGIN_SECONDS, login_timeout=LOGIN_SECONDS)
            self._run = wandb.init(project="ardor", **options, resume="allow", settings=online)
            cause = "no login" if self._run.disabled else None
        except wandb.errors.Error as error:
            cause = " ".join(str(error).split())
            wandb.teardown()  # the failed start would block the id
        if cause:
            log.warning("wandb keeps this run in %s (%s): send it with wandb sync", run / "wandb", cause)
            offline = wandb.Settings(**settings, mode="offline")
            self._run = wandb.init(project="ardor", **options, settings=offline)

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """One point on each curve."""
        self._run.log(dict(values), step=epoch)

    def close(self, finished: bool) -> None:
        """Mark the run as finished or as interrupted."""
        self._run.finish(exit_code=0 if finished else 1)
