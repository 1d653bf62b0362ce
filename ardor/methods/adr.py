"""ADR (Wu et al., ICLR 2024, arXiv 2305.12118): no teacher, but the labels of an average of the student's own weights.

inner  max  CE(P, S(x'))
outer  min  CE(P, S(x'))
       P = l q + (1 - l) e_y,  q = softmax(E(x) / tau),  l = clip(lam - (max_c q_c - q_y), 0, 1)
E is the average, in eval mode, its batch statistics averaged too, updated after each step of the optimiser; where the
recipe has an EMA its weights are that one's. tau and lam go from their first to their last value along half a cosine of
`steps` steps. CE(P, .) is the cross-entropy with a soft label. Differs from the released code (github yuyuwu5/ADR): the
attack is in eval mode, there in train mode; its own weight perturbation is the recipe's AWP here.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import soft_ce
from ardor.noise import Noise
from ardor.storage.arguments import check_fields, require_value
from ardor.types import Images, Labels, Maximiser


@dataclass
class ADR:
    """Annealing self-distillation rectification.

    Parameters
    ----------
    tau
        First and last temperature of E: (2.5, 2.0) on CIFAR-10, (1.5, 1.0) on CIFAR-100.
    lam
        First and last weight of E's label where it is right.
    steps
        Steps of the optimiser over which both change: the run's; 78200 is 200 epochs of CIFAR-10 at batch 128.
    decay
        Of E at each step, where the recipe has no EMA.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "adr"
    needs_teacher: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True

    tau: tuple[float, float] = (2.5, 2.0)
    lam: tuple[float, float] = (0.7, 0.95)
    steps: int = 78200
    decay: float = 0.995
    attack: Maximiser = PGD(start="uniform")
    average_: Any = field(default=None, init=False, repr=False, compare=False)
    step_: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        require_value("method.steps", self.steps, "a number of steps from 1 up", lambda v: v >= 1)

    def prepare(self, student: nn.Module, teacher: None, x: Images) -> None:
        """Begin the average with the student's weights."""
        self.average_ = copy.deepcopy(student).eval().requires_grad_(False)
        self.step_ = torch.zeros(())

    def terms(
        self, student: nn.Module, teacher: None, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """One term, (B,)."""
        with torch.no_grad():
            label = self._label(self.average_(x), y)
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: soft_ce(label, net(z)), x, noise)

        return {"robust": soft_ce(label, student(x_adv))}

    @torch.no_grad()
    def advance(self, student: nn.Module, *, epoch: int, last: bool, average: Mapping[str, Tensor] | None) -> None:
        """Average the weights and the batch statistics after a step of the optimiser."""
        self.step_ = self.step_ + 1
        for name, value in self.average_.named_parameters():
            value.copy_(average[name]) if average else value.lerp_(student.get_parameter(name), 1 - self.decay)
        for name, value in self.average_.named_buffers():
            new = student.get_buffer(name)
            value.lerp_(new, 1 - self.decay) if value.is_floating_point() else value.copy_(new)

    def _label(self, logits: Tensor, y: Labels) -> Tensor:
        """P, (B, C) probabilities."""
        tau, lam = self._at(*self.tau), self._at(*self.lam)
        q = (logits / tau).softmax(1)
        weight = (lam - (q.amax(1, keepdim=True) - q.gather(1, y[:, None]))).clamp(0, 1)
        return weight * q + (1 - weight) * F.one_hot(y, q.shape[1])

    def _at(self, first: float, last: float) -> float:
        """A value on its way from first to last."""
        share = min(1.0, float(self.step_) / self.steps)
        return last + (first - last) * (1 + math.cos(math.pi * share)) / 2
