"""ARD (Goldblum et al., AAAI 2020, arXiv 1905.09747): the teacher's clean soft labels as the target on x'.

inner  max  CE(S(x'), y)
outer  min  (1 - alpha) CE(S(x), y) + alpha t^2 KL(T^t(x) || S^t(x'))
Released form: train_mode_attack=True, attack=PGD(start="unclipped"), scale=1/C (its KL is averaged over the classes
too), and a schedule whose second drop has no effect (Recipe(milestones=(100,))). Ours: eval-mode attack, clipped start,
KL summed over classes, both drops. As released, the clean forward runs even at alpha = 1, where it only moves the
batch statistics. The cross-entropy is at temperature 1, as released; the paper prints S^t.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import ce, kl
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Maximiser, Net


@dataclass
class ARD:
    """Adversarially robust distillation.

    Parameters
    ----------
    alpha
        Weight of the teacher's term, in [0, 1]; at 1 the labels have no weight.
    t
        Temperature.
    scale
        Factor of the KL term.
    train_mode_attack
        Attack the student in train mode, as released.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "ard"
    needs_teacher: ClassVar[bool] = True
    channels_last: ClassVar[bool] = True

    alpha: float = 1.0
    t: float = 30.0
    scale: float = 1.0
    train_mode_attack: bool = False
    attack: Maximiser = PGD(start="uniform")

    def __post_init__(self) -> None:
        check_fields(self)

    def terms(
        self, student: nn.Module, teacher: Net, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        soft = teacher(x).detach()
        with attack_view(student, training=self.train_mode_attack) as net:
            x_adv = self.attack.maximise(lambda z: ce(net(z), y), x, noise)

        return {
            "robust": self.scale * self.alpha * self.t**2 * kl(soft, student(x_adv), self.t),
            "clean": (1 - self.alpha) * ce(student(x), y),
        }
