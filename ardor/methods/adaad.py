"""AdaAD (Huang et al., CVPR 2023): the teacher's prediction at x' is the target, and x' is where the two disagree.

inner  max  KL(T(x') || S(x')), its gradient through both nets
outer  min  alpha KL(T(x') || S(x')) + (1 - alpha) KL(T(x) || S(x)), targets detached
Differs from the released code (github boyellow/AdaAD): the KL is summed over classes (`scale` 0.1 gives its CIFAR-10
scripts, 1 those of CIFAR-100); at alpha = 1 there is no clean pass, which there moves the batch statistics only.
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
class AdaAD:
    """Adaptive adversarial distillation.

    Parameters
    ----------
    alpha
        Weight of the adversarial term, in [0, 1]; at 1 there is no clean pass.
    scale
        Factor of both terms.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "adaad"
    needs_teacher: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True

    alpha: float = 1.0
    scale: float = 1.0
    attack: Maximiser = PGD(start="gaussian")

    def __post_init__(self) -> None:
        check_fields(self)

    def terms(
        self, student: nn.Module, teacher: Net, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: kl(teacher(z), net(z)), x, noise)

        # the released order: x first
        clean = student(x) if self.alpha < 1 else None
        terms = {"robust": self.scale * self.alpha * kl(teacher(x_adv).detach(), student(x_adv))}
        if clean is not None:
            terms["clean"] = self.scale * (1 - self.alpha) * kl(teacher(x).detach(), clean)
        return terms
