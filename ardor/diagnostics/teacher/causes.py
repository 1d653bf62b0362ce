"""Why a teacher's clean accuracy is too low: the repairs are tried, and the one that brings it back is the cause."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ardor.data.split import Split, as_float
from ardor.diagnostics.probe import Mask, Probe, right, share_of
from ardor.diagnostics.record import Record
from ardor.errors import ModelError
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Z95, Proportion
from ardor.models.normalise import Normalise
from ardor.noise import Noise
from ardor.types import Attack, Images, Labels, Net

BACK = 0.5
"""A cause: what share of the way to the record its repair must win. These images may be harder than the record's."""

GAIN = 0.2
"""The same without a record: of all images. On 16 sound nets, weak ones too, no repair won more than 0.05."""

SIGMAS = 3.0

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "MNIST": ((0.1307,), (0.3081,)),
}


@dataclass(frozen=True)
class Repair:
    """Something done to the images before the net sees them. seen, next: for the finding, where it helps."""

    seen: str
    next: str
    before: Callable[[Images], Images]


def diagnose(probe: Probe, logits: Tensor, claim: Record | None, chance: float, reached: bool) -> Finding | None:
    """The likely cause of a clean accuracy below the record, or at `chance`; without either, a flaw that shows anyway.

    logits: (N, classes), the net's answers to the images as they are. reached: whether there is a record and it is
    reached, so that only its weights or a repair can still speak against the net.
    """
    mask = right(logits, probe.labels)
    share = share_of(mask)
    repaired = _of_weights(probe, share) or _of_images(probe, mask, claim) or _of_classes(logits, probe, claim)
    if repaired is not None:
        return repaired
    if reached:
        return _near_chance(share, chance)
    if claim is not None and claim.data not in (None, probe.data.name):
        return _other_images(share, claim, probe.data)
    if at_chance(share, chance):
        return _near_chance(share, chance) if claim is None and share.n < enough(chance) else _blind(share)
    if claim is None:
        return None
    said = f"the record of {claim.of} {100 * claim.clean:.1f} %"
    evidence = f"clean accuracy is {share} % of {share.n} images, and {said}"
    advice = "no repair helps: look for another checkpoint, damaged weights or other images"
    return Finding("below_record", "error", evidence, advice)


def chance_of(logits: Tensor, y: Labels) -> float:
    """The accuracy of answers as frequent as these, given blindly: 1 / C where the classes are balanced.

    1 / C, too, where there is but one class of images: nothing there tells skill from habit.
    """
    if bool((y == y[0]).all()):
        return 1 / logits.shape[1]
    said, true = (labels.bincount(minlength=logits.shape[1]).double() / len(y) for labels in (logits.argmax(1), y))
    return float(said @ true)


def at_chance(share: Proportion, chance: float) -> bool:
    """Whether an accuracy cannot be told from blind answers. Nobody doubts a few that are all right."""
    return share.k < share.n and share.value - SIGMAS * math.sqrt(chance * (1 - chance) / share.n) <= chance


def enough(chance: float) -> int:
    """How many images tell a net halfway between `chance` and all right from blind answers, at 3 sigma of both.

    Of fewer, a sound net may look blind by bad luck: 126 for two classes in balance, 29 for ten.
    """
    half = (1 + chance) / 2
    spread = math.sqrt(half * (1 - half)) + math.sqrt(chance * (1 - chance))
    return math.ceil((SIGMAS * spread / (half - chance)) ** 2)


def _blind(share: Proportion) -> Finding:
    evidence = f"clean accuracy is {share} % of {share.n} images, at chance, whatever is done to images and classes"
    return Finding("not_loaded", "error", evidence, "load its weights: none of them seem to have reached the net")


def _near_chance(share: Proportion, chance: float) -> Finding:
    """No record is missed, or images are too few without one: nothing was shown against this net."""
    evidence = (
        f"clean accuracy is {share} % of {share.n} images, too few to tell it from blind answers, "
        f"{100 * chance:.1f} % of which would be right"
    )
    more = max(enough(chance), 2 * share.n)
    return Finding(
        "near_chance", "warning", evidence, f"judge more images, say {more}: type --limit, or another --part"
    )


# Weights


def _of_weights(probe: Probe, share: Proportion) -> Finding | None:
    fresh, used = _fresh_norms(probe.net, next(probe.images()))
    if not fresh:
        return None
    what = "all" if len(fresh) == used else f"{len(fresh)} of"
    evidence = (
        f"clean accuracy is {share} % of {share.n} images, and {what} {used} batch norms have the statistics of a new "
        f"net (mean 0, variance 1, 0 batches seen), the first is {fresh[0]}"
    )
    advice = "compare the names in the file with the net's: a prefix such as module. and strict=False load nothing"
    return Finding("not_loaded", "error", evidence, advice)


def _fresh_norms(net: nn.Module, x: Images) -> tuple[list[str], int]:
    """The batch norms that take part and never saw a batch, and how many take part at all."""
    with _watched(net) as used, torch.no_grad():
        net(x[:2])
    return [name for name, module in net.named_modules() if module in used and _is_fresh(module)], len(used)


def _is_fresh(norm: nn.Module) -> bool:
    mean, var, seen = (getattr(norm, name) for name in ("running_mean", "running_var", "num_batches_tracked"))
    return not bool(mean.any()) and bool((var == 1).all()) and not (seen is not None and bool(seen))


@contextlib.contextmanager
def _watched(net: nn.Module) -> Iterator[set[nn.Module]]:
    """Which batch norms a pass reaches: published nets carry layers that they never use."""
    used: set[nn.Module] = set()
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    handles = [m.register_forward_hook(lambda module, *_: used.add(module)) for m in norms]
    try:
        yield used
    finally:
        for handle in handles:
            handle.remove()


# Images


def _of_images(probe: Probe, before: Mask, claim: Record | None) -> Finding | None:
    repair, after = best_repair(probe)
    if not brings_back(before, after, claim.clean if claim else None):
        return None
    return Finding("mis_normalised", "error", _regained(before, after, repair.seen), repair.next)


def best_repair(probe: Probe) -> tuple[Repair, Mask]:
    """The repair that wins most clean images, and what is right with it; the first of those that chance may order."""
    tried = [(repair, right_with(probe, repair)) for repair in repairs(probe.net, probe.data)]
    most = max((mask for _, mask in tried), key=lambda mask: int(mask.sum()))
    return next((repair, mask) for repair, mask in tried if not _beats(most, mask))


def _beats(better: Mask, worse: Mask) -> bool:
    """McNemar's test at 5 %."""
    return int(better.sum()) - int(worse.sum()) > Z95 * math.sqrt(int((better != worse).sum()))


def right_with(probe: Probe, repair: Repair, attack: Attack | None = None) -> Mask:
    """Which images are right with `repair` before the net; under `attack` on both where it is given."""

    def change(net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        return repair.before(x if attack is None else attack(lambda z: net(repair.before(z)), x, y, noise))

    try:
        return right(probe.logits(change), probe.labels)
    except ModelError:  # no finite logits: no repair
        return torch.zeros(len(probe.data), dtype=torch.bool)


def repairs(net: nn.Module, data: Split) -> list[Repair]:
    """What may have to be done to images in [0, 1] before this net."""
    inside = [(m.mean.flatten().tolist(), m.std.flatten().tolist()) for m in net.modules() if isinstance(m, Normalise)]
    statistics = {**_statistics(data), "[-1, 1]": ([0.5] * data.shape[0],) * 2}
    found = [_normalised(name, mean, std) for name, (mean, std) in statistics.items()]
    twice = {f"the net's layer {i}": pair for i, pair in enumerate(inside)} | statistics
    found += [_undone(name, mean, std) for name, (mean, std) in twice.items()]
    seen, advice = "with values of 0 .. 255 instead of 0 .. 1", "multiply by 255 inside the net: it was trained so"
    found.append(Repair(seen, advice, lambda x: 255 * x))
    if data.shape[0] == 3:
        seen, advice = "with the channels blue, green, red", "reverse the channels inside the net: it was trained so"
        found.append(Repair(seen, advice, lambda x: x.flip(1)))
    return found


def _statistics(data: Split) -> dict[str, tuple[list[float], list[float]]]:
    """Mean and deviation per channel: these images' own, and what published nets use."""
    pixels = as_float(data.images).transpose(0, 1).flatten(1)
    own = (pixels.mean(1).tolist(), pixels.std(1).clamp_min(1e-3).tolist())
    return {"these images": own} | {
        name: (list(mean), list(std)) for name, (mean, std) in STATISTICS.items() if len(mean) == data.shape[0]
    }


def _normalised(name: str, mean: Sequence[float], std: Sequence[float]) -> Repair:
    seen = f"with the images normalised by mean {_row(mean)} and std {_row(std)} ({name})"
    typed = f"--teacher.mean {_row(mean)} --teacher.std {_row(std)}"
    advice = f"normalise inside the net: type {typed}, or what its author used"
    m, s = _per_channel(mean), _per_channel(std)
    return Repair(seen, advice, lambda x: (x - m.to(x)) / s.to(x))


def _undone(name: str, mean: Sequence[float], std: Sequence[float]) -> Repair:
    seen = f"without the normalisation by mean {_row(mean)} and std {_row(std)} ({name})"
    advice = "normalise once or not at all: leave out --teacher.mean and --teacher.std, or the layer that repeats them"
    m, s = _per_channel(mean), _per_channel(std)
    return Repair(seen, advice, lambda x: x * s.to(x) + m.to(x))


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).reshape(-1, 1, 1)


def _row(values: Sequence[float]) -> str:
    return " ".join(f"{v:.4g}" for v in values)


# Classes


def _of_classes(logits: Tensor, probe: Probe, claim: Record | None) -> Finding | None:
    y = probe.labels
    fit = torch.zeros(len(y), dtype=torch.bool)
    fit[y.argsort(stable=True)[::2]] = True  # half of each class: an order is not judged on what it was drawn from
    order = class_order(logits[fit], y[fit])
    before, after = right(logits[~fit], y[~fit]), right(logits[~fit][:, order], y[~fit])
    if not brings_back(before, after, claim.clean if claim else None):
        return None
    said = f"with its outputs in the order {order.tolist()}, drawn from the other half"
    advice = "sort the rows of its last layer in this order, or number the classes of the data as its author did"
    return Finding("class_order", "error", _regained(before, after, said), advice)


def class_order(logits: Tensor, y: Labels) -> Tensor:
    """(classes,): for each class the output that stands for it, one to one, the surest pair first."""
    classes = logits.shape[1]
    score = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, y, logits.double().softmax(1))
    order = torch.zeros(classes, dtype=torch.int64)
    for _ in range(classes):
        row, column = divmod(int(score.argmax()), classes)
        order[row] = column
        score[row], score[:, column] = -1, -1
    return order


def brings_back(before: Mask, after: Mask, said: float | None) -> bool:
    """Whether a repair wins back most of what is missing of an accuracy, and more than luck would."""
    n, gain = len(before), int(after.sum()) - int(before.sum())
    needed = GAIN if said is None else BACK * max(0.0, said - int(before.sum()) / n)
    return gain >= needed * n and gain > SIGMAS * math.sqrt(int((after != before).sum()))


def _regained(before: Mask, after: Mask, how: str) -> str:
    old, new = (share_of(mask) for mask in (before, after))
    return f"clean accuracy is {old} % of {old.n} images, and {new} % {how}"


def _other_images(share: Proportion, claim: Record, data: Split) -> Finding:
    evidence = (
        f"clean accuracy is {share} % of {share.n} images of {data.name}, and the record of {claim.of}, "
        f"{100 * claim.clean:.1f} %, is about {claim.data}"
    )
    return Finding("other_images", "error", evidence, "choose a teacher of these images, or the images of this teacher")
