"""TeacherReport: the measurements of a teacher, and whether training from it is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ardor.diagnostics.probe import STEPS
from ardor.diagnostics.record import Record
from ardor.errors import ModelError, spelled
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Proportion
from ardor.storage.config import as_text
from ardor.types import Threat


@dataclass(frozen=True)
class Entropy:
    """Mean entropy in nats of the teacher's soft labels on clean images.

    Parameters
    ----------
    clean
        Mean over all images.
    hard
        Mean over the quarter of the images with the smallest margin of the teacher under PGD-20; None where that was
        not run. The teacher's margin, because there is no student yet.
    classes
        Number of classes.
    """

    clean: float
    hard: float | None
    classes: int

    def share(self, nats: float) -> float:
        """`nats` as a share of log C, the entropy of the uniform distribution."""
        return nats / math.log(max(self.classes, 2))


@dataclass
class TeacherReport:
    """The measurements of a teacher.

    Parameters
    ----------
    n
        Number of images.
    threat
        Threat of the robust accuracy.
    clean, robust
        Accuracy, and accuracy under PGD-20 within `threat`; None where not measured.
    claim
        The teacher's record.
    findings
        An error refuses the teacher.
    entropy
        Entropy of the soft labels.
    transfer
        Of the student's adversarial examples, made by PGD-20 from images that both nets classify correctly, those that
        the teacher misclassifies.
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
        """Whether a finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def text(self) -> str:
        """The measurements, the findings and the decision, as `ardor gate` displays them."""
        claim, eps = self.claim, as_text(self.threat.eps)
        lines = [_row("clean", self.clean, claim.clean if claim else None)]
        robust = claim.robust if claim else None
        lines += [_row(f"PGD-{STEPS} at eps {eps}", self.robust, robust)]
        lines[-1] += f" under {claim.attack} at eps {as_text(claim.eps or 0)}" if claim and robust is not None else ""
        lines += [self._soft_labels(), self._transfer()]
        lines += [f"record: {claim.of}" if claim else "record: none, so that only the plainest flaws show"]
        lines += [finding.text() for finding in self.findings]
        passed = "Passed, with the warning above." if self.findings else "Passed."
        return "\n".join([*lines, "", "Refused." if self.refused else passed])

    def _soft_labels(self) -> str:
        if self.entropy is None:
            return "entropy of soft labels: not measured"
        hard, share = self.entropy.hard, self.entropy.share
        text = (
            f"entropy of soft labels: {self.entropy.clean:.2f} nats ({100 * share(self.entropy.clean):.0f} % of log C)"
        )
        return text if hard is None else f"{text}, {hard:.2f} ({100 * share(hard):.0f} %) on the hardest quarter"

    def _transfer(self) -> str:
        if self.transfer is None:
            text = "transfer of a student's adversarial examples: not measured; type --student RUN with a trained one"
            return spelled(text)
        if not self.transfer.n:
            return "transfer of the student's adversarial examples: it has none on these images"
        return f"transfer of the student's adversarial examples: {self.transfer} % of {self.transfer.n}"


def _row(name: str, measured: Proportion | None, claimed: float | None) -> str:
    line = f"{name}: {'not measured' if measured is None else f'{measured} % of {measured.n} images'}"
    return line if claimed is None else f"{line}; recorded {100 * claimed:.1f} %"


def require(gate: TeacherReport, otherwise: str = "type --gate=false to train all the same") -> None:
    """Raise ModelError where a finding is an error: the first one, its advice, and the advice `otherwise`."""
    for finding in gate.findings:
        if finding.severity == "error":
            raise ModelError(
                f"expected a teacher that matches its record, got {finding.name}: {finding.evidence}; {finding.next}, "
                f"or {otherwise}"
            )
