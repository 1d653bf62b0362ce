"""Comparison: the differences of two nets or methods, and what they are worth."""

from __future__ import annotations

from dataclasses import dataclass

from ardor.data.notebook import table
from ardor.evaluation.comparison.difference import Difference
from ardor.evaluation.comparison.significance import holm, p_text
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Proportion


@dataclass(frozen=True)
class Comparison:
    """A beside B on the same images.

    names: what A and B are called. seeds: of training, one per pair, None where it is unknown. what: the images and
    the attacks. figures: clean, each attack, worst_case. classes: worst_case by class. differ: how the trainings of A
    and B differ beside the seed. findings: how the comparison could be wrong. doubts: why a robust accuracy of A or B
    cannot be quoted at all. verdict: one sentence on the worst case that claims no more than the evidence allows.
    """

    names: tuple[str, str]
    seeds: tuple[int | None, ...]
    what: str
    figures: dict[str, Difference]
    classes: dict[str, Difference]
    differ: list[str]
    findings: list[Finding]
    doubts: list[str]
    verdict: str = ""

    def __str__(self) -> str:
        return f"{self._caption()}\n{self.verdict}"

    def __repr__(self) -> str:
        worst = self.figures["worst_case"]
        low, high = worst.both or worst.images
        over = "seeds and " if worst.both else ""
        interval = f"[{100 * low:.2f}, {100 * high:.2f}] over {over}{worst.n} images"
        return f"<Comparison {self._caption()}: worst_case {100 * worst.value:+.2f} points {interval}>"

    def _repr_html_(self) -> str:
        rows = [
            (name, *(f"{100 * v:.2f}" for v in (d.value, *(d.both or d.images))), p_text(d.p), str(d.n))
            for name, d in self.figures.items()
        ]
        return table(f"{self._caption()}. {self.verdict}", ("A - B", "points", "from", "to", "p", "images"), rows)

    def _caption(self) -> str:
        seeds = f"{len(self.seeds)} seeds" if len(self.seeds) > 1 else "one seed"
        return f"A = {self.names[0]}, B = {self.names[1]}, {seeds}, {self.what}"

    @property
    def adjusted(self) -> dict[str, float]:
        """Each class's p by Holm's correction: the chance of any false one among them is at most 5 %."""
        return holm({name: difference.p for name, difference in self.classes.items()})

    def worst_class(self, side: str) -> list[tuple[str, Proportion]]:
        """Per seed, the class of lowest worst-case accuracy, and that accuracy. side: "a" or "b"."""
        shares = [{name: getattr(d.pairs[s], side) for name, d in self.classes.items()} for s in range(len(self.seeds))]
        return [min(seed.items(), key=lambda item: item[1].value) for seed in shares]
