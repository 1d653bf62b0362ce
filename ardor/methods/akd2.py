"""AKD2 (the baseline of Zhu et al., ICLR 2022; Chen et al., ICLR 2021): labels, a robust and a natural teacher on x'.

inner  max  CE(S(x'), y)
outer  min  (1 - a_r - a_n) CE(S(x'), y) + a_r t^2 KL(T_rob^t(x') || S^t(x')) + a_n t^2 KL(T_nat^t(x') || S^t(x'))
Both teachers see x'; they are of the student's own size in both papers. Defaults are AKD2's (github ZFancy/IAD, whose
attack is in train mode). Chen's (github VITA-Group/Alleviate-Robust-Overfitting): robust=0.1, natural=0.6, t=2, with
SWA from epoch 55 on.
"""

from __future__ import annotations

from collections.abc import Mapping
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
class AKD2:
    """Adversarial training with a robust and a natural teacher.

    Parameters
    ----------
    robust, natural
        Weights of the teachers' terms, a_r and a_n; the rest is the labels'.
    t
        Temperature.
    train_mode_attack
        Attack the student in train mode, as released.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "akd2"
    needs_teacher: ClassVar[bool] = True
    teachers: ClassVar[tuple[str, ...]] = ("robust", "natural")
    channels_last: ClassVar[bool] = True

    robust: float = 0.5
    natural: float = 0.25
    t: float = 1.0
    train_mode_attack: bool = False
    attack: Maximiser = PGD(start="uniform")

    def __post_init__(self) -> None:
        check_fields(self)

    def terms(
        self, student: nn.Module, teacher: Mapping[str, Net], x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        with attack_view(student, training=self.train_mode_attack) as net:
            x_adv = self.attack.maximise(lambda z: ce(net(z), y), x, noise)

        logits = student(x_adv)
        soft = {name: teacher[name](x_adv).detach() for name in self.teachers}
        return {
            "label": (1 - self.robust - self.natural) * ce(logits, y),
            "robust": self.robust * self.t**2 * kl(soft["robust"], logits, self.t),
            "natural": self.natural * self.t**2 * kl(soft["natural"], logits, self.t),
        }
