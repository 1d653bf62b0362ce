"""Accuracy of each class, and the class that a net predicts in its place."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ardor.evaluation.proportion import Proportion
from ardor.evaluation.variance import GapPoint
from ardor.reporting.entry import PageEntry
from ardor.reporting.table import Table

MOST = 20
"""Classes, or pairs of them, in a table of the page; the files to download have all."""


@dataclass(frozen=True)
class ClassTable:
    """Worst case and clean accuracy of each class for each net of a table, all seeds together.

    rows: the classes, of more than `MOST` those with the lowest mean worst case; left_out: how many others.
    """

    title: str
    nets: list[str]
    rows: list[tuple[str, list[tuple[Proportion, Proportion]]]]
    left_out: int


@dataclass(frozen=True)
class Confusion:
    """Images of a net by true and predicted class, clean or under PGD at a radius.

    matrix: by true class, of each predicted class the images and their share of the true class, for at most `MOST`
    classes; else pairs: the most frequent mistakes, as true class, predicted class, images, images of the true class.
    """

    net: str
    eps: float
    n: int
    names: list[str]
    matrix: list[list[tuple[int, float]]]
    pairs: list[tuple[str, str, int, int]]


def by_class(table: Table, most: int | None = MOST) -> ClassTable:
    """The accuracies by class of a table's nets."""
    of = {e.name: {figure: _pooled(e, figure) for figure in ("worst_case", "clean")} for e in table.entries}
    classes = list(next(iter(of.values()))["worst_case"])
    lowest = sorted(classes, key=lambda name: sum(net["worst_case"][name].value for net in of.values()))
    shown = classes if most is None or len(classes) <= most else lowest[:most]
    rows = [(name, [(net["worst_case"][name], net["clean"][name]) for net in of.values()]) for name in shown]
    return ClassTable(table.title, list(of), rows, len(classes) - len(shown))


def _pooled(entry: PageEntry, figure: str) -> dict[str, Proportion]:
    """The accuracy of each class over the images of all seeds."""
    seeds = [report.per_class(figure) for report in entry.reports]
    return {
        name: Proportion(sum(seed[name].k for seed in seeds), sum(seed[name].n for seed in seeds)) for name in seeds[0]
    }


def confusions(entry: PageEntry) -> list[Confusion]:
    """Clean, and under attack at the radius of the results; [] where the predictions were not kept."""
    points = {round(point.eps, 6): point for point in entry.gaps if point.confusion}
    chosen = [points[eps] for eps in (0.0, round(entry.radius, 6)) if eps in points]
    return [_confusion(entry, point) for point in chosen] if len(chosen) == 2 else []


def _confusion(entry: PageEntry, point: GapPoint) -> Confusion:
    names = entry.reports[0].data["class_names"]
    images = {(true, predicted): count for true, predicted, count in point.confusion}
    total = Counter[int]()
    for (true, _), count in images.items():
        total[true] += count
    matrix, pairs = [], []
    if len(names) <= MOST:
        matrix = [
            [(images.get((true, k), 0), images.get((true, k), 0) / max(total[true], 1)) for k in range(len(names))]
            for true in range(len(names))
        ]
    else:
        wrong = sorted((pair for pair in images if pair[0] != pair[1]), key=lambda pair: -images[pair])[:MOST]
        pairs = [(names[true], names[k], images[true, k], total[true]) for true, k in wrong]
    return Confusion(entry.name, point.eps, point.n, names, matrix, pairs)
