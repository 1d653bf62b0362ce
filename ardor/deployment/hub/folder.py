"""A folder that is written completely or not at all, lists its files' SHA-256, and replaces only one of its kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ardor.errors import RunError
from ardor.models.mismatch import some
from ardor.storage.files import left_over, make_folder, refusal, remove, replace, sync, temporary_beside
from ardor.storage.sums import SUMS, changed, digests, recorded, write_sums


def put(folder: Path, fill: Callable[[Path], Any]) -> Path:
    """Call `fill` with a hidden folder beside `folder`, and rename that to `folder` once it is durable.

    Parameters
    ----------
    folder : Path
        The folder, which may exist if `put` wrote it and it is unchanged.
    fill : callable
        Writes the files into the folder that it is called with.

    Raises
    ------
    RunError: another folder or file is in its place, or it cannot be written. Errors of `fill` pass through. After any
    error the old folder is untouched.
    """
    target = folder.resolve()  # the folder itself and not a link to it
    require_ours(folder)
    temporary, old = temporary_beside(target), temporary_beside(target).with_suffix(".old")
    try:
        make_folder(target.parent)
        for dead in left_over(target.parent, ".old"):
            if dead.name.startswith(f".{target.name}.ardor-"):  # a kill came between the two renames, or after them
                remove(dead) if target.exists() else replace(dead, target)
        for dead in left_over(target.parent):
            remove(dead)
        temporary.mkdir()
        fill(temporary)
        write_sums(temporary)
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync(temporary)
        require_ours(folder)  # the work took a while
        _swap(temporary, target, old)
    except OSError as error:
        raise refusal(folder, error) from error
    finally:
        remove(temporary)
        if target.exists():
            remove(old)
    return folder


def require_whole(folder: Path) -> None:
    """Raise RunError unless the folder is as `put` wrote it."""
    if problem := _foreign(folder):
        raise RunError(f"expected a folder as ardor push writes it, got {folder} {problem}: write it again")


def require_ours(folder: Path) -> None:
    """Raise RunError where the folder has content that `put` did not write, or that was changed since."""
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if (folder.exists() or folder.is_symlink()) and (problem := _foreign(folder)):
        raise RunError(
            f"expected no folder, or one of ardor push as it was written, got {folder} {problem}: type --out NEW"
        )


def _foreign(folder: Path) -> str:
    """The difference of a folder from what `put` wrote; empty where there is none."""
    if not folder.is_dir():
        return "which is a file" if folder.exists() else "which is not there"
    if not (folder / SUMS).is_file():
        return f"without {SUMS}"
    written, present = recorded(folder), digests(folder)
    if more := sorted(present.keys() - written.keys()):
        return f"with other files ({some(more)})"
    if less := sorted(written.keys() - present.keys()):
        return f"without {some(less)}"
    edited = changed(written, present)
    return f"in which {some(edited)} changed since" if edited else ""


def _swap(temporary: Path, target: Path, old: Path) -> None:
    """Two renames: a kill between them leaves the old folder complete under its hidden name."""
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    sync(target.parent)
