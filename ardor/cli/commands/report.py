"""`ardor report`: judged runs to one page, with pictures, and the comparison as a table."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ardor import models
from ardor.attacks import PGD
from ardor.cli import display
from ardor.cli.selection import require_run
from ardor.errors import ConfigError
from ardor.evaluation.claim import claim_of
from ardor.evaluation.protocol import title_of
from ardor.evaluation.report_files import shown_reports
from ardor.evaluation.variance import split_of
from ardor.reporting import PageEntry, comparison, device, examples
from ardor.reporting.entry import entry_of, teaches, threat_of, threats_of
from ardor.reporting.page import write as write_page
from ardor.reporting.table import tables
from ardor.storage.files import write_text
from ardor.storage.runs import Run

TITLE = "Robustness report"


def report(
    *runs: Annotated[Path, Parameter(name="RUN")],
    out: Path | None = None,
    title: str = TITLE,
    limit: int | None = None,
    suite: str | None = None,
    claim: bool = False,
    trust_code: bool = False,
) -> int:
    """Make one page of the runs named: accuracies with intervals, curves, radii, pictures, variance gap.

    Each RUN is a folder that `ardor train` made and `ardor evaluate` has judged. The page is one file that opens
    offline. Figures of other data, threats, suites or numbers of images are in separate tables, never ranked.

    `--claim` writes a claim for RobustBench's leaderboard instead of a page, from one run's report by AutoAttack on all
    test images of CIFAR; of any other report it says what keeps the claim from being valid, with exit code 1.

    Examples:

    `ardor report runs/natural runs/rslad --out report.html`

    `ardor report runs/rslad --claim --out claim.json`

    Parameters
    ----------
    runs
        Folders of judged runs.
    out
        File of the page, default report.html, or of the claim, default robustbench.json in RUN.
    title
        Heading of the page.
    limit
        Images for radii and variance gap; default 1,000, of images above 32 pixels fewer. Kept in the runs.
    suite
        Suite of the figures; default the strongest that all have.
    claim
        Write a claim for RobustBench, as JSON.
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """
    if not runs:
        raise ConfigError("expected at least one RUN, got none: type ardor report runs/NAME")
    for run in runs:
        require_run(run, "ardor report runs/NAME")
    if claim:
        if typed := [name for name, given in (("limit", limit is not None), ("title", title != TITLE)) if given]:
            raise ConfigError(f"expected options of a claim, got --{typed[0]}, which is of a page: leave it out")
        return _claim(runs, out, suite, trust_code)
    out = out or Path("report.html")
    folders = [run.resolve().name for run in runs]
    names = [str(run) if folders.count(name) > 1 else name for run, name in zip(runs, folders, strict=True)]
    reports = shown_reports(runs, suite, trust_code)
    threats = threats_of(runs, reports)
    with display.progress("radii and variance gap", len(runs)) as move:
        entries: list[PageEntry] = []
        for number, (run, name, chosen) in enumerate(zip(runs, names, reports, strict=True)):
            move(number, name)
            role: Literal["teacher", "student"] = "teacher" if teaches(run, runs, trust_code) else "student"
            entries.append(entry_of(run, name, role, limit, trust_code, chosen, threats, _shown_by(move, name, number)))
    first = tables(entries)[0].entries  # the examples are images of one data set
    of_first = [(entry, run) for entry, run in zip(entries, runs, strict=True) if any(entry is e for e in first)]
    nets = {entry.name: models.load(run, trust_code=trust_code) for entry, run in of_first}
    shown = examples(nets, split_of(of_first[0][1], trust_code), PGD(threat_of(first[0].reports[0]), steps=20))
    words = ["ardor", "report", *map(str, runs), "--out", str(out), "--title", title]
    words += [] if limit is None else ["--limit", str(limit)]
    words += [] if suite is None else ["--suite", suite]
    command = shlex.join([*words, *(["--trust_code"] if trust_code else [])])
    links = {DRAW: "draw.html"} if out.with_name("draw.html").is_file() else {}
    where = write_page(out, entries, shown, title=title, intro="", notes=[], command=command, links=links)
    parts = [comparison(entries), device.markdown(entries), f"Page: {where}", f"Reproduce with: {command}"]
    display.say("\n\n".join(part for part in parts if part))
    return 0


DRAW = "Draw a digit, and see both nets read it under attack"


def _shown_by(move: Callable[[float, str], None], name: str, number: int) -> Callable[[float], None]:
    """The progress of the run of this number, on the bar of all runs."""
    return lambda share: move(number + share, f"{name}, {100 * share:.0f} % of its radii")


def _claim(runs: Sequence[Path], out: Path | None, suite: str | None, trust_code: bool) -> int:
    """Write a run's claim, and display what is still to be written, or why it is none."""
    if len(runs) > 1:
        raise ConfigError(f"expected one RUN with --claim, got {len(runs)}: type ardor report {runs[0]} --claim")
    (chosen,) = shown_reports(runs, suite, trust_code)
    claim = claim_of(chosen)
    if not claim.valid:
        display.say(f"No claim for RobustBench from {runs[0]} ({title_of(chosen)}):")
        display.say("\n".join(f"- {obstacle}" for obstacle in claim.obstacles))
        return 1
    path = write_text(out or Run(runs[0]).claim, claim.json())
    display.say(f"{path}: clean {claim.content['clean_acc']} %, AutoAttack {claim.content['autoattack_acc']} %")
    display.say("\n".join(["Still to be written:", *(f"- {name}: {text}" for name, text in claim.unknown.items())]))
    display.say(f'Then open an issue "New Model(s)" at RobustBench with it; its place there is {claim.place}')
    return 0
