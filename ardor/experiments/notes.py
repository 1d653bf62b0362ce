"""What a table says in words: how it could be wrong, and what is shown when two rows are compared image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ardor.errors import ConfigError
from ardor.evaluation.comparison.paired import Comparison, compare
from ardor.evaluation.comparison.wording import holm_verdicts
from ardor.evaluation.report import Report
from ardor.experiments.rows import WHOLE, Row
from ardor.experiments.tables import EPS, Table, TableSpec

TITLES = {
    "whitebox": "White-box robustness",
    "blackbox": "Black-box robustness: transfer and queries",
    "labels": "Which labels help: hard, smoothed, natural or robust, in the inner and the outer problem",
    "alpha": "RSLAD's alpha: how much of the loss is adversarial",
    "alignment": "Variance-gap alignment: which term, on which images, to which student",
}

AGAINST = {"alpha": ("5/6",), "labels": ("robust", "robust")}
"""The row that the others of a study are compared with: RSLAD."""


BY_CHANCE = 0.005
"""By how much two attacks of nearly the same strength may change places on a few thousand images."""


def notes(asked: TableSpec, rows: Sequence[Row]) -> Iterator[str]:
    """What no reader of the table may forget."""
    if asked.scale.name == "smoke":
        yield "Scale smoke only shows that everything runs: its figures mean nothing."
    if asked.scale.widest:
        yield (
            "Other nets, another recipe, fewer epochs and images than the papers': a difference to the paper's figure "
            "says nothing about the method, and the order of the methods here need not be theirs."
        )
        yield "No method was tuned for itself: all share one short recipe, weights and temperatures at their defaults."
        if not asked.teacher:
            yield "The teacher was trained here (SAT), once: the seeds are of the students alone."
    for name, n in sorted({(name, n) for row in rows for name, n in row.n.items() if name in WHOLE.values()}):
        yield f"{name} saw {n:,} images, classes in proportion: see its intervals."
    if asked.eps != EPS.get(asked.data, asked.eps):
        yield f"The radius is {asked.eps}, not the papers' {EPS[asked.data]}, so that their figures are left out."
    departs = {"--teacher": asked.teacher, "--limit": asked.train, "--transfer_from": asked.transfer_from}
    if not asked.scale.widest and (given := [option for option, value in departs.items() if value]):
        yield f"{', '.join(given)}: another setting than the paper's, whose figures stand beside all the same."
    yield (
        "The interval of one seed is of the choice of test images alone; of several it also holds the spread of "
        "training. The paper does not say over how many seeds its figures are."
    )


def doubts(rows: Sequence[Row]) -> Iterator[str]:
    """Relations that hold in every adversarially trained row of the papers, where ours break them."""
    for row in rows:
        mean = {name: value.mean for name, value in row.values.items()}
        if row.parts[-1] == "natural" or not {"fgsm", "pgd_trades", "cw_inf"} <= set(mean):
            continue
        order = ["cw_inf", "pgd_trades", "fgsm", "clean"]
        for low, high in pairwise(order):
            if mean[low] > mean[high] + BY_CHANCE:
                yield (
                    f"{', '.join(row.parts)} ({row.checkpoint}): {low} {100 * mean[low]:.1f} is above {high} "
                    f"{100 * mean[high]:.1f}; in every such row of the papers it is below: type ardor doctor on its run"
                )


def pairs(table: Table, rows: Sequence[Row]) -> Iterator[str]:
    """Every row against RSLAD's of the same student, image by image, over the seeds of both; p corrected by Holm."""
    compared: dict[str, Comparison] = {}
    refused: list[str] = []
    for row in rows:
        other = _against(table.asked, row, rows)
        if other is None or row is other:
            continue
        suite = next((s for s in ("autoattack", "apgd", "square", "paper") if _common(row, other, s)[0]), None)
        if suite is None:
            continue
        names = (" ".join(table.asked.called(row.parts)), " ".join(table.asked.called(other.parts)))
        said = f"A = {names[0]}; B = {names[1]}; under {suite}"
        try:
            compared[said] = compare(*_common(row, other, suite), names)
        except ConfigError as error:  # of reports that differ in more than they should
            refused.append(f"{said}: not compared: {error}")
    yield from (f"{said}: {verdict}" for said, verdict in holm_verdicts(compared).items())
    yield from refused


def _against(asked: TableSpec, row: Row, rows: Sequence[Row]) -> Row | None:
    if row.checkpoint != "best":
        return None
    parts = AGAINST.get(asked.kind) or (*row.parts[:-1], "rslad")
    return next((other for other in rows if other.parts == parts and other.checkpoint == row.checkpoint), None)


def _common(row: Row, other: Row, suite: str) -> tuple[list[Report], list[Report]]:
    seeds = [seed for seed in row.seeds if seed in other.seeds]
    a, b = (dict(zip(r.seeds, r.reports.get(suite, []), strict=False)) for r in (row, other))
    both = [seed for seed in seeds if seed in a and seed in b]
    return [a[seed] for seed in both], [b[seed] for seed in both]
