"""The protocol of an evaluation: images, threat, suite and attacks. Figures of two protocols are never ranked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ardor.errors import ConfigError
from ardor.evaluation.report import Report
from ardor.storage.config import as_text, differences, few, number

STRENGTH = ("plus", "autoattack", "rand", "apgd", "paper", "quick", "square", "transfer")
"""Suites, the strongest first. Those of third parties come after them, and `deployed`, of exported files, last."""

WORTH = 5
"""The first elements of `weakness`: of what makes a report worth less than another, and no mere rule of order."""


def protocol_of(report: Report) -> dict[str, Any]:
    """What two evaluations must share so that their figures can be compared."""
    return {
        "data": {"hash": report.data.get("hash")},
        "images": [*zip(report.index, report.labels, strict=True)],
        **{key: getattr(report, key) for key in ("suite", "sequential", "threat", "attacks", "seed")},
        "order": list(report.verdicts),  # an attack of a sequential suite depends on those before it
    }


def require_same(one: Report, other: Report) -> None:
    """Refuse other images or attacks: the difference would be theirs. Raises ConfigError."""
    if changed := differences(protocol_of(one), protocol_of(other)):
        raise ConfigError(
            f"expected all to be judged on the same images by the same attacks, got {few(changed)}: type "
            "ardor evaluate with the same --data, --suite, --threat, --limit and --seed for each"
        )


def key_of(report: Report) -> str:
    """The protocol as one text, equal for reports that can be compared."""
    return json.dumps(protocol_of(report), sort_keys=True)


def title_of(report: Report) -> str:
    """The protocol in words: "449 images, digits (test), suite paper, Linf eps 0.2"."""
    count = report.trial or f"{report.n:,} images"
    return f"{count}, {report.data['name']} ({report.data['part']}), suite {report.suite}, {threat_text(report.threat)}"


def threat_text(threat: Mapping[str, Any]) -> str:
    """Norm and radius of a threat's config: "Linf eps 8/255"."""
    eps = threat.get("eps")
    return f"{threat.get('name', 'unnamed threat')} eps {as_text(eps) if isinstance(eps, float) else eps}"


def weakness(report: Report, trained: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key that sorts reports by what they are worth, the best first; no time of a file plays a part.

    Test images before others, the threat of training before others, then the strongest suite, the most images, the most
    queries, the largest radius, the lowest seed of the attacks.

    Parameters
    ----------
    report : Report
        The report.
    trained : Mapping
        The config of the threat of its net's training; empty if unknown.
    """
    known = {name: place for place, name in enumerate((*STRENGTH, "", "deployed"))}
    strength, queries = known.get(report.suite, len(STRENGTH)), sum(queries_of(report))
    other = bool(trained) and not same_threat(report.threat, trained)
    rest = -number(report.threat.get("eps", 0)), report.seed, key_of(report)
    return report.data.get("part") != "test", other, strength, -report.n, -queries, *rest


def queries_of(report: Report) -> list[int]:
    """The queries per image of the attacks that have a number of them."""
    return [int(attack["queries"]) for attack in report.attacks.values() if attack.get("queries")]


def same_threat(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two configs of a threat are of one norm and radius."""
    return a.get("name") == b.get("name") and number(a.get("eps", 0)) == number(b.get("eps", 0))
