"""The contract of an attack, `ardor.types.Attack`."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ardor.attacks.threat import L2, Linf
from ardor.engine.modes import attack_view
from ardor.losses import margin
from ardor.noise import Noise
from ardor.testing.shared import TOLERANCE, global_rng, problem, require, require_same, snapshot, trained
from ardor.types import Attack, Images, Labels, Net, Threat


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
    """Check the contract of an attack.

    The result is in the ball and in [0, 1], a new tensor, and raises the margin. The inputs, the net's modes, flags,
    buffers, parameters and their gradients, and the global random generators are unchanged. The result for an image
    does not depend on the batch; the same seed gives the same images and, with a random start, another seed others.

    Parameters
    ----------
    attack
        The attack; it is called, not changed.
    net
        Images (B, channels, size, size) to logits; None is a trained TinyNet.
    threat
        The ball; None is `attack.threat`.
    random_start
        Whether the start is random; None is by `attack.start`, if it exists.
    climbs
        Share of the rise of ten plain ascent steps that the attack must reach, in the margin max_{j != y} z_j - z_y
        capped at 0 (misclassified); lower it for an attack that is weak by design.
    channels, size, classes
        Shape of the images and number of classes.
    seed
        Seed of images, net and noise.

    Raises
    ------
    AssertionError
        With the first violation.
    """
    threat = threat if threat is not None else getattr(attack, "threat", None)
    if threat is None:
        raise AssertionError(f"expected {attack!r} to have a field `threat`: add it, or pass threat=")
    x, y, index = problem(channels, size, classes, seed)
    x = x.double()
    # one submodule in another mode than the rest reveals code that sets and restores the mode of the net as one
    odd = nn.Identity()
    probe = nn.Sequential(copy.deepcopy(net if net is not None else trained(channels, size, classes, seed)), odd)
    probe.double().eval().requires_grad_(True)
    odd.train()
    with torch.no_grad():
        y = probe(x).argmax(1)
    y[-1] = (y[-1] + 1) % classes  # one image is misclassified when clean
    noise = Noise(seed, index, "check_attack")

    x_adv = _require_no_side_effects(attack, probe, x, y, noise)
    _require_image(attack, threat, x_adv, x)
    with attack_view(probe) as view:
        _require_climb(attack, view, threat, x_adv, x, y, climbs)
        _require_independence(attack, view, x_adv, x, y, noise)
    if getattr(attack, "start", "none") != "none" if random_start is None else random_start:
        _require_random_start(attack, probe, x, y, noise)


def _require_no_side_effects(attack: Attack, probe: nn.Sequential, x: Images, y: Labels, noise: Noise) -> Images:
    """Run on the net itself, with gradients present, and under attack_view, and compare everything else."""
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
    require(all(map(torch.equal, given, batch)), attack, "to copy its arguments", "arguments changed in place")
    require(rng == global_rng(), attack, "to draw from `noise`", "a global random generator moved")
    require(torch.equal(again, x_adv), attack, "to give the same images twice for one seed", "others")
    for p in probe.parameters():
        p.grad = None
    return x_adv


def _require_image(attack: Attack, threat: Threat, x_adv: Images, x: Images) -> None:
    require(x_adv.shape == x.shape, attack, f"to return shape {tuple(x.shape)}", f"{tuple(x_adv.shape)}")
    require(x_adv.dtype == x.dtype, attack, f"to return the dtype of x, {x.dtype}", f"{x_adv.dtype}")
    require(x_adv.data_ptr() != x.data_ptr(), attack, "to return a new tensor", "x itself: clone it")
    require(not x_adv.requires_grad, attack, "to return images without a graph", "requires_grad: detach them")
    low, high, excess = float(x_adv.min()), float(x_adv.max()), float(_excess(threat, x_adv, x))
    require(low >= 0 and high <= 1, attack, "to stay in [0, 1]", f"[{low:.6g}, {high:.6g}]: end with threat.project")
    came = f"an image {excess:.3g} outside: end with threat.project"
    require(excess <= TOLERANCE, attack, f"to stay in {threat!r}", came)


def _excess(threat: Threat, x_adv: Images, x: Images) -> Tensor:
    """The largest distance outside the threat, independent of the threat's functions for Linf and L2."""
    delta = (x_adv - x).flatten(1)
    if isinstance(threat, Linf):
        return delta.abs().max() - threat.eps
    if isinstance(threat, L2):
        return delta.square().sum(1).max().sqrt() - threat.eps
    return (threat.project(x_adv, x) - x_adv).abs().max()


def _require_climb(
    attack: Attack, view: Net, threat: Threat, x_adv: Images, x: Images, y: Labels, climbs: float
) -> None:
    """Compare with plain ascent by the margin capped at 0: some attacks stop at the decision boundary."""
    plain = x.clone()
    for _ in range(10):
        plain.requires_grad_()
        (grad,) = torch.autograd.grad(margin(view(plain), y).sum(), plain)
        plain = threat.project(threat.ascend(plain.detach(), grad, threat.eps / 4), x)
    clean, attacked, best = (float(margin(view(z), y).detach().clamp(max=0).mean()) for z in (x, x_adv, plain))
    figures = f"mean capped margin {clean:.4g} clean, {attacked:.4g} attacked, {best:.4g} by ten plain steps"
    require(best > clean, threat, "to let plain ascent raise the margin on this net", figures)
    share = (attacked - clean) / (best - clean)
    require(share >= climbs, attack, f"to climb {climbs:g} of what plain ascent does", f"{share:.3g} of it: {figures}")


def _require_independence(attack: Attack, view: Net, x_adv: Images, x: Images, y: Labels, noise: Noise) -> None:
    """The same images alone, in another order and in a smaller batch."""
    index = torch.arange(len(x))
    for batch, rows in {"alone": index[4:5], "in reversed order": index.flip(0), "in every third": index[::3]}.items():
        gap = float((attack(view, x[rows], y[rows], noise[rows]) - x_adv[rows]).abs().max())
        came = f"values {gap:.3g} apart {batch}: sum the objective, scale per image, draw from `noise`"
        require(gap <= TOLERANCE, attack, "to treat an image the same in any batch", came)


def _require_random_start(attack: Attack, net: nn.Module, x: Images, y: Labels, noise: Noise) -> None:
    """Compare the net's inputs under two seeds: the results may be the same corner of the ball."""

    def inputs_of(seed: int) -> list[Tensor]:
        inputs: list[Tensor] = []
        hook = net.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach().clone()))
        attack(net, x, y, Noise(seed, noise.index, noise.purpose))
        hook.remove()
        return inputs

    one, other = inputs_of(noise.seed), inputs_of(noise.seed + 1)
    same = len(one) == len(other) and all(map(torch.equal, one, other))
    require(not same, attack, "to start elsewhere for another seed", "the same iterates: draw from `noise`")
