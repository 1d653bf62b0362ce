"""What a command is about: its configuration (file, variants, words), and a run's threat and images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ardor import data
from ardor.attacks.threat import BY_NAME, Linf
from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.storage.config import arguments, build, merged
from ardor.storage.recipes import read_recipe
from ardor.storage.runs import Run
from ardor.types import Threat

Overrides = dict[str, Any]
"""The dotted options of a command line, nested: see `split_words`."""


def configuration(
    recipe: Path | None, variants: str, names: Mapping[str, str | None], overrides: Overrides
) -> dict[str, Any]:
    """A recipe or run, its variants (commas between), then the names and dotted options typed. Raises ConfigError."""
    content: dict[str, Any] = {}
    if variants and recipe is None:
        raise ConfigError(f"expected a recipe for the variant {variants}, got none: type its name first, say rslad")
    if variants and recipe is not None and recipe.is_dir():
        raise ConfigError(f"expected a recipe for the variant {variants}, got the run {recipe}: leave the variant out")
    if recipe is not None and recipe.is_dir():
        content = Run(recipe).config
    elif recipe is not None:
        content = read_recipe(recipe, names.get("data"), [word for word in variants.split(",") if word])
    content = {key: part for key, part in content.items() if key not in ("fingerprint", "processes", "threads")}
    typed = {key: {"name": name} for key, name in names.items() if name is not None}
    return dict(merged(merged(content, typed), overrides))


def config_of(run: str | Path | None) -> dict[str, Any]:
    """The config of a run's folder; an empty one where that is none."""
    return Run(run).config if run is not None and Run(run).exists else {}


def find_threat(name: str | None, overrides: Overrides, default: Threat | None) -> Threat:
    """The threat that `--threat` and `--threat.eps` name, else `default`, else L-inf 8/255. Raises ConfigError."""
    content = {**({} if name is None else {"name": name}), **overrides.get("threat", {})}
    threat: Threat = build(content, "threat", default=default or Linf())
    return threat


def trained_threat(run: str | Path | None) -> Threat | None:
    """The threat that a run's method was trained under, or else validated under; None where that is no run."""
    content = Run(run).threat if run is not None and Run(run).exists else {}
    threat: Threat | None = build(content, "threat") if str(content.get("name")).lower() in BY_NAME else None
    return threat


def find_split(config: Mapping[str, Any], name: str | None, part: str, overrides: Overrides) -> Split:
    """The images of `--data`, else the run's own, with the dotted options of data. Raises ConfigError and DataError."""
    source = {**(config.get("data", {}) if name is None else {"name": name}), **overrides.get("data", {})}
    if "name" not in source:
        raise ConfigError("expected --data with a name, got none: type for example --data digits")
    source = arguments(source, "data", data.load, data.reader(str(source["name"])))
    if part == "test":
        return data.load_test(**source)
    return data.load(**source)[0 if part == "train" else 1]


def require_overrides(overrides: Overrides, *keys: str) -> None:
    """Refuse dotted options of what a command does not have. Raises ConfigError."""
    for key in overrides:
        if key not in keys:
            option = next(iter(overrides[key]))
            raise ConfigError(
                f"expected options of {', '.join(f'--{k}.' for k in keys)}, got --{key}.{option}: leave it out"
            )
