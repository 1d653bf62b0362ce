"""Every attack keeps the contract, and the contract can fail: attacks that break one promise are refused."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

import ardor
from ardor.attacks import CW, FGSM, PGD, WorstCase
from ardor.attacks.threat import L2, Linf
from ardor.noise import Noise
from ardor.testing import TinyNet, check_attack
from ardor.types import Attack
from tests.conftest import LinearNet, filled

THREATS = [Linf(8 / 255), Linf(0.1), L2(128 / 255), L2(0.2)]


# The contract


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("make", [FGSM, PGD, CW, WorstCase])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_attack_keeps_the_contract(make, threat, channels):
    attack = make(threat)
    assert isinstance(attack, Attack)
    check_attack(attack, channels=channels, random_start=make is not FGSM)


@pytest.mark.parametrize("threat", [Linf(8 / 255), L2(128 / 255)], ids=repr)
@pytest.mark.parametrize(
    "options",
    [
        {"start": "none"},
        {"start": "gaussian"},
        {"start": "unclipped"},
        {"loss": "margin"},
        {"loss": "dlr"},
        {"steps": 40, "step": 0.003},
    ],
    ids=str,
)
def test_every_option_of_pgd_keeps_the_contract(options, threat):
    # 0.003 forty times reaches a quarter of the L2 radius
    check_attack(PGD(threat, **options), seed=1, climbs=0.2 if "step" in options else 0.5)


def test_contract_on_a_net_and_an_image_size_of_ones_own():
    check_attack(PGD(), net=LinearNet(3, 6, 4), channels=3, size=6, classes=4)
    check_attack(FGSM(L2()), net=filled(TinyNet(1, 2), 5), classes=2)


def test_every_public_attack_has_a_test_file_that_checks_its_contract():
    names = set(ardor.attacks.__all__) - {"Suite", "suites", "autoattack", "paper", "plus", "quick", "rand"}
    others = {"APGD", "FAB", "Square"}  # in test_apgd, test_fab, test_square
    assert names == {"CW", "FGSM", "PGD", "WorstCase"} | others


# The contract can fail: each of these attacks breaks one promise


@dataclass(frozen=True)
class Broken:
    threat: object = Linf(8 / 255)
    start: str = "uniform"
    kind: str = ""

    def __call__(self, net, x, y, noise):
        return getattr(self, self.kind)(net, x, y, noise)

    def pgd(self, net, x, y, noise, **options):
        return PGD(self.threat, **options)(net, x, y, noise)

    def identity(self, net, x, y, noise):
        return x.clone()

    def returns_x(self, net, x, y, noise):
        return x

    def random_point(self, net, x, y, noise):
        return self.threat.start(x, "uniform", noise)

    def descends(self, net, x, y, noise):
        return PGD(self.threat).maximise(lambda z: -F.cross_entropy(net(z), y, reduction="none"), x, noise)

    def wrong_labels(self, net, x, y, noise):
        return self.pgd(net, x, (y + 1) % 10, noise)

    def one_short_step(self, net, x, y, noise):
        return self.pgd(net, x, y, noise, steps=1)

    def leaves_ball(self, net, x, y, noise):
        return PGD(Linf(1.01 * self.threat.eps))(net, x, y, noise)

    def leaves_box(self, net, x, y, noise):
        return x + self.threat.eps * (self.pgd(net, x, y, noise) - x).sign()

    def in_place(self, net, x, y, noise):
        adv = self.pgd(net, x, y, noise)
        x.mul_(0.999)
        return adv

    def relabels(self, net, x, y, noise):
        adv = self.pgd(net, x, y, noise)
        y.fill_(0)
        return adv

    def keeps_graph(self, net, x, y, noise):
        return self.pgd(net, x, y, noise).requires_grad_()

    def half_precision(self, net, x, y, noise):
        return self.pgd(net, x, y, noise).float()

    def backward(self, net, x, y, noise):
        z = x.clone().requires_grad_()
        F.cross_entropy(net(z), y, reduction="sum").backward()
        return self.pgd(net, x, y, noise)

    def clears_gradients(self, net, x, y, noise):
        net.zero_grad()
        return self.pgd(net, x, y, noise)

    def sets_eval(self, net, x, y, noise):
        net.eval()
        return self.pgd(net, x, y, noise)

    def sets_train(self, net, x, y, noise):
        net.train()
        adv = self.pgd(net, x, y, noise)
        net.eval()
        return adv

    def freezes(self, net, x, y, noise):
        net.requires_grad_(False)
        return self.pgd(net, x, y, noise)

    def trains(self, net, x, y, noise):
        with torch.no_grad():
            next(net.parameters()).mul_(1.001)
        return self.pgd(net, x, y, noise)

    def global_rng(self, net, x, y, noise):
        z = x + self.threat.eps * (2 * torch.rand_like(x) - 1)
        return PGD(self.threat, start="none")(net, self.threat.project(z, x), y, noise)

    def reseeds(self, net, x, y, noise):
        torch.manual_seed(0)
        return self.pgd(net, x, y, noise)

    def by_position(self, net, x, y, noise):
        return self.pgd(net, x, y, Noise(noise.seed, torch.arange(len(x))))

    def shares_a_length(self, net, x, y, noise):
        adv = self.pgd(net, x, y, noise)
        return x + (adv - x) * (0.8 + 0.2 * x.mean())

    def one_start_for_all(self, net, x, y, noise):
        shared = Noise(noise.seed, torch.zeros_like(noise.index)).uniform((1, 1, 1), x.dtype)
        z = self.threat.project(x + shared * torch.linspace(0, 1, len(x)).reshape(-1, 1, 1, 1) * self.threat.eps, x)
        return self.threat.project(PGD(self.threat, start="none")(net, z, y, noise), x)

    def no_random_start(self, net, x, y, noise):
        return self.pgd(net, x, y, noise, start="none")

    def ignores_the_seed(self, net, x, y, noise):
        return self.pgd(net, x, y, Noise(0, noise.index))

    def changes_its_mind(self, net, x, y, noise):
        CALLS.append(1)
        return self.pgd(net, x, y, Noise(len(CALLS), noise.index))


CALLS = []
PROMISES = {
    "identity": "to climb",
    "returns_x": "new tensor",
    "random_point": "to climb",
    "descends": "to climb",
    "wrong_labels": "to climb",
    "one_short_step": "to climb",
    "leaves_ball": "to stay in Linf",
    "leaves_box": "to stay in .0, 1.",
    "in_place": "copy its arguments",
    "relabels": "copy its arguments",
    "keeps_graph": "without a graph",
    "half_precision": "dtype",
    "backward": "gradients as they were",
    "clears_gradients": "gradients as they were",
    "sets_eval": "modes as they were",
    "sets_train": "as they were",
    "freezes": "requires_grad flags as they were",
    "trains": "parameters as they were",
    "global_rng": "draw from `noise`",
    "reseeds": "draw from `noise`",
    "by_position": "same in any batch",
    "shares_a_length": "same in any batch",
    "one_start_for_all": "same in any batch",
    "no_random_start": "elsewhere for another seed",
    "ignores_the_seed": "elsewhere for another seed",
    "changes_its_mind": "same images twice",
}


@pytest.mark.parametrize("kind", PROMISES)
def test_the_contract_refuses(kind):
    with pytest.raises(AssertionError, match=PROMISES[kind]):
        check_attack(Broken(kind=kind))


def test_the_contract_accepts_the_same_attack_unbroken():
    check_attack(Broken(kind="pgd"))


def test_the_contract_wants_a_threat():
    with pytest.raises(AssertionError, match="field `threat`"):
        check_attack(lambda net, x, y, noise: x.clone())
