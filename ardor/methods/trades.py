"""TRADES (Zhang et al., ICML 2019, arXiv 1901.08573): cross-entropy on x, and the same prediction on x'.

inner  max  KL(f(x) || f(x'))
outer  min  CE(f(x), y) + beta KL(f(x) || f(x'))
The clean target of the outer KL keeps its gradient; detaching it costs 3 to 4 points of AutoAttack on ResNet-18.
Differs from the released code: eps 8/255 and step 2/255 there are 0.031 and 0.007; its third forward, x again for the
KL target, is shared with the first, so batch statistics move twice per step, not three times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import ce, kl
from ardor.noise import Noise
from ardor.storage.arguments import check_fields, require_value
from ardor.types import Images, Labels, Maximiser


@dataclass
class TRADES:
    """TRADES.

    Parameters
    ----------
    beta
        Weight of the robust term.
    attack
        The inner maximisation.
    smoothing
        Share of the uniform distribution in the labels of the outer minimisation; the attack has the labels themselves.
    """

    config_name: ClassVar[str] = "trades"
    needs_teacher: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True

    beta: float = 6.0
    attack: Maximiser = PGD(start="gaussian")
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_value("method.smoothing", self.smoothing, "a number from 0 to below 1", lambda v: 0 <= v < 1)
        check_fields(self)

    def terms(
        self, student: nn.Module, teacher: None, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        with attack_view(student) as net:
            target = net(x).detach()
            x_adv = self.attack.maximise(lambda z: kl(target, net(z)), x, noise)

        clean = student(x)
        return {"clean": ce(clean, y, self.smoothing), "robust": self.beta * kl(clean, student(x_adv))}
