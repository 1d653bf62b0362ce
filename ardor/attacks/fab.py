"""FAB (Croce and Hein, ICML 2020): along the decision border, as near to the image as it will go.

At x_k the border to the class t is taken for the plane  z_t - z_y + <w, v - x_k> = 0,  w the gradient of z_t - z_y.
d1, d2 = the shortest ways in the box from x_k and from x to that plane, or to the vertex where it is out of reach
alpha  = min(|d1| / (|d1| + |d2|), alpha_max)
x_k+1  = clip((x_k + eta d1) (1 - alpha) + (x + eta d2) alpha), and where that is misclassified, on from
         x + beta (x_k+1 - x)
The steps ignore eps: a success is the first iterate that is misclassified and within it. The original goes on and
keeps the nearest: the same verdicts, for more passes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ardor.attacks.rounds import Rows, fooled, in_rounds, rival
from ardor.attacks.threat import L2, Linf, length, require_steps
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.types import Attack, Images, Labels, Net, PerExample

BLOCK = 2**17  # values of the images that are projected at once on a CPU: 512 KiB in float32


@dataclass(frozen=True)
class FAB:
    """Fast Adaptive Boundary attack; an image is broken by any iterate within `threat`, else it comes back as it was.

    Parameters
    ----------
    threat
        The ball around x.
    steps
        Number of steps toward the border.
    targets
        Number of wrong classes to go to, one round each; 0 goes at each step to the class whose plane is nearest, at
        the cost of every class's gradient.
    restarts
        Rounds for each class; all but the first start at eps / 2.
    alpha
        Largest share by which a step is drawn to x, in [0, 1].
    eta
        Overshoot beyond the border, at least 1.
    beta
        Share of the way from x that is kept after a success, in (0, 1].
    """

    threat: Linf | L2 = Linf(8 / 255)
    steps: int = 100
    targets: int = 9
    restarts: int = 1
    alpha: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        require_steps(self.steps)
        if not isinstance(self.threat, Linf | L2):
            raise ThreatError(f"expected Linf or L2 for FAB, got {self.threat!r}: type for example FAB(Linf(8 / 255))")
        if self.restarts < 1 or self.targets < 0:
            raise ThreatError(
                f"expected at least 1 restart and 0 targets, got {self.restarts} and {self.targets}: "
                "type for example restarts=1"
            )
        if not (0 <= self.alpha <= 1 <= self.eta and 0 < self.beta <= 1):
            raise ThreatError(
                f"expected alpha in [0, 1], eta at least 1 and beta in (0, 1], got {self.alpha:g}, {self.eta:g} and "
                f"{self.beta:g}: type for example alpha=0.1, eta=1.05, beta=0.9"
            )

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """The first success of each image, else the image itself."""
        with torch.no_grad():
            classes = net(x[:1]).shape[1]
        return in_rounds(self.rounds(classes), net, x, y, noise)

    def rounds(self, classes: int) -> list[Attack]:
        """One walk for each target class and restart; the first of each starts at the image."""
        fit = self.fitted(classes)
        ranks = range(1, fit.targets + 1) if fit.targets else (0,)
        starts = ["none", *["surface"] * (fit.restarts - 1)]
        return [partial(fit._round, rank=rank, start=start) for rank in ranks for start in starts]

    def fitted(self, classes: int) -> FAB:
        """As far as this many classes allow: one target for each wrong class."""
        return replace(self, targets=min(self.targets, classes - 1))

    def cost(self, classes: int) -> int:
        """Forward passes, or backward ones, that an image costs which withstands everything."""
        gradients = 1 if self.targets else classes - 1
        return len(self.rounds(classes)) * self.steps * (2 + gradients)

    @torch.no_grad()
    def _round(self, net: Net, x: Images, y: Labels, noise: Noise, *, rank: int, start: str) -> Images:
        """One walk: toward the wrong class ranked `rank`, or toward the nearest."""
        x, shape = x.detach(), x.shape[1:]
        x_k = replace(self.threat, eps=self.threat.eps / 2).start(x, start, noise)
        others = rival(net, x, y, rank)[:, None] if rank else _others(net, x, y)
        walk = _Walk(x.flatten(1), x_k.flatten(1), y, others)
        rows, found = torch.arange(len(x), device=x.device), x.clone()
        for _ in range(self.steps):
            z = self._step(walk, *self._plane(net, walk, shape))
            wrong, won = self._judge(net, walk, z.unflatten(1, shape))
            kept = torch.ones_like(z[:, :1]).masked_fill_(wrong[:, None], self.beta)
            walk.x_k = torch.lerp(walk.x, z, kept)
            if bool(won.any()):
                found[rows[won]] = z[won].unflatten(1, shape)
                walk, rows = walk[~won], rows[~won]
            if not len(rows):
                break
        return found

    @torch.enable_grad()
    def _plane(self, net: Net, walk: _Walk, shape: torch.Size) -> tuple[PerExample, Tensor]:
        """z_t - z_y at x_k and its gradient w (B, n), for the class t of `walk.others` whose plane is nearest."""
        x_k = walk.x_k.unflatten(1, shape).requires_grad_()
        logits = net(x_k)
        margins = (logits.gather(1, walk.others) - logits.gather(1, walk.y[:, None])).unbind(1)
        grads = (torch.autograd.grad(m.sum(), x_k, retain_graph=m is not margins[-1])[0].flatten(1) for m in margins)
        margin, w = margins[0], next(grads)
        for m, grad in zip(margins[1:], grads, strict=True):
            closer = self._far(m, grad) < self._far(margin, w)
            margin, w = torch.where(closer, m, margin), torch.where(closer[:, None], grad, w)
        return margin.detach(), w

    def _far(self, margin: PerExample, w: Tensor) -> PerExample:
        """How far a plane is where there is no box: |z_t - z_y| over the dual norm of its gradient."""
        return margin.abs() / ((w.abs().sum(1) if isinstance(self.threat, Linf) else length(w)) + 1e-12)

    def _step(self, walk: _Walk, margin: PerExample, w: Tensor) -> Tensor:
        """The next points, a block of rows at a time: larger buffers go back to the system and are faulted in again."""
        rows = max(BLOCK // w.shape[1], 1) if w.device.type == "cpu" else len(w)
        blocks = zip(*(v.split(rows) for v in (walk.x, walk.x_k, margin, w)), strict=True)
        return torch.cat([self._between(*block) for block in blocks])

    def _between(self, x: Tensor, x_k: Tensor, margin: PerExample, w: Tensor) -> Tensor:
        """A little beyond the plane's nearest point to x_k, drawn to its nearest point to x."""
        d1 = project(self.threat, x_k, w, margin)
        d2 = project(self.threat, x, w, margin + (w * (x - x_k)).sum(1))
        a1, a2 = (_size(self.threat, d).clamp(min=1e-8) for d in (d1, d2))
        alpha = (a1 / (a1 + a2)).clamp(max=self.alpha)[:, None]
        return torch.lerp(x_k + self.eta * d1, x + self.eta * d2, alpha).clamp_(0, 1)

    def _judge(self, net: Net, walk: _Walk, z: Images) -> tuple[Tensor, Tensor]:
        """(B,) bool: which of z are misclassified, and which of those are successes."""
        logits = net(z)
        wrong = logits.argmax(1) != walk.y
        won = wrong & (self.threat.distance(z.flatten(1), walk.x) <= self.threat.eps)
        rows = won.nonzero().squeeze(1)
        if len(rows):
            won[rows] = fooled(net, z[rows], walk.y[rows], logits[rows])
        return wrong, won


@dataclass
class _Walk(Rows):
    """What a round knows of each image; images are (B, n)."""

    x: Tensor
    x_k: Tensor
    y: Labels
    others: Tensor


def project(threat: Linf | L2, x: Tensor, w: Tensor, c: PerExample) -> Tensor:
    """The shortest d with <w, d> = -c and x + d in [0, 1]^n, or to the vertex where no d reaches: x, w (B, n), c (B,).

    d = g min(lambda, until): every value moves at its rate g, sign(w) or w toward the plane, until it meets its wall.
    What is reached, sum w g min(lambda, until), is concave and piecewise linear in lambda, so Newton's method rises
    to the end in a few passes and needs no sort. It only asks which values still move: a row that is done stays so.
    The original's for L2 takes |w_i| < 1e-8 for 0, and leaves the box where the plane just touches the vertex.
    """
    tiny = torch.finfo(w.dtype).tiny
    toward = w * -c.sign()[:, None]
    sign = toward.sign()
    room = (sign.clamp(min=0) - x).abs()
    g, until = (sign, room) if isinstance(threat, Linf) else (toward, room / toward.abs().clamp(min=tiny))
    gain = toward * g
    whole, reach = gain * until, c.abs()
    lam, moves = torch.zeros_like(reach), torch.empty_like(w)
    while True:
        torch.gt(until, lam[:, None], out=moves)  # as 0 and 1: torch is many times slower on a mask of bool
        stopped = torch.addcmul(whole, whole, moves, value=-1).sum(1)
        longer = (reach - stopped) / (gain * moves).sum(1).clamp(min=tiny)
        if not bool((longer > lam).any()):
            return g * torch.minimum(lam[:, None], until)
        lam = torch.maximum(longer, lam)  # near the vertex rounding would send it to and fro


def _size(threat: Linf | L2, d: Tensor) -> PerExample:
    """The norm of each row of (B, n)."""
    return d.abs().amax(1) if isinstance(threat, Linf) else length(d)


def _others(net: Net, x: Images, y: Labels) -> Tensor:
    """(B, classes - 1): the wrong classes of each image, in their order."""
    ranks = torch.arange(net(x[:1]).shape[1] - 1, device=y.device)
    return ranks + (ranks >= y[:, None])
