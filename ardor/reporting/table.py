"""Several nets side by side: the columns they share, the best student in each, and the table as Markdown."""

from __future__ import annotations

from ardor.evaluation.proportion import Summary
from ardor.reporting.entry import PageEntry

Rows = list[dict[str, Summary]]


def columns(rows: Rows) -> list[str]:
    """The names of all accuracies, in the order in which they appear, the worst case last."""
    seen = dict.fromkeys(name for row in rows for name in row)
    return [name for name in seen if name != "worst_case"] + (["worst_case"] if "worst_case" in seen else [])


def best(entries: list[PageEntry], rows: Rows, column: str) -> set[int]:
    """The students that hold the highest accuracy in `column`, by position; none where there is no other to beat."""
    held = {i: row[column].value for i, row in enumerate(rows) if entries[i].role == "student" and column in row}
    return {i for i, value in held.items() if value == max(held.values())} if len(held) > 1 else set()


def images(entry: PageEntry) -> str:
    """How many images were judged, and by how many seeds."""
    seeds = len(entry.reports)
    return f"{entry.reports[0].n:,}" + ("" if seeds == 1 else f" × {seeds} seeds")


def comparison(entries: list[PageEntry]) -> str:
    """The nets as a Markdown table: accuracies in %, mean ± SD over seeds, the best student of a column in bold."""
    rows = [entry.accuracies for entry in entries]
    names = columns(rows)
    bold = {name: best(entries, rows, name) for name in names}
    lines = [
        "| " + " | ".join(["net", "role", "parameters", "images", *names]) + " |",
        "|:--|:--|--:|--:|" + "--:|" * len(names),
    ]
    for i, (entry, row) in enumerate(zip(entries, rows, strict=True)):
        size = "" if entry.parameters is None else f"{entry.parameters:,}"
        cells = [_cell(row.get(name), i in bold[name]) for name in names]
        words = [entry.name.replace("|", "\\|"), entry.role, size, images(entry)]
        lines.append("| " + " | ".join([*words, *cells]) + " |")
    return "\n".join([*lines, "", _precision(rows)])


def _cell(summary: Summary | None, bold: bool) -> str:
    if summary is None:
        return "–"
    return f"**{summary}**" if bold else str(summary)


def _precision(rows: Rows) -> str:
    """How far any of the figures may be off by the choice of test images alone."""
    intervals = [p.interval for row in rows for summary in row.values() for p in summary.seeds]
    widest = max((high - low for low, high in intervals), default=0.0)
    return f"Wilson 95 % intervals of one seed are at most {100 * widest:.1f} points wide."
