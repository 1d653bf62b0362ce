"""ABSLD (Zhao et al., NeurIPS 2024, arXiv 2312.05508): RSLAD with a temperature of the teacher for each class.

inner  max  KL(softmax(T(x) / tau'_y) || S(x'))
outer  min  alpha KL(softmax(T(x) / tau'_y) || S(x')) + (1 - alpha) KL(softmax(T(x) / tau_y) || S(x))
       after an epoch tau_c <- clamp(tau_c - h (L_c - mean L) / max_c |L_c - mean L|, low, high)
       L_c  mean CE of the class in the epoch: on x' for tau', on x for tau
The student's temperature is 1, without a factor tau^2. h falls by 10 at each of `drops`, those of the learning rate.
Differs from the released code (github zhaoshiji123/ABSLD): there L_c is the sum over a class, which is the same for
balanced classes, and both tables share memory, so that T(x) is divided by the product (`product`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine import distributed
from ardor.engine.modes import attack_view
from ardor.losses import ce, kl
from ardor.noise import Noise
from ardor.storage.arguments import check_fields, require_value
from ardor.types import Images, Labels, Maximiser, Net


@dataclass
class ABSLD:
    """Anti-bias soft label distillation.

    Parameters
    ----------
    alpha
        Weight of the adversarial term, in [0, 1].
    h
        Largest change of a temperature after an epoch.
    drops
        Epochs, counted from 1, from which on h is a tenth.
    low, high
        Bounds of a temperature.
    product
        Divide T(x) by both temperatures everywhere, as the released code does.
    scale
        Factor of both terms.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "absld"
    needs_teacher: ClassVar[bool] = True
    channels_last: ClassVar[bool] = True

    alpha: float = 5 / 6
    h: float = 0.1
    drops: tuple[int, ...] = (215, 260, 285)
    low: float = 0.5
    high: float = 5.0
    product: bool = False
    scale: float = 1.0
    attack: Maximiser = PGD(start="gaussian")
    tau_: Any = field(default=None, init=False, repr=False, compare=False)
    sums_: Any = field(default=None, init=False, repr=False, compare=False)
    batch_: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        require_value("method.low", self.low, "a temperature above 0, at most 1, where all begin", lambda v: 0 < v <= 1)
        require_value("method.high", self.high, "a temperature of at least 1, where all begin", lambda v: v >= 1)

    def prepare(self, student: nn.Module, teacher: Net, x: Images) -> None:
        """Temperatures of 1. Rows: on x', on x, and in the sums the number of images."""
        with torch.no_grad():
            classes = teacher(x[:2]).shape[1]
        self.tau_ = x.new_ones(2, classes)
        self.sums_ = x.new_zeros(3, classes)
        self.batch_ = x.new_zeros(3, classes)

    def terms(
        self, student: nn.Module, teacher: Net, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        tau_adv, tau_nat = self.tau_.prod(0).expand(2, -1) if self.product else self.tau_
        logits = teacher(x).detach()
        soft_adv, soft = logits / tau_adv[y][:, None], logits / tau_nat[y][:, None]
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: kl(soft_adv, net(z)), x, noise)

        robust, clean = student(x_adv), student(x)
        losses = torch.stack([ce(robust.detach(), y), ce(clean.detach(), y), torch.ones_like(robust[:, 0])])
        losses = torch.where(noise.counted, losses, 0)
        self.batch_ = self.batch_ + (losses @ F.one_hot(y, self.tau_.shape[1]).to(losses)).to(self.tau_)
        return {
            "robust": self.scale * self.alpha * kl(soft_adv, robust),
            "clean": self.scale * (1 - self.alpha) * kl(soft, clean),
        }

    def advance(self, student: nn.Module, *, epoch: int, last: bool, average: Any) -> None:
        """Add the batch's losses after a step, and move the temperatures after an epoch's last."""
        batch = distributed.summed(self.batch_)
        sums = self.sums_ + torch.where(batch.isfinite().all(), batch, 0)  # float16 skips a step
        self.batch_ = torch.zeros_like(self.batch_)
        if last:
            self.tau_ = self._moved(sums, self.h * 0.1 ** sum(epoch >= drop for drop in self.drops))
            sums = torch.zeros_like(sums)
        self.sums_ = sums

    def _moved(self, sums: Tensor, h: float) -> Tensor:
        """The next temperatures: lower, a sharper target, for a harder class; the same for one without an image."""
        seen = sums[2] > 0
        losses = sums[:2] / sums[2].clamp_min(1)
        off = torch.where(seen, losses - losses[:, seen].mean(1, keepdim=True), 0)
        largest = off.abs().amax(1, keepdim=True)
        tau: Tensor = self.tau_ - h * off / torch.where(largest > 0, largest, 1)
        return tau.clamp(self.low, self.high)
