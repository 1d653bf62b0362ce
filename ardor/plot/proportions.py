"""Accuracies with their intervals, a row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from matplotlib.axes import Axes

from ardor.errors import ConfigError
from ardor.plot.axes import short
from ardor.plot.sheet import Figure, sheet
from ardor.plot.style import INK, KNOWN

MOST = 40
"""Rows of a panel at most."""


class Share(Protocol):
    """An accuracy with its 95 % interval, both in [0, 1]."""

    @property
    def value(self) -> float:
        """The accuracy."""

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound."""


def accuracies(figures: Mapping[str, Share], classes: Mapping[str, Share] | None = None, title: str = "") -> Figure:
    """A dot and a whisker per accuracy; those of the classes in a panel beside it.

    Parameters
    ----------
    figures : mapping of str to Proportion
        Such as `report.figures()`.
    classes : mapping of str to Proportion, optional
        Such as `report.per_class()`.
    title : str
        Above the figure.

    Returns
    -------
    matplotlib.figure.Figure
        With one axes, or two.

    Raises
    ------
    ConfigError
        Without an accuracy.
    """
    panels = [panel for panel in (figures, classes or {}) if panel]
    if not panels or not all(hasattr(share, "interval") for panel in panels for share in panel.values()):
        raise ConfigError("expected accuracies by name, got none: pass report.figures(), or type report.plot()")
    rows = min(MOST, max(map(len, panels)))
    with sheet(4.6 * len(panels), 1.1 + 0.3 * rows) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for ax, panel, text in zip(axes, panels, ("accuracy, %", "robust to every attack, %"), strict=False):
            _rows(ax, panel)
            ax.set(xlim=(0, 100), xlabel=text)
        figure.suptitle(title, fontsize=10.5, color=INK)
    return figure


def _rows(ax: Axes, panel: Mapping[str, Share]) -> None:
    colour = KNOWN["rslad"].colour
    shown = list(panel.items())[:MOST]
    for y, (_, share) in enumerate(shown):
        ax.plot([100 * end for end in share.interval], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
        ax.plot(100 * share.value, y, "o", color=colour, markersize=6, clip_on=False)
        ax.text(1.02, y, f"{100 * share.value:.1f}", transform=ax.get_yaxis_transform(), va="center")
    names = [short(name, 20) for name, _ in shown]
    ax.set_yticks(range(len(shown)), names, color=INK)
    if len(panel) > MOST:
        ax.set_title(f"the first {MOST} of {len(panel)}")
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
