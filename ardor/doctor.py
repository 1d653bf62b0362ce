"""doctor: a minute of short attacks on a few images, not to measure a net but to find why its figures may be wrong.

One batch first (ardor.checks.of_net), then the net against its own record, then attacks under the threat: FGSM, PGD
with 10 and 50 steps, CW, APGD and targeted APGD, new starts, Square with 300 queries, and PGD over growing radii up to
one where every image can turn plain grey. docs/findings.md says what each finding means.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ardor import attacks, checks
from ardor import data as datasets
from ardor.attacks import APGD, CW, FGSM, PGD, Square
from ardor.checkpoint import read_tensors
from ardor.checks import Finding
from ardor.config import number, read_yaml
from ardor.data.split import Split
from ardor.errors import ConfigError, DataError
from ardor.models import require_fit
from ardor.modes import attack_view
from ardor.noise import Noise, seeded
from ardor.report.runs import curve_of
from ardor.report.stats import Proportion
from ardor.threat import BY_NAME, L2, L2_LARGEST, Linf
from ardor.types import Attack, Net, Threat

LIMIT = 200
"""How many images are attacked: one is half a point."""

RECORD_LIMIT = 1000
"""How many the record is compared on."""

STARTS, QUERIES, TARGETS, RADII = 5, 300, 4, 4

Tell: TypeAlias = Callable[[str, int, int], None]
"""Called with what is done next, and how many parts are done of how many."""


@dataclass(frozen=True)
class Record:
    """What a net's checkpoint or paper says of it.

    clean: accuracy in [0, 1] on `data`, or on the images the doctor is given where that is None. robust: the same under
    `attack`, whose noise has the seed `seed`; None where nothing is said.
    """

    clean: float
    robust: float | None = None
    attack: Attack | None = None
    data: Split | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for value in (self.clean, self.robust):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"expected a record in [0, 1], got {value:g}: type 0.6925 for 69.25 %")


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


def doctor(net: nn.Module, data: Split, threat: Threat, **options: Any) -> list[Finding]:
    """What is wrong with `net`, or with judging it on `data`; nothing where nothing was found. Options of `examine`."""
    return examine(net, data, threat, **options).findings


def examine(
    net: nn.Module,
    data: Split,
    threat: Threat,
    *,
    record: float | Record | None = None,
    limit: int = LIMIT,
    batch: int = 256,
    seed: int = 0,
    progress: Tell | None = None,
) -> Examination:
    """`doctor`, with what was measured on the way.

    record: see Record; a number is the clean accuracy that somebody claims on data such as `data`. limit: how many of
    them are attacked at most, classes in proportion. batch: how many at once. Modes, flags, gradients and the global
    generator are put back. Raises ModelError where net and data do not fit, or logits are not finite.
    """
    if batch < 1:
        raise DataError(f"expected a batch of at least 1 image, got {batch}: type for example 256")
    part = data.limit(limit)
    seen = Examination(len(part), checks.of_data(data))
    tell = _counted(progress, 9 + RADII + (record is not None))
    with seeded(seed):  # a net that is random itself meets the same numbers
        tell("one batch")
        _require_answer(net, part)
        x, y, _ = _on(net, part, torch.arange(min(batch, len(part))))
        seen.findings += checks.of_net(net, x, y)
        with attack_view(net) as view:
            if record is not None:
                tell("record")
                said = record if isinstance(record, Record) else Record(record)
                seen.findings += _against(said, _Bed(net, view, said.data or data, batch, said.seed), seen)
            _attacked(_Bed(net, view, part, batch, seed), threat, seen, tell)
    seen.findings = checks.without_consequences(seen.findings)
    return seen


@dataclass
class _Bed:
    """A net, and images to try it on."""

    net: nn.Module
    view: Net
    data: Split
    batch: int
    seed: int

    def right(self) -> Tensor:
        """(N,) bool: which images are classified correctly."""
        return self.under("clean", lambda net, x, y, noise: x, torch.ones(len(self.data), dtype=torch.bool))

    def under(self, name: str, attack: Attack, alive: Tensor) -> Tensor:
        """(N,) bool: which of the images in `alive` are still right under `attack`, whose noise is called `name`."""
        still = torch.zeros_like(alive)
        for rows in alive.nonzero().squeeze(1).split(self.batch) if bool(alive.any()) else ():
            x, y, index = _on(self.net, self.data, rows)
            x_adv = attack(self.view, x, y, Noise(self.seed, index, name))
            still[rows] = (checks.answer(self.net, x_adv).argmax(1) == y).cpu()
        return still


def _require_answer(net: nn.Module, data: Split) -> None:
    """Half precision first: what a net of it says to a float32 image is not about the image."""
    if checks.float16(net) is not None:
        with attack_view(net):
            checks.answer(net, _on(net, data, torch.arange(1))[0])
    require_fit(net, data.shape, data.classes, "model")


def _on(net: nn.Module, data: Split, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    x, y, index = (v.to(device) for v in data.batch(rows.to(data.labels.device)))
    return x, y, index


def _counted(progress: Tell | None, parts: int) -> Callable[[str], None]:
    done = itertools.count()
    return lambda name: progress(name, next(done), parts) if progress is not None else None


def _against(said: Record, bed: _Bed, seen: Examination) -> Iterator[Finding]:
    """Findings where the net is not what its record says."""
    bed = dataclasses.replace(bed, data=bed.data.limit(RECORD_LIMIT))
    right = bed.right()
    rows: list[tuple[str, Tensor, float]] = [("clean", right, said.clean)]
    if said.robust is not None and said.attack is not None:
        rows.append(("robust", bed.under("validation", said.attack, right), said.robust))
    for what, mask, claimed in rows:
        seen.accuracies[f"{what} on {bed.data.part}"] = measured = _share(mask)
        yield from checks.present(checks.record(f"{what} accuracy on {bed.data.part}", measured, claimed))


def _attacked(bed: _Bed, threat: Threat, seen: Examination, tell: Callable[[str], None]) -> None:
    """The attacks, where nothing found so far explains whatever they might show."""
    right = bed.right()
    seen.accuracies["clean"] = _share(right)
    if all(checks.explained(name, "error", seen.findings) for name in checks.SYMPTOMS):
        seen.left_out.append("attacks, which what was found would mislead")
    elif not bool(right.any()):
        seen.left_out.append("attacks, for no image is classified correctly")
    else:
        found = [*_by_gradient(bed, threat, right, seen, tell)]
        if isinstance(threat, Linf | L2):
            found += _by_radius(bed, threat, right, seen, tell)
        else:
            seen.left_out.append(f"Square and growing radii, which {type(threat).__name__} does not know")
        seen.findings += found


def _by_gradient(
    bed: _Bed, threat: Threat, right: Tensor, seen: Examination, tell: Callable[[str], None]
) -> Iterator[Finding]:
    """Attacks by gradient, then Square; each kind against the others."""
    k, left = {}, right
    for name, attack in _alone(threat).items():
        tell(name)
        still = bed.under(name, attack, right)
        k[name], seen.accuracies[name], left = int(still.sum()), _share(still), left & still
    for name, rounds in _after(threat).items():
        tell(name)
        for i, attack in enumerate(rounds):
            left = bed.under(f"{name}/{i}", attack, left)
        k[name], seen.accuracies[name] = int(left.sum()), _share(left)
    yield from checks.present(
        checks.more_steps({name: k[name] for name in _alone(threat)}, seen.n),
        checks.pgd_above_autoattack(min(k["pgd_10"], k["pgd_50"]), k["apgd_t"], seen.n),
        checks.restarts(k["apgd_t"], k["new_starts"], seen.n),
        checks.black_box(k["new_starts"], k["square"], seen.n) if "square" in k else None,
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
    bed: _Bed, threat: Linf | L2, right: Tensor, seen: Examination, tell: Callable[[str], None]
) -> list[Finding]:
    """PGD on the margin, which no confidence switches off, from the threat's radius to the widest."""
    for eps in radii(threat, bed.data.shape):
        tell(f"radius {eps:.3g}")
        attack = PGD(dataclasses.replace(threat, eps=eps), steps=20, loss="margin")
        seen.curve[eps] = _share(bed.under("sweep", attack, right))
    return checks.present(checks.sweep(seen.curve))


def radii(threat: Linf | L2, shape: tuple[int, int, int]) -> list[float]:
    """RADII radii from the threat's own, in equal ratios, to the one within which every image can turn plain grey."""
    grey = 0.5 if isinstance(threat, Linf) else min(L2_LARGEST, 0.5 * math.sqrt(math.prod(shape)))
    widest = max(grey, threat.eps)
    ratio = widest / threat.eps
    return sorted({threat.eps * ratio ** (k / (RADII - 1)) for k in range(RADII - 1)} | {widest})


def _share(mask: Tensor) -> Proportion:
    return Proportion(int(mask.sum()), len(mask))


def record_of(run: str | Path, checkpoint: str = "best") -> Record | None:
    """What a run's metrics say of its checkpoint, on its own validation images; None where they were not looked at.

    Raises CheckpointError, ConfigError and DataError where files or images are not there.
    """
    folder = Path(run)
    epoch = read_tensors(folder / f"{checkpoint}.safetensors")[1].get("epoch")
    line = next((line for line in curve_of(folder) if str(line.get("epoch")) == epoch), {})
    of = "averaged" if checkpoint == "averaged" else "val"
    if line.get(f"{of}_clean") is None:
        return None
    config = read_yaml(folder / "config.yaml")
    recipe = config["recipe"]
    val = datasets.load(**config["data"])[1]
    val = val.limit(recipe["val_size"], recipe["seed"]) if recipe["val_size"] else val
    attack = _made(recipe["val_attack"])
    return Record(line[f"{of}_clean"], line[f"{of}_robust"] if attack else None, attack, val, recipe["seed"])


def _made(said: Any) -> Any:
    """One of our attacks or threats from the words of a config; None for a user's own."""
    kinds = {name.lower(): getattr(attacks, name) for name in attacks.__all__} | BY_NAME
    kind = kinds.get(str(said.get("name")).lower()) if isinstance(said, dict) else None
    if kind is None:
        return None
    return kind(**{key: _made(v) if isinstance(v, dict) else _read(v) for key, v in said.items() if key != "name"})


def _read(value: Any) -> Any:
    with contextlib.suppress(ConfigError):
        return number(value) if isinstance(value, str) else value
    return value
