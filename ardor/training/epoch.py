"""A moment inside an epoch: what a loop may tell while it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StepProgress:
    """Step `step` of `steps`, from 1, of epoch `epoch` of `epochs` is done.

    images_per_second: of this epoch so far. terms: the mean loss terms of this epoch so far, by name.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    terms: Mapping[str, float]


@dataclass
class EpochRecord:
    """What an epoch did: mean loss terms by name, the last rate, seconds, and accuracies where `val` was looked at."""

    epoch: int
    epochs: int
    loss: float
    terms: dict[str, float]
    lr: float
    seconds: float
    images_per_second: float | None = None
    val_clean: float | None = None
    val_robust: float | None = None
    best: bool = False
    averaged_clean: float | None = None
    averaged_robust: float | None = None
    averaged_best: bool = False
    run: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        parts = [f"epoch {self.epoch}/{self.epochs}", f"loss {self.loss:.4f}"]
        parts += [f"{name} {value:.4f}" for name, value in self.terms.items()]
        if self.val_robust is not None and self.val_clean is not None:
            star = " *" if self.best else ""
            parts.append(f"val {100 * self.val_clean:.1f} clean {100 * self.val_robust:.1f} robust{star}")
        if self.averaged_robust is not None and self.averaged_clean is not None:
            star = " *" if self.averaged_best else ""
            said = f"{100 * self.averaged_clean:.1f} clean {100 * self.averaged_robust:.1f} robust"
            parts.append(f"averaged {said}{star}")
        return "  ".join([*parts, f"lr {self.lr:.3g}", f"{self.seconds:.1f} s"])
