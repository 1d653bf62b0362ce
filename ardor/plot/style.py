"""One look for every figure: matplotlib's settings, and a colour, a marker and a dash for each method.

Any two of the twelve colours differ by at least 18 in CIELAB, also under simulated protanopia, deuteranopia and
tritanopia (Machado et al., 2009); markers and dashes differ beside them, so no figure rests on colour alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context, rc_params_from_file, rcParamsDefault

INK, MUTED, SHADE = "#1d2329", "#5b6672", "#bcc5cd"


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


def styles_for(names: Iterable[str], known_as: Mapping[str, str] | None = None) -> dict[str, Style]:
    """A style for each name: the method's own where it has one, else the next that none of them has; alone RSLAD's.

    Parameters
    ----------
    names : iterable of str
        Of the nets of a figure or a page.
    known_as : mapping of str to str, optional
        The key of `KNOWN` of a name; default the name in lower case.
    """
    names, keys, known = list(names), known_as or {}, dict[str, Style]()
    if len(names) == 1 and known_as is None:
        return {names[0]: KNOWN.get(names[0].lower(), KNOWN["rslad"])}
    for name in names:
        style = KNOWN.get(keys.get(name, name.lower()))
        if style is not None and style not in known.values():
            known[name] = style
    others = [name for name in names if name not in known]
    free = [style for style in [*SPARE, *KNOWN.values()] if style not in known.values()] or SPARE
    return known | dict(zip(others, cycle(free), strict=False))


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """matplotlib with the settings of every figure; the user's are restored on exit."""
    settings: Any = {name: value for name, value in rcParamsDefault.items() if name != "backend"}
    style = rc_params_from_file(Path(__file__).with_name("style.mplstyle"), use_default_template=False)
    with rc_context(settings | style):
        yield
