"""Transfer: adversarial images of a surrogate net, evaluated on the attacked one.

The black-box column of the field's tables: PGD-20 and CW_inf on an adversarially trained ResNet-50. The attacked net
is not queried, so masked gradients do not protect it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ardor.engine.modes import attack_view
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Attack, Images, Labels, Net


@dataclass(frozen=True)
class Transfer:
    """An attack on a surrogate net.

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

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """The attack's images (B, C, H, W) for `source`; `net` is not called."""
        with attack_view(self.source.to(x.device)) as source:
            return self.attack(source, x, y, noise)
