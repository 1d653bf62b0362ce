"""Shared by the attacks of AutoAttack: rounds over the survivors, the first success, the target class.

A round is one restart or one target class: `round(net, x, y, noise) -> x_adv`, itself an attack. It returns each
image's first success, and for a robust image any image inside the threat. `attack.rounds(classes)` lists them;
`ardor.evaluate` runs each on the survivors of the whole set, `in_rounds` on those of one batch.
"""

from __future__ import annotations

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
    """A dataclass of tensors with one row per image: `state[keep]` is the state of the remaining images."""

    def __getitem__(self: AnyRows, keep: Tensor) -> AnyRows:
        """The rows in `keep`, a mask or positions."""
        return type(self)(*(getattr(self, f.name)[keep] for f in fields(self)))  # type: ignore[arg-type]


@torch.no_grad()
def fooled(net: Net, x: Images, y: Labels, logits: Logits) -> Tensor:
    """(B,) bool: which of x are misclassified, by `logits` = net(x) and by the original net.

    A folded net equals the original but for rounding, so its successes, which are few, are confirmed there.
    """
    wrong = logits.argmax(1) != y
    original = as_given(net)
    if original is not net and bool(wrong.any()):
        rows = wrong.nonzero().squeeze(1)
        wrong[rows] = original(x[rows]).argmax(1) != y[rows]
    return wrong


@torch.no_grad()
def rival(net: Net, x: Images, y: Labels, rank: int) -> Labels:
    """(B,) the wrong class ranked `rank`, from 1, by the logits of x: the target of a targeted round."""
    logits = net(x).scatter(1, y[:, None], -torch.inf)
    return logits.topk(rank, 1).indices[:, -1]


@torch.no_grad()
def in_rounds(attack: Any, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
    """Run each round on the survivors of those before it: the first success of an image, else its largest margin."""
    x_adv, logits = x.detach().clone(), net(x)
    largest, alive = losses.margin(logits, y), (~fooled(net, x, y, logits)).nonzero().squeeze(1)
    for number, one in enumerate(rounds_of(attack, logits.shape[1])):
        if not len(alive):
            break
        z = one(net, x[alive], y[alive], noise[alive].fork(str(number)))
        logits = net(z)
        margin, won = losses.margin(logits, y[alive]), fooled(net, z, y[alive], logits)
        better = won | (margin > largest[alive])
        x_adv[alive[better]], largest[alive[better]] = z[better], margin[better]
        alive = alive[~won]
    return x_adv


def has_rounds(attack: Any) -> bool:
    """Whether the attack has a function `rounds`; a field of that name is not one."""
    return callable(getattr(attack, "rounds", None))


def rounds_of(attack: Any, classes: int) -> list[Attack]:
    """The rounds of an attack; an attack without any is one round."""
    return list(attack.rounds(classes)) if has_rounds(attack) else [attack]


def fitted(attack: Any, classes: int) -> Any:
    """The attack as it runs on a net with this many classes: see `APGD.fitted`."""
    return attack.fitted(classes) if callable(getattr(attack, "fitted", None)) else attack
