"""What distillation gives on the digits: the claim of the page, from paired comparisons, and its figure over labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from ardor.demo.demo import FEW, TEACHER
from ardor.errors import ConfigError
from ardor.evaluation.comparison.difference import Difference
from ardor.evaluation.comparison.paired import compare
from ardor.evaluation.comparison.significance import LEVEL, holm, t_quantile
from ardor.evaluation.comparison.wording import METHOD_SEEDS
from ardor.evaluation.proportion import Summary
from ardor.reporting import PageEntry
from ardor.reporting.entry import Headline, Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISTILLED = "rslad"
SAT = ("sat", *FEW)


def headline(entries: Mapping[str, PageEntry], labels: Mapping[str, int]) -> Headline:
    """What the distilled student is worth without a label, beside the natural one and SAT with labels.

    Parameters
    ----------
    entries, labels : the nets by name, and with how many labels each was trained.
    """
    nets = {
        "natural": "trained as usual, falls",
        DISTILLED: "distilled from the teacher’s answers, without reading a label",
        "sat": f"adversarially trained with all {labels['sat']:,} labels",
    }
    return Headline(nets, claim(entries, labels))


def claim(entries: Mapping[str, PageEntry], labels: Mapping[str, int]) -> str:
    """The sentences of the headline: each difference by its paired comparison, p corrected by Holm for all of them."""
    distilled, seeds = entries[DISTILLED], len(entries[DISTILLED].reports)
    differences, doubts = {}, list[str]()
    for name in ("natural", *SAT):
        try:
            c = compare(distilled.reports, entries[name].reports, (DISTILLED, name))
        except ConfigError as error:
            return f"No difference can be claimed: {error}."
        differences[name] = c.figures["worst_case"]
        doubts += c.doubts
    if doubts:
        return f"No difference can be claimed: {'; '.join(dict.fromkeys(doubts))}."
    several = 1 < seeds < METHOD_SEEDS
    p = holm({name: 1.0 if several else d.p for name, d in differences.items()})
    groups: dict[str, list[str]] = {"is above": [], "is below": [], "is not shown to differ from": []}
    for name, d in differences.items():
        shown = p[name] < LEVEL
        verb = list(groups)[int(d.value < 0) if shown else 2]
        groups[verb].append(_beside(name, entries[name], d, labels[name], shown))
    found = "; it ".join(f"{verb} {_listed(names)}" for verb, names in groups.items() if names)
    robust, teacher = _percent(distilled), entries[TEACHER]
    return (
        f"Without reading one label, {DISTILLED} withstands every attack on {robust} of the images, and {found}. "
        f"{_basis(distilled, len(differences))} The labels are the teacher’s: it was trained with all "
        f"{labels[TEACHER]:,}, is {_times(teacher, distilled)} as large, and stands at {_percent(teacher)}."
    )


def _beside(name: str, entry: PageEntry, d: Difference, labels: int, shown: bool) -> str:
    """A net with its accuracy, and the interval of the difference in points."""
    words = "natural" if name == "natural" else f"sat with {'all ' if name == 'sat' else ''}{labels:,} labels"
    low, high = (100 * end for end in d.both or d.images)
    if shown:
        nearest, furthest = sorted(map(abs, (low, high)))
        return f"{words} ({_percent(entry)}, by {nearest:.1f} to {furthest:.1f} points)"
    return f"{words} ({_percent(entry)}, {low:+.1f} to {high:+.1f} points)".replace("-", "−")


def _basis(entry: PageEntry, comparisons: int) -> str:
    seeds, n = len(entry.reports), entry.reports[0].n
    corrected = f"p below {LEVEL:g} after Holm’s correction for {comparisons} comparisons"
    if seeds == 1:
        return f"One seed on {n} images is no evidence about methods; of these nets, {corrected}."
    if seeds < METHOD_SEEDS:
        return f"{seeds} seeds are no evidence about methods: train {METHOD_SEEDS}."
    return (
        f"Means of {seeds} seeds at equal steps on {n} images, 95 % intervals over both; a difference is shown at "
        f"{corrected}."
    )


def _percent(entry: PageEntry) -> str:
    return f"{100 * entry.accuracies['worst_case'].value:.1f} %"


def _times(teacher: PageEntry, student: PageEntry) -> str:
    times = (teacher.parameters or 0) / (student.parameters or 1)
    return f"{times:.0f} times"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def section(entries: Mapping[str, PageEntry], labels: Mapping[str, int]) -> Section:
    """The figure of robust accuracy against the number of labels, with its text."""
    points = ", ".join(f"{_percent(entries[name])} with {labels[name]:,}" for name in SAT[::-1])
    several = len(entries["sat"].reports) > 1
    spread = "95 % over seeds (Student’s t), a small dot per seed" if several else "Wilson’s 95 % over images"
    return Section(
        "labels",
        "Robust accuracy by labels",
        "Adversarial training (sat) with fewer and fewer labels, at equal steps: fewer images, more epochs, classes "
        "in proportion, another draw for each seed. The distilled student (rslad) is trained on all of the images and "
        "reads the label of none; the teacher answers in their place.",
        lambda: figure(entries, labels),
        f"Robust accuracy against the number of labels. sat: {points}. {DISTILLED}, without a label: "
        f"{_percent(entries[DISTILLED])}. The teacher: {_percent(entries[TEACHER])}. natural, with all labels: "
        f"{_percent(entries['natural'])}.",
        f"Images that withstand every attack of the results. Whiskers, and the band of {DISTILLED}: {spread}. The band "
        "of the teacher, one net: Wilson’s 95 % over images.",
    )


def figure(entries: Mapping[str, PageEntry], labels: Mapping[str, int]) -> Figure:
    """Worst-case accuracy over the number of labels: SAT's curve, the others as horizontal bands."""
    from matplotlib.figure import Figure

    from ardor.plot.axes import spread as apart
    from ardor.plot.style import INK, KNOWN
    from ardor.reporting.figures import HALF

    sheet = Figure(figsize=(HALF, 3.8))
    sheet.subplots_adjust(left=0.12, right=0.76, bottom=0.14, top=0.97)
    ax = sheet.add_subplot(xscale="log", ylim=(0, 100), xlabel="labels, logarithmic", ylabel="robust accuracy, %")
    counts = [labels[name] for name in SAT]
    ax.set(xlim=(min(counts) / 1.25, max(counts) * 1.25))
    ax.set_xticks(counts, [f"{n:,}" for n in counts])
    ax.set_xticks([], minor=True)
    bands = {"natural": "natural", DISTILLED: f"{DISTILLED},\nno label", TEACHER: "teacher"}
    shown = sorted(bands, key=lambda name: entries[name].accuracies["worst_case"].value)
    values = [100 * entries[name].accuracies["worst_case"].value for name in shown]
    for name, value, place in zip(shown, values, apart(values, 14, 4, 96), strict=True):
        colour = KNOWN["teacher" if name == TEACHER else name].colour
        ax.axhspan(*spread(entries[name].accuracies["worst_case"]), color=colour, alpha=0.16, linewidth=0, zorder=0)
        ax.axhline(value, color=colour, linewidth=1.4, zorder=1)
        text = f"{bands[name]} {value:.1f}"
        ax.text(1.03, place, text, transform=ax.get_yaxis_transform(), color=INK, va="center")
    style, means = KNOWN["sat"], list[float]()
    for name in SAT:
        summary = entries[name].accuracies["worst_case"]
        means.append(100 * summary.value)
        low, high = spread(summary)
        ax.plot([labels[name]] * 2, [low, high], color=style.colour, linewidth=2, solid_capstyle="butt")
        if len(summary.seeds) > 1:
            ax.plot([labels[name] * 1.1] * len(summary.seeds), [100 * p.value for p in summary.seeds], "o",
                    color=style.colour, markersize=2.6)  # fmt: skip
    ax.plot(counts, means, style.marker, linestyle=style.dash, color=style.colour, linewidth=1.7, markersize=7)
    ax.annotate("sat", (counts[-1], means[-1]), (9, -13), textcoords="offset points", color=INK)
    return sheet


def spread(summary: Summary) -> tuple[float, float]:
    """The 95 % interval in %: over seeds by Student's t, over images by Wilson for one seed; within 0 and 100."""
    k = len(summary.seeds)
    low, high = summary.interval
    if k > 1:
        half = t_quantile(0.975, k - 1) * summary.sd / k**0.5
        low, high = summary.value - half, summary.value + half
    return max(0.0, 100 * low), min(100.0, 100 * high)


def labels_of(names: Iterable[str], images: int, without: Iterable[str]) -> dict[str, int]:
    """By name of a net, with how many labels it was trained; 0 for those in `without`."""
    unlabelled = set(without)
    return {name: 0 if name in unlabelled else min(FEW.get(name, images), images) for name in names}
