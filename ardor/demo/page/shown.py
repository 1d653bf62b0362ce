"""The test digits of the page, each with the worst perturbation found against each net."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ardor import losses
from ardor.attacks import APGD
from ardor.data.split import Split
from ardor.engine.modes import freeze
from ardor.evaluation.attacked import adversarial
from ardor.evaluation.checks.net import logits_of
from ardor.noise import Noise, order
from ardor.types import Images, Labels, Logits, Net, Threat

STARTS = 5


@dataclass(frozen=True)
class Shown:
    """A test image (8, 8) in [0, 1], its class, and for each net the worst image within the threat (nets, 8, 8)."""

    label: int
    clean: Tensor
    worst: Tensor


def shown(nets: list[nn.Module], test: Split, threat: Threat, seed: int = 0) -> list[Shown]:
    """One image of each class: the first, in an order drawn from `seed`, that every net classifies correctly.

    The choice does not depend on the attack; a class without such an image is left out.
    """
    x, y, index = test.batch(slice(None))
    right = torch.stack([_logits(net, x).argmax(1) == y for net in nets]).all(0)
    rows = [i for i in order(seed, "canvas", 0, index).tolist() if right[i]]
    first = {int(y[i]): i for i in reversed(rows)}
    chosen = torch.tensor([first[label] for label in sorted(first)], dtype=torch.long)
    adv = torch.stack([worst(net, test.take(chosen), threat, seed) for net in nets], 1)
    return [Shown(int(y[i]), x[i, 0], adv[k, :, 0]) for k, i in enumerate(chosen.tolist())]


def worst(net: nn.Module, data: Split, threat: Threat, seed: int = 0) -> Tensor:
    """(N, C, H, W): the images with the largest margin of APGD on the margin from several starts."""
    apgd = APGD(threat, loss="margin")

    def climb(net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        return apgd.maximise(lambda z: losses.margin(net(z), y), x, noise)

    best, y, _ = data.batch(slice(None))
    top = losses.margin(_logits(net, best), y)
    for start in range(STARTS):
        x_adv = adversarial(net, data, f"canvas {start}", climb, batch=len(data), seed=seed)
        margin = losses.margin(_logits(net, x_adv), y)
        best = torch.where((margin > top)[:, None, None, None], x_adv, best)
        top = torch.maximum(margin, top)
    return best


def fooled(net: nn.Module, digit: Shown, k: int) -> bool:
    """Whether `net`, the one of index `k`, misclassifies its worst image of the digit."""
    return int(_logits(net, digit.worst[k][None, None]).argmax()) != digit.label


def _logits(net: nn.Module, x: Images) -> Logits:
    with freeze(net):
        return logits_of(net, x)
