"""Losses: per example (B,), without a hidden reduction, and two scalar batch statistics; logits are (B, C)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ardor.errors import ModelError


def ce(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy: (B, C), (B,) -> (B,), with the labels (1 - s) y + s / C, s the smoothing."""
    return F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)


def kl(target_logits: Tensor, logits: Tensor, t: float = 1) -> Tensor:
    """KL(P || Q) = sum_c P_c log(P_c / Q_c) with P = softmax(target_logits / t), Q = softmax(logits / t): -> (B,).

    Summed over classes. Both arguments are logits and keep their gradient: detach the target where the formula does.
    """
    log_p = F.log_softmax(target_logits / t, 1)
    log_q = F.log_softmax(logits / t, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def soft_ce(target: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy with probabilities as the label: (B, C), (B, C) -> (B,)."""
    return -(target * F.log_softmax(logits, 1)).sum(1)


def entropy(logits: Tensor) -> Tensor:
    """Shannon's entropy of softmax(logits), in nats: (B, C) -> (B,)."""
    log_p = F.log_softmax(logits, 1)
    return -(log_p.exp() * log_p).sum(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y: positive where the image is misclassified (Carlini and Wagner, S&P 2017): -> (B,)."""
    true = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(true, -torch.inf).amax(1) - logits.gather(1, y[:, None]).squeeze(1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, -(z_y - max_{j != y} z_j) / (z_1st - z_3rd + 1e-12) (Croce and Hein, ICML 2020).

    -> (B,). The denominator keeps its gradient. Raises ModelError with fewer than 3 classes.
    """
    if logits.shape[1] < 3:
        raise ModelError(f"the DLR loss expected at least 3 classes, got {logits.shape[1]}: use loss='margin'")
    top = logits.topk(3, 1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def margin_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """z_t - z_y: positive where the target class ranks above the true class: -> (B,)."""
    both = logits.gather(1, torch.stack((target, y), 1))
    return both[:, 0] - both[:, 1]


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2 + 1e-12) (Croce and Hein, ICML 2020): -> (B,).

    The denominator keeps its gradient. Raises ModelError with fewer than 4 classes.
    """
    if logits.shape[1] < 4:
        raise ModelError(f"the targeted DLR loss expected at least 4 classes, got {logits.shape[1]}: use the margin")
    top = logits.topk(4, 1).values
    return margin_targeted(logits, y, target) / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)


BY_NAME = {"ce": ce, "margin": margin, "dlr": dlr}
"""The losses of an evaluation attack, by the name in its `loss` field."""

TARGETED = {"margin": margin_targeted, "dlr": dlr_targeted}
"""The targeted losses by name, (logits, y, target) -> (B,)."""


def covariance(h: Tensor) -> Tensor:
    """Unbiased covariance (d, d) of features (B, d), B >= 2, in float32 or better."""
    with exact_float32(h):
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        centred = h - h.mean(0)
        return centred.T @ centred / (len(h) - 1)


def l_cov(h_s: Tensor, h_t: Tensor, h_t_clean: Tensor, w: Any = None) -> Tensor:
    """||W C_S W'/s - C_T/s||_F^2 / ||C_T(X)/s||_F^2 with s = trace C_T(X) / d_T: a scalar, 1 without student variance.

    The scale comes from the teacher alone: a loss normalised by the student would be invariant to its variance.

    Parameters
    ----------
    h_s
        Student features of the batch, (B, d_S).
    h_t
        Teacher features of the same batch, (B, d_T).
    h_t_clean
        Teacher features of the clean batch, (B, d_T).
    w
        Projector, (d_T, d_S); None where the widths are equal.

    Raises
    ------
    ModelError
        Without a projector between features of different widths.
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
    """||P_S P_S' - P_T P_T'||_F^2 / B^2 with P = softmax of the logits (B, C): a dimensionless scalar."""
    with exact_float32(logits):
        wide = torch.promote_types(logits.dtype, torch.float32)
        p_s, p_t = logits.to(wide).softmax(1), target_logits.to(wide).softmax(1)
        return ((p_s @ p_s.T - p_t @ p_t.T) ** 2).sum() / len(p_s) ** 2


def l_gram_features(h: Tensor, h_t: Tensor) -> Tensor:
    """||H_S H_S' - H_T H_T'||_F^2 / trace(H_T H_T')^2 of features (B, d_S) and (B, d_T): a dimensionless scalar."""
    with exact_float32(h):
        wide = torch.promote_types(h.dtype, torch.float32)
        h, h_t = h.to(wide), h_t.to(wide)
        gram_t = h_t @ h_t.T
        return ((h @ h.T - gram_t) ** 2).sum() / gram_t.trace() ** 2


@contextlib.contextmanager
def exact_float32(x: Tensor) -> Iterator[None]:
    """Autocast and TF32 off: a covariance suffers from cancellation."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(x.device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
