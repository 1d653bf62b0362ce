"""From matplotlib to an SVG element inside HTML, without pyplot and with the user's settings as they were."""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup
from matplotlib import rc_context, rcParamsDefault
from matplotlib.figure import Figure

INK, MUTED, SHADE, RULE = "#1d2329", "#5b6672", "#bcc5cd", "#d5dbe1"

STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so the layout is the same everywhere
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "ardor",
}


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """matplotlib as the page wants it, whatever the user has set, and the user's settings back on exit."""
    settings: Any = {name: value for name, value in rcParamsDefault.items() if name != "backend"}
    with rc_context(settings | STYLE):
        yield


def svg(figure: Figure, key: str, label: str) -> Markup:
    """The figure as an SVG element to stand in HTML. key: what makes its ids unique on the page. label: read aloud."""
    out = io.StringIO()
    figure.savefig(out, format="svg")
    text = out.getvalue()
    width, height = (v * 72 for v in figure.get_size_inches())
    opening = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(label)}">'
    # metadata holds the date, and a style would be the whole page's
    body = re.sub(r"<(metadata|style).*?</\1>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"<svg[^>]*>", lambda _: opening, body, count=1)
    return Markup(_own_ids(_shorter(body), key))  # matplotlib has escaped every text in it


def _shorter(body: str) -> str:
    """Coordinates to a hundredth of a pixel and no space between elements: half the bytes, the same picture."""
    body = re.sub(r">\s+<", "><", body)
    return re.sub(r' (d|x|y|transform)="([^"]*)"', _rounded, body)


def _rounded(attribute: re.Match[str]) -> str:
    numbers = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", attribute[2])
    return f' {attribute[1]}="{" ".join(numbers.split())}"'


def _own_ids(body: str, key: str) -> str:
    """Ids that something refers to get `key` in front, all others go."""
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{key}-', body)
    return body.replace("url(#", f"url(#{key}-").strip()
