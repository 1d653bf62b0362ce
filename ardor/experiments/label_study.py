"""The study of labels: the same student, and labels of four kinds in the inner and the outer problem.

inner  max  KL(P_inner || S(x'))
outer  min  alpha KL(P_outer || S(x')) + (1 - alpha) KL(P_outer || S(x))
P is hard (one-hot, so that KL is cross-entropy), smooth ((1 - s) of one-hot, s spread evenly over all), natural or
robust (the soft labels T(x) of a naturally or adversarially trained teacher). robust and robust is RSLAD.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.engine.modes import attack_view
from ardor.losses import ce, kl
from ardor.models import load
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Images, Labels, Logits, Maximiser

Kind: TypeAlias = Literal["hard", "smooth", "natural", "robust"]
KINDS: tuple[Kind, ...] = ("hard", "smooth", "natural", "robust")


@dataclass
class LabelKinds:
    """RSLAD with labels of one of four kinds in each problem.

    Parameters
    ----------
    inner, outer : kind of the labels in each problem.
    alpha : share of the adversarial term, in [0, 1].
    s : of the smoothing, in [0, 1].
    """

    config_name: ClassVar[str] = "ardor.experiments.label_study:LabelKinds"
    channels_last: ClassVar[bool] = True

    inner: Kind = "robust"
    outer: Kind = "robust"
    alpha: float = 5 / 6
    s: float = 0.1
    attack: Maximiser = PGD(start="gaussian")

    def __post_init__(self) -> None:
        check_fields(self)

    def terms(
        self, student: nn.Module, teacher: Any, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each. teacher: `Both`."""
        inner, outer = (self.loss(kind, teacher, x, y) for kind in (self.inner, self.outer))
        with attack_view(student) as net:
            x_adv = self.attack.maximise(lambda z: inner(net(z)), x, noise)

        return {
            "robust": self.alpha * outer(student(x_adv)),
            "clean": (1 - self.alpha) * outer(student(x)),
        }

    def loss(self, kind: Kind, teacher: Any, x: Images, y: Labels) -> Callable[[Logits], Tensor]:
        """KL from labels of this kind, as a function of the student's logits."""
        if kind == "hard":
            return lambda logits: ce(logits, y)
        soft = _smoothed(y, teacher.classes, self.s, x) if kind == "smooth" else getattr(teacher, kind)(x).detach()
        return lambda logits: kl(soft, logits)


def _smoothed(y: Labels, classes: int, s: float, x: Images) -> Logits:
    """Logits (B, C) whose softmax is the smoothed label."""
    p = torch.full((len(y), classes), s / classes, device=x.device, dtype=x.dtype)
    return p.scatter_add(1, y[:, None], torch.full_like(p[:, :1], 1 - s)).log()


class Both(nn.Module):
    """Two teachers in one: `natural(x)` and `robust(x)`, logits each; a call gives the robust one's."""

    config_name: ClassVar[str] = "ardor.experiments.label_study:Both"

    def __init__(self, natural: nn.Module, robust: nn.Module, classes: int) -> None:
        super().__init__()
        self.natural, self.robust, self.classes = natural, robust, classes

    def forward(self, x: Images) -> Logits:
        """Images in [0, 1] to the robust teacher's logits."""
        logits: Logits = self.robust(x)
        return logits


def both(natural: str, robust: str, classes: int = 10, trust_code: bool = False) -> Both:
    """The teachers of two runs, for `--teacher ardor.experiments.label_study:both`.

    Parameters
    ----------
    natural, robust : folders of the runs.
    classes : of the data.
    trust_code : as of `ardor.models.load`, for both.
    """
    return Both(load(natural, trust_code=trust_code), load(robust, trust_code=trust_code), classes)
