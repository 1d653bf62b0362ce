"""The remarks below a table: how it could be wrong, and its rows compared image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ardor.errors import ConfigError
from ardor.evaluation.comparison import Comparison, compare
from ardor.evaluation.comparison.wording import holm_verdicts
from ardor.evaluation.report import Report
from ardor.experiments.field import FIELD
from ardor.experiments.rows import SINGLE, WORST, Row
from ardor.experiments.tables import EPS, Table, TableSpec

TITLES = {
    "whitebox": "White-box robustness",
    "blackbox": "Black-box robustness: transfer and queries",
    "labels": "Which labels help: hard, smoothed, natural or robust, in the inner and the outer problem",
    "alpha": "RSLAD's alpha: how much of the loss is adversarial",
    "methods": "Every method under one recipe",
    "ingredients": "RSLAD with what helps any loss, each alone and together",
    "alignment": "Variance-gap alignment: which term, on which images, to which student",
}

REFERENCE = {"alpha": ("5/6",), "labels": ("robust", "robust"), "ingredients": ("plain",)}
"""The row that the others of a study are compared with: RSLAD."""

TOLERANCE = 0.005
"""Accuracy by which two attacks of nearly the same strength may change places on a few thousand images."""


def title_of(spec: TableSpec) -> str:
    """The title of a table; a smoke test is a trial."""
    return ("Trial: " if spec.scale.name == "smoke" else "") + TITLES[spec.kind]


def notes(spec: TableSpec, rows: Sequence[Row]) -> Iterator[str]:
    """The limits of the table's evidence."""
    if spec.scale.name == "smoke":
        yield "Scale smoke only shows that everything runs: its figures mean nothing."
    if not spec.scale.full:
        yield (
            "Other nets, another recipe, fewer epochs and images than the papers': a difference to the paper's figure "
            "is no evidence about the method, and the order of the methods here need not be theirs."
        )
        yield "No method was tuned for itself: all share one short recipe, weights and temperatures at their defaults."
        if not spec.teacher:
            yield "The teacher was trained here (SAT), once: the seeds are of the students alone."
    if spec.kind in FIELD:
        yield (
            f"{WORST} is the class with the fewest images right under every attack of `paper`, in each seed anew: the "
            "lowest of several noisy figures, which is below the true one as a rule, and whose interval does not "
            "count the choice. The variance gap is that of the checkpoint best."
        )
    if spec.kind in FIELD and spec.seeds == 1:
        yield (
            "One seed in each row: another seed of the same row may differ as much as two rows do, so that the table "
            "shows nothing about differences between rows. The paired comparisons are of these nets alone."
        )
    for name, n in sorted({(name, n) for row in rows for name, n in row.n.items() if name in SINGLE}):
        yield f"{name} saw {n:,} images, classes in proportion: see its intervals."
    if spec.eps != EPS.get(spec.data, spec.eps):
        yield f"The radius is {spec.eps}, not the papers' {EPS[spec.data]}, so that their figures are left out."
    departures = {"--teacher": spec.teacher, "--limit": spec.train, "--transfer_from": spec.transfer_from}
    if spec.scale.full and (given := [option for option, value in departures.items() if value]):
        yield f"{', '.join(given)}: another setting than the paper's, whose figures stand beside all the same."
    yield (
        "The interval of one seed is of the choice of test images alone; of several it also holds the spread of "
        "training. The number of seeds behind the paper's figures is not published."
    )


def doubts(rows: Sequence[Row]) -> Iterator[str]:
    """Relations that hold in every adversarially trained row of the papers, where ours break them."""
    for row in rows:
        mean = {name: value.value for name, value in row.values.items()}
        if row.parts[-1] in ("natural", "kd") or not {"fgsm", "pgd_trades", "cw_inf"} <= set(mean):
            continue
        for low, high in pairwise(("cw_inf", "pgd_trades", "fgsm", "clean")):
            if mean[low] > mean[high] + TOLERANCE:
                yield (
                    f"{', '.join(row.parts)} ({row.checkpoint}): {low} {100 * mean[low]:.1f} is above {high} "
                    f"{100 * mean[high]:.1f}; in every such row of the papers it is below: type ardor doctor on its run"
                )


def pairs(table: Table, rows: Sequence[Row]) -> Iterator[str]:
    """Every row against RSLAD's of the same student, image by image, over the seeds of both; p corrected by Holm."""
    compared: dict[str, Comparison] = {}
    refused: list[str] = []
    for row in rows:
        parts = REFERENCE.get(table.spec.kind) or (*row.parts[:-1], "rslad")
        other = next((r for r in rows if (r.parts, r.checkpoint) == (parts, row.checkpoint)), None)
        if row.checkpoint != rows[0].checkpoint or other is None or row is other:
            continue
        common = {suite: _common(row, other, suite) for suite in ("autoattack", "apgd", "square", "paper")}
        suite = next((suite for suite, (reports, _) in common.items() if reports), None)
        if suite is None:
            continue
        names = (" ".join(table.spec.row_labels(row.parts)), " ".join(table.spec.row_labels(other.parts)))
        title = f"A = {names[0]}; B = {names[1]}; under {suite}"
        try:
            compared[title] = compare(*common[suite], names)
        except ConfigError as error:  # the reports differ in more than they should
            refused.append(f"{title}: not compared: {error}")
    yield from (f"{title}: {verdict}" for title, verdict in holm_verdicts(compared).items())
    yield from refused


def _common(row: Row, other: Row, suite: str) -> tuple[list[Report], list[Report]]:
    """The reports of both rows for the seeds that both have."""
    a, b = (dict(zip(r.seeds, r.reports.get(suite, []), strict=False)) for r in (row, other))
    seeds = [seed for seed in a if seed in b]
    return [a[seed] for seed in seeds], [b[seed] for seed in seeds]
