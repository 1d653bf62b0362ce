"""Self-contained HTML pages: one layout, one style and one script, and a policy that allows nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

PACKAGE = "ardor.reporting"


ATTRIBUTES = "style-src-attr 'unsafe-inline'"
"""The directive for matplotlib's figures, which have their colours in attributes."""


def render(
    package: str,
    template: str,
    *,
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
    sources: Sequence[str] = (),
    directives: Sequence[str] = (ATTRIBUTES,),
    **content: Any,
) -> str:
    """A template of a package that extends layout.html, with every value escaped and none missing.

    Parameters
    ----------
    package : dotted name of the package that has the template.
    template : name of the file in it.
    styles, scripts : texts beside those of every page, style.css and page.js.
    sources, directives : of the Content-Security-Policy: what scripts may use beside the page's own, and further
        directives.
    content : the template's variables.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # few commands write a page; slow to import
    from markupsafe import Markup

    style = "".join([package_text(PACKAGE, "style.css"), *styles])
    scripts = [*scripts, package_text(PACKAGE, "page.js")]
    loader = FunctionLoader(lambda name: package_text(PACKAGE, name))
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    rules = [
        "default-src 'none'",
        " ".join(["script-src", *map(_hash, scripts), *sources]),
        f"style-src {_hash(style)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    own = {"style": Markup(style), "scripts": [*map(Markup, scripts)], "policy": "; ".join([*rules, *directives])}
    return environment.from_string(package_text(package, template)).render(**own, **content)


def package_text(package: str, name: str) -> str:
    """The text of a file of a package, for example the pages' style.css in ardor.reporting."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
