"""What axes share: names at the ends of lines, and radii in 1/255 where they are such."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ardor.plot.style import INK, Style


def mark_eps(ax: Axes, eps: list[float], scale: float, *, label: bool = True) -> None:
    """A dashed line at each radius of an evaluation."""
    for value in eps:
        ax.axvline(scale * value, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        if label:
            text = f"eps {radius_text(value, scale)}"
            ax.text(scale * value, 1.01, text, transform=ax.get_xaxis_transform(), ha="center", va="bottom", fontsize=9)


def radius_ticks(ax: Axes, scale: float) -> None:
    """Radii in 1/255 at whole numbers; others are longer to write, so fewer of them."""
    ax.xaxis.set_major_locator(MaxNLocator(9 if scale == 255 else 5, steps=[1, 2, 4, 5, 10], integer=scale == 255))


def label_ends(ax: Axes, ends: dict[str, float], styles: dict[str, Style], gap: float) -> None:
    """Each line's name to its right, moved apart where lines end together, with a thread to the line's end."""
    names = sorted(ends, key=lambda name: ends[name])
    beside = ax.get_yaxis_transform()
    places = spread([ends[name] for name in names], gap, *ax.get_ylim())
    for name, place in zip(names, places, strict=True):
        colour = styles[name].colour
        ax.plot([1.0, 1.06], [ends[name], place], color=colour, linewidth=0.8, transform=beside, clip_on=False)
        ax.text(1.07, place, short(name, 17), transform=beside, color=INK, va="center", fontsize=9.5)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels, at least `gap` apart and inside low .. high, the nearest to those wanted (ascending)."""
    steps = gap * np.arange(len(wanted))
    places = scipy.optimize.isotonic_regression(np.asarray(wanted) - steps).x
    return list(np.clip(places, low, high - gap * (len(wanted) - 1)) + steps)


def radius_unit(radii: Sequence[float]) -> tuple[float, str]:
    """Factor and label of the unit of radii: 1/255 where they are whole multiples of it and not round themselves."""
    whole = all(math.isclose(255 * r, round(255 * r), abs_tol=1e-6) for r in radii)
    return (1, "") if not whole or all(r == float(f"{r:.2g}") for r in radii) else (255, ", in 1/255")


def radius_text(eps: float, scale: float) -> str:
    """A radius with the factor of `radius_unit`: "8/255" or "0.2"."""
    return f"{eps:.3g}" if scale == 1 or eps == 0 else f"{255 * eps:.3g}/255"


def short(name: str, most: int = 18) -> str:
    """A name that fits beside a figure."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
