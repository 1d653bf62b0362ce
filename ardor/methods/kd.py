"""KD, knowledge distillation (Hinton, Vinyals and Dean, 2015, arXiv 1503.02531): clean images only.

outer  min  (1 - alpha) CE(S(x), y) + alpha t^2 KL(T^t(x) || S^t(x))
The paper fixes neither weight nor temperature: alpha = 0.9 and t = 4 are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ardor.losses import ce, kl
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Net


@dataclass
class KD:
    """Knowledge distillation.

    Parameters
    ----------
    alpha
        Weight of the teacher's term, in [0, 1].
    t
        Temperature.
    """

    config_name: ClassVar[str] = "kd"
    needs_teacher: ClassVar[bool] = True
    wants_robust_teacher: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True

    alpha: float = 0.9
    t: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def uses_labels(self) -> bool:
        """Unless the teacher's term is all."""
        return self.alpha < 1

    def terms(
        self, student: nn.Module, teacher: Net, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        soft, logits = teacher(x).detach(), student(x)
        return {
            "distil": self.alpha * self.t**2 * kl(soft, logits, self.t),
            "clean": (1 - self.alpha) * ce(logits, y),
        }
