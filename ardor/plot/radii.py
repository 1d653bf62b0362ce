"""Robust accuracy over the radius, and against the variance gap of the features."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from ardor.errors import ConfigError
from ardor.plot.axes import label_ends, mark_eps, radius_ticks, radius_unit
from ardor.plot.results import by_name
from ardor.plot.sheet import Figure, sheet
from ardor.plot.style import MUTED, Style, styles_for


class Point(Protocol):
    """A radius with its robust accuracy, as `ardor.variance_gap` gives them."""

    @property
    def eps(self) -> float:
        """Radius."""

    @property
    def accuracy(self) -> float:
        """Robust accuracy in [0, 1]."""

    @property
    def relative(self) -> float:
        """Signed variance gap over the clean variance; NaN without features."""


def radius(points: Any, eps: float | None = None) -> Figure:
    """Robust accuracy over the radius, a line per net.

    Parameters
    ----------
    points : list of GapPoint, or dict
        What `ardor.variance_gap` returns; a dict of names to such lists draws several nets.
    eps : float, optional
        Radius of the evaluation, marked.

    Returns
    -------
    matplotlib.figure.Figure
        With one axes.

    Raises
    ------
    ConfigError
        For anything else.
    """
    nets = {name: _points(value) for name, value in by_name(points, "net").items()}
    styles, (scale, unit) = styles_for(nets), _unit(nets, eps)
    with sheet(6.4, 4.0) as figure:
        ax = figure.add_subplot(ylim=(0, 100), xlabel=f"radius eps{unit}", ylabel="robust accuracy, %")
        for name, line in nets.items():
            x, y = [scale * p.eps for p in line], [100 * p.accuracy for p in line]
            ax.plot(x, y, **_line(styles[name]), linestyle=styles[name].dash, linewidth=1.7, clip_on=False)
        ax.set_xlim(0, max(scale * p.eps for line in nets.values() for p in line) or 1)
        radius_ticks(ax, scale)
        mark_eps(ax, [] if eps is None else [eps], scale)
        if len(nets) > 1:
            label_ends(ax, {name: 100 * line[-1].accuracy for name, line in nets.items()}, styles, gap=6)
    return figure


def variance_gap(points: Any, eps: float | None = None) -> Figure:
    """Robust accuracy against the variance gap at the left, the signed gap over the radius at the right.

    Parameters
    ----------
    points, eps
        As `radius` takes them, of nets with features.

    Returns
    -------
    matplotlib.figure.Figure
        With two axes.

    Raises
    ------
    ConfigError
        For anything else, and for a net without features.
    """
    nets = {name: _points(value) for name, value in by_name(points, "net").items()}
    for name, line in nets.items():
        if any(math.isnan(p.relative) for p in line):
            raise ConfigError(
                f"expected a variance gap at each radius, got none for {name}, a net without features: plot its radius"
            )
    styles, (scale, unit) = styles_for(nets), _unit(nets, eps)
    with sheet(8.4, 3.8) as figure:
        left, right = figure.subplots(1, 2)
        right.axhline(0, color=MUTED, linewidth=0.8)
        for name, line in nets.items():
            gaps, robust = [100 * p.relative for p in line], [100 * p.accuracy for p in line]
            label = (
                f"{name}, r = {_correlation(gaps, robust)}" if len(nets) > 1 else f"r = {_correlation(gaps, robust)}"
            )
            left.plot([abs(gap) for gap in gaps], robust, **_line(styles[name]), linewidth=1.5, label=label)
            right.plot([scale * p.eps for p in line], gaps, **_line(styles[name]), linewidth=1.5)
        left.set(ylim=(0, 100), xlabel="variance gap, % of the clean variance", ylabel="robust accuracy, %")
        left.legend()
        right.set(xlabel=f"radius eps{unit}", ylabel="signed gap, %")
        radius_ticks(right, scale)
        mark_eps(right, [] if eps is None else [eps], scale)
    return figure


def _points(value: Any) -> list[Point]:
    points = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else []
    if not points or not all(hasattr(p, "eps") and hasattr(p, "accuracy") for p in points):
        raise ConfigError(
            f"expected points over the radius, got {type(value).__name__}: pass ardor.variance_gap(net, test), or "
            "several of them by name"
        )
    return sorted(points, key=lambda p: float(p.eps))


def _unit(nets: dict[str, list[Point]], eps: float | None) -> tuple[float, str]:
    radii = [p.eps for line in nets.values() for p in line]
    return radius_unit(radii if eps is None else [*radii, eps])


def _line(style: Style) -> dict[str, Any]:
    return {"color": style.colour, "marker": style.marker, "markersize": 4.5}


def _correlation(gaps: list[float], robust: list[float]) -> str:
    """Pearson's r between the size of the gap and robust accuracy, to two places."""
    with np.errstate(invalid="ignore", divide="ignore"):
        r = float(np.corrcoef(np.abs(gaps), robust)[0, 1]) if len(gaps) > 1 else math.nan
    return "undefined" if math.isnan(r) else f"{r:.2f}".replace("-", "−")
