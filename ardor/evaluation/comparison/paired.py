"""Two nets, or two methods over several seeds, on the same images: what the difference is and what it cannot show.

Two different chances stand behind a difference. Other test images would give these nets another one: McNemar's test and
the interval over images speak of that. Another training seed would give another net: only several seeds speak of that,
by their standard deviation and Student's interval over them. Neither covers the other, so what is said of methods rests
on both together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ardor.errors import ConfigError
from ardor.evaluation.comparison.difference import Difference, Pair
from ardor.evaluation.comparison.significance import holm
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.report import NOT_ATTEMPTED, ROBUST, Report
from ardor.storage.config import differences, few

OF_A_SEED = ("recipe.seed", "student.seed", "fingerprint.student")
PLACES_OF_A_TEACHER = tuple(f"teacher.{key}" for key in ("weights", "natural", "robust", "root", "download"))
OF_A_TEACHER = (*PLACES_OF_A_TEACHER, "teacher.seed", "fingerprint.teacher")  # which one it is, its fingerprint says
ELSEWHERE = ("fingerprint.ardor", "recipe.device", "threads", "data.root", "data.download")  # where, not how


@dataclass(frozen=True)
class Comparison:
    """A beside B on the same images.

    names: what A and B are called. seeds: of training, one per pair, None where it is not known. what: the images and
    the attacks. figures: clean, each attack, worst_case. classes: worst_case by class. differ: how the trainings of A
    and B differ beside the seed. findings: how the comparison could be wrong. doubts: why a robust accuracy of A or B
    cannot be quoted at all.
    """

    names: tuple[str, str]
    seeds: tuple[int | None, ...]
    what: str
    figures: dict[str, Difference]
    classes: dict[str, Difference]
    differ: list[str]
    findings: list[Finding]
    doubts: list[str]

    @property
    def adjusted(self) -> dict[str, float]:
        """Each class's p by Holm's correction: the chance of any false one among them is at most 5 %."""
        return holm({name: difference.p for name, difference in self.classes.items()})

    def worst_class(self, side: str) -> list[tuple[str, Proportion]]:
        """The class of lowest worst-case accuracy, and that accuracy, seed by seed. side: "a" or "b"."""
        shares = [{name: getattr(d.pairs[s], side) for name, d in self.classes.items()} for s in range(len(self.seeds))]
        return [min(seed.items(), key=lambda item: item[1].value) for seed in shares]


def compare(a: Sequence[Report], b: Sequence[Report], names: tuple[str, str] = ("A", "B")) -> Comparison:
    """Compare reports of the same images under the same attacks, one pair per training seed, in the order given.

    Raises ConfigError where images, suite, attacks, threat, the attacks' seed, or the number of seeds differ, where the
    reports of one side were trained in different ways, or one net stands for several seeds.
    """
    if not a or len(a) != len(b):
        raise ConfigError(
            f"expected as many seeds of A as of B, one at least, got {len(a)} and {len(b)}: type runs of the same seeds"
        )
    for other in [*a[1:], *b]:
        _require_same(a[0], other)
    for side, reports in zip(names, (a, b), strict=True):
        _require_seeds(side, reports)
    first, right = a[0], ([_right(report) for report in a], [_right(report) for report in b])
    everywhere = range(first.n)
    rows = {c: [i for i in everywhere if first.labels[i] == c] for c in sorted(set(first.labels))}
    called = first.data["class_names"]
    return Comparison(
        names=names,
        seeds=tuple(_seed(report) for report in a),
        what=_what(first),
        figures={name: _difference(name, *right, everywhere) for name in right[0][0]},
        classes={called[c]: _difference("worst_case", *right, rows[c]) for c in rows},
        differ=_differ(a[0], b[0]),
        findings=_findings(a, b),
        doubts=_doubts(names, a, b),
    )


def _right(report: Report) -> dict[str, list[bool]]:
    """Of every figure, whether each image is right."""
    rows = list(report.verdicts.values())
    robust = {name: [letter == ROBUST for letter in row] for name, row in report.verdicts.items()}
    clean = [letter != NOT_ATTEMPTED for letter in rows[0]]
    return {"clean": clean, **robust, "worst_case": [set(letters) == {ROBUST} for letters in zip(*rows, strict=True)]}


def _difference(
    name: str, a: Sequence[dict[str, list[bool]]], b: Sequence[dict[str, list[bool]]], rows: Sequence[int]
) -> Difference:
    sides = [(one[name], other[name]) for one, other in zip(a, b, strict=True)]
    pairs = tuple(
        Pair(len(rows), sum(x[i] for i in rows), sum(x[i] > y[i] for i in rows), sum(x[i] < y[i] for i in rows))
        for x, y in sides
    )
    return Difference(pairs, math.fsum((sum(x[i] - y[i] for x, y in sides) / len(sides)) ** 2 for i in rows))


def _require_same(one: Report, other: Report) -> None:
    """Other images or another attack would make the difference one of theirs."""
    identity = [
        {
            "data": {"hash": r.data.get("hash")},
            "images": [*zip(r.index, r.labels, strict=True)],
            **{key: getattr(r, key) for key in ("suite", "sequential", "threat", "attacks", "seed")},
            "order": list(r.verdicts),  # an attack of a sequential suite is judged after those before it
        }
        for r in (one, other)
    ]
    changed = differences(identity[0], identity[1])
    if changed:
        raise ConfigError(
            f"expected all to be judged on the same images by the same attacks, got {few(changed)}: type "
            "ardor evaluate with the same --data, --suite, --threat, --limit and --seed for each"
        )


def _require_seeds(side: str, reports: Sequence[Report]) -> None:
    """Nets of one side that are one method: another seed each, and nothing else."""
    if len(reports) == 1:
        return
    for other in reports[1:]:
        changed = differences(_recipe(reports[0]), _recipe(other))
        if changed:
            raise ConfigError(
                f"expected runs of {side} that differ only in the seed, got {few(changed)}: name one method"
            )
    hashes, seeds = [r.model.get("hash") for r in reports], [_seed(r) for r in reports if _seed(r) is not None]
    if len(set(hashes)) < len(hashes) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"expected another net for each seed of {side}, got one twice: name each run once")


def _recipe(report: Report, dropped: Sequence[str] = (*OF_A_SEED, *OF_A_TEACHER, *ELSEWHERE)) -> dict[str, Any]:
    """How a net was trained, without what a seed or a place changes."""

    def without(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for key, value in config.items():
            if prefix + key not in dropped:
                yield key, dict(without(value, f"{prefix}{key}.")) if isinstance(value, Mapping) else value

    return dict(without(report.training, ""))


def _differ(a: Report, b: Report) -> list[str]:
    """How two trainings differ, in the teacher too; nothing where one of them is not known."""
    dropped = (*OF_A_SEED, *PLACES_OF_A_TEACHER, *ELSEWHERE)
    return differences(_recipe(a, dropped), _recipe(b, dropped)) if a.training and b.training else []


def _seed(report: Report) -> int | None:
    seed = (report.training.get("recipe") or {}).get("seed")
    return None if seed is None else int(seed)


def _what(report: Report) -> str:
    of = report.data.get("of", report.n)
    images = f"{report.n} images" + (f" of {of}" if of != report.n else "")
    threat = f"{report.threat['name']} eps {report.threat.get('eps')}"
    return f"{images}, {report.data['name']} ({report.data['part']}), suite {report.suite}, {threat}"


def _findings(a: Sequence[Report], b: Sequence[Report]) -> list[Finding]:
    everything = [*a, *b]
    versions = {", ".join(f"{k} {v}" for k, v in sorted(r.versions.items())): None for r in everything}
    marks = dict.fromkeys(
        mark
        for r in everything
        for mark in [*r.data.get("marks", []), *(r.training.get("fingerprint") or {}).get("marks", [])]
    )
    same = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x.model.get("hash") == y.model.get("hash")]
    teachers = [{(r.training.get("fingerprint") or {}).get("teacher") for r in side} for side in (a, b)]
    checkpoints = [sorted(set(filter(None, map(_checkpoint, side)))) for side in (a, b)]
    findings = []
    if len({*checkpoints[0], *checkpoints[1]}) > 1:
        evidence = "checkpoints judged: " + ", ".join(
            f"{' and '.join(c) or 'unknown'} of {s}" for s, c in zip("AB", checkpoints, strict=True)
        )
        advice = "judge the same checkpoint of all: type ardor evaluate RUN with the same --checkpoint"
        findings.append(Finding("checkpoints", "warning", evidence, advice))
    if len(versions) > 1:
        advice = "judge them again with one version, or show that it gives the same verdicts"
        findings.append(Finding("versions", "note", f"judged by {' and by '.join(versions)}", advice))
    if marks:
        advice = "report it as the papers' protocol, not as held out: the images here favour what they chose"
        findings.append(Finding("selection", "warning", "; ".join(marks), advice))
    if same:
        evidence = f"A and B have the same weights in {len(same)} of {len(a)} pairs"
        findings.append(Finding("same_net", "warning", evidence, "name two nets"))
    if any(len(side) > 1 for side in teachers):
        advice = "the spread over seeds holds that of the teachers too"
        findings.append(Finding("teachers", "note", "the seeds of one side had different teachers", advice))
    seeds = [(_seed(x), _seed(y)) for x, y in zip(a, b, strict=True)]
    if any(x != y for x, y in seeds if x is not None and y is not None):
        evidence = "seeds of training (A, B): " + ", ".join(map(str, seeds))
        findings.append(
            Finding("unlike_seeds", "note", evidence, "pair nets of one seed: they share the order of images")
        )
    return findings


def _checkpoint(report: Report) -> str | None:
    """Which checkpoint of a run was judged; only the title says so."""
    match = re.search(r" \((best|last)\)$", report.title)
    return match and match[1]


def _doubts(names: tuple[str, str], a: Sequence[Report], b: Sequence[Report]) -> list[str]:
    """Errors among a report's findings: its robust accuracy is no figure to compare."""
    errors = {
        name: dict.fromkeys(f.name for r in reports for f in r.findings if f.severity == "error")
        for name, reports in zip(names, (a, b), strict=True)
    }
    return [f"the report of {name} found an error in it ({', '.join(es)})" for name, es in errors.items() if es]
