"""What a table of distillation shows: sentences that follow from its paired comparisons alone.

Each row is compared with adversarial training on all labels, and each row without labels with adversarial training on
fewer of them too. The robust comparisons of a table are one family for Holm's correction; others are those of the
clean accuracy, what is added to RSLAD against RSLAD, the robust ones at the last checkpoint, and best against last
checkpoint. Below three seeds no sentence is about a method.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

from ardor.evaluation.comparison import Comparison
from ardor.evaluation.comparison.difference import Difference
from ardor.evaluation.comparison.significance import LEVEL, holm, p_text
from ardor.evaluation.comparison.wording import METHOD_SEEDS, p_of
from ardor.experiments.distillation import NO_LABELS, share_text
from ardor.experiments.pairing import Paired, compared
from ardor.experiments.rows import Row
from ardor.experiments.tables import Table


def references(row: Row, rows: Sequence[Row]) -> Iterator[Row]:
    """The rows of adversarial training that a row is compared with, at its checkpoint and of its student."""
    student, name, labels = row.parts
    for other in rows:
        if (other.parts[:2], other.checkpoint) != ((student, "sat"), row.checkpoint) or other is row:
            continue
        if other.parts[2] == share_text(1) or (labels == NO_LABELS and name != "sat"):
            yield other


def against_sat(table: Table, rows: Sequence[Row], checkpoint: str = "") -> list[Paired]:
    """The comparisons with adversarial training at a checkpoint, the first by default, under their strongest suite."""
    chosen = [row for row in rows if row.checkpoint == (checkpoint or rows[0].checkpoint)]
    return _present(compared(table, row, other) for row in chosen for other in references(row, chosen))


def at_last(table: Table, rows: Sequence[Row]) -> list[Paired]:
    """The same at the last checkpoint, none where that is the first; without natural training, which has one."""
    attacked = [row for row in rows if row.parts[1] != "natural"]
    return [] if rows and rows[0].checkpoint == "last" else against_sat(table, attacked, "last")


def against_rslad(table: Table, rows: Sequence[Row]) -> list[Paired]:
    """The comparisons with RSLAD of the other rows without labels, at the first checkpoint."""
    first = [row for row in rows if row.checkpoint == rows[0].checkpoint and row.parts[2] == NO_LABELS]
    plain = {row.parts[0]: row for row in first if row.parts[1] == "rslad"}
    others = [row for row in first if row.parts[1] != "rslad" and row.parts[0] in plain]
    return _present(compared(table, row, plain[row.parts[0]]) for row in others)


def best_and_last(table: Table, rows: Sequence[Row]) -> list[Paired]:
    """Each row's last checkpoint with its best, but for natural training, which has one."""
    pairs = product(
        [row for row in rows if row.checkpoint == "last"], [row for row in rows if row.checkpoint == "best"]
    )
    return _present(compared(table, a, b) for a, b in pairs if a.parts == b.parts and a.parts[1] != "natural")


def _present(paired: Iterable[Paired | None]) -> list[Paired]:
    return [pair for pair in paired if pair is not None]


def shown(table: Table, rows: Sequence[Row]) -> Iterator[str]:
    """The sentences, for robust accuracy, clean accuracy and the last checkpoint."""
    if table.spec.seeds < METHOD_SEEDS:
        yield (
            f"Nothing about the methods: {METHOD_SEEDS} seeds at least are needed, and the table has "
            f"{table.spec.seeds}. The comparisons below are of these nets."
        )
        return
    paired = against_sat(table, rows)
    if fewer := sum(not _allows_claim(pair.comparison) for pair in paired):
        yield f"{fewer} of {len(paired)} comparisons with sat have fewer than {METHOD_SEEDS} seeds, or allow no claim."
    for figure, what in (("worst_case", "robust"), ("clean", "clean")):
        yield from _sentences(table, paired, figure, what)
    yield from _sentences(table, against_rslad(table, rows), "worst_case", "robust")
    yield from _sentences(table, at_last(table, rows), "worst_case", "robust at the last checkpoint")
    yield from _of_last(best_and_last(table, rows))


def _sentences(table: Table, paired: Sequence[Paired], figure: str, what: str) -> Iterator[str]:
    """A sentence per shown difference, and one with all others: tables of several students have dozens of them."""
    several = _several(paired)
    silent: dict[str, list[str]] = {}
    for pair, difference, corrected in _corrected(paired, figure):
        a, b = _named(pair.row, several), _named(pair.other)
        begin = f"{what.capitalize()} under {pair.suite}" if figure == "worst_case" else what.capitalize()
        if corrected < LEVEL:
            side = "ahead of" if difference.value > 0 else "behind"
            yield f"{begin}: {a} is shown {side} {b}: {_points(difference)} ({_p(corrected)})."
        else:
            points = f"{100 * difference.value:+.1f} ({100 * difference.least:.1f})"
            silent.setdefault(begin, []).append(f"{a} less {b} {points}")
    for begin, differences in silent.items():
        yield (
            f"{begin}: no difference is shown (points; in brackets, how many one comparison alone, without Holm's "
            f"correction, would mostly detect): {'; '.join(differences)}."
        )


def _of_last(paired: Sequence[Paired]) -> Iterator[str]:
    """Robust overfitting, where the last checkpoint is shown behind the best."""
    several, silent = _several(paired), []
    for pair, difference, corrected in _corrected(paired, "worst_case"):
        name = _named(pair.row, several)
        if corrected < LEVEL and difference.value < 0:
            yield (
                f"Robust overfitting of {name}: its last checkpoint is shown behind its best under {pair.suite}: "
                f"{_points(difference)} ({_p(corrected)})."
            )
        else:
            silent.append(f"{name} {100 * difference.value:+.1f}")
    if silent:
        yield f"No robust overfitting is shown (last less best checkpoint, in points): {', '.join(silent)}."


def _corrected(paired: Sequence[Paired], figure: str) -> Iterator[tuple[Paired, Difference, float]]:
    """The comparisons that allow a claim, each with the difference and its p by Holm.

    The others count in the family, as in the paired list: were they left out, an error of one net would make the rest
    easier to show.
    """
    made = [(pair, pair.comparison) for pair in paired if pair.comparison]
    p = {str(number): p_of(comparison, figure) for number, (_, comparison) in enumerate(made)}
    for (pair, comparison), corrected in zip(made, holm(p).values(), strict=True):
        if _allows_claim(comparison):
            yield pair, comparison.figures[figure], corrected


def _allows_claim(comparison: Comparison | None) -> bool:
    return comparison is not None and not comparison.doubts and len(comparison.seeds) >= METHOD_SEEDS


def _several(paired: Sequence[Paired]) -> bool:
    """Whether there are several students, which a sentence then names; both rows of a pair are of one."""
    return len({pair.row.parts[0] for pair in paired}) > 1


def _named(row: Row, with_student: bool = False) -> str:
    """A row in a sentence: RSLAD without labels, SAT with 4 % of the labels."""
    student, name, labels = row.parts
    of = "without labels" if labels == NO_LABELS else f"with {labels} of the labels"
    return (f"{student}, " if with_student else "") + f"{name} {of}"


def _points(difference: Difference) -> str:
    low, high = difference.both or difference.images
    return f"{100 * difference.value:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"


def _p(p: float) -> str:
    return f"{p_text(p) if p < 1e-4 else f'p = {p:.2g}'} by Holm"
