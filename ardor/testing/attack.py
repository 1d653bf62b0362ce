"""The contract of an attack."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ardor.attacks.threat import L2, Linf
from ardor.engine.modes import attack_view
from ardor.noise import Noise
from ardor.testing.shared import TOLERANCE, global_rng, problem, require, require_same, snapshot, trained
from ardor.types import Attack, Images, Labels, Net, PerExample, Threat


def check_attack(
    attack: Attack,
    *,
    net: nn.Module | None = None,
    threat: Threat | None = None,
    random_start: bool | None = None,
    climbs: float = 0.5,
    channels: int = 1,
    size: int = 8,
    classes: int = 10,
    seed: int = 0,
) -> None:
    """Refuse an attack that breaks the contract of DESIGN section 3.

    In the ball and in the box; a fresh tensor, x as it was; it climbs; no parameter's gradient, mode, flag or buffer
    is touched, nor the global random generators; an image meets the same fate in any company; the same seed gives the
    same images and, with a random start, another seed others.

    net: logits of (B, channels, size, size) images; None is a TinyNet trained for the purpose. threat: None is
    `attack.threat`. random_start: None reads `attack.start` where there is one. climbs: the attack must raise the
    margin max_{j != y} z_j - z_y, capped at 0 where an image is broken, by this share of what ten plain steps of ascent
    raise it by; lower it for an attack that is meant to be weak. Raises AssertionError.
    """
    threat = threat if threat is not None else getattr(attack, "threat", None)
    if threat is None:
        raise AssertionError(f"expected {attack!r} to have a field `threat`: add it, or pass threat=")
    x, y, index = problem(channels, size, classes, seed)
    x = x.double()
    # a submodule in a mode of its own shows whoever sets the whole net's mode and puts the whole net's back
    odd = nn.Identity()
    probe = nn.Sequential(copy.deepcopy(net if net is not None else trained(channels, size, classes, seed)), odd)
    probe.double().eval().requires_grad_(True)
    odd.train()
    with torch.no_grad():
        y = probe(x).argmax(1)
    y[-1] = (y[-1] + 1) % classes  # one image comes already broken
    noise = Noise(seed, index, "check_attack")

    x_adv = _untouched_by(attack, probe, x, y, noise)
    _require_image(attack, threat, x_adv, x)
    with attack_view(probe) as view:
        _require_climb(attack, view, threat, x_adv, x, y, climbs)
        _require_solitude(attack, view, x_adv, x, y, noise)
    if getattr(attack, "start", "none") != "none" if random_start is None else random_start:
        _require_other_path(attack, probe, x, y, noise)


def _untouched_by(attack: Attack, probe: nn.Sequential, x: Images, y: Labels, noise: Noise) -> Images:
    """Run on the bare net, with gradients in place, and under attack_view, and look at what else changed."""
    for p in probe.parameters():
        p.grad = torch.full_like(p, 0.5)
    batch = (x, y, noise.index)
    given, rng, before = [v.clone() for v in batch], global_rng(), snapshot(probe)
    attack(probe, x, y, noise[:])
    require_same(before, snapshot(probe), attack, "on a net whose parameters want gradients")
    with attack_view(probe) as view:
        probe[1].train()
        before = snapshot(probe)
        x_adv, again = (attack(view, x, y, noise[:]) for _ in range(2))
        require_same(before, snapshot(probe), attack, "under attack_view")
    require(all(map(torch.equal, given, batch)), attack, "to copy what it is given", "it changed in place")
    require(rng == global_rng(), attack, "to draw from `noise`", "a global random generator moved")
    require(torch.equal(again, x_adv), attack, "to give the same images twice for one seed", "others")
    for p in probe.parameters():
        p.grad = None
    return x_adv


def _require_image(attack: Attack, threat: Threat, x_adv: Images, x: Images) -> None:
    require(x_adv.shape == x.shape, attack, f"to return shape {tuple(x.shape)}", f"{tuple(x_adv.shape)}")
    require(x_adv.dtype == x.dtype, attack, f"to return the dtype it was given, {x.dtype}", f"{x_adv.dtype}")
    require(x_adv.data_ptr() != x.data_ptr(), attack, "to return a fresh tensor", "x itself: clone it")
    require(not x_adv.requires_grad, attack, "to return images without a graph", "requires_grad: detach them")
    low, high, far = float(x_adv.min()), float(x_adv.max()), float(_excess(threat, x_adv, x))
    require(low >= 0 and high <= 1, attack, "to stay in [0, 1]", f"[{low:.6g}, {high:.6g}]: end with threat.project")
    require(far <= TOLERANCE, attack, f"to stay in {threat!r}", f"an image {far:.3g} outside: end with threat.project")


def _excess(threat: Threat, x_adv: Images, x: Images) -> Tensor:
    """By how much the worst image leaves the threat, written apart from the threat's own functions where possible."""
    delta = (x_adv - x).flatten(1)
    if isinstance(threat, Linf):
        return delta.abs().max() - threat.eps
    if isinstance(threat, L2):
        return delta.square().sum(1).max().sqrt() - threat.eps
    return (threat.project(x_adv, x) - x_adv).abs().max()


def _require_climb(
    attack: Attack, view: Net, threat: Threat, x_adv: Images, x: Images, y: Labels, climbs: float
) -> None:
    """Compare with plain ascent by the margin, capped where an image is broken: some attacks stop at the border."""
    plain = x.clone()
    for _ in range(10):
        plain.requires_grad_()
        (grad,) = torch.autograd.grad(_margin(view, plain, y).sum(), plain)
        plain = threat.project(threat.ascend(plain.detach(), grad, threat.eps / 4), x)
    clean, attacked, best = (float(_margin(view, z, y).detach().clamp(max=0).mean()) for z in (x, x_adv, plain))
    figures = f"mean capped margin {clean:.4g} clean, {attacked:.4g} attacked, {best:.4g} by ten plain steps"
    require(best > clean, threat, "to let plain ascent climb on this net", figures)
    share = (attacked - clean) / (best - clean)
    require(share >= climbs, attack, f"to climb {climbs:g} of what plain ascent does", f"{share:.3g} of it: {figures}")


def _margin(net: Net, x: Images, y: Labels) -> PerExample:
    z = net(x)
    rows = torch.arange(len(z))
    others = z.clone()
    others[rows, y] = -torch.inf
    return others.amax(1) - z[rows, y]


def _require_solitude(attack: Attack, view: Net, x_adv: Images, x: Images, y: Labels, noise: Noise) -> None:
    """The same images alone, in another order and in a smaller batch."""
    everyone = torch.arange(len(x))
    companies = {"alone": everyone[4:5], "in reversed order": everyone.flip(0), "among every third": everyone[::3]}
    for company, rows in companies.items():
        apart = float((attack(view, x[rows], y[rows], noise[rows]) - x_adv[rows]).abs().max())
        came = f"values {apart:.3g} apart {company}: sum the objective, scale per image, draw from `noise`"
        require(apart <= TOLERANCE, attack, "to treat an image the same in any batch", came)


def _require_other_path(attack: Attack, net: nn.Module, x: Images, y: Labels, noise: Noise) -> None:
    """Another seed starts elsewhere. Compare what the net is shown, for two starts may end in the same corner."""

    def shown(seed: int) -> list[Tensor]:
        seen: list[Tensor] = []
        hook = net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
        attack(net, x, y, Noise(seed, noise.index, noise.purpose))
        hook.remove()
        return seen

    one, other = shown(noise.seed), shown(noise.seed + 1)
    same = len(one) == len(other) and all(map(torch.equal, one, other))
    require(not same, attack, "to start elsewhere for another seed", "the same path: draw from `noise`")
