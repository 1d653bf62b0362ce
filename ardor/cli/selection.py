"""The first stage of reading a command: which method, nets, data and threat are named, before their options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cyclopts.config import Dict

from ardor import attacks
from ardor import data as datasets
from ardor.attacks import threat as threats
from ardor.attacks.threat import BY_NAME
from ardor.data.split import Split
from ardor.errors import ConfigError
from ardor.storage.config import number, read_yaml
from ardor.storage.imports import nearest
from ardor.storage.runs import Run
from ardor.types import Threat

INNER: dict[str, Callable[..., Any]] = {"pgd": attacks.PGD, "fgsm": attacks.FGSM, "apgd": attacks.APGD}
PIECES: dict[str, Callable[..., Any]] = {**threats.BY_NAME, **INNER}


@dataclasses.dataclass
class Selection:
    """What the recipe and the words of a command name.

    names: "method", "student", ... -> the name. content: the rest of the recipe, by the same keys.
    """

    names: dict[str, str]
    content: dict[str, Any] = dataclasses.field(default_factory=dict)
    path: Path | None = None

    @property
    def config(self) -> Dict:
        """The recipe's options as cyclopts reads them."""
        return Dict(_without_none(self.content), source=str(self.path), use_commands_as_keys=False)


def first_stage(argv: Sequence[str], keys: Sequence[str], recipe: bool = False) -> Selection:
    """Read only names: `--key NAME` from the words, and `key: NAME` or `key: {name: NAME}` from a recipe file.

    A recipe's options of a piece are dropped where the words name another piece in its place. Raises ConfigError.
    """
    path = Path(argv[0]) if recipe and argv and not argv[0].startswith("-") else None
    goes_on = path is not None and path.is_dir()  # a run's folder
    content = (Run(path).config if goes_on else read_yaml(path)) if path else {}
    content = _smoked(content, content.pop("smoke", None), "--smoke" in argv, path)
    if not isinstance(content.get("recipe", {}), dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"expected `recipe:` with keys of its own, and words as keys, in {path}: see recipes/")
    content.pop("fingerprint", None)  # a run's own config.yaml is a recipe too
    content.pop("processes", None)
    content.pop("threads", None)
    names: dict[str, str] = {}
    for key in keys:
        said = content.get(key)
        if not isinstance(said, dict | str | None):
            raise ConfigError(
                f"expected {key}: NAME or {key}: {{name: NAME}} in {path}, got {said!r}: write one of them"
            )
        own = said if isinstance(said, dict) else {}
        name = own.pop("name", None) if own else said
        typed = _last(argv, key)
        if typed is not None and typed != name:
            own = {}
        content[key] = own
        if typed is not None or name is not None:
            names[key] = str(typed if typed is not None else name)
    return Selection(names, {k: v for k, v in content.items() if v != {}}, path)


def _smoked(content: dict[str, Any], smoke: Any, asked: bool, path: Path | None) -> dict[str, Any]:
    """The recipe with its `smoke:` block laid over it, where that is asked for."""
    if asked and not isinstance(smoke, dict):
        raise ConfigError(f"expected a recipe with a `smoke:` block for --smoke, got {path or 'none'}: see recipes/")
    return _laid_over(content, smoke) if asked else content


def _laid_over(below: Any, above: dict[str, Any]) -> dict[str, Any]:
    """Keys of `above` win, those inside too; `data: NAME` below is `data: {name: NAME}`."""
    below = {"name": below} if isinstance(below, str) else below or {}
    return {
        **below,
        **{k: _laid_over(below.get(k), v) if isinstance(v, dict) else v for k, v in above.items()},
    }


def find_threat(asked: Selection, argv: Sequence[str], default: Threat | None) -> Threat | None:
    """The threat that `--threat` and `--threat.eps` name, else `default`. Raises ConfigError and ThreatError."""
    name = asked.names.get("threat")
    eps = _last(argv, "threat.eps") or asked.content.get("threat", {}).get("eps")
    if name is None and eps is None:
        return default
    kind: Any = pick(name or "linf", threats.BY_NAME, "a threat") if name or default is None else type(default)
    threat: Threat = kind() if eps is None else kind(number(eps))
    return threat


def pick(name: str, choices: dict[str, Any], what: str) -> Any:
    """The choice called `name`, whatever its case. Raises ConfigError."""
    if name.lower() in choices:
        return choices[name.lower()]
    raise ConfigError(f'expected {what}, got "{name}"{nearest(name, choices)}: type one of {", ".join(choices)}')


def with_threat(thing: Any, threat: Threat | None) -> Any:
    """A method whose attack is under `threat`; one without an attack stays as it is."""
    attack = getattr(thing, "attack", None)
    if threat is None or not dataclasses.is_dataclass(attack) or not hasattr(attack, "threat"):
        return thing
    return dataclasses.replace(thing, attack=dataclasses.replace(attack, threat=threat))  # type: ignore[type-var]


def with_named(thing: Any, content: Any) -> Any:
    """The default `thing`, its pieces swapped for those that a recipe names inside it; the names leave the recipe."""
    if content is None or not dataclasses.is_dataclass(thing) or isinstance(thing, type):
        return thing
    if not isinstance(content, dict) or not isinstance(content.get("name", ""), str):
        raise ConfigError(f"expected the options of {type(thing).__name__} as `key: value` lines, got {content!r}")
    name = content.pop("name", None)
    if name is not None and name.lower() != type(thing).__name__.lower():
        thing = pick(name, PIECES, "an attack or a threat")()
    inner = {
        f.name: with_named(getattr(thing, f.name), content.get(f.name)) for f in dataclasses.fields(thing) if f.init
    }
    return dataclasses.replace(thing, **inner)


def given(argv: Sequence[str], asked: Selection, key: str) -> bool:
    """Whether anything under `key` (dotted) was typed or stands in the recipe."""
    node: Any = asked.content
    for word in key.split("."):
        node = node.get(word) if isinstance(node, dict) else None
    return node is not None or any(word.startswith(f"--{key}.") for word in argv)


def _last(argv: Sequence[str], key: str) -> str | None:
    """The value of the last `--key VALUE` or `--key=VALUE`."""
    found = None
    for word, after in zip(argv, [*argv, ""][1:], strict=True):
        if word == f"--{key}":
            if not after or after.startswith("--"):
                raise ConfigError(f"expected a name after --{key}, got {after or 'nothing'}: type --{key} NAME")
            found = after
        elif word.startswith(f"--{key}="):
            found = word.partition("=")[2]
    return found


def _without_none(content: Any) -> Any:
    """null in a recipe means the default."""
    if isinstance(content, dict):
        return {k: _without_none(v) for k, v in content.items() if v is not None}
    return content


def find_split(trained: dict[str, Any], name: str | None, part: str, options: dict[str, Any]) -> Split:
    """The split to judge on: the one that is named, else the run's own. Raises ConfigError and DataError."""
    source = (trained.get("data", {}) if name is None else {"name": name}) | options
    if "name" not in source:
        raise ConfigError("expected --data with a name, got none: type for example --data digits")
    if part == "test":
        return datasets.load_test(**source)
    return datasets.load(**source)[0 if part == "train" else 1]


def run_of(argv: Sequence[str]) -> Run | None:
    """The run whose folder is the first word; None where it is none."""
    run = Run(argv[0]) if argv and not argv[0].startswith("-") else None
    return run if run and run.exists else None


def trained_threat(run: Run | None) -> Threat | None:
    """The threat that a run's method was trained under, or else validated under."""
    threat = run.threat if run else {}
    kind = BY_NAME.get(str(threat.get("name")).lower())
    return kind(number(threat["eps"])) if kind else None
