"""Two nets, or two methods over several seeds, on the same images: the difference and its limits.

A difference has two sources of chance. Other test images would give these nets another one: McNemar's test and the
interval over images cover that. Another training seed would give another net: only several seeds cover that, by their
standard deviation and Student's interval over them. Neither covers the other, so a claim on methods rests on both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, starmap
from typing import Any

from ardor.errors import ConfigError
from ardor.evaluation.comparison.difference import Difference, Pair
from ardor.evaluation.comparison.result import Comparison
from ardor.evaluation.comparison.wording import verdict
from ardor.evaluation.findings import Finding
from ardor.evaluation.protocol import require_same, title_of
from ardor.evaluation.report import Report
from ardor.models.identity import same_function
from ardor.storage.arguments import typed
from ardor.storage.config import differences, few

# Keys of a config that are not the method's: of the seed, the teacher, and the machine. A fingerprint identifies a net.
OF_A_SEED = ("recipe.seed", "student.seed", "fingerprint.student", "fingerprint.student_function.logits")
PLACES_OF_A_TEACHER = tuple(f"teacher.{key}" for key in ("weights", "natural", "robust", "root", "download"))
OF_A_TEACHER = (*PLACES_OF_A_TEACHER, "teacher.seed", "fingerprint.teacher", "fingerprint.teacher_function")
ELSEWHERE = ("fingerprint.ardor", "recipe.device", "threads", "data.root", "data.download")


@typed
def compare(
    a: Report | Sequence[Report], b: Report | Sequence[Report], names: tuple[str, str] = ("A", "B")
) -> Comparison:
    """Compare reports of the same images under the same attacks.

    Parameters
    ----------
    a, b : Report or sequence of Report
        One pair per training seed, in the same order; one seed is no evidence about the methods.
    names : tuple of str
        What A and B are called in messages.

    Raises
    ------
    ConfigError
        Images, suite, attacks, threat, the attacks' seed or the number of seeds differ; the reports of one side were
        trained in different ways; or one net stands for several seeds.
    """
    a, b = ([side] if isinstance(side, Report) else side for side in (a, b))
    if not a or len(a) != len(b):
        raise ConfigError(
            f"expected as many seeds of A as of B, one at least, got {len(a)} and {len(b)}: type runs of the same seeds"
        )
    for other in [*a[1:], *b]:
        require_same(a[0], other)
    for side, reports in zip(names, (a, b), strict=True):
        _require_seeds(side, reports)
    first, correct = a[0], [(x.correct(), y.correct()) for x, y in zip(a, b, strict=True)]
    rows = {c: [i for i in range(first.n) if first.labels[i] == c] for c in sorted(set(first.labels))}
    class_names = first.data["class_names"]
    known = all(side[0].training for side in (a, b))
    comparison = Comparison(
        names=names,
        seeds=tuple(map(_seed, a)),
        what=title_of(first),
        figures={name: _difference([(x[name], y[name]) for x, y in correct], range(first.n)) for name in correct[0][0]},
        classes={
            class_names[c]: _difference([(x["worst_case"], y["worst_case"]) for x, y in correct], rows[c]) for c in rows
        },
        differ=_changed(a[0], b[0], (*OF_A_SEED, *PLACES_OF_A_TEACHER, *ELSEWHERE), ("in A", "in B")) if known else [],
        findings=_findings(a, b),
        doubts=[doubt for name, side in zip(names, (a, b), strict=True) for doubt in _doubts(name, side)],
    )
    return replace(comparison, verdict=verdict(comparison))


def _difference(pairs: Sequence[tuple[list[bool], list[bool]]], rows: Sequence[int]) -> Difference:
    """The difference on `rows`, from which images A and B have right, a pair per seed."""
    counts = [
        Pair(len(rows), sum(x[i] for i in rows), sum(x[i] > y[i] for i in rows), sum(x[i] < y[i] for i in rows))
        for x, y in pairs
    ]
    squares = math.fsum((sum(x[i] - y[i] for x, y in pairs) / len(pairs)) ** 2 for i in rows)
    return Difference(tuple(counts), squares)


def _require_seeds(side: str, reports: Sequence[Report]) -> None:
    """Refuse nets of one side that differ in more than the seed, or that are the same net."""
    for other in reports[1:]:
        if changed := _changed(reports[0], other, (*OF_A_SEED, *OF_A_TEACHER, *ELSEWHERE)):
            raise ConfigError(
                f"expected runs of {side} that differ only in the seed, got {few(changed)}: name one method"
            )
    twice, seeds = combinations([r.model for r in reports], 2), [_seed(r) for r in reports if _seed(r) is not None]
    if any(starmap(same_function, twice)) or len(set(seeds)) < len(seeds):
        raise ConfigError(f"expected another net for each seed of {side}, got one twice: name each run once")


def _changed(
    one: Report, other: Report, ignored: Sequence[str], places: tuple[str, str] = ("here", "there")
) -> list[str]:
    """How two trainings differ, without the keys in `ignored` and those below them."""
    changed = differences(one.training, other.training, places=places)
    unrecorded = tuple(f"fingerprint.{who}_function:" for who in ("student", "teacher"))  # by an earlier version
    changed = [text for text in changed if not text.startswith((*unrecorded, "fingerprint.teacher_function.logits"))]
    return [text for text in changed if not f"{text.partition(':')[0]}.".startswith(tuple(f"{k}." for k in ignored))]


def _seed(report: Report) -> int | None:
    seed = (report.training.get("recipe") or {}).get("seed")
    return None if seed is None else int(seed)


def _fingerprint(report: Report) -> dict[str, Any]:
    return report.training.get("fingerprint") or {}


def _checkpoints(reports: Sequence[Report]) -> list[str]:
    """The checkpoints that were judged, by the titles of the reports."""
    matches = [re.search(r" \((best|last)\)$", report.title) for report in reports]
    return sorted({match[1] for match in matches if match})


def _findings(a: Sequence[Report], b: Sequence[Report]) -> list[Finding]:
    reports = [*a, *b]
    versions = dict.fromkeys(", ".join(f"{k} {v}" for k, v in sorted(r.versions.items())) for r in reports)
    marks = dict.fromkeys(m for r in reports for m in (*r.data.get("marks", []), *_fingerprint(r).get("marks", [])))
    same = sum(same_function(x.model, y.model) for x, y in zip(a, b, strict=True))
    teachers = [{_fingerprint(r).get("teacher") for r in side} for side in (a, b)]
    checkpoints = [_checkpoints(side) for side in (a, b)]
    seeds = [(_seed(x), _seed(y)) for x, y in zip(a, b, strict=True)]
    findings = []
    if len({*checkpoints[0], *checkpoints[1]}) > 1:
        names = [f"{' and '.join(c) or 'unknown'} of {s}" for s, c in zip("AB", checkpoints, strict=True)]
        advice = "judge the same checkpoint of all: type ardor evaluate RUN with the same --checkpoint"
        findings += [Finding("checkpoints", "warning", f"checkpoints judged: {', '.join(names)}", advice)]
    if len(versions) > 1:
        advice = "judge them again with one version, or show that it gives the same verdicts"
        findings += [Finding("versions", "note", f"judged by {' and by '.join(versions)}", advice)]
    if marks:
        advice = "report it as the papers' protocol, not as held out: the images here favour what they chose"
        findings += [Finding("selection", "warning", "; ".join(marks), advice)]
    if same:
        evidence = f"A and B have the same weights in {same} of {len(a)} pairs"
        findings += [Finding("same_net", "warning", evidence, "name two nets")]
    if any(len(side) > 1 for side in teachers):
        advice = "the spread over seeds includes that of the teachers"
        findings += [Finding("teachers", "note", "the seeds of one side had different teachers", advice)]
    if any(x != y for x, y in seeds if x is not None and y is not None):
        evidence = "seeds of training (A, B): " + ", ".join(map(str, seeds))
        advice = "pair nets of one seed: they share the order of images"
        findings += [Finding("unlike_seeds", "note", evidence, advice)]
    return findings


def _doubts(name: str, reports: Sequence[Report]) -> list[str]:
    """Errors among the findings of the reports: their robust accuracy is no figure to compare."""
    errors = dict.fromkeys(f.name for r in reports for f in r.findings if f.severity == "error")
    return [f"the report of {name} has an error ({', '.join(errors)})"] if errors else []
