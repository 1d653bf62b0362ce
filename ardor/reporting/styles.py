"""The style of each net of a page or a figure: see `ardor.plot.style`."""

from __future__ import annotations

from ardor.plot.style import Style, styles_for
from ardor.reporting.entry import PageEntry


def styles_of(entries: list[PageEntry]) -> dict[str, Style]:
    """A style for each net by its name: the method's own where it has one, else the next that no net on the page has.

    Parameters
    ----------
    entries : the nets of a page or a figure.
    """
    names = [entry.name for entry in entries]
    return styles_for(names, {entry.name: "teacher" for entry in entries if entry.role == "teacher"})
