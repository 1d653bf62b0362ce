"""From matplotlib to an SVG element inside HTML, without pyplot."""

from __future__ import annotations

import html
import io
import re

from markupsafe import Markup
from matplotlib.figure import Figure


def svg(figure: Figure, key: str, label: str) -> Markup:
    """A figure as an SVG element for HTML.

    Parameters
    ----------
    key : prefix of its ids, unique on the page.
    label : text for screen readers.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg")
    text = out.getvalue()
    width, height = (v * 72 for v in figure.get_size_inches())
    opening = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(label)}">'
    # metadata holds the date, and a style would be the whole page's
    body = re.sub(r"<(metadata|style).*?</\1>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"<svg[^>]*>", lambda _: opening, body, count=1)
    body = re.sub(r' (d|x|y|transform)="([^"]*)"', _rounded, re.sub(r">\s+<", "><", body))
    # a colour may have another value in dark mode: see style.css
    body = re.sub(r"(?<=: )#([0-9a-f]{6})(?=[;\"])", r"var(--c\1, #\1)", body)
    return Markup(_own_ids(body, key))  # matplotlib has escaped every text in it


def _rounded(attribute: re.Match[str]) -> str:
    """The attribute with coordinates to a hundredth of a pixel: half the bytes, the same picture."""
    numbers = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", attribute[2])
    return f' {attribute[1]}="{" ".join(numbers.split())}"'


def _own_ids(body: str, key: str) -> str:
    """Ids that have a reference get `key` in front, all others are removed."""
    # an artist's gid may be its tooltip; matplotlib has escaped it, in single quotes where it has double ones
    body = re.sub(r""" id=(["'])tip: (.*?)\1""", lambda m: f' data-tip="{m[2].replace(chr(34), "&quot;")}"', body)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{key}-', body)
    return body.replace("url(#", f"url(#{key}-").strip()
