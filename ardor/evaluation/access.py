"""answers: how robust a deployed file is, asked in three ways that do not trust one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ardor.evaluation.proportion import Proportion

if TYPE_CHECKING:
    from ardor.evaluation.report import Report


WORDS = {
    "transfer": "by transfer from another net",
    "white-box": "along its own gradients",
    "query": "by Square, which only asks",
}


def kind_of(attack: str) -> str:
    """Which of `WORDS` an attack of the suite `deployed` belongs to, by its name there."""
    if attack.startswith("transfer_"):
        return "transfer"
    return "query" if attack == "square" else "white-box"


def answers(report: Report) -> dict[str, Proportion]:
    """For each kind of `WORDS`, the images that survive every attack of it, of all n; {} for another suite.

    None is a bound on another: the headline is `report.worst_case`.
    """
    if report.suite != "deployed":
        return {}
    names: dict[str, list[str]] = {}
    for name in report.verdicts:
        names.setdefault(kind_of(name), []).append(name)
    return {kind: report.robust(*of) for kind, of in names.items()}


def sentence(report: Report) -> str:
    """The answers in words, empty for another suite."""
    found = answers(report)
    said = [f"{100 * share.value:.2f} % {WORDS[kind]}" for kind, share in found.items()]
    said += [] if "transfer" in found else ["and nobody asked by transfer"]
    if not found:
        return ""
    return f"Right {', '.join(said)}: quote the worst case, an upper bound; --suite autoattack may break more."
