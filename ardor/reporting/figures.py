"""Figures of the page, as matplotlib Figures to be drawn inside `ardor.plot.style.calm()`.

Every panel is narrow enough for a telephone; the page sets panels side by side where there is room. Nets are told apart
by direct labels or by panels of their own, so ten stay readable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ardor.deployment.variants.comparison import VARIANTS
from ardor.evaluation.proportion import Proportion, Summary
from ardor.evaluation.variance import GapPoint, pearson
from ardor.plot.axes import label_ends, mark_eps, radius_text, radius_ticks, radius_unit, short
from ardor.plot.style import INK, MUTED, SHADE, Style
from ardor.reporting.entry import PageEntry

Forms: TypeAlias = Sequence[tuple[str, int, Proportion]]
"""Of each form of a net its name, its size in bytes and its worst case."""

FILLS: dict[str, Any] = {"float32": "full", "onnx": "none", "onnx-int8": "bottom"}
"""How a form's marker is filled: ONNX is a ring, so that float32, which it equals, is visible inside."""

HALF, THIRD = 5.0, 4.2  # inches of 72 units: a panel of which two, or three, stand side by side


def accuracy(entries: list[PageEntry], summaries: list[Summary], styles: dict[str, Style], title: str) -> Figure:
    """One dot and whisker per net, teachers apart; with several seeds a small dot for each."""
    order = sorted(range(len(entries)), key=lambda i: entries[i].role != "teacher")
    teachers = sum(entry.role == "teacher" for entry in entries)
    height = {i: -place - 0.6 * (place >= teachers > 0) for place, i in enumerate(order)}
    names = [short(entries[i].name) for i in height]
    figure = _sheet(HALF, 1.0 + 0.36 * len(entries), left=0.2 + 0.083 * max(map(len, names)), right=0.55)
    ax = figure.add_subplot(title=title, xlim=(0, 100), xlabel="accuracy, %")
    for i, summary in enumerate(summaries):
        _dot(ax, summary, height[i], styles[entries[i].name], f"tip: {entries[i].name}, {title}: {details(summary)}")
    if 0 < teachers < len(entries):
        ax.axhline(0.2 - teachers, color=MUTED, linewidth=0.8)
    ax.set_yticks(list(height.values()), names, color=INK)
    ax.set_ylim(min(height.values()) - 0.7, 0.7)
    ax.tick_params(axis="y", length=0, pad=8)  # a mark at 0 is half as wide
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    return figure


def details(summary: Summary) -> str:
    """An accuracy in words: images, interval, and each seed where there are several."""
    if len(summary.seeds) == 1:
        return details_of(summary.seeds[0])
    seeds = "; ".join(f"seed {i}: {details_of(p)}" for i, p in enumerate(summary.seeds))
    return f"{summary} % over {len(summary.seeds)} seeds; {seeds}"


def details_of(p: Proportion) -> str:
    """45.0 %, 45 of 100 images, with Wilson's interval."""
    low, high = p.interval
    return f"{100 * p.value:.1f} %, {p.k:,} of {p.n:,} images, 95 % interval {100 * low:.1f} to {100 * high:.1f}"


def _dot(ax: Axes, summary: Summary, y: float, style: Style, gid: str) -> None:
    ends = [min(max(100 * end, 0), 100) for end in summary.interval]  # mean - SD may be below 0
    ax.plot(ends, [y, y], color=style.colour, linewidth=2, solid_capstyle="butt", clip_on=False, gid=gid)
    ax.plot(100 * summary.value, y, style.marker, color=style.colour, markersize=6, clip_on=False, gid=gid)
    if len(summary.seeds) > 1:
        dots = [100 * p.value for p in summary.seeds]
        ax.plot(dots, [y - 0.3] * len(dots), "o", color=style.colour, markersize=2.4, clip_on=False)
    ax.text(1.03, y, f"{100 * summary.value:.1f}", transform=ax.get_yaxis_transform(), va="center")


def training(entry: PageEntry, style: Style, others: list[PageEntry]) -> Figure:
    """Accuracies on the validation images above, the loss and its terms below; the other students in grey."""
    validated = any(record.get("val_robust") is not None for record in entry.curve)
    figure = _sheet(THIRD, 4.1 if validated else 2.4, right=0.85, hspace=0.42)
    axes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2]) if validated else [figure.add_subplot()]
    if validated:
        for other in others:
            axes[0].plot(*_series(other, "val_robust"), color=SHADE, linewidth=1, zorder=1)
        _validation(axes[0], entry, style)
    _losses(axes[-1], entry, style)
    axes[0].set_title(short(entry.name, 30), fontweight="bold", pad=8 if validated else 20)
    axes[-1].set(xlabel="epoch", xlim=(0, entry.curve[-1]["epoch"]))
    axes[-1].xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def _validation(ax: Axes, entry: PageEntry, style: Style) -> None:
    ends = {}
    for name, key, width, dash in (("clean", "val_clean", 1.2, (0, (3, 1.5))), ("robust", "val_robust", 2.0, "-")):
        x, y = _series(entry, key)
        ax.plot(x, y, color=style.colour, linewidth=width, linestyle=dash, marker=_dots(x), clip_on=False)
        if y:
            ends[name] = y[-1]
    label_ends(ax, ends, dict.fromkeys(ends, style), gap=10)
    for record in [r for r in entry.curve if r.get("best") and r.get("val_robust") is not None][-1:]:
        point = record["epoch"], 100 * record["val_robust"]
        ax.plot(*point, "o", markersize=9, color=INK, fillstyle="none", clip_on=False)
    ax.set(ylim=(0, 100), ylabel="validation, %")


def _losses(ax: Axes, entry: PageEntry, style: Style) -> None:
    x, total = _series(entry, "loss", 1)
    ax.plot(x, total, color=style.colour, linewidth=1.6, label="loss", marker=_dots(x))
    names = dict.fromkeys(name for record in entry.curve for name in record.get("terms", {}))
    for name, dash in zip(names if len(names) > 1 else (), cycle(((0, (4, 2)), (0, (1, 1.2)), "-."))):
        y = [record.get("terms", {}).get(name, math.nan) for record in entry.curve]
        ax.plot(x, y, color=MUTED, linewidth=1.1, linestyle=dash, label=short(name, 12))
    ax.set_ylabel("loss")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.03, 1), ncols=3, borderaxespad=0, handlelength=2, columnspacing=1)


def _dots(x: list[int]) -> str:
    """A marker where points are few: a single epoch has no line."""
    return "." if len(x) < 20 else ""


def _series(entry: PageEntry, key: str, scale: float = 100) -> tuple[list[int], list[float]]:
    """Epochs and values of the records that have the key."""
    records = [record for record in entry.curve if record.get(key) is not None]
    return [record["epoch"] for record in records], [scale * record[key] for record in records]


def radius(entries: list[PageEntry], styles: dict[str, Style], eps: list[float]) -> Figure:
    """Robust accuracy over the radius, one line per net, named at its end."""
    scale, unit = radius_unit([p.eps for entry in entries for p in entry.gaps])
    figure = _labelled_sheet([entry.name for entry in entries])
    ax = figure.add_subplot(ylim=(0, 100), xlabel=f"radius eps{unit}", ylabel="robust accuracy, %")
    for entry in entries:
        x, y = [scale * p.eps for p in entry.gaps], [100 * p.accuracy for p in entry.gaps]
        style = styles[entry.name]
        ax.plot(x, y, **_line(style), linestyle=style.dash, linewidth=1.7, clip_on=False)
    ax.set_xlim(0, scale * max(p.eps for entry in entries for p in entry.gaps))
    radius_ticks(ax, scale)
    mark_eps(ax, eps, scale)
    # nets that end at the same accuracy in the order of their accuracies before
    ordered = sorted(entries, key=lambda entry: sum(p.accuracy for p in entry.gaps))
    ends = {entry.name: 100 * entry.gaps[-1].accuracy for entry in ordered}
    label_ends(ax, ends, styles, gap=6)
    return figure


def size(forms: Mapping[str, Forms], styles: dict[str, Style]) -> Figure:
    """Worst-case accuracy over the size of the file: a net's forms joined by a line, named at its right.

    forms: by net, of each form its name, size in bytes and worst case. Nets of one size stand a little beside it.
    """
    figure = _labelled_sheet(list(forms))
    ax = figure.add_subplot(xscale="log", xlabel="size of the file", ylabel="robust to every attack, %")
    sizes = [size for each in forms.values() for _, size, _ in each]
    low, high = math.log10(min(sizes)) - 0.12, math.log10(max(sizes)) + 0.12
    top = max(share.interval[1] for each in forms.values() for _, _, share in each)
    ax.set(xlim=(10**low, 10**high), ylim=(0, min(100, 10 * math.ceil(10 * top + 0.2))))
    aside = _asides({name: each[0][1] for name, each in forms.items()}, 0.028 * (high - low))
    ends = {}
    for name, each in forms.items():
        _forms(ax, each, styles[name], 10 ** aside[name])
        _, largest, share = max(each, key=lambda form: form[1])
        ends[name] = 100 * share.value
        reach = [largest * 10 ** aside[name], 10**high]
        ax.plot(reach, [ends[name]] * 2, color=styles[name].colour, linewidth=0.6, zorder=1)
    label_ends(ax, ends, styles, gap=0.06 * ax.get_ylim()[1])
    _size_ticks(ax, low, high)
    for form, fill in FILLS.items():
        ax.plot([], [], "o", color=MUTED, fillstyle=fill, markersize=6, label=VARIANTS[form])
    ax.legend(loc="lower left", bbox_to_anchor=(-0.03, 1), ncols=3, borderaxespad=0, handletextpad=0.2, columnspacing=1)
    return figure


def _forms(ax: Axes, forms: Forms, style: Style, aside: float) -> None:
    """One net: whiskers of Wilson's 95 % interval, a marker filled by the form, and a line through them."""
    x, y = [size * aside for _, size, _ in forms], [100 * share.value for _, _, share in forms]
    ax.plot(x, y, color=style.colour, linestyle=style.dash, linewidth=1.2)
    for (name, _, share), place, value in zip(forms, x, y, strict=True):
        ends = [100 * end for end in share.interval]
        ax.plot([place] * 2, ends, color=style.colour, linewidth=1.4, alpha=0.6, solid_capstyle="butt", clip_on=False)
        mark: dict[str, Any] = {"fillstyle": FILLS[name], "markerfacecoloralt": "white", "markeredgewidth": 1.2}
        behind = {"markersize": 9.5, "zorder": 2.5} if name == "onnx" else {"markersize": 6, "zorder": 3}
        ax.plot(place, value, style.marker, color=style.colour, clip_on=False, **mark, **behind)


def _asides(sizes: Mapping[str, int], step: float) -> dict[str, float]:
    """How far to move each net, in powers of ten, so that those within 2 % of one size stand side by side."""
    groups: dict[int, list[str]] = {}
    for name, size in sizes.items():
        groups.setdefault(next((other for other in groups if abs(size / other - 1) < 0.02), size), []).append(name)
    return {name: step * (i - (len(g) - 1) / 2) for g in groups.values() for i, name in enumerate(g)}


def _size_ticks(ax: Axes, low: float, high: float) -> None:
    """Ticks at round sizes: 20 kB, 1 MB; fewer of them where the axis is long."""
    span = high - low
    steps = (1, 1.5, 2, 3, 4, 5, 7) if span < 0.8 else (1, 2, 5) if span < 1.6 else (1, 3) if span < 2.4 else (1,)
    sizes = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in steps]
    places = [size for size in sizes if low <= math.log10(size) <= high]
    ax.set_xticks(places, [f"{p / 1e6:g} MB" if p >= 999_500 else f"{p / 1e3:g} kB" for p in places])
    ax.set_xticks([], minor=True)


def trend(entry: PageEntry, style: Style, eps: list[float]) -> Figure:
    """Robust accuracy against the variance gap above, the signed gap over the radius below."""
    scale, unit = radius_unit([p.eps for p in entry.gaps])
    figure = _sheet(THIRD, 4.7, right=0.2, hspace=0.6)
    above, below = figure.subplots(2, 1, height_ratios=[3, 2])
    above.set_title(f"{short(entry.name, 22)}, r = {correlation(entry.gaps)}", fontweight="bold")
    signed = [100 * p.relative for p in entry.gaps]
    above.plot([abs(s) for s in signed], [100 * p.accuracy for p in entry.gaps], **_line(style), linewidth=1.5)
    above.set(ylim=(0, 100), xlabel="variance gap, % of the clean variance", ylabel="robust accuracy, %")
    below.axhline(0, color=MUTED, linewidth=0.8)
    below.plot([scale * p.eps for p in entry.gaps], signed, **_line(style), linewidth=1.5)
    mark_eps(below, eps, scale, label=False)
    if turn := bend(entry.gaps):
        below.plot(scale * turn.eps, 100 * turn.relative, "o", markersize=11, color=INK, fillstyle="none")
    title = f"turns back at {radius_text(turn.eps, scale)}" if turn else "does not turn back"
    below.set_title(title, color=MUTED, fontsize=9.5)
    below.margins(y=0.18)
    radius_ticks(below, scale)
    below.set(xlabel=f"radius eps{unit}", ylabel="signed gap, %")
    return figure


def bend(points: list[GapPoint]) -> GapPoint | None:
    """The point at which the signed gap turns back by more than 2 % of its range; None where it does not."""
    slack = 0.02 * (max(p.signed for p in points) - min(p.signed for p in points))
    far, way = points[0], 0.0
    for p in points[1:]:
        step = p.signed - far.signed
        if way * step > 0 or (way == 0 and abs(step) > slack):
            far, way = p, step
        elif way * step < 0 and abs(step) > slack:
            return far
    return None


def correlation(points: list[GapPoint]) -> str:
    """Pearson's r to two places, with a true minus; "undefined" where either side is constant."""
    r = pearson(points)
    return "undefined" if math.isnan(r) else f"{r:.2f}".replace("-", "−")


def _line(style: Style) -> dict[str, Any]:
    return {"color": style.colour, "marker": style.marker, "markersize": 4.5}


def _labelled_sheet(names: list[str]) -> Figure:
    """An empty figure with room for the names to the right, at the ends of lines."""
    return _sheet(
        HALF, 4.4 if len(names) < 7 else 5.6, right=0.45 + 0.083 * max(len(short(name, 17)) for name in names)
    )


def _sheet(width: float, height: float, *, left: float = 0.62, right: float, hspace: float = 0) -> Figure:
    """An empty figure with margins in inches: the same for all panels of a kind, so that they align on the page."""
    figure = Figure(figsize=(width, height))
    edges = {"left": left / width, "right": 1 - right / width, "bottom": 0.55 / height, "top": 1 - 0.32 / height}
    figure.subplots_adjust(**edges, hspace=hspace)
    return figure
