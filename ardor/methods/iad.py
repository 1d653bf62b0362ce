"""IAD-I (Zhu et al., ICLR 2022, arXiv 2106.04928): the teacher's weight on x' is its probability of the true class.

inner  max  CE(S(x'), y)
outer  min  a KL(T^t(x) || S^t(x')) + (1 - a) KL(S(x) || S(x')),  a = T_y(x')^b
Before epoch `begin` only the teacher term, unweighted. S(x) in the self term keeps its gradient.
Released form: weighted_teacher=False (no factor a on the teacher term), train_mode_attack=True,
attack=PGD(start="unclipped") and the schedule of ARD's released code (Recipe(milestones=(100,))); its epochs count from
0, so its 60 may be 61 here. Ours: Table 1's form, attack in eval mode. The self term is at temperature 1, as released.
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
class IAD:
    """Introspective adversarial distillation.

    Parameters
    ----------
    b
        Exponent of the teacher's reliability.
    t
        Temperature of the teacher's term.
    begin
        First epoch of the self term, counted from 1.
    weighted_teacher
        Whether the teacher's term has the factor a; False is the released form.
    train_mode_attack
        Attack the student in train mode, as released.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "iad"
    needs_teacher: ClassVar[bool] = True
    channels_last: ClassVar[bool] = True

    b: float = 0.1
    t: float = 1.0
    begin: int = 60
    weighted_teacher: bool = True
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

        robust, clean = student(x_adv), student(x)
        from_teacher = kl(soft, robust, self.t)
        if epoch < self.begin:
            return {"teacher": from_teacher}
        a = teacher(x_adv).detach().softmax(1).gather(1, y[:, None]).squeeze(1) ** self.b
        return {
            "teacher": a * from_teacher if self.weighted_teacher else from_teacher,
            "self": (1 - a) * kl(clean, robust),
        }
