"""A folder that is written whole or not at all, lists the SHA-256 of its files, and replaces only one of its kind."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ardor.errors import RunError
from ardor.models.mismatch import some
from ardor.storage.files import refusal

SUMS = "SHA256SUMS"
"""One line for each other file, as `sha256sum -c` reads it."""


def put(folder: Path, fill: Callable[[Path], Any]) -> Path:
    """Let `fill` fill a hidden folder beside `folder`, and put it in place once it is durable.

    What stands there is replaced if it is what `put` wrote, unchanged. Raises RunError; whatever `fill` raises passes
    through. In either case what was there is untouched.
    """
    target = folder.resolve()  # the folder itself and not a link to it
    require_ours(folder)
    temporary, old = (target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.{word}") for word in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        (temporary / SUMS).write_text("".join(f"{h}  {n}\n" for n, h in _hashes(temporary).items()), encoding="utf-8")
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        require_ours(folder)  # the work took a while
        _swap(temporary, target, old)
    except OSError as error:
        raise refusal(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
    return folder


def require_whole(folder: Path) -> None:
    """Refuse a folder that is not as `put` wrote it. Raises RunError."""
    if problem := _foreign(folder):
        raise RunError(f"expected a folder as ardor push writes it, got {folder} {problem}: write it again")


def require_ours(folder: Path) -> None:
    """Refuse a place that holds something that `put` did not write, or that was changed since. Raises RunError."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if (folder.exists() or folder.is_symlink()) and (problem := _foreign(folder)):
        raise RunError(
            f"expected no folder, or one of ardor push as it was written, got {folder} {problem}: type --folder NEW"
        )


def _foreign(folder: Path) -> str:
    """How a folder is not as `put` wrote it; "" where it is."""
    if not folder.is_dir():
        return "which is a file" if folder.exists() else "which is not there"
    if not (folder / SUMS).is_file():
        return f"without {SUMS}"
    rows = (line.partition("  ") for line in (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines())
    said = {name: digest for digest, _, name in rows}
    there = _hashes(folder)
    if more := sorted(there.keys() - said.keys()):
        return f"with other files ({some(more)})"
    if less := sorted(said.keys() - there.keys()):
        return f"without {some(less)}"
    if changed := sorted(name for name in said if said[name] != there[name]):
        return f"in which {some(changed)} changed since"
    return ""


def _hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file by name; a folder in it counts as a file without one."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name != SUMS:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return found


def _swap(temporary: Path, target: Path, old: Path) -> None:
    """Two renames: a kill between them leaves the old folder whole under its hidden name."""
    if not target.exists():
        os.rename(temporary, target)
        return
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(old, target)
        raise
