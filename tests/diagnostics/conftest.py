"""Nets with one flaw each, planted in a healthy one: what `doctor` must find, and nothing else."""

import copy

import torch
import torch.nn.functional as F
from torch import nn


class Memory(nn.Module):
    """Knows some images: `near(x)` is x's distance (Linf) from the nearest of them, (B, 1, 1, 1), and that image."""

    def __init__(self, net, images, eps):
        super().__init__()
        self.net, self.eps = copy.deepcopy(net), eps
        self.register_buffer("images", images.clone())

    def near(self, x):
        apart = torch.cdist(x.detach().flatten(1), self.images.flatten(1), p=torch.inf)
        distance, which = apart.min(1)
        return distance[:, None, None, None], self.images[which]


def slope(x, factor):
    """x, whose gradient is `factor` times what it should be."""
    return factor * x + (x - factor * x).detach()


class Recalls(Memory):
    """Far from what it knows it answers as for the nearest image it knows: however wide the radius, nothing moves."""

    def forward(self, x):
        distance, known = self.near(x)
        return self.net(torch.where(distance > 2 * self.eps, known, x))


class Turns(Memory):
    """From 0.3 to `until` eps from what it knows, gradients point the wrong way. The answers are the net's."""

    def __init__(self, net, images, eps, until=1.5):
        super().__init__(net, images, eps)
        self.until = until

    def forward(self, x):
        distance, _ = self.near(x)
        wrong = (distance > 0.3 * self.eps) & (distance < self.until * self.eps)
        return self.net(slope(x, torch.where(wrong, -1.0, 1.0)))


class Blind(Memory):
    """Near what it knows, every gradient lies along one harmless chequered pattern. Answers are the net's."""

    def forward(self, x):
        distance, _ = self.near(x)
        chequered = (torch.arange(x.shape[2])[:, None] + torch.arange(x.shape[3])) % 2 - 0.5
        z = self.net(slope(x, (distance > 1.5 * self.eps).float()))
        pull = (x * chequered).sum((1, 2, 3))[:, None] * torch.arange(z.shape[1])
        return torch.where(distance[:, :, 0, 0] > 1.5 * self.eps, z, z + pull - pull.detach())


class Locked(Memory):
    """Near what it knows it is weak only where one pixel, which no gradient moves, lies in a narrow window.

    There it is three times as weak as the net, so that new starts break many images: 12 of 120.
    """

    def forward(self, x):
        distance, known = self.near(x)
        key = x[:, :1, :1, :1].detach() / self.eps
        weight = torch.where((key > 0.40) & (key < 0.45), 3.0, 0.05)
        pixel = torch.zeros_like(x)
        pixel[:, :, 0, 0] = 1
        near = known + weight * (1 - pixel) * (x - known)
        return self.net(torch.where(distance > 1.5 * self.eps, x, near))


class Decoys(Memory):
    """Near what it knows, all classes behind the second pull cross-entropy the wrong way; the margin sees but two."""

    def forward(self, x):
        distance, _ = self.near(x)
        z = self.net(x)
        top, which = z.topk(2, 1)
        decoys = (top[:, 1:] - 0.01).detach() + slope(top[:, :1], 50.0) - top[:, :1].detach()
        first_two = F.one_hot(which, z.shape[1]).sum(1).bool()
        return torch.where(first_two | (distance[:, :, 0, 0] > 1.5 * self.eps), z, decoys)
