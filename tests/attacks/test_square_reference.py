"""Square against a slow version, image by image, and the official code with the same random numbers."""

import math
from collections import Counter

import pytest
import torch

from ardor.attacks.square import BLOCK, HALVED_AFTER, Square, _eta, _pyramid
from ardor.attacks.threat import L2, Linf
from ardor.noise import Noise
from tests.attacks.conftest import SHAPES, Watched, by_hand_eta, by_hand_margin, images

# The slow version: one image, plain loops, slices


def by_hand_p(k):
    halvings = 0
    for after in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        halvings += k > after
    return 0.8 / 2**halvings


def by_hand_side(threat, k, h, w):
    side = round(math.sqrt(by_hand_p(k) * h * w))
    if isinstance(threat, Linf):
        return min(max(side, 1), h, w)
    side = max(side, 3)
    return min(side + 1 if side % 2 == 0 else side, h, w)


class Draws:
    """The random numbers of one image, drawn in the order and in the blocks in which the attack draws them."""

    def __init__(self, noise, queries, threat, shape):
        c, h, w = shape
        self.c, self.noise = c, noise
        if isinstance(threat, Linf):
            self.start = (noise.integers(2, (c, 1, w))[0] * 2 - 1).double()
        else:
            side = max(min(h, w) // 5, 1)
            self.at = max(min(h, w) - 5 * side, 0) // 2
            tiles = ((h - self.at) // side, (w - self.at) // side)
            self.tile = side
            self.tile_sign = noise.integers(2, (c, *tiles, 1, 1))[0, :, :, :, 0, 0] * 2 - 1
            self.tile_turn = noise.integers(2, (1, *tiles, 1, 1))[0, 0, :, :, 0, 0] == 1
        self.corners, self.signs, self.turned = [], [], []
        first = 0
        while first < queries:
            last = first + 1
            while last < queries and last % BLOCK and last - 1 not in HALVED_AFTER:
                last += 1
            side = by_hand_side(threat, first, h, w)
            down, across = max(h - side, 1), max(w - side, 1)
            place = noise.integers(down * across, (last - first, 2))[0].tolist()
            sign = noise.integers(2, (last - first, c + 1))[0].tolist()
            self.corners += [[(v // across, v % across) for v in two] for two in place]
            self.signs += [[2 * s - 1 for s in row[:c]] for row in sign]
            self.turned += [row[c] == 1 for row in sign]
            first = last


def by_hand_start(threat, x, draws):
    if isinstance(threat, Linf):
        return torch.minimum(torch.maximum(x + threat.eps * draws.start, torch.zeros_like(x)), torch.ones_like(x))
    delta, s = torch.zeros_like(x), draws.tile
    for i in range(draws.tile_turn.shape[0]):
        for j in range(draws.tile_turn.shape[1]):
            eta = by_hand_eta(s, bool(draws.tile_turn[i, j]))
            top, left = draws.at + i * s, draws.at + j * s
            for channel in range(len(x)):
                delta[channel, top : top + s, left : left + s] = eta * draws.tile_sign[channel, i, j]
    return by_hand_renormalised(threat, x, delta)


def by_hand_renormalised(threat, x, delta):
    return (x + threat.eps * delta / (delta.pow(2).sum().sqrt() + 1e-12)).clamp(0, 1)


def by_hand_query(threat, x, best_x, draws, k):
    c, h, w = x.shape
    s = by_hand_side(threat, k, h, w)
    (r1, c1), (r2, c2) = draws.corners[k]
    if isinstance(threat, Linf):
        z = best_x.clone()
        low, high = (x - threat.eps).clamp(min=0), (x + threat.eps).clamp(max=1)
        for channel, sign in enumerate(draws.signs[k]):
            end = high if sign > 0 else low
            z[channel, r1 : r1 + s, c1 : c1 + s] = end[channel, r1 : r1 + s, c1 : c1 + s]
        return z
    delta = best_x - x
    union = torch.zeros(h, w, dtype=torch.bool)
    union[r1 : r1 + s, c1 : c1 + s] = True
    union[r2 : r2 + s, c2 : c2 + s] = True
    spare = max(threat.eps**2 - float(delta.pow(2).sum()), 0)
    new = []
    for channel, sign in enumerate(draws.signs[k]):
        old = delta[channel, r1 : r1 + s, c1 : c1 + s]
        v = by_hand_eta(s, draws.turned[k]) * sign + by_hand_unit(old)
        mass = delta[channel][union].pow(2).sum() + spare / c
        new.append(by_hand_unit(v) * mass.sqrt())
    delta[:, r2 : r2 + s, c2 : c2 + s] = 0
    for channel in range(c):
        delta[channel, r1 : r1 + s, c1 : c1 + s] = new[channel]
    return by_hand_renormalised(threat, x, delta)


def by_hand_unit(v):
    return v / max(float(v.pow(2).sum().sqrt()), 1e-12)


def by_hand_square(net, x, y, noise, threat, queries):
    """One image, all that the net is shown, and what comes out."""
    draws = Draws(noise, queries, threat, x.shape)
    best, best_x, inputs = -math.inf, x, []
    for k in range(-1, queries):
        z = by_hand_start(threat, x, draws) if k < 0 else by_hand_query(threat, x, best_x, draws, k)
        inputs.append(z)
        logits = net(z[None])[0]
        if int(logits.argmax()) != y:
            return z, inputs
        if by_hand_margin(logits, y) > best:
            best, best_x = by_hand_margin(logits, y), z
    return best_x, inputs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threat", [Linf(0.06), L2(0.3)], ids=repr)
def test_it_does_what_the_slow_twin_does(shape, threat):
    net, x, y, noise = images(shape)
    watched, queries = Watched(net), 215  # past three halvings, and an odd end of a block
    (one,) = Square(threat, queries).rounds(5)
    x_adv = one(watched, x, y, noise[:])
    left, inputs = list(range(len(x))), [[] for _ in x]
    for shown in watched.inputs:
        assert len(shown) == len(left)
        for i, z in zip(left, shown, strict=True):
            inputs[i].append(z)
        left = [i for i, z in zip(left, shown, strict=True) if int(net(z[None]).argmax()) == y[i]]
    for i in range(len(x)):
        expected, path = by_hand_square(net, x[i], int(y[i]), noise[i : i + 1], threat, queries)
        assert len(inputs[i]) == len(path)
        exact = 0 if isinstance(threat, Linf) else 1e-9
        torch.testing.assert_close(torch.stack(inputs[i]), torch.stack(path), rtol=0, atol=exact)
        torch.testing.assert_close(x_adv[i], expected, rtol=0, atol=exact)


def test_the_slow_twin_sees_images_that_break_and_images_that_stand():
    for threat in (Linf(0.06), L2(0.3)):
        fates = Counter()
        for shape in SHAPES[:4]:
            net, x, y, noise = images(shape)
            x_adv = Square(threat, 215)(net, x, y, noise)
            fates.update((net(x_adv).argmax(1) == y).tolist())
        assert min(fates[True], fates[False]) >= 4


# The schedule and the pyramid, against the official code


def official(norm="Linf", **words):
    square = pytest.importorskip("pyautoattack.square")
    words = {"eps": 0.1, "n_queries": 5000, "p_init": 0.8, "resc_schedule": False, "device": "cpu", **words}
    return square.SquareAttack(words.pop("predict", None), norm=norm, loss="margin", **words)


def test_sides_are_the_official_ones_for_every_query():
    theirs = official()
    for n, c in ((28, 1), (32, 3), (8, 1), (64, 3), (5, 2), (3, 1), (224, 3)):
        for k in range(10_001):
            p = theirs.p_selection(k)
            side = max(round(math.sqrt(p * (c * n * n) / c)), 1)
            assert Square()._side(k, n, n) == min(side, n)
            side = max(round(math.sqrt(p * (c * n * n) / c)), 3)
            assert Square(L2())._side(k, n, n) == min(side + (side % 2 == 0), n)


@pytest.mark.parametrize("queries", [1, 10, 11, 12, 50, 51, 52, 215, 5000, 10_000])
def test_blocks_cover_every_query_once_and_have_one_side_each(queries):
    attack = Square(queries=queries)
    blocks = list(attack._blocks())
    assert [k for first, last in blocks for k in range(first, last)] == list(range(queries))
    for first, last in blocks:
        assert len({attack._side(k, 224, 224) for k in range(first, last)}) == 1
        assert last - first <= BLOCK


def test_eta_is_the_official_pyramid():
    theirs = official("L2")
    for side in range(1, 41):
        for h, w in ((side // 2, side), (side - side // 2, side), (side, side)):
            if h:
                expected = theirs.eta_rectangles(h, w)
                torch.testing.assert_close(_pyramid(h, w).float(), expected, rtol=0, atol=1e-6)
        eta = _eta(side, torch.zeros(1))
        with torch.random.fork_rng():
            expected = theirs.eta(side)  # upright or turned
        assert any(torch.allclose(expected, e, rtol=0, atol=1e-6) for e in (eta, eta.T))


# The official code, fed the numbers that ours draws


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 10, 10), (2, 13, 13)], ids=str)
@pytest.mark.parametrize("threat", [Linf(0.08), L2(0.6)], ids=repr)
def test_it_walks_the_official_path(shape, threat, monkeypatch):
    queries, count = 260, 8
    net, x, y, _ = images(shape, count, seed=3)
    x, kin = x.float(), torch.zeros(count, dtype=torch.int64)  # all draw alike, as in the original
    ours, theirs = Watched(net), Watched(net)
    (one,) = Square(threat, queries).rounds(5)
    mine = one(ours, x, y, Noise(3, kin))

    script = iter(scripted(Draws(Noise(3, kin[:1]), queries, threat, shape), threat, shape))
    attack = official(type(threat).__name__, predict=theirs, eps=threat.eps, n_queries=queries)
    attack.init_hyperparam(x)
    monkeypatch.setattr(torch, "rand", lambda *size: next(script).expand(*size))
    _, other = attack.attack_single_run(x, y)

    monkeypatch.undo()
    assert [len(z) for z in ours.inputs] == [len(z) for z in theirs.inputs]
    torch.testing.assert_close(torch.cat(ours.inputs), torch.cat(theirs.inputs), rtol=0, atol=1e-5)
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-5)
    stood = int((net(mine).argmax(1) == y).sum())
    assert 0 < stood < count


def scripted(draws, threat, shape):
    """What torch.rand must answer, in the official order: for a sign a quarter or three, for a place its middle."""
    _, h, w = shape

    def number(value, choices):
        return torch.tensor([(value + 0.5) / choices])

    def sign(values):
        return (torch.as_tensor(values).float() + 2) / 4

    if isinstance(threat, Linf):
        yield sign(draws.start)
    else:
        down, across = draws.tile_turn.shape
        for i in range(h // draws.tile):
            for j in range(w // draws.tile):  # the original also draws for tiles that lie outside
                i, j = min(i, down - 1), min(j, across - 1)
                yield number(int(draws.tile_turn[i, j]), 2)
                yield sign(draws.tile_sign[:, i, j])[:, None, None]
    for k, corners in enumerate(draws.corners):
        side = by_hand_side(threat, k, h, w)
        for row, col in corners[: 1 if isinstance(threat, Linf) else 2]:
            yield number(row, max(h - side, 1))
            yield number(col, max(w - side, 1))
        if isinstance(threat, L2):
            yield number(int(draws.turned[k]), 2)
        yield sign(draws.signs[k])[:, None, None]
