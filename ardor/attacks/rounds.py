"""What the attacks of AutoAttack share: rounds over the survivors, the first success, the target class.

A round is one restart or one target class: `round(net, x, y, noise) -> x_adv`, an attack of its own. It hands back each
image's first success, and for an image that withstood it any image inside the threat. `attack.rounds(classes)` lists
them; `ardor.evaluate` runs each on the survivors of the whole set, `in_rounds` on those of one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from ardor import losses
from ardor.engine.folding import as_given
from ardor.noise import Noise
from ardor.types import Attack, Images, Labels, Logits, Net

AnyRows = TypeVar("AnyRows", bound="Rows")


class Rows:
    """A dataclass of tensors with one row per image: `state[keep]` is the state of the images that stay."""

    def __getitem__(self: AnyRows, keep: Tensor) -> AnyRows:
        """The rows in `keep`, a mask or positions."""
        return type(self)(*(getattr(self, f.name)[keep] for f in fields(self)))  # type: ignore[arg-type]


@torch.no_grad()
def fooled(net: Net, x: Images, y: Labels, logits: Logits) -> Tensor:
    """(B,) bool: which of x are misclassified, by the `logits` that `net` gave and by the net as given.

    A twin answers as its net but for rounding, so its successes are asked of the net again: there are few.
    """
    wrong = logits.argmax(1) != y
    judge = as_given(net)
    if judge is not net and bool(wrong.any()):
        rows = wrong.nonzero().squeeze(1)
        wrong[rows] = judge(x[rows]).argmax(1) != y[rows]
    return wrong


@torch.no_grad()
def rival(net: Net, x: Images, y: Labels, rank: int) -> Labels:
    """(B,) the wrong class ranked `rank` by the logits of x, from 1: the target of a targeted round."""
    logits = net(x).scatter(1, y[:, None], -torch.inf)
    return logits.topk(rank, 1).indices[:, -1]


@torch.no_grad()
def in_rounds(rounds: Sequence[Attack], net: Net, x: Images, y: Labels, noise: Noise) -> Images:
    """Run each round on the images that are still right: the first success of each, else its largest margin."""
    x_adv, logits = x.detach().clone(), net(x)
    largest, alive = losses.margin(logits, y), (~fooled(net, x, y, logits)).nonzero().squeeze(1)
    for number, attack in enumerate(rounds):
        if not len(alive):
            break
        z = attack(net, x[alive], y[alive], noise[alive].fork(str(number)))
        logits = net(z)
        margin, won = losses.margin(logits, y[alive]), fooled(net, z, y[alive], logits)
        better = won | (margin > largest[alive])
        x_adv[alive[better]], largest[alive[better]] = z[better], margin[better]
        alive = alive[~won]
    return x_adv


def per_image(value: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1): one number for each image of `like`."""
    return value.reshape(-1, *(1,) * (like.ndim - 1))


def has_rounds(attack: Any) -> bool:
    """Whether the attack consists of rounds; a field of that name makes none."""
    return callable(getattr(attack, "rounds", None))


def rounds_of(attack: Any, classes: int) -> list[Attack]:
    """The rounds of an attack; one that has none is a round of its own."""
    return list(attack.rounds(classes)) if has_rounds(attack) else [attack]


def fitted(attack: Any, classes: int) -> Any:
    """The attack as it runs on a net of so few classes: see `APGD.fitted`."""
    return attack.fitted(classes) if callable(getattr(attack, "fitted", None)) else attack
