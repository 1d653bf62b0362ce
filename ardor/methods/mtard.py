"""MTARD (Zhao et al., ECCV 2022) and B-MTARD (arXiv 2306.16170): a robust teacher on x', a natural one on x.

inner  max  CE(S(x'), y)
outer  min  w_r KL(softmax(T_rob(x') / tau_r) || S(x')) + w_n KL(softmax(T_nat(x) / tau_n) || S(x))
       in each step, before w is used:  w_n <- w_n - h (w_n - r_n / (r_r + r_n)),  w_r = 1 - w_n
       r_k  the mean of the k-th KL over that of the first step: the term that has fallen less has more weight
B-MTARD (`balance_temperatures`), after each step: tau_r -= g sign(H_r / H_n - 1), tau_n -= g sign(H_n / H_r - 1), each
kept in [1, 10], H the mean entropy of a target; MTARD's temperatures are 1. The student's is 1. h and g fall by 10 at
each of `drops`, those of the learning rate. Means are those of all processes. Released (github zhaoshiji123/MTARD):
each KL is averaged over classes (`scale` 0.1 is its CIFAR-10 script's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine import distributed
from ardor.engine.modes import attack_view
from ardor.losses import ce, entropy, kl
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Maximiser, Net


@dataclass
class MTARD:
    """Multi-teacher adversarial robustness distillation.

    Parameters
    ----------
    h
        Rate of the weights.
    g
        Rate of the temperatures.
    balance_temperatures
        Whether the temperatures move: B-MTARD.
    drops
        Epochs, counted from 1, after which h and g are a tenth.
    scale
        Factor of both terms.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "mtard"
    needs_teacher: ClassVar[bool] = True
    teachers: ClassVar[tuple[str, ...]] = ("robust", "natural")
    channels_last: ClassVar[bool] = True

    h: float = 0.025
    g: float = 0.001
    balance_temperatures: bool = False
    drops: tuple[int, ...] = (215, 260, 285)
    scale: float = 1.0
    attack: Maximiser = PGD(start="gaussian")
    balance_: Any = field(default=None, init=False, repr=False, compare=False)
    next_: Any = field(default=None, init=False, repr=False, compare=False)
    batch_: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)

    def prepare(self, student: nn.Module, teacher: Mapping[str, Net], x: Images) -> None:
        """Rows: weights, first losses (0 before there are any), temperatures; columns: robust, natural.

        The batch has sums: both losses, both entropies, images.
        """
        self.balance_ = x.new_tensor([[0.5, 0.5], [0, 0], [1, 1]])
        self.next_ = self.balance_.clone()
        self.batch_ = x.new_zeros(5)

    def terms(
        self, student: nn.Module, teacher: Mapping[str, Net], x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        tau_r, tau_n = self.balance_[2]
        soft = teacher["natural"](x).detach() / tau_n
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: ce(net(z), y), x, noise)

        robust, soft_adv = student(x_adv), teacher["robust"](x_adv).detach() / tau_r
        losses = kl(soft_adv, robust), kl(soft, student(x))
        rows = torch.stack([*losses, entropy(soft_adv), entropy(soft), torch.ones_like(losses[0])]).detach()
        sums = torch.where(noise.counted, rows, 0).sum(1)
        self.batch_ = self.batch_ + sums.to(self.batch_)  # of a batch in parts those so far
        self.next_ = self._balanced(0.1 ** sum(epoch > d for d in self.drops))
        w_r, w_n = self.next_[0]
        return {"robust": self.scale * w_r * losses[0], "natural": self.scale * w_n * losses[1]}

    def advance(self, student: nn.Module, *, epoch: int, last: bool, average: Any) -> None:
        """Keep the weights, first losses and temperatures of a step."""
        self.balance_ = torch.where(self.next_.isfinite().all(), self.next_, self.balance_)  # float16 skips a step
        self.batch_ = torch.zeros_like(self.batch_)

    def _balanced(self, drop: float) -> Tensor:
        """The weights of this step, the first losses, and the temperatures of the next step."""
        (_, w_n), first, tau = self.balance_
        sums = distributed.summed(self.batch_)
        loss, h = sums[:2] / sums[4], sums[2:4] / sums[4]
        first = torch.where(first > 0, first, loss)
        r = torch.where(first > 0, loss / first, 1)  # a student that is its teacher has no loss yet
        w_n = w_n - self.h * drop * (w_n - r[1] / r.sum())
        if self.balance_temperatures:
            tau = (tau - self.g * drop * (h / h.flip(0) - 1).sign()).clamp(1, 10)
        return torch.stack([torch.stack([1 - w_n, w_n]), first, tau])
