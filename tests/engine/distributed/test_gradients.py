"""The gradient of two processes is that of one, for methods without batch statistics: 17 and 16 of 33 images."""

import numpy as np
import torch

from ardor import methods
from ardor.attacks import PGD
from ardor.attacks.threat import Linf
from ardor.engine import distributed
from ardor.noise import Noise
from ardor.testing import TinyNet
from ardor.training.loop import step
from tests.conftest import splits
from tests.engine.distributed.conftest import bits, together

NAMES = ["Natural", "SAT", "TRADES", "MART", "KD", "ARD", "IAD", "RSLAD"]


class Features:
    """A loss on features alone, for which DDP around the net gives unequal gradients."""

    def terms(self, student, teacher, x, y, *, epoch, noise):
        return {"features": student.features(x).square().mean(1)}


def gradients(names):
    found = {}
    for name in names:
        student, teacher = TinyNet(1, 4, 4, seed=0).double().eval(), TinyNet(1, 4, 4, seed=1).double().eval()
        make = Features if name == "Features" else getattr(methods, name)
        attack = {"attack": PGD(Linf(0.1), steps=2)} if name in NAMES[1:4] + NAMES[5:] else {}
        optimiser = torch.optim.SGD(student.parameters(), lr=0.0)
        rows, share = distributed.shard(torch.arange(33))
        x, y, index = splits(33)[0].batch(rows)
        step(student, teacher, make(**attack), optimiser, x.double(), y, epoch=1, noise=Noise(0, index), share=share)
        found[name] = bits(*(p.grad for p in student.parameters() if p.grad is not None))
    return found


def test_the_gradient_of_two_processes_is_that_of_one(tmp_path):
    names = [*NAMES, "Features"]
    one, (first, second) = gradients(names), together(tmp_path, gradients, names)
    for name in names:
        assert np.array_equal(first[name], second[name]), name
        scale = np.abs(one[name]).max()
        assert scale > 0, name
        assert np.abs(first[name] - one[name]).max() <= 1e-6 * scale, name
