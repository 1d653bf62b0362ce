"""The style of each method in every figure: one colour, one marker and one dash per name.

Any two of the twelve colours differ by at least 18 in CIELAB, also under simulated protanopia, deuteranopia and
tritanopia (Machado et al., 2009); markers and dashes differ beside them, so no figure rests on colour alone.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any, NamedTuple

from ardor.reporting.entry import PageEntry


class Style(NamedTuple):
    """A colour, a marker and a dash, as matplotlib names them."""

    colour: str
    marker: str
    dash: Any


_LONG, _MIXED = (0, (5, 2)), (0, (5, 1.5, 1, 1.5))

KNOWN = {
    "teacher": Style("#1d2329", "s", "-"),
    "natural": Style("#70868a", "X", (0, (1, 1))),
    "sat": Style("#2b86f2", "^", _LONG),
    "trades": Style("#1733cc", "v", _MIXED),
    "mart": Style("#5f1a9c", "<", "-"),
    "kd": Style("#978a3c", "D", (0, (2, 1.5))),
    "ard": Style("#d59c0a", ">", _LONG),
    "iad": Style("#cd51b6", "P", _MIXED),
    "rslad": Style("#1fb97b", "o", "-"),
    "variance_gap": Style("#9b1207", "p", "-"),
}
SPARE = [Style("#74066a", "d", _LONG), Style("#6e4a3e", "H", "-")]


def styles_of(entries: list[PageEntry]) -> dict[str, Style]:
    """A style for each net by its name: the method's own where it has one, else the next that no net on the page has.

    Parameters
    ----------
    entries : the nets of a page or a figure.
    """
    known: dict[str, Style] = {}
    for entry in entries:
        method = "teacher" if entry.role == "teacher" else entry.name.lower()
        if method in KNOWN and KNOWN[method] not in known.values():
            known[entry.name] = KNOWN[method]
    others = [entry.name for entry in entries if entry.name not in known]
    free = [style for style in [*SPARE, *KNOWN.values()] if style not in known.values()] or SPARE
    return known | dict(zip(others, cycle(free), strict=False))
