"""FGSM (Goodfellow, Shlens and Szegedy, ICLR 2015): one step of size eps, no random start.

x' = clip(x + eps sign grad CE(f(x), y)); in L2 the step is eps along the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ardor import losses
from ardor.attacks.threat import Linf, require_word
from ardor.noise import Noise
from ardor.types import Images, Labels, Net, Objective, Threat


@dataclass(frozen=True)
class FGSM:
    """The fast gradient method.

    Parameters
    ----------
    threat
        The ball around x.
    loss
        Loss that an evaluation climbs: ce, margin or dlr; a training method climbs its own objective.
    """

    threat: Threat = Linf(8 / 255)
    loss: Literal["ce", "margin", "dlr"] = "ce"

    def __post_init__(self) -> None:
        require_word(self.loss, losses.BY_NAME, "a loss")

    @torch.enable_grad()
    def maximise(self, objective: Objective, x: Images, noise: Noise) -> Images:
        """One step up `objective`, (B, C, H, W) -> (B,), from x."""
        x = x.detach()
        x_adv = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(objective(x_adv).sum(), x_adv)
        return self.threat.project(self.threat.ascend(x, grad, self.threat.eps), x)

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """Adversarial images for (x, y): the result of the one step."""
        return self.maximise(lambda z: losses.BY_NAME[self.loss](net(z), y), x, noise)

    def cost(self, classes: int) -> int:
        """Passes an image costs, forward or back."""
        return 2
