"""Checks on a net with one batch in a few passes: its logits and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ardor import losses
from ardor.engine.modes import attack_view
from ardor.errors import ModelError
from ardor.evaluation.findings import Finding, present
from ardor.noise import seeded
from ardor.types import Images, Labels, Logits, Net

HALF = (torch.float16, torch.bfloat16)

FEW, CALLS = 16, 8
"""Images and calls to detect randomness: a net that takes one of two ways per call is missed once in 128."""


def of_net(net: nn.Module, x: Images, y: Labels) -> list[Finding]:
    """Every finding on the net. Modes, flags and the global random generator are restored.

    Parameters
    ----------
    net : nn.Module
        As given, not inside `attack_view`: its mode is checked too.
    x : Images
        (B, C, H, W) in [0, 1], B different images.
    y : Labels
        (B,) int64.

    Raises
    ------
    ModelError
        The net returns no finite logits, one row for each image.
    """
    findings = [training_mode(net), float16(net)]
    with attack_view(net) as view, seeded(0):
        logits = logits_of(net, x)
        findings += [probabilities(logits), constant(logits.argmax(1), y)]
        findings += [randomised([logits_of(net, x[:FEW]) for _ in range(CALLS)])]
        findings += [batch_mates(*in_other_batch(net, x, logits))]
        findings += [without_gradients(net)]
        if findings[-1] is None:
            right = logits.argmax(1) == y
            ce, margin = (gradient(view, x[right], y[right], loss) for loss in ("ce", "margin"))
            findings += [nan_gradients(ce, margin), zero_gradients(ce, margin)]
    return present(*findings)


@torch.no_grad()
def logits_of(net: Net, x: Images, where: str = "") -> Logits:
    """The logits of x, checked.

    Parameters
    ----------
    net : Net
        The net.
    x : Images
        (B, C, H, W) in [0, 1].
    where : str
        For messages, such as " under fgsm".

    Returns
    -------
    Logits
        (B, classes), finite.

    Raises
    ------
    ModelError
        The net returns anything else, or is in half precision and refuses x.
    """
    try:
        logits = net(x)
    except RuntimeError as error:
        half = float16(net) if isinstance(net, nn.Module) else None
        if half is None:
            raise
        cause = str(error).splitlines()[0]
        raise ModelError(
            f"expected a net that takes float32 images, got one that refuses them ({cause}): {half.evidence}; "
            "type net.float() first"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"expected logits as one tensor of shape ({len(x)}, classes) for {len(x)} images, got {got}: "
            "return only the logits, and give features by a method called features"
        )
    if not bool(logits.isfinite().all()):
        bad = int((~logits.isfinite()).any(1).sum())
        raise ModelError(
            f"expected finite logits{where}, got NaN or infinity on {bad} of {len(x)} images: check the weights and "
            "the normalisation"
        )
    return logits


def in_other_batch(net: Net, x: Images, logits: Logits) -> tuple[Logits, Logits]:
    """The logits of the first half of x: as given, and in other places beside other images; empty for one image.

    The batch keeps its shape, so that the same kernels compute it.
    """
    half = len(x) // 2
    if not half:
        return logits[:0], logits[:0]
    mixed = torch.cat([x[:half].flip(0), x[:1].expand(len(x) - half, *x.shape[1:])])
    return logits[:half], logits_of(net, mixed)[:half].flip(0)


@torch.enable_grad()
def gradient(net: Net, x: Images, y: Labels, loss: str) -> Tensor:
    """The gradient of a loss (ardor.losses.BY_NAME) at x; zeros where no path leads back to the images."""
    z = x.detach().clone().requires_grad_()
    value = losses.BY_NAME[loss](net(z), y).sum() if len(x) else z.sum()
    if not value.requires_grad:
        return torch.zeros_like(z)
    (grad,) = torch.autograd.grad(value, z, allow_unused=True)
    return torch.zeros_like(z) if grad is None else grad


def without_gradients(net: nn.Module) -> Finding | None:
    """The net is a file on a runtime without gradients that cannot be simulated; its `without_gradients` is why."""
    reason = getattr(net, "without_gradients", "")
    advice = "judge it with --suite square, and with images made against the net that it came from"
    return Finding("without_gradients", "note", reason, advice) if reason else None


def training_mode(net: nn.Module) -> Finding | None:
    """The net was in training mode; it is judged in eval mode and restored."""
    on = [name or "the net itself" for name, module in net.named_modules() if module.training]
    if not on:
        return None
    evidence = f"{len(on)} modules were in training mode, the first is {on[0]}"
    return Finding("training_mode", "note", evidence, "judged in eval mode and put back")


def float16(net: nn.Module) -> Finding | None:
    """Any weight or buffer in half precision: gradients vanish early there, and logits are coarse."""
    state = [(name, value.dtype) for part in (net.named_parameters(), net.named_buffers()) for name, value in part]
    half = [(name, str(dtype).removeprefix("torch.")) for name, dtype in state if dtype in HALF]
    if not half:
        return None
    evidence = f"{len(half)} of {len(state)} weights and buffers are {half[0][1]}, the first is {half[0][0]}"
    return Finding("float16", "warning", evidence, "judge it in float32: type net.float()")


ONE = 1e-3
"""probabilities: how far from 1 a row's sum may be; a softmax in half precision is that far off."""


def probabilities(logits: Tensor) -> Finding | None:
    """The net returns probabilities: rows that are non-negative and sum to 1 flatten the gradients of every attack."""
    sums = logits.sum(1)
    match = bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=ONE)
    evidence = f"{len(logits)} outputs are non-negative and each sums to 1"
    advice = "return logits: drop the softmax, which hides gradients"
    return Finding("probabilities", "error", evidence, advice) if match else None


OTHERS = 10
"""constant: images whose label is not the one class predicted. With fewer, a good net may have got one class only."""


def constant(predicted: Labels, y: Labels) -> Finding | None:
    """One class for every image, though many are of others: not trained, or not on images like these."""
    others = int((y != predicted[0]).sum())
    constant = others >= OTHERS and bool((predicted == predicted[0]).all())
    evidence = f"all {len(y)} images are taken for class {int(predicted[0])}, {others} of them wrongly"
    advice = "check that the weights were loaded, and the images' scale"
    return Finding("constant", "error", evidence, advice) if constant else None


CHANGE = 1e-4
"""randomised: of the logits' range. The same call on the same machine repeats to about 1e-7 of it."""


def randomised(calls: Sequence[Logits]) -> Finding | None:
    """Identical calls returned other logits: a gradient is one draw of many, and so is a verdict."""
    apart, span = max(float((z - calls[0]).abs().max()) for z in calls), float(calls[0].max() - calls[0].min())
    evidence = f"{len(calls)} identical calls returned logits up to {apart:.3g} apart, of a range of {span:.3g}"
    advice = "judge it with the suite rand, which averages gradients over 20 draws, and say so beside the figures"
    return Finding("randomised", "error", evidence, advice) if apart > CHANGE * span else None


MATES = 1e-3
"""batch_mates: of the logits' range. A row's rounding hardly depends on its neighbours in a batch of one shape, not
even with TF32, which rounds to 5e-4; a batch norm that takes its batch's own statistics moves logits by tenths."""


def batch_mates(one: Logits, other: Logits) -> Finding | None:
    """The same images in other places beside others gave other logits: a verdict depends on its batch."""
    if not len(one):
        return None
    apart, span = float((one - other).abs().max()), float(one.max() - one.min())
    evidence = f"{len(one)} images among others returned logits up to {apart:.3g} apart, of a range of {span:.3g}"
    advice = "look for batch norm without running statistics, or a mean over the batch: each image must stand alone"
    return Finding("batch_mates", "error", evidence, advice) if apart > MATES * span else None


LOST = 0.01
"""zero_gradients: of the correctly classified images. A blank image may cost a dead ReLU; more is a mask."""


def zero_gradients(ce: Tensor, margin: Tensor) -> Finding | None:
    """Gradients that are exactly 0: an attack that follows them stays where it is. ce, margin: (B, ...) each."""
    n = len(ce)
    no_ce, no_margin = (int((g == 0).flatten(1).all(1).sum()) if n else 0 for g in (ce, margin))
    if max(no_ce, no_margin) <= LOST * n:
        return None
    evidence = (
        f"of {n} correctly classified images cross-entropy's gradient is exactly 0 on {no_ce}, the logit margin's on "
        f"{no_margin}"
    )
    if no_margin > LOST * n:
        advice = "find what stops it: rounding, detach, argmax, a lookup; until then only black-box figures count"
        return Finding("zero_gradients", "error", evidence, advice)
    advice = "the logits are too far apart for float32: quote attacks on the margin or DLR (cw, apgd), not PGD alone"
    return Finding("zero_gradients", "warning", evidence, advice)


def nan_gradients(ce: Tensor, margin: Tensor) -> Finding | None:
    """Gradients that are NaN or infinite on any correctly classified image. ce, margin: (B, ...) each."""
    bad = int((~(ce.isfinite() & margin.isfinite())).flatten(1).any(1).sum()) if len(ce) else 0
    evidence = f"the gradient is NaN or infinite on {bad} of {len(ce)} correctly classified images"
    advice = "look for a root, a logarithm or a division at 0, and add a small constant there"
    return Finding("nan_gradients", "error", evidence, advice) if bad else None
