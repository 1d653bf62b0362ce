"""push: a folder that `write` made to a repository of the Hub. Who may do so is huggingface_hub's own login."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ardor.deployment.hub.folder import SUMS, require_whole
from ardor.errors import ArdorError, ConfigError, RunError
from ardor.models.hub import from_folder
from ardor.models.mismatch import some
from ardor.storage.imports import require_package
from ardor.version import __version__

BEGUN = {".gitattributes", "README.md"}
"""What a repository may hold that was begun in a browser."""


def push(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload `folder`, as `write` made it, to OWNER/NAME, which is made if need be; "hf:OWNER/NAME@COMMIT" comes back.

    A repository that holds anything else than an earlier release is refused; ONNX files of an earlier release that are
    not in the folder go. private: make it so, and refuse one that everybody can read.

    Raises ConfigError for a name that is none, a missing package or login, RunError for a folder that was changed
    since, a repository that holds something else, no permission or no network.
    """
    folder = Path(folder)
    hub = require_package("huggingface_hub", "hub", f"hf:{repository}")
    require_repository(repository)
    require_whole(folder)
    from_folder(folder)
    api = hub.HfApi(library_name="ardor", library_version=__version__)
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        _require_room(api, repository, private)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"Release of ardor {__version__}",
            delete_patterns=["*.onnx"],  # those of earlier weights; what the folder has is not deleted
        )
    except ArdorError:
        raise
    except Exception as error:  # the hub's own, and those of whichever HTTP library it uses
        raise _refusal(folder, repository, error) from error
    return f"hf:{repository}@{commit.oid}"


def require_repository(name: str) -> None:
    """Refuse what the Hub would not take as OWNER/NAME. Raises ConfigError."""
    word = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
    if not re.fullmatch(rf"{word}/{word}", name) or "--" in name or ".." in name or name.endswith(".git"):
        raise ConfigError(f'expected a repository as OWNER/NAME, got "{name}": type for example me/rslad-resnet18')


def _require_room(api: Any, repository: str, private: bool) -> None:
    """Nothing of anybody else's is overwritten, and nothing private is shown. Raises RunError."""
    if private and not api.model_info(repository).private:
        raise RunError(
            f"expected a private repository, got {repository}, which everybody can read: make it private in its "
            "settings, or type another name"
        )
    there = set(api.list_repo_files(repository))
    if SUMS not in there and (others := sorted(there - BEGUN)):
        raise RunError(
            f"expected an empty repository or a release of ardor, got {repository} with {some(others)}: type another "
            "name"
        )


def _refusal(folder: Path, repository: str, error: Exception) -> ArdorError:
    """The Hub's refusal in one sentence; the folder stays."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    cause = f"{type(error).__name__}: {error}".splitlines()[0]
    kept = f"the folder {folder} is kept"
    if status == 401:
        return ConfigError(
            f"expected a login of the Hub for {repository}, got none that it knows: type hf auth login; {kept}"
        )
    if status == 403:
        return RunError(
            f"expected a login that may write to {repository}, got one that may not: take a token of the role write "
            f"(hf auth login), or a name of your own; {kept}"
        )
    if status is not None:
        return RunError(f"expected the Hub to take {repository}, got {cause}: {kept}")
    return RunError(
        f"expected an answer of the Hub about {repository}, got {cause}: check the network, and type the same again; "
        f"{kept}"
    )
