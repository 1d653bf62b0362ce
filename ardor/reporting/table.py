"""Several nets side by side: the columns they share, the best student in each, and the table as Markdown."""

from __future__ import annotations

from typing import TypeAlias

from ardor.evaluation.proportion import Summary
from ardor.reporting.entry import PageEntry

Rows: TypeAlias = list[list[tuple[Summary | None, bool]]]
"""For each net and column its accuracy, where it has one, and whether it is the best student's."""


def results(entries: list[PageEntry]) -> tuple[list[str], Rows]:
    """The names of all accuracies, the worst case last, and the rows; alone, a student is not the best."""
    accuracies = [entry.accuracies for entry in entries]
    names = list(dict.fromkeys(name for row in accuracies for name in row))
    columns = sorted(names, key=lambda name: name == "worst_case")
    students = [row for entry, row in zip(entries, accuracies, strict=True) if entry.role == "student"]
    values = {name: [row[name].value for row in students if name in row] for name in columns}
    best = {name: max(of) for name, of in values.items() if len(of) > 1}
    rows = []
    for entry, row in zip(entries, accuracies, strict=True):
        top = {name for name in row if entry.role == "student" and row[name].value == best.get(name)}
        rows.append([(row.get(name), name in top) for name in columns])
    return columns, rows


def images(entry: PageEntry) -> str:
    """Number of test images, and of seeds where there are several."""
    seeds = len(entry.reports)
    return f"{entry.reports[0].n:,}" + ("" if seeds == 1 else f" × {seeds} seeds")


def comparison(entries: list[PageEntry]) -> str:
    """The nets as a Markdown table.

    Accuracies are in %, mean ± SD over seeds, the best student of a column in bold.

    Parameters
    ----------
    entries : the nets, one row each.
    """
    columns, rows = results(entries)
    lines = [
        "| " + " | ".join(["net", "role", "parameters", "images", *columns]) + " |",
        "|:--|:--|--:|--:|" + "--:|" * len(columns),
    ]
    for entry, row in zip(entries, rows, strict=True):
        size = "" if entry.parameters is None else f"{entry.parameters:,}"
        cells = ["–" if summary is None else f"**{summary}**" if best else str(summary) for summary, best in row]
        head = [entry.name.replace("|", "\\|"), entry.role, size, images(entry)]
        lines.append(f"| {' | '.join([*head, *cells])} |")
    intervals = [p.interval for row in rows for summary, _ in row if summary for p in summary.seeds]
    widest = max((high - low for low, high in intervals), default=0.0)
    return "\n".join([*lines, "", f"Wilson 95 % intervals of one seed are at most {100 * widest:.1f} points wide."])
