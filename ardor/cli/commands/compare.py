"""`ardor compare`: two nets, or two methods over several seeds, on the same images, and what it is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ardor.cli import display
from ardor.cli.selection import Checkpoint
from ardor.evaluation.comparison.paired import compare as paired
from ardor.evaluation.comparison.runs import partners, reports_of, side_of
from ardor.evaluation.comparison.wording import as_dict, text


def compare(
    a: Path, b: Path, /, *, suite: str | None = None, checkpoint: Checkpoint = "best", json: Path | None = None
) -> int:
    """Compare two nets image by image: McNemar's test, the difference with its intervals, by class and over seeds.

    A and B are each a run that `ardor evaluate` has judged, a report file, or a folder of runs that differ only in the
    seed; the runs of two such folders are paired by seed. The reports are the strongest of the best checkpoint that all
    of them have, of the same suite, threat and images. Each difference has its interval and p.

    Examples:

    `ardor compare runs/rslad runs/sat`

    `ardor compare table/rslad table/sat --suite autoattack --json rslad-sat.json`

    Parameters
    ----------
    a
        Judged run, report file, or folder of runs of several seeds.
    b
        The same, to compare with.
    suite
        Suite of the reports; default the strongest that all have.
    checkpoint
        Checkpoint of the runs.
    json
        File for the comparison; - is standard output, instead of the text.
    """
    sides = side_of(a), side_of(b)
    seeds, unpaired = partners(*sides)
    one, other = reports_of(
        [[side.runs[s] for side, s in zip(sides, pair, strict=True)] for pair in seeds], suite, checkpoint
    )
    comparison = paired(one, other, (str(a), str(b)))
    comparison = replace(comparison, findings=[*comparison.findings, *unpaired])
    display.result(text(comparison), {json: display.as_json(as_dict(comparison))})
    return 0
