"""How large a bench is: smoke to see that all runs, small for a machine without a GPU, full for the papers' figures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from ardor import models
from ardor.engine.flops import macs
from ardor.errors import ModelError

MOST_MACS = 2_000_000
"""What a net of the scales smoke and small may cost per image."""


@dataclass(frozen=True)
class Scale:
    """epochs: 0 is the recipe's own. train, judged, attacked: images to learn from, for the suite `paper` and for
    AutoAttack; 0 is all. last: AutoAttack on the last checkpoint too. widest: the teacher; 0 is the papers' nets.
    last_word: AutoAttack, or in a smoke test the short suite in its place.
    """

    name: str
    epochs: int
    train: int
    judged: int
    attacked: int
    last: bool
    widest: int
    last_word: str = "autoattack"


SCALES = {
    "smoke": Scale("smoke", epochs=3, train=512, judged=64, attacked=16, last=False, widest=8, last_word="apgd"),
    "small": Scale("small", epochs=8, train=10_000, judged=2_000, attacked=200, last=False, widest=32),
    "full": Scale("full", epochs=0, train=0, judged=0, attacked=0, last=True, widest=0),
}


@dataclass(frozen=True)
class Nets:
    """The words, without their key, of each net of a bench: `small_cnn width=8` is (small_cnn, {width: 8})."""

    teacher: tuple[str, dict[str, float]]
    students: dict[str, tuple[str, dict[str, float]]]
    surrogate: tuple[str, dict[str, float]]


@cache
def nets_for(scale: Scale, shape: tuple[int, int, int]) -> Nets:
    """Small nets in the roles of the papers': a teacher as large as the scale allows, students of a quarter its width.

    ResNet-18 and the transfer's ResNet-50 become small CNNs, MobileNetV2 a narrow one. Raises ModelError where even the
    narrowest is too large for images of `shape` (C, H, W).
    """
    wide = int(_largest("small_cnn", range(scale.widest, 3, -1), shape))
    student = max(4, wide // 4)
    narrow = _largest("mobilenet_v2", (0.25, 0.125, 0.1, 0.05), shape)
    return Nets(
        teacher=("small_cnn", {"width": wide}),
        students={"resnet18": ("small_cnn", {"width": student}), "mobilenet_v2": ("mobilenet_v2", {"width": narrow})},
        surrogate=("small_cnn", {"width": (wide + student) // 2}),  # no student's size, or it would be one of them
    )


def _largest(name: str, widths: Iterable[float], shape: tuple[int, int, int]) -> float:
    widths = list(widths)
    for width in widths:
        if macs(models.build(name, channels=shape[0], width=width), shape) <= MOST_MACS:
            return width
    raise ModelError(
        f"expected images small enough for nets of at most {MOST_MACS / 1e6:g} MMAC, got {shape}: at width "
        f"{widths[-1]:g} a {name} costs more; type --scale full"
    )
