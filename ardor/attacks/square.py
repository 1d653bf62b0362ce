"""Square (Andriushchenko, Croce, Flammarion and Hein, ECCV 2020): random search with windows, without a gradient.

Query k tries one change of each image and keeps it where max_{j != y} z_j - z_y rises: of a square of the share p_k of
the image, p_k = p / 2^(how many of 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 are below k), k from 0.

Linf  from stripes x + eps s, s = +-1 for each column and channel, the square goes to x + eps s, s for each channel.
L2    from 5 x 5 tiles of +-eta, of length eps in all. Of two windows W1 and W2 of delta = x_adv - x, in each channel:
      W1 <- v / ||v|| sqrt(||W1 and W2||^2 + max(eps^2 - ||delta||^2, 0) / C),  v = s eta + W1 / ||W1||,  W2 <- 0,
      then x_adv = clip(x + eps delta / ||delta||). eta: a pyramid on top of or beside the negative of one.

Differs from the official code: positions, signs and orientations are drawn for each image, not once for the whole
batch; and a tie that the net still calls right is no success.
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
from ardor.attacks.rounds import Rows, fooled, in_rounds, per_image
from ardor.attacks.threat import L2, Linf, length
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.types import Attack, Images, Labels, Net, PerExample

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
BLOCK = 50  # queries whose random numbers are drawn at once: a draw costs by the call, hardly by the number


@dataclass(frozen=True)
class Square:
    """Square Attack, from the logits of any callable; an image is broken by any query.

    Parameters
    ----------
    threat
        The ball around x.
    queries
        Number of queries after the start.
    p
        Share of the image that the first squares change, in (0, 1].
    restarts
        Number of searches, each from another start.
    """

    threat: Linf | L2 = Linf(8 / 255)
    queries: int = 5000
    p: float = 0.8
    restarts: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.threat, Linf | L2):
            raise ThreatError(f"expected Linf or L2 for Square, got {self.threat!r}: type for example Linf(8 / 255)")
        if not 0 < self.p <= 1:
            raise ThreatError(f"expected p as a share of the image, in (0, 1], got {self.p}: type for example p=0.8")
        if min(self.queries, self.restarts) < 1:
            got = f"{self.queries} and {self.restarts}"
            raise ThreatError(f"expected at least 1 query and 1 restart, got {got}: type for example queries=5000")

    def __call__(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """Adversarial images for (x, y): the first success of each, else where the margin was largest."""
        return in_rounds(self.rounds(), net, x, y, noise)

    def rounds(self, classes: int = 0) -> list[Attack]:
        """One search for each restart, however many classes there are."""
        return [self._round] * self.restarts

    def cost(self, classes: int = 0) -> int:
        """Forward passes that an image costs which withstands everything."""
        return self.restarts * (self.queries + 1)

    @torch.no_grad()
    def _round(self, net: Net, x: Images, y: Labels, noise: Noise) -> Images:
        """One search."""
        x = x.detach().contiguous()
        x_adv = (_stripes if isinstance(self.threat, Linf) else _tiles)(x, self.threat.eps, noise)
        walk = _Walk.at(x, y, x_adv, noise).asked(net, x_adv, x_adv)
        for first, last in self._blocks():
            side = self._side(first, *x.shape[2:])
            query = self._query(x, side)
            walk.draw(last - first, side)
            for k in range(last - first):
                if not len(walk.rows):
                    return x_adv
                walk = walk.asked(net, query(walk, k), x_adv)
        x_adv[walk.rows] = walk.best_x
        return x_adv

    def _query(self, x: Images, side: int) -> Callable[[_Walk, int], Images]:
        """(walk, k) -> what query k of a block shows the net. Windows go by pixel numbers: each costs its own size."""
        pixels = torch.arange(x[0].numel(), device=x.device).view_as(x[0])
        window = pixels[:, :side, :side].flatten()
        if isinstance(self.threat, Linf):
            return partial(_square, window=window, eps=self.threat.eps)
        return partial(_mass, window=window, eps=self.threat.eps, eta=_eta(side, x))

    def _side(self, k: int, h: int, w: int) -> int:
        """The side of query k's windows in pixels; in L2 odd and at least 3, as far as the image allows."""
        share = self.p * 0.5 ** bisect_left(HALVED_AFTER, k)
        side = max(round(math.sqrt(share * h * w)), 1)
        if isinstance(self.threat, L2):
            side = max(side, 3) | 1
        return min(side, h, w)

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """From which query to before which: never across a halving, so that a block has one size of window."""
        cuts = {*range(0, self.queries, BLOCK), *(k + 1 for k in HALVED_AFTER if k + 1 < self.queries), self.queries}
        return pairwise(sorted(cuts))


@dataclass
class _Walk(Rows):
    """What a search knows of each image that still stands, and what the queries of this block try on it."""

    rows: Tensor
    x: Images
    y: Labels
    noise: Noise
    best: PerExample
    best_x: Images
    corner: Tensor  # (B, queries, 2): the upper left pixel of two windows, numbered row by row
    sign: Tensor  # (B, queries, C + 1) of -1 or 1: for each channel, and which way eta is turned

    @staticmethod
    def at(x: Images, y: Labels, x_adv: Images, noise: Noise) -> _Walk:
        """Before the first look; nothing is drawn yet."""
        low = torch.full_like(y, -torch.inf, dtype=x.dtype)
        return _Walk(torch.arange(len(x), device=x.device), x, y, noise, low, x_adv.clone(), y, y)

    def draw(self, queries: int, side: int) -> None:
        """What the next queries try; a smaller window never holds the last row and column, as in the original."""
        c, h, w = self.x.shape[1:]
        down, across = max(h - side, 1), max(w - side, 1)
        place = self.noise.integers(down * across, (queries, 2))
        self.corner = place // across * w + place % across
        self.sign = _signs(self.noise, (queries, c + 1), self.x)

    def asked(self, net: Net, z: Images, x_adv: Images) -> _Walk:
        """Show z to the net: keep what is better, and let go of the images that fool it, which x_adv then holds."""
        logits = net(z)
        won, margin = fooled(net, z, self.y, logits), losses.margin(logits, self.y)
        better = (margin > self.best) | won
        self.best = torch.where(better, margin, self.best)
        moved = better.nonzero().squeeze(1)  # few: torch.where over whole images would cost more
        self.best_x[moved] = z[moved]
        if not bool(won.any()):
            return self
        x_adv[self.rows[won]] = z[won]
        return self[~won]


def _stripes(x: Images, eps: float, noise: Noise) -> Images:
    c, _, w = x.shape[1:]
    return (x + eps * _signs(noise, (c, 1, w), x)).clamp(0, 1)


def _square(walk: _Walk, k: int, window: Tensor, eps: float) -> Images:
    here = walk.corner[:, k, :1] + window
    # wherever in the ball the square was, a move of 2 eps and the projection put it on the face
    face = _take(walk.x, here) + eps * walk.sign[:, k, :-1, None]
    return _put(walk.best_x.clone(), here, face.clamp(0, 1))


def _tiles(x: Images, eps: float, noise: Noise) -> Images:
    """As many tiles as fit; of one pixel where the image is smaller than 5."""
    c, h, w = x.shape[1:]
    side = max(min(h, w) // 5, 1)
    at = max(min(h, w) - 5 * side, 0) // 2
    down, across = (h - at) // side, (w - at) // side
    sign, turn = (_signs(noise, (n, down, across, 1, 1), x) for n in (c, 1))
    tiles = sign * torch.where(turn > 0, _eta(side, x).mT, _eta(side, x))
    delta = torch.zeros_like(x)
    delta[:, :, at:, at:][:, :, : down * side, : across * side] = tiles.transpose(3, 4).flatten(4).flatten(2, 3)
    return _at_length(eps, delta, x)


def _mass(walk: _Walk, k: int, window: Tensor, eps: float, eta: Tensor) -> Images:
    here, there = (walk.corner[:, k, i, None] + window for i in (0, 1))
    delta = walk.best_x - walk.x
    lost = (eps**2 - length(delta) ** 2).clamp(min=0) / delta.shape[1]  # to the box
    one = _take(delta, here)
    two = _take(_put(delta, here, torch.zeros_like(one)), there)  # without what the windows share
    mass = (one**2 + two**2).sum(2, keepdim=True) + lost[:, None, None]
    v = walk.sign[:, k, :-1, None] * torch.where(walk.sign[:, k, -1:, None] > 0, eta.mT.flatten(), eta.flatten())
    v = normalize(v + normalize(one, dim=2), dim=2) * mass.sqrt()
    return _at_length(eps, _put(_put(delta, there, torch.zeros_like(two)), here, v), walk.x)


def _signs(noise: Noise, shape: tuple[int, ...], x: Images) -> Tensor:
    return noise.integers(2, shape).mul(2).sub(1).to(x.dtype)


def _take(images: Images, here: Tensor) -> Tensor:
    """(B, C, side side)."""
    return images.flatten(1).gather(1, here).view(len(images), images.shape[1], -1)


def _put(images: Images, here: Tensor, values: Tensor) -> Images:
    """In place: flat images of contiguous ones are a view."""
    return images.flatten(1).scatter_(1, here, values.flatten(1)).view_as(images)


def _at_length(eps: float, delta: Images, x: Images) -> Images:
    return torch.addcmul(x, delta, per_image(eps / (length(delta) + 1e-12), x)).clamp_(0, 1)


def _eta(side: int, like: Tensor) -> Tensor:
    """(side, side), of length 1."""
    eta = torch.cat((_pyramid(side // 2, side), -_pyramid(side - side // 2, side)))
    return normalize(eta.flatten(), dim=0).view_as(eta).to(like)


def _pyramid(h: int, w: int) -> Tensor:
    """(h, w), of length 1: rings around the middle, the one at distance d of height sum_{k=d}^{last} 1 / (k + 1)^2."""
    d = torch.maximum((torch.arange(h) - h // 2).abs()[:, None], (torch.arange(w) - w // 2).abs())
    steps = torch.arange(1, max(h, w) // 2 + 2, dtype=torch.float64) ** -2
    height = steps.flip(0).cumsum(0).flip(0)[d]
    return normalize(height.flatten(), dim=0).view_as(height)
