"""SHA256SUMS: the SHA-256 of every other file of a folder, one a line, as `sha256sum -c` reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

SUMS = "SHA256SUMS"


def write_sums(folder: Path) -> None:
    """Write the file for a folder as it is. Raises OSError."""
    lines = (f"{digest}  {name}\n" for name, digest in digests(folder).items())
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def recorded(folder: Path) -> dict[str, str]:
    """The recorded SHA-256 by name. Raises OSError."""
    lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file by name; a folder counts as a file with an empty one."""
    paths = [path for path in sorted(folder.iterdir()) if path.name != SUMS]
    return {path.name: sha256(path) if path.is_file() else "" for path in paths}


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed(written: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """The names of files that are there with other content."""
    return sorted(name for name in written if name in present and written[name] != present[name])
