"""The engine of cells on Ray: a task for each cell, on this machine or on all machines of a cluster that runs.

The machines share the folder of the cells and the working folder, under the same paths. Ray starts its own worker
processes; a cell whose worker dies is started again, and goes on from its last checkpoint.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from ardor.errors import ConfigError, spelled, spelling
from ardor.experiments.cell import Cell, Cells
from ardor.experiments.cells import State
from ardor.experiments.worker import ProgressCallback, make
from ardor.storage.imports import cause_of, require_package

TRIES = 3
"""How often a cell is started whose worker dies."""
USAGE = "RAY_USAGE_STATS_ENABLED"


class Started(NamedTuple):
    """A cell that runs, and how often it was started."""

    table: Cells
    cell: Cell
    progress: ProgressCallback
    tries: int


@contextmanager
def on_ray(gpus: float | None = None, cpus: float = 1.0) -> Iterator[RayEngine]:
    """An engine on the Ray that this process uses, else on a cluster that runs, else on a local one until the end.

    Parameters
    ----------
    gpus : of each cell; less than 1 is shared. None is one where there are any, and none for a cell on the CPU.
    cpus : of each cell.

    Raises
    ------
    ConfigError
        Without the package, and for more than the cluster has.
    """
    ray = require_package("ray", "ray", "--on ray")
    ours = not ray.is_initialized()
    if ours:
        _connect(ray)
    engine = None
    try:
        engine = RayEngine(ray, gpus, cpus)
        yield engine
    finally:
        if engine is not None:
            engine.close()
        if ours:
            ray.shutdown()


def _connect(ray: Any) -> None:
    """Connect to the cluster of `ray start`, else start one, without reports of its use, a dashboard or its logs."""
    before, handler = os.environ.get(USAGE), signal.getsignal(signal.SIGTERM)
    os.environ[USAGE] = "0"  # read as Ray starts; it has no argument for it
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        raise ConfigError(f"expected Ray to start for --on ray, got {cause_of(error)}: repair it") from error
    finally:
        if before is None:
            del os.environ[USAGE]
        else:
            os.environ[USAGE] = before
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's would end the process without a sentence


class RayEngine:
    """An engine on a Ray that is connected: see `on_ray`."""

    def __init__(self, ray: Any, gpus: float | None, cpus: float) -> None:
        queue = require_package("ray.util.queue", "ray", "--on ray")
        self._ray, self._running = ray, dict[Any, Started]()
        total = ray.cluster_resources()
        for name, each in (("gpus", gpus or 0.0), ("cpus", cpus)):
            most = total.get(name[:-1].upper(), 0)
            if not 0 <= each <= most or (each > 1 and each % 1):
                raise ConfigError(
                    f"expected --{name}_per_cell between 0 and {most:g}, as Ray has, and whole above 1, got {each:g}: "
                    "type another number, or start Ray on more machines first"
                )
        self._gpus, self._cpus = gpus, cpus
        self._any = total.get("GPU", 0) > 0
        shares = [total[key] / each for key, each in (("CPU", cpus), ("GPU", gpus or float(self._any))) if each]
        self.slots = max(1, int(min(shares, default=1) + 1e-6))
        self._events = queue.Queue(actor_options={"num_cpus": 0})
        self._task = ray.remote(_make)

    def start(self, table: Cells, cell: Cell, progress: ProgressCallback) -> None:
        """Submit a cell."""
        self._submit(Started(table, cell, progress, 1))

    def _submit(self, started: Started) -> None:
        on_cpu = (started.cell.config.get("recipe") or {}).get("device") == "cpu"
        gpus = float(self._any and not on_cpu) if self._gpus is None else self._gpus
        # Its own retries are without a limit in some cases, and say nothing.
        task = self._task.options(num_cpus=self._cpus, num_gpus=gpus, max_retries=0, name=started.cell.name)
        self._running[task.remote(os.getcwd(), started.table, started.cell, self._events)] = started

    def wait(self) -> tuple[Cell, State, str]:
        """The next finished cell; one whose worker died is submitted again, at most `TRIES` times in all."""
        while True:
            ready, _ = self._ray.wait(list(self._running), timeout=0.5)
            self._pass_on()
            for ref in ready:
                started = self._running.pop(ref)
                if result := self._result(ref, started):
                    return started.cell, *result

    def _result(self, ref: Any, started: Started) -> tuple[State, str] | None:
        """What `make` returned; None where the cell is started again."""
        errors = self._ray.exceptions
        try:
            state, reason = self._ray.get(ref)
            return state, spelled(reason)
        except errors.RayTaskError as error:
            return "failed", cause_of(error.cause)
        except errors.RayError as error:
            if started.tries == TRIES:
                return "failed", f"its worker died {TRIES} times, last with {cause_of(error)}"
            text = f"its worker died (try {started.tries} of {TRIES}): it goes on from its last checkpoint"
            started.progress(started.cell, text)
            self._submit(started._replace(tries=started.tries + 1))
            return None

    def _pass_on(self) -> None:
        """Pass the events of the workers on."""
        by_name = {started.cell.name: started for started in self._running.values()}
        for name, event in self._events.get_nowait_batch(self._events.qsize()):
            if name in by_name:
                by_name[name].progress(by_name[name].cell, event)

    def close(self) -> None:
        """End the workers of cells that run; their state is on disk."""
        for ref in self._running:
            with suppress(Exception):  # of a cluster that is gone
                self._ray.cancel(ref, force=True)
        with suppress(Exception):
            self._events.shutdown(force=True)


def _make(folder: str, table: Cells, cell: Cell, events: Any) -> tuple[State, str]:
    """`make` in a worker; messages come as they are written, for the coordinator to spell."""
    os.chdir(folder)
    with spelling(lambda text: text):
        return make(table, cell, lambda cell, event: events.put((cell.name, event)))
