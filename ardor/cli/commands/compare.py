"""`ardor compare`: two nets, or two methods over several seeds, on the same images, and what it is worth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ardor.cli import display
from ardor.evaluation.comparison.paired import compare as paired
from ardor.evaluation.comparison.runs import partners, reports_of, side_of
from ardor.evaluation.comparison.wording import as_dict, text
from ardor.storage.files import write_atomic


def compare(
    a: Annotated[Path, Parameter(name="A", help="a judged run, a report file, or a folder of runs of several seeds")],
    b: Annotated[Path, Parameter(name="B", help="the same, to compare with")],
    /,
    *,
    suite: Annotated[str | None, Parameter(help="which reports; default the newest that all have")] = None,
    checkpoint: Annotated[Literal["best", "last", "averaged"], Parameter(help="of the runs")] = "best",
    out: Annotated[Path | None, Parameter(help="the comparison as a JSON file")] = None,
) -> int:
    """Compare two nets image by image: McNemar's test, the difference with its intervals, by class and over seeds.

    A and B are each a run that `ardor evaluate` has judged, a report file, or a folder of runs that differ only in the
    seed; the runs of two such folders are paired by seed. The reports are the newest of the best checkpoint that all of
    them have, of the same suite, threat and images. What the figures mean is explained in docs/compare.md.

    Examples:

    `ardor compare runs/rslad runs/sat`

    `ardor compare table/rslad table/sat --suite autoattack --out rslad-sat.json`
    """
    sides = side_of(a), side_of(b)
    seeds, alone = partners(*sides)
    one, other = reports_of(
        [[side.runs[s] for side, s in zip(sides, pair, strict=True)] for pair in seeds], suite, checkpoint
    )
    found = paired(one, other, (str(a), str(b)))
    found = replace(found, findings=[*found.findings, *alone])
    display.say(text(found))
    if out is not None:
        content = json.dumps(as_dict(found), indent=1, allow_nan=False)
        write_atomic(out, lambda temporary: temporary.write_text(content, encoding="utf-8"))
        display.say(f"\nSaved to {out}.")
    return 0
