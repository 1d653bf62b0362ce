"""Finding: what was seen and what to do next; and which findings are only the consequence of another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["note", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")

SYMPTOMS = ("sweep", "more_steps", "one_step_wins", "black_box", "pgd_above_autoattack", "restarts")
"""What shows when gradients mislead, the plainest first."""

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
"""A finding -> what follows from it and is not reported beside it, unless it is worse. A cause stands before it."""


@dataclass(frozen=True)
class Finding:
    """Something a reader of a result must know: what was seen, and what to do next."""

    name: str
    severity: Severity
    evidence: str
    next: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.evidence}; {self.next}"

    def text(self) -> str:
        """A paragraph: severity and name, evidence, next step."""
        return f"\n{self.severity}: {self.name}\n  seen  {self.evidence}\n  next  {self.next}"


def explained(name: str, severity: Severity, findings: Iterable[Finding]) -> bool:
    """Whether something in `findings`, as severe or more, makes a finding of this name a mere consequence."""
    least = SEVERITIES.index(severity)
    return any(name in EXPLAINS.get(f.name, ()) and SEVERITIES.index(f.severity) >= least for f in findings)


def without_consequences(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that no other of them explains, in their order."""
    return [finding for finding in findings if not explained(finding.name, finding.severity, findings)]


def present(*findings: Finding | None) -> list[Finding]:
    """Those that are not None."""
    return [finding for finding in findings if finding is not None]
