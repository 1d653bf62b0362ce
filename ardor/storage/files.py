"""Atomic writes: a file is replaced completely or not at all, and a failure is one sentence."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ardor.errors import RunError


def write_atomic(path: Path, write: Callable[[Path], Any]) -> Path:
    """Call `write` with a temporary file beside `path`, which replaces `path` once it is on disk. Raises RunError."""
    if path.is_dir() or not path.name:
        raise RunError(f"expected a file to write, got the folder {path}: type a name in it")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")  # other machines may write here too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def refusal(path: Path, error: OSError) -> RunError:
    """The error for a path that the system does not let write."""
    return RunError(
        f"expected to write {path}, got {error.strerror or error}: free space or name another folder; "
        "what was there is untouched"
    )
