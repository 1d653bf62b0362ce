"""A table on disk: CSV with every number, Markdown to read and to commit, and one HTML page that opens offline."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from markupsafe import Markup

from ardor import models
from ardor.deployment.leaderboard import ENTRY, load_entry
from ardor.engine.flops import macs
from ardor.errors import ArdorError, ConfigError
from ardor.evaluation.report import Report
from ardor.experiments.cell import Cell
from ardor.experiments.cells import note_of, read_note, report_of, state_of, weights_of
from ardor.experiments.coordinator import Problem
from ardor.experiments.distillation import KIND, declared_facts
from ardor.experiments.figures import distillation_figure, gap_figures, name_of
from ardor.experiments.notes import doubts, notes, pairs, title_of
from ardor.experiments.pairing import verdicts
from ardor.experiments.rows import Row, Value, gap_of, rows_of
from ardor.experiments.shown import against_rslad, against_sat, at_last, best_and_last, shown
from ardor.experiments.tables import Table
from ardor.models import zoo
from ardor.models.builders import builder
from ardor.reporting.downloads import uri
from ardor.reporting.template import render
from ardor.storage.config import arguments, as_text
from ardor.storage.files import write_text
from ardor.storage.markdown import code, inline
from ardor.storage.runs import Run
from ardor.version import __version__

WITH_GAPS = ("alignment", KIND)
"""The tables whose figures are those of the variance gap."""

CSV_HEAD = (
    "checkpoint", "figure", "n", "seeds", "mean", "sd", "low95", "high95", "paper", "difference", "difference_low95",
    "difference_high95", "values",
)  # fmt: skip


SAME = "the same short recipe for every method; no augmentation"
COMPARED = {
    "methods": f"{SAME}; an EMA of the weights beside each student (checkpoint averaged)",
    "ingredients": (
        "RSLAD in every row, and one recipe but for the ingredients named; the checkpoint averaged is the row with "
        "the ingredient EMA, best and last are without"
    ),
}
"""What the rows of a table share."""


def write_sheets(table: Table, command: str, problems: Sequence[Problem] = ()) -> list[Path]:
    """Write KIND.csv, KIND.md and KIND.html into the bench's folder, from what is finished so far.

    KIND-part instead where the table on disk holds more: other rows, or more seeds.

    Parameters
    ----------
    command : that makes the table.
    problems : the cells that could not be made.

    Raises
    ------
    RunError
        Where a file cannot be written.
    """
    rows, folder, kind = rows_of(table), table.spec.folder, table.spec.kind
    texts = {"csv": as_csv(table, rows), "md": as_markdown(table, rows, command, problems)}
    texts["html"] = as_html(table, rows, command, problems)
    name = kind if _contains(texts["csv"], folder / f"{kind}.csv", len(table.head)) else f"{kind}-part"
    paths = [write_text(folder / f"{name}.{ending}", text) for ending, text in texts.items()]
    return [*paths, *_written_figure(table, rows, folder / f"{name}.png")]


def _written_figure(table: Table, rows: Sequence[Row], path: Path) -> list[Path]:
    """The figure of a table of distillation as a file, for Markdown."""
    if table.spec.kind != KIND:
        return []
    from ardor.plot.style import calm

    with calm():
        figure = distillation_figure(table, rows)
        if figure is None:
            return []
        figure.savefig(path, dpi=144, facecolor="white", metadata={"Software": None})
    return [path]


def _contains(text: str, path: Path, parts: int) -> bool:
    """Whether a table has every figure of the one on disk, of as many seeds."""
    if not path.is_file():
        return True
    ours, theirs = (
        {tuple(line[: parts + 2]): int(line[parts + 3]) for line in list(csv.reader(content.splitlines()))[1:]}
        for content in (text, path.read_text(encoding="utf-8"))
    )
    return all(ours.get(key, 0) >= seeds for key, seeds in theirs.items())


def as_csv(table: Table, rows: Sequence[Row]) -> str:
    """A line for each figure of each row; shares of 1, empty where there is nothing; `values` has one for each seed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*table.head, *CSV_HEAD])
    for row in rows:
        for name, value in row.values.items():
            paper = [f"{value.paper:.4f}", *map(_share, value.difference)] if value.difference else [""] * 4
            seeds = " ".join(_share(p.value) for p in value.seeds)
            numbers = [row.n[name], len(value.seeds), *map(_share, (value.value, value.sd, *value.interval))]
            writer.writerow([*row.parts, row.checkpoint, name, *numbers, *paper, seeds])
        for name, (mean, sd) in gap_of(row, table.spec.eps).items():
            writer.writerow([*row.parts, row.checkpoint, name, "", len(row.gaps), f"{mean:.5f}", _share(sd), *[""] * 7])
        for name, passes in row.passes.items():
            writer.writerow([*row.parts, row.checkpoint, name, "", len(row.seeds), f"{passes:.5f}", *[""] * 8])
    return out.getvalue()


def _share(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.5f}"


def as_markdown(table: Table, rows: Sequence[Row], command: str, problems: Sequence[Problem] = ()) -> str:
    """The table with its facts, the paired comparisons and its limits."""
    lines = [f"# {title_of(table.spec)}", "", f"Made by {code(command)}.", ""]
    lines += [*(f"- {inline(line)}" for line in facts(table, rows)), ""]
    for title, head, body in blocks(table, rows):
        lines += [f"## {inline(title)}", "", f"| {' | '.join(map(_plain, head))} |"]
        lines += ["|" + ":--|" * len(table.head) + "--:|" * (len(head) - len(table.head))]
        lines += [f"| {' | '.join(map(_plain, line))} |" for line in body] + [""]
    for title, items in remarks(table, rows, problems):
        lines += [f"## {inline(title)}", "", *(f"- {inline(item)}" for item in items), ""]
    return "\n".join(lines)


def as_html(table: Table, rows: Sequence[Row], command: str, problems: Sequence[Problem] = ()) -> str:
    """The same as one self-contained page, with the commands of the cells."""
    return render(
        "ardor.experiments",
        "sheet.html",
        title=title_of(table.spec),
        command=command,
        facts=facts(table, rows),
        parts=len(table.head),
        blocks=blocks(table, rows),
        figures=gap_figures(rows, table.spec.eps) if table.spec.kind in WITH_GAPS else (),
        charts=_charts(table, rows),
        remarks=remarks(table, rows, problems),
        commands={cell.name: train_command(cell, table.spec.gate) for cell in table.cells},
        file=f"{table.spec.kind}.csv",
        csv=uri("text/csv", as_csv(table, rows)),
    )


def _charts(table: Table, rows: Sequence[Row]) -> list[tuple[str, Markup]]:
    """The figure of a table of distillation, with its title."""
    if table.spec.kind != KIND:
        return []
    from ardor.plot.style import calm  # matplotlib is slow to import
    from ardor.reporting.svg import svg

    title = "Robust accuracy against the labels of the student's training"
    with calm():
        figure = distillation_figure(table, rows)
        return [] if figure is None else [(title, svg(figure, "labels", title))]


def train_command(cell: Cell, gate: bool = True) -> str:
    """The `ardor train` command that reproduces a cell's run, but for --run."""
    gated = [] if gate or "teacher" not in cell.config else ["--gate=false"]
    return shlex.join(["ardor", "train", *options(cell.config), *gated])


def options(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """A config as options: `--method=rslad`, `--method.alpha=5/6`, `--method.attack.name=pgd`."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from options(value, f"{prefix}{key}.")
        else:
            option = prefix[:-1] if key == "name" and prefix.count(".") == 1 else prefix + key
            yield f"--{option}={text_of(value)}"


def text_of(value: Any) -> str:
    """A value of a config as an option's."""
    if isinstance(value, list | tuple):
        return ",".join(map(text_of, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return as_text(value) if isinstance(value, float) else str(value)


def facts(table: Table, rows: Sequence[Row]) -> Iterator[str]:
    """Data, threat, scale, versions, nets, and how the teachers stand."""
    spec = table.spec
    states = [state_of(spec, cell)[0] for cell in table.shown]
    plural = "s" if spec.seeds > 1 else ""
    yield f"{spec.data}, L-inf eps {spec.eps}, scale {spec.scale.name}; {spec.seeds} seed{plural}"
    yield f"ardor {__version__}, torch {torch.__version__}"
    yield f"{states.count('done')} of {len(states)} nets finished"
    if spec.kind == KIND:
        yield from _of_distillation(table)
    elif not spec.scale.full:
        limit = f"{spec.train:,} train images at most" if spec.train else "all train images"
        yield f"{spec.scale.epochs} epochs, {limit}, {COMPARED.get(spec.kind, SAME)}"
        students = spec.students if spec.kind in ("whitebox", "blackbox", "alignment") else ("resnet18",)
        trained = students if spec.teacher else ("teacher", *students)
        for role in sorted(trained, key=list(spec.nets).index):
            name, sizes = spec.nets[role]
            place = role if role == "teacher" else f"in the place of {role}"
            net = models.build(name, channels=spec.shape[0], **cast(Any, sizes))
            cost, count = macs(net, spec.shape) / 1e6, sum(p.numel() for p in net.parameters())
            listed = ", ".join(f"{key} {value:g}" for key, value in sizes.items())
            yield f"{place}: {name} ({listed}), {count:,} parameters, {cost:.2f} MMAC"
    teacher = [option.removeprefix("--") for option in options({"teacher": spec.teacher})]
    for role, named in (("teacher", teacher), ("transfer from", [spec.transfer_from])):
        if any(named):  # by the user
            hashes = filter(None, (weights_of(option.partition("=")[2] or option) for option in named))
            yield f"{role}: {' '.join(named)} (weights {' '.join(hashes) or 'by name'})"
    for cell in table.cells:
        report = None if cell in table.shown else report_of(spec, cell, cell.evaluations[0])
        if report is not None:
            figures = ", ".join(f"{name} {100 * p.value:.1f}" for name, p in report.figures().items())
            yield f"{' '.join(cell.row)}: {figures} % of {report.n:,} images"
    yield from sorted({mark for row in rows for mark in row.marks})


def _of_distillation(table: Table) -> Iterator[str]:
    """The students, and what is declared of the rows."""
    spec = table.spec
    for name, config in spec.declared.nets(spec.shape).items():
        options = arguments(config, "student", models.build, builder(str(config["name"])))
        net = models.build(**{"channels": spec.shape[0], **options})
        cost, count = macs(net, spec.shape) / 1e6, sum(p.numel() for p in net.parameters())
        yield f"student {name}: {count:,} parameters, {cost:.2f} MMAC"
    first = [cell for cell in table.shown if cell.seed == 0 and cell.row[0] == table.shown[0].row[0]]
    yield from _strength(str(spec.teacher["name"]))
    rows = [
        (name_of(cell.row), cell.config, min(int(cell.config["data"].get("limit", spec.count)), spec.count))
        for cell in first
    ]
    yield from declared_facts(spec.declared, rows, spec.count, spec.validation)


def _strength(teacher: str) -> Iterator[str]:
    """The teacher's own figures, where it has any."""
    for name, report in _own_reports(teacher):
        worst = report.figures()["worst_case"]
        low, high = (100 * end for end in worst.interval)
        yield (
            f"the teacher, {name}: clean {100 * report.clean.value:.1f}, robust "
            f"{100 * worst.value:.1f} [{low:.1f}, {high:.1f}] % of {report.n:,} images"
        )


def _own_reports(teacher: str) -> Iterator[tuple[str, Report]]:
    """The reports of a run by their names; of a net of the package that of its entry."""
    if zoo.is_name(teacher):
        path = zoo.folder_of(teacher) / ENTRY
        if path.is_file():
            report = load_entry(path).report
            yield report.suite, report
        return
    for path in Run(teacher).reports():
        with contextlib.suppress(ArdorError):
            yield path.stem.partition("-")[2], Report.load(path)


Field: TypeAlias = tuple[str, str]
"""The text of a field of a table, and the smaller text beside it."""


def blocks(table: Table, rows: Sequence[Row]) -> Iterator[tuple[str, list[Field], list[list[Field]]]]:
    """Title, head and lines of each part of the table: ours, the paper's, the difference; then the variance gap."""
    spec = table.spec
    for checkpoint in dict.fromkeys(row.checkpoint for row in rows):
        labelled = [(row, _fields(*spec.row_labels(row.parts))) for row in rows if row.checkpoint == checkpoint]
        n = {name: sorted({r.n[name] for r, _ in labelled if name in r.n}) for row, _ in labelled for name in row.n}
        cost = _fields("passes") if any(row.passes for row, _ in labelled) else []
        head = [*_fields(*table.head, "seeds"), *cost, *((name, f"n = {_range(of)}") for name, of in n.items())]
        lines = [
            [*parts, *_seeds(row), *(_cost(row) for _ in cost), *(_ours(row.values.get(name)) for name in n)]
            for row, parts in labelled
        ]
        yield f"Ours, {checkpoint} checkpoint: accuracy in %, ± SD over seeds, 95 % interval", head, lines
        if any(value.paper is not None for row, _ in labelled for value in row.values.values()):
            title = f"The paper's, {checkpoint} checkpoint; ours minus the paper's, in points, with 95 % interval"
            lines = [[*parts, *(_papers(row.values.get(name)) for name in n)] for row, parts in labelled if row.values]
            yield title, _fields(*table.head, *n), lines
    gaps = [(row, gap_of(row, spec.eps)) for row in rows if row.gaps]
    if gaps:
        title = f"Variance gap at eps {spec.eps}, ± SD over seeds; r between gap and robust accuracy over radii"
        lines = [[*_fields(*row.parts), *_seeds(row), *map(_gap, gap.values())] for row, gap in gaps]
        yield title, _fields(*table.head, "seeds", *gaps[0][1]), lines


def remarks(table: Table, rows: Sequence[Row], problems: Sequence[Problem]) -> Iterator[tuple[str, list[str]]]:
    """Paired comparisons, what could be wrong, and the cells that could not be made, each with its title."""
    spec = table.spec
    if spec.kind == KIND:
        yield "What it shows", list(shown(table, rows))
        yield "Paired with adversarial training, on the same images", list(verdicts(against_sat(table, rows)))
        if with_rslad := against_rslad(table, rows):
            yield "Paired with RSLAD, on the same images", list(verdicts(with_rslad))
        if last := at_last(table, rows):
            yield "Paired with adversarial training, both at the last checkpoint", list(verdicts(last))
        yield "The last checkpoint paired with the best", list(verdicts(best_and_last(table, rows)))
    elif paired := list(pairs(table, rows)):
        yield "Paired, on the same images", paired
    odd = [] if spec.scale.name == "smoke" else doubts(rows)
    paths = [path for cell in table.shown if (path := note_of(spec, cell)).is_file()]
    codes = set()
    for path in paths:
        with contextlib.suppress(ConfigError):  # a damaged note is one of the problems
            codes.add(read_note(path).get("code"))
    states = len(codes)
    code = [f"The nets were made by {states} states of ardor's code, all called {__version__}."] if states > 1 else []
    yield "How this could be wrong", [*notes(spec, rows), *odd, *code]
    if problems:
        listed = [f"{p.cell.name} ({note_of(spec, p.cell)}): {p.reason}; left as it is" for p in problems]
        yield "Cells that could not be made", listed


def _plain(field: Field) -> str:
    text = f"{field[0]} ({field[1]})" if field[1] else field[0]
    return inline(text.replace("|", "/"))


def _fields(*texts: str) -> list[Field]:
    return [(text, "") for text in texts]


def _seeds(row: Row) -> list[Field]:
    return [(f"{len(row.seeds)} of {row.of}", "")]


def _cost(row: Row) -> Field:
    teacher = f" + {row.passes['T']:.1f} T" if row.passes.get("T") else ""
    return (f"{row.passes['F']:.1f} F{teacher}" if row.passes else "–"), ""


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]:,}" + (f" – {numbers[-1]:,}" if len(numbers) > 1 else "")


def _gap(figure: tuple[float, float]) -> Field:
    mean, sd = figure
    return f"{mean:.3g}", "" if math.isnan(sd) else f"± {sd:.2g}"


def _ours(value: Value | None) -> Field:
    if value is None:
        return "–", ""
    low, high = value.interval
    return str(value), f"{100 * low:.1f} – {100 * high:.1f}"


def _papers(value: Value | None) -> Field:
    if value is None or value.paper is None or value.difference is None:
        return "–", ""
    mean, low, high = (100 * x for x in value.difference)
    return f"{100 * value.paper:.2f}; {mean:+.1f}", f"{low:+.1f} to {high:+.1f}"


def missing(table: Table) -> list[Cell]:
    """The cells that are not finished."""
    return [cell for cell in table.cells if state_of(table.spec, cell)[0] != "done"]
