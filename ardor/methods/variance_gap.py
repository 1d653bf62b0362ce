"""Variance-gap alignment (Dong, Koniusz, Chen and Ong, ECCV 2024): RSLAD with second-order feature alignment.

inner  max  KL(T(x) || S(x'))
outer  min  RSLAD + (lc/2) (L_cov(X) + L_cov(X')) + (lg/2) (L_gram(X) + L_gram(X'))
       L_cov(Z)  = ||W C_S(Z) W'/s - C_T(Z)/s||_F^2 / ||C_T(X)/s||_F^2,  s = trace C_T(X) / d_T
       L_gram(Z) = ||P_S P_S' - P_T P_T'||_F^2 / B^2,  P the (B, C) softmax scores of Z; or with gram="features"
                   ||H_S H_S' - H_T H_T'||_F^2 / trace(H_T H_T')^2,  H the (B, d) features, of any two widths
No code is public; the abstract fixes the idea (second-order statistics, clean and adversarial, Gram likewise). OUR
CHOICE is every constant: lc, lg and their size, the linear warm-up of lc, both scales, what the Gram matrix is of, and
W: absent at equal widths, else semi-orthogonal times max(1, sqrt(d_T/d_S)), which keeps the variance where d_T >= d_S
(a projection for a narrower teacher). An unconstrained W would absorb the difference in variance. RSLAD's `scale` does
not apply to the new terms. A term of weight 0 is not computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import kl, l_cov, l_gram, l_gram_features
from ardor.methods.alignment import Projector, forward
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Maximiser


@dataclass
class VarianceGap:
    """Variance-gap alignment.

    Parameters
    ----------
    alpha
        Weight of RSLAD's adversarial term, in [0, 1].
    scale
        Factor of RSLAD's two terms.
    lc
        Weight of the covariance term; 0 removes it and W.
    lg
        Weight of the Gram term; 0 removes it.
    gram
        What the Gram matrix is of: softmax scores, or features.
    warmup
        Epochs over which lc grows linearly.
    sets
        Images of both terms: clean, adversarial or both.
    seed
        Seed of W's initial weights.
    attack
        The inner maximisation.
    """

    config_name: ClassVar[str] = "variance_gap"
    needs_teacher: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True

    alpha: float = 5 / 6
    scale: float = 1.0
    lc: float = 0.001
    lg: float = 10.0
    gram: Literal["scores", "features"] = "scores"
    warmup: int = 5
    sets: Literal["both", "clean", "adversarial"] = "both"
    seed: int = 0
    attack: Maximiser = PGD(start="gaussian")
    projector_: nn.Module | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)

    def prepare(self, student: Any, teacher: Any, x: Images) -> None:
        """Create W for the widths of the features."""
        on_features = self.lc or (self.lg and self.gram == "features")
        projector = Projector.between(student, teacher, x, self.seed) if on_features else None
        self.projector_ = projector if self.lc else None

    def parameters(self) -> Iterable[nn.Parameter]:
        """The parameters of W, trained without weight decay."""
        return self.projector_.parameters() if self.projector_ else ()

    def terms(self, student: Any, teacher: Any, x: Images, y: Labels, *, epoch: int, noise: Noise) -> dict[str, Tensor]:
        """Per-example terms, (B,) each, and two scalars."""
        of_features = self.gram == "features" and bool(self.lg)
        aligned = bool(self.lc) or of_features
        with torch.no_grad():
            soft, t = forward(teacher, x, aligned)
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: kl(soft, net(z)), x, noise)

        robust, h_adv = forward(student, x_adv, aligned)
        clean, h = forward(student, x, aligned)
        terms = {
            "robust": self.scale * self.alpha * kl(soft, robust),
            "clean": self.scale * (1 - self.alpha) * kl(soft, clean),
        }
        if not (self.lc or self.lg):
            return terms
        if len(x) < 2:  # one image has no variance; the terms, and W's gradient, are as in the other processes
            if self.lc:
                terms["covariance"] = 0 * self.projector_().sum() if self.projector_ else x.new_zeros(())
            if self.lg:
                terms["gram"] = x.new_zeros(())
            return terms
        with torch.no_grad():
            soft_adv, t_adv = forward(teacher, x_adv, aligned)
        on_x, on_adv = self.sets != "adversarial", self.sets != "clean"
        if self.lc:
            lc, w = min(1, epoch / max(1, self.warmup)) * self.lc, self.projector_ and self.projector_()
            terms["covariance"] = lc / 2 * (on_x * l_cov(h, t, t, w) + on_adv * l_cov(h_adv, t_adv, t, w))
        if self.lg:
            pairs = ((h, t), (h_adv, t_adv)) if of_features else ((clean, soft), (robust, soft_adv))
            gram = l_gram_features if of_features else l_gram
            terms["gram"] = self.lg / 2 * (on_x * gram(*pairs[0]) + on_adv * gram(*pairs[1]))
        return terms
