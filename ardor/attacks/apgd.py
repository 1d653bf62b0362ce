"""APGD (Croce and Hein, ICML 2020): projected ascent with momentum and an adaptive step size.

z       = P(x_k + step ascend g(x_k))
x_{k+1} = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1})), the first step without momentum
step    = 2 eps, halved at checkpoints 22, 41, 57, 70, 80, 87, 93 and 99 of 100 where too few steps rose, or where the
          step was not halved and the best loss has not improved since; the ascent then continues at the best point.
Loss: cross-entropy, or DLR = -(z_y - max_{j != y} z_j) / (z_1st - z_3rd), invariant to the scale of the logits, or
targeted, -(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2), at the wrong classes ranked first, second and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ardor import losses
from ardor.attacks.rounds import Rows, fooled, in_rounds, rival
from ardor.attacks.threat import Linf, gradient, per_image, require_at_least
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Attack, Images, Labels, Logits, Net, Objective, PerExample, Threat

MOMENTUM = 0.75
Oracle: TypeAlias = Callable[[Images, Tensor], tuple[PerExample, Tensor, Tensor]]
"""(x_adv, rows) -> the loss there (B,), its gradient (B, C, H, W), and a mask of the rows that continue."""


@dataclass(frozen=True)
class APGD:
    """Auto-PGD; any iterate counts as a success.

    Parameters
    ----------
    threat
        The ball around x.
    steps
        Number of ascent steps of a round.
    loss
        Loss of the untargeted rounds: ce, margin or dlr.
    targets
        Number of target classes, one round each, with the targeted DLR (`loss` is dlr then); 0 is untargeted.
    restarts
        Number of rounds for each class, each from a new start.
    rho
        Share of rising steps at or below which the step is halved.
    draws
        Gradients averaged at each point, for a randomised net.
    """

    threat: Threat = Linf(8 / 255)
    steps: int = 100
    loss: Literal["ce", "margin", "dlr"] = "ce"
    targets: int = 0
    restarts: int = 1
    rho: float = 0.75
    draws: int = 1

    def __post_init__(self) -> None:
        check_fields(self, ThreatError)
        require_at_least(1, steps=self.steps, restarts=self.restarts, draws=self.draws)
        require_at_least(0, targets=self.targets)
        if self.targets and self.loss == "ce":
            raise ThreatError("expected loss 'dlr' or 'margin' for a targeted APGD, got 'ce': type loss='dlr'")

    def maximise(self, objective: Objective, x: Images, noise: Noise) -> Images:
        """Ascend `objective`, (B, C, H, W) -> (B,): the images at which it was largest."""

        def oracle(z: Images, rows: Tensor) -> tuple[PerExample, Tensor, Tensor]:
            _, loss, grad = self._gradient(lambda v: (objective(v), v), z)
            return loss, grad, torch.ones_like(rows, dtype=torch.bool)

        return self._ascend(oracle, x.detach(), noise)

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """Adversarial images (B, C, H, W) for (x, y): the first success of each, else where the loss was largest."""
        return in_rounds(self, net, x, y, noise)

    def rounds(self, classes: int) -> list[Attack]:
        """One round for each target class and restart."""
        fit = self.fitted(classes)
        ranks = range(1, fit.targets + 1) if fit.targets else (0,)
        return [partial(fit._round, rank=rank) for rank in ranks for _ in range(fit.restarts)]

    def fitted(self, classes: int) -> APGD:
        """The attack for this many classes: DLR needs 3, targeted 4, else the margin; at most one target each."""
        targets = min(self.targets, classes - 1)
        enough = classes >= (4 if targets else 3)
        return replace(self, targets=targets, loss=self.loss if enough or self.loss != "dlr" else "margin")

    def cost(self, classes: int) -> int:
        """Forward and backward passes of a robust image."""
        return len(self.rounds(classes)) * (self.steps + 1) * 2 * self.draws

    def _round(self, net: Net, x: Images, y: Labels, noise: Noise, *, rank: int) -> Images:
        """One round: untargeted, or toward the wrong class ranked `rank`."""
        x = x.detach()
        target = rival(net, x, y, rank) if rank else y
        broken, x_adv = torch.zeros_like(y, dtype=torch.bool), x.clone()

        def oracle(z: Images, rows: Tensor) -> tuple[PerExample, Tensor, Tensor]:
            logits, loss, grad = self._gradient(partial(self._loss, net, y[rows], target[rows]), z)
            won = fooled(net, z, y[rows], logits)
            broken[rows[won]], x_adv[rows[won]] = True, z[won]
            # on a randomised net a late success, at a larger loss, is likelier to be repeated than the first
            return loss, grad, ~won | (self.draws > 1)

        best = self._ascend(oracle, x, noise)
        return torch.where(per_image(broken, x), x_adv, best)

    def _loss(self, net: Net, y: Labels, target: Labels, z: Images) -> tuple[PerExample, Logits]:
        logits = net(z)
        if self.targets:
            return losses.TARGETED[self.loss](logits, y, target), logits
        return losses.BY_NAME[self.loss](logits, y), logits

    @torch.enable_grad()
    def _gradient(self, value: Callable[[Images], tuple[PerExample, Tensor]], z: Images) -> tuple[Tensor, ...]:
        """For `value` z -> (loss, auxiliary): the auxiliary, the loss, and its gradient at z, averaged over draws."""
        z = z.detach().requires_grad_()
        grads = []
        for _ in range(self.draws):
            loss, auxiliary = value(z)
            grads.append(gradient(loss, z))
        return auxiliary.detach(), loss.detach(), torch.stack(grads).mean(0) if self.draws > 1 else grads[0]

    def _ascend(self, oracle: Oracle, x: Images, noise: Noise) -> Images:
        """The points of largest loss, up to the step at which the oracle's mask dropped the image."""
        rows, best = torch.arange(len(x), device=x.device), x.clone()
        a = _Ascent.at(self.threat.start(x, "surface", noise).clamp(0, 1), x, 2 * self.threat.eps)
        ends = _checkpoints(self.steps)
        since = 0
        for k in range(self.steps + 1):
            loss, a.grad, keep = oracle(a.x_adv, rows)
            a.record(loss, first=k == 0)
            if k in ends:
                a.halve(self.rho * (k - since))
                since = k
            best[rows] = a.best_x
            if not bool(keep.all()):
                a, rows = a[keep], rows[keep]
                if not len(rows):
                    break
            if k < self.steps:
                a.move(self.threat, 1.0 if k == 0 else MOMENTUM)
        return best


@dataclass
class _Ascent(Rows):
    """State of a round, one row per image."""

    x: Images
    x_adv: Images
    x_old: Images
    grad: Tensor
    best: PerExample
    best_x: Images
    best_grad: Tensor
    best_then: PerExample
    halved: Tensor
    step: PerExample
    last: PerExample
    rises: Tensor

    @staticmethod
    def at(x_adv: Images, x: Images, step: float) -> _Ascent:
        """The state before the first gradient."""
        zero = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        low, one = torch.full_like(zero, -torch.inf), torch.ones_like(zero, dtype=torch.bool)
        none = torch.zeros_like(x)
        return _Ascent(x, x_adv, x_adv, none, low, x_adv, none, low, one, zero + step, zero, zero.clone())

    def record(self, loss: PerExample, first: bool) -> None:
        """Update the best point, and count rises of the loss, the first of them above 0 as in the original."""
        better = loss > self.best
        self.best = torch.where(better, loss, self.best)
        self.best_x = torch.where(per_image(better, self.x), self.x_adv, self.best_x)
        self.best_grad = torch.where(per_image(better, self.x), self.grad, self.best_grad)
        if first:
            self.best_then = self.best
        else:
            self.rises, self.last = self.rises + (loss > self.last), loss

    def halve(self, enough: float) -> None:
        """At a checkpoint: halve the step where at most `enough` steps rose, and continue at the best point.

        As in the original the previous iterate stays, from which the next momentum is taken.
        """
        stuck = (self.rises <= enough) | (~self.halved & (self.best_then >= self.best))
        wide = per_image(stuck, self.x)
        self.step = torch.where(stuck, self.step / 2, self.step)
        self.x_adv = torch.where(wide, self.best_x, self.x_adv)
        self.grad = torch.where(wide, self.best_grad, self.grad)
        self.halved, self.best_then, self.rises = stuck, self.best, torch.zeros_like(self.rises)

    def move(self, threat: Threat, a: float) -> None:
        """One step with momentum, projected before and after."""
        z = threat.project(threat.ascend(self.x_adv, self.grad, self.step), self.x)
        mixed = self.x_adv + (z - self.x_adv) * a + (self.x_adv - self.x_old) * (1 - a)
        self.x_old, self.x_adv = self.x_adv, threat.project(mixed, self.x)


def _checkpoints(steps: int) -> set[int]:
    """The steps after which the step size is adapted: intervals of 0.22, then 0.03 less each time, at least 0.06."""
    interval, shrink, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    at, ends = 0, set()
    while at + interval <= steps:
        at += interval
        ends.add(at)
        interval = max(interval - shrink, least)
    return ends
