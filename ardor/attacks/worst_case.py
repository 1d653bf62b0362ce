"""The worst case of a suite as one attack: the validation of a run can select its checkpoint under a suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ardor.attacks.rounds import fitted, in_rounds, rounds_of
from ardor.attacks.suites import named
from ardor.attacks.threat import Linf
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Attack, Images, Labels, Net, Threat


@dataclass(frozen=True)
class WorstCase:
    """The attacks of a suite one after another, each on the images that those before it left correctly classified.

    Parameters
    ----------
    threat
        The ball around x.
    suite
        Name of the suite: paper, quick, autoattack, plus, rand, apgd or square.

    Raises
    ------
    ConfigError
        For another name.
    """

    config_name: ClassVar[str] = "worst_case"

    threat: Threat = Linf(8 / 255)
    suite: str = "paper"

    def __post_init__(self) -> None:
        check_fields(self)
        named(self.suite, self.threat)

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """Adversarial images (B, C, H, W): the first success of each, else where the margin was largest."""
        return in_rounds(self, net, x, y, noise)

    def rounds(self, classes: int) -> list[Attack]:
        """The rounds of every attack, in the order of the suite."""
        attacks = named(self.suite, self.threat).attacks.values()
        return [one for attack in attacks for one in rounds_of(fitted(attack, classes), classes)]
