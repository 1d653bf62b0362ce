"""The nets of a demo, several at once: processes of one thread each, for nets whose layers are shorter than a barrier.

A net's state is on disk, so a process that ends costs what it did since its last checkpoint, and no more.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ardor.demo.demo import Job
from ardor.demo.work import make
from ardor.engine.threads import restored, use_threads
from ardor.errors import ConfigError, RunError

MOST = 8
"""Processes that are started at most unless more are asked for: a container may have fewer cores than it shows."""
POLL = 0.2
"""Seconds between two looks at the events of the processes."""

Progress: TypeAlias = Callable[[Job, str], None]
"""Called with a job and what is done now; "" when it is finished."""


class _Stopped(Exception):  # noqa: N818 - no error: it ends a job between two parts
    """The demo ends."""


def cores() -> int:
    """The cores that this process may use, `MOST` at most."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MOST)


def make_all(jobs: Sequence[Job], processes: int, progress: Progress) -> None:
    """Make every net, each after the one that it needs.

    Parameters
    ----------
    processes : at once; 1 is this process alone.

    Raises
    ------
    ConfigError
        For less than one process.
    RunError
        Where a process was killed.
    ArdorError
        What the first job raises that cannot be made; those that run are saved, as they are on Ctrl-C.
    """
    if processes < 1:
        raise ConfigError(f"expected at least one process, got {processes}: type --processes 1")
    if processes == 1:
        with restored():
            use_threads(1)
            for job in jobs:
                make(job, partial(progress, job))
                progress(job, "")
        return
    with _pool(min(processes, len(jobs))) as (pool, events):
        waiting, running = list(jobs), dict[Future[None], Job]()
        by_key = {_key(job): job for job in jobs}
        while waiting or running:
            unfinished = {_key(job) for job in (*waiting, *running.values())}
            for job in [job for job in waiting if (job.folder, job.needs) not in unfinished]:
                waiting.remove(job)
                running[pool.submit(_make, job)] = job
            done, _ = wait(running, timeout=POLL, return_when=FIRST_COMPLETED)
            while not events.empty():
                key, text = events.get()
                progress(by_key[key], text)
            for future in done:
                future.result()
                progress(running.pop(future), "")


def _key(job: Job) -> tuple[Path, str]:
    """What identifies a job in another process: its method may hold layers by now, which cannot be sent."""
    return job.folder, job.name


@contextmanager
def _pool(processes: int) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    """The processes, and the queue of their events. At the end, also of an error, each has saved its state."""
    context = multiprocessing.get_context("spawn")  # on every system: torch's threads do not survive a fork
    events, stop = context.SimpleQueue(), context.Event()
    pool = ProcessPoolExecutor(processes, context, _begin, (events, stop))
    try:
        yield pool, events
    except BrokenProcessPool as error:
        raise RunError(
            "expected every process of the demo to finish, got one that was killed, for want of memory perhaps: type "
            "the same again, which goes on from its last checkpoint, or --processes 1"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}
"""In a process of the pool: its queue of events, and the event that ends it."""


def _begin(events: Any, stop: Any) -> None:
    """Prepare a process of the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_threads(1)
    _worker.update(events=events, stop=stop)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, killed perhaps."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _make(job: Job) -> None:
    """`make` in a process of the pool."""
    events, stop, last = _worker["events"], _worker["stop"], ""

    def tell(text: str) -> None:
        nonlocal last
        if stop.is_set():
            raise _Stopped
        if text != last:  # an attack tells its name with each pass
            events.put((_key(job), text))
        last = text

    try:
        make(job, tell, stop.is_set)
    except _Stopped:
        return
