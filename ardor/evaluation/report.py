"""Report: the verdict per image and attack, and every figure that follows from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from ardor.errors import ConfigError
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Proportion
from ardor.storage.files import write_atomic

ROBUST, BROKEN, NOT_ATTEMPTED = "r", "b", "-"
FORMAT = "ardor-report-1"

ACCESS = {
    "transfer": "by transfer from another net",
    "white-box": "along its own gradients",
    "query": "by Square, which only asks",
}
"""What the attacks of the suite `deployed` have access to; none is a bound on another."""


@dataclass
class Report:
    """One net, one split, one suite.

    verdicts: attack name -> one letter per image: "r" robust, "b" broken, "-" not attempted (misclassified when clean,
    so no attack was needed; in a sequential suite also broken by an attack before). index: each image's position in the
    data set. attacks: the resolved hyperparameters. model, data: what they were, with hashes. marks and findings: how
    the figures could be wrong. sequential: each attack saw only the survivors of those before, so its accuracy is that
    after all of them, and any iterate counted; else each started from all correctly classified images and was judged at
    its final iterate. passes: images that each attack sent through the net, forward and back.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    suite: str
    threat: dict[str, Any]
    attacks: dict[str, Any]
    index: list[int]
    labels: list[int]
    verdicts: dict[str, str]
    seed: int
    batch: int
    seconds: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    sequential: bool = False
    passes: dict[str, list[int]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Images judged."""
        return len(self.index)

    @property
    def clean(self) -> Proportion:
        """Correct without an attack."""
        return self._share(lambda i: next(iter(self.verdicts.values()))[i] != NOT_ATTEMPTED)

    def robust(self, *attacks: str) -> Proportion:
        """Correct on the clean image and under each of `attacks`, in a sequential suite also those before; of all n."""
        return self._share(lambda i: all(self.verdicts[attack][i] == ROBUST for attack in attacks))

    @property
    def worst_case(self) -> Proportion:
        """Correct under every attack of the suite: what the suite as a whole says."""
        return self._share(self._survives)

    def per_class(self) -> dict[str, Proportion]:
        """Worst-case accuracy of each class that occurs."""
        names = self.data["class_names"]
        rows = {c: [i for i in range(self.n) if self.labels[i] == c] for c in sorted(set(self.labels))}
        return {names[c]: Proportion(sum(map(self._survives, rows[c])), len(rows[c])) for c in rows}

    def by_access(self) -> dict[str, Proportion]:
        """For each kind of `ACCESS`, the images robust to every attack of it, of all n; {} for other suites."""
        names: dict[str, list[str]] = {}
        for name in self.verdicts if self.suite == "deployed" else ():
            names.setdefault(access_of(name), []).append(name)
        return {kind: self.robust(*attacks) for kind, attacks in names.items()}

    def figures(self) -> dict[str, Proportion]:
        """Every accuracy by name: clean, each attack, worst_case."""
        robust = {name: self.robust(name) for name in self.verdicts}
        return {"clean": self.clean, **robust, "worst_case": self.worst_case}

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON, whole or not at all. Raises RunError."""
        figures = {
            name: {"k": p.k, "n": p.n, "accuracy": p.value, "wilson95": p.interval}
            for name, p in self.figures().items()
        }
        text = json.dumps({"format": FORMAT, "figures": figures, **asdict(self)}, indent=1)
        return write_atomic(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))

    @staticmethod
    def load(path: str | Path) -> Report:
        """Read what `save` wrote. Raises ConfigError."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise KeyError("format")
            content.pop("figures")  # they follow from the verdicts
            content["findings"] = [Finding(**f) for f in content["findings"]]
            report = Report(**content)
            report._require_sound()
        except OSError as error:
            raise ConfigError(f"expected a report, got {path}: {error.strerror}") from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ConfigError(f"expected a report that `ardor evaluate` wrote, got {path}: name such a file") from error
        return report

    def table(self) -> str:
        """The figures as Markdown, with n and 95 % Wilson intervals, and the findings below."""
        eps = self.threat.get("eps")
        lines = [
            f"{self.title or self.model['name']} on {self.data['name']} ({self.data['part']}), "
            f"{self.threat['name']} eps {eps}, n = {self.n}{self._subset()}",
            *(["Each attack saw the survivors of those above it."] if self.sequential else []),
            "",
            "| attack | accuracy % | 95 % interval | robust of n |",
            "|:--|--:|:-:|--:|",
        ]
        for name, p in self.figures().items():
            low, high = p.interval
            lines.append(f"| {name} | {100 * p.value:.2f} | {100 * low:.2f} .. {100 * high:.2f} | {p.k} / {p.n} |")
        worst = min(self.per_class().items(), key=lambda item: item[1].value)
        lines += ["", *self._access_lines()]
        lines += [f"worst class: {worst[0]}, {worst[1].k} of {worst[1].n} robust to every attack"]
        return "\n".join([*lines, *(str(f) for f in self.findings)])

    __str__ = table

    def _access_lines(self) -> list[str]:
        kinds = self.by_access()
        shares = [f"{100 * share.value:.2f} % {ACCESS[kind]}" for kind, share in kinds.items()]
        shares += [] if "transfer" in kinds else ["and nobody asked by transfer"]
        advice = "quote the worst case, an upper bound; --suite autoattack may break more."
        return [f"Right {', '.join(shares)}: {advice}"] if kinds else []

    def _subset(self) -> str:
        of = self.data.get("of", self.n)
        return f" of {of}, classes in proportion" if of != self.n else ""

    def _require_sound(self) -> None:
        """One letter per image and attack, and one opinion on which images were left for each attack."""
        letters = {ROBUST, BROKEN, NOT_ATTEMPTED}
        lengths = {len(self.labels), *map(len, self.verdicts.values())}
        if lengths != {self.n} or not self.verdicts or not letters.issuperset("".join(self.verdicts.values())):
            raise ValueError("verdicts that do not fit the images")
        for before, after in pairwise(self.verdicts.values()):
            gone = {NOT_ATTEMPTED, BROKEN} if self.sequential else {NOT_ATTEMPTED}
            if any((a in gone) != (b == NOT_ATTEMPTED) for a, b in zip(before, after, strict=True)):
                raise ValueError("verdicts that do not fit each other")

    def _survives(self, i: int) -> bool:
        return all(verdict[i] == ROBUST for verdict in self.verdicts.values())

    def _share(self, holds: Callable[[int], bool]) -> Proportion:
        return Proportion(sum(holds(i) for i in range(self.n)), self.n)


def access_of(attack: str) -> str:
    """Which kind of `ACCESS` an attack of the suite `deployed` has, by its name there."""
    if attack.startswith("transfer_"):
        return "transfer"
    return "query" if attack == "square" else "white-box"
