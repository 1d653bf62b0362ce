"""CW_inf: Carlini and Wagner's margin (S&P 2017) maximised by projected gradient ascent, as in the field's tables.

max over x' of min(max_{j != y} z_j - z_y, kappa), by PGD from a uniform start.
"""

from __future__ import annotations

from dataclasses import dataclass

from ardor import losses
from ardor.attacks.pgd import PGD
from ardor.attacks.threat import Linf, require_at_least, step_or_default
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Net, Threat


@dataclass(frozen=True)
class CW:
    """Margin ascent.

    Parameters
    ----------
    threat
        The ball around x.
    steps
        Number of ascent steps.
    step
        Length of a step, in the threat's norm; None is eps / 4.
    kappa
        Margin beyond which the objective is constant; at 50 the clamp is inactive.
    """

    threat: Threat = Linf(8 / 255)
    steps: int = 20
    step: float | None = None
    kappa: float = 50.0

    def __post_init__(self) -> None:
        check_fields(self, ThreatError, ranged=("step",))
        require_at_least(1, steps=self.steps)
        step_or_default(self.step, self.threat.eps)

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """Adversarial images (B, C, H, W) for (x, y): the final iterate."""
        pgd = PGD(self.threat, self.steps, self.step, start="uniform")
        return pgd.maximise(lambda z: losses.margin(net(z), y).clamp(max=self.kappa), x, noise)

    def cost(self, classes: int) -> int:
        """Forward and backward passes per image."""
        return 2 * self.steps
