"""The figures of a demo as JSON."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ardor.demo.demo import THREAT
from ardor.reporting import PageEntry
from ardor.reporting.table import tables
from ardor.storage.files import write_text

RESULTS = "results.json"


def place_of(folder: Path, entries: list[PageEntry], name: str) -> Path:
    """The file called `name` (results.json) in the demo's folder, or part-NAME where that has more nets or seeds."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = {name: net["seeds"] for name, net in json.loads((folder / RESULTS).read_text())["nets"].items()}
        ours = {entry.name: len(entry.reports) for entry in entries}
        if any(ours.get(net, 0) < seeds for net, seeds in kept.items()):
            return folder / f"part-{name}"
    return folder / name


def results(entries: list[PageEntry], labels: dict[str, int], path: Path, text: str, trial: str = "") -> Path:
    """The figures as JSON: for each net and attack the accuracy of every seed, mean and SD (null for one seed).

    labels: by net, how many it was trained with. text: the headline.

    "best" has the student of each column that the paired comparison shows above all others, "verdict" the sentence on
    the worst case: as on the page.
    """
    (table,) = tables(entries)
    nets: dict[str, Any] = {}
    for entry in entries:
        n, seeds = entry.reports[0].n, len(entry.reports)
        nets[entry.name] = {"role": entry.role, "labels": labels[entry.name], "n": n, "seeds": seeds}
        nets[entry.name] |= {"parameters": entry.parameters}
        for name, summary in entry.accuracies.items():
            figure = {"values": [p.value for p in summary.seeds], "mean": summary.value}
            figure |= {"sd": summary.sd if seeds > 1 else None, "wilson95": summary.seeds[0].interval}
            nets[entry.name][name] = figure
    best: dict[str, str | None] = dict.fromkeys(table.columns)
    for entry, row in zip(table.entries, table.rows, strict=True):
        best |= {column: entry.name for column, (_, star) in zip(table.columns, row, strict=True) if star}
    content = {
        "protocol": table.title,
        "data": "digits",
        "threat": f"Linf {THREAT.eps:g}",
        "suite": "paper",
        "n": entries[0].reports[0].n,
        "trial": trial,
        "headline": text,
        "best": best,
        "verdict": table.verdict,
        "nets": nets,
    }
    return write_text(path, json.dumps(content, indent=1))
