"""push: a folder of `write_folder` to a repository of the Hub. Permission is that of huggingface_hub's login."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ardor.deployment.hub.folder import require_whole
from ardor.errors import ArdorError, ConfigError, RunError
from ardor.models.hub import from_folder
from ardor.models.mismatch import some
from ardor.storage.imports import require_package
from ardor.storage.sums import SUMS
from ardor.version import __version__

INITIAL = {".gitattributes", "README.md"}
"""The files of a repository that was created in a browser."""


def push(folder: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder to a repository of the Hub, which is created if it does not exist.

    A repository with other content than an earlier release is refused. ONNX files of an earlier release that are not in
    the folder are deleted.

    Parameters
    ----------
    folder : str or Path
        A folder of `write_folder`, unchanged.
    repository : str
        OWNER/NAME.
    private : bool
        Create it as private, and refuse one that is public.

    Returns
    -------
    str
        "hf:OWNER/NAME@COMMIT", a name for `ardor.models.load`.

    Raises
    ------
    ConfigError: no name of a repository, a missing package or login. RunError: a folder that was changed, a repository
    with other content, no permission or no network.
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
    """Raise ConfigError for a name that the Hub does not accept as OWNER/NAME."""
    word = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
    if not re.fullmatch(rf"{word}/{word}", name) or "--" in name or ".." in name or name.endswith(".git"):
        raise ConfigError(f'expected a repository as OWNER/NAME, got "{name}": type for example me/rslad-resnet18')


def _require_room(api: Any, repository: str, private: bool) -> None:
    """Raise RunError where a push would overwrite other content, or publish what should be private."""
    if private and not api.model_info(repository).private:
        raise RunError(
            f"expected a private repository, got {repository}, which is public: make it private in its "
            "settings, or type another name"
        )
    present = set(api.list_repo_files(repository))
    if SUMS not in present and (others := sorted(present - INITIAL)):
        raise RunError(
            f"expected an empty repository or a release of ardor, got {repository} with {some(others)}: type another "
            "name"
        )


def _refusal(folder: Path, repository: str, error: Exception) -> ArdorError:
    """The Hub's refusal in one sentence."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    cause = f"{type(error).__name__}: {error}".splitlines()[0]
    kept = f"the folder {folder} is kept"
    if status == 401:
        return ConfigError(f"expected a login of the Hub for {repository}, got none: type hf auth login; {kept}")
    if status == 403:
        return RunError(
            f"expected a login that may write to {repository}, got one that may not: take a token of the role write "
            f"(hf auth login), or a name of your own; {kept}"
        )
    check = "" if status else "check the network, and type the same again; "
    return RunError(f"expected the Hub to accept {repository}, got {cause}: {check}{kept}")
