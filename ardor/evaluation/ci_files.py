"""Findings and bounds in the formats that continuous integration reads: SARIF 2.1.0 and JUnit XML."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

from ardor.errors import printable, spelled
from ardor.evaluation.findings import Finding
from ardor.version import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def sarif(findings: Sequence[Finding], place: Path) -> str:
    """Findings as a SARIF 2.1.0 log, one result each, at the first line of a file.

    Parameters
    ----------
    findings : sequence of Finding
        note, warning and error are SARIF's levels of these names.
    place : Path
        The file that describes the net, from the root of the repository: a run's config.yaml, or the net's code.
    """
    names = list(dict.fromkeys(finding.name for finding in findings))
    if place.is_absolute() and place.is_relative_to(Path.cwd()):  # a path of this machine is in no repository
        place = place.relative_to(Path.cwd())
    uri = place.as_uri() if place.is_absolute() else quote(place.as_posix())
    location = {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}
    driver = {
        "name": "ardor doctor",
        "semanticVersion": __version__,
        "rules": [{"id": name, "shortDescription": {"text": name.replace("_", " ")}} for name in names],
    }
    results = [
        {
            "ruleId": finding.name,
            "ruleIndex": names.index(finding.name),
            "level": finding.severity,
            "message": {"text": printable(spelled(f"{finding.evidence}; {finding.next}"))},
            "locations": [location],
            "partialFingerprints": {"finding/v1": f"{uri}:{finding.name}"},
        }
        for finding in findings
    ]
    log = {"tool": {"driver": driver}, "columnKind": "unicodeCodePoints", "results": results}
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [log]}, indent=1) + "\n"


@dataclass(frozen=True)
class Case:
    """A case of JUnit. failure: why it failed, "" where it passed; text: further output."""

    name: str
    failure: str = ""
    text: str = ""


def cases_of(findings: Iterable[Finding]) -> list[Case]:
    """Findings as cases: an error fails; a warning or note passes, with its text."""
    return [
        Case(one.name, failure=spelled(f"{one.evidence}; {one.next}"))
        if one.severity == "error"
        else Case(one.name, text=str(one))
        for one in findings
    ]


def junit(suite: str, cases: Sequence[Case], properties: Mapping[str, str]) -> str:
    """Cases as JUnit XML, one test suite."""
    failures = sum(bool(case.failure) for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0"}
    root = ElementTree.Element("testsuites", {"name": printable(suite), **counts})
    element = ElementTree.SubElement(
        root, "testsuite", {"name": printable(suite), **counts, "skipped": "0", "time": "0"}
    )
    rows = ElementTree.SubElement(element, "properties")
    for name, value in properties.items():
        ElementTree.SubElement(rows, "property", {"name": printable(name), "value": printable(value)})
    for case in cases:
        one = ElementTree.SubElement(
            element, "testcase", {"name": printable(case.name), "classname": printable(suite), "time": "0"}
        )
        if case.failure:
            text = printable(case.failure)
            ElementTree.SubElement(one, "failure", {"message": text, "type": "failure"}).text = text
        if case.text:
            ElementTree.SubElement(one, "system-out").text = printable(case.text)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"
