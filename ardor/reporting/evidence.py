"""What a reader needs to doubt and to repeat the figures: protocol, findings, hyperparameters, hashes, seeds."""

from __future__ import annotations

from collections.abc import Iterator

from ardor.deployment.variants.comparison import VARIANTS
from ardor.evaluation.report import Report
from ardor.reporting.device import shown
from ardor.reporting.entry import PageEntry
from ardor.storage.config import plain, to_yaml


def protocols(entries: list[PageEntry]) -> list[str]:
    """What was judged and under what: one sentence for each protocol on the page, which should be one."""
    said = {}
    for report in (report for entry in entries for report in entry.reports):
        threat = report.threat.get("name", "unnamed threat")
        under = f"suite “{report.suite}” under {threat} with eps {plain(report.threat.get('eps'))}"
        order = ", each attack on the survivors of those before it" if report.sequential else ""
        of = report.data.get("of", report.n)
        count = f"{report.n:,} images" if of == report.n else f"{report.n:,} of {of:,} images, classes in proportion,"
        said[f"{count} of {report.data['name']} ({report.data['part']}), {under}{order}"] = True
    return list(said)


def findings(entries: list[PageEntry]) -> list[dict[str, str]]:
    """Every finding and mark, with the nets it was found on."""
    seen: dict[tuple[str, str], dict[str, bool]] = {}
    everywhere = {entry.name: True for entry in entries}
    for name, report in _judged(entries):
        for mark in report.data.get("marks", []):
            seen.setdefault(("mark", mark), {})[name] = True
        for finding in report.findings:
            seen.setdefault((finding.severity, f"{finding.evidence}; {finding.next}"), {})[name] = True
    return [
        {"severity": severity, "text": text, "nets": "all nets" if on == everywhere and len(on) > 1 else ", ".join(on)}
        for (severity, text), on in seen.items()
    ]


def _judged(entries: list[PageEntry]) -> Iterator[tuple[str, Report]]:
    """Every report on the page with what it is of: a net, or a file for a device."""
    for entry in entries:
        yield from ((entry.name, report) for report in entry.reports)
    for entry, deployed in shown(entries):
        for form in deployed.forms:
            yield entry.name + ("" if form.name == "float32" else f" in {VARIANTS[form.name]}"), form.report


def attacks(entries: list[PageEntry]) -> list[dict[str, str]]:
    """The resolved hyperparameters of every attack, once where all reports agree."""
    seen = {}
    for _, report in _judged(entries):
        for name, settings in report.attacks.items():
            if report.suite == "deployed":  # from each net itself: the table of nets says which that is
                settings = {k: v for k, v in settings.items() if k not in ("source", "weights")}
            seen[name, plain(settings)] = {
                "attack": name,
                "kind": str(settings.get("name", "")),
                "settings": plain({k: v for k, v in settings.items() if k != "name"}),
            }
    return list(seen.values())


def nets(entries: list[PageEntry]) -> list[dict[str, str]]:
    """Who each net is: enough to find the weights and the data again."""
    rows = []
    for entry in entries:
        for report in entry.reports:
            worst, share = min(report.per_class().items(), key=lambda item: item[1].value)
            rows.append(
                {
                    "name": entry.name,
                    "model": str(report.model.get("name", "")),
                    "hash": str(report.model.get("hash", "")),
                    "data": str(report.data.get("hash", "")),
                    "seed": str(report.seed),
                    "worst": f"{worst}: {share.k} of {share.n}",
                    "training": to_yaml(report.training) if report.training else "",
                }
            )
    return rows


def versions(entries: list[PageEntry]) -> str:
    """The versions of the programs that judged."""
    found = {f"{k} {v}": True for entry in entries for report in entry.reports for k, v in report.versions.items()}
    return ", ".join(found)
