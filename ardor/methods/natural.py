"""Natural training: empirical risk on clean images, the baseline without robustness.

outer  min  CE(f(x), y)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ardor.losses import ce
from ardor.noise import Noise
from ardor.storage.arguments import check_fields, require_value
from ardor.types import Images, Labels


@dataclass
class Natural:
    """Cross-entropy on clean images; no attack, no teacher.

    Parameters
    ----------
    smoothing
        Share of the uniform distribution in the labels.
    """

    config_name: ClassVar[str] = "natural"
    needs_teacher: ClassVar[bool] = False
    wants_robust_teacher: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True

    smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_value("method.smoothing", self.smoothing, "a number from 0 to below 1", lambda v: 0 <= v < 1)
        check_fields(self)

    def terms(
        self, student: nn.Module, teacher: None, x: Images, y: Labels, *, epoch: int, noise: Noise
    ) -> dict[str, Tensor]:
        """Per-example terms, (B,) each."""
        return {"clean": ce(student(x), y, self.smoothing)}
