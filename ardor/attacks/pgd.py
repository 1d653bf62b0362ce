"""PGD (Madry et al., ICLR 2018): projected gradient ascent from a random start, evaluated at its final iterate.

x_{k+1} = P(x_k + step sign grad objective(x_k)), P onto the ball around x and then onto [0, 1].
The gradient is taken at the projected image, never through a clamp: that zeroes it at black and white pixels, and
robustness is overestimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ardor import losses
from ardor.attacks.threat import Linf, Start, gradient, require_at_least, step_or_default
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Net, Objective, Threat


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent.

    Parameters
    ----------
    threat
        The ball around x.
    steps
        Number of ascent steps.
    step
        Length of a step, in the threat's norm; None is eps / 4.
    start
        First iterate: uniform in the ball; unclipped, the same beyond [0, 1]; surface, at distance eps; gaussian,
        x + 0.001 N(0, I); or none, x itself.
    loss
        Loss that an evaluation maximises: ce, margin or dlr; a training method passes its own objective.
    """

    threat: Threat = Linf(8 / 255)
    steps: int = 10
    step: float | None = None
    start: Start = "uniform"
    loss: Literal["ce", "margin", "dlr"] = "ce"

    def __post_init__(self) -> None:
        check_fields(self, ThreatError, ranged=("step",))
        require_at_least(1, steps=self.steps)
        step_or_default(self.step, self.threat.eps)

    @torch.enable_grad()
    def maximise(self, objective: Objective, x: Images, noise: Noise) -> Images:
        """Ascend `objective`, (B, C, H, W) -> (B,), from a start near x: the final iterate."""
        x, step = x.detach(), step_or_default(self.step, self.threat.eps)
        x_adv = self.threat.start(x, self.start, noise)
        for _ in range(self.steps):
            x_adv.requires_grad_()
            grad = gradient(objective(x_adv), x_adv)
            x_adv = self.threat.project(self.threat.ascend(x_adv.detach(), grad, step), x)
        return x_adv

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """Adversarial images (B, C, H, W) for (x, y): the final iterate."""
        return self.maximise(lambda z: losses.BY_NAME[self.loss](net(z), y), x, noise)

    def cost(self, classes: int) -> int:
        """Forward and backward passes per image."""
        return 2 * self.steps
