"""Finding: evidence of a flaw and what to do next; and which findings are only the consequence of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ardor.errors import spelled

Severity: TypeAlias = Literal["note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")

SYMPTOMS = ("sweep", "more_steps", "one_step_wins", "black_box", "pgd_above_autoattack", "restarts")
"""Findings on misleading gradients, the plainest first."""

EXPLAINS: dict[str, tuple[str, ...]] = {
    "range": ("constant", "record"),
    "float16": ("zero_gradients",),
    "randomised": ("batch_mates", "record", *SYMPTOMS),
    "batch_mates": ("record", *SYMPTOMS),
    "probabilities": ("zero_gradients", *SYMPTOMS),
    "constant": ("zero_gradients", "record", *SYMPTOMS),
    "nan_gradients": ("zero_gradients", *SYMPTOMS),
    "zero_gradients": SYMPTOMS,
    "sweep": SYMPTOMS[1:],
    "more_steps": SYMPTOMS[2:],
    "one_step_wins": SYMPTOMS[3:],
    "hidden_by_quantisation": ("black_box",),
    "black_box": SYMPTOMS[4:],
    "pgd_above_autoattack": SYMPTOMS[5:],
}
"""A finding -> its consequences, which are not reported beside it unless they are worse. Causes come first."""


@dataclass(frozen=True)
class Finding:
    """A flaw or limit of a result, with its evidence.

    name: its section in docs/concepts/findings.md. severity: "note", "warning" or "error". evidence: with figures.
    next: what to do.
    """

    name: str
    severity: Severity
    evidence: str
    next: str

    def __str__(self) -> str:
        return spelled(f"{self.severity}: {self.evidence}; {self.next}")

    def text(self) -> str:
        """A paragraph: severity and name, evidence, next step."""
        return spelled(f"\n{self.severity}: {self.name}\n  seen  {self.evidence}\n  next  {self.next}")


def explained(name: str, severity: Severity, findings: Iterable[Finding]) -> bool:
    """Whether a finding of this name and severity is a consequence of one in `findings` that is at least as severe."""
    least = SEVERITIES.index(severity)
    return any(name in EXPLAINS.get(f.name, ()) and SEVERITIES.index(f.severity) >= least for f in findings)


def without_consequences(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that are no consequence of another, in order."""
    return [finding for finding in findings if not explained(finding.name, finding.severity, findings)]


def present(*findings: Finding | None) -> list[Finding]:
    """The arguments that are not None."""
    return [finding for finding in findings if finding is not None]
