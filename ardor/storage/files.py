"""Atomic writes: a file is replaced completely and durably or not at all, and a failure is one sentence."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ardor.errors import ArdorError, RunError

LONGEST = 255
"""Bytes of the longest file name that common file systems accept."""
TEMPORARY = re.compile(r"\..+\.ardor-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}")
DAY = 24 * 60 * 60
"""Seconds after which a temporary file is taken for that of a dead process, wherever the process was."""


def write_atomic(path: Path, write: Callable[[Path], Any]) -> Path:
    """Call `write` with a temporary file beside `path`, which replaces `path` once it is on disk.

    Temporary files of dead processes in the same folder are removed.

    Raises
    ------
    RunError
        Where the system refuses; `path` is then as it was.
    """
    temporary = temporary_beside(path)
    try:
        if path.is_dir() or not path.name:
            raise RunError(f"expected a file to write, got the folder {path}: type a name in it")
        make_folder(path.parent)
        with contextlib.suppress(OSError):  # a folder that may not be listed can be written
            for dead in left_over(path.parent):
                remove(dead)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        replace(temporary, path)
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        remove(temporary)
    return path


def write_text(path: Path, text: str) -> Path:
    """Replace a file by `text` in UTF-8, as `write_atomic`. Raises RunError."""
    # an undecodable byte in a file's name is a lone surrogate in text, which UTF-8 cannot encode
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def replace(source: Path, target: Path) -> None:
    """Rename a file or folder to `target`, replacing a file there, and make the renaming durable. Raises OSError."""
    os.replace(source, target)
    sync(target.parent)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, where they are missing, durably. Raises OSError."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync(place.parent)


def sync(folder: Path) -> None:
    """Flush a folder's entries to disk, where the system can."""
    if sys.platform == "win32":  # a folder cannot be opened there
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # not on all network file systems, nor in a folder that may be written but not listed
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


def temporary_beside(path: Path) -> Path:
    """A new hidden name beside `path`, with this machine and process in it for `left_over`."""
    own = f".ardor-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    return path.parent / f"{shortened(f'.{path.name}', LONGEST - len(own))}{own}"


def left_over(folder: Path, suffix: str = ".tmp") -> list[Path]:
    """What processes that died while they wrote into `folder` left there under a name of `temporary_beside`."""
    paths = []
    for path in folder.iterdir():
        if path.suffix == suffix and (match := TEMPORARY.fullmatch(path.stem)):
            dead = match[1] == _machine() and not psutil.pid_exists(int(match[2]))
            if dead or time.time() - path.lstat().st_mtime > DAY:
                paths.append(path)
    return paths


def remove(path: Path) -> None:
    """Remove a file or folder, where it is there and the system lets it go."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


@functools.cache
def _machine() -> str:
    """A hash of this machine's name and, in a container, of its space of process numbers."""
    with contextlib.suppress(OSError):
        return hashlib.sha256(f"{platform.node()} {os.stat('/proc/self/ns/pid').st_ino}".encode()).hexdigest()[:8]
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def shortened(name: str, limit: int = LONGEST) -> str:
    """`name` if it has at most `limit` bytes, else its beginning, a hash of the whole, and its suffix."""
    encoded = name.encode(errors="surrogatepass")
    if len(encoded) <= limit:
        return name
    suffix = Path(name).suffix if len(Path(name).suffix) < 8 else ""
    end = f"~{hashlib.sha256(encoded).hexdigest()[:12]}{suffix}"
    return encoded[: limit - len(end.encode(errors="surrogatepass"))].decode(errors="ignore") + end


def refusal(path: Path, error: OSError) -> RunError:
    """The error for a path that the system does not let write."""
    return RunError(
        f"expected to write {path}, got {error.strerror or error}: free space or name another folder; "
        "what was there is untouched"
    )


def require_writable(path: Path) -> None:
    """Raise RunError where the folder of `path` may not be written: before work whose result goes there."""
    folder = next(place for place in path.absolute().parents if os.path.exists(place))
    if not os.access(folder, os.W_OK):
        raise refusal(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def require_readable(path: Path, kind: type[ArdorError]) -> None:
    """Raise `kind` with the reason where a file cannot be opened: to safetensors every reason is a missing file."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise kind(
            f"expected a file that can be read, got {path}: {error.strerror}; check its name, and that you may read it"
        ) from error
