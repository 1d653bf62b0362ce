"""Lock files: one holder at a time among all processes and threads that share the folder, freed when a process dies."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from filelock import FileLock, Timeout

from ardor.errors import RunError
from ardor.storage.files import make_folder, refusal

log = logging.getLogger(__name__)

FIRST, EVERY = 2.0, 60.0
"""Seconds of waiting before the first warning, and from one to the next."""


class Waiting:
    """Warnings of what a loop waits for: call it in each turn, with a function and its arguments that name it."""

    def __init__(self) -> None:
        self._next = time.monotonic() + FIRST

    def __call__(self, what: Callable[..., str], *args: object) -> None:
        """Log a warning, if one is due."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            log.warning("waiting for %s", what(*args))


@contextmanager
def locked(path: Path, wait: bool = True, required: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`, which is created where it is missing and stays; its content names the holder.

    Parameters
    ----------
    path : Path
        The lock file.
    wait : bool
        Wait for the holder, with a warning each minute; otherwise yield False where there is one.
    required : bool
        Raise where the file system has no locks; otherwise continue with a warning.

    Yields
    ------
    bool
        Whether the lock is held.

    Raises
    ------
    RunError
        Where the file cannot be written, or the file system has no locks.
    """
    try:
        make_folder(path.parent)
        path.touch()
    except OSError as error:
        raise refusal(path, error) from error
    # filelock's fallback, a file that exists while it is held, would outlive a process that is killed
    lock = FileLock(path, poll_interval=0.001, fallback_to_soft=False)
    waiting = Waiting()
    acquired = False
    try:
        while not acquired:
            try:
                lock.acquire(timeout=0.2 if wait else 0)
                acquired = True
            except Timeout:
                if not wait:
                    break
                waiting(lambda: f"{path}, held by {holder(path)}")
    except OSError as error:
        problem = f"expected a file system with locks for {path.parent}, got {error.strerror or error}"
        if required:
            raise RunError(f"{problem}: name a folder on another disk") from error
        log.warning("%s: a second process there would not be refused", problem)
        yield True
        return
    if not acquired:
        yield False
        return
    try:
        with path.open("r+b", buffering=0) as file:  # the held file itself, should another take its name meanwhile
            _write(file, own())
            try:
                yield True
            finally:
                _write(file, "")
    finally:
        lock.release()


def _write(file: FileIO, text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk; Windows refuses what is locked
        file.seek(0)
        file.truncate()
        file.write(text.encode())


def own() -> str:
    """This process, its machine and the present time, in words."""
    return f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def holder(path: Path) -> str:
    """The process that holds a lock file, in words."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200].strip() or "another process"
    except OSError:
        return "another process"
