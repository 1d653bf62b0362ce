"""A figure that a notebook shows, drawn with the settings of `ardor.plot.style`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import figure as matplotlib_figure
from matplotlib import rc_context

from ardor.plot.style import calm

DPI = 110
"""Dots per inch of the image in a notebook."""


class Figure(matplotlib_figure.Figure):
    """A matplotlib Figure that a notebook shows as an image, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=DPI)
        return out.getvalue()


@contextmanager
def sheet(width: float, height: float, **options: Any) -> Iterator[Figure]:
    """An empty white figure of a size in inches, to be drawn inside; the settings before are restored on exit."""
    with calm(), rc_context({"figure.facecolor": "white", "savefig.facecolor": "auto"}):
        figure = Figure(figsize=(width, height), layout="constrained", **options)
        yield figure
        figure.draw_without_rendering()  # ticks are made at the first drawing, from the settings of then
