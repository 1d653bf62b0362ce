"""LBGAT (Cui et al., ICCV 2021): the boundary of a natural net that is trained along guides the student's.

inner  max  KL(S(x) || S(x'))
outer  min  mean_c (S(x') - N(x))^2 + CE(N(x), y) + beta KL(S(x) || S(x'))
The first term is of logits, and its gradient goes to both nets; S(x) keeps its gradient. beta is 0 or 6 in the released
code (github dvlab-research/LBGAT), whose order of passes is this one; eps is 0.031 and the step 0.007 there. N has the
student's architecture and weights of its own seed; theirs is a ResNet-18 beside a WRN-34-10.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import ce, kl
from ardor.models.fresh import untrained
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Maximiser


@dataclass
class LBGAT:
    """Learnable boundary guided adversarial training.

    Parameters
    ----------
    beta
        Weight of TRADES' term.
    weight_decay
        Of the natural net.
    seed
        Seed of the natural net's first weights.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "lbgat"
    needs_teacher: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True

    beta: float = 6.0
    weight_decay: float = 2e-4
    seed: int = 1
    attack: Maximiser = PGD(start="gaussian")
    natural_: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)

    def prepare(self, student: nn.Module, teacher: None, x: Images) -> None:
        """Create the natural net."""
        self.natural_ = untrained(student, self.seed).train().requires_grad_(True)

    def parameters(self) -> Iterable[nn.Parameter]:
        """The natural net's, with a weight decay of their own."""
        return self.natural_.parameters() if self.natural_ else ()

    def terms(
        self, student: nn.Module, teacher: None, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        with attack_view(student) as net:
            with torch.no_grad():
                target = net(x)
            x_adv = self.attack.maximise(lambda z: kl(target, net(z)), x, noise)

        robust, clean, guide = student(x_adv), student(x), self.natural_(x)
        return {
            "boundary": (robust - guide).square().mean(1),
            "natural": ce(guide, y),
            "robust": self.beta * kl(clean, robust),
        }
