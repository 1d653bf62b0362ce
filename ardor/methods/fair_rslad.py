"""Fair-RSLAD (Yue et al., NeurIPS 2023): RSLAD with more weight on the classes that are attacked easily.

inner  max  KL(T(x) || S(x'))
outer  min  u_y (alpha KL(T(x) || S(x')) + (1 - alpha) KL(T(x) || S(x)))
       u_c = clamp(C k_c^-beta / sum_j k_j^-beta, low, high), k_c the mean over the images of class c of the number of
       iterates on which S is right
u is of the epoch before, and 1 in the first. Differs from the released code (github NISP-official/Fair-ARD): k_c is a
mean over the class's own images, there over N / C; 1e-5 is added to it, which there the RSLAD script leaves out; the KL
is summed over classes (`scale` 0.1 is theirs).
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
from ardor.losses import kl
from ardor.noise import Noise
from ardor.storage.arguments import check_fields, require_value
from ardor.types import Images, Labels, Maximiser, Net, PerExample


@dataclass
class FairRSLAD:
    """Fair robust soft label adversarial distillation.

    Parameters
    ----------
    alpha
        Weight of the adversarial term, in [0, 1].
    beta
        Power of a class's difficulty.
    low, high
        Bounds of a class's weight.
    scale
        Factor of both terms.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "fair_rslad"
    needs_teacher: ClassVar[bool] = True
    channels_last: ClassVar[bool] = True

    alpha: float = 5 / 6
    beta: float = 2.0
    low: float = 5 / 6
    high: float = 5 / 2
    scale: float = 1.0
    attack: Maximiser = PGD(start="gaussian")
    weight_: Any = field(default=None, init=False, repr=False, compare=False)
    counts_: Any = field(default=None, init=False, repr=False, compare=False)
    batch_: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        require_value("method.high", self.high, f"a weight of at least low, {self.low:g}", lambda v: v >= self.low)

    def prepare(self, student: nn.Module, teacher: Net, x: Images) -> None:
        """Weights of 1, and counts of 0."""
        with torch.no_grad():
            classes = teacher(x[:2]).shape[1]
        self.weight_ = x.new_ones(classes)
        self.counts_ = x.new_zeros(2, classes)
        self.batch_ = x.new_zeros(2, classes)

    def terms(
        self, student: nn.Module, teacher: Net, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        u, right = self.weight_[y], x.new_zeros(len(x))
        soft = teacher(x).detach()
        with attack_view(student) as net:

            def objective(z: Images) -> PerExample:
                logits = net(z)
                right.add_(logits.detach().argmax(1) == y)
                return kl(soft, logits)

            x_adv = self.attack.maximise(objective, x, noise)

        counts = torch.where(noise.counted, torch.stack([right, torch.ones_like(right)]), 0)
        self.batch_ = self.batch_ + counts @ F.one_hot(y, len(self.weight_)).to(right)  # of a batch in parts all
        return {
            "robust": self.scale * self.alpha * u * kl(soft, student(x_adv)),
            "clean": self.scale * (1 - self.alpha) * u * kl(soft, student(x)),
        }

    def advance(self, student: nn.Module, *, epoch: int, last: bool, average: Any) -> None:
        """Add the batch's counts after a step, and compute the next epoch's weights after its last."""
        counts = self.counts_ + distributed.summed(self.batch_)
        self.batch_ = torch.zeros_like(self.batch_)
        if last:
            self.weight_ = self._weights(*counts)
            counts = torch.zeros_like(counts)
        self.counts_ = counts

    def _weights(self, right: Tensor, images: Tensor) -> Tensor:
        """u; a class without an image counts as the average one."""
        k = torch.where(images > 0, right / images.clamp_min(1), right.sum() / images.sum())
        u = (k + 1e-5) ** -self.beta
        return (len(u) * u / u.sum()).clamp(self.low, self.high)
