"""The figures of the page as files to download, inside the page: JSON, and CSV with a line for each figure and seed."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from ardor.reporting.table import Table

HEAD = ("table", "net", "role", "seed", "figure", "correct", "n", "accuracy", "low95", "high95", "best")


def links(tables: list[Table]) -> dict[str, str]:
    """The data URI of each file by its name; {} without tables."""
    if not tables:
        return {}
    rows = [row for table in tables for row in _rows(table)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([HEAD, *rows])
    content = [
        {"table": table.title, "trial": table.entries[0].reports[0].trial, "verdict": table.verdict,
         "figures": [dict(zip(HEAD[1:], row[1:], strict=True)) for row in _rows(table)]}
        for table in tables
    ]  # fmt: skip
    texts = {"figures.csv": ("text/csv", out.getvalue()), "figures.json": ("application/json", json.dumps(content))}
    return {
        name: f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}" for name, (kind, text) in texts.items()
    }


def _rows(table: Table) -> Iterator[list[Any]]:
    for entry, row in zip(table.entries, table.rows, strict=True):
        for column, (summary, best) in zip(table.columns, row, strict=True):
            for seed, p in enumerate(summary.seeds):
                numbers = [p.k, p.n, round(p.value, 6), *(round(end, 6) for end in p.interval)]
                yield [table.title, entry.name, entry.role, seed, column, *numbers, best]
