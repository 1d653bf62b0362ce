"""Transfer: images made against another net, whose gradients are at hand, and judged on this one.

The black-box column of the field's tables: PGD-20 and CW_inf on an adversarially trained ResNet-50 (evaluation.md,
section 3). The attacked net is asked nothing, so what it hides cannot help it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ardor.engine.modes import attack_view
from ardor.noise import Noise
from ardor.types import Attack, Images, Labels, Net


@dataclass(frozen=True)
class Transfer:
    """An attack on another net, judged on this one.

    Parameters
    ----------
    attack
        The attack on `source`.
    source
        A net with the same classes.
    weights
        Hash of the source's weights, for the report.
    """

    attack: Attack
    source: nn.Module
    weights: str = ""

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """(B, C, H, W) in the attack's threat around x, all adversarial for the source as far as it could."""
        with attack_view(self.source.to(x.device)) as source:
            return self.attack(source, x, y, noise)
