"""What a notebook shows of a Report, a Split, a Comparison or the epochs of a run: a table, and an image below."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

LINES = 13
"""Rows of a table at most; the number of further ones is the last row."""
SIDE = 48
"""Pixels of the images of a strip, at least; smaller ones are enlarged by a whole factor."""


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], image: bytes = b"", alt: str = "") -> str:
    """One HTML table of at most 19 lines, every text in it escaped, and a line with an image.

    Parameters
    ----------
    title : str
        Its caption.
    head : sequence of str
        Names of the columns.
    rows : sequence of sequence of str
        The cells.
    image : bytes
        A PNG; none if empty.
    alt : str
        What the image shows.
    """
    shown = [_row("td", row) for row in rows[:LINES]]
    if len(rows) > LINES:
        shown.append(f'<tr><td colspan="{len(head)}">and {len(rows) - LINES} more</td></tr>')
    lines = ["<table>", f"<caption>{escape(title)}</caption>", _row("th", head), *shown, "</table>"]
    if image:
        lines.append(f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(image).decode()}">')
    return "\n".join(lines)


def _row(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"


def strip(images: np.ndarray) -> bytes:
    """A PNG of images side by side.

    Parameters
    ----------
    images : (N, C, H, W) float in [0, 1]
        Grey for one or two channels, else RGB of the first three.
    """
    pixels = (images.clip(0, 1) * 255).round().astype(np.uint8)
    pixels = pixels[:, :1].repeat(3, 1) if pixels.shape[1] < 3 else pixels[:, :3]
    factor = -(-SIDE // pixels.shape[2])
    step = max(1, pixels.shape[2] // (2 * SIDE))
    pixels = pixels[:, :, ::step, ::step].repeat(factor, 2).repeat(factor, 3)
    pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 0), (0, 2)), constant_values=255)
    out = io.BytesIO()
    Image.fromarray(np.concatenate(list(pixels.transpose(0, 2, 3, 1)), axis=1)).save(out, "PNG", optimize=True)
    return out.getvalue()
