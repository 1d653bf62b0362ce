"""Attacks against known optima, their formulas and an independent implementation."""

import foolbox
import pytest
import torch
import torch.nn.functional as F

from ardor.attacks import APGD, CW, FAB, FGSM, PGD, Suite, paper, quick
from ardor.attacks.threat import L2, Linf
from ardor.engine.modes import attack_view
from ardor.errors import ModelError, ThreatError
from ardor.noise import Noise
from ardor.storage.config import describe
from ardor.testing import TinyNet
from ardor.types import Maximiser
from tests.attacks.conftest import Watched
from tests.conftest import LinearNet, batch, filled

THREATS = [Linf(8 / 255), Linf(0.1), L2(128 / 255), L2(0.2)]


def net_and_batch(channels=1, classes=10, images=12):
    """A net in eval mode and images of which half the values are exactly 0 or 1."""
    x, y, noise = batch(channels, classes=classes, images=images)
    assert 0.4 < float(((x == 0) | (x == 1)).double().mean()) < 0.6
    return filled(TinyNet(channels, classes, 8), 3).eval().requires_grad_(False), x, y, noise


def by_hand_step(threat, z, g, step):
    """One step of ascent, written out: sign or unit length."""
    if isinstance(threat, Linf):
        return z + step * torch.sign(g)
    return torch.stack([zi + step * gi / gi.pow(2).sum().sqrt() for zi, gi in zip(z, g, strict=True)])


def by_hand_projection(threat, z, x):
    """Onto the ball, then into the box."""
    if isinstance(threat, Linf):
        z = torch.minimum(torch.maximum(z, x - threat.eps), x + threat.eps)
    else:
        rows = []
        for zi, xi in zip(z, x, strict=True):
            length = float((zi - xi).pow(2).sum().sqrt())
            rows.append(xi + (zi - xi) * min(1.0, threat.eps / max(length, 1e-12)))
        z = torch.stack(rows)
    return torch.minimum(torch.maximum(z, torch.zeros_like(z)), torch.ones_like(z))


def by_hand_margin(logits, y):
    rows = zip(logits, y.tolist(), strict=True)
    return torch.stack([torch.stack([r[j] for j in range(len(r)) if j != k]).max() - r[k] for r, k in rows])


def by_hand_pgd(objective, threat, x, start, steps, step):
    """The iterates of projected ascent."""
    z, path = start, []
    for _ in range(steps):
        z = z.detach().requires_grad_()
        (g,) = torch.autograd.grad(objective(z).sum(), z)
        z = by_hand_projection(threat, by_hand_step(threat, z.detach(), g, step), x)
        path.append(z)
    return path


# Known optima


@pytest.mark.parametrize("attack", [FGSM, lambda t: PGD(t, start="none"), PGD, CW])
def test_linf_optimum_on_a_linear_net(attack):
    net, (x, _, noise) = LinearNet(), batch(classes=2)
    y = net(x).argmax(1)
    w = net.linear.weight.detach()
    uphill = (w[1 - y] - w[y]).reshape(x.shape)  # of the margin, everywhere
    optimum = (x + 0.1 * torch.sign(uphill)).clamp(0, 1)
    x_adv = attack(Linf(0.1))(net, x, y, noise)
    assert torch.allclose(x_adv, optimum, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attack", [FGSM, lambda t: PGD(t, start="none"), lambda t: PGD(t, 60), lambda t: CW(t, 60)])
def test_l2_optimum_on_a_linear_net(attack):
    net, (x, _, noise) = LinearNet(), batch(classes=2)
    x = 0.3 + 0.4 * x  # the box is out of reach of 0.2
    y = net(x).argmax(1)
    w = net.linear.weight.detach()
    uphill = (w[1 - y] - w[y]).reshape(x.shape)
    optimum = x + 0.2 * uphill / uphill.flatten(1).norm(dim=1)[:, None, None, None]
    x_adv = attack(L2(0.2))(net, x, y, noise)
    # from a random start the direction closes in by 1 / (1 + 1/4) a step: 0.8 ** 60 = 1.5e-6
    assert torch.allclose(x_adv, optimum, rtol=0, atol=1e-6)


# Formulas


@pytest.mark.parametrize("loss", ["ce", "margin", "dlr"])
@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_fgsm_is_one_step_of_eps(threat, loss):
    net, x, y, noise = net_and_batch()
    if loss == "dlr":
        y = net(x).topk(2, 1).indices[:, 1]  # of a true class that ranks third, it is the constant 1

    def objective(z):
        logits = net(z)
        if loss == "ce":
            return -logits.log_softmax(1)[torch.arange(len(y)), y]
        top = logits.sort(1, descending=True).values
        m = by_hand_margin(logits, y)
        return m if loss == "margin" else m / (top[:, 0] - top[:, 2] + 1e-12)

    (expected,) = by_hand_pgd(objective, threat, x, x.clone(), 1, threat.eps)
    assert torch.allclose(FGSM(threat, loss)(net, x, y, noise), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("start", ["uniform", "unclipped", "gaussian", "none"])
@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_pgd_step_by_step(threat, start):
    net, x, y, noise = net_and_batch(3)
    begin = threat.start(x, start, noise[:])
    path = by_hand_pgd(lambda z: F.cross_entropy(net(z), y, reduction="none"), threat, x, begin, 5, threat.eps / 4)
    watched = Watched(net)
    x_adv = PGD(threat, steps=5, start=start)(watched, x, y, noise)
    # one forward pass at the start and at every projected iterate but the last
    shown = [begin, *path[:-1]]
    assert len(watched.inputs) == 5
    for got, expected in zip([*watched.inputs, x_adv], [*shown, path[-1]], strict=True):
        assert torch.allclose(got, expected, rtol=0, atol=1e-10)


def test_gradient_is_taken_at_the_image_and_not_through_a_clamp():
    # uphill is inward for the black pixels and outward for the white ones: all move that can
    x = torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(1, 1, 2, 2)
    signs = torch.tensor([1.0, -1.0, -1.0, 1.0]).reshape(1, 1, 2, 2)
    for start in ("uniform", "unclipped", "gaussian", "none"):
        attack = PGD(Linf(0.1), 10, start=start)
        x_adv = attack.maximise(lambda z: (signs * z).flatten(1).sum(1), x, Noise(0, torch.tensor([0])))
        assert torch.allclose(x_adv, torch.tensor([0.1, 0.9, 0.0, 1.0]).reshape(1, 1, 2, 2))


@pytest.mark.parametrize("maximiser", [FGSM(), PGD(), PGD(L2())], ids=repr)
def test_maximise_climbs_any_objective_of_the_image(maximiser):
    x, _, noise = batch()
    assert isinstance(maximiser, Maximiser)
    target = torch.full_like(x, 0.5)
    x_adv = maximiser.maximise(lambda z: -(z - target).pow(2).flatten(1).sum(1), x, noise)
    assert ((x_adv - target).flatten(1).norm(dim=1) < (x - target).flatten(1).norm(dim=1)).all()


# An independent implementation


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_pgd_equals_foolbox(threat, channels):
    net, x, y, noise = net_and_batch(channels, images=16)
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    kind = foolbox.attacks.LinfPGD if isinstance(threat, Linf) else foolbox.attacks.L2PGD
    step = 0.3 * threat.eps
    theirs = kind(abs_stepsize=step, steps=10, random_start=False).run(
        model, x, foolbox.criteria.Misclassification(y), epsilon=threat.eps
    )
    ours = PGD(threat, steps=10, step=step, start="none")(net, x, y, noise)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
    assert float((ours - x).abs().max()) > 0.2 * threat.eps / 10


# CW


@pytest.mark.parametrize("threat", [Linf(8 / 255), L2(0.3)], ids=repr)
@pytest.mark.parametrize("kappa", [50.0, 0.0])
def test_cw_climbs_the_margin_up_to_kappa(threat, kappa):
    net, x, y, noise = net_and_batch()
    y = net(x).argmax(1)
    y[::3] = (y[::3] + 1) % 10  # already broken: beyond kappa 0 from the start
    begin = threat.start(x, "uniform", noise[:])

    def objective(z):
        return torch.minimum(by_hand_margin(net(z), y), torch.tensor(kappa, dtype=z.dtype))

    expected = begin
    for _ in range(20):
        z = expected.detach().requires_grad_()
        (g,) = torch.autograd.grad(objective(z).sum(), z)
        if isinstance(threat, L2):  # where the margin is beyond kappa there is no direction
            g = torch.stack([r / max(float(r.norm()), 1e-12) for r in g])
            z = z.detach() + threat.eps / 4 * g
        else:
            z = z.detach() + threat.eps / 4 * g.sign()
        expected = by_hand_projection(threat, z, x)
    x_adv = CW(threat, kappa=kappa)(net, x, y, noise)
    assert torch.allclose(x_adv, expected, rtol=0, atol=1e-9)
    if kappa == 0:
        assert torch.allclose(x_adv[::3], by_hand_projection(threat, begin, x)[::3], rtol=0, atol=1e-12)
        assert not torch.allclose(x_adv, CW(threat)(net, x, y, noise[:]), atol=1e-3)


def test_kappa_of_fifty_never_binds():
    net, x, y, noise = net_and_batch()
    assert float(by_hand_margin(net(x), y).max()) < 50
    assert torch.equal(CW()(net, x, y, noise[:]), CW(kappa=1e9)(net, x, y, noise[:]))


# Suites


def test_paper_is_the_tables_protocol_to_the_letter():
    threat = Linf(8 / 255)
    suite = paper(threat)
    assert isinstance(suite, Suite)
    assert suite.name == "paper"
    assert suite.threat == threat
    assert list(suite.attacks) == ["fgsm", "pgd_sat", "pgd_trades", "cw_inf"]
    fgsm, sat, trades, cw = suite.attacks.values()
    assert fgsm == FGSM(threat, "ce")
    assert sat == PGD(threat, 20, None, "uniform", "ce")
    assert trades == PGD(threat, 20, 0.003, "uniform", "ce")
    assert cw == CW(threat, 20, None, 50.0)
    # the steps that are taken, not only the fields
    x = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64)
    for attack, step in ((sat, 2 / 255), (trades, 0.003)):
        watched = Watched(lambda z: z.flatten(1).sum(1))
        attack.maximise(watched, x, Noise(0, torch.tensor([1])))
        path = [float(z) for z in watched.inputs]
        assert len(path) == 20
        assert path[1] - path[0] == pytest.approx(step, rel=1e-9)


def test_paper_keeps_its_ratios_under_another_threat():
    suite = paper(L2(0.5))
    assert list(suite.attacks) == ["fgsm", "pgd_sat", "pgd_trades", "cw_l2"]
    assert suite.attacks["pgd_trades"].step == pytest.approx(0.5 * 0.003 / (8 / 255))
    assert all(attack.threat == L2(0.5) for attack in suite.attacks.values())
    assert paper(Linf(0.1)).attacks["pgd_trades"].step == pytest.approx(0.1 * 0.003 / (8 / 255))


def test_quick_is_ten_steps():
    suite = quick(Linf(0.1))
    assert (suite.name, suite.threat) == ("quick", Linf(0.1))
    assert suite.attacks == {"pgd_10": PGD(Linf(0.1), 10, None, "uniform", "ce")}


def test_hyperparameters_are_described_as_they_were_written():
    assert describe(PGD()) == {
        "name": "PGD",
        "threat": {"name": "Linf", "eps": "8/255"},
        "steps": 10,
        "step": None,
        "start": "uniform",
        "loss": "ce",
    }
    assert repr(FGSM(L2(0.5))) == "FGSM(threat=L2(eps=0.5), loss='ce')"


# On a net that is being trained


def test_an_attack_in_attack_view_sees_running_statistics():
    net, x, y, noise = net_and_batch()
    student = filled(TinyNet(), 3).train()
    expected = PGD()(net, x, y, noise[:])
    with attack_view(student) as view:
        assert torch.equal(PGD()(view, x, y, noise[:]), expected)
    assert all(p.grad is None for p in student.parameters())


def test_dlr_with_too_few_classes_is_refused():
    net, x, y, noise = net_and_batch(classes=2)
    with pytest.raises(ModelError, match="loss='margin'"):
        PGD(loss="dlr")(net, x, y, noise)


def test_misspelt_options_are_refused_when_the_attack_is_built():
    bad = [(PGD, {"loss": "cee"}), (PGD, {"start": "gausian"}), (FGSM, {"loss": "cee"}), (Linf, {"eps": "8/255"})]
    for make, words in bad:
        with pytest.raises(ThreatError):
            make(**words)


def test_attacks_work_where_gradients_are_off_and_leave_no_graph():
    x, y, noise = batch()
    net = filled(TinyNet()).eval()
    with torch.no_grad():
        inside = PGD(Linf(0.1))(net, x, y, noise[:])
    outside = PGD(Linf(0.1))(net, x.clone().requires_grad_(), y, noise[:])
    assert torch.equal(inside, outside)
    assert not outside.requires_grad
    assert not FGSM(Linf(0.1))(net, x.clone().requires_grad_(), y, noise[:]).requires_grad


def test_an_l2_step_has_its_length_however_small_the_gradient():
    x, _, _ = batch()
    for size in (1.0, 1e-14, 1e-30):
        moved = L2(0.5).ascend(x, size * torch.ones_like(x), 0.1)
        torch.testing.assert_close(L2(0.5).distance(moved, x), torch.full((len(x),), 0.1, dtype=x.dtype))
    assert torch.equal(L2(0.5).ascend(x, torch.zeros_like(x), 0.1), x)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5)], ids=repr)
@pytest.mark.parametrize("make", [FGSM, PGD, CW, APGD, FAB])
def test_a_gradient_that_is_not_finite_moves_nothing_at_that_pixel(make, threat, value):
    net, x, _, noise = net_and_batch()

    def with_gradient(value):
        def at_one_pixel(grad):
            grad = grad.clone()
            grad[::2, :, 3, 4] = value
            return grad

        def patched(z):
            z = z.clone()
            if z.requires_grad:
                z.register_hook(at_one_pixel)
            return net(z)

        attack = make(threat) if make is FGSM else make(threat, steps=4)
        return attack(patched, x, net(x).argmax(1), noise[:])

    assert torch.equal(with_gradient(value), with_gradient(0.0))
    grad = torch.full_like(x, value)
    assert torch.equal(threat.ascend(x, grad, 0.1), x)


@pytest.mark.parametrize("make", [FGSM, PGD, CW, APGD, FAB])
def test_a_net_that_is_cut_from_its_images_has_zero_gradients(make):
    net, x, _, noise = net_and_batch()
    for cut in (lambda z: net(z.detach()), lambda z: net(z.detach()) + torch.zeros(1, requires_grad=True)):
        assert make()(cut, x, net(x).argmax(1), noise[:]).isfinite().all()
