"""Robust accuracy against the number of labels, and against the size of the student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ardor.evaluation.proportion import Summary
from ardor.plot.style import Style

WIDTH, HEIGHT = 5.2, 4.2
LEGEND = 1.6
"""Inches: of a panel, and of the legend beside both."""


class Point(NamedTuple):
    """A method of a student: its labels, the student's parameters, and the robust accuracy over the seeds."""

    student: str
    method: str
    labels: int
    parameters: int
    robust: Summary


def labels_and_size(points: Sequence[Point], styles: dict[str, Style], title: str) -> Figure:
    """The first student's accuracy against labels; beside it, of several students, that against parameters.

    Whiskers are 95 % intervals. Points at one place stand a little beside each other.
    """
    students = list(dict.fromkeys(point.student for point in points))
    panels = 1 + (len(students) > 1)
    width = panels * WIDTH + LEGEND
    figure = Figure(figsize=(width, HEIGHT))
    figure.subplots_adjust(
        left=0.62 / width, right=1 - (LEGEND + 0.1) / width, bottom=0.62 / HEIGHT, top=1 - 0.45 / HEIGHT, wspace=0.18
    )
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    _labels(axes[0], [point for point in points if point.student == students[0]], styles)
    axes[0].set(title=f"{students[0]}: {title}", ylabel="robust accuracy, %")
    if panels > 1:
        _sizes(axes[1], points, styles)
        axes[1].set(title="all students, each method with its most labels")
    top = max(min(1.0, point.robust.interval[1]) for point in points)
    axes[0].set_ylim(0, min(100, 10 * math.ceil(10 * top + 0.2)))
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0)
    return figure


def _labels(ax: Axes, points: Sequence[Point], styles: dict[str, Style]) -> None:
    """Numbers of labels at even distances; without labels at the left, where a method goes on as a dotted line."""
    places = {labels: place for place, labels in enumerate(sorted({point.labels for point in points}))}
    for method, of_method, aside in _methods(points):
        x = [places[point.labels] + aside for point in of_method]
        _line(ax, x, of_method, styles[method], method)
        if of_method[0].labels == 0:
            level = 100 * of_method[0].robust.value
            ax.plot([x[0], len(places) - 0.6], [level] * 2, color=styles[method].colour, linewidth=0.8, linestyle=":")
    names = [f"{labels:,}" if labels else "none" for labels in places]
    ax.set_xticks(list(places.values()), names)
    ax.set(xlabel="labels of the student's training", xlim=(-0.5, len(places) - 0.5))


def _sizes(ax: Axes, points: Sequence[Point], styles: dict[str, Style]) -> None:
    """Each method with its most labels, over the students' parameters."""
    most = {point.method: max(p.labels for p in points if p.method == point.method) for point in points}
    for method, of_method, aside in _methods([point for point in points if point.labels == most[point.method]]):
        x = [point.parameters * 10 ** (0.3 * aside) for point in of_method]
        _line(ax, x, of_method, styles[method])
    sizes = sorted({point.parameters for point in points})
    ax.set_xscale("log")
    ax.set_xticks(sizes, [_count(size) for size in sizes])
    ax.set_xticks([], minor=True)
    ax.set(xlabel="parameters of the student")


def _count(size: int) -> str:
    """648, 2,294, 78 k, 2.7 M."""
    return f"{size:,}" if size < 1e4 else f"{size / 1e3:,.0f} k" if size < 1e6 else f"{size / 1e6:.1f} M"


def _methods(points: Sequence[Point]) -> list[tuple[str, list[Point], float]]:
    """Each method with its points in order, and how far beside their place they stand."""
    names = list(dict.fromkeys(point.method for point in points))
    ordered = sorted(points, key=lambda point: (point.labels, point.parameters))
    return [
        (name, [point for point in ordered if point.method == name], 0.06 * (i - (len(names) - 1) / 2))
        for i, name in enumerate(names)
    ]


def _line(ax: Axes, x: Sequence[float], points: Sequence[Point], style: Style, label: str | None = None) -> None:
    y = [100 * point.robust.value for point in points]
    ends = [[100 * max(0.0, min(1.0, end)) for end in point.robust.interval] for point in points]
    ax.plot(x, y, style.marker, color=style.colour, markersize=5.5, linestyle=style.dash, linewidth=1.2, label=label)
    for place, (low, high) in zip(x, ends, strict=True):
        ax.plot([place] * 2, [low, high], color=style.colour, linewidth=1.4, alpha=0.6, solid_capstyle="butt")
