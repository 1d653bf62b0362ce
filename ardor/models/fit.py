"""require_fit: whether a net fits the data, before any work is done."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ardor.engine.modes import attack_view
from ardor.errors import ModelError
from ardor.models.mobilenet_v2 import MobileNetV2
from ardor.models.normalise import Normalise
from ardor.models.resnet import ResNet
from ardor.models.stem import SIDE
from ardor.models.timm_nets import is_timm, sizes_of
from ardor.models.wide_resnet import WideResNet, WideResNetSilu
from ardor.storage.imports import cause_of

CIFAR_FORM = (ResNet, MobileNetV2, WideResNet, WideResNetSilu)
OPTIONS = {"surrogate": "transfer_from", "net": "model"}
"""The configuration's key of a net, where that is another word."""


def require_fit(net: nn.Module, shape: tuple[int, int, int], classes: int, who: str = "net") -> None:
    """Require `classes` finite logits for one zero image; modes are restored.

    Parameters
    ----------
    net
        Images (B, C, H, W) float32 in [0, 1] to logits (B, classes).
    shape
        (C, H, W) of an image.
    classes
        Number of classes of the data.
    who
        "student", "teacher", "net" or "surrogate", for the message.

    Raises
    ------
    ModelError
        For a net of other channels or classes, CIFAR's form above 64 pixels, one that does not take the image, or not
        two, or changes it in place, and an output that is not one tensor (1, classes) of finite floats.
    """
    channels = shape[0]
    for name, weights in [*net.named_parameters(), *net.named_buffers()]:
        if is_lazy(weights) or weights.is_meta:
            got = (
                "not initialised: call the net on an image" if is_lazy(weights) else "on the device meta: load weights"
            )
            raise ModelError(f"expected the weights of the {who} in memory, got {name} {got} first")
        if weights.is_inference():
            raise ModelError(
                f"expected weights of the {who} that can have gradients, got {name} of torch.inference_mode: build or "
                "load the net outside of it"
            )
    for module in net.modules():
        # a grey image minus three means is, by broadcasting, a colour image, and no forward pass fails
        if isinstance(module, Normalise) and len(module.mean) != channels:
            raise ModelError(_other_channels(net, len(module.mean), channels, who))
    _require_stem(net, shape, who)
    image = _image(net, shape)
    with torch.no_grad(), attack_view(net):
        try:
            logits = net(image)
        except Exception as error:  # a third-party net may raise anything; the cause stays attached
            stem = next((m for m in net.modules() if isinstance(m, nn.Conv2d)), None)
            if stem is not None and stem.in_channels != channels:
                raise ModelError(_other_channels(net, stem.in_channels, channels, who)) from error
            other = next((p for p in [*net.parameters(), *net.buffers()] if _is_narrow_or_wide(p)), None)
            if other is not None:
                dtype = str(other.dtype).removeprefix("torch.")
                raise ModelError(
                    f"expected a {who} that takes float32 images, got {dtype} weights and {cause_of(error)}: type "
                    "net.float() first"
                ) from error
            raise ModelError(
                f"expected the {who} to take an image of shape {tuple(image.shape)}, got {cause_of(error)}: "
                + _size_advice(net, shape, who)
            ) from error
    if image._version:
        raise ModelError(
            f"expected the {who} to leave its images as they are, got one that changes them in place: take the "
            "operation that makes new ones, such as x - 0.5 for x.sub_(0.5)"
        )
    _require_logits(net, logits, classes, who)
    with torch.no_grad(), attack_view(net):
        try:
            pair = tuple(net(image.repeat(2, 1, 1, 1)).shape)
        except Exception as error:
            raise ModelError(
                f"expected the {who} to take batches, got {cause_of(error)} for two images: let forward return "
                f"(B, {classes}) for any B, or export it with a free batch"
            ) from error
    if pair != (2, classes):
        raise ModelError(f"expected logits of shape (2, {classes}) from the {who} for two images, got {pair}")


def require_gradient(net: nn.Module, shape: tuple[int, int, int], who: str = "net") -> None:
    """Require a path from the logits back to the image, which attacks by gradient follow. Raises ModelError."""
    with torch.enable_grad(), attack_view(net):
        image = _image(net, shape).requires_grad_()
        logits = net(image)
        found = logits.requires_grad and torch.autograd.grad(logits.sum(), image, allow_unused=True)[0] is not None
    if not found:
        raise ModelError(
            f"expected the {who} to have a gradient at its images, got logits without one: find what stops it "
            "(rounding in NumPy, detach, no_grad, argmax, a lookup); until then only black-box attacks count, such as "
            "Square (suites.square, --suite square)"
        )


def _image(net: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    """One black image, float32 by the contract of a model, on the net's device."""
    first = next((p for p in net.parameters() if p.is_floating_point()), torch.zeros(0))
    return torch.zeros(1, *shape, dtype=torch.float32, device=first.device)


def _is_narrow_or_wide(weights: Tensor) -> bool:
    return weights.is_floating_point() and weights.dtype != torch.float32


def _other_channels(net: nn.Module, expected: int, channels: int, who: str) -> str:
    advice = _advice(net, who, "channels", expected, channels)
    return f"expected the {who} to take the data's {channels} image channels, got a net for {expected}: {advice}"


def _advice(net: nn.Module, who: str, key: str, has: int, wanted: int) -> str:
    """Another option for a net that is built anew; another net for one with weights, or of its own mind."""
    if hasattr(net, "loaded_from") or getattr(net, "built_as", {}).get(key) in (None, wanted):
        return f"choose a net for {wanted} {key}, or data of {has}"
    return f"type --{OPTIONS.get(who, who)}.{key} {wanted}"


def _require_stem(net: nn.Module, shape: tuple[int, int, int], who: str) -> None:
    """Refuse CIFAR's form for large images: every pass would be at their full size."""
    form = next((m for m in net.modules() if isinstance(m, CIFAR_FORM)), None)
    if form is None or getattr(form, "stem", "cifar") == "imagenet" or max(shape[1:]) <= SIDE:
        return
    trained, option = hasattr(net, "loaded_from"), OPTIONS.get(who, who)
    advice = f"type --{option}.stem imagenet" if hasattr(form, "stem") else "take timm:wide_resnet50_2"
    raise ModelError(
        f"expected a {who} for images of {shape[1]} x {shape[2]}, got {type(form).__name__} in CIFAR's form, for at "
        f"most {SIDE} x {SIDE}: " + ("choose a net for such images, or smaller ones" if trained else advice)
    )


def _size_advice(net: nn.Module, shape: tuple[int, int, int], who: str) -> str:
    """The option of a timm net of a fixed size, unless it comes with weights."""
    name = str(getattr(net, "built_as", {}).get("name"))
    if is_timm(name) and not hasattr(net, "loaded_from") and (size := sizes_of(name, shape)):
        sides = size["img_size"] if isinstance(size["img_size"], list) else [size["img_size"]]
        return f"type --{OPTIONS.get(who, who)}.img_size {' '.join(map(str, sides))}"
    return "choose a net for such images, or data that it fits"


def _require_logits(net: nn.Module, logits: object, classes: int, who: str) -> None:
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"expected logits from the {who} as one tensor, got {type(logits).__name__}: "
            "return only the logits, and features from a method called features"
        )
    if logits.ndim != 2 or len(logits) != 1:
        raise ModelError(
            f"expected logits of shape (1, {classes}) from the {who} for one image, got {tuple(logits.shape)}: "
            "return (B, classes), without squeeze or spatial axes"
        )
    if logits.shape[1] != classes:
        raise ModelError(
            f"expected the {who} to have the data's {classes} classes, got {logits.shape[1]}: "
            f"{_advice(net, who, 'classes', logits.shape[1], classes)}"
        )
    if not logits.is_floating_point() or not bool(torch.isfinite(logits).all()):
        raise ModelError(
            f"expected finite floating-point logits from the {who}, got {logits.flatten()[:3].tolist()}: "
            "check its weights and its normalisation"
        )
