"""MART (Wang et al., ICLR 2020): a boosted cross-entropy, with more weight on misclassified clean images.

inner  max  CE(f(x'), y)
outer  min  BCE(f(x'), y) + beta (1 - f_y(x)) KL(f(x) || f(x'))
       BCE(p', y) = -log p'_y - log(1.0001 - max_{j != y} p'_j + 1e-12)
Nothing is detached: the gradient flows through f(x), through the weight and through f(x').
Differs from the released code: eps 8/255 and step 2/255 there are 0.031 and 0.007; beta 6 is the field's default, the
released ResNet-18 recipe has 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import ce, kl
from ardor.noise import Noise
from ardor.storage.arguments import check_fields, require_value
from ardor.types import Images, Labels, Logits, Maximiser, PerExample


@dataclass
class MART:
    """Misclassification-aware adversarial training.

    Parameters
    ----------
    beta
        Weight of the misclassification-aware term.
    attack
        The inner maximisation.
    smoothing
        Share of the uniform distribution in the labels of the outer minimisation; the attack has the labels themselves.
    """

    config_name: ClassVar[str] = "mart"
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
            x_adv = self.attack.maximise(lambda z: ce(net(z), y), x, noise)

        clean, robust = student(x), student(x_adv)
        f_y = clean.softmax(1).gather(1, y[:, None]).squeeze(1)
        return {
            "boosted": bce(robust, y, self.smoothing),
            "robust": self.beta * (1.0000001 - f_y) * kl(clean, robust),
        }


def bce(logits: Logits, y: Labels, smoothing: float = 0.0) -> PerExample:
    """MART's boosted cross-entropy: (B, C), (B,) -> (B,); the constants are the released code's."""
    p = logits.softmax(1)
    runner_up = (p - F.one_hot(y, p.shape[1])).amax(1)  # p_y - 1 <= 0 never wins over a probability
    return ce(logits, y, smoothing) - (1.0001 - runner_up + 1e-12).log()
