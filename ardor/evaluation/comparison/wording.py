"""The text of a comparison: one sentence that claims no more than the evidence allows, and the tables behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ardor.evaluation.comparison.difference import Difference
from ardor.evaluation.comparison.result import Comparison
from ardor.evaluation.comparison.significance import LEVEL, Interval, holm, p_text
from ardor.evaluation.proportion import mean_sd
from ardor.storage.config import few
from ardor.storage.markdown import inline

FORMAT = "ardor-comparison-1"
METHOD_SEEDS = 3  # fewer are no evidence on a method


def verdict(c: Comparison) -> str:
    """One sentence on the worst case that claims no more than nets, images and seeds allow."""
    p = p_of(c)
    return _sentence(c, p < LEVEL, f"p {_p(p, '= ')}")


def holm_verdicts(comparisons: Mapping[str, Comparison]) -> dict[str, str]:
    """The sentences of the comparisons of one table, p corrected by Holm for their number.

    What does not survive is no difference shown. A comparison that allows no claim counts too.
    """
    if len(comparisons) < 2:
        return {name: verdict(c) for name, c in comparisons.items()}
    p = {name: p_of(c) for name, c in comparisons.items()}
    corrected = holm(p)
    texts = {name: f"p {_p(p[name], '= ')} ({_p(corrected[name])} by Holm over {len(p)} comparisons)" for name in p}
    return {name: _sentence(c, corrected[name] < LEVEL, texts[name]) for name, c in comparisons.items()}


def p_of(c: Comparison, figure: str = "worst_case") -> float:
    """p of the claim: on these nets below three seeds, then on the methods; 1 where none is allowed."""
    difference = c.figures[figure]
    return 1.0 if c.doubts else difference.p if len(c.seeds) >= METHOD_SEEDS else difference.p_of_nets


def _sentence(c: Comparison, shown: bool, p: str) -> str:
    worst, k = c.figures["worst_case"], len(c.seeds)
    points, images = f"A - B is {_points(worst.value)} points", _span(worst.images)
    if c.doubts:
        return f"No difference can be claimed: {'; '.join(c.doubts)}."
    if k == 1 and shown:
        return (
            f"{_stands(worst, 'A', 'B')} {images}, McNemar {p}, one seed: another seed may reverse it, and one seed "
            "is no evidence about the methods."
        )
    if k == 1:
        return (
            f"No difference shown: {points} {images}, McNemar {p}{_limit(worst)}. One seed is no evidence about the "
            "methods."
        )
    if k < METHOD_SEEDS:
        nets = "these nets differ" if shown else "these images show no difference of the nets"
        return (
            f"Two seeds are no evidence about the methods: {points}, SD {100 * worst.sd:.2f}; over test images "
            f"{images}, {p}, so {nets}. Train {METHOD_SEEDS} seeds at least."
        )
    over = (
        f"{_span(worst.both)} over seeds and test images together, {p} (SD {100 * worst.sd:.2f}; "
        f"over {k} seeds alone {_span(worst.seeds)}, over test images alone {images})"
    )
    if shown:
        return f"{_stands(worst, 'The method of A', 'that of B')} {over}."
    return f"No difference shown between the methods: {points} {over}{_limit(worst)}."


def _stands(d: Difference, a: str, b: str) -> str:
    return f"{a} stands {abs(100 * d.value):.2f} points {'above' if d.value > 0 else 'below'} {b}"


def _limit(d: Difference) -> str:
    if math.isnan(d.least):
        return f"; {d.n} images cannot show any"
    return f"; less than about {100 * d.least:.2f} points would rarely be detected"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _span(interval: Interval | None) -> str:
    low, high = interval or (math.nan, math.nan)
    return f"[{_points(low)}, {_points(high)}]"


def _p(p: float, equals: str = "") -> str:
    return p_text(p) if p < 1e-4 else f"{equals}{p:.2g}"


def text(c: Comparison) -> str:
    """The comparison as Markdown; differences in points (1 % of the images)."""
    k = len(c.seeds)
    seeds = ["?" if seed is None else str(seed) for seed in c.seeds]
    over = "one seed" if k == 1 else f"{k} seeds ({', '.join(seeds)})"
    lines = [f"A: {inline(c.names[0])}", f"B: {inline(c.names[1])}", f"{inline(c.what)}, {over}"]
    lines += [f"Training differs: {inline(few(c.differ))}."] if c.differ else []
    lines += ["", *_table("figure", c.figures, {name: d.p for name, d in c.figures.items()}, "p")]
    lines += [""] if k > 1 else []
    for seed, pair in zip(seeds, c.figures["worst_case"].pairs, strict=True) if k > 1 else ():
        lines += [
            f"seed {seed}: worst_case {_points(pair.value)}, {pair.only_a} only A has right, {pair.only_b} only B, "
            f"McNemar p {_p(pair.p, '= ')}"
        ]
    lines += ["", "Robust to every attack, by class (p is corrected for their number, the intervals are not):", ""]
    lines += [*_table("class", c.classes, c.adjusted, "p (Holm)"), ""]
    for name, side in (("A", "a"), ("B", "b")):
        worst = c.worst_class(side)
        mean = f", mean {100 * mean_sd([p.value for _, p in worst])[0]:.2f} %" if k > 1 else ""
        lines += [
            f"Worst class of {name}: " + ", ".join(f"{inline(label)} ({p.k} of {p.n})" for label, p in worst) + mean
        ]
    return "\n".join([*lines, "", verdict(c), *map(str, c.findings)])


def as_dict(c: Comparison) -> dict[str, Any]:
    """The comparison as JSON; shares in [-1, 1], None where there is no number."""
    return {
        "format": FORMAT,
        "a": c.names[0],
        "b": c.names[1],
        "seeds": list(c.seeds),
        "what": c.what,
        "verdict": verdict(c),
        "figures": {name: _difference(d) for name, d in c.figures.items()},
        "classes": {name: {**_difference(d), "p_holm": c.adjusted[name]} for name, d in c.classes.items()},
        "worst_class": {
            side: [{"class": name, "k": p.k, "n": p.n} for name, p in c.worst_class(side)] for side in ("a", "b")
        },
        "differ": c.differ,
        "findings": [asdict(finding) for finding in c.findings],
    }


def _difference(d: Difference) -> dict[str, Any]:
    return {
        "difference": d.value,
        "sd": None if math.isnan(d.sd) else d.sd,
        "interval95_images": list(d.images),
        "interval95_seeds": d.seeds and list(d.seeds),
        "interval95_both": d.both and list(d.both),
        "p": d.p,
        "could_show": None if math.isnan(d.least) else d.least,
        "pairs": [
            {"n": s.n, "a": s.a.k, "b": s.b.k, "only_a": s.only_a, "only_b": s.only_b, "mcnemar_p": s.p}
            for s in d.pairs
        ],
    }


def _table(title: str, rows: Mapping[str, Difference], p: Mapping[str, float], p_name: str) -> Iterator[str]:
    several = any(len(d.pairs) > 1 for d in rows.values())
    middle = ["SD", "95 %", "95 % over seeds", "95 % over images"] if several else ["95 % interval", "only A", "only B"]
    names = [title, "n", "A %", "B %", "A - B", *middle, p_name, "detectable"]
    yield "| " + " | ".join(names) + " |"
    yield "|:--|" + "--:|" * (len(names) - 1)
    for name, d in rows.items():
        a, b = (100 * mean_sd([getattr(pair, side).value for pair in d.pairs])[0] for side in ("a", "b"))
        seeds = [f"{100 * d.sd:.2f}", _span(d.both), _span(d.seeds), _span(d.images)]
        one = [_span(d.images), str(d.pairs[0].only_a), str(d.pairs[0].only_b)]
        least = "nothing" if math.isnan(d.least) else f"{100 * d.least:.2f}"
        cells = [inline(name), str(d.n), f"{a:.2f}", f"{b:.2f}", _points(d.value)]
        yield "| " + " | ".join([*cells, *(seeds if several else one), p_text(p[name]), least]) + " |"
