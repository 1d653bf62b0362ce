"""From the words for nets and data to options, splits and nets."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from ardor import data, models
from ardor.cli.options import options_for
from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.models.builders import known
from ardor.models.loading import source_of


def data_options(name: str | None) -> type:
    """The options of the data set called `name`: those of `load`, and those of its source."""
    if name is None:
        return options_for(data.load, skip=("name",))
    source: Any = options_for(data.reader(name), skip=("name", "root", "download"))
    also = {field.name: (field.type, field.default) for field in dataclasses.fields(source)}
    return options_for(data.load, skip=("name",), also=also)


def net_options(name: str, runs: bool = False) -> type:
    """The options of the net called `name`: its builder's, and which weights; or of a run, where that may be named."""
    if source := source_of(name):
        return options_for(_published, also=_of_published(source))
    if runs and not (known(name) or ":" in name):  # a run's folder, or nothing: loading it says which
        return options_for(_run, also={"checkpoint": (str, "best")})
    also: dict[str, Any] = {"weights": (str | None, None), "seed": (int | None, None)}
    also |= {"classes": (int | None, None), "channels": (int | None, None)}
    return options_for(models.find_builder(name)[1], skip=tuple(also), also=also)


def _run() -> None:
    """A run's folder has no options of its own."""


def _published() -> None:
    """A published net is built as it was published."""


def _of_published(source: str) -> dict[str, Any]:
    weights: dict[str, Any] = {"weights": (str | None, None)}
    if source == "robustbench":
        return weights | {"root": (str, "models"), "download": (bool, False)}
    return {} if source == "hf" else weights


def make_net(who: str, name: str, options: dict[str, Any], split: Split, fresh: bool) -> nn.Module:
    """The net that `--who NAME` names, for the data at hand; fresh weights, or those that the options name.

    Classes and channels that nobody gave are the data's. Raises ConfigError, ModelError, CheckpointError.
    """
    options = {k: v for k, v in options.items() if v is not None}
    if Path(name).is_dir():
        if fresh:
            raise ConfigError(
                f"expected a net's name for the {who}, got the folder {name}: type --{who} small_cnn, say"
            )
        return models.load(name, **options)
    if fresh and source_of(name):
        raise ConfigError(
            f"expected a net's name for the {who}, got {name}: type --{who} wide_resnet, say, "
            f"and --{who}.weights FILE to begin from published weights"
        )
    channels, classes = split.shape[0], split.classes
    options = {"classes": classes, "channels": channels} | options
    if fresh and "weights" not in options:
        return models.build(name, **options)
    net = models.load(name, **options)
    models.require_known(net, split.shape, split.classes, who)
    return net
