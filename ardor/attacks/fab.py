"""FAB (Croce and Hein, ICML 2020): minimum-norm search along the decision boundary.

At x_k the boundary to class t is linearised:  z_t - z_y + <w, v - x_k> = 0,  w the gradient of z_t - z_y.
d1, d2 = the shortest vectors in the box from x_k and from x to that plane, or to the vertex where it is out of reach
alpha  = min(|d1| / (|d1| + |d2|), alpha_max)
x_k+1  = clip((x_k + eta d1) (1 - alpha) + (x + eta d2) alpha), replaced by x + beta (x_k+1 - x) where misclassified
The steps ignore eps: a success is the first iterate that is misclassified and within eps. The original continues and
returns the nearest: the same verdicts, for more passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ardor.attacks.rounds import Rows, fooled, in_rounds, rival
from ardor.attacks.threat import L2, Linf, gradient, length, require_at_least, require_norm
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Attack, Images, Labels, Net, PerExample

BLOCK = 2**17  # image values projected at once on a CPU: 512 KiB in float32


@dataclass(frozen=True)
class FAB:
    """Fast Adaptive Boundary attack; any iterate within `threat` counts as a success.

    Parameters
    ----------
    threat
        The ball around x.
    steps
        Number of steps toward the boundary.
    targets
        Number of target classes, one round each; 0 takes at each step the class whose plane is nearest, at the cost of
        every class's gradient.
    restarts
        Rounds for each class; all but the first start at distance eps / 2.
    alpha
        Largest weight of the step from x, in [0, 1].
    eta
        Overshoot beyond the boundary, at least 1.
    beta
        Factor on x_k - x after a misclassified iterate, in (0, 1].
    """

    threat: Linf | L2 = Linf(8 / 255)
    steps: int = 100
    targets: int = 9
    restarts: int = 1
    alpha: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        require_norm(self.threat)
        check_fields(self, ThreatError)
        require_at_least(1, steps=self.steps, restarts=self.restarts)
        require_at_least(0, targets=self.targets)
        if not (0 <= self.alpha <= 1 <= self.eta and 0 < self.beta <= 1):
            raise ThreatError(
                f"expected alpha in [0, 1], eta at least 1 and beta in (0, 1], got {self.alpha:g}, {self.eta:g} and "
                f"{self.beta:g}: type for example alpha=0.1, eta=1.05, beta=0.9"
            )

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """The first success of each image (B, C, H, W), else the image itself."""
        return in_rounds(self, net, x, y, noise)

    def rounds(self, classes: int) -> list[Attack]:
        """One round for each target class and restart; the first of each class starts at the image."""
        fit = self.fitted(classes)
        ranks = range(1, fit.targets + 1) if fit.targets else (0,)
        starts = ["none", *["surface"] * (fit.restarts - 1)]
        return [partial(fit._round, rank=rank, start=start) for rank in ranks for start in starts]

    def fitted(self, classes: int) -> FAB:
        """The attack for this many classes: at most one target each."""
        return replace(self, targets=min(self.targets, classes - 1))

    def cost(self, classes: int) -> int:
        """Forward and backward passes of a robust image."""
        gradients = 1 if self.targets else classes - 1
        return len(self.rounds(classes)) * self.steps * (2 + gradients)

    @torch.no_grad()
    def _round(self, net: Net, x: Images, y: Labels, noise: Noise, *, rank: int, start: str) -> Images:
        """One round: toward the wrong class ranked `rank`, or toward the nearest."""
        x, shape = x.detach(), x.shape[1:]
        x_k = replace(self.threat, eps=self.threat.eps / 2).start(x, start, noise)
        others = rival(net, x, y, rank)[:, None] if rank else _others(net, x, y)
        search = _Search(x.flatten(1), x_k.flatten(1), y, others)
        rows, x_adv = torch.arange(len(x), device=x.device), x.clone()
        for _ in range(self.steps):
            z = self._step(search, *self._plane(net, search, shape))
            wrong, won = self._successes(net, search, z.unflatten(1, shape))
            factor = torch.ones_like(z[:, :1]).masked_fill_(wrong[:, None], self.beta)
            search.x_k = torch.lerp(search.x, z, factor)
            if bool(won.any()):
                x_adv[rows[won]] = z[won].unflatten(1, shape)
                search, rows = search[~won], rows[~won]
            if not len(rows):
                break
        return x_adv

    @torch.enable_grad()
    def _plane(self, net: Net, search: _Search, shape: torch.Size) -> tuple[PerExample, Tensor]:
        """z_t - z_y at x_k and its gradient w (B, n), for the class t of `search.others` whose plane is nearest."""
        x_k = search.x_k.unflatten(1, shape).requires_grad_()
        logits = net(x_k)
        margins = (logits.gather(1, search.others) - logits.gather(1, search.y[:, None])).unbind(1)
        grads = (gradient(m, x_k, retain_graph=m is not margins[-1]).flatten(1) for m in margins)
        margin, w = margins[0], next(grads)
        for m, grad in zip(margins[1:], grads, strict=True):
            closer = self._distance(m, grad) < self._distance(margin, w)
            margin, w = torch.where(closer, m, margin), torch.where(closer[:, None], grad, w)
        return margin.detach(), w

    def _distance(self, margin: PerExample, w: Tensor) -> PerExample:
        """Distance of a plane without the box: |z_t - z_y| over the dual norm of its gradient."""
        return margin.abs() / ((w.abs().sum(1) if isinstance(self.threat, Linf) else length(w)) + 1e-12)

    def _step(self, search: _Search, margin: PerExample, w: Tensor) -> Tensor:
        """x_{k+1}, in blocks of rows: larger buffers are returned to the system and faulted in again each time."""
        rows = max(BLOCK // w.shape[1], 1) if w.device.type == "cpu" else len(w)
        blocks = zip(*(v.split(rows) for v in (search.x, search.x_k, margin, w)), strict=True)
        return torch.cat([self._combined(*block) for block in blocks])

    def _combined(self, x: Tensor, x_k: Tensor, margin: PerExample, w: Tensor) -> Tensor:
        """The convex combination of the projections of x_k and of x, each with the overshoot eta."""
        d1 = project(self.threat, x_k, w, margin)
        d2 = project(self.threat, x, w, margin + (w * (x - x_k)).sum(1))
        a1, a2 = (_size(self.threat, d).clamp(min=1e-8) for d in (d1, d2))
        alpha = (a1 / (a1 + a2)).clamp(max=self.alpha)[:, None]
        return torch.lerp(x_k + self.eta * d1, x + self.eta * d2, alpha).clamp_(0, 1)

    def _successes(self, net: Net, search: _Search, z: Images) -> tuple[Tensor, Tensor]:
        """(B,) bool: which of z are misclassified, and which of those are within eps."""
        logits = net(z)
        wrong = logits.argmax(1) != search.y
        won = wrong & (self.threat.distance(z.flatten(1), search.x) <= self.threat.eps)
        rows = won.nonzero().squeeze(1)
        if len(rows):
            won[rows] = fooled(net, z[rows], search.y[rows], logits[rows])
        return wrong, won


@dataclass
class _Search(Rows):
    """State of a round, one row per image; images are (B, n)."""

    x: Tensor
    x_k: Tensor
    y: Labels
    others: Tensor


def project(threat: Linf | L2, x: Tensor, w: Tensor, c: PerExample) -> Tensor:
    """The shortest d with <w, d> = -c and x + d in [0, 1]^n, or to the vertex where no d reaches: x, w (B, n), c (B,).

    d = g min(lambda, until): each coordinate moves at its rate g, sign(w) or w toward the plane, until its bound.
    The distance covered, sum w g min(lambda, until), is concave and piecewise linear in lambda, so Newton's method
    converges monotonically in a few iterations without a sort. It depends only on which coordinates still move, so a
    converged row stays as it is. The original for L2 takes |w_i| < 1e-8 as 0, and leaves the box where the plane just
    touches the vertex.
    """
    tiny = torch.finfo(w.dtype).tiny
    toward = w * -c.sign()[:, None]
    sign = toward.sign()
    room = (sign.clamp(min=0) - x).abs()
    g, until = (sign, room) if isinstance(threat, Linf) else (toward, room / toward.abs().clamp(min=tiny))
    gain = toward * g
    full, reach = gain * until, c.abs()
    lam, moves = torch.zeros_like(reach), torch.empty_like(w)
    while True:
        torch.gt(until, lam[:, None], out=moves)  # as 0 and 1: torch is many times slower on a mask of bool
        stopped = torch.addcmul(full, full, moves, value=-1).sum(1)
        longer = (reach - stopped) / (gain * moves).sum(1).clamp(min=tiny)
        if not bool((longer > lam).any()):
            return g * torch.minimum(lam[:, None], until)
        lam = torch.maximum(longer, lam)  # near the vertex it would oscillate by rounding


def _size(threat: Linf | L2, d: Tensor) -> PerExample:
    """The norm of each row of (B, n)."""
    return d.abs().amax(1) if isinstance(threat, Linf) else length(d)


def _others(net: Net, x: Images, y: Labels) -> Tensor:
    """(B, classes - 1): the wrong classes of each image, in ascending order."""
    ranks = torch.arange(net(x[:1]).shape[1] - 1, device=y.device)
    return ranks + (ranks >= y[:, None])
