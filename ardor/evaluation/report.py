"""Report: the verdict per image and attack, and every figure derived from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Required, TypedDict

from ardor.data.notebook import table as html_table
from ardor.errors import ConfigError, shown, spelled
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Proportion
from ardor.storage.files import write_text
from ardor.storage.imports import require_package
from ardor.storage.markdown import inline
from ardor.storage.reading import checked, read_json

if TYPE_CHECKING:
    from pandas import DataFrame

    from ardor.plot.sheet import Figure

ROBUST, BROKEN, NOT_ATTEMPTED = "r", "b", "-"
FORMAT = "ardor-report-1"
ROUNDING = 1e-6
"""The most by which a written accuracy may differ from that of the verdicts."""
MOST_CLASSES = 20
"""Classes of which a figure has a row each."""

ACCESS = {
    "transfer": "by transfer from another net",
    "white-box": "along its own gradients",
    "query": "by Square, which uses only logits",
}
"""What the attacks of the suite `deployed` have access to; none is a bound on another."""


class _Net(TypedDict, total=False):
    """The keys of a report's `model` that are read."""

    name: Required[str]
    hash: str
    parameters: int


class _Images(TypedDict, total=False):
    """The keys of a report's `data` that are read."""

    name: Required[str]
    part: Required[str]
    class_names: Required[list[str]]
    of: int
    hash: str
    marks: list[str]


class _Threat(TypedDict, total=False):
    """The keys of a report's `threat` that are read."""

    name: Required[str]
    eps: float | str


class _Attack(TypedDict, total=False):
    """The keys of an attack in a report that are read."""

    queries: int | None


class _Figure(TypedDict, total=False):
    """A figure in a report's file, each part of which follows from the verdicts."""

    k: int
    n: int
    accuracy: float
    wilson95: tuple[float, float]


@dataclass
class Report:
    """The verdicts of one net on one split under one suite.

    Parameters
    ----------
    model, data : dict
        Their configs, with hashes.
    suite : str
        Its name.
    threat : dict
        Its config.
    attacks : dict
        Attack name -> its resolved hyperparameters.
    index, labels : list of int
        Of the n images: the position in the data set, and the class.
    verdicts : dict of str
        Attack name -> n letters: "r" robust, "b" broken, "-" not attempted (misclassified when clean; in a sequential
        suite also broken by an attack before).
    seed, batch : int
        Of the attacks' random starts; images per batch.
    seconds : dict of float
        Attack name -> its time, without a journal.
    findings : list of Finding
        How the figures could be wrong.
    versions : dict of str
        Of ardor and torch.
    training : dict
        The config of the run, empty where there is none.
    title : str
        The net's name in the table; its model's if empty.
    sequential : bool
        Each attack ran on the survivors of those before, so its accuracy is that after all of them, and any iterate
        counted; else each started from all correctly classified images and was judged at its final iterate.
    passes : dict
        Attack name, or new_starts -> images through the net, forward and back.
    new_starts : str
        In a sequential suite, of the images that Square broke and no attack by gradient before it: n letters, whether
        APGD from new starts breaks them too. "-" for the others; empty where Square broke none, and in older reports.
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
    new_starts: str = ""

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.index)

    @property
    def trial(self) -> str:
        """Trial on 60 of 449 images, in these words, where only a part of the images was evaluated; else ""."""
        of = self.data.get("of", self.n)
        return "" if of == self.n else f"trial on {self.n:,} of {of:,} images"

    @property
    def clean(self) -> Proportion:
        """Clean accuracy."""
        return Proportion(sum(letter != NOT_ATTEMPTED for letter in next(iter(self.verdicts.values()))), self.n)

    @property
    def worst_case(self) -> Proportion:
        """Accuracy under every attack of the suite at once."""
        return self.robust(*self.verdicts)

    def robust(self, *attacks: str) -> Proportion:
        """Accuracy on the clean images and under each of `attacks`, in a sequential suite also those before; of n."""
        letters = zip(*(self.verdicts[attack] for attack in attacks), strict=True)
        return Proportion(sum(set(row) == {ROBUST} for row in letters), self.n)

    def correct(self) -> dict[str, list[bool]]:
        """Which of the n images are correct, by figure: clean, each attack, worst_case."""
        rows = self.verdicts
        clean = [letter != NOT_ATTEMPTED for letter in next(iter(rows.values()))]
        robust = {name: [letter == ROBUST for letter in row] for name, row in rows.items()}
        return {"clean": clean, **robust, "worst_case": list(map(all, zip(*robust.values(), strict=True)))}

    def figures(self) -> dict[str, Proportion]:
        """Every accuracy by name: clean, each attack, worst_case."""
        return {name: Proportion(sum(row), self.n) for name, row in self.correct().items()}

    def per_class(self, figure: str = "worst_case") -> dict[str, Proportion]:
        """Accuracy of each class that occurs, by name: the worst case, or another of `figures`."""
        rows: dict[int, list[bool]] = {label: [] for label in sorted(set(self.labels))}
        for label, correct in zip(self.labels, self.correct()[figure], strict=True):
            rows[label].append(correct)
        return {self.data["class_names"][label]: Proportion(sum(row), len(row)) for label, row in rows.items()}

    def by_access(self) -> dict[str, Proportion]:
        """For each kind of `ACCESS`, the images robust to every attack of it, of all n; {} for other suites."""
        names: dict[str, list[str]] = {}
        for name in self.verdicts if self.suite == "deployed" else ():
            names.setdefault(access_of(name), []).append(name)
        return {kind: self.robust(*attacks) for kind, attacks in names.items()}

    def as_dict(self) -> dict[str, Any]:
        """The content of the file that `save` writes."""
        figures = {
            name: {"k": p.k, "n": p.n, "accuracy": p.value, "wilson95": p.interval}
            for name, p in self.figures().items()
        }
        return {"format": FORMAT, "trial": self.trial, "figures": figures, **asdict(self)}

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON, atomically. Returns the path. Raises RunError."""
        return write_text(Path(path), json.dumps(self.as_dict(), indent=1))

    @staticmethod
    def load(path: str | Path) -> Report:
        """Read a file that `save` wrote. Raises ConfigError, also where its figures contradict its verdicts."""
        return Report.from_dict(read_json(Path(path)), path)

    @staticmethod
    def from_dict(content: Mapping[str, Any], path: str | Path) -> Report:
        """The report whose `as_dict` was read from `path`. Raises ConfigError as `load` does."""
        content = dict(content)
        if content.pop("format", None) != FORMAT:
            raise ConfigError(f"expected a report that `ardor evaluate` wrote, got {path}: name such a file")
        figures = content.pop("figures", {})
        content.pop("trial", None)
        report: Report = checked(content, Report, path)
        for key, kind in (("model", _Net), ("data", _Images), ("threat", _Threat)):
            checked(getattr(report, key), kind, path, key)
        checked(report.attacks, dict[str, _Attack], path, "attacks")
        try:
            report._require_consistent()
        except ValueError as error:
            raise ConfigError(f"expected a report as `ardor evaluate` wrote it, got {path} with {error}") from error
        report._require_derived(figures, path)
        return report

    def table(self) -> str:
        """The figures as Markdown, with n and 95 % Wilson intervals, and the findings below."""
        of = self.data.get("of", self.n)
        lines = [
            f"{inline(self.title or self.model['name'])} on {inline(self.data['name'])} ({self.data['part']}), "
            f"{inline(self.threat['name'])} eps {self.threat.get('eps')}, n = {self.n}"
            + (f" of {of}, classes in proportion: a trial" if self.trial else ""),
            *(["Each attack saw the survivors of those above it."] if self.sequential else []),
            "",
            "| attack | accuracy % | 95 % interval | robust of n |",
            "|:--|--:|:-:|--:|",
        ]
        for name, p in self.figures().items():
            low, high = p.interval
            lines.append(
                f"| {inline(name)} | {100 * p.value:.2f} | {100 * low:.2f} .. {100 * high:.2f} | {p.k} / {p.n} |"
            )
        lines += ["", *self._access_lines()]
        worst, p = min(self.per_class().items(), key=lambda item: item[1].value)
        lines += [f"worst class: {inline(worst)} ({p.k} of {p.n} robust to every attack)", *map(str, self.findings)]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        figures = self.figures()
        lines = [f"{name} {figures[name]} %" for name in dict.fromkeys(("clean", "worst_case")) if name in figures]
        notes = [f"findings: {', '.join(finding.name for finding in self.findings)}"] if self.findings else []
        return f"<Report {self._caption()}: {'; '.join([*lines, *notes])}>"

    def _repr_html_(self) -> str:
        rows = [(name, str(p), f"{p.k} / {p.n}") for name, p in self.figures().items()]
        rows += [(finding.severity, finding.name, spelled(finding.next)) for finding in self.findings]
        image = self.plot()._repr_png_()
        return html_table(self._caption(), ("", "% of images, 95 % interval", "images"), rows, image, "accuracies")

    def plot(self) -> Figure:
        """Every accuracy with its 95 % interval, and the worst case of each class beside it, as a matplotlib Figure."""
        from ardor.plot import accuracies  # matplotlib is slow to import

        classes = self.per_class()
        title = f"{self.title or self.model.get('name', 'net')}, {self.threat.get('name')} eps {self.threat.get('eps')}"
        return accuracies(self.figures(), classes if len(classes) <= MOST_CLASSES else None, title)

    def frame(self, *, images: bool = False) -> DataFrame:
        """The figures as a pandas DataFrame, a row each: k, n, accuracy, low and high, the 95 % interval.

        Parameters
        ----------
        images : bool
            A row per image instead: its index, label and class, and whether it is correct clean, under each attack
            and in the worst case. `report.frame(images=True).groupby("class").mean(numeric_only=True)` has every
            accuracy by class.

        Raises
        ------
        ConfigError
            Without pandas.
        """
        pandas = require_package("pandas", "notebook", "a report's frame")
        if images:
            names = self.data["class_names"]
            of = {"index": self.index, "label": self.labels, "class": [names[label] for label in self.labels]}
            return pandas.DataFrame(of | self.correct()).set_index("index")
        rows = {name: (p.k, p.n, p.value, *p.interval) for name, p in self.figures().items()}
        return pandas.DataFrame.from_dict(rows, orient="index", columns=["k", "n", "accuracy", "low", "high"])

    def _caption(self) -> str:
        name = self.title or str(self.model.get("name", "net"))
        threat = f"{self.threat.get('name')} eps {self.threat.get('eps')}"
        return f"{name} on {self.n} images of {self.data['name']} ({self.data['part']}), suite {self.suite}, {threat}"

    def _access_lines(self) -> list[str]:
        kinds = self.by_access()
        shares = [f"{100 * share.value:.2f} % {ACCESS[kind]}" for kind, share in kinds.items()]
        shares += [] if "transfer" in kinds else ["no attack by transfer"]
        advice = "quote the worst case, an upper bound; --suite autoattack may break more."
        return [spelled(f"Accuracy under attack: {', '.join(shares)}; {advice}")] if kinds else []

    def _require_derived(self, figures: Any, path: str | Path) -> None:
        """Refuse written figures that do not follow from the verdicts. Raises ConfigError, with both."""
        for name, share in self.figures().items():
            figure = figures.get(name) if isinstance(figures, dict) else figures
            saved = checked(figure, _Figure, path, f"figures.{name}")
            got, expected = f"{shown(saved.get('k'))} of {shown(saved.get('n'))}", f"{share.k} of {share.n}"
            ends = share.value, *share.interval
            written = saved.get("accuracy", ends[0]), *saved.get("wilson95", ends[1:])
            if got == expected and any(abs(a - b) > ROUNDING for a, b in zip(written, ends, strict=True)):
                got, expected = (f"{a:.4f} ({low:.4f} .. {high:.4f})" for a, low, high in (written, ends))
            if got != expected:
                raise ConfigError(
                    f"expected figures that follow from the verdicts in {path}, got {got} for {name}, where {expected} "
                    "do: evaluate again"
                )

    def _require_consistent(self) -> None:
        """One letter per image and attack, and attacks that agree on which images were left. Raises ValueError."""
        letters = {ROBUST, BROKEN, NOT_ATTEMPTED}
        lengths = {len(self.labels), *map(len, self.verdicts.values())}
        if not self.n or not all(0 <= label < len(self.data["class_names"]) for label in self.labels):
            raise ValueError("labels that are no classes")
        if lengths != {self.n} or not self.verdicts or not letters.issuperset("".join(self.verdicts.values())):
            raise ValueError("verdicts that do not fit the images")
        gone = {NOT_ATTEMPTED, BROKEN} if self.sequential else {NOT_ATTEMPTED}
        for before, after in pairwise(self.verdicts.values()):
            if any((a in gone) != (b == NOT_ATTEMPTED) for a, b in zip(before, after, strict=True)):
                raise ValueError("verdicts that do not fit each other")
        again = [letter != NOT_ATTEMPTED for letter in self.new_starts]
        broken = [[letter == BROKEN for letter in row] for row in self.verdicts.values()]
        if self.new_starts and (again not in broken or not letters.issuperset(self.new_starts) or not self.sequential):
            raise ValueError("new starts of other images than those that one attack broke")


def access_of(attack: str) -> str:
    """The kind of `ACCESS` of an attack of the suite `deployed`, by its name."""
    if attack.startswith("transfer_"):
        return "transfer"
    return "query" if attack == "square" else "white-box"
