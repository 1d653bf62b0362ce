"""TensorBoard: event files in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ardor.storage.config import to_yaml


class TensorBoard:
    """Scalars, and the config as a text, in RUN/tensorboard.

    Parameters
    ----------
    run : Path
        The run's folder.
    config : mapping
        The run's configuration.
    known : str or None
        Not used: there is no server.
    first : int
        The first epoch that is sent; points of it and later ones are replaced.
    """

    id: str | None = None

    def __init__(self, run: Path, config: Mapping[str, Any], known: str | None, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=0 if first == 1 else first)
        if first == 1:
            lines = to_yaml(config).splitlines()
            self._writer.add_text("config", "\n".join(f"    {line}" for line in lines), 0)  # as Markdown's code

    def write(self, epoch: int, values: Mapping[str, float]) -> None:
        """One point on each curve, flushed, so that a kill loses none."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self._writer.close()
