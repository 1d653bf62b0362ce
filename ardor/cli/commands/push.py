"""`ardor push`: a run to a folder that the Hugging Face Hub understands, and the folder to the Hub."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ardor.cli import display
from ardor.cli.selection import Checkpoint
from ardor.deployment import hub
from ardor.deployment.hub.upload import require_repository
from ardor.errors import ConfigError
from ardor.storage.runs import Run


def push(
    run: Path,
    repository: Annotated[str | None, Parameter(name="OWNER/NAME")] = None,
    /,
    *,
    checkpoint: Checkpoint = "best",
    folder: Path | None = None,
    private: bool = False,
    license: str | None = None,
    about: Path | None = None,
    dry_run: bool = False,
    force: bool = False,
    trust_code: bool = False,
) -> int:
    """Write a run's net, ONNX files and evaluation into a folder that the Hugging Face Hub understands; upload it.

    RUN is a folder that `ardor train` made and `ardor evaluate` judged. OWNER/NAME is the repository, made if need be;
    writing to it needs `hf auth login`. Without OWNER/NAME the folder is written and nothing is uploaded.
    Reports and ONNX files of other weights are left out. Needs `pip install "ardor[hub]"`.

    Examples:

    `ardor push runs/rslad me/rslad-digits --license mit`

    `ardor push runs/rslad --folder rslad`

    Parameters
    ----------
    run
        Folder of a run.
    repository
        Repository of the Hub.
    checkpoint
        Checkpoint of the run.
    folder
        Folder to write; default hub-CHECKPOINT in RUN.
    private
        Keep the repository private; a public one is refused.
    license
        License of the weights, as the Hub names it: mit, apache-2.0.
    about
        File with Markdown of your own for the card.
    dry_run
        Write the folder and upload nothing.
    force
        Accept weights without a report; the card then contains "not evaluated".
    trust_code
        Run the `file.py:Name` that a file names, where it is in the working folder or below.
    """
    if repository is not None:
        require_repository(repository)
    try:
        markdown = "" if about is None else about.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = type(error).__name__
        raise ConfigError(f"expected a file with Markdown, got {about} ({cause}): check the path") from error
    release = hub.release_of(run, checkpoint, trust_code=trust_code)
    written = hub.write_folder(
        release,
        Run(run).hub_folder(checkpoint) if folder is None else folder,
        repository=repository,
        license=license,
        about=markdown,
        force=force,
    )
    display.say(str(written))
    if repository is None or dry_run:
        to = f"{shlex.quote(str(run))} {repository or 'OWNER/NAME'}"
        display.say(f"\nWritten, not uploaded. Look at {written.folder / 'README.md'}; then: ardor push {to}")
        return 0
    name = hub.push(written.folder, repository, private=private)
    display.say(f'\nUploaded: ardor.models.load("{name}")')
    return 0
