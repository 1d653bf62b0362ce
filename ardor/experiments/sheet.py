"""A table on disk: CSV with every number, Markdown to read and to commit, and one HTML page that opens offline."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import nn

from ardor import models
from ardor.engine.flops import macs
from ardor.experiments.cells import note_of, report_of, state_of, weights_of
from ardor.experiments.figures import drawn
from ardor.experiments.notes import TITLES, doubts, notes, pairs
from ardor.experiments.rows import Row, Value, gap_of, rows_of
from ardor.experiments.tables import Table, TableSpec
from ardor.experiments.worker import Trouble
from ardor.storage.config import read_yaml
from ardor.storage.files import write_atomic
from ardor.version import __version__

CSV_HEAD = (
    "checkpoint", "figure", "n", "seeds", "mean", "sd", "low95", "high95", "paper", "difference", "difference_low95",
    "difference_high95", "values",
)  # fmt: skip


def write_sheets(table: Table, command: str, trouble: Sequence[Trouble] = ()) -> list[Path]:
    """Write KIND.csv, KIND.md and KIND.html into the bench's folder, from what is finished so far.

    KIND-part instead where the table on disk holds more: other rows, or more seeds. Raises RunError.
    """
    rows, folder, kind = rows_of(table), table.asked.folder, table.asked.kind
    texts = {"csv": as_csv(table, rows), "md": as_markdown(table, rows, command, trouble)}
    texts["html"] = as_html(table, rows, command, trouble)
    name = kind if _holds_all(texts["csv"], folder / f"{kind}.csv", len(table.head)) else f"{kind}-part"
    return [_write(folder / f"{name}.{ending}", text) for ending, text in texts.items()]


def _holds_all(text: str, path: Path, parts: int) -> bool:
    """Whether a table holds every figure of the one on disk, of as many seeds."""
    if not path.is_file():
        return True
    ours, theirs = (
        {tuple(line[: parts + 2]): int(line[parts + 3]) for line in list(csv.reader(said.splitlines()))[1:]}
        for said in (text, path.read_text(encoding="utf-8"))
    )
    return all(ours.get(key, 0) >= seeds for key, seeds in theirs.items())


def _write(path: Path, text: str) -> Path:
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def as_csv(table: Table, rows: Sequence[Row]) -> str:
    """A line for each figure of each row; shares of 1, empty where there is nothing; `values` has one for each seed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*table.head, *CSV_HEAD])
    for row in rows:
        for name, value in row.values.items():
            sd = "" if math.isnan(value.sd) else f"{value.sd:.5f}"
            paper = ["", "", "", ""]
            if value.paper is not None and value.difference is not None:
                paper = [f"{value.paper:.4f}", *(f"{x:.5f}" for x in value.difference)]
            low, high = value.interval
            seeds = " ".join(f"{p.value:.5f}" for p in value.seeds)
            numbers = [row.n[name], len(value.seeds), f"{value.mean:.5f}", sd, f"{low:.5f}", f"{high:.5f}"]
            writer.writerow([*row.parts, row.checkpoint, name, *numbers, *paper, seeds])
        for name, (mean, sd) in gap_of(row, table.asked.eps).items():
            spread = "" if math.isnan(sd) else f"{sd:.5f}"
            writer.writerow([*row.parts, row.checkpoint, name, "", len(row.gaps), f"{mean:.5f}", spread, *[""] * 7])
    return out.getvalue()


def as_markdown(table: Table, rows: Sequence[Row], command: str, trouble: Sequence[Trouble] = ()) -> str:
    """The table with what it is of, what it shows and what it cannot."""
    lines = [f"# {TITLES[table.asked.kind]}", "", f"Made by `{command}`.", ""]
    lines += [*(f"- {line}" for line in facts(table, rows)), ""]
    for title, head, body in blocks(table, rows):
        lines += [f"## {title}", "", f"| {' | '.join(map(_plain, head))} |"]
        lines += ["|" + ":--|" * len(table.head) + "--:|" * (len(head) - len(table.head))]
        lines += [f"| {' | '.join(map(_plain, line))} |" for line in body] + [""]
    for title, said in remarks(table, rows, trouble):
        lines += [f"## {title}", "", *(f"- {line}" for line in said), ""]
    return "\n".join(lines)


def as_html(table: Table, rows: Sequence[Row], command: str, trouble: Sequence[Trouble] = ()) -> str:
    """The same as one self-contained page."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("ardor.experiments").joinpath("sheet.html").read_text(encoding="utf-8"))
    return template.render(
        title=TITLES[table.asked.kind],
        style=Markup(files("ardor.reporting").joinpath("style.css").read_text(encoding="utf-8")),
        command=command,
        facts=facts(table, rows),
        parts=len(table.head),
        blocks=blocks(table, rows),
        drawn=drawn(rows, table.asked.eps),
        remarks=remarks(table, rows, trouble),
        words={cell.name: " ".join(["ardor train", *cell.words]) for cell in table.cells},
    )


def facts(table: Table, rows: Sequence[Row]) -> Iterator[str]:
    """What the table is of."""
    asked = table.asked
    states = [state_of(asked, cell)[0] for cell in table.shown]
    many = "s" if asked.seeds > 1 else ""
    yield f"{asked.data}, L-inf eps {asked.eps}, scale {asked.scale.name}; {asked.seeds} seed{many}"
    yield f"ardor {__version__}, torch {torch.__version__}"
    yield f"{states.count('done')} of {len(states)} nets finished"
    if asked.scale.widest:
        limit = f"{asked.train:,} train images at most" if asked.train else "all train images"
        yield f"{asked.scale.epochs} epochs, {limit}, the same short recipe for every method; no augmentation"
        nets = asked.nets
        students = ("resnet18",) if asked.kind in ("labels", "alpha") else asked.students
        roles = {**({} if asked.teacher else {"teacher": nets.teacher}), **nets.students}
        for role, (name, options) in roles.items():
            net: nn.Module = models.build(name, channels=asked.shape[0], **cast(Any, options))
            cost, count = macs(net, asked.shape) / 1e6, sum(p.numel() for p in net.parameters())
            said = ", ".join(f"{key} {value:g}" for key, value in options.items())
            if role in ("teacher", *students):
                place = role if role == "teacher" else f"in the place of {role}"
                yield f"{place}: {name} ({said}), {count:,} parameters, {cost:.2f} MMAC"
    yield from _named(asked)
    yield from _teachers(table)
    for mark in sorted({mark for row in rows for mark in row.marks}):
        yield f"**{mark}**"


def _named(asked: TableSpec) -> Iterator[str]:
    """The nets that the user named, by the hash of their weights."""
    for role, name in (("teacher", " ".join(asked.teacher)), ("transfer from", asked.transfer_from)):
        if name:
            hashes = [weights_of(word.partition("=")[2] or word) for word in name.split() if word]
            yield f"{role}: {name.replace('--', '')} (weights {' '.join(filter(None, hashes)) or 'by name'})"


def _teachers(table: Table) -> Iterator[str]:
    """How the nets stand that teach, or that images are made against."""
    for cell in table.cells:
        report = None if cell in table.shown else report_of(table.asked, cell, cell.judged[0])
        if report is not None:
            figures = ", ".join(f"{name} {100 * p.value:.1f}" for name, p in report.figures().items())
            yield f"{' '.join(cell.row)}: {figures} % of {report.n:,} images"


Cell: TypeAlias = tuple[str, str]
"""What stands in a table's field, and what stands smaller beside it."""


def blocks(table: Table, rows: Sequence[Row]) -> Iterator[tuple[str, list[Cell], list[list[Cell]]]]:
    """Title, head and lines of each part of the table: ours, the paper's, the difference; then the variance gap."""
    called = table.asked.called
    for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
        some = [row for row in rows if row.checkpoint == checkpoint]
        names = list(dict.fromkeys(name for row in some for name in row.values))
        ns = {name: max(row.n.get(name, 0) for row in some) for name in names}
        head = [*_words(*table.head, "seeds"), *((name, f"n = {ns[name]:,}") for name in names)]
        yield (
            f"Ours, {checkpoint} checkpoint: accuracy in %, ± SD over seeds, 95 % interval",
            head,
            [[*_words(*called(row.parts), _of(row)), *(_cell(row.values.get(name)) for name in names)] for row in some],
        )
        if any(value.paper is not None for row in some for value in row.values.values()):
            yield (
                f"The paper's, {checkpoint} checkpoint; ours minus the paper's, in points, with 95 % interval",
                _words(*table.head, *names),
                [[*_words(*called(r.parts)), *(_beside(r.values.get(n)) for n in names)] for r in some if r.values],
            )
    gaps = [(row, gap_of(row, table.asked.eps)) for row in rows if row.gaps]
    if gaps:
        yield (
            f"Variance gap at eps {table.asked.eps}, ± SD over seeds; r between gap and robust accuracy over radii",
            _words(*table.head, "seeds", *gaps[0][1]),
            [[*_words(*row.parts, _of(row)), *(_number(*x) for x in gap.values())] for row, gap in gaps],
        )


def remarks(table: Table, rows: Sequence[Row], trouble: Sequence[Trouble]) -> Iterator[tuple[str, list[str]]]:
    """What it shows, what could be wrong with it, and what is missing."""
    shown = list(pairs(table, rows))
    if shown:
        yield "Paired, on the same images", shown
    odd = [] if table.asked.scale.name == "smoke" else doubts(rows)
    yield "How this could be wrong", [*notes(table.asked, rows), *odd, *_codes(table)]
    if trouble:
        said = [f"{t.cell.name} ({note_of(table.asked, t.cell)}): {t.why}; left as it is" for t in trouble]
        yield "Cells that could not be made", said


def _codes(table: Table) -> Iterator[str]:
    """Cells of one version that were made by different states of its code."""
    paths = [path for cell in table.shown if (path := note_of(table.asked, cell)).is_file()]
    states = {str(read_yaml(path).get("code")) for path in paths}
    if len(states) > 1:
        yield f"The nets were made by {len(states)} states of ardor's code, all called {__version__}."


def _plain(cell: Cell) -> str:
    return f"{cell[0]} ({cell[1]})".replace("|", "/") if cell[1] else cell[0].replace("|", "/")


def _words(*words: str) -> list[Cell]:
    return [(word, "") for word in words]


def _of(row: Row) -> str:
    return f"{len(row.seeds)} of {row.of}"


def _cell(value: Value | None) -> Cell:
    if value is None:
        return "–", ""
    low, high = value.interval
    sd = "" if math.isnan(value.sd) else f" ± {100 * value.sd:.1f}"
    return f"{100 * value.mean:.1f}{sd}", f"{100 * low:.1f} – {100 * high:.1f}"


def _beside(value: Value | None) -> Cell:
    if value is None or value.paper is None or value.difference is None:
        return "–", ""
    mean, low, high = (100 * x for x in value.difference)
    return f"{100 * value.paper:.2f}; {mean:+.1f}", f"{low:+.1f} to {high:+.1f}"


def _number(mean: float, sd: float) -> Cell:
    return f"{mean:.3g}", "" if math.isnan(sd) else f"± {sd:.2g}"


def missing(table: Table) -> list[Any]:
    """The cells that are not finished."""
    return [cell for cell in table.cells if state_of(table.asked, cell)[0] != "done"]
