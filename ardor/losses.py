"""Losses, per example: every function returns shape (B,). The caller writes .mean(), so no reduction is hidden."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ardor.errors import ModelError


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy: (B, C), (B,) -> (B,)."""
    return F.cross_entropy(logits, y, reduction="none")


def kl(target_logits: Tensor, logits: Tensor, t: float = 1) -> Tensor:
    """KL(P || Q) = sum_c P_c log(P_c / Q_c) with P = softmax(target_logits / t), Q = softmax(logits / t): -> (B,).

    Summed over classes. Both sides are logits and both keep their gradient: detach the target where the formula does.
    """
    log_p = F.log_softmax(target_logits / t, 1)
    log_q = F.log_softmax(logits / t, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """max_{j != y} z_j - z_y: positive where the image is misclassified (Carlini and Wagner, S&P 2017): -> (B,)."""
    true = logits.gather(1, y[:, None]).squeeze(1)
    return _without(logits, y).amax(1) - true


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio, -(z_y - max_{j != y} z_j) / (z_1st - z_3rd + 1e-12) (Croce and Hein, ICML 2020).

    -> (B,). The denominator keeps its gradient. Raises ModelError with fewer than 3 classes.
    """
    if logits.shape[1] < 3:
        raise ModelError(f"the DLR loss expected at least 3 classes, got {logits.shape[1]}: use loss='margin'")
    top = logits.topk(3, 1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def margin_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """z_t - z_y: positive where the target is ahead of the true class: -> (B,)."""
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


def _without(logits: Tensor, y: Tensor) -> Tensor:
    """The logits with the true class at minus infinity."""
    true = F.one_hot(y, logits.shape[1]).bool()
    return logits.masked_fill(true, -torch.inf)


BY_NAME = {"ce": ce, "margin": margin, "dlr": dlr}
"""The losses of an evaluation attack, by the name in its `loss` field."""

TARGETED = {"margin": margin_targeted, "dlr": dlr_targeted}
"""Their targeted forms, (logits, y, target) -> (B,)."""
