"""Second-order statistics of features: the losses of variance-gap alignment and the variance gap as a diagnostic.

Dong, Koniusz, Chen and Ong, ECCV 2024. For an adversarially trained net, robust accuracy under a growing radius falls,
nearly linearly, as the variance of the features under attack departs from the clean one: V = trace C / d over the
whole set, gap(eps) = |V(X'_eps) - V(X)|. Far beyond the radius that a net was trained for the trend can bend, which
the signed gap shows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ardor.attacks import PGD
from ardor.data.split import Split
from ardor.errors import ModelError
from ardor.modes import attack_view
from ardor.noise import Noise, seeded
from ardor.threat import Linf

RADII = tuple(r / 255 for r in range(0, 18, 2))


def covariance(h: Tensor) -> Tensor:
    """Unbiased covariance (d, d) of features (B, d), B >= 2, in float32 or better."""
    with exact_float32(h):
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        centred = h - h.mean(0)
        return centred.T @ centred / (len(h) - 1)


def l_cov(h_s: Tensor, h_t: Tensor, h_t_clean: Tensor, w: Any = None) -> Tensor:
    """||W C_S W'/s - C_T/s||_F^2 / ||C_T(X)/s||_F^2 with s = trace C_T(X) / d_T: a scalar, 1 without student variance.

    h_s: (B, d_S) and h_t: (B, d_T), features of one batch; h_t_clean: (B, d_T), the teacher's on the clean batch, which
    alone sets the scale: divided by the student's own norm, the loss would lose the variance. w: (d_T, d_S) or None.
    """
    if w is None and h_s.shape[1] != h_t.shape[1]:
        raise ModelError(
            f"expected a projector between features of widths {h_s.shape[1]} and {h_t.shape[1]}, got none: "
            "call method.prepare(student, teacher, x) first, as the loop does"
        )
    c_s, c_t, c_clean = covariance(h_s), covariance(h_t), covariance(h_t_clean)
    s = c_clean.diagonal().mean().detach()
    with exact_float32(c_s):
        mapped = c_s if w is None else w.to(c_s.dtype) @ c_s @ w.to(c_s.dtype).T
        return ((mapped / s - c_t / s) ** 2).sum() / ((c_clean / s) ** 2).sum().detach()


def l_gram(logits: Tensor, target_logits: Tensor) -> Tensor:
    """||P_S P_S' - P_T P_T'||_F^2 / B^2 with P = softmax of the logits (B, C): a scalar, of no unit."""
    with exact_float32(logits):
        wide = torch.promote_types(logits.dtype, torch.float32)
        p_s, p_t = logits.to(wide).softmax(1), target_logits.to(wide).softmax(1)
        return ((p_s @ p_s.T - p_t @ p_t.T) ** 2).sum() / len(p_s) ** 2


def answer(net: Any, x: Tensor, features: float) -> tuple[Any, Any]:
    """Logits, and the features they come from where those are asked for (else None), by one pass."""
    h = net.features(x) if features else None
    return (net(x) if h is None else net.head(h)), h


class Projector(nn.Module):
    """W: (d_T, d_S), semi-orthogonal throughout training, times max(1, sqrt(d_T / d_S)).

    That keeps the variance V exactly where d_T >= d_S; a narrower teacher sees a projection, and V is kept on average.
    """

    def __init__(self, d_s: int, d_t: int, seed: int = 0) -> None:
        super().__init__()
        with seeded(seed):
            self.linear = nn.utils.parametrizations.orthogonal(nn.Linear(d_s, d_t, bias=False))
        self.gain = max(1.0, (d_t / d_s) ** 0.5)

    def forward(self) -> Tensor:
        """W itself: it maps covariances, not images."""
        w: Tensor = self.gain * self.linear.weight
        return w

    @staticmethod
    def between(student: Any, teacher: Any, x: Tensor, seed: int) -> Projector | None:
        """The projector that a pair of nets needs, None at equal widths. Raises ModelError where it cannot be had."""
        for who, net in (("student", student), ("teacher", teacher)):
            if not (hasattr(net, "features") and hasattr(net, "head")):
                raise ModelError(
                    f"the covariance term expected `features` and `head` on the {who}, got {type(net).__name__} "
                    "without them: add both, or turn the term off with --method.lc 0"
                )
        with attack_view(student) as net, torch.no_grad():
            h_s, h_t = net.features(x), teacher.features(x)
        if h_s.ndim != 2 or h_t.ndim != 2:
            raise ModelError(
                f"expected features of shape (B, d), got {tuple(h_s.shape)} from the student and {tuple(h_t.shape)} "
                "from the teacher: pool and flatten them"
            )
        if len(x) > 1 and not covariance(h_t).diagonal().mean() > 0:
            raise ModelError("expected a teacher whose features vary over a batch, got constants: check its weights")
        d_s, d_t = h_s.shape[1], h_t.shape[1]
        return None if d_s == d_t else Projector(d_s, d_t, seed).to(x.device, h_s.dtype)


@contextlib.contextmanager
def exact_float32(x: Tensor) -> Iterator[None]:
    """Autocast and TF32 off: a covariance is a difference of large numbers."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(x.device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


@dataclass(frozen=True)
class GapPoint:
    """One radius of the trend: robust accuracy beside the variance of the attacked features.

    variance: V(X'_eps); signed: V(X'_eps) - V(X); gap: its size; relative: signed / V(X); frobenius: ||C' - C||_F.
    """

    eps: float
    accuracy: float
    variance: float
    signed: float
    relative: float
    frobenius: float

    @property
    def gap(self) -> float:
        """|V(X'_eps) - V(X)|."""
        return abs(self.signed)


def variance_gap(
    net: Any, data: Split, radii: tuple[float, ...] = RADII, *, steps: int = 20, batch: int = 256, seed: int = 0
) -> list[GapPoint]:
    """Robust accuracy and variance gap of `net` on `data` over Linf `radii`: PGD on cross-entropy, step eps / 4.

    radii are on the [0, 1] scale; 0 (the clean images) is measured whether named or not.
    """
    clean_c = None
    points = []
    for eps in sorted({0.0, *radii}):
        attack = PGD(Linf(eps), steps=steps) if eps else None
        c, accuracy = _attacked_covariance(net, data, attack, batch, seed)
        clean_c = c if clean_c is None else clean_c
        v, v0 = float(c.diagonal().mean()), float(clean_c.diagonal().mean())
        if not v0 > 0:
            raise ModelError("expected features that vary over the images, got constants: check the net's weights")
        points.append(GapPoint(eps, accuracy, v, v - v0, (v - v0) / v0, float((c - clean_c).norm())))
    return points


def _attacked_covariance(net: Any, data: Split, attack: PGD | None, batch: int, seed: int) -> tuple[Tensor, float]:
    features, correct = [], 0
    device = next(net.parameters()).device
    with attack_view(net) as view:
        for rows in torch.arange(len(data)).split(batch):
            x, y, index = (v.to(device) for v in data.batch(rows))
            if attack is not None:
                x = attack(view, x, y, Noise(seed, index, "variance_gap"))
            with torch.no_grad():
                h = view.features(x)
                correct += int((view.head(h).argmax(1) == y).sum())
            features.append(h.double().cpu())
    return covariance(torch.cat(features)), correct / len(data)


def pearson(points: list[GapPoint]) -> float:
    """Pearson's r between gap and robust accuracy over the radii, eps = 0 included; NaN where either is constant."""
    table = torch.tensor([[p.gap, p.accuracy] for p in points], dtype=torch.float64)
    return float(torch.corrcoef(table.T)[0, 1])
