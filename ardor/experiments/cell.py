"""A cell: one net that is trained and evaluated, described by its config; and what the cells of a folder share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEASURED = ("gap", "passes")
"""The variance gap, and the passes of a step: measurements that are no report."""


@dataclass(frozen=True)
class EvaluationSpec:
    """One evaluation of a cell's net on test images.

    Parameters
    ----------
    suite : name of the attack suite, or one of `MEASURED`.
    checkpoint : "best", "last" or "averaged".
    limit : number of test images; 0 is all.
    source : of a transfer attack: a cell, or what --transfer_from names.
    """

    suite: str
    checkpoint: str = "best"
    limit: int = 0
    source: str = ""


@dataclass(frozen=True)
class Cell:
    """One net of a table or sweep.

    Parameters
    ----------
    name : its folder, "METHOD-STUDENT/sSEED".
    row : what identifies its row of the table; the cells of a row differ by seed.
    config : of the run, as `Job.from_config` takes it, every part a mapping.
    needs : names of the cells that must be finished first.
    evaluations : of the trained net.
    """

    name: str
    row: tuple[str, ...]
    seed: int
    config: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    evaluations: tuple[EvaluationSpec, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the cells of a folder share.

    Parameters
    ----------
    folder : of all of them.
    images : hashes of the three splits.
    gate : whether a teacher is examined before it is distilled from.
    threads : of torch; None is the rule of `threads_for`.
    trust_code : accept code that the config.yaml of a teacher's run names.
    """

    folder: Path
    images: str = ""
    gate: bool = True
    threads: int | None = None
    trust_code: bool = False

    def run(self, cell: str) -> Path:
        """The folder of a cell's run."""
        return self.folder / "cells" / cell


@dataclass(frozen=True)
class Cells:
    """The cells of a folder, each after those that it needs."""

    spec: Setting
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Sweep(Cells):
    """The cells of a sweep.

    Parameters
    ----------
    head : names of the options that vary, but the seed: the parts of a row.
    validation : number of validation images.
    content : of sweep.yaml.
    """

    head: tuple[str, ...]
    validation: int
    content: Mapping[str, Any]
