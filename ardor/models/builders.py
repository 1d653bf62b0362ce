"""build: the name of a builder, or of third-party code, to a net with fresh weights."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from ardor.errors import ConfigError, ModelError, shown
from ardor.models.mobilenet_v2 import mobilenet_v2
from ardor.models.normalise import Normalised, Numbers
from ardor.models.resnet import resnet18, resnet50
from ardor.models.small import small_cnn
from ardor.models.timm_nets import is_timm, statistics_of, timm_builder
from ardor.models.wide_resnet import wide_resnet, wide_resnet_silu
from ardor.noise import seeded
from ardor.storage.arguments import typed
from ardor.storage.imports import RESERVED, cause_of, nearest, resolve

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mobilenet_v2": mobilenet_v2,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "small_cnn": small_cnn,
    "wide_resnet": wide_resnet,
    "wide_resnet_silu": wide_resnet_silu,
}


MOST, MOST_CLASSES = 4096, 65536
"""The largest numbers that an option of a builder, and `classes`, take."""
MOST_VALUES = 1 << 32
"""The most parameters of a net: 17 GB in float32."""


@typed
def build(
    name: str,
    *,
    classes: int = 10,
    channels: int | None = None,
    seed: int = 0,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    **options: Any,
) -> nn.Module:
    """The net called `name`, with weights drawn from `seed`; the global random generator is left as it was.

    `net.built_as` records the arguments: `build(**net.built_as)` is the same net.

    Parameters
    ----------
    name
        A builder's ("resnet18", "ResNet-18" and "MOBILENET_V2" alike), `timm:NAME`, or `file.py:Name` or
        `package.module:Name` for your own callable that returns an nn.Module; classes and channels are passed only if
        its signature has them.
    classes
        Number of logits; on a command line, that of the data.
    channels
        Channels of the images; None is the builder's default, 1 for small_cnn and 3 for the rest; on a command line,
        those of the data.
    seed
        Seed of the initial weights.
    mean, std
        One number per channel on the [0, 1] scale, of the net's first layer; before a net of your own that has no
        parameters of these names.
    options
        Other parameters of the builder, such as width; of timm's nets `pretrained`, `img_size`, `drop_path`, `drop` and
        the arguments of their classes.

    Returns
    -------
    nn.Module
        Images (B, C, H, W) in [0, 1] to logits (B, classes), in train mode.

    Raises
    ------
    ConfigError
        For a name or option that does not exist, and for a number that does not fit.
    ModelError
        Where the callable returns no nn.Module.
    """
    counts = {"classes": classes} if channels is None else {"classes": classes, "channels": channels}
    for key, value in counts.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"expected {key} as a whole number of 1 or more, got {value!r}: type --model.{key} 10")
    if type(seed) is not int or not 0 <= seed < 2**63:
        got = shown(repr(seed), 30)
        raise ConfigError(f"expected seed as a whole number from 0 to below 2**63, got {got}: type --model.seed 0")
    name, builder = find_builder(name)
    if is_timm(name) and mean is None and std is None:  # recorded: another release of timm may have others
        mean, std = statistics_of(name, channels or 3)
    parameters = inspect.signature(builder).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    statistics = {key: value for key, value in (("mean", mean), ("std", std)) if value is not None}
    outside = bool(statistics) and not open_ended and not {"mean", "std"} & parameters.keys()
    options |= {} if outside else statistics
    if not open_ended:
        if unknown := next((option for option in options if option not in parameters), None):
            takes = ", ".join(parameters) or "none"
            raise ConfigError(
                f'expected an option of {name}, got "{unknown}"{nearest(unknown, parameters)}: it takes {takes}'
            )
        passed = {key: value for key, value in counts.items() if key in parameters}
    else:
        passed = counts
    if is_timm(name) or builder in BUILDERS.values():
        _require_numbers(name, passed | options)
    if builder in BUILDERS.values():
        _require_size(name, builder, passed | options)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # that of the images, whatever a user's default is
    try:
        with seeded(seed):
            net = builder(**passed, **options)
    finally:
        torch.set_default_dtype(default)
    if not isinstance(net, nn.Module):
        raise ModelError(f"expected {name} to return an nn.Module, got {type(net).__name__}: name what builds the net")
    if outside:
        net = Normalised(net, mean, std)
    # past nn.Module's own bookkeeping, which is for tensors and modules
    vars(net)["built_as"] = {"name": name, **counts, **(options | statistics), "seed": seed}
    return net


def _require_numbers(name: str, options: dict[str, Any]) -> None:
    """Raise ConfigError for numbers that no net is built from."""
    for key, value in options.items():
        most = MOST_CLASSES if key == "classes" else MOST
        if isinstance(value, int) and not -1 < value <= most:
            raise ConfigError(
                f"expected {key} of {name} as a whole number of at most {most:,}, got {shown(value, 30)}: type another"
            )


def _require_size(name: str, builder: Callable[..., object], options: dict[str, Any]) -> None:
    """Raise ConfigError for options that no net is built from, before memory is taken."""
    try:
        with torch.device("meta"), seeded(0):
            net = cast(nn.Module, builder(**options))
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        listed = ", ".join(f"{key} {shown(value, 30)}" for key, value in options.items())
        raise ConfigError(
            f"expected options that {name} can be built with, got {listed} ({cause_of(error)}): correct them"
        ) from error
    values = sum(value.numel() for value in net.parameters())
    if values > MOST_VALUES:
        raise ConfigError(f"expected {name} with at most {MOST_VALUES:,} parameters, got {values:,}: make it narrower")


def is_named(name: str) -> bool:
    """Whether `name` is a builder's or timm's, which is no code: files that are read may have it."""
    return known(name) is not None or is_timm(name)


def known(name: str) -> str | None:
    """The builder that `name` means, whatever its case and hyphens, or None."""
    plain = re.sub(r"[-_ ]", "", name).lower()
    return next((builder for builder in BUILDERS if builder.replace("_", "") == plain), None)


def find_builder(name: str) -> tuple[str, Callable[..., object]]:
    """The name as it is recorded, and the callable that it means. Raises ConfigError as `build` does."""
    if builder := known(name):
        return builder, BUILDERS[builder]
    if is_timm(name):
        return name, timm_builder(name)
    if name.partition(":")[0] in RESERVED:
        raise ConfigError(f'expected a net to build, got a trained one, {name}: call ardor.models.load("{name}")')
    if ":" in name:
        callable_ = resolve(name, "model")
        if isinstance(callable_, nn.Module) or not callable(callable_):
            kind = type(callable_).__name__
            raise ConfigError(f"expected {name} to be a callable that builds a net, got a {kind}: name its class")
        return name, cast(Callable[..., object], callable_)
    raise ConfigError(
        f'expected the name of a net, got "{shown(name)}"{nearest(name, BUILDERS)}: '
        f"type one of {', '.join(BUILDERS)}, timm:NAME, or file.py:Name for your own"
    )


def builder(name: str) -> Callable[..., object]:
    """The callable that a net's name means. Raises ConfigError as `build` does."""
    return find_builder(name)[1]
