"""load: names to nets with weights, whether a run folder, a published checkpoint or a user's own net."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from ardor.errors import CheckpointError, ConfigError, RunError
from ardor.models.build import BUILDERS, build, known
from ardor.models.weights import load_weights
from ardor.names import nearest


def load(
    name: str | Path, *, weights: str | Path | None = None, checkpoint: str = "best", **options: Any
) -> nn.Module:
    """A net with weights, in eval mode.

    name: a run folder of ours, whose config.yaml names the student and whose `checkpoint` ("best" or "last") is
    loaded; or a builder's name, or `file.py:Name`, with `weights` as the path of a file (see `load_weights`) and
    `options` as in `build`. A `file.py:Name` without weights brings its own. Raises ConfigError, RunError for a
    folder that is no run, CheckpointError for weights that are missing, damaged or made for another net.
    """
    name = str(name)
    if prefix := re.match(r"(robustbench|hf|timm):", name):
        raise ConfigError(
            f'expected a net on this machine, got "{name}": {prefix[0]} names are not downloaded by this release; '
            'download the file yourself and type, say, load("wide_resnet", weights="FILE.pt")'
        )
    if weights is None and not known(name) and Path(name).is_dir():
        return _from_run(Path(name), checkpoint, options)
    if weights is None:
        _refuse_without_weights(name)
    net = build(name, **options)
    if weights is not None:
        load_weights(net, weights)
    return _marked(net, weights)


def _refuse_without_weights(name: str) -> None:
    """Only a user's own callable may bring its weights itself."""
    if known(name):
        raise ConfigError(
            f'expected weights for "{name}", got none: type weights="FILE.safetensors", '
            f'or build("{name}") for random ones'
        )
    if Path(name).is_file():
        raise ConfigError(f'expected the name of a net, got a file: type, say, load("resnet18", weights="{name}")')
    if ":" not in name:
        raise ConfigError(
            f'expected a run folder or the name of a net, got "{name}", which is neither{nearest(name, BUILDERS)}: '
            f"check the path, or type one of {', '.join(BUILDERS)} with weights"
        )


def _from_run(folder: Path, checkpoint: str, options: dict[str, Any]) -> nn.Module:
    if options:
        raise ConfigError(
            f"expected no options for the run {folder}, whose config.yaml holds them, got {', '.join(options)}: "
            "leave them out"
        )
    student = _student(folder / "config.yaml")
    path = folder / f"{checkpoint}.safetensors"
    if not path.is_file():
        there = sorted(p.stem for p in folder.glob("*.safetensors"))
        raise CheckpointError(
            f'expected the checkpoint "{checkpoint}" in {folder}, got '
            f"{' and '.join(there) or 'a run without any'}: "
            + (f'type checkpoint="{there[0]}"' if there else "train it first")
        )
    net = build(**student)
    load_weights(net, path)
    return _marked(net, path)


def _marked(net: nn.Module, weights: str | Path | None) -> nn.Module:
    """In eval mode, and saying where its weights come from instead of which seed they once began with."""
    vars(net)["built_as"] = {k: v for k, v in vars(net)["built_as"].items() if k != "seed"}
    vars(net)["loaded_from"] = None if weights is None else str(weights)
    return net.eval()


def _student(path: Path) -> dict[str, Any]:
    """The arguments of `build` in a run's config."""
    if not path.is_file():
        raise RunError(f"expected a run folder with config.yaml, got {path.parent} without: name a run's folder")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        cause = str(error).splitlines()[0]
        raise ConfigError(f"expected YAML in {path}, got a file that cannot be read ({cause}): repair it") from error
    student = config.get("student") if isinstance(config, dict) else None
    if not isinstance(student, dict) or not isinstance(student.get("name"), str):
        raise ConfigError(f"expected {path} to say student: {{name: ...}}, got {student!r}: add the student's name")
    # `weights` is what the student started from; the run's checkpoint replaces it.
    return {str(key): value for key, value in student.items() if key != "weights"}
