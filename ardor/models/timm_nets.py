"""timm: names to nets: a net of timm behind its normalisation, with `features` and `head`; its weights and licence.

Only names that timm lists are taken, and only the safetensors files of its own repositories on the Hub: from the
Hub client's cache where they are there, without a request.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from ardor.errors import CheckpointError, ConfigError, ModelError, shown
from ardor.models.normalise import Numbers, normalise
from ardor.storage.imports import cause_of, nearest, require_package

PREFIX, WEIGHTS = "timm:", "model.safetensors"
TIMEOUT = 1.5  # seconds until a machine without a network gives up; the client's own retries take half a minute
RATES = {"drop_path": "drop_path_rate", "drop": "drop_rate"}
"""Options here, and timm's."""


class Timm(nn.Module):
    """A net of timm behind its normalisation. Images (B, channels, H, W) in [0, 1] -> logits (B, classes)."""

    foldable: ClassVar[bool] = True

    def __init__(self, normalise: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.normalise, self.net = normalise, net

    def features(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, d), the input of the last linear layer."""
        net: Any = self.net
        features: Tensor = net.forward_head(net.forward_features(self.normalise(x)), pre_logits=True)
        return features

    def head(self, features: Tensor) -> Tensor:
        """(B, d) -> (B, classes)."""
        net: Any = self.net
        logits: Tensor = net.get_classifier()(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        logits: Tensor = self.net(self.normalise(x))
        return logits


def is_timm(name: str) -> bool:
    """Whether a name is of timm."""
    return name.startswith(PREFIX)


def timm_builder(name: str) -> Callable[..., Timm]:
    """The builder of `timm:NAME`. Raises ConfigError for a name that timm does not list, or without timm."""
    config_of(name)

    def build(
        classes: int = 10,
        channels: int = 3,
        *,
        pretrained: bool = False,
        img_size: int | Sequence[int] | None = None,
        drop_path: float | None = None,
        drop: float | None = None,
        mean: Numbers | None = None,
        std: Numbers | None = None,
        **options: Any,
    ) -> Timm:
        """The net.

        Parameters
        ----------
        classes
            Number of logits.
        channels
            Channels of the images.
        pretrained
            Start from timm's weights, from the Hub or its cache; a head for other classes is new.
        img_size
            Height and width of the images in pixels, one number where they are equal, for a net of a fixed size; on a
            command line, those of the data.
        drop_path, drop
            Rates of drop path and of dropout before the head, in training; None is the net's own.
        mean, std
            One number per channel on the [0, 1] scale; None and None are `statistics_of`.
        options
            Other arguments of the net's class in timm.
        """
        rates = {"drop_path": drop_path, "drop": drop}
        for key, rate in rates.items():
            if rate is not None and not 0 <= rate < 1:
                raise ConfigError(f"expected {key} of {name} from 0 to below 1, got {rate:g}: type --model.{key} 0.1")
        given = {**options, **{RATES[key]: rate for key, rate in rates.items() if rate is not None}}
        given |= {} if img_size is None else {"img_size": img_size}
        net = _create(name, given, pretrained, num_classes=classes, in_chans=channels)
        timm = Timm(normalise(channels, mean, std), net)
        if pretrained:
            vars(timm)["start"] = start_of(name, classes)
        return timm

    return build


def config_of(name: str) -> Any:
    """timm's record of a net's pretrained weights. Raises ConfigError for a name that timm does not list."""
    timm, plain = require_package("timm", "timm", name), name.removeprefix(PREFIX)
    arch, _, tag = plain.partition(".")
    if not timm.is_model(arch):
        raise ConfigError(
            f'expected a net of timm, got "{shown(plain)}"{nearest(plain, timm.list_models())}: '
            "timm.list_models() lists the names"
        )
    if tag and not timm.is_model_pretrained(plain):
        tags = [full.partition(".")[2] for full in timm.list_pretrained(arch)]
        raise ConfigError(
            f'expected weights of {arch} that timm has, got the tag "{shown(tag)}"{nearest(tag, tags)}: type one of '
            f"{', '.join(tags) or 'none'}, or {PREFIX}{arch}"
        )
    return timm.models.get_pretrained_cfg(plain)


def start_of(name: str, classes: int) -> dict[str, Any]:
    """The source of pretrained weights, their licence, and whether the head is new."""
    config = config_of(name)
    start = {"weights": config.hf_hub_id, "licence": config.license or "unknown"}
    head = {} if classes == config.num_classes else {"head": f"new, {classes} classes for {config.num_classes}"}
    return {**start, **head}


def sizes_of(name: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    """`img_size` for images (C, H, W), where the net is of a fixed size."""
    height, width = shape[1:]
    size = height if height == width else [height, width]
    return {"img_size": size} if config_of(name).fixed_input_size else {}


def options_of(name: str, weights: object, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `build` for a net with weights: of a file, or where `weights` is None timm's, as published.

    Raises ModelError for other classes than those of timm's weights, whose head would be random.
    """
    own, kept = config_of(name).num_classes, untrained({"name": name, **options})
    del kept["name"]
    if weights is not None:
        return {"classes": own, **kept}
    if kept.pop("classes", own) != own:
        raise ModelError(
            f"expected a net of {options['classes']} classes, got {name}, which has {own}: choose a teacher of these "
            "data, or type --model.weights FILE.safetensors"
        )
    kept.pop("channels", None)  # a first layer for other channels would be no published net
    return {**kept, "classes": own, "pretrained": True}


def renamed(net: Timm, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state under the names of this release of timm, and for the net's size of images, by the rule of its module."""
    rule = getattr(sys.modules[type(net.net).__module__], "checkpoint_filter_fn", None)
    try:
        return dict(rule({**state}, net.net)) if rule else {**state}
    except Exception:  # a file of another net: what does not fit is named by the caller
        return {**state}


def untrained(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `build` of a net whose weights come from a file: without a request for timm's own."""
    kept = {key: value for key, value in config.items() if key != "pretrained"}
    return kept if is_timm(str(config.get("name"))) else dict(config)


def statistics_of(name: str, channels: int) -> tuple[Numbers, Numbers]:
    """The mean and std that timm's weights were trained with; their averages for other channels. Raises ModelError."""
    config = config_of(name)
    if not (config.mean and config.std):
        raise ModelError(
            f"expected mean and std in timm's pretrained_cfg of {name}, got none: type --model.mean and --model.std"
        )
    mean, std = ([*values] if len(values) == channels else [sum(values) / len(values)] * channels
                 for values in (config.mean, config.std))  # fmt: skip
    return mean, std


def _create(name: str, options: dict[str, Any], pretrained: bool, **sizes: int) -> nn.Module:
    timm, plain = require_package("timm", "timm", name), name.removeprefix(PREFIX)
    reserved = {*inspect.signature(timm.create_model).parameters, "device", "dtype"}
    if own := next((key for key in options if key in reserved), None):
        raise ConfigError(f'expected an option of the net {name}, got "{own}", of timm\'s loading: leave it out')
    weights = {"pretrained_cfg_overlay": {"file": str(_file(name)), "custom_load": False}} if pretrained else {}
    try:
        net: nn.Module = timm.create_model(plain, pretrained=pretrained, **weights, **sizes, **options)
    except Exception as error:  # whatever the net's class raises for its arguments
        raise ConfigError(_refused(name, options, sizes, error)) from error
    for key in ("pretrained_cfg", "default_cfg"):  # of the file, and no setting of the net
        vars(net).pop(key, None)
    return net


def _refused(name: str, options: Mapping[str, Any], sizes: Mapping[str, int], error: Exception) -> str:
    if match := re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error)):
        cls, option = match.groups()
        option = next((ours for ours, theirs in RATES.items() if theirs == option and ours not in options), option)
        timm: Any = sys.modules["timm"]
        place = sys.modules[timm.model_entrypoint(name.removeprefix(PREFIX).partition(".")[0]).__module__]
        made = getattr(place, cls, None)
        ours = {theirs: ours for ours, theirs in RATES.items()}
        takes = [ours.get(key, key) for key in (inspect.signature(made).parameters if made else ()) if key not in sizes]
        return f'expected an option of {name}, got "{option}"{nearest(option, takes)}: it takes {", ".join(takes)}'
    listed = ", ".join(f"{key} {shown(value, 30)}" for key, value in {**sizes, **options}.items())
    return f"expected options that {name} can be built with, got {listed} ({cause_of(error)}): correct them"


def _file(name: str) -> Path:
    """The file of timm's weights in the Hub client's cache, downloaded to it where it is absent."""
    hub, repository = require_package("huggingface_hub", "timm", name), config_of(name).hf_hub_id
    if not repository:
        raise ConfigError(f"expected a net with weights of timm, got {name} without: leave pretrained out")
    cached = hub.try_to_load_from_cache(repository, WEIGHTS)
    if isinstance(cached, str):
        return Path(cached)
    try:
        hub.HfApi().model_info(repository, timeout=TIMEOUT)  # fails at once without a network
        return Path(hub.hf_hub_download(repository, WEIGHTS))
    except Exception as error:  # exceptions of the client, and of whichever HTTP library it uses
        raise CheckpointError(
            f"expected the weights of {name} from {repository}, which are in no cache here, got {cause_of(error)}: "
            f"check the network, or type --model.weights FILE.safetensors with a copy of its {WEIGHTS}"
        ) from error
