"""Curves of training: validation accuracies and loss over the epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ardor.errors import ConfigError, shown
from ardor.plot.axes import short
from ardor.plot.results import by_name
from ardor.plot.sheet import Figure, sheet
from ardor.plot.style import INK, MUTED, Style, styles_for
from ardor.storage.runs import Run

Records: TypeAlias = list[Mapping[str, Any]]

DASHES: tuple[Any, ...] = ((0, (4, 2)), (0, (1, 1.2)), "-.", (0, (6, 1, 1, 1, 1, 1)))


def curves(epochs: Any) -> Figure:
    """Validation accuracies above, loss below, over the epochs of one run or of several.

    Parameters
    ----------
    epochs : iterable of EpochRecord, str, Path, or dict
        The records that `ardor.epochs` yields, or the folder of a run; a dict of names to these draws several runs
        together.

    Returns
    -------
    matplotlib.figure.Figure
        With one pair of axes, or the loss alone where nothing was validated.

    Raises
    ------
    ConfigError
        For anything else, and where there is no epoch.
    RunError
        For a folder that is no run.
    """
    runs = {name: _records(value) for name, value in by_name(epochs, "run").items()}
    styles = styles_for(runs)
    validated = any(_values(records, "val_robust")[0] for records in runs.values())
    with sheet(6.4, 4.8 if validated else 2.8) as figure:
        ratios = [3, 2] if validated else [1]
        axes = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
        for name, records in runs.items():
            if validated:
                _accuracies(axes[0], name if len(runs) > 1 else "", records, styles[name])
            _losses(axes[-1], name, records, styles[name], alone=len(runs) == 1)
        axes[-1].set(xlabel="epoch", ylabel="loss")
        axes[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
        if validated:
            axes[0].set(ylim=(0, 100), ylabel="validation accuracy, %")
        for ax in axes:
            if ax.get_legend_handles_labels()[1]:
                ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _records(value: Any) -> Records:
    """The records of epochs as mappings. Raises ConfigError."""
    found = value
    if isinstance(value, str | Path):
        found = Run(value).metrics() if Run(value).config else []
    records = list(_sound(found)) if isinstance(found, Iterable) else []
    if not records:
        raise ConfigError(
            f"expected at least one epoch, got {shown(value)}: pass the records of ardor.epochs, or the folder of a run"
        )
    return records


def _sound(value: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for record in value:
        fields: Mapping[str, Any] = record if isinstance(record, Mapping) else getattr(record, "__dict__", {})
        if not {"epoch", "loss"} <= set(fields):
            raise ConfigError(
                f"expected records of epochs, got {type(record).__name__}: pass those of ardor.epochs, or the folder "
                "of a run"
            )
        yield fields


def _values(records: Records, key: str, scale: float = 1.0) -> tuple[list[int], list[float]]:
    """The epochs that have a figure, and the figures."""
    some = [record for record in records if record.get(key) is not None]
    return [record["epoch"] for record in some], [scale * record[key] for record in some]


def _accuracies(ax: Axes, name: str, records: Records, style: Style) -> None:
    for key, text, dash, width in (
        ("val_robust", "robust", "-", 2.0),
        ("val_clean", "clean", (0, (3, 1.5)), 1.2),
        ("averaged_robust", "robust, average", (0, (1, 1.2)), 1.6),
    ):
        x, y = _values(records, key, 100)
        if x:
            label = f"{short(name)} {text}".strip()
            ax.plot(x, y, color=style.colour, linestyle=dash, linewidth=width, marker=_dots(x), label=label)
    best = [record for record in records if record.get("best") and record.get("val_robust") is not None]
    for record in best[-1:]:
        point = record["epoch"], 100 * record["val_robust"]
        ax.plot(*point, "o", markersize=9, color=INK, fillstyle="none", label=None if name else "best")


def _losses(ax: Axes, name: str, records: Records, style: Style, *, alone: bool) -> None:
    x, total = _values(records, "loss")
    ax.plot(x, total, color=style.colour, linewidth=1.6, marker=_dots(x), label="loss" if alone else short(name))
    terms = dict.fromkeys(term for record in records for term in record.get("terms") or {})
    for term, dash in zip(terms if alone and len(terms) > 1 else (), cycle(DASHES)):
        y = [(record.get("terms") or {}).get(term, math.nan) for record in records if record.get("loss") is not None]
        ax.plot(x, y, color=MUTED, linewidth=1.1, linestyle=dash, label=short(term))


def _dots(x: list[int]) -> str:
    """A marker where points are few: a single epoch has no line."""
    return "." if len(x) < 20 else ""
