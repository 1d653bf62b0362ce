"""SAAD (Lee and Chung, TMLR 2026, arXiv 2512.10275): a linearised teacher in the inner problem, weights by entropy.

inner  max  KL(T(x) + lam <G, x' - x> e_y || S(x')),  G = grad_x T_y(x), once per batch; the shift keeps its gradient
outer  min  w (KL(T(x') || S(x')) + alpha (epoch / ramp) IGDM) + beta (1 - n) KL(T(x) || S(x))
       w = gain (H(T(x')) - min_batch H(T(x'))),  n = w scaled to [0, 1] over the batch
IGDM's term is that of its file at b = c = 1. Both ingredients are fields, so that each can be had alone: inner="clean"
is RSLAD's inner problem and inner="teacher" AdaAD's; weights="none" is w = 1, n = 0. As in the released script beta is
0, which leaves its clean pass out here, gain 5, and H Shannon's. Its SWA from epoch 95 of 200 on is the recipe's here
(--averaging swa), and its weight decay is 2e-4 where the paper says 5e-4. The least entropy is that of the batch, in
several processes of each one's part. Released order of passes: x', x - d, x.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.attacks.threat import gradient
from ardor.engine.modes import attack_view
from ardor.errors import ConfigError
from ardor.losses import entropy, kl
from ardor.noise import Noise
from ardor.storage.arguments import check_fields, require_value
from ardor.types import Images, Labels, Logits, Maximiser, Net, Objective


@dataclass
class SAAD:
    """Sample-wise adaptive adversarial distillation.

    Parameters
    ----------
    inner
        Target of the inner problem: the linearised teacher, T(x) (clean) or T(x') (teacher).
    weights
        Whether terms are weighted by the entropy of T(x').
    alpha
        Weight of IGDM's term in epoch `ramp`; 0 removes it and its passes.
    ramp
        Epochs over which that weight grows to alpha: the length of the run.
    beta
        Weight of the clean term; 0 removes it and its pass.
    lam
        Factor of the linear shift.
    gain
        Factor of the entropy's distance from the least.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "saad"
    needs_teacher: ClassVar[bool] = True
    wants_linear_teacher: ClassVar[bool] = True

    inner: Literal["linear", "clean", "teacher"] = "linear"
    weights: Literal["entropy", "none"] = "entropy"
    alpha: float = 1.0
    ramp: int = 200
    beta: float = 0.0
    lam: float = 1.0
    gain: float = 5.0
    attack: Maximiser = PGD(start="gaussian")

    def __post_init__(self) -> None:
        check_fields(self)
        require_value("method.ramp", self.ramp, "a number of epochs from 1 up", lambda v: v >= 1)

    @property
    def uses_labels(self) -> bool:
        """The shift is of the true class's logit."""
        return self.inner == "linear"

    @property
    def least_images(self) -> int:
        """Images that are needed at once: one alone has the least entropy, and the weight 0."""
        return 2 if self.weights == "entropy" else 1

    def terms(
        self, student: nn.Module, teacher: Net, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        soft, target = self._target(teacher, x, y)
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: kl(target(z), net(z)), x, noise)

        robust, soft_adv = student(x_adv), teacher(x_adv).detach()
        w, n = self._weights(soft_adv)
        terms = {"robust": w * kl(soft_adv, robust)}
        if self.alpha:
            minus = 2 * x - x_adv
            differences = (soft_adv - teacher(minus)).detach(), robust - student(minus)
            terms["gradient"] = w * self.alpha * epoch / self.ramp * kl(*differences)
        if self.beta:
            terms["clean"] = self.beta * (1 - n) * kl(soft, student(x))
        return terms

    def _target(self, teacher: Net, x: Images, y: Labels) -> tuple[Logits, Objective]:
        """T(x), and the target of the inner problem at an iterate."""
        if self.inner != "linear":
            soft = teacher(x).detach()
            return soft, (lambda z: soft) if self.inner == "clean" else teacher
        z = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = teacher(z)
            g = gradient(logits.gather(1, y[:, None]).squeeze(1), z)
        soft, true = logits.detach(), F.one_hot(y, logits.shape[1])
        return soft, lambda z: soft + true * (self.lam * (g * (z - x)).flatten(1).sum(1, keepdim=True))

    def _weights(self, soft_adv: Logits) -> tuple[Tensor, Tensor]:
        """w and n, (B,) each. Raises ConfigError for one image, whose weight would be 0."""
        h = entropy(soft_adv)
        if self.weights == "none":
            return torch.ones_like(h), torch.zeros_like(h)
        if len(h) < 2:
            raise ConfigError(
                "expected at least 2 images at once for weights by entropy, got 1, whose weight is 0: type a larger "
                "--recipe.batch, or --method.weights none"
            )
        w = self.gain * (h - h.min())
        return w, w / (w.max() + 1e-8)
