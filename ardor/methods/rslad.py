"""RSLAD (Zi et al., ICCV 2021, arXiv 2108.07969): the teacher's clean soft labels in every term, no hard labels.

inner  max  KL(T(x) || S(x'))
outer  min  alpha KL(T(x) || S(x')) + (1 - alpha) KL(T(x) || S(x))
Differs from the released code: the KL is per example and summed over classes; `scale` gives theirs (0.1, which its
CIFAR-10 and CIFAR-100 scripts share, and which is not neutral beside weight decay).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import kl
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Maximiser, Net


@dataclass
class RSLAD:
    """Robust soft label adversarial distillation.

    Parameters
    ----------
    alpha
        Weight of the adversarial term, in [0, 1].
    scale
        Factor of both terms.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "rslad"
    needs_teacher: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True

    alpha: float = 5 / 6
    scale: float = 1.0
    attack: Maximiser = PGD(start="gaussian")

    def __post_init__(self) -> None:
        check_fields(self)

    def terms(
        self, student: nn.Module, teacher: Net, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        soft = teacher(x).detach()
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: kl(soft, net(z)), x, noise)

        # two forwards, x' first: one concatenated forward would mix the batch statistics
        return {
            "robust": self.scale * self.alpha * kl(soft, student(x_adv)),
            "clean": self.scale * (1 - self.alpha) * kl(soft, student(x)),
        }
