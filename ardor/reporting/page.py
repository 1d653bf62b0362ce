"""The page: one self-contained HTML file that opens offline, with every figure inline.

Its content is computed here, its layout is in page.html. The same arguments give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ardor.deployment.variants.comparison import VARIANTS
from ardor.errors import ConfigError
from ardor.evaluation.proportion import Summary
from ardor.reporting import device, evidence, table
from ardor.reporting.entry import Example, PageEntry
from ardor.reporting.template import package_text, render
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
) -> Path:
    """Write the page; a section without content is left out.

    Parameters
    ----------
    path : file of the page.
    entries, examples : the nets, and images under attack.
    title, intro : heading and the paragraph below it.
    notes : limits of the evidence, one sentence each; `code` in backquotes.
    distilled : name of the student that the headline compares with the natural one; None for the most robust.

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
    from markupsafe import Markup

    from ardor.reporting import pictures

    for entry in entries:
        if not entry.reports:
            raise ConfigError(f"expected a report for each net, got none for {entry.name}: evaluate it first")
    columns, rows = table.results(entries)
    text = render(
        "ardor.reporting",
        "page.html",
        title=title,
        style=Markup(package_text("ardor.reporting", "style.css")),
        intro=intro,
        notes=notes,
        headline=_headline(entries, distilled),
        distilled=distilled,
        protocols=evidence.protocols(entries),
        columns=columns,
        results=list(zip(entries, rows, strict=True)),
        images=table.images,
        spread=_spread,
        several=any(len(entry.reports) > 1 for entry in entries),
        trends=_trends(entries),
        examples=examples,
        png=pictures.png,
        factor=pictures.factor(examples),
        findings=evidence.findings(entries),
        attacks=evidence.attacks(entries),
        nets=evidence.nets(entries),
        versions=evidence.versions(entries),
        figures=_figures(entries),
        variants=VARIANTS,
        devices=device.tables(entries),
        measured=device.measured(entries),
        stale=[entry for entry in entries if entry.stale],
    )
    return write_text(path, text)


def _headline(entries: list[PageEntry], distilled: str | None) -> list[dict[str, Any]]:
    """The undefended student and the distilled or the most robust one, if the page has both and the other is better."""
    students: list[dict[str, Any]] = [{"name": e.name, **e.accuracies} for e in entries if e.role == "student"]
    natural = [student for student in students if student["name"].lower() == "natural"]
    others = [student for student in students if student not in natural and distilled in (None, student["name"])]
    pair = [*natural[:1], *sorted(others, key=lambda student: -student["worst_case"].value)[:1]]
    return pair if len(pair) == 2 and pair[1]["worst_case"].value > pair[0]["worst_case"].value else []


def _spread(summary: Summary) -> str:
    low, high = summary.interval
    return f"{100 * low:.1f} – {100 * high:.1f}" if len(summary.seeds) == 1 else f"± {100 * summary.sd:.1f}"


def _figures(entries: list[PageEntry]) -> dict[str, list[Any]]:
    """Inline SVG by section."""
    from ardor.reporting import figures as draw
    from ardor.reporting.styles import styles_of
    from ardor.reporting.svg import calm, svg

    styles = styles_of(entries)
    curves = [entry for entry in entries if entry.curve]
    gaps = [entry for entry in entries if entry.gaps]
    eps = sorted({entry.linf for entry in gaps if entry.linf is not None})
    images: dict[str, list[Any]] = {"accuracy": [], "training": [], "radius": [], "device": [], "trend": []}

    def add(section: str, figure: Any, label: str) -> None:
        images[section].append(svg(figure, f"{section}{len(images[section])}", label))

    with calm():
        titles = {"clean": "Clean accuracy", "worst_case": "Worst-case robust accuracy"} if entries else {}
        for name, title in titles.items():
            summaries = [entry.accuracies[name] for entry in entries]
            add("accuracy", draw.accuracy(entries, summaries, styles, title), f"{title} of each net")
        for entry in curves:
            others = [other for other in curves if other is not entry]
            add("training", draw.training(entry, styles[entry.name], others), f"Training curves of {entry.name}")
        if gaps:
            add("radius", draw.radius(gaps, styles, eps), "Robust accuracy of each net over a growing radius")
        if compared := device.shown(entries):
            forms = {entry.name: [(f.name, f.size, f.report.worst_case) for f in of.forms] for entry, of in compared}
            label = "Robust accuracy of each form of each net over the size of its file"
            add("device", draw.size(forms, styles), label)
        for entry in gaps:
            label = f"Robust accuracy of {entry.name} against its variance gap, r = {draw.correlation(entry.gaps)}"
            add("trend", draw.trend(entry, styles[entry.name], eps), label)
    return images


def _trends(entries: list[PageEntry]) -> dict[str, Any]:
    """The table beside the figures over radii: at most six radii, the largest among them."""
    from ardor.reporting.figures import bend, correlation, radius_text, radius_unit

    gaps = [entry for entry in entries if entry.gaps]
    radii = sorted({p.eps for entry in gaps for p in entry.gaps})
    scale, _ = radius_unit(radii)
    shown = radii[:: -max(1, -(-len(radii) // 6))][::-1]
    rows = []
    for entry in gaps:
        accuracies = {p.eps: f"{100 * p.accuracy:.1f}" for p in entry.gaps}
        turn = bend(entry.gaps)
        cells, turns = [accuracies.get(r, "–") for r in shown], radius_text(turn.eps, scale) if turn else "no"
        variance = f"{entry.gaps[0].variance:.3g}"
        rows.append(
            {"name": entry.name, "cells": cells, "r": correlation(entry.gaps), "variance": variance, "turns": turns}
        )
    return {"radii": [radius_text(r, scale) for r in shown], "rows": rows}
