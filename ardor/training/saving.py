"""When the state is saved inside an epoch, and when training stops there."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

from ardor.engine import distributed
from ardor.errors import ConfigError
from ardor.storage.runs import Run
from ardor.training import checkpoint
from ardor.training.state import TrainState

Every: TypeAlias = int | timedelta
"""Steps, or time, from one save to the next."""

TEN_MINUTES = timedelta(minutes=10)


class Saving:
    """Saves a run's state inside an epoch, every so often and before a stop.

    Parameters
    ----------
    run : Run or None
        None: nothing is saved.
    every : int or timedelta or None
        Steps, or time, from one save to the next; None is the end of the epoch and a stop alone.
    stop : callable or None
        Whether to stop.

    Raises
    ------
    ConfigError
        For an `every` of nothing.
    """

    def __init__(
        self, run: Run | None, state: TrainState, every: Every | None, stop: Callable[[], bool] | None
    ) -> None:
        if every is not None and (every.total_seconds() <= 0 if isinstance(every, timedelta) else every < 1):
            raise ConfigError(f"expected save_every of 1 step or more, or a time, got {every}: type --save_every 1000")
        self.run, self.state, self.every, self.stop = run, state, every, stop
        self.done, self.step, self.clock = state.done, state.step, time.monotonic()

    def stops(self) -> bool:
        """Save the state if it is due; whether to stop. Every process asks after the same step, and one is enough."""
        if self.done != self.state.done:  # the end of an epoch has saved it
            self.done, self.step, self.clock = self.state.done, 0, time.monotonic()
        stops = self.stop is not None and self.stop()
        asked = distributed.total({"save": float(stops or self._is_due()), "stop": float(stops)})
        self.step = self.state.step
        if asked["save"] and self.run is not None:
            checkpoint.save_step(self.run, self.state)
            self.clock = time.monotonic()
        return asked["stop"] > 0

    def _is_due(self) -> bool:
        if isinstance(self.every, timedelta):
            return time.monotonic() - self.clock >= self.every.total_seconds()
        return self.every is not None and self.state.step // self.every > self.step // self.every
