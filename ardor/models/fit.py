"""require_fit: whether a net can be used with the data at hand, found out before any work is done."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ardor.engine.modes import attack_view
from ardor.errors import ModelError
from ardor.models.normalise import Normalise


def require_fit(net: nn.Module, shape: tuple[int, int, int], classes: int, who: str = "student") -> None:
    """Show `net` one zero image of `shape` (C, H, W) and demand `classes` finite logits; modes are put back.

    who: "student" or "teacher", for the message. Raises ModelError: other channels or classes, an image that the net
    cannot take, an answer that is not one tensor (1, classes) of finite floats.
    """
    _require_statistics(net, shape[0], who)
    first = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(0))
    image = torch.zeros(1, *shape, device=first.device)  # float32, which the contract says
    with torch.no_grad(), attack_view(net):
        try:
            logits = net(image)
        except Exception as error:  # a user's net may raise anything; the cause stays attached
            raise ModelError(_refusal(net, shape, who, error)) from error
    _require_logits(logits, classes, who)


def _require_statistics(net: nn.Module, channels: int, who: str) -> None:
    """A grey image minus three means is, by broadcasting, a colour image: nothing later would notice."""
    for module in net.modules():
        if isinstance(module, Normalise) and len(module.mean) != channels:
            raise ModelError(_other_channels(len(module.mean), channels, who))


def _refusal(net: nn.Module, shape: tuple[int, int, int], who: str, error: Exception) -> str:
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
    if first is not None and first.in_channels != shape[0]:
        return _other_channels(first.in_channels, shape[0], who)
    cause = f"{type(error).__name__}: {error}".splitlines()[0]
    return (
        f"expected the {who} to take an image of shape (1, {', '.join(map(str, shape))}), got {cause}: "
        "choose a net for such images, or data that it fits"
    )


def _other_channels(wanted: int, channels: int, who: str) -> str:
    return (
        f"expected the {who} to take the data's {channels} image channels, got a net for {wanted}: "
        f"type --{who}.channels {channels}"
    )


def _require_logits(logits: object, classes: int, who: str) -> None:
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"expected logits from the {who} as one tensor, got {type(logits).__name__}: "
            "return only the logits, and give features by a method called features"
        )
    if logits.ndim != 2 or len(logits) != 1:
        raise ModelError(
            f"expected logits of shape (1, {classes}) from the {who} for one image, got {tuple(logits.shape)}: "
            "return (B, classes), without squeeze or spatial axes"
        )
    if logits.shape[1] != classes:
        raise ModelError(
            f"expected the {who} to answer the data's {classes} classes, got {logits.shape[1]}: "
            f"type --{who}.classes {classes}"
        )
    if not logits.is_floating_point() or not bool(torch.isfinite(logits).all()):
        raise ModelError(
            f"expected finite floating-point logits from the {who}, got {logits.flatten()[:3].tolist()}: "
            "check its weights and its normalisation"
        )
