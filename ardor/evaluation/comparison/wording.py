"""What `ardor compare` says: one sentence that cannot claim too much, and the tables behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ardor.evaluation.comparison.difference import Difference
from ardor.evaluation.comparison.paired import Comparison
from ardor.evaluation.comparison.significance import LEVEL, Interval, holm
from ardor.evaluation.proportion import mean_sd
from ardor.storage.config import few

FORMAT = "ardor-comparison-1"
METHOD_SEEDS = 3  # fewer say nothing about a method


def verdict(c: Comparison) -> str:
    """One sentence on the worst case, on its own, that claims no more than nets, images and seeds allow."""
    p = _p_of(c)
    return _verdict(c, p < LEVEL, f"p {_p(p, '= ')}")


def holm_verdicts(comparisons: Mapping[str, Comparison]) -> dict[str, str]:
    """The sentence of each of several comparisons of one table, their p corrected by Holm for the number of them.

    What does not survive is no difference shown. A comparison of which nothing can be claimed counts among them.
    """
    if len(comparisons) < 2:
        return {name: verdict(c) for name, c in comparisons.items()}
    p = {name: _p_of(c) for name, c in comparisons.items()}
    corrected = holm(p)
    texts = {
        name: f"p {_p(p[name], '= ')} ({_p(corrected[name])} by Holm over {len(p)} comparisons)" for name in comparisons
    }
    return {name: _verdict(c, corrected[name] < LEVEL, texts[name]) for name, c in comparisons.items()}


def _p_of(c: Comparison) -> float:
    """Of what the sentence may claim: of these nets below three seeds, then of the methods; 1 where of nothing."""
    worst = c.figures["worst_case"]
    return 1.0 if c.doubts else worst.p if len(c.seeds) >= METHOD_SEEDS else worst.p_of_nets


def _verdict(c: Comparison, shown: bool, p: str) -> str:
    if c.doubts:
        return f"No difference can be claimed: {'; '.join(c.doubts)}."
    k = len(c.seeds)
    say = _of_one_seed if k == 1 else _of_two_seeds if k < METHOD_SEEDS else _of_methods
    return say(c.figures["worst_case"], shown, p)


def _of_one_seed(worst: Difference, shown: bool, p: str) -> str:
    if shown:
        return (
            f"{_stands(worst, 'A', 'B')} {_span(worst.images)}, McNemar {p}, one seed: another seed may turn it round, "
            "and one seed says nothing about the methods."
        )
    return (
        f"No difference shown: A - B is {_points(worst.value)} points {_span(worst.images)}, McNemar {p}"
        f"{_limit(worst)}. One seed says nothing about the methods."
    )


def _of_two_seeds(worst: Difference, shown: bool, p: str) -> str:
    nets = "these nets differ" if shown else "these nets do not differ by more than their images can tell"
    return (
        f"Two seeds say nothing about the methods: A - B is {_points(worst.value)} points, SD {100 * worst.sd:.2f}; "
        f"over test images {_span(worst.images)}, {p}, so {nets}. Train {METHOD_SEEDS} seeds at least."
    )


def _of_methods(worst: Difference, shown: bool, p: str) -> str:
    over = (
        f"{_span(worst.both)} over seeds and test images together, {p} (SD {100 * worst.sd:.2f}; "
        f"over {len(worst.pairs)} seeds alone {_span(worst.seeds)}, over test images alone {_span(worst.images)})"
    )
    if shown:
        return f"{_stands(worst, 'The method of A', 'that of B')} {over}."
    return f"No difference shown between the methods: A - B is {_points(worst.value)} points {over}{_limit(worst)}."


def _stands(d: Difference, a: str, b: str) -> str:
    return f"{a} stands {abs(100 * d.value):.2f} points {'above' if d.value > 0 else 'below'} {b}"


def _limit(d: Difference) -> str:
    if math.isnan(d.least):
        return f"; {d.n} images cannot show any"
    return f"; less than about {100 * d.least:.2f} points could hardly have been shown"


def _points(value: float) -> str:
    return f"{100 * value:+.2f}"


def _span(interval: Interval | None) -> str:
    low, high = interval or (math.nan, math.nan)
    return f"[{_points(low)}, {_points(high)}]"


def _p(p: float, equals: str = "") -> str:
    return "< 0.0001" if p < 1e-4 else f"{equals}{p:.2g}"


def text(c: Comparison) -> str:
    """The comparison as Markdown; differences in points."""
    return "\n".join(_lines(c))


def as_dict(c: Comparison) -> dict[str, Any]:
    """The comparison as JSON; shares of 1, None where there is no number."""
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
    pairs = [
        {"n": s.n, "a": s.a.k, "b": s.b.k, "only_a": s.only_a, "only_b": s.only_b, "mcnemar_p": s.p} for s in d.pairs
    ]
    return {
        "difference": d.value,
        "sd": None if math.isnan(d.sd) else d.sd,
        "interval95_images": list(d.images),
        "interval95_seeds": None if d.seeds is None else list(d.seeds),
        "interval95_both": None if d.both is None else list(d.both),
        "p": d.p,
        "could_show": None if math.isnan(d.least) else d.least,
        "pairs": pairs,
    }


def _lines(c: Comparison) -> Iterator[str]:
    k = len(c.seeds)
    over = "one seed" if k == 1 else f"{k} seeds ({', '.join('?' if s is None else str(s) for s in c.seeds)})"
    yield from (f"A: {c.names[0]}", f"B: {c.names[1]}", f"{c.what}, {over}")
    yield from ([f"Trained with {few(c.differ)}."] if c.differ else [])
    yield ""
    yield from _table("figure", c.figures, {name: d.p for name, d in c.figures.items()}, "p")
    yield from (["", *_by_seed(c)] if k > 1 else [])
    yield from ("", "Robust to every attack, by class (p is corrected for their number, the intervals are not):", "")
    yield from _table("class", c.classes, c.adjusted, "p (Holm)")
    yield ""
    for name, side in (("A", "a"), ("B", "b")):
        worst = c.worst_class(side)
        mean = f", mean {100 * mean_sd([p.value for _, p in worst])[0]:.2f} %" if k > 1 else ""
        yield f"Worst class of {name}: " + ", ".join(f"{word} ({p.k} of {p.n})" for word, p in worst) + mean
    yield from ("", verdict(c), *(str(finding) for finding in c.findings))


def _table(title: str, rows: Mapping[str, Difference], p: Mapping[str, float], word: str) -> Iterator[str]:
    several = any(len(d.pairs) > 1 for d in rows.values())
    middle = ["SD", "95 %", "95 % over seeds", "95 % over images"] if several else ["95 % interval", "only A", "only B"]
    names = [title, "n", "A %", "B %", "A - B", *middle, word, "could show"]
    yield "| " + " | ".join(names) + " |"
    yield "|:--|" + "--:|" * (len(names) - 1)
    for name, d in rows.items():
        a, b = (mean_sd([getattr(pair, side).value for pair in d.pairs])[0] for side in ("a", "b"))
        seeds = [f"{100 * d.sd:.2f}", _span(d.both), _span(d.seeds), _span(d.images)]
        one = [_span(d.images), str(d.pairs[0].only_a), str(d.pairs[0].only_b)]
        least = "nothing" if math.isnan(d.least) else f"{100 * d.least:.2f}"
        cells = [
            str(d.n),
            f"{100 * a:.2f}",
            f"{100 * b:.2f}",
            _points(d.value),
            *(seeds if several else one),
            _p(p[name]),
            least,
        ]
        yield "| " + " | ".join([name.replace("|", "\\|"), *cells]) + " |"


def _by_seed(c: Comparison) -> Iterator[str]:
    for seed, pair in zip(c.seeds, c.figures["worst_case"].pairs, strict=True):
        yield (
            f"seed {'?' if seed is None else seed}: worst_case {_points(pair.value)}, {pair.only_a} only A has right, "
            f"{pair.only_b} only B, McNemar p {_p(pair.p, '= ')}"
        )
