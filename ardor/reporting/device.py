"""The forms of every net (float32, ONNX, INT8): tables for page and terminal, and the points of the figure of sizes."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any

from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, p_text, size_text
from ardor.reporting.entry import PageEntry


def shown(entries: list[PageEntry]) -> list[tuple[PageEntry, DeploymentReport]]:
    """The nets that have a comparison with their exported files, and the comparison."""
    return [(entry, entry.deployed) for entry in entries if entry.deployed is not None]


def tables(entries: list[PageEntry]) -> list[tuple[str, DeploymentReport, list[Any]]]:
    """For each net its name, comparison, and by group the rows of its table, (group, quantity, cells)."""
    return [
        (entry.name, deployed, [(group, list(rows)) for group, rows in groupby(deployed.rows(), key=itemgetter(0))])
        for entry, deployed in shown(entries)
    ]


def measured(entries: list[PageEntry]) -> list[str]:
    """The protocols of the comparisons, one sentence each; a page should have one."""
    sentences = []
    for entry, deployed in shown(entries):
        report = deployed.forms[0].report
        others = sorted({other.suite for other in entry.reports} - {report.suite})
        apart = f" The results above are of “{', '.join(others)}”, with worst cases of their own." if others else ""
        versions = ", ".join(f"{name} {version}" for name, version in deployed.versions.items())
        runs = min(form.latency.runs for form in deployed.forms)
        total = report.data.get("of", report.n)
        count = f"{report.n:,} images" if total == report.n else f"{report.n:,} of {total:,} images"
        sentences.append(
            f"Judged by the suite “{report.suite}” on {count} of {report.data['name']} ({report.data['part']}) under "
            f"{report.threat['name']} with eps {report.threat.get('eps')}.{apart} Latency: wall clock of one image on "
            f"one thread of {deployed.processor}, {runs} runs of each form in turn, {versions}"
        )
    return list(dict.fromkeys(sentences))


def markdown(entries: list[PageEntry]) -> str:
    """A line for each form of each net; "" where none was compared. Accuracies in %, p against float32."""
    lines = [
        "| net | form | size | p50 ms | clean | worst case | 95 % | worst case, McNemar p |",
        "|:--|:--|--:|--:|--:|--:|:-:|--:|",
    ]
    for entry, deployed in shown(entries):
        name = entry.name.replace("|", "\\|")
        for form in deployed.forms:
            clean, worst = form.report.clean, form.report.worst_case
            low, high = worst.interval
            p = "" if form.name == "float32" else p_text(deployed.differences[form.name]["worst_case"].p)
            lines.append(
                f"| {name} | {VARIANTS[form.name]} | {size_text(form.size)} | {form.latency.p50:.3g} "
                f"| {100 * clean.value:.1f} | {100 * worst.value:.1f} | {100 * low:.1f} .. {100 * high:.1f} | {p} |"
            )
    return "\n".join(lines) if len(lines) > 2 else ""
