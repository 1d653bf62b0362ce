"""Recipes: YAML files that configure a run, found by name where ardor ships them, with named variants."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ardor.errors import ConfigError
from ardor.storage.config import merged, read_yaml
from ardor.storage.imports import nearest
from ardor.storage.trust import require_no_code

_PACKAGE = Path(__file__).parents[1]
FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")
"""In a wheel, and beside the package in a checkout."""


def shipped_recipes() -> dict[str, Path]:
    """The files of the recipes that ardor ships, by their names."""
    return {file.stem: file for folder in FOLDERS for file in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that ardor ships. Raises ConfigError."""
    path = Path(name)
    if os.path.isfile(path):
        return path
    shipped = shipped_recipes()
    if str(name) in shipped:
        return shipped[str(name)]
    raise ConfigError(
        f'expected a recipe, got "{name}"{nearest(str(name), shipped)}: type one of {", ".join(shipped)}, or the path '
        "of a YAML file or of a run's folder"
    )


def recipe_for(method: str, data: str) -> str | None:
    """The shipped recipe of a method that has a variant for a data set; None where there is none."""
    file = next((file for folder in FOLDERS if (file := folder / f"{method}.yaml").is_file()), None)
    return method if file and data in read_yaml(file).get("variants", {}) else None


def read_recipe(
    name: str | Path, data: str | None = None, variants: Sequence[str] = (), trust_code: bool = False
) -> dict[str, Any]:
    """A recipe's configuration with its variants laid over it.

    The variant with the name of the data set is always laid over, and with a variant V its form V-DATA as well: what
    differs by data is a variant.

    Parameters
    ----------
    name : str or Path
        Path of the file, or the name of a shipped recipe.
    data : str, optional
        Name of the data set, in place of the file's.
    variants : sequence of str
        The variants to lay over the file, in this order: "smoke", "released".
    trust_code : bool
        Accept `file.py:Name` in the file: see `ardor.storage.trust`.

    Raises
    ------
    ConfigError
        Where there is no such file or variant, the file is no mapping of this form, or it names code.
    """
    path = find_recipe(name)
    content = read_yaml(path)
    known = content.pop("variants", {})
    content.pop("published", None)
    require_no_code(content, path, trust_code=trust_code)
    require_no_code(known, path, "variants", trust_code=trust_code)
    if not isinstance(known, dict) or not all(isinstance(part, dict) for part in known.values()):
        raise ConfigError(
            f"expected `variants:` of {path} as names with keys below, got {known!r}: write "
            "variants: {smoke: {recipe: {epochs: 1}}}"
        )
    if other := [key for key in content if not isinstance(key, str)]:
        raise ConfigError(
            f"expected words as keys in {path}, got {other[0]!r}: write `data:`, `student:` or another key"
        )
    if not isinstance(content.get("recipe", {}), dict):
        raise ConfigError(
            f"expected `recipe:` of {path} with keys below, got {content['recipe']!r}: write recipe: {{epochs: 1}}"
        )
    if data is not None:
        content = merged(content, {"data": {"name": data}})
    source = content.get("data")
    source = source.get("name") if isinstance(source, dict) else source
    for variant in variants:
        if variant not in known:
            choices = f"type --variant with one of {', '.join(known)}" if known else "leave --variant out"
            raise ConfigError(f'expected a variant of {path}, got "{variant}"{nearest(variant, known)}: {choices}')
    for part in (str(source), *(name for variant in variants for name in (variant, f"{variant}-{source}"))):
        content = merged(content, known.get(part, {}))
    return content
