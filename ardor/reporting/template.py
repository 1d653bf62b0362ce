"""Templates of self-contained HTML pages."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def render(package: str, template: str, **content: Any) -> str:
    """A jinja2 template of a package, with every value escaped and none missing.

    Parameters
    ----------
    package : dotted name of the package that has the template.
    template : name of the file in it.
    content : the template's variables.
    """
    from jinja2 import Environment, StrictUndefined  # few commands write a page, and jinja2 is slow to import

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(package_text(package, template)).render(**content)


def package_text(package: str, name: str) -> str:
    """The text of a file of a package, for example the pages' style.css in ardor.reporting."""
    return files(package).joinpath(name).read_text(encoding="utf-8")
