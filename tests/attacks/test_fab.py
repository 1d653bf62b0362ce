"""FAB: the walk against a slow expression, the verdicts against the official code."""

import copy

import pytest
import torch
from torch import nn

from ardor.attacks.fab import FAB
from ardor.attacks.rounds import rival
from ardor.attacks.threat import L2, Linf
from ardor.engine.modes import attack_view
from ardor.errors import ThreatError
from ardor.noise import Noise
from ardor.testing import TinyNet, check_attack, problem
from ardor.testing.shared import trained
from tests.attacks.conftest import Watched, slow_project
from tests.conftest import LinearNet, batch, filled

THREATS = [Linf(0.03), L2(0.2)]


@pytest.fixture(scope="module")
def net():
    return copy.deepcopy(trained(1, 8, 10, 0)).eval()


@pytest.fixture(scope="module")
def images(net):
    x, _, index = problem(1, 8, 10, 1, 24)
    x = x.double()
    return x, net(x).argmax(1), index


# The walk


def slow_size(threat, d):
    return float(d.abs().max()) if isinstance(threat, Linf) else float(d.pow(2).sum().sqrt())


def slow_dual(threat, w):
    return float(w.abs().sum()) if isinstance(threat, Linf) else float(w.pow(2).sum().sqrt())


def slowly(net, x, y, target, threat, steps, start, alpha=0.1, eta=1.05, beta=0.9):
    """One image in float64, to the last step whatever it finds: its path, and its nearest adversarial image."""
    shape, x, x_k = x.shape, x.flatten(), start.flatten()
    path, nearest, least, first = [], None, float("inf"), None
    for _ in range(steps):
        z = x_k.clone().requires_grad_()
        logits = net(z.reshape(1, *shape))[0]
        candidates = []
        for t in range(len(logits)) if target is None else [target]:
            if t != y:
                (w,) = torch.autograd.grad(logits[t] - logits[y], z, retain_graph=True)
                c = float((logits[t] - logits[y]).detach())
                candidates.append((abs(c) / (slow_dual(threat, w) + 1e-12), t, c, w))
        _, _, c, w = min(candidates, key=lambda v: v[:2])
        d1 = slow_project(threat, x_k, w, torch.tensor(c, dtype=x.dtype))
        d2 = slow_project(threat, x, w, c + (w * (x - x_k)).sum())
        a1, a2 = (max(slow_size(threat, d), 1e-8) for d in (d1, d2))
        a = min(a1 / (a1 + a2), alpha)
        after = ((x_k + eta * d1) * (1 - a) + (x + eta * d2) * a).clamp(0, 1)
        path.append((x_k, after))
        x_k = after
        if int(net(after.reshape(1, *shape))[0].argmax()) != y:
            size = slow_size(threat, after - x)
            if size <= threat.eps and first is None:
                first = after.reshape(shape)
            if size < least:
                nearest, least = after.reshape(shape), size
            x_k = x + beta * (after - x)
    return path, first, nearest, least


@pytest.mark.parametrize("threat", [Linf(1e-5), L2(1e-5)], ids=repr)
@pytest.mark.parametrize(
    ("rank", "again", "fields"),
    [(0, 0, {}), (0, 1, {}), (1, 0, {}), (2, 1, {}), (1, 0, {"alpha": 0.3, "eta": 1.2, "beta": 0.7})],
)
def test_every_step_is_the_slow_expressions(net, images, threat, rank, again, fields):
    """At this eps no image is broken, so all steps of each are recorded."""
    x, y, index = (v[:6] for v in images)
    steps = 6
    watched, noise = Watched(net), Noise(0, index, "t")
    attack = FAB(threat, steps, targets=3 if rank else 0, restarts=2, **fields)
    one = attack.rounds(10)[2 * max(rank - 1, 0) + again]
    x_adv = one(watched, x, y, noise[:])
    assert torch.equal(x_adv, x)
    assert x_adv.data_ptr() != x.data_ptr()
    starts = type(threat)(threat.eps / 2).start(x, "surface", noise[:]) if again else x
    target = rival(net, x, y, rank) if rank else None
    inputs = watched.inputs[1:]
    assert len(inputs) == 2 * steps
    crossed = 0
    for i in range(len(x)):
        aim = None if target is None else int(target[i])
        path, _, _, least = slowly(net, x[i], int(y[i]), aim, threat, steps, starts[i], **fields)
        crossed += least < float("inf")
        for k, both in enumerate(path):
            for ours, theirs in zip(inputs[2 * k : 2 * k + 2], both, strict=True):
                assert float((ours[i].flatten() - theirs).abs().max()) < 1e-9
    assert crossed  # both cases of a step occur


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_leaving_early_changes_no_verdict(net, images, threat, rank):
    """What comes back is the first iterate within eps, and there is one where the nearest of all steps is within."""
    x, y, index = images
    x, y, index, steps = x[:8], y[:8], index[:8], 6
    with attack_view(net) as view:
        ours = FAB(threat, steps, targets=2 if rank else 0).rounds(10)[max(rank - 1, 0)](view, x, y, Noise(0, index))
    target = rival(net, x, y, rank) if rank else None
    broken = 0
    for i in range(len(x)):
        aim = None if target is None else int(target[i])
        _, first, _, least = slowly(net, x[i], int(y[i]), aim, threat, steps, x[i])
        assert (first is not None) == (least <= threat.eps)
        broken += first is not None
        torch.testing.assert_close(ours[i], x[i] if first is None else first, rtol=0, atol=1e-9)
    assert 0 < broken < len(x)


# The official code


def official_verdicts(net, x, y, attack, classes):
    fab = pytest.importorskip("pyautoattack.fab_pt")
    words = {"targeted": True, "n_target_classes": min(attack.targets, classes - 1)} if attack.targets else {}
    norm = type(attack.threat).__name__
    theirs = fab.FABAttack_PT(net, norm=norm, eps=attack.threat.eps, n_iter=attack.steps, device="cpu", **words)
    state = torch.get_rng_state()
    x_adv = theirs.perturb(x, y)  # seeds the global generator
    torch.set_rng_state(state)
    return net(x_adv).argmax(1) == y


@pytest.mark.parametrize("targets", [9, 0])
@pytest.mark.parametrize("norm", [Linf, L2])
@pytest.mark.parametrize(("classes", "radii"), [(10, (0.03, 0.2)), (2, (0.02, 0.15)), (3, (0.02, 0.15))])
def test_its_verdicts_are_the_official_codes(net, norm, targets, classes, radii):
    threat = norm(radii[norm is L2])
    net = copy.deepcopy(net).float() if classes == 10 else filled(TinyNet(1, classes), 5).eval().float()
    x, _, index = problem(1, 8, classes, 2, 60)
    y = net(x).argmax(1)
    attack = FAB(threat, 20 if targets else 12, targets)
    right = official_verdicts(net, x, y, attack, classes)
    x_adv = attack(net, x, y, Noise(0, index, "t"))
    assert torch.equal(net(x_adv).argmax(1) == y, right)
    assert 0 < int(right.sum()) < 60
    assert bool((threat.distance(x_adv, x)[~right] <= threat.eps).all())
    assert torch.equal(x_adv[right], x[right])


# The contract, and what an image costs


@pytest.mark.parametrize("threat", [Linf(0.15), L2(0.8)], ids=repr)
@pytest.mark.parametrize(("targets", "restarts"), [(3, 1), (0, 1), (1, 2)])
def test_contract(threat, targets, restarts):
    # robust images are returned unchanged, so the margin rises by the broken ones: these radii are wide enough
    check_attack(FAB(threat, 10, targets, restarts), random_start=restarts > 1)


def test_the_rounds(net, images):
    assert len(FAB().rounds(10)) == 9
    assert len(FAB(restarts=5).rounds(10)) == 45
    assert len(FAB(targets=0, restarts=5).rounds(10)) == 5
    assert [FAB().fitted(classes).targets for classes in (2, 5, 10, 100)] == [1, 4, 9, 9]
    assert FAB(targets=0).fitted(2).targets == 0
    x, y, index = images
    plain, again = FAB(Linf(0.05), 1, targets=1, restarts=2).rounds(10)
    for one, moved in ((plain, 0.0), (again, 0.025)):
        watched = Watched(net)
        one(watched, x, y, Noise(0, index, "t"))
        assert float(Linf(0.05).distance(watched.inputs[1], x).max()) == pytest.approx(moved, abs=1e-12)


@pytest.mark.parametrize(("targets", "classes"), [(9, 10), (2, 10), (0, 10), (9, 3)])
def test_the_cost_is_what_is_counted(targets, classes):
    passes = {"forward": 0, "backward": 0}

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z):
            passes["forward"] += 1
            return z.clone()

        @staticmethod
        def backward(ctx, grad):
            passes["backward"] += 1
            return grad

    inner = LinearNet(classes=classes)
    x, _, noise = batch(classes=classes, images=4)
    y = inner(x).argmax(1)
    attack = FAB(Linf(1e-9), 5, targets)
    for one in attack.rounds(classes):
        one(lambda z: inner(Counted.apply(z)), x, y, noise[:])
    ranking = len(attack.rounds(classes))  # one pass of the clean images for each round
    assert sum(passes.values()) - ranking == attack.cost(classes)
    assert attack.cost(classes) == {(9, 10): 135, (2, 10): 30, (0, 10): 55, (9, 3): 30}[targets, classes]


def test_an_image_leaves_at_its_first_success(net, images):
    x, y, index = images
    watched = Watched(net)
    FAB(Linf(0.3), targets=1).rounds(10)[0](watched, x, y, Noise(0, index, "t"))
    shown = [len(z) for z in watched.inputs]
    assert shown == sorted(shown, reverse=True)
    assert len(shown) < 20
    assert sum(shown) < 8 * len(x)


def test_the_nearest_plane_is_the_norms():
    """Class 1 gains a little from every value, class 2 much from one."""

    def net(z):
        z = z.flatten(1) - 0.5
        return torch.stack((1 + 0 * z[:, 0], z.sum(1), 20 * z[:, 0]), 1)

    x, y, noise = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, dtype=torch.int64), Noise(0, torch.zeros(1), "t")
    for threat, nearest, distance in ((Linf(0.1), 1, 1 / 64), (L2(0.1), 2, 1 / 20)):
        x_adv = FAB(threat, 1, targets=0)(net, x, y, noise)
        assert int(net(x_adv).argmax()) == nearest
        assert float(threat.distance(x_adv, x)) == pytest.approx(1.05 * distance, rel=1e-5)


def test_blocks_change_nothing(net, images, monkeypatch):
    x, y, index = images
    attack = FAB(Linf(0.05), 10, targets=1)
    expected = attack(net, x, y, Noise(0, index, "t"))
    for values in (1, 200):  # a row at a time, and three, which does not divide the rows
        monkeypatch.setattr("ardor.attacks.fab.BLOCK", values)
        assert torch.equal(attack(net, x, y, Noise(0, index, "t")), expected)


# Nets whose logits or gradients mislead


def test_a_success_on_a_folded_net_counts_only_if_the_net_confirms_it():
    net, (x, _, noise) = LinearNet().requires_grad_(False), batch(classes=2)
    logits = net(x)
    y = logits.argmax(1)
    half = (logits.amax(1) - logits.amin(1))[:, None] / 2 * nn.functional.one_hot(1 - y, 2)

    class Folded:
        """A stand-in whose boundary is at half the distance of the net's."""

        def __call__(self, z):
            return net(z) + half

        def as_given(self):
            return net

    (walk,) = FAB(Linf(1.0), 1).rounds(2)
    alone = walk(lambda z: net(z) + half, x, y, noise)  # a plain function confirms itself
    assert bool((alone != x).flatten(1).any(1).all())
    assert torch.equal(net(alone).argmax(1), y)
    assert torch.equal(walk(Folded(), x, y, noise), x)


@pytest.mark.parametrize("targets", [9, 0])
@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_a_net_that_hides_its_gradients_gives_clean_images_back(net, images, threat, targets):
    x, y, index = images

    class Hidden(nn.Module):
        """Steps: the gradient is 0 everywhere."""

        def forward(self, z):
            return net((8 * z).round() / 8)

    hidden = Hidden()
    y, watched = hidden(x).argmax(1), Watched(hidden)
    x_adv = FAB(threat, 5, targets, restarts=2)(watched, x, y, Noise(0, index, "t"))
    assert all(bool(z.isfinite().all()) for z in watched.inputs)
    robust = hidden(x_adv).argmax(1) == y
    assert int(robust.sum()) > len(x) // 2  # a random start may cross a step
    assert torch.equal(x_adv[robust], x[robust])
    plain = FAB(threat, 5, targets)(hidden, x, y, Noise(0, index, "t"))
    assert torch.equal(plain, x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(threat="Linf"), "expected Linf or L2 for FAB and Square, got str"),
        (dict(steps=0), "expected steps of at least 1, got 0"),
        (dict(restarts=0), "expected restarts of at least 1, got 0"),
        (dict(targets=-1), "expected targets of at least 0, got -1"),
        (dict(alpha=1.5), "alpha in"),
        (dict(alpha=-0.1), "alpha in"),
        (dict(eta=0.9), "eta at least 1"),
        (dict(beta=0.0), "beta in"),
        (dict(beta=1.1), "beta in"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(ThreatError, match=message):
        FAB(**fields)
