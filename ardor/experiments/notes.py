"""The remarks below a table: how it could be wrong, and its rows compared image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ardor.experiments.distillation import KIND
from ardor.experiments.pairing import compared, verdicts
from ardor.experiments.rows import SINGLE, WITH_WORST_CLASS, WORST, Row
from ardor.experiments.tables import EPS, Table, TableSpec

TITLES = {
    "whitebox": "White-box robustness",
    "blackbox": "Black-box robustness: transfer and queries",
    "labels": "Which labels help: hard, smoothed, natural or robust, in the inner and the outer problem",
    "alpha": "RSLAD's alpha: how much of the loss is adversarial",
    "methods": "Every method under one recipe",
    "ingredients": "RSLAD with what helps any loss, each alone and together",
    KIND: "What a strong teacher gives small students, beside adversarial training with all and with fewer labels",
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
        if spec.kind == KIND:
            yield from _of_distillation()
        elif not spec.teacher:
            yield "The teacher was trained here (SAT), once: the seeds are of the students alone."
    if spec.kind in WITH_WORST_CLASS:
        yield (
            "paper counts an image as right where it is right under every attack of that suite. "
            f"{WORST} is the class with the fewest images right under every attack of `paper`, in each seed anew: the "
            "lowest of several noisy figures, which is below the true one as a rule, and whose interval does not "
            "count the choice. The variance gap is that of the checkpoint best."
        )
    if spec.kind in WITH_WORST_CLASS and spec.seeds == 1:
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


def _of_distillation() -> Iterator[str]:
    yield (
        "Without labels is the student's training alone: the teacher was trained with labels, and in every row the "
        "validation images that select a checkpoint have theirs."
    )
    yield (
        "One teacher, trained once: the seeds are of the students alone, and another teacher may order the rows in "
        "another way. The part of the images for fewer labels is one, too, the same for every seed."
    )
    yield (
        "Equal steps are more epochs of fewer images; a step of a method with a teacher costs more than one of "
        "adversarial training: see the column passes."
    )


def doubts(rows: Sequence[Row]) -> Iterator[str]:
    """Relations that hold in every adversarially trained row of the papers, where ours break them."""
    for row in rows:
        mean = {name: value.value for name, value in row.values.items()}
        if {"natural", "kd"} & {row.parts[-1], *row.parts[1:2]} or not {"fgsm", "pgd_trades", "cw_inf"} <= set(mean):
            continue
        for low, high in pairwise(("cw_inf", "pgd_trades", "fgsm", "clean")):
            if mean[low] > mean[high] + TOLERANCE:
                yield (
                    f"{', '.join(row.parts)} ({row.checkpoint}): {low} {100 * mean[low]:.1f} is above {high} "
                    f"{100 * mean[high]:.1f}; in every such row of the papers it is below: type ardor doctor on its run"
                )


def pairs(table: Table, rows: Sequence[Row]) -> Iterator[str]:
    """Every row against RSLAD's of the same student, image by image, over the seeds of both; p corrected by Holm."""
    paired = []
    for row in rows:
        parts = REFERENCE.get(table.spec.kind) or (*row.parts[:-1], "rslad")
        other = next((r for r in rows if (r.parts, r.checkpoint) == (parts, row.checkpoint)), None)
        if row.checkpoint == rows[0].checkpoint and other is not None and row is not other:
            paired.append(compared(table, row, other))
    return verdicts([pair for pair in paired if pair])
