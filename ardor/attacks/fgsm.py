"""FGSM (Goodfellow, Shlens and Szegedy, ICLR 2015): one step of size eps, no random start.

x' = clip(x + eps sign grad CE(f(x), y)); in L2 the step is eps along the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ardor import losses
from ardor.attacks.pgd import PGD
from ardor.attacks.threat import Linf
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Net, Objective, Threat


@dataclass(frozen=True)
class FGSM:
    """The fast gradient method.

    Parameters
    ----------
    threat
        The ball around x.
    loss
        Loss that an evaluation maximises: ce, margin or dlr; a training method passes its own objective.
    """

    threat: Threat = Linf(8 / 255)
    loss: Literal["ce", "margin", "dlr"] = "ce"

    def __post_init__(self) -> None:
        check_fields(self, ThreatError)

    def maximise(self, objective: Objective, x: Images, noise: Noise) -> Images:
        """One ascent step of `objective`, (B, C, H, W) -> (B,), from x."""
        return PGD(self.threat, steps=1, step=self.threat.eps, start="none").maximise(objective, x, noise)

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """Adversarial images (B, C, H, W) for (x, y): the result of the step."""
        return self.maximise(lambda z: losses.BY_NAME[self.loss](net(z), y), x, noise)

    def cost(self, classes: int) -> int:
        """Forward and backward passes per image."""
        return 2
