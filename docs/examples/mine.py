"""AdaAD-like distillation (after Huang et al., CVPR 2023): the teacher's target on the student's adversarial image.

inner  max  KL(T(x') || S(x'))
outer  min  alpha KL(T(x') || S(x')) + (1 - alpha) KL(T(x) || S(x))
"""

from dataclasses import dataclass

from ardor import attack_view
from ardor.attacks import PGD
from ardor.losses import kl


@dataclass
class AdaAD:
    """alpha: the adversarial share, our choice."""

    alpha: float = 0.9
    attack: PGD = PGD(start="gaussian")

    def terms(self, student, teacher, x, y, *, epoch, noise):
        """Per-example terms, (B,) each."""
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: kl(teacher(z), net(z)), x, noise)
        robust = self.alpha * kl(teacher(x_adv).detach(), student(x_adv))
        return {"robust": robust, "clean": (1 - self.alpha) * kl(teacher(x).detach(), student(x))}
