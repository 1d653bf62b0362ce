"""The page: one self-contained HTML file that opens offline, with every figure inline.

What is shown is put together here, how it looks is in page.html, and every text from outside is escaped there. The same
arguments give the same bytes.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from ardor.errors import ConfigError
from ardor.evaluation.proportion import Summary
from ardor.reporting import device, evidence, table
from ardor.reporting.entry import Example, PageEntry
from ardor.reporting.table import Rows
from ardor.storage.files import write_atomic

__all__ = ["Example", "PageEntry", "write"]


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
    """Write the page; a section without material is left out.

    distilled: the student that the headline sets against the natural one, by name; None for the most robust.
    Raises RunError where it cannot be written, ConfigError where a net comes without a report.
    """
    from jinja2 import Environment, StrictUndefined  # here, for a page is rare and what it needs is slow to import
    from markupsafe import Markup

    from ardor.reporting import pictures

    for entry in entries:
        if not entry.reports:
            raise ConfigError(f"expected a report for each net, got none for {entry.name}: evaluate it first")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("ardor.reporting").joinpath("page.html").read_text(encoding="utf-8"))
    rows = [entry.accuracies for entry in entries]
    text = template.render(
        title=title,
        style=Markup(files("ardor.reporting").joinpath("style.css").read_text(encoding="utf-8")),
        intro=intro,
        notes=notes,
        headline=_headline(entries, rows, distilled),
        protocols=evidence.protocols(entries),
        columns=table.columns(rows),
        results=_results(entries, rows),
        several=any(len(entry.reports) > 1 for entry in entries),
        trends=_trends(entries),
        examples=pictures.gallery(examples),
        factor=pictures.factor(examples),
        findings=evidence.findings(entries),
        attacks=evidence.attacks(entries),
        nets=evidence.nets(entries),
        versions=evidence.versions(entries),
        figures=_figures(entries, rows),
        devices=device.tables(entries),
        measured=device.measured(entries),
        stale=device.stale(entries),
    )
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _headline(entries: list[PageEntry], rows: Rows, distilled: str | None) -> list[dict[str, str]]:
    """The undefended student and the one that stands, where the page has both and the other is better."""
    students = [i for i, entry in enumerate(entries) if entry.role == "student" and "worst_case" in rows[i]]
    natural = [i for i in students if entries[i].name.lower() == "natural"]
    others = [i for i in students if i not in natural and distilled in (None, entries[i].name)]
    if not natural or not others:
        return []
    top = max(others, key=lambda i: rows[i]["worst_case"].value)
    if not rows[top]["worst_case"].value > rows[natural[0]]["worst_case"].value:
        return []
    says = "the most robust student here, stands" if distilled is None else "distilled from the teacher, stands"
    return [
        {
            "name": entries[i].name,
            "clean": _percent(rows[i]["clean"]),
            "worst": _percent(rows[i]["worst_case"]),
            "says": says,
        }
        for i in (natural[0], top)
    ]


def _percent(summary: Summary) -> str:
    return f"{100 * summary.value:.1f}"


def _results(entries: list[PageEntry], rows: Rows) -> list[dict[str, Any]]:
    names = table.columns(rows)
    best = {name: table.best(entries, rows, name) for name in names}
    return [
        {
            "name": entry.name,
            "role": entry.role,
            "parameters": "–" if entry.parameters is None else f"{entry.parameters:,}",
            "images": table.images(entry),
            "cells": [_cell(row.get(name), i in best[name]) for name in names],
        }
        for i, (entry, row) in enumerate(zip(entries, rows, strict=True))
    ]


def _cell(summary: Summary | None, best: bool) -> dict[str, Any]:
    if summary is None:
        return {"value": "–", "spread": "", "best": False}
    low, high = summary.interval
    spread = f"{100 * low:.1f} – {100 * high:.1f}" if len(summary.seeds) == 1 else f"± {100 * summary.sd:.1f}"
    return {"value": _percent(summary), "spread": spread, "best": best}


def _figures(entries: list[PageEntry], rows: Rows) -> dict[str, list[Any]]:
    """Inline SVG by section."""
    from ardor.reporting import figures as draw
    from ardor.reporting.styles import looks
    from ardor.reporting.svg import calm, svg

    look = looks(entries)
    curves = [entry for entry in entries if entry.curve]
    gaps = [entry for entry in entries if entry.gaps]
    eps = sorted({entry.linf for entry in gaps if entry.linf is not None})
    made: dict[str, list[Any]] = {"accuracy": [], "training": [], "radius": [], "device": [], "trend": []}

    def add(section: str, figure: Any, label: str) -> None:
        made[section].append(svg(figure, f"{section}{len(made[section])}", label))

    with calm():
        for name, says in (("clean", "Clean accuracy"), ("worst_case", "Worst-case robust accuracy")):
            if entries:
                summaries = [row.get(name) for row in rows]
                add("accuracy", draw.accuracy(entries, summaries, look, says), f"{says} of each net")
        for entry in curves:
            others = [other for other in curves if other is not entry]
            add("training", draw.training(entry, look[entry.name], others), f"Training curves of {entry.name}")
        if gaps:
            add("radius", draw.radius(gaps, look, eps), "Robust accuracy of each net over a growing radius")
        if forms := {entry.name: device.points(deployed) for entry, deployed in device.shown(entries)}:
            add("device", draw.size(forms, look), "Robust accuracy of each form of each net over the size of its file")
        for entry in gaps:
            label = f"Robust accuracy of {entry.name} against its variance gap, r = {draw.correlation(entry.gaps)}"
            add("trend", draw.trend(entry, look[entry.name], eps), label)
    return made


def _trends(entries: list[PageEntry]) -> dict[str, Any]:
    """The table beside the figures over radii: at most six radii, the largest among them."""
    from ardor.reporting.figures import bend, correlation, radius_text, radius_unit

    gaps = [entry for entry in entries if entry.gaps]
    radii = sorted({p.eps for entry in gaps for p in entry.gaps})
    scale, _ = radius_unit(radii)
    shown = radii[:: -max(1, -(-len(radii) // 6))][::-1]
    rows = []
    for entry in gaps:
        at = {p.eps: f"{100 * p.accuracy:.1f}" for p in entry.gaps}
        turn = bend(entry.gaps)
        rows.append(
            {
                "name": entry.name,
                "cells": [at.get(r, "–") for r in shown],
                "r": correlation(entry.gaps),
                "variance": f"{entry.gaps[0].variance:.3g}",
                "turns": "no" if turn is None else radius_text(turn.eps, scale),
            }
        )
    return {"radii": [radius_text(r, scale) for r in shown], "rows": rows}
