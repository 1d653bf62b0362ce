"""Names of files, classes, data and users as Markdown: they are text there, never markup."""

from __future__ import annotations

import re

from ardor.errors import printable

HTML = re.compile(r"<(?=[A-Za-z/!?])|&(?=#|\w+;)")
SPECIAL = re.compile(
    r"[`*|]|~(?=~)|(?<=\])\(|^[\[#>+=-]|(?<![^\W_])_|_(?![^\W_])"  # underscores at the edge of a word alone
    r"|\\(?=[!-/:-@\[-`{-~]|$)|(?i:(?<=[a-z])://|(?<=www)\.)"  # a link needs no brackets
)
"""What begins markup inside a line, or where the text begins it."""


def inline(text: object) -> str:
    """A text in a line or a cell of a table: one line, with what would be markup, HTML or a link escaped."""
    line = " ".join(printable(str(text)).split())
    line = SPECIAL.sub(lambda match: f"\\{match[0]}", line)
    return HTML.sub(lambda match: "&lt;" if match[0] == "<" else "&amp;", line)


def code(text: object) -> str:
    """A text as a code span, whatever backticks it has."""
    line = " ".join(printable(str(text)).split())
    fence = _fence(line, 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def block(text: str, language: str = "") -> str:
    """Lines as a code block, whatever backticks they have."""
    fence = _fence(text, 3)
    return f"{fence}{language}\n{printable(text)}\n{fence}"


def _fence(text: str, least: int) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
