"""How each method looks in every figure: one colour, one marker and one dash per name.

Any two of the twelve colours differ by at least 18 in CIELAB, also under simulated protanopia, deuteranopia and
tritanopia (Machado et al., 2009); markers and dashes differ beside them, so no figure rests on colour alone.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any, NamedTuple

from ardor.reporting.entry import PageEntry


class Look(NamedTuple):
    """A colour, a marker and a dash, as matplotlib names them."""

    colour: str
    marker: str
    dash: Any


_LONG, _MIXED = (0, (5, 2)), (0, (5, 1.5, 1, 1.5))

KNOWN = {
    "teacher": Look("#1d2329", "s", "-"),
    "natural": Look("#70868a", "X", (0, (1, 1))),
    "sat": Look("#2b86f2", "^", _LONG),
    "trades": Look("#1733cc", "v", _MIXED),
    "mart": Look("#5f1a9c", "<", "-"),
    "kd": Look("#978a3c", "D", (0, (2, 1.5))),
    "ard": Look("#d59c0a", ">", _LONG),
    "iad": Look("#cd51b6", "P", _MIXED),
    "rslad": Look("#1fb97b", "o", "-"),
    "variance_gap": Look("#9b1207", "p", "-"),
}
SPARE = [Look("#74066a", "d", _LONG), Look("#6e4a3e", "H", "-")]


def looks(entries: list[PageEntry]) -> dict[str, Look]:
    """A look per name: the method's own where it is known, else the next that no net on the page has."""
    found: dict[str, Look] = {}
    for entry in entries:
        word = "teacher" if entry.role == "teacher" else entry.name.lower()
        if word in KNOWN and KNOWN[word] not in found.values():
            found[entry.name] = KNOWN[word]
    others = [entry.name for entry in entries if entry.name not in found]
    free = [look for look in [*SPARE, *KNOWN.values()] if look not in found.values()] or SPARE
    return found | dict(zip(others, islice(cycle(free), len(others)), strict=True))
