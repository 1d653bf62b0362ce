"""Lock files: one holder at a time among all processes and threads that share the folder, freed when a process dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ardor.errors import RunError
from ardor.storage.files import refusal


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`, which is created where it is missing and stays.

    Parameters
    ----------
    path : Path
        The lock file; its content is unused.
    wait : bool
        Wait for the holder; otherwise yield False where there is one.

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
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise refusal(path, error) from error
    # filelock's fallback, a file that exists while it is held, would outlive a process that is killed
    lock = FileLock(path, timeout=-1 if wait else 0, poll_interval=0.001, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except OSError as error:
        raise RunError(
            f"expected a file system with locks for {path.parent}, got {error.strerror or error}: "
            "name a folder on another disk"
        ) from error
    try:
        yield True
    finally:
        lock.release()
