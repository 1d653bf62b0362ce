"""hf: names to nets: a repository of the Hugging Face Hub, at one commit, or a local folder of the same form.

Either has two files: `config.json` with `{"ardor": {"name": BUILDER, "classes": 10, ...}}`, the arguments of `build`;
and `model.safetensors`, the state dict. Where `config.json` also has the hash of the weights, as those of
`ardor push` do, it is compared. No code in it is run: only the builders here are taken by name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from torch import nn

from ardor.errors import ArdorError, CheckpointError, ConfigError, ModelError
from ardor.models.builders import build, is_named
from ardor.models.published import OTHER
from ardor.models.timm_nets import untrained
from ardor.models.weights import hash_of, load_weights, require_values
from ardor.storage.imports import cause_of, require_package
from ardor.storage.reading import checked, read_json
from ardor.storage.runs import Run, mapping

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TIMEOUT = 10  # seconds until a machine without a network gives up; the client's own retries take minutes
FORM = '{"ardor": {"name": "resnet18", "classes": 10}}'


class _Config(TypedDict, total=False):
    """The keys of a config.json that are read."""

    ardor: Any
    weights: str | None


def from_hub(name: str, classes: int | None) -> tuple[nn.Module, str]:
    """The net at `hf:OWNER/NAME[@REVISION]`, and the name with the commit as its revision.

    A branch, a tag or no revision means its newest commit, which needs the network; a full commit hash is read from
    the local cache without it. Raises ConfigError, CheckpointError, ModelError.
    """
    path_of, named = _files(name)
    return _net(path_of, name, classes), named


def training_of(name: str) -> dict[str, Any]:
    """The training that the config.json of an hf: name or a local folder records; empty where it records none.

    Raises as `from_hub` and `from_folder`.
    """
    folder = Path(name) if is_local(Path(name)) else local_of(name)
    return mapping(_read((_in(folder) if folder is not None else _files(name)[0])(CONFIG)).get("training"))


def _files(name: str) -> tuple[Callable[[str], Path], str]:
    """The place of each file of a repository, at one commit, and the name with that commit."""
    match = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", name)
    if not match:
        raise ConfigError(
            f'expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION, or a folder as hf:./FOLDER, got "{name}": '
            "type one of them"
        )
    hub = require_package("huggingface_hub", "hub", name)
    repository, revision = match.groups()
    commit = revision if re.fullmatch(r"[0-9a-f]{40}", revision or "") else _commit(hub, repository, revision)
    return lambda file: _download(hub, repository, commit, file), f"hf:{repository}@{commit}"


def is_name(name: object) -> bool:
    """Whether a name is one for the Hub, or of a local folder of its form."""
    return str(name).startswith("hf:") or is_local(Path(str(name)))


def local_of(name: str) -> Path | None:
    """The folder that `hf:./FOLDER`, `hf:../FOLDER`, `hf:/FOLDER` or `hf:~/FOLDER` names; None for any other name."""
    path = name.removeprefix("hf:")
    relative = path in (".", "..") or path.startswith(("./", "../", "~"))
    return Path(path).expanduser() if path != name and (relative or Path(path).is_absolute()) else None


def is_local(folder: Path) -> bool:
    """Whether a folder has the form of a repository of the Hub, and is no run."""
    return os.path.isfile(folder / CONFIG) and not Run(folder).exists


def from_folder(folder: Path, classes: int | None = None) -> tuple[nn.Module, Path]:
    """The net in a local folder of the form of a repository, and the file of its weights.

    Raises ConfigError where there is no such folder, CheckpointError, ModelError.
    """
    return _net(_in(folder), str(folder), classes), folder / WEIGHTS


def _in(folder: Path) -> Callable[[str], Path]:
    """The place of each file of a local folder. Raises ConfigError where one is missing."""
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            got = f"{folder} without {file}" if folder.is_dir() else f"{folder}, which is no folder"
            raise ConfigError(
                f"expected a folder with {CONFIG} and {WEIGHTS}, got {got}: check the path, make one with ardor push "
                "RUN, or type hf:OWNER/NAME for the Hub"
            )
    return folder.joinpath


def _net(path_of: Callable[[str], Path], name: str, classes: int | None) -> nn.Module:
    """The net of a config.json with its weights, whose hash is compared where the config has one."""
    config = _read(path_of(CONFIG))
    arguments = untrained({str(key): value for key, value in config["ardor"].items() if key != "seed"})
    if classes not in (None, arguments.get("classes", 10)):
        raise ModelError(
            f"expected a net of {classes} classes, got {name}, which has {arguments.get('classes', 10)}: {OTHER}"
        )
    weights = path_of(WEIGHTS)
    try:
        require_values(arguments, weights)
        net = build(**arguments)
    except (TypeError, ValueError, ConfigError) as error:  # text for a number, options of another release
        cause = str(error).splitlines()[0]
        raise CheckpointError(f"expected {name} to describe a net that can be built, got {cause}") from error
    load_weights(net, weights)
    if config.get("weights") not in (None, hash_of(net)):
        raise CheckpointError(
            f"expected in {name} the weights {config['weights']} of its {CONFIG}, got {hash_of(net)}: the two files "
            "are of different nets or damaged; take them from one commit"
        )
    return net


def _commit(hub: Any, repository: str, revision: str | None) -> str:
    try:
        return str(hub.HfApi().model_info(repository, revision=revision, timeout=TIMEOUT).sha)
    except Exception as error:  # exceptions of the client, and of whichever HTTP library it uses
        raise _refusal(hub, repository, revision, error) from error


def _download(hub: Any, repository: str, commit: str, file: str) -> Path:
    """The file in the client's cache, downloaded to it where it is absent."""
    cached = hub.try_to_load_from_cache(repository, file, revision=commit)
    if isinstance(cached, str):
        return Path(cached)
    _commit(hub, repository, commit)  # fails at once without a network, which the next call would retry for long
    try:
        return Path(hub.hf_hub_download(repository, file, revision=commit, etag_timeout=TIMEOUT))
    except Exception as error:
        raise _refusal(hub, repository, commit, error, file) from error


def _refusal(hub: Any, repository: str, revision: str | None, error: Exception, file: str = "") -> ArdorError:
    place = f"{repository}{f'@{revision}' if revision else ''}"
    errors = hub.errors
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
        f"expected an answer of the Hub about {place}, got {cause_of(error)}: check the network; a commit "
        "that is in the local cache needs none, as hf:OWNER/NAME@COMMIT"
    )


def _read(path: Path) -> dict[str, Any]:
    """The content of a config.json, which names a builder under `ardor`."""
    try:
        content: dict[str, Any] = checked(read_json(path), _Config, path)
    except ConfigError as error:
        raise CheckpointError(f"{error}; it has to name a builder, as {FORM}") from error
    config = content.get("ardor")
    name = config.get("name") if isinstance(config, dict) else config
    if not isinstance(config, dict) or not isinstance(name, str) or not is_named(name):
        raise CheckpointError(
            f"expected {path} to name a builder, as {FORM}, got {name!r}: only nets of ardor load this way; download "
            "the weights and name their network yourself"
        )
    return dict(content)
