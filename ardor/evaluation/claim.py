"""claim_of: a report as a claim for RobustBench's leaderboard, in the form of its model_info/*.json.

Fields and threat models are those of github RobustBench/robustbench at 78fcc9e (README, "Adding a new model").
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ardor.attacks.rounds import fitted
from ardor.attacks.suites import autoattack
from ardor.attacks.threat import L2, Linf
from ardor.errors import ConfigError
from ardor.evaluation.identity import resolved
from ardor.evaluation.protocol import threat_text
from ardor.evaluation.report import Report
from ardor.models.builders import BUILDERS
from ardor.storage.config import differences, few, number
from ardor.storage.runs import mapping

BOARDS = {("cifar10", "Linf"): "8/255", ("cifar10", "L2"): "0.5", ("cifar100", "Linf"): "8/255"}
"""Data set and norm -> radius of RobustBench's leaderboards of CIFAR."""

N = 10_000
"""The test images of CIFAR, all of which a claim is made on."""

NAMES = {"resnet18": "ResNet-18", "resnet50": "ResNet-50", "mobilenet_v2": "MobileNetV2"}
"""Nets here, as the leaderboard names them."""

UNKNOWN = {
    "link": "address of the paper",
    "name": "title of the paper",
    "authors": "its authors, with commas",
    "venue": "where it was published: a conference and year, or arXiv and month",
    "reported": "robust accuracy that the paper reports, in percent",
}
"""Fields that no report has, and what to write into them."""

ADDITIONAL = (
    "true where student or teacher saw images beyond the data set's own, false where none did; generated images are no "
    "additional data, and are named in a field footnote"
)


@dataclass(frozen=True)
class Claim:
    """A report in the form of RobustBench's model_info, and what keeps it from being a valid claim.

    Attributes
    ----------
    content : dict
        The fields; accuracies in percent, as text. A field that is not known is empty: "" or None.
    unknown : dict of str
        Field -> what to write into it.
    obstacles : tuple of str
        Why the leaderboard would not take these figures, each with what to do; empty for a valid claim.
    place : str
        The path of the file in RobustBench's repository, with the parts of its name that are yours.
    """

    content: dict[str, Any]
    unknown: dict[str, str]
    obstacles: tuple[str, ...]
    place: str

    @property
    def valid(self) -> bool:
        """Whether figures and protocol are those of a claim; the unknown fields are still to be written."""
        return not self.obstacles

    def json(self) -> str:
        """The content of the file."""
        return json.dumps(self.content, indent=2, ensure_ascii=False) + "\n"


def claim_of(report: Report) -> Claim:
    """A report as a claim for RobustBench: CIFAR-10 and -100 under AutoAttack `standard` on all 10,000 test images.

    Parameters
    ----------
    report : Report
        Of any evaluation; where it is none that the leaderboard takes, `obstacles` says why.
    """
    threat, additional = report.threat, additional_data(report.training)
    content = {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": additional,
        "number_forward_passes": 1,
        "dataset": report.data["name"],
        "venue": "",
        "architecture": architecture(report.model),
        "eps": _board(report) or str(threat.get("eps")),
        "clean_acc": f"{100 * report.clean.value:.2f}",
        "reported": "",
        "autoattack_acc": f"{100 * report.worst_case.value:.2f}",
    }
    unknown = UNKNOWN | ({"additional_data": ADDITIONAL} if additional is None else {})
    place = f"model_info/{report.data['name']}/{threat['name']}/<Name><Year><FirstWordOfTheTitle>.json"
    return Claim(content, unknown, tuple(_obstacles(report)), place)


def architecture(model: Mapping[str, Any]) -> str:
    """A net's config in the words of the leaderboard: WideResNet-28-10, ResNet-18."""
    name = str(model.get("name", ""))
    if name in NAMES:
        return NAMES[name]
    if not name.startswith("wide_resnet") or name not in BUILDERS:
        return name.removeprefix("timm:")
    defaults = {key: p.default for key, p in inspect.signature(BUILDERS[name]).parameters.items()}
    depth, width = (model.get(key, defaults[key]) for key in ("depth", "width"))
    return f"WideResNet-{depth}-{width}"


def additional_data(training: Mapping[str, Any]) -> bool | None:
    """False where a run's config rules out images beyond its data set's own; None where it does not.

    A teacher, published weights to start from and extra images may each have brought some.
    """
    data, student = (training.get(key) for key in ("data", "student"))
    if not isinstance(data, Mapping) or not isinstance(student, Mapping) or training.get("teacher"):
        return None
    brought = data.get("extra") or student.get("weights") or student.get("pretrained")
    return None if brought or ":" in str(student.get("name", ":")) else False


def _obstacles(report: Report) -> Iterator[str]:
    """What the leaderboard would not take, in the order of the questions that it asks."""
    name, board = str(report.data["name"]), _board(report)
    if name not in {data for data, _ in BOARDS}:
        yield (
            f"expected cifar10 or cifar100, from the official archive, got the images {name}: RobustBench has no "
            "leaderboard for them; if they are those of CIFAR-10, type ardor evaluate with --data cifar10"
        )
    elif board is None:
        radii = " or ".join(f"{of} eps {eps}" for (data, of), eps in BOARDS.items() if data == name)
        yield f"expected {radii}, got {threat_text(report.threat)}: type ardor evaluate with that --threat.eps"
    if report.data["part"] != "test":
        yield f"expected the test images, got the part {report.data['part']}: leave --part out"
    elif report.n != N:
        yield f"expected all {N:,} test images, got {report.n:,}: leave --limit out"
    if report.suite != "autoattack":
        yield f"expected the suite autoattack, got {report.suite}: type ardor evaluate with --suite autoattack"
    elif board and (changed := changed_attacks(report)):
        yield f"expected the attacks of AutoAttack standard, got others ({changed}): evaluate with its own"
    for finding in report.findings:
        if finding.severity == "error":
            yield f"expected a report without errors, got {finding.name}: {finding.evidence}; {finding.next}"


def _board(report: Report) -> str | None:
    """The radius of the leaderboard for a report's data, norm and radius, as it is written there; None without one."""
    eps = BOARDS.get((str(report.data["name"]), str(report.threat["name"])))
    return eps if eps is not None and math.isclose(_eps(report), number(eps), rel_tol=1e-6) else None


def _eps(report: Report) -> float:
    return _number(report.threat.get("eps", "nan"))


def _number(value: Any) -> float:
    try:
        return float(number(value))
    except ConfigError:  # of a threat of the user's own
        return math.nan


def changed_attacks(report: Report) -> str:
    """How the attacks of a report, in its settings and verdicts, differ from AutoAttack `standard` at its radius."""
    if math.isnan(eps := _eps(report)) or eps <= 0:
        return ""
    suite = autoattack(L2(eps) if report.threat["name"] == "L2" else Linf(eps))
    classes = len(report.data["class_names"])
    wanted = {name: resolved(fitted(attack, classes)) for name, attack in suite.attacks.items()}
    present = {name: wanted.get(name, {}) | attack for name, attack in report.attacks.items()}
    changed = differences(wanted, present, places=("there", "in the report"))
    changed = [text for text in changed if "threat" not in text.partition(":")[0]]
    if [*report.verdicts] != [*wanted]:
        changed.append(f"verdicts: {', '.join(wanted)} there, {', '.join(report.verdicts)} in the report")
    for name, attack in report.attacks.items():
        threat = {"name": report.threat["name"], "eps": eps} | mapping(attack.get("threat"))
        if threat["name"] != report.threat["name"] or not math.isclose(_number(threat["eps"]), eps, rel_tol=1e-6):
            changed.append(f"{name}.threat: {threat_text(report.threat)} there, {threat_text(threat)} in the report")
    return few(changed)
