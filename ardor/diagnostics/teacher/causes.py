"""The cause of a low clean accuracy: each repair is tried, and the one that restores the accuracy names it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ardor.data.split import Split, as_float, sample
from ardor.diagnostics.probe import Mask, Probe, right, share_of
from ardor.diagnostics.record import Record
from ardor.errors import ModelError
from ardor.evaluation.findings import Finding
from ardor.evaluation.proportion import Z95, Proportion
from ardor.models.normalise import Normalise
from ardor.noise import Noise
from ardor.types import Attack, Images, Labels, Net

BACK = 0.5
"""Share of the way to the record that a repair must gain. These images may be harder than the record's."""

GAIN = 0.2
"""The same without a record, as a share of all images. On 16 sound nets, weak ones too, no repair gained over 0.05."""

SIGMAS = 3.0

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "MNIST": ((0.1307,), (0.3081,)),
}


@dataclass(frozen=True)
class Repair:
    """A change of the images before the net, `before`; seen and next are for the finding."""

    seen: str
    next: str
    before: Callable[[Images], Images]


def diagnose(probe: Probe, logits: Tensor, claim: Record | None, chance: float, reached: bool) -> Finding | None:
    """The likely cause of a clean accuracy below the record, or at `chance`; else None.

    logits: (N, classes) of the images as they are. reached: whether there is a record and it is reached, so that the
    weights alone are evidence against the net: a net that was hardly trained may gain by any change of contrast.
    """
    mask = right(logits, probe.labels)
    share = share_of(mask)
    accuracy = f"clean accuracy is {share} % of {share.n} images"
    cause = _of_weights(probe, accuracy)
    if cause is None and not reached:
        cause = _of_images(probe, mask, claim) or _of_classes(logits, probe, claim)
    if cause is not None:
        return cause
    if not reached and claim is not None and claim.data not in (None, probe.data.name):
        evidence = f"{accuracy} of {probe.data.name}, and the record of {claim.of}, {100 * claim.clean:.1f} %, is about"
        advice = "choose a teacher of these images, or the images of this teacher"
        return Finding("other_images", "error", f"{evidence} {claim.data}", advice)
    needed = enough(chance)
    few = share.n < needed
    if reached or (claim is None and at_chance(share, chance) and few):
        guesses = f"blind guesses, {100 * chance:.1f} % of which would be right"
        evidence = f"{accuracy}, {'too few to tell it from' if few else 'as recorded, and not above'} {guesses}"
        advice = "train the teacher longer, or choose another"
        if few:
            advice = f"judge {needed} images or more: ardor gate TEACHER --limit {needed}, of a --part that large"
        return Finding("near_chance", "warning", evidence, advice)
    if at_chance(share, chance):
        evidence = f"{accuracy}, at chance, whatever is done to images and classes"
        advice = "load its weights: none of them seem to have reached the net"
        return Finding("not_loaded", "error", evidence, advice)
    if claim is None:
        return None
    evidence = f"{accuracy}, and the record of {claim.of} {100 * claim.clean:.1f} %"
    advice = "no repair helps: look for another checkpoint, damaged weights or other images"
    return Finding("below_record", "error", evidence, advice)


def chance_of(logits: Tensor, y: Labels) -> float:
    """The accuracy of blind guesses as frequent as these predictions: 1 / C where the classes are balanced.

    1 / C, too, where all images are of one class, for which skill and habit look the same.
    """
    if bool((y == y[0]).all()):
        return 1 / logits.shape[1]
    predicted, true = (v.bincount(minlength=logits.shape[1]).double() / len(y) for v in (logits.argmax(1), y))
    return float(predicted @ true)


def at_chance(share: Proportion, chance: float) -> bool:
    """Whether an accuracy is within 3 sigma of blind guesses. A few images that are all right are not in doubt."""
    return share.k < share.n and share.value - SIGMAS * math.sqrt(chance * (1 - chance) / share.n) <= chance


def enough(chance: float) -> int:
    """The images that separate a net halfway between `chance` and 1 from blind guesses, at 3 sigma of both.

    On fewer, a sound net may be at chance by bad luck: 126 for two classes in balance, 29 for ten.
    """
    half = (1 + chance) / 2
    spread = math.sqrt(half * (1 - half)) + math.sqrt(chance * (1 - chance))
    return math.ceil((SIGMAS * spread / (half - chance)) ** 2)


# Weights


def _of_weights(probe: Probe, accuracy: str) -> Finding | None:
    fresh, used = _fresh_norms(probe.net, next(probe.images()))
    if not fresh:
        return None
    share = "all" if len(fresh) == used else f"{len(fresh)} of"
    evidence = (
        f"{accuracy}, and {share} {used} batch norms have the statistics of a new net (mean 0, variance 1, 0 batches "
        f"seen), the first is {fresh[0]}"
    )
    advice = "compare the names in the file with the net's: a prefix such as module. and strict=False load nothing"
    return Finding("not_loaded", "error", evidence, advice)


def _fresh_norms(net: nn.Module, x: Images) -> tuple[list[str], int]:
    """The batch norms with the statistics of a new net, and the number of all; published nets have unused ones."""
    used: set[nn.Module] = set()
    with contextlib.ExitStack() as hooks, torch.no_grad():
        for module in net.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                hooks.enter_context(module.register_forward_hook(lambda norm, *_: used.add(norm)))
        net(x[:2])
    return [name for name, module in net.named_modules() if module in used and _is_fresh(module)], len(used)


def _is_fresh(norm: nn.Module) -> bool:
    mean, var, batches = (getattr(norm, name) for name in ("running_mean", "running_var", "num_batches_tracked"))
    return not bool(mean.any()) and bool((var == 1).all()) and not (batches is not None and bool(batches))


# Images


def _of_images(probe: Probe, before: Mask, claim: Record | None) -> Finding | None:
    repair, after = best_repair(probe)
    if not brings_back(before, after, claim.clean if claim else None):
        return None
    return Finding("mis_normalised", "error", _regained(before, after, repair.seen), repair.next)


def best_repair(probe: Probe) -> tuple[Repair, Mask]:
    """The first repair that McNemar's test does not separate from the one with most images right, and its mask."""
    tried = [(repair, right_with(probe, repair)) for repair in repairs(probe.net, probe.data)]
    most = max((mask for _, mask in tried), key=lambda mask: int(mask.sum()))
    return next((repair, mask) for repair, mask in tried if not _gains(mask, most, Z95))


def _gains(before: Mask, after: Mask, sigmas: float) -> bool:
    """McNemar's test: whether `after` has more images right than chance explains."""
    return int(after.sum()) - int(before.sum()) > sigmas * math.sqrt(int((after != before).sum()))


def right_with(probe: Probe, repair: Repair, attack: Attack | None = None) -> Mask:
    """The images that are right with `repair` before the net; under `attack` on both if it is given."""

    def change(net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        return repair.before(x if attack is None else attack(lambda z: net(repair.before(z)), x, y, noise))

    try:
        return right(probe.logits(change), probe.labels)
    except ModelError:  # no finite logits: no repair
        return torch.zeros(len(probe.data), dtype=torch.bool)


def repairs(net: nn.Module, data: Split) -> list[Repair]:
    """The changes that images in [0, 1] may need before this net."""
    inside = [(m.mean.flatten().tolist(), m.std.flatten().tolist()) for m in net.modules() if isinstance(m, Normalise)]
    statistics = {**_statistics(data), "[-1, 1]": ([0.5] * data.shape[0],) * 2}
    twice = {f"the net's layer {i}": pair for i, pair in enumerate(inside)} | statistics
    rows = [_normalisation(name, mean, std) for name, (mean, std) in statistics.items()]
    rows += [_normalisation(name, mean, std, undo=True) for name, (mean, std) in twice.items()]
    advice = "{} inside the net: it was trained so"
    rows.append(
        Repair("with values of 0 .. 255 instead of 0 .. 1", advice.format("multiply by 255"), lambda x: 255 * x)
    )
    if data.shape[0] == 3:
        flipped = advice.format("reverse the channels")
        rows.append(Repair("with the channels blue, green, red", flipped, lambda x: x.flip(1)))
    return rows


def _statistics(data: Split) -> dict[str, tuple[list[float], list[float]]]:
    """Mean and standard deviation per channel, of these images and of published nets."""
    pixels = as_float(sample(data).images[:]).transpose(0, 1).flatten(1)
    return {"these images": (pixels.mean(1).tolist(), pixels.std(1).clamp_min(1e-3).tolist())} | {
        name: (list(mean), list(std)) for name, (mean, std) in STATISTICS.items() if len(mean) == data.shape[0]
    }


def _normalisation(name: str, mean: Sequence[float], std: Sequence[float], undo: bool = False) -> Repair:
    """Normalisation before the net, or with `undo` its inverse."""
    means, stds = (" ".join(f"{v:.4g}" for v in values) for values in (mean, std))
    m, s = (torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1) for values in (mean, std))
    by = f"by mean {means} and std {stds} ({name})"
    if undo:
        advice = (
            "normalise once or not at all: leave out --teacher.mean and --teacher.std, or the layer that repeats them"
        )
        return Repair(f"without the normalisation {by}", advice, lambda x: x * s.to(x) + m.to(x))
    advice = f"normalise inside the net: type --teacher.mean {means} --teacher.std {stds}, or what its author used"
    return Repair(f"with the images normalised {by}", advice, lambda x: (x - m.to(x)) / s.to(x))


# Classes


def _of_classes(logits: Tensor, probe: Probe, claim: Record | None) -> Finding | None:
    y = probe.labels
    fit = torch.zeros(len(y), dtype=torch.bool)
    fit[y.argsort(stable=True)[::2]] = (
        True  # half of each class: an order is tested on other images than it was drawn from
    )
    order = class_order(logits[fit], y[fit])
    before, after = right(logits[~fit], y[~fit]), right(logits[~fit][:, order], y[~fit])
    if not brings_back(before, after, claim.clean if claim else None):
        return None
    how = f"with its outputs in the order {order.tolist()}, drawn from the other half"
    advice = "sort the rows of its last layer in this order, or number the classes of the data as its author did"
    return Finding("class_order", "error", _regained(before, after, how), advice)


def class_order(logits: Tensor, y: Labels) -> Tensor:
    """(classes,) int64: the output of each class, one to one, with the largest sum of probabilities."""
    classes = logits.shape[1]
    score = torch.zeros(classes, classes, dtype=torch.float64).index_add_(0, y, logits.double().softmax(1))
    return torch.from_numpy(scipy.optimize.linear_sum_assignment(score, maximize=True)[1])


def brings_back(before: Mask, after: Mask, claimed: float | None) -> bool:
    """Whether a repair regains most of what an accuracy lacks, and more than chance explains."""
    n, gain = len(before), int(after.sum()) - int(before.sum())
    needed = GAIN if claimed is None else BACK * max(0.0, claimed - int(before.sum()) / n)
    return gain >= needed * n and _gains(before, after, SIGMAS)


def _regained(before: Mask, after: Mask, how: str) -> str:
    old, new = share_of(before), share_of(after)
    return f"clean accuracy is {old} % of {old.n} images, and {new} % {how}"
