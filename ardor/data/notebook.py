"""Tables of a notebook: what a Report, a Split and a Comparison are shown as in its last line."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

LINES = 14
"""Rows of a table at most; the number of further ones is the last row."""


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One HTML table, every text in it escaped.

    Parameters
    ----------
    title : str
        Its caption.
    head : sequence of str
        Names of the columns.
    rows : sequence of sequence of str
        The cells.
    """
    shown = [_row("td", row) for row in rows[:LINES]]
    if len(rows) > LINES:
        shown.append(f'<tr><td colspan="{len(head)}">and {len(rows) - LINES} more</td></tr>')
    return "\n".join(["<table>", f"<caption>{escape(title)}</caption>", _row("th", head), *shown, "</table>"])


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
