"""Feature alignment: logits with their features in one pass, and the projector between two feature widths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ardor.engine.modes import attack_view
from ardor.errors import ModelError
from ardor.losses import covariance
from ardor.noise import seeded


def forward(net: Any, x: Tensor, with_features: bool) -> tuple[Any, Any]:
    """Logits (B, C), and the features (B, d) they are computed from or None, in one pass."""
    if not with_features:
        return net(x), None
    h = net.features(x)
    return net.head(h), h


class Projector(nn.Module):
    """W: (d_T, d_S), semi-orthogonal throughout training, times max(1, sqrt(d_T / d_S)).

    It preserves the variance exactly where d_T >= d_S, and on average where the teacher is narrower.
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
        """The projector for a pair of nets, by their features of x (B, C, H, W); None at equal widths.

        Raises
        ------
        ModelError
            For nets without `features` and `head`, features that are not (B, d), or constant teacher features.
        """
        for who, net in (("student", student), ("teacher", teacher)):
            if not (hasattr(net, "features") and hasattr(net, "head")):
                raise ModelError(
                    f"the terms on features expected `features` and `head` on the {who}, got {type(net).__name__} "
                    "without them: add both, or type --method.lc 0 --method.gram scores"
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
