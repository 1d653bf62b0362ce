"""Square (Andriushchenko, Croce, Flammarion and Hein, ECCV 2020): black-box random search over square windows.

Query k proposes a change in one square of each image, accepted where max_{j != y} z_j - z_y rises. Its share of the
image is p_k = p / 2^(number of 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 that are below k), k from 0.

Linf  start: stripes x + eps s, s = +-1 per column and channel; proposal: x + eps s in the square, s per channel.
L2    start: 5 x 5 tiles of +-eta, of norm eps. Proposal for windows W1 and W2 of delta = x_adv - x, per channel:
      W1 <- v / ||v|| sqrt(||W1 and W2||^2 + max(eps^2 - ||delta||^2, 0) / C),  v = s eta + W1 / ||W1||,  W2 <- 0,
      then x_adv = clip(x + eps delta / ||delta||). eta: a pyramid above or beside the negative of one.

Differs from the official code: positions, signs and orientations are drawn per image, not per batch; and a tie that
is classified correctly is not a success.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ardor import losses
from ardor.attacks.rounds import Rows, fooled, in_rounds
from ardor.attacks.threat import L2, Linf, length, per_image, require_at_least, require_norm
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.storage.arguments import check_fields
from ardor.types import Attack, Images, Labels, Net, PerExample

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
BLOCK = 50  # queries per draw of random numbers: the cost of a draw is mostly per call


@dataclass(frozen=True)
class Square:
    """Square Attack on the logits of any callable; any query counts as a success.

    Parameters
    ----------
    threat
        The ball around x.
    queries
        Number of queries after the start.
    p
        Share of the image in the first squares, in (0, 1].
    restarts
        Number of rounds, each from a new start.
    """

    threat: Linf | L2 = Linf(8 / 255)
    queries: int = 5000
    p: float = 0.8
    restarts: int = 1

    def __post_init__(self) -> None:
        require_norm(self.threat)
        check_fields(self, ThreatError)
        require_at_least(1, queries=self.queries, restarts=self.restarts)
        if not 0 < self.p <= 1:
            raise ThreatError(f"expected p as a share of the image, in (0, 1], got {self.p}: type for example p=0.8")

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """Adversarial images (B, C, H, W) for (x, y): the first success of each, else where the margin was largest."""
        return in_rounds(self, net, x, y, noise)

    def rounds(self, classes: int = 0) -> list[Attack]:
        """One round for each restart."""
        return [self._round] * self.restarts

    def cost(self, classes: int = 0) -> int:
        """Forward passes of a robust image."""
        return self.restarts * (self.queries + 1)

    @torch.no_grad()
    def _round(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """One round."""
        x = x.detach().contiguous()
        x_adv = (_stripes if isinstance(self.threat, Linf) else _tiles)(x, self.threat.eps, noise)
        search = _Search.at(x, y, x_adv, noise).updated(net, x_adv, x_adv)
        for first, last in self._blocks():
            side = self._side(first, *x.shape[2:])
            proposal = self._proposal(x, side)
            search.draw(last - first, side)
            for k in range(last - first):
                if not len(search.rows):
                    return x_adv
                search = search.updated(net, proposal(search, k), x_adv)
        x_adv[search.rows] = search.best_x
        return x_adv

    def _proposal(self, x: Images, side: int) -> Callable[[_Search, int], Images]:
        """(search, k) -> the images of query k of a block. Windows are pixel indices, so a small one is cheap."""
        pixels = torch.arange(x[0].numel(), device=x.device).view_as(x[0])
        window = pixels[:, :side, :side].flatten()
        if isinstance(self.threat, Linf):
            return partial(_square, window=window, eps=self.threat.eps)
        return partial(_mass, window=window, eps=self.threat.eps, eta=_eta(side, x))

    def _side(self, k: int, h: int, w: int) -> int:
        """Side of query k's windows in pixels; in L2 odd and at least 3, if the image is large enough."""
        share = self.p * 0.5 ** bisect_left(HALVED_AFTER, k)
        side = max(round(math.sqrt(share * h * w)), 1)
        if isinstance(self.threat, L2):
            side = max(side, 3) | 1
        return min(side, h, w)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """Half-open ranges of queries, none across a halving, so that a block has one window size."""
        cuts = {*range(0, self.queries, BLOCK), *(k + 1 for k in HALVED_AFTER if k + 1 < self.queries), self.queries}
        return pairwise(sorted(cuts))


@dataclass
class _Search(Rows):
    """State of a round, one row per surviving image, with the random numbers of the current block."""

    rows: Tensor
    x: Images
    y: Labels
    noise: Noise
    best: PerExample
    best_x: Images
    corner: Tensor  # (B, queries, 2): flat index of the upper left pixel of two windows
    sign: Tensor  # (B, queries, C + 1) of -1 or 1: per channel, and the orientation of eta

    @staticmethod
    def at(x: Images, y: Labels, x_adv: Images, noise: Noise) -> _Search:
        """The state before the first query, without a block."""
        low = torch.full_like(y, -torch.inf, dtype=x.dtype)
        return _Search(torch.arange(len(x), device=x.device), x, y, noise, low, x_adv.clone(), y, y)

    def draw(self, queries: int, side: int) -> None:
        """Draw the next block; a window smaller than the image excludes its last row and column, as in the original."""
        c, h, w = self.x.shape[1:]
        down, across = max(h - side, 1), max(w - side, 1)
        place = self.noise.integers(down * across, (queries, 2))
        self.corner = place // across * w + place % across
        self.sign = _signs(self.noise, (queries, c + 1), self.x)

    def updated(self, net: Net, z: Images, x_adv: Images) -> _Search:
        """Query z: accept improvements, and move successes into x_adv and out of the search."""
        logits = net(z)
        won, margin = fooled(net, z, self.y, logits), losses.margin(logits, self.y)
        better = (margin > self.best) | won
        self.best = torch.where(better, margin, self.best)
        moved = better.nonzero().squeeze(1)  # few: torch.where over all images would cost more
        self.best_x[moved] = z[moved]
        if not bool(won.any()):
            return self
        x_adv[self.rows[won]] = z[won]
        return self[~won]


def _stripes(x: Images, eps: float, noise: Noise) -> Images:
    c, _, w = x.shape[1:]
    return (x + eps * _signs(noise, (c, 1, w), x)).clamp(0, 1)


def _square(search: _Search, k: int, window: Tensor, eps: float) -> Images:
    at = search.corner[:, k, :1] + window
    # from any point of the ball, the original's move by 2 eps and projection end on this face
    face = _take(search.x, at) + eps * search.sign[:, k, :-1, None]
    return _put(search.best_x.clone(), at, face.clamp(0, 1))


def _tiles(x: Images, eps: float, noise: Noise) -> Images:
    """As many tiles as fit; of one pixel in images smaller than 5."""
    c, h, w = x.shape[1:]
    side = max(min(h, w) // 5, 1)
    at = max(min(h, w) - 5 * side, 0) // 2
    down, across = (h - at) // side, (w - at) // side
    sign, turn = (_signs(noise, (n, down, across, 1, 1), x) for n in (c, 1))
    tiles = sign * torch.where(turn > 0, _eta(side, x).mT, _eta(side, x))
    delta = torch.zeros_like(x)
    delta[:, :, at:, at:][:, :, : down * side, : across * side] = tiles.transpose(3, 4).flatten(4).flatten(2, 3)
    return _at_length(eps, delta, x)


def _mass(search: _Search, k: int, window: Tensor, eps: float, eta: Tensor) -> Images:
    at_1, at_2 = (search.corner[:, k, i, None] + window for i in (0, 1))
    delta = search.best_x - search.x
    lost = (eps**2 - length(delta) ** 2).clamp(min=0) / delta.shape[1]  # by the clip
    w_1 = _take(delta, at_1)
    w_2 = _take(_put(delta, at_1, torch.zeros_like(w_1)), at_2)  # without the overlap of the windows
    mass = (w_1**2 + w_2**2).sum(2, keepdim=True) + lost[:, None, None]
    v = search.sign[:, k, :-1, None] * torch.where(search.sign[:, k, -1:, None] > 0, eta.mT.flatten(), eta.flatten())
    v = normalize(v + normalize(w_1, dim=2), dim=2) * mass.sqrt()
    return _at_length(eps, _put(_put(delta, at_2, torch.zeros_like(w_2)), at_1, v), search.x)


def _signs(noise: Noise, shape: tuple[int, ...], x: Images) -> Tensor:
    return noise.integers(2, shape).mul(2).sub(1).to(x.dtype)


def _take(images: Images, at: Tensor) -> Tensor:
    """The windows, (B, C, side side)."""
    return images.flatten(1).gather(1, at).view(len(images), images.shape[1], -1)


def _put(images: Images, at: Tensor, values: Tensor) -> Images:
    """Write windows in place: flattened contiguous images are a view."""
    return images.flatten(1).scatter_(1, at, values.flatten(1)).view_as(images)


def _at_length(eps: float, delta: Images, x: Images) -> Images:
    return torch.addcmul(x, delta, per_image(eps / (length(delta) + 1e-12), x)).clamp_(0, 1)


def _eta(side: int, like: Tensor) -> Tensor:
    """(side, side), of norm 1."""
    eta = torch.cat((_pyramid(side // 2, side), -_pyramid(side - side // 2, side)))
    return normalize(eta.flatten(), dim=0).view_as(eta).to(like)


def _pyramid(h: int, w: int) -> Tensor:
    """(h, w), of norm 1: rings around the centre, the one at distance d of height sum_{k=d}^{last} 1 / (k + 1)^2."""
    d = torch.maximum((torch.arange(h) - h // 2).abs()[:, None], (torch.arange(w) - w // 2).abs())
    steps = torch.arange(1, max(h, w) // 2 + 2, dtype=torch.float64) ** -2
    height = steps.flip(0).cumsum(0).flip(0)[d]
    return normalize(height.flatten(), dim=0).view_as(height)
