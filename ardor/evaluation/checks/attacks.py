"""Checks on accuracies under attack: k of n images still right under each, n all images judged."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

from ardor.evaluation.checks.exported import hidden_by_quantisation
from ardor.evaluation.findings import Finding, present
from ardor.evaluation.report import BROKEN

if TYPE_CHECKING:
    from ardor.evaluation.proportion import Proportion
    from ardor.evaluation.report import Report


ITERATED = ("pgd", "cw", "apgd", "fab")
AUTOATTACK = ("apgd", "fab", "square")


def of_report(report: Report) -> list[Finding]:
    """Every finding on the verdicts of a suite, independent or sequential."""
    kinds = {name: _kind(report, name) for name in report.verdicts}
    robust = {name: report.robust(name).k for name in report.verdicts}
    findings = [None if report.sequential else one_step_wins(robust)]
    findings += _of_square(kinds, robust, report)
    pgd, auto = ([robust[n] for n, kind in kinds.items() if kind in group] for group in (("pgd",), AUTOATTACK))
    if pgd and auto:
        findings += [pgd_above_autoattack(min(pgd), min(auto), report.n)]
    return present(*findings, hidden_by_quantisation(report))


def _of_square(kinds: Mapping[str, str], robust: Mapping[str, int], report: Report) -> list[Finding | None]:
    """Square after gradient attacks in a sequential suite; beside them, alone, in an independent one."""
    names, n = list(kinds), report.n
    square = next((name for name in names if kinds[name] == "square"), None)
    others = (
        names[: names.index(square)] if report.sequential and square else [name for name in names if name != square]
    )
    iterated = [robust[name] for name in others if kinds[name] in ITERATED]
    if square is None or not iterated:  # one step is no measure of gradient attacks
        return []
    if not report.sequential:
        return [black_box(min(iterated), robust[square], n)]
    before, found = robust[others[-1]], report.new_starts.count(BROKEN)
    return [black_box(before, robust[square], n, found), one_start(before, robust[square], n, found)]


def _kind(report: Report, name: str) -> str:
    """The class of an attack, whatever its name in the suite: "pgd", "apgd", "square" ..."""
    config = report.attacks.get(name)
    return str(config.get("name", name) if isinstance(config, dict) else name).lower().partition("_")[0]


FALLEN = 0.01
"""sweep: of all images, still right at the widest radius. Every healthy net that was measured is at 0 there."""


def sweep(curve: Mapping[float, Proportion]) -> Finding | None:
    """At a radius where any image can become any other, gradient steps still leave some right: they lead nowhere.

    curve: radius -> accuracy under PGD.
    """
    radius = max(curve, default=0.0)
    if not curve or (last := curve[radius]).value <= FALLEN:
        return None
    path = ", ".join(f"{100 * p.value:.1f} % at {eps:.3g}" for eps, p in sorted(curve.items()))
    evidence = f"{last.k} of {last.n} images are still right at radius {radius:.3g} ({path})"
    advice = "the gradients mislead: attack a differentiable stand-in (BPDA) or by transfer before quoting any figure"
    return Finding("sweep", "error", evidence, advice)


FEW = 2
"""more_steps, black_box, restarts: images. Of 200, sound small nets lose one or two to Square alone: 4 of 21 digits
nets did. To new starts they lose none, and one of 100 where rounding is unlucky."""

LOSS = 0.02
"""more_steps: of all images, and more than FEW. The last iterate of a fixed step swings: by up to 1.5 points on 48
healthy nets."""


def more_steps(robust: Mapping[str, int], n: int) -> Finding | None:
    """An attack with more steps breaks fewer images: its path leads away. robust: fewest steps first."""
    few, many = max(combinations(robust, 2), key=lambda pair: robust[pair[1]] - robust[pair[0]], default=("", ""))
    if not many or robust[many] - robust[few] <= max(LOSS * n, FEW):
        return None
    evidence = f"{few} leaves {robust[few]} of {n} images right and {many}, with more steps, {robust[many]}"
    advice = "suspect hidden gradients: look at the loss along the steps, and do not quote PGD"
    return Finding("more_steps", "error", evidence, advice)


def one_step_wins(robust: Mapping[str, int]) -> Finding | None:
    """One step breaks more than twenty: the sign of gradients that are hidden, not absent."""
    iterated = [name for name in ("pgd_sat", "pgd_trades") if name in robust]
    best = min(iterated, key=lambda name: robust[name], default="")
    if "fgsm" not in robust or not best or robust["fgsm"] >= robust[best]:
        return None
    evidence = f"fgsm leaves {robust['fgsm']} images robust and {best} leaves {robust[best]}"
    return Finding("one_step_wins", "warning", evidence, "suspect hidden gradients: look at the loss along the steps")


UNSEEN = 0.002
"""black_box: of all images. Beside APGD, Square breaks next to none; the official AutoAttack warns here, too."""


def black_box(before: int, after: int, n: int, found: int = 0) -> Finding | None:
    """Random search breaks what gradient attacks did not.

    before, after: images right without it, and with it. found: of those between, broken by gradients from new starts.
    """
    evidence = f"gradient attacks leave {before} of {n} images right, and Square, which uses no gradient, {after}"
    evidence += f"; new starts of APGD break {found} of these {before - after}" if found else ""
    advice = "gradients are hidden: quote the figure under Square as an upper bound, and write an adaptive attack"
    unseen = before - after - found
    return Finding("black_box", "error", evidence, advice) if unseen > max(UNSEEN * n, FEW) else None


FAR = 0.20
"""pgd_above_autoattack: of all images. Published robust nets are up to 9 points apart within the radius they were
trained for and 12 beyond it, and hardly trained ones 15: weak, but not misleading."""


def pgd_above_autoattack(pgd: int, auto: int, n: int) -> Finding | None:
    """PGD leaves far more images right than AutoAttack's attacks: it stops early, or its loss saturates."""
    evidence = f"PGD leaves {pgd} of {n} images right, and stronger attacks {auto}"
    advice = "quote AutoAttack, not PGD, and do not choose checkpoints by PGD on cross-entropy: try the margin"
    return Finding("pgd_above_autoattack", "warning", evidence, advice) if pgd - auto > FAR * n else None


LUCK = 0.005
"""restarts: of all images, and more than FEW. Where every start breaks the same images, one is enough."""


def restarts(before: int, after: int, n: int) -> Finding | None:
    """New random starts break what one start of each attack left. before, after: images right without and with them."""
    evidence = f"one start of each attack leaves {before} of {n} images right, and new starts {after}"
    advice = "figures of one start are too high: judge with restarts (the suite plus has 5)"
    return Finding("restarts", "warning", evidence, advice) if before - after > max(LUCK * n, FEW) else None


def one_start(before: int, after: int, n: int, found: int) -> Finding | None:
    """`restarts` in a sequential suite: new starts break what Square broke and the gradient attacks before it did not.

    before, after: images right without Square, and with it. found: of those between, broken from new starts.
    """
    left = f"gradient attacks leave {before} of {n} images right and Square {after}"
    evidence = f"{left}; of the {before - after} between new starts of APGD break {found}, too"
    advice = "the worst case counts them, but others may be left: judge with more restarts of each attack"
    return Finding("restarts", "warning", evidence, advice) if found > max(LUCK * n, FEW) else None


ROUNDED = 0.01
"""record: beyond Wilson's 95 % interval of what was measured. Published figures are rounded, machines differ."""


def record(what: str, measured: Proportion, claimed: float) -> Finding | None:
    """The net's accuracy is not that of its record. what: such as "clean accuracy on val". claimed: in [0, 1]."""
    low, high = measured.interval
    evidence = f"{what} is {measured} % of {measured.n} images, and the record is {100 * claimed:.1f} %"
    advice = "look for other weights, other images, another normalisation or another scale than the record's"
    same = low - ROUNDED <= claimed <= high + ROUNDED
    return None if same else Finding("record", "error", evidence, advice)


def few_classes(requested: Mapping[str, Any], run: Mapping[str, Any], classes: int) -> Finding | None:
    """An attack of the suite ran with another loss or fewer targets. requested, run: attacks by name."""
    changed = [
        f"{name} ran with {', '.join(_changes(attack, run[name]))}"
        for name, attack in requested.items()
        if attack != run[name]
    ]
    advice = "quote it as such: DLR needs 3 classes and targeted DLR 4, and a class has no more rivals than there are"
    evidence = f"with {classes} classes {'; '.join(changed)}"
    return Finding("few_classes", "note", evidence, advice) if changed else None


def _changes(requested: Any, run: Any) -> list[str]:
    pairs = {key: (value, vars(run)[key]) for key, value in vars(requested).items()}
    return [f"{key} {new} instead of {old}" for key, (old, new) in pairs.items() if new != old]
