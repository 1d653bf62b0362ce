"""AdaIAD (Huang et al., CVPR 2023): AdaAD's inner problem, and IAD's trust in the teacher or in oneself.

inner  max  KL(T(x') || S(x')), its gradient through both nets
outer  min  t^2 KL(T^t(x') || S^t(x')) + (1 - a) KL(S(x) || S(x')),  a = T_y(x')^b
The self term, at temperature 1 and with the gradient of S(x), is there from epoch `begin` on; before it the teacher's
term alone. Released (github boyellow/AdaAD): t = 30 outside and 1 inside, no factor a on the teacher's term
(`weighted_teacher` adds it, as IAD's table does), S(x) twice; here it is passed once.
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
class AdaIAD:
    """Adaptive introspective adversarial distillation.

    Parameters
    ----------
    b
        Exponent of the teacher's reliability.
    t
        Temperature of the teacher's term.
    begin
        First epoch of the self term, counted from 1.
    weighted_teacher
        Whether the teacher's term has the factor a.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "adaiad"
    needs_teacher: ClassVar[bool] = True
    channels_last: ClassVar[bool] = True

    b: float = 0.1
    t: float = 30.0
    begin: int = 61
    weighted_teacher: bool = False
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
        soft_adv = teacher(x_adv).detach()
        from_teacher = self.t**2 * kl(soft_adv, robust, self.t)
        if epoch < self.begin:
            return {"teacher": from_teacher}
        a = soft_adv.softmax(1).gather(1, y[:, None]).squeeze(1) ** self.b
        return {
            "teacher": a * from_teacher if self.weighted_teacher else from_teacher,
            "self": (1 - a) * kl(clean, robust),
        }
