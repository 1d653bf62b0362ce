"""FAB's projection, slowly."""

import functools
import math

import torch
from torch import nn

from ardor.attacks.threat import L2, Linf
from ardor.noise import Noise

NORMS = [Linf(0.1), L2(0.5)]


def slow_project(threat, x, w, c):
    """One row: the breakpoints in order, one at a time, until the plane is reached."""
    side = -1.0 if c > 0 else 1.0
    rate = [1.0 if isinstance(threat, Linf) else abs(float(v)) for v in w]
    room = [float(1 - p if side * v > 0 else p) for p, v in zip(x, w, strict=True)]
    reached, lam, live = 0.0, 0.0, sorted((i for i in range(len(w)) if w[i] != 0), key=lambda i: room[i] / rate[i])
    while live:
        slope = sum(abs(float(w[i])) * rate[i] for i in live)
        wall = room[live[0]] / rate[live[0]]
        if reached + slope * (wall - lam) >= abs(float(c)):
            lam += (abs(float(c)) - reached) / slope
            break
        reached, lam = reached + slope * (wall - lam), wall
        live.pop(0)
    signs = [side * float(torch.sign(v)) for v in w]
    return torch.tensor([s * min(lam * r, q) for s, r, q in zip(signs, rate, room, strict=True)], dtype=x.dtype)


# -- Images, nets and pieces of Square written out, for its tests.


SHAPES = [(1, 8, 8), (3, 8, 8), (1, 4, 4), (2, 3, 3), (1, 1, 1), (3, 9, 9), (1, 6, 12), (2, 13, 4)]
"""Channels, height, width: of one channel, smaller than 5 pixels, odd, and not square."""


def images(shape, count=6, seed=0):
    """Float64 images with exact 0 and 1, their labels by a linear net, the net, and their streams."""
    index = torch.arange(count) * 5 + 2
    x = (2 * Noise(seed, index, "image").uniform(shape, torch.float64) - 0.5).clamp(0, 1)
    net = Wavy(shape, seed)
    return net, x, net(x).argmax(1), Noise(seed, index, "test")


class Wavy(nn.Module):
    """Logits that are neither linear nor symmetric in the image, of any shape."""

    def __init__(self, shape, seed=0):
        super().__init__()
        index = torch.arange(2)
        self.a, self.b = Noise(seed, index, "net").normal((math.prod(shape), 5), torch.float64)

    def forward(self, x):
        flat = x.flatten(1).to(self.a.dtype)
        return (flat @ self.a + (3 * flat).sin() @ self.b + flat.square() @ self.a.flip(1)).to(x.dtype)


class Watched:
    """Records its inputs."""

    def __init__(self, net):
        self.net, self.inputs = net, []

    def __call__(self, x):
        self.inputs.append(x.detach().clone())
        return self.net(x)


def by_hand_pyramid(h, w):
    bump = torch.zeros(h, w, dtype=torch.float64)
    for ring in range(max(h // 2, w // 2) + 1):
        for i in range(h):
            for j in range(w):
                if abs(i - h // 2) <= ring and abs(j - w // 2) <= ring:
                    bump[i, j] += 1 / (ring + 1) ** 2
    return bump / bump.pow(2).sum().sqrt() if bump.numel() else bump


@functools.cache
def by_hand_eta(side, turned):
    eta = torch.zeros(side, side, dtype=torch.float64)
    eta[: side // 2] = by_hand_pyramid(side // 2, side)
    eta[side // 2 :] = -by_hand_pyramid(side - side // 2, side)
    eta = eta / eta.pow(2).sum().sqrt()
    return eta.T if turned else eta


def by_hand_margin(logits, y):
    return max(float(v) for j, v in enumerate(logits) if j != y) - float(logits[y])
