"""`ardor push`: a run to a folder that the Hugging Face Hub understands, and the folder to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ardor.cli import display
from ardor.deployment import hub
from ardor.deployment.hub.upload import require_repository
from ardor.errors import ConfigError
from ardor.storage.runs import Run


def push(
    run: Annotated[Path, Parameter(name="RUN", help="a run's folder")],
    repository: Annotated[str | None, Parameter(name="OWNER/NAME", help="of the Hub")] = None,
    /,
    *,
    checkpoint: Annotated[Literal["best", "last", "averaged"], Parameter(help="of the run")] = "best",
    folder: Annotated[Path | None, Parameter(help="to write; default hub-CHECKPOINT in RUN")] = None,
    private: Annotated[bool, Parameter(help="a repository that only you see", negative="")] = False,
    license: Annotated[str | None, Parameter(help="of the weights, as the Hub names it: mit, apache-2.0")] = None,
    about: Annotated[Path | None, Parameter(help="a file with Markdown of your own for the card")] = None,
    dry_run: Annotated[bool, Parameter(help="write the folder and upload nothing", negative="")] = False,
    force: Annotated[
        bool, Parameter(help='without a report of these weights, with a card that says "not evaluated"', negative="")
    ] = False,
) -> int:
    """Write a run's net, ONNX files and evaluation into a folder that the Hugging Face Hub understands; upload it.

    RUN is a folder that `ardor train` made and `ardor evaluate` judged. OWNER/NAME is the repository, made if need be;
    who may write to it is settled by `hf auth login`. Without OWNER/NAME the folder is written and nothing is uploaded.
    Reports and ONNX files of other weights are left out. Needs `pip install "ardor[hub]"`.

    Examples:

    `ardor push runs/rslad me/rslad-digits --license mit`

    `ardor push runs/rslad --folder rslad`
    """
    if repository is not None:
        require_repository(repository)
    release = hub.release_of(run, checkpoint)
    made = hub.write_folder(
        release,
        Run(run).hub_folder(checkpoint) if folder is None else folder,
        repository=repository,
        license=license,
        about="" if about is None else _text(about),
        force=force,
    )
    display.say(str(made))
    if repository is None or dry_run:
        to = f"{run} {repository or 'OWNER/NAME'}"
        display.say(f"\nWritten, not uploaded. Look at {made.folder / 'README.md'}; then: ardor push {to}")
        return 0
    name = hub.push(made.folder, repository, private=private)
    display.say(f'\nUploaded: ardor.models.load("{name}")')
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = type(error).__name__
        raise ConfigError(f"expected a file with Markdown, got {path} ({cause}): check the path") from error
