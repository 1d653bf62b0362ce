"""The page: one self-contained HTML file that opens offline, with every figure inline.

Its content is computed here, its layout is in page.html. The same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ardor.deployment.variants.comparison import VARIANTS
from ardor.errors import ConfigError
from ardor.evaluation.proportion import Proportion, Summary
from ardor.evaluation.variance import GapPoint
from ardor.reporting import classes, device, downloads, evidence, table
from ardor.reporting.entry import Example, Headline, PageEntry, Section
from ardor.reporting.template import render
from ardor.storage.files import write_text


def write(
    path: Path,
    entries: list[PageEntry],
    examples: list[Example],
    *,
    title: str,
    intro: str,
    notes: list[str],
    distilled: str | None = None,
    trial: str = "",
    command: str = "",
    links: Mapping[str, str] | None = None,
    headline: Headline | None = None,
    sections: Sequence[Section] = (),
) -> Path:
    """Write the page; a section without content is left out.

    Parameters
    ----------
    path : file of the page.
    entries, examples : the nets, and images under attack.
    title, intro : heading and the paragraph below it.
    notes : limits of the evidence, one sentence each; `code` in backquotes.
    distilled : name of the student that the headline compares with the natural one; None for the most robust.
    trial : why the figures are no result; the title then begins with "Trial", and there is no other headline. Default:
        where a net was evaluated on a part of the images.
    command : what reproduces the page, quoted for a shell.
    links : text to the file beside the page that it links to.
    headline : in place of the comparison of two students.
    sections : in front of the results.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    RunError
        Where the file cannot be written.
    ConfigError
        For a net without a report.
    """
    from ardor.plot.axes import radius_text, radius_unit
    from ardor.reporting import pictures
    from ardor.reporting.figures import details, details_of

    for entry in entries:
        if not entry.reports:
            raise ConfigError(f"expected a report for each net, got none for {entry.name}: evaluate it first")
    results = table.tables(entries)
    trial = trial or "; ".join(dict.fromkeys(entry.reports[0].trial for entry in entries if entry.reports[0].trial))
    text = render(
        "ardor.reporting",
        "page.html",
        title=f"Trial: {title}" if trial else title,
        trial=trial,
        command=command,
        links=links or {},
        downloads=downloads.links(results, entries),
        intro=intro,
        notes=notes,
        headline=None if trial else headline or _headline(results, distilled),
        figures_of={entry.name: entry.accuracies for entry in entries},
        sections=sections,
        protocols=evidence.protocols(entries),
        results=results,
        images=table.images,
        order=_worst_first,
        rows=lambda of: [(entry, _worst_first(row)) for entry, row in zip(of.entries, of.rows, strict=True)],
        spread=_spread,
        details=details,
        details_of=details_of,
        radius_of=lambda eps: radius_text(eps, radius_unit([eps])[0]),
        classes=[classes.by_class(of) for of in results],
        confusions=[(entry.name, both) for entry in entries if (both := classes.confusions(entry))],
        several=any(len(entry.reports) > 1 for entry in entries),
        trends=[_trends(norm, group) for norm, group in radius_groups(entries)],
        examples=examples,
        png=pictures.png,
        factor=pictures.factor(examples),
        findings=evidence.findings(entries),
        attacks=evidence.attacks(entries),
        nets=evidence.nets(entries),
        versions=evidence.versions(entries),
        figures=_figures(entries, results, sections),
        variants=VARIANTS,
        devices=device.tables(entries),
        measured=device.measured(entries),
        without_variance=[entry.name for entry in entries if entry.gaps and not entry.has_variance],
        stale=[entry for entry in entries if entry.stale],
    )
    return write_text(path, text)


def _headline(results: list[table.Table], distilled: str | None) -> Headline | None:
    """The undefended student and the distilled or the most robust one of the first table, where it is shown better."""
    entries = results[0].entries if results else []
    students = {entry.name: entry for entry in entries if entry.role == "student"}
    natural = next((name for name in students if name.lower() == "natural"), None)
    others = [name for name in students if name != natural and distilled in (None, name)]
    if natural is None or not others:
        return None
    robust = {name: entry.accuracies["worst_case"].value for name, entry in students.items()}
    best = max(others, key=lambda name: robust[name])
    if robust[best] <= robust[natural] or not table.differ(students[natural], students[best]):
        return None
    why = "distilled from the teacher" if distilled else "the most robust student here"
    verdict = f"{results[0].verdict}." if results[0].verdict else ""
    return Headline({natural: "without a defence, falls", best: f"{why}, stands"}, verdict)


def _worst_first(cells: list[Any]) -> list[Any]:
    """The last column, the worst case, in front: what counts is visible on a telephone."""
    return [cells[-1], *cells[:-1]]


def _spread(summary: Summary) -> str:
    low, high = summary.interval
    return f"{100 * low:.1f} – {100 * high:.1f}" if len(summary.seeds) == 1 else f"± {100 * summary.sd:.1f}"


def _figures(entries: list[PageEntry], results: list[table.Table], sections: Sequence[Section]) -> dict[str, list[Any]]:
    """Inline SVG by section; no figure has nets of two protocols. "accuracy" has a list for each table."""
    from ardor.plot.style import calm
    from ardor.reporting import figures as draw
    from ardor.reporting.styles import styles_of
    from ardor.reporting.svg import svg

    styles = styles_of(entries)
    kinds = ("sections", "accuracy", "training", "radius", "device", "trend")
    images: dict[str, list[Any]] = {kind: [] for kind in kinds}
    drawn = 0

    def draw_svg(figure: Any, label: str) -> Any:
        nonlocal drawn
        drawn += 1
        return svg(figure, f"figure{drawn}", label)

    with calm():
        images["sections"] = [draw_svg(section.figure(), section.label) for section in sections]
        for of in results:
            titles = {"clean": "Clean accuracy", "worst_case": "Worst-case robust accuracy"}
            pair = []
            for name, title in titles.items():
                summaries = [entry.accuracies[name] for entry in of.entries]
                figure = draw.accuracy(of.entries, summaries, styles, title)
                pair.append(draw_svg(figure, f"{title} of each net, {of.title}"))
            images["accuracy"].append(pair)
            for entry in (entry for entry in of.entries if entry.curve):
                others = [other for other in of.entries if other.curve and other is not entry]
                figure = draw.training(entry, styles[entry.name], others)
                images["training"].append(draw_svg(figure, f"Training curves of {entry.name}"))
        for norm, group in radius_groups(entries):
            figure = draw.radius(group, styles, _marked([entry for entry in group if entry.norm == norm]))
            images["radius"].append(draw_svg(figure, f"Robust accuracy of each net over a growing {norm} radius"))
        for group in device.groups(entries):
            forms = {
                entry.name: [(f.name, f.size, f.report.worst_case) for f in compared.forms]
                for entry, compared in device.shown(group)
            }
            label = "Robust accuracy of each form of each net over the size of its file"
            images["device"].append(draw_svg(draw.size(forms, styles), label))
        for entry in (entry for entry in entries if entry.has_variance):
            label = f"Robust accuracy of {entry.name} against its variance gap, r = {draw.correlation(entry.gaps)}"
            images["trend"].append(draw_svg(draw.trend(entry, styles[entry.name], _marked([entry])), label))
    return images


def radius_groups(entries: list[PageEntry]) -> list[tuple[str, list[PageEntry]]]:
    """The nets with radii in groups of one data set and norm, with the norm; `gaps` of each entry is of that norm."""
    groups: dict[tuple[Any, ...], list[PageEntry]] = {}
    for entry in entries:
        data = entry.reports[0].data
        for norm, points in entry.curves.items():
            key = (data.get("name"), data.get("part"), norm)
            groups.setdefault(key, []).append(replace(entry, gaps=points, others={}))
    return [(key[-1], group) for key, group in groups.items()]


def _marked(entries: list[PageEntry]) -> list[float]:
    """The radii of the results."""
    return sorted({entry.radius for entry in entries})


def _trends(norm: str, gaps: list[PageEntry]) -> dict[str, Any]:
    """The table beside a figure over radii: at most six radii, the largest among them."""
    from ardor.plot.axes import radius_text, radius_unit
    from ardor.reporting.figures import bend, correlation

    radii = sorted({p.eps for entry in gaps for p in entry.gaps})
    scale, _ = radius_unit(radii)
    shown = radii[:: -max(1, -(-len(radii) // 6))][::-1]
    rows = []
    for entry in gaps:
        points = {p.eps: p for p in entry.gaps}
        row: dict[str, Any] = {"name": entry.name, "cells": [_point(points.get(r)) for r in shown], "r": ""}
        if entry.has_variance and norm == entry.norm:
            turn, variance = bend(entry.gaps), f"{entry.gaps[0].variance:.3g}"
            row |= {"r": correlation(entry.gaps), "variance": variance}
            row["turns"] = radius_text(turn.eps, scale) if turn else "no"
        rows.append(row)
    data, n = gaps[0].reports[0].data, sorted({entry.gaps[0].n for entry in gaps} - {0})
    of = f"{data['name']} ({data['part']}" + (f", {' or '.join(f'{k:,}' for k in n)} images)" if n else ")")
    return {"data": of, "norm": norm, "radii": [radius_text(r, scale) for r in shown], "rows": rows}


def _point(point: GapPoint | None) -> tuple[str, Proportion | None]:
    """Accuracy at a radius as a text, and as a proportion where the number of images is known."""
    if point is None:
        return "–", None
    return f"{100 * point.accuracy:.1f}", Proportion(round(point.accuracy * point.n), point.n) if point.n else None
