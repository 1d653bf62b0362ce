"""doctor: a minute of short attacks on a few images, not to measure a net but to find why its figures may be wrong.

One batch first (`checks.net.of_net`), then the net against its own record, then attacks under the threat: FGSM, PGD
with 10 and 50 steps, CW, APGD and targeted APGD, new starts, Square with 300 queries, and PGD over growing radii up to
one where every image can turn plain grey. docs/findings.md says what each finding means.
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
from ardor.evaluation.attacked import attacked
from ardor.evaluation.findings import SYMPTOMS, Finding, explained, present, without_consequences
from ardor.evaluation.proportion import Proportion
from ardor.models import require_fit
from ardor.noise import seeded
from ardor.types import Attack, Threat

LIMIT = 200
"""How many images are attacked: one is half a point."""

RECORD_LIMIT = 1000
"""How many the record is compared on."""

STARTS, QUERIES, TARGETS, RADII = 5, 300, 4, 4

ProgressCallback: TypeAlias = Callable[[str, int, int], None]
"""Called with what is done next, and how many parts are done of how many."""


@dataclass
class Examination:
    """What the doctor saw.

    findings: without mere consequences of each other. accuracies: clean, fgsm, pgd_10 and pgd_50 on their own, each
    later attack on the survivors of all before. curve: radius -> accuracy under PGD. left_out: what was not done, why.
    """

    n: int
    findings: list[Finding] = field(default_factory=list)
    accuracies: dict[str, Proportion] = field(default_factory=dict)
    curve: dict[float, Proportion] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The findings with evidence and next step, then what was examined."""
        lines = [finding.text() for finding in self.findings] or ["\nNothing found."]
        lines += [
            "\nExamined: images, modes, precision, outputs, randomness, batch composition and gradients on one batch."
        ]
        figures = ", ".join(f"{name} {100 * p.value:.1f} %" for name, p in self.accuracies.items())
        curve = ", ".join(f"{100 * p.value:.1f} % at {eps:.3g}" for eps, p in self.curve.items())
        rows = {"Right": figures, "PGD over radii": curve, "Left out": "; ".join(self.left_out)}
        return "\n".join([*lines, *(f"{name}: {text}." for name, text in rows.items() if text)])


def doctor(net: nn.Module, data: Split, threat: Threat, **options: Any) -> list[Finding]:
    """What is wrong with `net`, or with judging it on `data`; nothing where nothing was found. Options of `examine`."""
    return examine(net, data, threat, **options).findings


def examine(
    net: nn.Module,
    data: Split,
    threat: Threat,
    *,
    record: float | Record | None = None,
    recorded: Split | None = None,
    limit: int = LIMIT,
    batch: int = 256,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Examination:
    """`doctor`, with what was measured on the way.

    record: see Record; a number is a clean accuracy. recorded: the images of the record, `data` by default. limit: how
    many images of `data` are attacked at most, classes in proportion. batch: how many at once. Modes, flags, gradients
    and the global generator are put back. Raises ModelError where net and data do not fit, or logits are not finite.
    """
    if batch < 1:
        raise DataError(f"expected a batch of at least 1 image, got {batch}: type for example 256")
    part = data.limit(limit)
    seen = Examination(len(part), checks.data.of_data(data))
    tell = _counted(progress, 9 + RADII + (record is not None))
    with seeded(seed):  # a net that is random itself meets the same numbers
        tell("one batch")
        _require_logits(net, part)
        first = next(attacked(net, part, None, "clean", batch=batch))
        seen.findings += checks.net.of_net(net, first.x, first.y)
        with attack_view(net) as view:
            if record is not None:
                tell("record")
                record = record if isinstance(record, Record) else Record(record)
                probe = Probe(net, view, recorded or data, batch, record.seed)
                seen.findings += _against(record, probe, seen)
            _attacked(Probe(net, view, part, batch, seed), threat, seen, tell)
    seen.findings = without_consequences(seen.findings)
    return seen


def _require_logits(net: nn.Module, data: Split) -> None:
    """Half precision first: what a net of it says to a float32 image is not about the image."""
    if checks.net.float16(net) is not None:
        with attack_view(net):
            checks.net.logits_of(net, next(attacked(net, data, None, "clean", batch=1)).x)
    require_fit(net, data.shape, data.classes, "model")


def _counted(progress: ProgressCallback | None, parts: int) -> Callable[[str], None]:
    done = itertools.count()
    return lambda name: progress(name, next(done), parts) if progress is not None else None


def _against(record: Record, probe: Probe, seen: Examination) -> Iterator[Finding]:
    """Findings where the net does not match its record."""
    probe = dataclasses.replace(probe, data=probe.data.limit(RECORD_LIMIT))
    right = probe.correct()
    rows: list[tuple[str, Tensor, float]] = [("clean", right, record.clean)]
    if record.robust is not None and record.replay is not None:
        rows.append(("robust", probe.correct("validation", record.replay, right), record.robust))
    for what, mask, claimed in rows:
        seen.accuracies[f"{what} on {probe.data.part}"] = measured = share_of(mask)
        yield from present(checks.attacks.record(f"{what} accuracy on {probe.data.part}", measured, claimed))


def _attacked(probe: Probe, threat: Threat, seen: Examination, tell: Callable[[str], None]) -> None:
    """The attacks, where nothing found so far explains whatever they might show."""
    right = probe.correct()
    seen.accuracies["clean"] = share_of(right)
    if all(explained(name, "error", seen.findings) for name in SYMPTOMS):
        seen.left_out.append("attacks, which what was found would mislead")
    elif not bool(right.any()):
        seen.left_out.append("attacks, for no image is classified correctly")
    else:
        found = [*_by_gradient(probe, threat, right, seen, tell)]
        if isinstance(threat, Linf | L2):
            found += _by_radius(probe, threat, right, seen, tell)
        else:
            seen.left_out.append(f"Square and growing radii, which {type(threat).__name__} does not know")
        seen.findings += found


def _by_gradient(
    probe: Probe, threat: Threat, right: Tensor, seen: Examination, tell: Callable[[str], None]
) -> Iterator[Finding]:
    """Attacks by gradient, then Square; each kind against the others."""
    k, left = {}, right
    for name, attack in _alone(threat).items():
        tell(name)
        still = probe.correct(name, attack, right)
        k[name], seen.accuracies[name], left = int(still.sum()), share_of(still), left & still
    for name, rounds in _after(threat).items():
        tell(name)
        for i, attack in enumerate(rounds):
            left = probe.correct(f"{name}/{i}", attack, left)
        k[name], seen.accuracies[name] = int(left.sum()), share_of(left)
    yield from present(
        checks.attacks.more_steps({name: k[name] for name in _alone(threat)}, seen.n),
        checks.attacks.pgd_above_autoattack(min(k["pgd_10"], k["pgd_50"]), k["apgd_t"], seen.n),
        checks.attacks.restarts(k["apgd_t"], k["new_starts"], seen.n),
        checks.attacks.black_box(k["new_starts"], k["square"], seen.n) if "square" in k else None,
    )


def _alone(threat: Threat) -> dict[str, Attack]:
    """From one step to many."""
    return {"fgsm": FGSM(threat), "pgd_10": PGD(threat, steps=10), "pgd_50": PGD(threat, steps=50)}


def _after(threat: Threat) -> dict[str, list[Attack]]:
    """What the survivors of one step and many meet, in this order."""
    rows: dict[str, list[Attack]] = {
        "cw": [CW(threat, steps=20)],
        "apgd": [APGD(threat, steps=30)],
        "apgd_t": [APGD(threat, steps=30, loss="dlr", targets=TARGETS)],
        "new_starts": [CW(threat, steps=20)] * STARTS,
    }
    if isinstance(threat, Linf | L2):
        rows["square"] = [Square(threat, queries=QUERIES)]
    return rows


def _by_radius(
    probe: Probe, threat: Linf | L2, right: Tensor, seen: Examination, tell: Callable[[str], None]
) -> list[Finding]:
    """PGD on the margin, which no confidence switches off, from the threat's radius to the widest."""
    for eps in radii(threat, probe.data.shape):
        tell(f"radius {eps:.3g}")
        attack = PGD(dataclasses.replace(threat, eps=eps), steps=20, loss="margin")
        seen.curve[eps] = share_of(probe.correct("sweep", attack, right))
    return present(checks.attacks.sweep(seen.curve))


def radii(threat: Linf | L2, shape: tuple[int, int, int]) -> list[float]:
    """RADII radii from the threat's own, in equal ratios, to the one within which every image can turn plain grey."""
    grey = 0.5 if isinstance(threat, Linf) else min(L2_LARGEST, 0.5 * math.sqrt(math.prod(shape)))
    widest = max(grey, threat.eps)
    ratio = widest / threat.eps
    return sorted({threat.eps * ratio ** (k / (RADII - 1)) for k in range(RADII - 1)} | {widest})
