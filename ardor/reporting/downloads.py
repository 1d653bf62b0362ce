"""The figures of the page as files to download, inside the page: JSON, and CSV with a line for each figure."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ardor.evaluation.proportion import Proportion
from ardor.reporting.classes import by_class
from ardor.reporting.entry import PageEntry
from ardor.reporting.table import Table

NUMBERS = ("correct", "n", "accuracy", "low95", "high95")
FIGURES = ("table", "net", "role", "seed", "figure", *NUMBERS, "best")
CLASSES = ("table", "net", "figure", "class", *NUMBERS)
RADII = ("net", "norm", "eps", "accuracy", "n", "variance", "signed_gap")


def links(tables: list[Table], entries: list[PageEntry]) -> dict[str, str]:
    """The data URI of each file by its name; {} without tables."""
    if not tables:
        return {}
    files = {
        "figures": (FIGURES, [row for table in tables for row in _figures(table)]),
        "classes": (CLASSES, [row for table in tables for row in _classes(table)]),
        "radii": (RADII, list(_radii(entries))),
    }
    content = [
        {"table": table.title, "trial": table.entries[0].reports[0].trial, "verdict": table.verdict,
         "figures": [dict(zip(FIGURES[1:], row[1:], strict=True)) for row in _figures(table)],
         "classes": [dict(zip(CLASSES[1:], row[1:], strict=True)) for row in _classes(table)]}
        for table in tables
    ]  # fmt: skip
    texts = {f"{name}.csv": uri("text/csv", _csv(head, rows)) for name, (head, rows) in files.items() if rows}
    return texts | {"figures.json": uri("application/json", json.dumps(content))}


def _figures(table: Table) -> Iterator[list[Any]]:
    for entry, row in zip(table.entries, table.rows, strict=True):
        for column, (summary, best) in zip(table.columns, row, strict=True):
            for seed, p in enumerate(summary.seeds):
                yield [table.title, entry.name, entry.role, seed, column, *_numbers(p), best]


def _classes(table: Table) -> Iterator[list[Any]]:
    every = by_class(table, None)
    for name, cells in every.rows:
        for net, (worst, clean) in zip(every.nets, cells, strict=True):
            yield [table.title, net, "worst_case", name, *_numbers(worst)]
            yield [table.title, net, "clean", name, *_numbers(clean)]


def _radii(entries: list[PageEntry]) -> Iterator[list[Any]]:
    for entry in entries:
        for norm, points in entry.curves.items():
            for p in points:
                variances = [round(v, 6) if v == v else "" for v in (p.variance, p.signed)]  # NaN without features
                yield [entry.name, norm, p.eps, round(p.accuracy, 6), p.n or "", *variances]


def _numbers(p: Proportion) -> list[float]:
    return [p.k, p.n, round(p.value, 6), *(round(end, 6) for end in p.interval)]


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *([_harmless(value) for value in row] for row in rows)])
    return out.getvalue()


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def uri(kind: str, text: str) -> str:
    """A text as a data URI of a media type."""
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"
