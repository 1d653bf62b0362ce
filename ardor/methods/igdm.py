"""IGDM (Lee, Cho and Kim, ICLR 2025): match the teacher's input gradients, as a term beside any method's own.

term  min  alpha (epoch / ramp) KL(softmax(T(x + b d) - T(x - c d)) || softmax(S(x + b d) - S(x - c d))),  d = x' - x
x' is the base method's. For a net that is locally linear, the difference of logits is (b + c) J d. The teacher's side
is detached; x - d is not clipped to [0, 1]. The authors' scripts have ramp = 200 whatever the number of epochs, alpha 1
on CIFAR-10 and 20 on CIFAR-100. Ours: x' and its passes are the base's, and x - d is the last pass in train mode, where
their scripts pass x, x' and x - d anew. The teacher must be locally linear, that is robust.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from ardor.engine.recorded import Recorded
from ardor.errors import ConfigError
from ardor.losses import kl
from ardor.methods.rslad import RSLAD
from ardor.noise import Noise
from ardor.storage.arguments import check_fields, require_value
from ardor.types import Images, Labels, Method, uses_labels


@dataclass
class IGDM:
    """Indirect gradient distillation, beside a base method.

    Parameters
    ----------
    base
        The method whose terms and x' it has.
    alpha
        Weight of the term in epoch `ramp`.
    ramp
        Epochs over which the weight grows to alpha; it goes on growing.
    b, c
        The two points, x + b d and x - c d.
    """

    config_name: ClassVar[str] = "igdm"
    needs_teacher: ClassVar[bool] = True
    wants_linear_teacher: ClassVar[bool] = True

    base: Method = field(default_factory=RSLAD)
    alpha: float = 1.0
    ramp: int = 200
    b: float = 1.0
    c: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        require_value("method.ramp", self.ramp, "a number of epochs from 1 up", lambda v: v >= 1)
        if several := getattr(type(self.base), "teachers", ()):
            raise ConfigError(
                f"expected a base of IGDM with one teacher, got {type(self.base).__name__}, which has "
                f"{' and '.join(several)}: type --method.base.name rslad"
            )
        if not hasattr(self.base, "attack"):
            raise ConfigError(
                f"expected a base of IGDM with an attack, got {type(self.base).__name__}, which has no x': "
                "type --method.base.name rslad"
            )

    @property
    def attack(self) -> Any:
        """The base's inner maximisation."""
        return getattr(self.base, "attack")  # noqa: B009

    @attack.setter
    def attack(self, attack: Any) -> None:
        object.__setattr__(self.base, "attack", attack)

    @property
    def uses_labels(self) -> bool:
        """Whether the base does."""
        return uses_labels(self.base)

    @property
    def weight_decay(self) -> float:
        """Of the base's parameters."""
        return getattr(self.base, "weight_decay", 0.0)

    @property
    def least_images(self) -> int:
        """Images that the base needs at once."""
        return int(getattr(self.base, "least_images", 1))

    def prepare(self, student: Any, teacher: Any, x: Images) -> None:
        """Prepare the base."""
        if hasattr(self.base, "prepare"):
            self.base.prepare(student, teacher, x)

    def parameters(self) -> Iterable[nn.Parameter]:
        """The base's."""
        return self.base.parameters() if hasattr(self.base, "parameters") else ()

    def advance(self, student: nn.Module, *, epoch: int, last: bool, average: Any) -> None:
        """Advance the base."""
        if hasattr(self.base, "advance"):
            self.base.advance(student, epoch=epoch, last=last, average=average)

    def terms(self, student: Any, teacher: Any, x: Images, y: Labels, *, epoch: int, noise: Noise) -> dict[str, Tensor]:
        """The base's terms, and "gradient", (B,)."""
        s: Any = Recorded(student)
        t = Recorded(teacher)
        terms = self.base.terms(s, t, x, y, epoch=epoch, noise=noise)
        if "gradient" in terms:
            raise ConfigError(
                f'expected a base of IGDM without a term "gradient", got {type(self.base).__name__}, which has its '
                "own: type --method.base.alpha 0, or another base"
            )

        x_adv = next(images for images, _ in s.passes if images is not x)
        plus, minus = along(x, x_adv, self.b), along(x, x_adv, -self.c)
        target = (t.of(plus) - t.of(minus)).detach()
        weight = self.alpha * epoch / self.ramp
        return {**terms, "gradient": weight * kl(target, s.of(plus) - s.of(minus))}


def along(x: Images, x_adv: Images, k: float) -> Images:
    """x + k (x' - x): x' itself at 1, x itself at 0."""
    return x_adv if k == 1 else x if k == 0 else x + k * (x_adv - x)
