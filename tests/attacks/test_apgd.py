"""APGD against an independent slow expression, against the official code, and its limits."""

import copy
import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ardor import losses
from ardor.attacks import APGD, PGD
from ardor.attacks.apgd import _Ascent, _checkpoints
from ardor.attacks.rounds import fooled, in_rounds, rival
from ardor.attacks.threat import L2, Linf
from ardor.engine.modes import attack_view
from ardor.errors import ModelError, ThreatError
from ardor.noise import Noise
from ardor.testing import TinyNet, check_attack, problem
from ardor.testing.shared import trained
from tests.conftest import LinearNet, filled

THREATS = [Linf(0.03), L2(0.2)]


@pytest.fixture(scope="module")
def net():
    return copy.deepcopy(trained(1, 8, 10, 0)).eval()


@pytest.fixture(scope="module")
def images(net):
    x, _, index = problem(1, 8, 10, 1, 24)
    x = x.double()
    return x, net(x).argmax(1), index


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("fields", [{}, {"loss": "dlr"}, {"loss": "margin"}, {"loss": "dlr", "targets": 3}], ids=repr)
def test_contract(threat, fields):
    # a targeted round that fails stops near its target, which need not be the nearest wrong class
    check_attack(APGD(threat, steps=20, **fields), random_start=True, climbs=0.2 if "targets" in fields else 0.5)


def test_the_checkpoints_are_the_papers():
    assert sorted(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(_checkpoints(10)) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert sorted(_checkpoints(1)) == [1]


def test_the_first_rise_is_one_above_zero():
    """As in the original, whose list of losses has a zero where the start's would be."""
    x = torch.zeros(3, 1, 2, 2)
    a = _Ascent.at(x, x, 0.1)
    a.record(torch.tensor([-2.0, -2.0, 2.0]), first=True)
    a.record(torch.tensor([-1.0, 0.5, 1.0]), first=False)
    assert a.rises.tolist() == [0, 1, 1]
    a.record(torch.tensor([-0.5, 0.4, 1.5]), first=False)
    assert a.rises.tolist() == [1, 1, 2]


def test_the_best_point_is_the_first_of_equals():
    x = torch.zeros(2, 1, 2, 2)
    a = _Ascent.at(x, x, 0.1)
    a.record(torch.tensor([1.0, 1.0]), first=True)
    a.x_adv = x + 1
    a.record(torch.tensor([1.0, 1.5]), first=False)
    assert a.best_x.flatten(1).amax(1).tolist() == [0, 1]


def slowly(net, x, y, target, threat, steps, loss, start):
    """One image, one number at a time where possible, with the whole history, as in the paper."""

    def value(z):
        logits = net(z[None])[0]
        top = sorted(range(len(logits)), key=lambda c: -float(logits.detach()[c]))
        if loss == "ce":
            v = logits.logsumexp(0) - logits[y]
        elif target is None:
            other = next(c for c in top if c != y)
            v = -(logits[y] - logits[other]) / (logits[top[0]] - logits[top[2]] + 1e-12)
        else:
            below = logits[top[0]] - (logits[top[2]] + logits[top[3]]) / 2
            v = -(logits[y] - logits[target]) / (below + 1e-12)
        return v, top[0] != y

    def project(z):
        if isinstance(threat, Linf):
            return torch.minimum(torch.maximum(z, x - threat.eps), x + threat.eps).clamp(0, 1)
        d = z - x
        return (x + d / max(float(d.norm()), 1e-12) * min(threat.eps, float(d.norm()))).clamp(0, 1)

    def oracle(z):
        z = z.clone().requires_grad_()
        v, wrong = value(z)
        (g,) = torch.autograd.grad(v, z)
        return float(v.detach()), g, wrong

    eps, history, z = threat.eps, [], start
    f, g, wrong = oracle(z)
    if wrong:
        return z, True
    best, best_f, best_g = z, f, g
    step, kept_last, best_then, previous = 2 * eps, False, f, z
    interval, since = max(int(0.22 * steps), 1), 0
    for i in range(steps):
        ahead = g.sign() if isinstance(threat, Linf) else g / g.norm()
        a = 0.75 if i else 1.0
        moved = project(z + a * (project(z + step * ahead) - z) + (1 - a) * (z - previous))
        previous, z = z, moved
        f, g, wrong = oracle(z)
        if wrong:
            return z, True
        history.append(f)
        if f > best_f:
            best, best_f, best_g = z, f, g
        since += 1
        if since == interval:
            recent = [0.0, *history][-interval - 1 :]
            rises = sum(b > a for a, b in pairwise(recent))
            halve = rises <= 0.75 * interval or (kept_last and best_then >= best_f)
            if halve:
                step, z, g = step / 2, best, best_g
            kept_last, best_then = not halve, best_f
            interval, since = max(interval - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1)), 0
    return best, False


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize(("loss", "rank"), [("ce", 0), ("dlr", 0), ("dlr", 1), ("dlr", 2)])
def test_it_is_the_slow_expression(net, images, threat, loss, rank):
    x, y, index = images
    steps = 40
    attack = APGD(threat, steps, loss=loss, targets=3 if rank else 0)
    one = attack.rounds(10)[max(rank - 1, 0)]
    with attack_view(net) as view:
        ours = one(view, x, y, Noise(0, index, "t"))
    target = rival(net, x, y, rank) if rank else None
    starts = threat.start(x, "surface", Noise(0, index, "t"))
    broke = 0
    for i in range(len(x)):
        aim = None if target is None else int(target[i])
        theirs, wrong = slowly(net, x[i], int(y[i]), aim, threat, steps, loss, starts[i])
        assert float((ours[i] - theirs).abs().max()) < 1e-9
        assert bool(net(ours[i : i + 1]).argmax() != y[i]) == wrong
        broke += wrong
    assert 0 < broke < len(x)  # both outcomes occur


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("fields", [{"loss": "ce"}, {"loss": "dlr"}, {"loss": "dlr", "targets": 9}], ids=repr)
def test_its_verdicts_are_the_official_codes(net, threat, fields):
    official = pytest.importorskip("pyautoattack.autopgd_base")
    net = copy.deepcopy(net).float()
    x, _, index = problem(1, 8, 10, 2, 60)
    y = net(x).argmax(1)
    attack = APGD(threat, **fields)
    place = {row.numpy().tobytes(): i for i, row in enumerate(x)}
    kind = official.APGDAttack_targeted if attack.targets else official.APGDAttack

    class Given(kind):
        """The official code, started where ours is."""

        rounds = 0

        def attack_single_run(self, x, y, x_init=None):
            rows = torch.tensor([place[row.numpy().tobytes()] for row in x])
            noise = Noise(0, index[rows], "t").fork(str(self.rounds))
            self.rounds += 1
            return super().attack_single_run(x, y, x_init=threat.start(x, "surface", noise))

    words = {} if attack.targets else {"loss": attack.loss}
    theirs = Given(net, norm=type(threat).__name__, eps=threat.eps, device="cpu", **words)
    right = net(theirs.perturb(x, y)).argmax(1) == y
    ours = net(attack(net, x, y, Noise(0, index, "t"))).argmax(1) == y
    assert torch.equal(ours, right)
    assert 0 < int(right.sum()) < 60


def test_an_image_leaves_at_its_first_success(net, images):
    x, y, index = images
    sizes = []

    def watched(z):
        sizes.append(len(z))
        return net(z)

    APGD(Linf(0.3), steps=50)(watched, x, y, Noise(0, index, "t"))
    rows = sizes[1:-1]  # after the clean images, before the confirmation
    assert rows == sorted(rows, reverse=True)
    assert len(rows) < 50
    assert sum(rows) < 5 * len(x)


def test_restarts_only_see_survivors_and_only_help(net, images):
    x, y, index = images
    one, five = (APGD(Linf(0.05), 10, restarts=n) for n in (1, 5))
    first = net(one(net, x, y, Noise(0, index, "t"))).argmax(1) == y
    all_five = net(five(net, x, y, Noise(0, index, "t"))).argmax(1) == y
    assert not bool((all_five & ~first).any())
    assert len(five.rounds(10)) == 5
    assert len(APGD(loss="dlr", targets=9, restarts=2).rounds(10)) == 18


def test_maximise_climbs_any_objective_and_keeps_the_best(net, images):
    x, y, index = images
    values = []

    def objective(z):
        loss = losses.ce(net(z), y)
        values.append(loss.detach())
        return loss

    threat = Linf(0.06)
    best = APGD(threat, steps=25).maximise(objective, x, Noise(0, index, "t"))
    assert len(values) == 26
    assert torch.equal(losses.ce(net(best), y), torch.stack(values).amax(0))
    plain = PGD(threat, steps=25).maximise(lambda z: losses.ce(net(z), y), x, Noise(0, index, "t"))
    with torch.no_grad():
        assert float(losses.ce(net(best), y).mean()) >= 0.98 * float(losses.ce(net(plain), y).mean())
    assert not best.requires_grad


@pytest.mark.parametrize(
    ("classes", "requested", "expected"),
    [
        (10, ("dlr", 9), ("dlr", 9)),
        (5, ("dlr", 9), ("dlr", 4)),
        (4, ("dlr", 9), ("dlr", 3)),
        (3, ("dlr", 9), ("margin", 2)),
        (2, ("dlr", 9), ("margin", 1)),
        (3, ("dlr", 0), ("dlr", 0)),
        (2, ("dlr", 0), ("margin", 0)),
        (2, ("ce", 0), ("ce", 0)),
    ],
)
def test_few_classes(classes, requested, expected):
    attack = APGD(Linf(0.1), 10, loss=requested[0], targets=requested[1])
    fit = attack.fitted(classes)
    assert (fit.loss, fit.targets) == expected
    assert len(attack.rounds(classes)) == max(1, expected[1])
    check_attack(attack, net=filled(TinyNet(1, classes), 5), classes=classes, climbs=0.3)


def test_targets_are_the_wrong_classes_in_their_order():
    net = LinearNet(classes=4)
    x, _, _ = problem(1, 8, 4, 0, 6)
    logits = net(x.double())
    y = logits.argmax(1)
    ranked = logits.argsort(1, descending=True)
    for rank in (1, 2, 3):
        assert torch.equal(rival(net, x.double(), y, rank), ranked[:, rank])


def test_a_draw_is_a_pass_and_the_gradient_is_their_mean(images):
    """A net whose gradient is random: 20 draws point where one does not."""
    x, y, index = images
    x, y, index = x[:6], y[:6], index[:6]

    class Noisy(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.calls, self.noise = inner, 0, torch.Generator().manual_seed(0)

        def forward(self, z):
            self.calls += 1
            return self.inner(z + 0.3 * torch.randn(z.shape, generator=self.noise, dtype=z.dtype))

    noisy = Noisy(copy.deepcopy(trained(1, 8, 10, 0)).eval())
    one = APGD(Linf(0.1), steps=8, draws=20)
    one.rounds(10)[0](noisy, x, y, Noise(0, index, "t"))
    assert noisy.calls == 20 * 9
    assert replace(one, draws=20).cost(10) == 2 * 9 * 20


def test_a_success_on_a_folded_net_counts_only_if_the_net_confirms_it():
    net, x = LinearNet(classes=2), torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    y = net(x).argmax(1)

    class Liar:
        """A stand-in that calls everything wrong."""

        def __call__(self, z):
            return -net(z)

        def as_given(self):
            return net

    assert not bool(fooled(Liar(), x, y, Liar()(x)).any())
    assert bool(fooled(lambda z: -net(z), x, y, -net(x)).all())
    x_adv = APGD(Linf(1e-4), steps=3)(Liar(), x, y, Noise(0, torch.arange(3), "t"))
    assert torch.equal(net(x_adv).argmax(1), y)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(targets=9), "expected loss 'dlr' or 'margin' for a targeted APGD, got 'ce'"),
        (dict(restarts=0), "expected restarts of at least 1, got 0"),
        (dict(draws=0), "expected draws of at least 1, got 0"),
        (dict(targets=-1, loss="dlr"), "expected targets of at least 0, got -1"),
        (dict(steps=0), "expected steps of at least 1, got 0"),
        (dict(loss="hinge"), "one of ce, margin, dlr"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ThreatError, match=message):
        APGD(**fields)


def test_the_targeted_losses_are_their_formulas():
    logits = torch.tensor([[3.0, 1.0, 0.5, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    y, t = torch.tensor([0]), torch.tensor([2])
    assert float(losses.margin_targeted(logits, y, t)) == -2.5
    assert math.isclose(float(losses.dlr_targeted(logits, y, t)), -(3 - 0.5) / (3 - (1 + 0.5) / 2 + 1e-12))
    (grad,) = torch.autograd.grad(losses.dlr_targeted(logits, y, t).sum(), logits)
    assert float(grad[0, 1]) != 0  # the denominator keeps its gradient
    with pytest.raises(ModelError, match="at least 4 classes"):
        losses.dlr_targeted(logits[:, :3], y, t)


def test_a_later_round_sees_only_the_survivors(net, images):
    """And an earlier success stays as it is."""
    x, y, index = images
    sizes = []

    def breaks_half(net, x, y, noise):
        sizes.append(len(x))
        x_adv = x.clone()
        half = slice(None, None, 2)
        x_adv[half] = APGD(Linf(1.0), steps=30).rounds(10)[0](net, x[half], y[half], noise[half])
        return x_adv

    attack = SimpleNamespace(rounds=lambda classes: [breaks_half] * 3)
    x_adv = in_rounds(attack, net, x, y, Noise(0, index, "t"))
    with torch.no_grad():
        assert sizes == [24, 12, 6]
        assert int((net(x_adv).argmax(1) == y).sum()) == 3
