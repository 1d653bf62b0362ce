"""TODO ardor.storage.runs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ardor.errors import RunError
from ardor.storage.config import differences, read_yaml, to_yaml
from ardor.storage.files import write_atomic

# A moved teacher or data folder is the same teacher and data: the fingerprint has their hashes.
WHERE_THINGS_LIE = (
    "fingerprint.ardor", "processes", "threads", "data.root", "data.download",
    *(f"teacher.{key}" for key in ("weights", "root", "download", "natural", "robust")),
)  # fmt: skip


def open_run(run: str | Path | None, config: Mapping[str, Any]) -> Path | None:
    """Make or enter the folder of a run. Raises RunError where it holds another configuration or cannot be written."""
    if run is None:
        return None
    folder, path = Path(run), Path(run) / "config.yaml"
    require_own(folder, config)
    if not path.exists():
        write_atomic(path, lambda temporary: temporary.write_text(to_yaml(config), encoding="utf-8"))
    return folder


def require_own(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another run, or other files. Raises RunError."""
    path = folder / "config.yaml"
    begun = folder.is_dir() and any(p.suffix != ".tmp" for p in folder.iterdir())  # a kill may leave half a config.yaml
    if begun and not path.exists():
        raise RunError(
            f"expected an empty folder or a run of ardor, got {folder} with other files: type --run with a new name"
        )
    if path.exists():
        there = completed(read_yaml(path))
        found = [d for d in differences(config, there) if d.partition(":")[0] not in WHERE_THINGS_LIE]
        if found:
            raise RunError(
                f"expected the configuration that {folder} was made with, got another ({'; '.join(found[:4])}"
                f"{f'; and {len(found) - 4} more' if len(found) > 4 else ''}): type --run with a new name"
            )


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of before there were these keys, with what their absence meant."""
    recipe = {"precision": "float32", "attack_precision": "float32", "compile": False, "sync_batchnorm": False}
    return {"soft_labels": "live", **config, "recipe": {**recipe, **(config.get("recipe") or {})}}


def history(run: Path) -> list[dict[str, Any]]:
    """The epochs that a run's metrics.jsonl tells of; a line that a kill cut short is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [record for record in map(_read, lines) if "epoch" in record]


def _read(text: str) -> dict[str, Any]:
    """A JSON mapping; an empty one where there is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def curve_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where it has none."""
    path = run / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError):  # a kill may have cut the last one short
            found.append(json.loads(line))
    return found
