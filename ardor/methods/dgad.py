"""DGAD (Park et al., ECCV 2024): AdaAD, the clean target where the teacher is wrong on x, and corrected labels.

inner  max  KL(T(x') || S(x')), its gradient through both nets
outer  min  KL(T~(x) || S(x))    where T(x) is wrong
            KL(T~(x') || S(x'))  elsewhere
            + (beta / C) sum_c (p_c(x') - p_c(x))^2,  p = softmax S, gradient to both
T~ is T with the logits of y and of its largest class exchanged where that is not y. Released (github kunsaram01/DGAD):
the same at batch mean, except for a last, smaller batch, which it scales wrongly. The paper prints an L2 norm for the
last term, the code takes the mean square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import kl
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Logits, Maximiser, Net


@dataclass
class DGAD:
    """Dynamic guidance adversarial distillation.

    Parameters
    ----------
    beta
        Weight of the consistency of S(x') and S(x).
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "dgad"
    needs_teacher: ClassVar[bool] = True
    channels_last: ClassVar[bool] = True

    beta: float = 1.0
    attack: Maximiser = PGD(start="gaussian")

    def __post_init__(self) -> None:
        check_fields(self)

    def terms(
        self, student: nn.Module, teacher: Net, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: kl(teacher(z), net(z)), x, noise)

        clean, robust = student(x), student(x_adv)  # the released order: x first
        soft, soft_adv = teacher(x).detach(), teacher(x_adv).detach()
        wrong = soft.argmax(1) != y
        distilled = torch.where(wrong, kl(corrected(soft, y), clean), kl(corrected(soft_adv, y), robust))
        return {
            "distil": distilled,
            "consistency": self.beta * (robust.softmax(1) - clean.softmax(1)).square().mean(1),
        }


def corrected(logits: Logits, y: Labels) -> Logits:
    """Logits (B, C) with those of y and of the largest class exchanged: nothing changes where that is y."""
    true, top = y[:, None], logits.argmax(1, keepdim=True)
    return logits.scatter(1, top, logits.gather(1, true)).scatter(1, true, logits.gather(1, top))
