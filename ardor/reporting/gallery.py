"""Images under attack that every net classifies correctly when clean, first those that only the last one withstands."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from ardor.data.split import Split
from ardor.engine.modes import device_of, freeze
from ardor.evaluation.attacked import adversarial
from ardor.evaluation.checks.net import logits_of
from ardor.noise import order
from ardor.reporting.entry import Example
from ardor.types import Attack, Images, Labels

POOL, PIXELS = 256, 256 * 32 * 32
BATCH = 32
"""Images computed at once, of any size."""


def examples(
    nets: dict[str, nn.Module], data: Split, attack: Attack, *, count: int = 6, seed: int = 0
) -> list[Example]:
    """Images of `data` that every net classifies correctly when clean, each under `attack` on every net.

    Images on which the first net fails and the last does not come first, classes in turn: they illustrate, they are no
    sample. The same arguments give the same examples.

    Parameters
    ----------
    nets : the nets by name.
    data : at most 256 of its images (stratified) are tried; above 32 pixels fewer, at least 32.
    attack : run on each net with the same noise.
    count : number of examples at most.
    seed : of the choice and of the attack.
    """
    height, width = data.shape[1:]
    pool = data.limit(min(POOL, max(BATCH, PIXELS // (height * width))), seed)
    right = torch.ones(len(pool), dtype=torch.bool)
    for net in nets.values():
        right &= _predicted(net, pool.batch(slice(None))[0]) == pool.labels.cpu()
    if not nets or not right.any():
        return []
    pool = pool.take(right.to(pool.labels.device))
    attacked = {
        name: adversarial(net, pool, "examples", attack, batch=min(BATCH, len(pool)), seed=seed)
        for name, net in nets.items()
    }
    predicted = {name: _predicted(net, attacked[name]) for name, net in nets.items()}
    clean, truth, index = (value.cpu() for value in pool.batch(slice(None)))
    classes, names = pool.class_names, list(nets)
    telling = (predicted[names[0]] != truth) & (predicted[names[-1]] == truth)
    return [
        Example(
            label=classes[truth[i]],
            clean=clean[i],
            adversarial={name: attacked[name][i] for name in nets},
            says={name: (classes[truth[i]], classes[predicted[name][i]]) for name in nets},
        )
        for i in _choose(truth, telling, order(seed, "examples", 0, index))[:count]
    ]


def _choose(labels: Tensor, telling: Tensor, shuffled: Tensor) -> list[int]:
    """All rows: telling ones first, and within these each class in turn."""
    counts: Counter[tuple[bool, int]] = Counter()
    keys = {}
    for place, i in enumerate(shuffled.tolist()):
        group = bool(telling[i]), int(labels[i])
        keys[i] = (not group[0], counts[group], place)
        counts[group] += 1
    return sorted(keys, key=lambda i: keys[i])


def _predicted(net: nn.Module, x: Images) -> Labels:
    """Classes (B,) on the CPU by the net as given, not by its folded form that was attacked."""
    with freeze(net):
        return torch.cat([logits_of(net, part.to(device_of(net))).argmax(1).cpu() for part in x.split(BATCH)])
