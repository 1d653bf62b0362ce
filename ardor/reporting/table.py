"""Nets side by side: a table for each protocol, with the best student by a paired test, and the text as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from ardor.errors import ConfigError
from ardor.evaluation.comparison import Comparison, compare
from ardor.evaluation.comparison.significance import LEVEL, holm, p_text
from ardor.evaluation.comparison.wording import METHOD_SEEDS
from ardor.evaluation.proportion import Summary
from ardor.evaluation.protocol import key_of, protocol_of, require_same, title_of
from ardor.reporting.entry import PageEntry
from ardor.storage.config import differences, few
from ardor.storage.markdown import inline

Rows: TypeAlias = list[list[tuple[Summary, bool]]]
"""For each net and column its accuracy, and whether it is the best student's by a difference that is shown."""


@dataclass(frozen=True)
class Table:
    """Nets that were judged on the same images by the same attacks.

    Parameters
    ----------
    title : data, number of images, threat and suite.
    columns : names of the accuracies, the worst case last.
    verdict : one sentence on the worst case of the students; "" for a single one.
    """

    title: str
    entries: list[PageEntry]
    columns: list[str]
    rows: Rows
    verdict: str


def tables(entries: list[PageEntry]) -> list[Table]:
    """One table for each protocol, in the order of the entries.

    Raises
    ------
    ConfigError
        Two entries have one name, or the reports of one entry are of several protocols.
    """
    names = [entry.name for entry in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"expected another name for each net, got {few(twice)} twice: name each run once")
    groups: dict[str, list[PageEntry]] = {}
    for entry in entries:
        for other in entry.reports[1:]:
            require_same(entry.reports[0], other)
        groups.setdefault(key_of(entry.reports[0]), []).append(entry)
    first: dict[str, PageEntry] = {}
    result = []
    for group in groups.values():
        report = group[0].reports[0]
        title = title_of(report)
        if (same := first.setdefault(title, group[0])) is not group[0]:
            changed = differences(protocol_of(report), protocol_of(same.reports[0]))
            title += f"; apart from the table with {same.name}: {few(changed)}"
        result.append(_table(title, group))
    return result


def _table(title: str, entries: list[PageEntry]) -> Table:
    accuracies = {entry.name: entry.accuracies for entry in entries}
    columns = list(accuracies[entries[0].name])
    students = {entry.name: entry for entry in entries if entry.role == "student"}

    @cache
    def paired(a: str, b: str) -> Comparison | ConfigError:
        try:
            return compare(students[a].reports, students[b].reports, (a, b))
        except ConfigError as error:
            return error

    best, verdict = {}, ""
    for column in columns if len(students) > 1 else ():
        values = {name: accuracies[name][column].value for name in students}
        top, shown, verdict = _best(values, column, paired)  # the last column is the worst case
        if shown:
            best[column] = top
    rows = [[(of, best.get(column) == name) for column, of in row.items()] for name, row in accuracies.items()]
    return Table(title, entries, columns, rows, verdict)


def _best(
    values: dict[str, float], column: str, paired: Callable[[str, str], Comparison | ConfigError]
) -> tuple[str, bool, str]:
    """The highest net, whether each difference to the others is shown, p corrected by Holm, and the sentence on it."""
    figure = "Worst case" if column == "worst_case" else column
    top = max(values, key=lambda name: values[name])
    others = {name: paired(top, name) for name in values if name != top}
    for name, c in others.items():
        if isinstance(c, ConfigError):
            return top, False, f"{figure}: {top} and {name} are not compared: {c}"
        if c.doubts:
            return top, False, f"{figure}: no difference can be claimed between {top} and {name}: {'; '.join(c.doubts)}"
    p = holm({name: _p(c, column) for name, c in others.items() if isinstance(c, Comparison)})
    unsure = [name for name in p if p[name] >= LEVEL]
    by = "paired comparison" + (f", p corrected by Holm for {len(p)} students" if len(p) > 1 else "")
    listed = ", ".join(f"{name} ({100 * values[name]:.1f}, p {p_text(p[name])})" for name in unsure or p)
    if not unsure:
        return top, True, f"{figure}: {top} ({100 * values[top]:.1f}) stands above {listed} ({by})"
    two = any(isinstance(c, Comparison) and 1 < len(c.seeds) < METHOD_SEEDS for c in others.values())
    by += "; two seeds are no evidence about methods" if two else ""
    return top, False, f"{figure}: no difference shown between {top} ({100 * values[top]:.1f}) and {listed} ({by})"


def _p(c: Comparison, column: str) -> float:
    """p on these nets for one seed, on the methods from three; 1 between, where there is no claim."""
    return c.figures[column].p if len(c.seeds) == 1 or len(c.seeds) >= METHOD_SEEDS else 1.0


def differ(a: PageEntry, b: PageEntry) -> bool:
    """Whether the paired comparison shows a difference of two nets in the worst case."""
    try:
        c = compare(a.reports, b.reports, (a.name, b.name))
    except ConfigError:
        return False
    worst = c.figures["worst_case"]
    return not c.doubts and (worst.p if len(c.seeds) >= METHOD_SEEDS else worst.p_of_nets) < LEVEL


def images(entry: PageEntry) -> str:
    """Number of test images, and of seeds where there are several."""
    seeds = len(entry.reports)
    return f"{entry.reports[0].n:,}" + ("" if seeds == 1 else f" × {seeds} seeds")


def comparison(entries: list[PageEntry]) -> str:
    """The nets as Markdown, one table for each protocol: data, threat, suite and images.

    Accuracies are in %, mean ± SD over seeds; bold is the best student of a column where the paired comparison shows a
    difference to each other student.

    Parameters
    ----------
    entries : the nets, one row each.
    """
    return "\n\n".join(map(_markdown, tables(entries)))


def _markdown(table: Table) -> str:
    lines = [
        f"{inline(table.title)}:",
        "",
        "| " + " | ".join(["net", "role", "parameters", "images", *map(inline, table.columns)]) + " |",
        "|:--|:--|--:|--:|" + "--:|" * len(table.columns),
    ]
    for entry, row in zip(table.entries, table.rows, strict=True):
        size = "" if entry.parameters is None else f"{entry.parameters:,}"
        cells = [f"**{summary}**" if best else str(summary) for summary, best in row]
        head = [inline(entry.name), entry.role, size, images(entry)]
        lines.append(f"| {' | '.join([*head, *cells])} |")
    intervals = [p.interval for row in table.rows for summary, _ in row for p in summary.seeds]
    widest = max(high - low for low, high in intervals)
    lines += ["", f"Wilson 95 % intervals of one seed are at most {100 * widest:.1f} points wide."]
    return "\n".join([*lines, *([f"{inline(table.verdict)}."] if table.verdict else [])])
