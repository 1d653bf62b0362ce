"""Gate: what was measured on a teacher, and whether it may teach."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ardor.diagnostics.probe import STEPS
from ardor.diagnostics.record import Record
from ardor.errors import ModelError
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Proportion
from ardor.storage.config import as_text
from ardor.types import Threat


@dataclass(frozen=True)
class Entropy:
    """Mean entropy in nats of the teacher's soft labels on clean images: all of them, and the hard ones.

    hard: of the quarter of the images with the smallest margin of the teacher itself under PGD-20; None where that was
    not run. The teacher's margin, because it needs no student, which does not exist yet.
    """

    clean: float
    hard: float | None
    classes: int

    def share(self, nats: float) -> float:
        """Of log C, the entropy of a teacher that knows nothing."""
        return nats / math.log(max(self.classes, 2))


@dataclass
class TeacherReport:
    """What the gate saw.

    n: images. clean, robust: accuracy, and under PGD-20 within `threat`; None where it was not measured. claim: the
    record. findings: an error refuses the teacher. entropy: see Entropy. transfer: of the student's adversarial
    examples, made by PGD-20 from images that both nets get right, those that the teacher gets wrong too.
    """

    n: int
    threat: Threat
    clean: Proportion | None = None
    robust: Proportion | None = None
    claim: Record | None = None
    findings: list[Finding] = field(default_factory=list)
    entropy: Entropy | None = None
    transfer: Proportion | None = None

    @property
    def refused(self) -> bool:
        """Whether this teacher should not teach."""
        return any(finding.severity == "error" for finding in self.findings)

    def text(self) -> str:
        """What the shell prints."""
        lines = [_measured("clean", self.clean, self.claim.clean if self.claim else None, "")]
        lines += [self._under_attack(), self._soft_labels(), self._transferred()]
        lines += [f"record: {self.claim.of}" if self.claim else "record: none, so that only the plainest flaws show"]
        lines += [finding.text() for finding in self.findings]
        return "\n".join([*lines, "", "Refused." if self.refused else "Passed."])

    def _under_attack(self) -> str:
        said = self.claim if self.claim and self.claim.robust is not None else None
        where = f" under {said.attack} at eps {as_text(said.eps or 0)}" if said else ""
        name = f"PGD-{STEPS} at eps {as_text(self.threat.eps)}"
        return _measured(name, self.robust, said.robust if said else None, where)

    def _soft_labels(self) -> str:
        if self.entropy is None:
            return "entropy of soft labels: not measured"
        hard, of = self.entropy.hard, self.entropy.share
        plain = f"entropy of soft labels: {self.entropy.clean:.2f} nats ({100 * of(self.entropy.clean):.0f} % of log C)"
        return plain if hard is None else f"{plain}, {hard:.2f} ({100 * of(hard):.0f} %) on the hardest quarter"

    def _transferred(self) -> str:
        if self.transfer is None:
            return "transfer of a student's adversarial examples: not measured; type --student RUN with a trained one"
        if not self.transfer.n:
            return "transfer of the student's adversarial examples: it has none here"
        return f"transfer of the student's adversarial examples: {self.transfer} % of {self.transfer.n}"


def _measured(what: str, seen: Proportion | None, said: float | None, where: str) -> str:
    line = f"{what}: {'not measured' if seen is None else f'{seen} % of {seen.n} images'}"
    return line if said is None else f"{line}; the record says {100 * said:.1f} %{where}"


def require(gate: TeacherReport, otherwise: str = "type --gate=false to train all the same") -> None:
    """Raise ModelError where the teacher was refused: the first error, its advice, and what to do `otherwise`."""
    for finding in gate.findings:
        if finding.severity == "error":
            raise ModelError(
                f"expected a teacher that is what it claims, got {finding.name}: {finding.evidence}; {finding.next}, "
                f"or {otherwise}"
            )
