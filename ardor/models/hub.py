"""hf: names to nets: a repository of the Hugging Face Hub, at one commit, or a local folder like one.

Either holds two files: `config.json` with `{"ardor": {"name": BUILDER, "classes": 10, ...}}`, the arguments of
`build`; and `model.safetensors`, the state dict. Where `config.json` also says the hash of the weights, as those of
`ardor.deployment.hub` do, it is held against them. Nothing in it is run: only the builders here are taken by name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from ardor.errors import ArdorError, CheckpointError, ConfigError, ModelError
from ardor.models.builders import build, known
from ardor.models.published import OTHER
from ardor.models.weights import hash_of, load_weights
from ardor.storage.imports import require_package
from ardor.storage.runs import Run

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TIMEOUT = 10  # seconds: without a network the user waits for this, and not for minutes of trying again
FORM = '{"ardor": {"name": "resnet18", "classes": 10}}'


def from_hub(name: str, classes: int | None) -> tuple[nn.Module, str]:
    """The net at `hf:OWNER/NAME[@REVISION]`, and the name with the commit in the revision's place.

    A branch, a tag or no revision means today's commit, which is looked up; a whole commit hash is taken from the
    local cache without a network. Raises ConfigError, CheckpointError, ModelError.
    """
    found = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    if not found:
        raise ConfigError(
            f'expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION, or a folder as hf:./FOLDER, got "{name}": see '
            "docs/hub.md"
        )
    hub = require_package("huggingface_hub", "hub", name)
    repository, revision = found[1], found[2]
    commit = revision if revision and re.fullmatch(r"[0-9a-f]{40}", revision) else _commit(hub, repository, revision)
    net, said = _described(_file(hub, repository, commit, CONFIG), name, classes)
    load_weights(net, _file(hub, repository, commit, WEIGHTS))
    _require_said(net, said, name)
    return net, f"hf:{repository}@{commit}"


def local_of(name: str) -> Path | None:
    """The folder that `hf:./FOLDER`, `hf:../FOLDER`, `hf:/FOLDER` or `hf:~/FOLDER` names; None for any other name."""
    place = name.removeprefix("hf:")
    here = place in (".", "..") or place.startswith(("./", "../", "~"))
    return Path(place).expanduser() if place != name and (here or Path(place).is_absolute()) else None


def is_local(folder: Path) -> bool:
    """Whether a folder is like a repository of the Hub, and no run's."""
    return (folder / CONFIG).is_file() and not Run(folder).exists


def from_folder(folder: Path, classes: int | None = None) -> tuple[nn.Module, Path]:
    """The net in a local folder like a repository, and the file of its weights.

    Raises ConfigError where there is no such folder, CheckpointError, ModelError.
    """
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            got = f"{folder} without {file}" if folder.is_dir() else f"{folder}, which is no folder"
            raise ConfigError(
                f"expected a folder with {CONFIG} and {WEIGHTS}, got {got}: check the path, make one with ardor push "
                "RUN, or type hf:OWNER/NAME for the Hub"
            )
    net, said = _described(folder / CONFIG, str(folder), classes)
    load_weights(net, folder / WEIGHTS)
    _require_said(net, said, str(folder))
    return net, folder / WEIGHTS


def _described(config: Path, name: str, classes: int | None) -> tuple[nn.Module, dict[str, Any]]:
    """The net that a config.json describes, with fresh weights, and all that it says."""
    said = _read(config)
    arguments = {str(key): value for key, value in said["ardor"].items() if key != "seed"}
    if classes not in (None, arguments.get("classes", 10)):
        raise ModelError(
            f"expected a net of {classes} classes, got {name}, which has {arguments.get('classes', 10)}: {OTHER}"
        )
    return _build(arguments, name), said


def _require_said(net: nn.Module, said: dict[str, Any], name: str) -> None:
    """Refuse weights that are not those that config.json was written for: one of the two files is another's."""
    if said.get("weights") not in (None, hash_of(net)):
        raise CheckpointError(
            f"expected in {name} the weights {said['weights']}, as its {CONFIG} says, got {hash_of(net)}: the two "
            "files are of different nets or damaged; take them from one commit"
        )


def _build(arguments: dict[str, Any], name: str) -> nn.Module:
    try:
        return build(**arguments)
    except (TypeError, ValueError, ConfigError) as error:  # words where numbers belong, options of another release
        cause = str(error).splitlines()[0]
        raise CheckpointError(f"expected {name} to describe a net that can be built, got {cause}") from error


def _commit(hub: Any, repository: str, revision: str | None) -> str:
    try:
        return str(hub.HfApi().model_info(repository, revision=revision, timeout=TIMEOUT).sha)
    except Exception as error:  # the hub's own, and those of whichever HTTP library it uses
        raise _refusal(hub, repository, revision, error) from error


def _file(hub: Any, repository: str, commit: str, file: str) -> Path:
    """Out of the hub's cache, else brought there, which the hub does whole or not at all."""
    cached = hub.try_to_load_from_cache(repository, file, revision=commit)
    if isinstance(cached, str):
        return Path(cached)
    _commit(hub, repository, commit)  # fails at once where there is no network; the next line would try for long
    try:
        return Path(hub.hf_hub_download(repository, file, revision=commit, etag_timeout=TIMEOUT))
    except Exception as error:
        raise _refusal(hub, repository, commit, error, file) from error


def _refusal(hub: Any, repository: str, revision: str | None, error: Exception, file: str = "") -> ArdorError:
    place = f"{repository}{f'@{revision}' if revision else ''}"
    errors, cause = hub.errors, f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, errors.RepositoryNotFoundError):
        return ConfigError(
            f"expected a repository of the Hub, got {place}, which is not there, or is not open: "
            "check owner and name, and log in where it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(f"expected a revision of {repository}, got {revision}: name a branch, a tag or a commit")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return CheckpointError(
            f"expected {file} in {place}, got a repository without: it needs {FORM} in config.json, "
            "and model.safetensors"
        )
    return CheckpointError(
        f"expected an answer of the Hub about {place}, got {cause}: check the network; a commit "
        "that is in the local cache needs none, as hf:OWNER/NAME@COMMIT"
    )


def _read(path: Path) -> dict[str, Any]:
    """A config.json that names one of our builders under `ardor`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"expected JSON in {path}, got {type(error).__name__}: ask its owner") from error
    ours = content.get("ardor") if isinstance(content, dict) else None
    if not isinstance(ours, dict) or not isinstance(ours.get("name"), str) or not known(ours["name"]):
        said = ours.get("name") if isinstance(ours, dict) else ours
        raise CheckpointError(
            f"expected {path} to name a builder, as {FORM}, got {said!r}: only nets of ardor load this way; download "
            "the weights and name their network yourself"
        )
    return dict(content)
