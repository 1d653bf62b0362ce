"""Square keeps its contract: the distribution of squares, results and cost."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from ardor.attacks.square import Square
from ardor.attacks.threat import L2, Linf
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.testing import TinyNet, check_attack
from ardor.types import Attack
from tests.attacks.conftest import SHAPES, Watched, by_hand_eta, images
from tests.conftest import LinearNet, filled


def constant(x):
    """Every image is of class 0, whatever is done to it."""
    return torch.tensor([1.0, 0.0, 0.5]).expand(len(x), 3)


# The contract


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("threat", [Linf(8 / 255), L2(128 / 255)], ids=repr)
def test_it_keeps_the_contract(threat, channels):
    attack = Square(threat, queries=200)
    assert isinstance(attack, Attack)
    check_attack(attack, channels=channels, random_start=True, climbs=0.3)


def test_contract_on_other_nets_and_with_restarts():
    net = LinearNet(3, 6, 4)
    check_attack(Square(queries=60, restarts=2), net=net, channels=3, size=6, classes=4, random_start=True, climbs=0.3)
    check_attack(Square(L2(), 100), net=filled(TinyNet(1, 2), 5), classes=2, random_start=True, climbs=0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("eps", [0.01, 0.3, 1.0])
def test_nothing_it_shows_leaves_the_ball_or_the_box(shape, dtype, eps):
    net, x, y, noise = images(shape, 4)
    x = x.to(dtype)
    for threat in (Linf(eps), L2(eps)):
        watched = Watched(lambda z: net(z) + 1e4 * nn.functional.one_hot(y, 5))  # robust, but not constant
        x_adv = Square(threat, 70)(watched, x, y, noise[:])
        for z in (*watched.inputs[1:], x_adv):
            assert z.dtype == dtype
            assert bool(((z >= 0) & (z <= 1)).all())
            if isinstance(threat, Linf):
                assert bool(((z == (x - eps).clamp(min=0)) | (z == (x + eps).clamp(max=1))).all())
            else:
                assert float(threat.distance(z, x).max()) <= eps * (1 + 1e-6) + 1e-7


def test_each_image_draws_for_itself():
    _, _, _, noise = images((3, 8, 8), 12)
    for threat in (Linf(0.1), L2(0.3)):
        watched, x = Watched(constant), torch.full((12, 3, 8, 8), 0.5)
        Square(threat, 15)(watched, x, torch.zeros(12, dtype=torch.int64), noise[:])
        for z in watched.inputs[1:]:
            assert len({row.numpy().tobytes() for row in z}) > 10


# Where the squares fall


def test_squares_fall_everywhere_but_on_the_last_row_and_column_and_signs_are_fair():
    count, c, n = 300, 16, 6
    x, y = torch.full((count, c, n, n), 0.5), torch.zeros(count, dtype=torch.int64)
    watched = Watched(constant)
    Square(Linf(0.25), 11, p=0.25)(watched, x, y, Noise(1, torch.arange(count)))
    start, queries = watched.inputs[1], watched.inputs[2:-1]
    assert bool((start == start[:, :, :1]).all())  # stripes, one sign a column and channel
    assert abs(float((start[:, :, 0] > 0.5).float().mean()) - 0.5) < 0.01
    assert len(queries) == 11
    places, ups = Counter(), 0
    for z in queries:
        for before, after in zip(start, z, strict=True):
            rows, cols = ((after != before).any(0).any(d).nonzero().flatten().tolist() for d in (1, 0))
            assert rows == list(range(rows[0], rows[0] + 3))
            assert cols == list(range(cols[0], cols[0] + 3))  # of 16 channels one at least differs, but for 1 in 65,536
            square = after[:, rows[0] : rows[0] + 3, cols[0] : cols[0] + 3]
            assert bool((square == square[:, :1, :1]).all())  # one sign a channel
            ups += int((square[:, 0, 0] > 0.5).sum())
            places[rows[0], cols[0]] += 1
    assert set(places) == {(i, j) for i in range(3) for j in range(3)}
    drawn = 11 * count
    assert (
        sum((count - drawn / 9) ** 2 / (drawn / 9) for count in places.values()) < 26
    )  # chi squared, 8 degrees: 0.1 %
    assert abs(ups / (drawn * c) - 0.5) < 4 * 0.5 / math.sqrt(drawn * c)


def test_orientations_and_signs_of_eta_are_fair():
    count = 60
    x, y = torch.full((count, 2, 3, 3), 0.5), torch.zeros(count, dtype=torch.int64)
    watched = Watched(constant)
    # a window of the whole image takes all the mass there is, so that v, up to its length, is what is shown
    Square(L2(0.1), 11)(watched, x, y, Noise(1, torch.arange(count)))
    start, counts = watched.inputs[1], Counter()
    for z in watched.inputs[2:-1]:
        for before, after in zip(start - x, z - x, strict=True):
            for old, new in zip(before, after, strict=True):
                fits = []
                for turned in (False, True):
                    for sign in (-1, 1):
                        v = sign * by_hand_eta(3, turned).float() + old / old.norm()
                        fits.append(float(((new / new.norm()) - v / v.norm()).abs().max()))
                assert min(fits) < 1e-4
                counts[fits.index(min(fits))] += 1
    drawn = sum(counts.values())
    assert drawn == 11 * count * 2
    assert all(abs(counts[i] / drawn - 0.25) < 0.05 for i in range(4))


# Results and cost


def test_a_query_that_gains_nothing_is_rejected():
    x, y, noise = torch.full((4, 3, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64), Noise(0, torch.arange(4))
    for threat in (Linf(0.1), L2(0.5)):
        watched = Watched(constant)
        (one,) = Square(threat, 30).rounds(3)
        assert torch.equal(one(watched, x, y, noise[:]), watched.inputs[0])


def test_a_robust_image_costs_every_query_and_a_broken_one_stops():
    net = Watched(lambda z: torch.stack((torch.zeros(len(z)), (z[:, 0, 0, 0] < 0.5).float() - 0.5), 1))
    x = torch.full((6, 1, 8, 8), 0.9)
    x[::2] = 0.52  # within reach: the first square that goes down ends it
    y, noise = torch.zeros(6, dtype=torch.int64), Noise(0, torch.arange(6))
    attack = Square(Linf(0.1), 60)
    (one,) = attack.rounds(2)
    x_adv = one(net, x, y, noise[:])
    assert ((net.net(x_adv).argmax(1) != y) == torch.tensor([True, False] * 3)).all()
    sizes = [len(z) for z in net.inputs]
    assert len(sizes) == 61 == attack.cost(2)
    assert sizes[0] == 6
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 3
    net.inputs.clear()
    one(net, x[::2], y[::2], noise[::2])
    assert len(net.inputs) < 20
    net.inputs.clear()
    attack(net, x, y, noise[:])
    # the clean images, the round, and its result
    assert len(net.inputs) == 1 + 61 + 1
    assert [len(net.inputs[k]) for k in (0, 1, 61, 62)] == [6, 6, 3, 6]


def test_images_that_come_broken_or_break_at_the_start_cost_one_pass():
    net = Watched(constant)
    y, x, noise = torch.ones(3, dtype=torch.int64), torch.full((3, 1, 8, 8), 0.5), Noise(0, torch.arange(3))
    x_adv = Square(queries=40)(net, x, y, noise[:])
    assert len(net.inputs) == 1
    assert torch.equal(x_adv, x)
    assert x_adv is not x
    Square(queries=40).rounds(3)[0](net, x, y, noise)
    assert len(net.inputs) == 2


def test_every_restart_is_another_search_and_only_for_the_survivors():
    attack = Square(Linf(0.1), 12, restarts=3)
    assert attack.cost(10) == 3 * 13
    assert len(attack.rounds(10)) == 3
    watched, x = Watched(constant), torch.full((4, 1, 8, 8), 0.5)
    attack(watched, x, torch.zeros(4, dtype=torch.int64), Noise(0, torch.arange(4)))
    starts = [z for k, z in enumerate(watched.inputs[:-1]) if k % 14 == 1]
    assert len(starts) == 3
    assert not any(torch.equal(a, b) for a, b in ((starts[0], starts[1]), (starts[1], starts[2])))


def test_a_tie_is_a_success_only_where_the_net_is_wrong():
    net = Watched(lambda z: torch.zeros(len(z), 3))  # argmax says class 0
    x, noise = torch.full((2, 1, 8, 8), 0.5), Noise(0, torch.arange(2))
    (one,) = Square(queries=20).rounds(3)
    one(net, x, torch.zeros(2, dtype=torch.int64), noise[:])
    assert [len(z) for z in net.inputs] == [2] * 21
    net.inputs.clear()
    one(net, x, torch.ones(2, dtype=torch.int64), noise[:])
    assert [len(z) for z in net.inputs] == [2]


class Hasty:
    """A folded net that misclassifies an image before the net does."""

    def __init__(self, net, hasty):
        self.net, self.hasty = net, hasty

    def __call__(self, z):
        return self.hasty(z)

    def as_given(self):
        return self.net


def test_an_image_goes_on_until_the_net_as_given_is_fooled():
    def wrong_below(level):
        return lambda z: torch.stack((torch.zeros(len(z)), level - z.mean((1, 2, 3))), 1)

    x, y, noise = torch.full((8, 1, 8, 8), 0.5), torch.zeros(8, dtype=torch.int64), Noise(0, torch.arange(8))
    net, hasty = wrong_below(0.45), wrong_below(0.48)
    x_adv = Square(Linf(0.1), 300)(Hasty(net, hasty), x, y, noise[:])
    assert bool((net(x_adv).argmax(1) == 1).all())
    stubborn = Watched(hasty)
    Square(Linf(0.1), 30).rounds(2)[0](Hasty(constant, stubborn), x, y, noise[:])
    assert [len(z) for z in stubborn.inputs] == [8] * 31


# Any callable, no gradient, nothing global


def test_any_function_of_images_will_do():
    net, x, y, noise = images((3, 8, 8))
    a, b = net.a.numpy(), net.b.numpy()

    def session(z):
        assert not torch.is_grad_enabled()
        flat = z.numpy().reshape(len(z), -1)
        return torch.from_numpy(flat @ a + np.sin(3 * flat) @ b + flat**2 @ a[:, ::-1])

    for threat in (Linf(0.06), L2(0.3)):
        attack = Square(threat, 60)
        for search in (attack, *attack.rounds(5)):  # `evaluate` runs the rounds themselves
            expected = search(net, x, y, noise[:])
            torch.testing.assert_close(search(session, x, y, noise[:]), expected, rtol=0, atol=1e-9)
            wanted = search(net, x.clone().requires_grad_(), y, noise[:])
            assert not wanted.requires_grad
            assert torch.equal(wanted, expected)
            assert torch.equal(search(net, x.contiguous(memory_format=torch.channels_last), y, noise[:]), expected)


def test_the_net_is_shown_contiguous_images():
    _, x, y, noise = images((3, 8, 8))

    def net(z):
        return torch.cat((z.view(len(z), -1).sum(1, keepdim=True), torch.zeros(len(z), 4)), 1)

    for threat in (Linf(0.06), L2(0.3)):
        Square(threat, 20).rounds(5)[0](net, x.contiguous(memory_format=torch.channels_last), y * 0, noise[:])


def test_logits_of_another_dtype_are_compared_in_their_own():
    net, x, y, noise = images((1, 8, 8))
    x = x.float()
    double = Square(Linf(0.06), 60)(lambda z: net(z).double(), x, y, noise[:])
    assert double.dtype == torch.float32
    assert torch.equal(double, Square(Linf(0.06), 60)(net, x, y, noise[:]))


def test_a_longer_search_begins_as_a_shorter_one():
    net, x, y, noise = images((1, 8, 8))
    inputs = []
    for queries in (30, 97):
        watched = Watched(net)
        Square(Linf(0.02), queries).rounds(5)[0](watched, x, y, noise[:])
        inputs.append(watched.inputs)
    assert len(inputs[0]) == 31
    assert all(map(torch.equal, inputs[0], inputs[1]))


def test_refusals_and_cost():
    threats, counts = [{"threat": "linf"}, {"threat": None}], [{"queries": 0}, {"restarts": 0}]
    for words in (*threats, *counts, {"p": 0.0}, {"p": 1.1}, {"p": math.nan}):
        with pytest.raises(ThreatError, match="expected .* got .*: type for example"):
            Square(**words)
    assert Square().cost(10) == 5001
