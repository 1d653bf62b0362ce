"""The forms of every net (float32, ONNX, INT8): tables for page and terminal, and the points of the figure of sizes."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import Any

from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, alike, size_text
from ardor.evaluation.comparison.significance import p_text
from ardor.evaluation.protocol import queries_of, title_of
from ardor.reporting.entry import PageEntry
from ardor.storage.markdown import inline


def shown(entries: list[PageEntry]) -> list[tuple[PageEntry, DeploymentReport]]:
    """The nets that have a comparison with their exported files, and the comparison."""
    return [(entry, entry.deployed) for entry in entries if entry.deployed is not None]


def tables(entries: list[PageEntry]) -> list[tuple[str, DeploymentReport, list[Any]]]:
    """For each net its name, comparison, and by group the rows of its table, (group, quantity, cells)."""
    return [
        (entry.name, deployed, [(group, list(rows)) for group, rows in groupby(deployed.rows(), key=itemgetter(0))])
        for entry, deployed in shown(entries)
    ]


def groups(entries: list[PageEntry]) -> list[list[PageEntry]]:
    """The nets with a comparison, in groups of one data set, threat, suite and number of images."""
    found: dict[str, list[PageEntry]] = {}
    for entry, deployed in shown(entries):
        found.setdefault(_protocol(deployed), []).append(entry)
    return list(found.values())


def _protocol(deployed: DeploymentReport) -> str:
    """Data, images, threat, suite and queries: all but the net that the images of transfer are made against."""
    report = deployed.forms[0].report
    queries = "".join(f", {n:,} queries" for n in queries_of(report))
    return f"{title_of(report)}{queries}"


def measured(entries: list[PageEntry]) -> list[str]:
    """The protocols of the comparisons, one sentence each; a page should have one."""
    sentences = []
    for entry, deployed in shown(entries):
        report = deployed.forms[0].report
        others = sorted({other.suite for other in entry.reports} - {report.suite})
        apart = f" The results above are of “{', '.join(others)}”, with worst cases of their own." if others else ""
        versions = ", ".join(f"{name} {version}" for name, version in deployed.versions.items())
        runs = min(form.latency.runs for form in deployed.forms)
        sentences.append(
            f"{_protocol(deployed)}.{apart} Latency: wall clock of one image on one thread of {deployed.processor}, "
            f"{runs} runs of each form in turn, {versions}"
        )
    return list(dict.fromkeys(sentences))


def markdown(entries: list[PageEntry]) -> str:
    """A table for each protocol, a line for each form of each net; "" where none was compared. p against float32."""
    return "\n\n".join(map(_markdown, groups(entries)))


def _markdown(entries: list[PageEntry]) -> str:
    lines = [
        f"{inline(_protocol(shown(entries)[0][1]))}:",
        "",
        "| net | form | size | p50 ms | clean | worst case | 95 % | worst case, McNemar p |",
        "|:--|:--|--:|--:|--:|--:|:-:|--:|",
    ]
    compared = shown(entries)
    latencies = iter(alike([form.latency.p50 for _, deployed in compared for form in deployed.forms]))
    for entry, deployed in compared:
        name = inline(entry.name)
        for form in deployed.forms:
            clean, worst = form.report.clean, form.report.worst_case
            low, high = worst.interval
            p = "" if form.name == "float32" else p_text(deployed.differences[form.name]["worst_case"].p)
            lines.append(
                f"| {name} | {VARIANTS[form.name]} | {size_text(form.size)} | {next(latencies)} "
                f"| {100 * clean.value:.1f} | {100 * worst.value:.1f} | {100 * low:.1f} .. {100 * high:.1f} | {p} |"
            )
    return "\n".join(lines)
