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
from ardor.training.state import learned_state
from tests.conftest import splits
from tests.engine.distributed.conftest import bits, plain, sure, together

LATER = [
    "AdaAD", "AdaIAD", "IGDM", "SAAD", "ADR", "FairRSLAD", "ABSLD", "MTARD", "DGAD", "PeerAiD", "AKD2", "LBGAT",
]  # fmt: skip
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


def later(names):
    """The gradients of a step, and what the method has learned after it; in float64, of nets without batch norm."""
    found = {}
    options = {"AdaIAD": {"begin": 1}, "SAAD": {"weights": "none", "beta": 0.5}, "PeerAiD": {"g2": 1.0, "l1": 0.5},
               "MTARD": {"balance_temperatures": True, "h": 0.5, "g": 0.1}}  # fmt: skip
    for name in names:
        attack = PGD(Linf(0.1), steps=2)
        method = (
            methods.IGDM(methods.RSLAD(attack=attack), ramp=1) if name == "IGDM"
            else getattr(methods, name)(attack=attack, **options.get(name, {}))
        )  # fmt: skip
        student, teacher = plain(0).double(), sure().double().requires_grad_(False)
        if hasattr(method, "teachers"):
            teacher = {"robust": teacher, "natural": plain(3).double().requires_grad_(False)}
        rows, share = distributed.shard(torch.arange(33))
        x, y, index = splits(33)[0].batch(rows)
        x = x.double()
        if hasattr(method, "prepare"):
            method.prepare(student, teacher, x)
        optimiser = torch.optim.SGD([*student.parameters(), *getattr(method, "parameters", tuple)()], lr=0.0)
        step(student, teacher, method, optimiser, x, y, epoch=1, noise=Noise(0, index), share=share)
        if hasattr(method, "advance"):
            method.advance(student, epoch=1, last=True, average=None)
        found[name] = [
            bits(*(p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None)),
            bits(torch.zeros(1), *learned_state(method).values()),
        ]
    return found


def test_the_later_methods_have_one_gradient_and_one_state(tmp_path):
    one, (first, second) = later(LATER), together(tmp_path, later, LATER)
    for name in LATER:
        for mine, theirs, alone in zip(first[name], second[name], one[name], strict=True):
            assert np.array_equal(mine, theirs), name
            np.testing.assert_allclose(mine, alone, rtol=1e-6, atol=1e-6 * np.abs(alone).max(), err_msg=name)
        assert np.abs(one[name][0]).max() > 0, name


def test_the_gradient_of_two_processes_is_that_of_one(tmp_path):
    names = [*NAMES, "Features"]
    one, (first, second) = gradients(names), together(tmp_path, gradients, names)
    for name in names:
        assert np.array_equal(first[name], second[name]), name
        scale = np.abs(one[name]).max()
        assert scale > 0, name
        assert np.abs(first[name] - one[name]).max() <= 1e-6 * scale, name
