"""examine: a minute of short attacks on a few images, for what may make a net's figures wrong.

One batch first (`checks.net.of_net`), then the net against its own record, then attacks under the threat: FGSM, PGD
with 10 and 50 steps, CW, APGD and targeted APGD, new starts, Square with 300 queries, and PGD over growing radii up to
one where every image can turn plain grey. docs/concepts/findings.md says what each finding means.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import Tensor, nn

from ardor.attacks import APGD, CW, FGSM, PGD, Square
from ardor.attacks.threat import L2, L2_LARGEST, Linf
from ardor.data.split import Split
from ardor.diagnostics.probe import Probe, share_of
from ardor.diagnostics.record import Record
from ardor.engine.modes import attack_view
from ardor.errors import DataError
from ardor.evaluation import checks
from ardor.evaluation.attacked import attacked, batch_for
from ardor.evaluation.findings import SYMPTOMS, Finding, explained, present, without_consequences
from ardor.evaluation.proportion import Proportion
from ardor.models import require_fit
from ardor.noise import seeded
from ardor.storage.arguments import typed
from ardor.types import Attack, Threat

LIMIT = 200
"""Images that are attacked: one is half a point."""

RECORD_LIMIT = 1000
"""Images that the record is compared on."""

STARTS, QUERIES, TARGETS, RADII = 5, 300, 4, 4

ALONE = ("fgsm", "pgd_10", "pgd_50")
"""The attacks that start from every correctly classified image; each later one starts from the survivors of all."""

ProgressCallback: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of the next part, the number of finished parts and the number of all."""


@dataclass
class Examination:
    """The findings on a net, and the measurements behind them.

    Parameters
    ----------
    n
        Number of images.
    findings
        Without mere consequences of each other.
    accuracies
        By attack: clean and `ALONE` each from all images, the others after all before them.
    curve
        Radius -> accuracy under PGD.
    left_out
        Parts that were left out, and why.
    """

    n: int
    findings: list[Finding] = field(default_factory=list)
    accuracies: dict[str, Proportion] = field(default_factory=dict)
    curve: dict[float, Proportion] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The findings with evidence and next step, then what was examined."""
        lines = [finding.text() for finding in self.findings] or ["\nNo findings."]
        lines.append(
            "\nExamined: images, modes, precision, outputs, randomness, batch composition, gradients on a batch."
        )
        figures = ", ".join(f"{name} {100 * p.value:.1f} %" for name, p in self.accuracies.items())
        curve = ", ".join(f"{100 * p.value:.1f} % at {eps:.3g}" for eps, p in self.curve.items())
        rows = {"Accuracy": figures, "PGD over radii": curve, "Left out": "; ".join(self.left_out)}
        return "\n".join([*lines, *(f"{name}: {text}." for name, text in rows.items() if text)])


def doctor(net: nn.Module, data: Split, threat: Threat, **options: Any) -> list[Finding]:
    """The findings of `examine`, which has the same parameters; an empty list for a sound net."""
    return examine(net, data, threat, **options).findings


@typed
def examine(
    net: nn.Module,
    data: Split,
    threat: Threat,
    *,
    record: float | Record | None = None,
    recorded: Split | None = None,
    limit: int = LIMIT,
    batch: int | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Examination:
    """Examine a net by short attacks, and its evaluation on `data` for what makes robust accuracy wrong.

    Parameters
    ----------
    net
        The net.
    data
        The images.
    threat
        Threat of the attacks.
    record
        A Record, or a clean accuracy in [0, 1], to compare the net with.
    recorded
        Images of the record; default `data`.
    limit
        Largest number of images of `data` that are attacked, classes in proportion.
    batch
        Images at once; by default 256, or fewer where they are large.
    seed
        Seed of the attacks' random numbers.
    progress
        Called before each part.

    Returns
    -------
    Examination
        Modes, flags, gradients and the global generator are restored.

    Raises
    ------
    DataError
        For a batch below 1.
    ModelError
        Where net and data do not fit, or logits are not finite.
    """
    batch = batch_for(data) if batch is None else batch
    if batch < 1:
        raise DataError(f"expected a batch of at least 1 image, got {batch}: type for example 256")
    part = data.limit(limit)
    result = Examination(len(part), checks.data.of_data(data))
    number, parts = itertools.count(), 9 + RADII + (record is not None)

    def tell(name: str) -> None:
        if progress is not None:
            progress(name, next(number), parts)

    with seeded(seed):  # the same numbers for a net that is random itself
        tell("one batch")
        _require_logits(net, part)
        first = next(attacked(net, part, None, "clean", batch=batch))
        result.findings += checks.net.of_net(net, first.x, first.y)
        with attack_view(net) as view:
            if record is not None:
                tell("record")
                record = record if isinstance(record, Record) else Record(record)
                probe = Probe(net, view, recorded or data, batch, record.seed)
                result.findings += _against(record, probe, result)
            _attacked(Probe(net, view, part, batch, seed), threat, result, tell)
    result.findings = without_consequences(result.findings)
    return result


def _require_logits(net: nn.Module, data: Split) -> None:
    """Half precision first: a net of it fails on a float32 image whatever the image is."""
    if checks.net.float16(net) is not None:
        with attack_view(net):
            checks.net.logits_of(net, next(attacked(net, data, None, "clean", batch=1)).x)
    require_fit(net, data.shape, data.classes, "model")


def _against(record: Record, probe: Probe, result: Examination) -> Iterator[Finding]:
    """Findings where the net does not match its record."""
    probe = dataclasses.replace(probe, data=probe.data.limit(RECORD_LIMIT))
    right = probe.correct()
    rows: list[tuple[str, Tensor, float]] = [("clean", right, record.clean)]
    if record.robust is not None and record.replay is not None:
        rows.append(("robust", probe.correct("validation", record.replay, right), record.robust))
    for what, mask, claimed in rows:
        result.accuracies[f"{what} on {probe.data.part}"] = measured = share_of(mask)
        yield from present(checks.attacks.record(f"{what} accuracy on {probe.data.part}", measured, claimed))


def _attacked(probe: Probe, threat: Threat, result: Examination, tell: Callable[[str], None]) -> None:
    """The attacks, unless an earlier finding explains all that they can show."""
    right = probe.correct()
    result.accuracies["clean"] = share_of(right)
    if all(explained(name, "error", result.findings) for name in SYMPTOMS):
        result.left_out.append("attacks, which the findings above would mislead")
    elif not bool(right.any()):
        result.left_out.append("attacks, for no image is classified correctly")
    else:
        findings = _by_attack(probe, threat, right, result, tell)
        if isinstance(threat, Linf | L2):
            findings += _by_radius(probe, threat, right, result, tell)
        else:
            result.left_out.append(f"Square and growing radii, which do not support {type(threat).__name__}")
        result.findings += findings


def _by_attack(
    probe: Probe, threat: Threat, right: Tensor, result: Examination, tell: Callable[[str], None]
) -> list[Finding]:
    """Attacks by gradient, then Square; each kind against the others."""
    attacks: dict[str, Attack] = {
        "fgsm": FGSM(threat),
        "pgd_10": PGD(threat, steps=10),
        "pgd_50": PGD(threat, steps=50),
        "cw": CW(threat, steps=20),
        "apgd": APGD(threat, steps=30),
        "apgd_t": APGD(threat, steps=30, loss="dlr", targets=TARGETS),
        "new_starts": CW(threat, steps=20),
    }
    if isinstance(threat, Linf | L2):
        attacks["square"] = Square(threat, queries=QUERIES)
    k, survivors = {}, right
    for name, attack in attacks.items():
        tell(name)
        if name in ALONE:
            mask = probe.correct(name, attack, right)
            survivors = survivors & mask
        else:
            for i in range(STARTS if name == "new_starts" else 1):
                survivors = probe.correct(f"{name}/{i}", attack, survivors)
            mask = survivors
        k[name], result.accuracies[name] = int(mask.sum()), share_of(mask)
    return present(
        checks.attacks.more_steps({name: k[name] for name in ALONE}, result.n),
        checks.attacks.pgd_above_autoattack(min(k["pgd_10"], k["pgd_50"]), k["apgd_t"], result.n),
        checks.attacks.restarts(k["apgd_t"], k["new_starts"], result.n),
        checks.attacks.black_box(k["new_starts"], k["square"], result.n) if "square" in k else None,
    )


def _by_radius(
    probe: Probe, threat: Linf | L2, right: Tensor, result: Examination, tell: Callable[[str], None]
) -> list[Finding]:
    """PGD on the margin, whose gradient does not vanish with confidence, from the threat's radius to the widest."""
    for eps in radii(threat, probe.data.shape):
        tell(f"radius {eps:.3g}")
        attack = PGD(dataclasses.replace(threat, eps=eps), steps=20, loss="margin")
        result.curve[eps] = share_of(probe.correct("sweep", attack, right))
    return present(checks.attacks.sweep(result.curve))


def radii(threat: Linf | L2, shape: tuple[int, int, int]) -> list[float]:
    """RADII radii in equal ratios, from the threat's to the one within which every image can become plain grey."""
    grey = 0.5 if isinstance(threat, Linf) else min(L2_LARGEST, 0.5 * math.sqrt(math.prod(shape)))
    widest = max(grey, threat.eps)
    ratio = widest / threat.eps
    return sorted({threat.eps * ratio ** (k / (RADII - 1)) for k in range(RADII - 1)} | {widest})
