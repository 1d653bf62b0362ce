"""SAT, standard adversarial training (Madry et al., ICLR 2018, arXiv 1706.06083): Table 1 of the RSLAD paper, row 1.

inner  max  CE(f(x'), y)
outer  min  CE(f(x'), y)
Differs from the original (TensorFlow) code: the attack runs in eval mode, as everywhere at PyTorch level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import ce
from ardor.noise import Noise
from ardor.storage.arguments import check_fields, require_value
from ardor.types import Images, Labels, Maximiser


@dataclass
class SAT:
    """Cross-entropy on adversarial images only.

    Parameters
    ----------
    attack
        The inner maximisation.
    smoothing
        Share of the uniform distribution in the labels of the outer minimisation; the attack has the labels themselves.
    """

    config_name: ClassVar[str] = "sat"
    needs_teacher: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True

    attack: Maximiser = PGD(start="uniform")
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_value("method.smoothing", self.smoothing, "a number from 0 to below 1", lambda v: 0 <= v < 1)
        check_fields(self)

    def terms(
        self, student: nn.Module, teacher: None, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: ce(net(z), y), x, noise)

        return {"robust": ce(student(x_adv), y, self.smoothing)}
