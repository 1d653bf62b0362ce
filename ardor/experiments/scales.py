"""The size of a bench: smoke to test that all runs, small for a machine without a GPU, full for the papers' figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from ardor import models
from ardor.engine.flops import macs
from ardor.errors import ModelError

MAX_MACS = 2_000_000
"""Per image, of a net at the scales smoke and small."""


@dataclass(frozen=True)
class Scale:
    """The sizes of a bench; 0 is no limit, and the recipe's own number of epochs.

    Parameters
    ----------
    train : number of train images.
    limit : number of test images for the suite `paper`, transfer and the variance gap.
    attack : the strong suite: AutoAttack, or in a smoke test a shorter one.
    attack_limit : number of test images for it and for Square.
    width : of the teacher at most; 0 for the papers' nets.
    """

    name: str
    epochs: int
    train: int
    limit: int
    attack_limit: int
    width: int
    attack: str = "autoattack"

    @property
    def full(self) -> bool:
        """Whether nets and recipes are the papers'."""
        return self.width == 0


SCALES = {
    "smoke": Scale("smoke", 3, train=512, limit=64, attack_limit=16, width=8, attack="apgd"),
    "small": Scale("small", 8, train=10_000, limit=2_000, attack_limit=200, width=32),
    "full": Scale("full", 0, train=0, limit=0, attack_limit=0, width=0),
}


Net: TypeAlias = tuple[str, dict[str, float]]
"""Name and options of a net."""


@cache
def nets_for(scale: Scale, shape: tuple[int, int, int]) -> dict[str, Net]:
    """Small nets by role: the teacher, and the papers' nets, whose places they take.

    The teacher is as wide as the scale allows, students are a quarter as wide. ResNet-18 and the transfer's ResNet-50
    become small CNNs, MobileNetV2 a narrow one.

    Raises
    ------
    ModelError
        Where even the narrowest costs more than MAX_MACS for images of `shape` (C, H, W).
    """
    wide = int(_widest("small_cnn", range(scale.width, 3, -1), shape))
    student = max(4, wide // 4)
    return {
        "teacher": ("small_cnn", {"width": wide}),
        "resnet18": ("small_cnn", {"width": student}),
        "mobilenet_v2": ("mobilenet_v2", {"width": _widest("mobilenet_v2", (0.25, 0.125, 0.1, 0.05), shape)}),
        "resnet50": ("small_cnn", {"width": (wide + student) // 2}),  # no student's size, or it would be one of them
    }


def _widest(name: str, widths: Iterable[float], shape: tuple[int, int, int]) -> float:
    for width in widths:
        if macs(models.build(name, channels=shape[0], width=width), shape) <= MAX_MACS:
            return width
    raise ModelError(
        f"expected images small enough for nets of at most {MAX_MACS / 1e6:g} MMAC, got {shape}: at width "
        f"{width:g} a {name} costs more; type --scale full"
    )
