"""Images that tell the story: right under every net when clean, lost by the first net and kept by the last."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from ardor.data.split import Split
from ardor.engine.modes import device_of, freeze
from ardor.evaluation.attacked import adversarial
from ardor.noise import order
from ardor.reporting.entry import Example
from ardor.types import Attack

POOL = 256


def examples(
    nets: dict[str, nn.Module], data: Split, attack: Attack, *, count: int = 6, seed: int = 0
) -> list[Example]:
    """At most `count` images of `data` that every net gets right when clean, each under `attack` by every net.

    Images on which the first net falls and the last stands come first, classes in turn. They are chosen to be seen, not
    to be counted. At most 256 images (stratified) are tried; the same arguments give the same examples.
    """
    pool = data.limit(POOL, seed)
    right = torch.ones(len(pool), dtype=torch.bool)
    for net in nets.values():
        right &= _says(net, pool.batch(slice(None))[0]) == pool.labels.cpu()
    if not nets or not right.any():
        return []
    pool = pool.take(right.to(pool.labels.device))
    attacked = {  # every net meets the same noise
        name: adversarial(net, pool, "examples", attack, batch=len(pool), seed=seed) for name, net in nets.items()
    }
    says = {name: _says(nets[name], attacked[name]) for name in nets}
    clean, truth, index = (value.cpu() for value in pool.batch(slice(None)))
    words, names = pool.class_names, list(nets)
    telling = (says[names[0]] != truth) & (says[names[-1]] == truth)
    return [
        Example(
            label=words[truth[i]],
            clean=clean[i],
            adversarial={name: attacked[name][i] for name in names},
            says={name: (words[truth[i]], words[says[name][i]]) for name in names},
        )
        for i in _choose(truth, telling, order(seed, "examples", 0, index))[:count]
    ]


def _choose(labels: Tensor, telling: Tensor, shuffled: Tensor) -> list[int]:
    """All rows: telling ones first, and within these each class in turn."""
    met: Counter[tuple[bool, int]] = Counter()
    keys = {}
    for place, i in enumerate(shuffled.tolist()):
        group = bool(telling[i]), int(labels[i])
        keys[i] = (not group[0], met[group], place)
        met[group] += 1
    return sorted(keys, key=lambda i: keys[i])


def _says(net: nn.Module, x: Tensor) -> Tensor:
    with freeze(net), torch.no_grad():  # the net as given has the last word, not the twin that was attacked
        logits: Tensor = net(x.to(device_of(net)))
    return logits.argmax(1).cpu()
