"""What the loop reports: the record of an epoch, and the progress inside one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from ardor.data.notebook import LINES, table
from ardor.evaluation.progress import duration

if TYPE_CHECKING:
    from ardor.plot.sheet import Figure


@dataclass(frozen=True)
class StepProgress:
    """A finished step of an epoch.

    Parameters
    ----------
    epoch, epochs : int
        The epoch, from 1, and their number.
    step, steps : int
        The step, from 1, and their number in an epoch.
    images_per_second : float
        Of this epoch so far.
    terms : mapping of str to float
        Mean loss terms of this epoch so far.
    earlier : int
        Steps of this epoch that an earlier process made.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    images_per_second: float
    terms: Mapping[str, float]
    earlier: int = 0


ProgressCallback: TypeAlias = Callable[[StepProgress], None]


class Pace:
    """The line of a training: epoch, step, loss, images per second, and the time left at the pace so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun = clock, clock()
        self._first: float | None = None

    def __call__(self, now: StepProgress) -> str:
        """The line at a step; what an earlier process did counts for nothing."""
        done = now.epoch - 1 + now.step / now.steps
        self._first = now.epoch - 1 + now.earlier / now.steps if self._first is None else self._first
        left = (self._clock() - self._begun) / (done - self._first) * (now.epochs - done)
        parts = [f"epoch {now.epoch}/{now.epochs}", f"step {now.step}/{now.steps}"]
        parts += [f"loss {sum(now.terms.values()):.4f}", f"{now.images_per_second:,.0f} images/s"]
        return ", ".join([*parts, f"{duration(left)} left"])


@dataclass
class EpochRecord:
    """A finished epoch, as a line of metrics.jsonl holds it.

    Parameters
    ----------
    epoch, epochs : int
        The epoch, from 1, and their number.
    loss : float
        The sum of the terms.
    terms : dict of str to float
        Mean loss terms.
    lr : float
        Learning rate of the last step.
    seconds, images_per_second : float
        Of training, without validation.
    val_clean, val_robust : float, optional
        Validation accuracies in [0, 1]; None where none was due.
    best : bool
        Whether val_robust is the highest so far.
    averaged_clean, averaged_robust, averaged_best
        The same of the average of the weights.
    stopped : bool
        Whether the run ends here, before its last epoch, for want of a better validation (`recipe.patience`).
    eps : float, optional
        Radius of the training attack in the last step, where the recipe changes it.
    run : str, optional
        The run's folder.
    """

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
    stopped: bool = False
    eps: float | None = None
    run: str | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        return f"<EpochRecord {self}>"

    def __str__(self) -> str:
        parts = [f"epoch {self.epoch}/{self.epochs}", f"loss {self.loss:.4f}"]
        parts += [f"{name} {value:.4f}" for name, value in self.terms.items()]
        for name, clean, robust, best in (
            ("val", self.val_clean, self.val_robust, self.best),
            ("averaged", self.averaged_clean, self.averaged_robust, self.averaged_best),
        ):
            if clean is not None and robust is not None:
                parts.append(f"{name} {100 * clean:.1f} clean {100 * robust:.1f} robust{' *' * best}")
        parts += [] if self.eps is None else [f"eps {self.eps:.4g}"]
        parts += ["stopped: no better validation"] if self.stopped else []
        return "  ".join([*parts, f"lr {self.lr:.3g}", f"{self.seconds:.1f} s"])


class History(list[EpochRecord]):
    """The records of a run's epochs: a list that a notebook shows as a table and curves.

    `distill` returns one; `History(ardor.epochs(...))` is one of a loop of your own.
    """

    def plot(self) -> Figure:
        """`ardor.plot.curves` of them."""
        from ardor.plot import curves  # matplotlib is slow to import

        return curves(self)

    def _repr_html_(self) -> str:
        head = ("epoch", "loss", "val clean, %", "val robust, %", "rate")
        rows = [
            (f"{r.epoch}/{r.epochs}", f"{r.loss:.4f}", *map(_percent, (r.val_clean, r.val_robust)), f"{r.lr:.3g}")
            for r in self[-LINES:]
        ]
        before = f", the last {LINES} shown" if len(self) > LINES else ""
        image = self.plot()._repr_png_() if self else b""
        return table(f"{len(self)} epochs{before}", head, rows, image, "accuracies and loss over the epochs")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
