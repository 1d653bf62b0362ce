"""Evidence to doubt and to repeat the figures: protocol, findings, hyperparameters, hashes, seeds."""

from __future__ import annotations

from collections.abc import Iterator

from ardor.deployment.variants.comparison import VARIANTS
from ardor.evaluation.protocol import title_of
from ardor.evaluation.report import Report
from ardor.reporting.device import shown
from ardor.reporting.entry import PageEntry
from ardor.storage.config import plain, to_yaml
from ardor.storage.runs import without_unused_teacher


def protocols(entries: list[PageEntry]) -> list[str]:
    """Data, threat and suite of the reports, one sentence for each combination; a page should have one."""
    sentences = []
    for report in (report for entry in entries for report in entry.reports):
        of = "" if report.data.get("of", report.n) == report.n else ", classes in proportion"
        order = ", each attack on the survivors of those before it" if report.sequential else ""
        sentences.append(f"{title_of(report)}{of}{order}")
    return list(dict.fromkeys(sentences))


def findings(entries: list[PageEntry]) -> list[dict[str, str]]:
    """Every finding and mark, with the names of its nets."""
    nets: dict[tuple[str, str], dict[str, None]] = {}
    for name, report in _judged(entries):
        items = [("mark", mark) for mark in report.data.get("marks", [])]
        items += [(finding.severity, f"{finding.evidence}; {finding.next}") for finding in report.findings]
        for item in items:
            nets.setdefault(item, {})[name] = None
    everywhere = {entry.name for entry in entries}
    return [
        {
            "severity": severity,
            "text": text,
            "nets": "all nets" if set(on) == everywhere and len(on) > 1 else ", ".join(on),
        }
        for (severity, text), on in nets.items()
    ]


def _judged(entries: list[PageEntry]) -> Iterator[tuple[str, Report]]:
    """Every report on the page with its net's name, which for an exported file has the form too."""
    for entry in entries:
        yield from ((entry.name, report) for report in entry.reports)
    for entry, deployed in shown(entries):
        for form in deployed.forms:
            yield entry.name + ("" if form.name == "float32" else f" in {VARIANTS[form.name]}"), form.report


def attacks(entries: list[PageEntry]) -> list[tuple[str, str, str]]:
    """Name, kind and resolved hyperparameters of every attack, once where all reports agree, else with its suites."""
    suites: dict[tuple[str, str, str], dict[str, None]] = {}
    for _, report in _judged(entries):
        for name, settings in report.attacks.items():
            # Each net of the suite `deployed` is its own source: its hash is in the table of nets.
            left_out = {"name", "source", "weights"} if report.suite == "deployed" else {"name"}
            kept = {key: value for key, value in settings.items() if key not in left_out}
            suites.setdefault((name, str(settings.get("name", "")), plain(kept)), {})[report.suite] = None
    names = [name for name, _, _ in suites]
    return [
        (f"{name}, suite {' and '.join(of)}" if names.count(name) > 1 else name, kind, settings)
        for (name, kind, settings), of in suites.items()
    ]


def nets(entries: list[PageEntry]) -> list[tuple[str, Report, str, str]]:
    """Name, report, class with the lowest worst case, and configuration of the training, for each net and seed."""
    rows = []
    for name, report in [(entry.name, report) for entry in entries for report in entry.reports]:
        worst, share = min(report.per_class().items(), key=lambda item: item[1].value)
        training = to_yaml(without_unused_teacher(report.training)) if report.training else ""
        rows.append((name, report, f"{worst}: {share.k} of {share.n}", training))
    return rows


def versions(entries: list[PageEntry]) -> str:
    """The versions of the packages that evaluated the nets."""
    pairs = [f"{k} {v}" for entry in entries for report in entry.reports for k, v in report.versions.items()]
    return ", ".join(dict.fromkeys(pairs))
