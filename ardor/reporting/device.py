"""The forms of every net on the page: tables for page and terminal, and what the picture of size is made of."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, p_text, size_text
from ardor.evaluation.proportion import Proportion
from ardor.reporting.entry import PageEntry


def shown(entries: list[PageEntry]) -> list[tuple[PageEntry, DeploymentReport]]:
    """The nets that were compared with their files."""
    return [(entry, entry.deployed) for entry in entries if entry.deployed is not None]


def tables(entries: list[PageEntry]) -> list[dict[str, Any]]:
    """A table for each net: its forms side by side, quantities in groups; what all forms share is said once."""
    found = []
    for entry, deployed in shown(entries):
        groups = []
        for group, rows in groupby(deployed.rows(), key=lambda row: row[0]):
            groups.append({"name": group, "rows": [{"name": name, "cells": cells} for _, name, cells in rows]})
        found.append(
            {
                "name": entry.name,
                "forms": [VARIANTS[form.name] for form in deployed.forms],
                "groups": groups,
                "forced": [miss for form in deployed.forms for miss in form.forced],
            }
        )
    return found


def measured(entries: list[PageEntry]) -> list[str]:
    """How it was measured: one sentence for each way on the page, which should be one."""
    said = {}
    for entry, deployed in shown(entries):
        report = deployed.forms[0].report
        others = sorted({one.suite for one in entry.reports} - {report.suite})
        apart = f" The results above are of “{', '.join(others)}”, with worst cases of their own." if others else ""
        versions = ", ".join(f"{name} {version}" for name, version in deployed.versions.items())
        least = min(form.latency.runs for form in deployed.forms)
        of = report.data.get("of", report.n)
        count = f"{report.n:,} images" if of == report.n else f"{report.n:,} of {of:,} images"
        threat = f"{report.threat['name']} with eps {report.threat.get('eps')}"
        said[
            f"Judged by the suite “{report.suite}” on {count} of {report.data['name']} ({report.data['part']}) under "
            f"{threat}.{apart} "
            f"Latency: wall clock of one image on one thread of {deployed.processor}, "
            f"{least} runs of each form in turn, {versions}"
        ] = True
    return list(said)


def stale(entries: list[PageEntry]) -> list[dict[str, str]]:
    """The nets whose comparison is not of what lies in their folder now, and why."""
    return [{"name": entry.name, "why": entry.stale} for entry in entries if entry.stale]


def points(deployed: DeploymentReport) -> list[tuple[str, int, Proportion]]:
    """Of each form its name, size in bytes and worst case."""
    return [(form.name, form.size, form.report.worst_case) for form in deployed.forms]


def markdown(entries: list[PageEntry]) -> str:
    """A line for each form of each net; "" where none was compared. Accuracies in %, p against float32."""
    held = shown(entries)
    if not held:
        return ""
    lines = [
        "| net | form | size | p50 ms | clean | worst case | 95 % | worst case, McNemar p |",
        "|:--|:--|--:|--:|--:|--:|:-:|--:|",
    ]
    for entry, deployed in held:
        for form in deployed.forms:
            worst = form.report.worst_case
            low, high = worst.interval
            p = "" if form.name == "float32" else p_text(deployed.differences[form.name]["worst_case"].p)
            cells = [
                entry.name.replace("|", "\\|"),
                VARIANTS[form.name],
                size_text(form.size),
                f"{form.latency.p50:.3g}",
                f"{100 * form.report.clean.value:.1f}",
                f"{100 * worst.value:.1f}",
                f"{100 * low:.1f} .. {100 * high:.1f}",
                p,
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
