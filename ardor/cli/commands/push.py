"""`ardor push`: a run to a folder that the Hugging Face Hub understands, to the Hub, or to an entry."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ardor.cli import display
from ardor.cli.selection import Checkpoint
from ardor.deployment import hub
from ardor.deployment.hub.folder import require_ours
from ardor.deployment.hub.release import evidence_of
from ardor.deployment.hub.upload import require_repository
from ardor.deployment.leaderboard import ENTRY, RECIPE, Entry, load_entry, make_entry, page, recipe_of, require_name
from ardor.errors import ConfigError
from ardor.models.zoo import PREFIX, SHIPPED
from ardor.storage.config import to_yaml
from ardor.storage.imports import require_package
from ardor.storage.runs import Run

QUERIES = 5000
"""Of Square, where nothing else is typed."""
HUB = "a folder for the Hub"
USED_WITH: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("half", "limit", "queries"), ("--zoo NAME", "--leaderboard")),
    "name": ("--leaderboard",),
    "about": ("--zoo NAME", HUB),
    **dict.fromkeys(("private", "dry_run", "force"), (HUB,)),
}
"""What an option is for, where not for everything that is written."""


def push(
    run: Path,
    repository: Annotated[str | None, Parameter(name="OWNER/NAME")] = None,
    /,
    *,
    checkpoint: Checkpoint = "best",
    out: Path | None = None,
    zoo: str | None = None,
    leaderboard: bool = False,
    name: str | None = None,
    half: bool = False,
    limit: int | None = None,
    queries: int = QUERIES,
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

    `ardor push runs/rslad --out rslad-digits`

    `ardor push runs/rslad --leaderboard` evaluates what the run has no report of (AutoAttack, and INT8 beside float32),
    and writes a checked entry into --out, by default `leaderboard`. `--zoo NAME` writes the net, its card and its
    entry to where `ardor.models.load("ardor:NAME")` looks.

    Parameters
    ----------
    run
        Folder of a run.
    repository
        Repository of the Hub.
    checkpoint
        Checkpoint of the run.
    out
        Folder to write; default hub-CHECKPOINT in RUN, `leaderboard`, or that of the package's nets.
    zoo
        Name of a net of the package.
    leaderboard
        Write an entry of a leaderboard.
    name
        Name of the entry; default that of RUN.
    half
        Round the weights to float16 first, in the run RUN/half-CHECKPOINT: half the bytes, own figures.
    limit
        Test images for AutoAttack, classes in proportion.
    queries
        Queries of Square for each image, where float32, ONNX and INT8 are compared.
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
    if (repository is not None) + (zoo is not None) + leaderboard > 1:
        raise ConfigError("expected OWNER/NAME, --zoo NAME or --leaderboard, got two of them: type one")
    _require_used(
        "--leaderboard" if leaderboard else HUB if zoo is None else "--zoo NAME",
        name=name is not None, half=half, limit=limit is not None, queries=queries != QUERIES,
        about=about is not None, private=private, dry_run=dry_run, force=force,
    )  # fmt: skip
    if zoo is not None or leaderboard:
        name = zoo if zoo is not None else name if name is not None else run.resolve().name
        require_name(name)  # before it is part of a path
        target = (out or (Path("leaderboard") if leaderboard else SHIPPED)) / (f"{name}.json" if leaderboard else name)
        if not leaderboard:  # before hours of attacks
            require_package("huggingface_hub", "hub", "a model card")
            require_ours(target)
        markdown = _markdown(about)
        entry, own = _entry(
            run, name, "--leaderboard" if leaderboard else f"--zoo {zoo}", checkpoint, half,
            limit=limit, queries=queries, licence=license or ("mit" if zoo else ""), trust_code=trust_code,
        )  # fmt: skip
        if leaderboard:
            return _write_entry(entry, target)
        release = hub.release_of(own, "best" if half else checkpoint, trust_code=trust_code)
        return _write_net(entry, release, target, markdown)
    if repository is not None:
        require_repository(repository)
    markdown = _markdown(about)
    release = hub.release_of(run, checkpoint, trust_code=trust_code)
    written = hub.write_folder(
        release,
        Run(run).hub_folder(checkpoint) if out is None else out,
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


def _require_used(target: str, **typed: bool) -> None:
    """Refuse an option that has no effect on what is written. Raises ConfigError."""
    if unused := next((option for option, given in typed.items() if given and target not in USED_WITH[option]), None):
        places = " or ".join(USED_WITH[unused])
        raise ConfigError(f"expected --{unused} only with {places}, got it with {target}: leave it out")


def _markdown(about: Path | None) -> str:
    try:
        return "" if about is None else about.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = type(error).__name__
        raise ConfigError(f"expected a file with Markdown, got {about} ({cause}): check the path") from error


def _entry(run: Path, name: str, words: str, checkpoint: Checkpoint, half: bool, **options: Any) -> tuple[Entry, Path]:
    """The entry of a run's checkpoint, and the run that has its files: with `half`, one with rounded weights."""
    own = Run(run).halved(checkpoint).folder if half else run
    words += (" --half" if half else "") + (f" --limit {options['limit']}" if options["limit"] else "")
    words += f" --queries {options['queries']}" if options["queries"] != QUERIES else ""
    made = (f"ardor train {RECIPE} --run runs/{name}", f"ardor push runs/{name} {words}")
    with display.evaluation() as show:
        entry = make_entry(
            own,
            name,
            checkpoint="best" if half else checkpoint,
            made=made,
            progress=lambda what, event: show(replace(event, attack=f"{what}: {event.attack}")),
            **options,
        )
    return entry, own


def _write_entry(entry: Entry, path: Path) -> int:
    """Write an entry of a leaderboard, read it back, and display its row."""
    text = page([load_entry(entry.save(path))])
    place = "add it to a leaderboard; its page: ardor models --leaderboard"
    display.say(f"{text[text.index('## ') :]}\nWritten to {path}: {place} {path.parent}")
    return 0


def _write_net(entry: Entry, release: hub.Release, folder: Path, about: str) -> int:
    """Write a net of the package: the folder of the Hub without ONNX files, with its entry and recipe."""
    evidence = evidence_of(release)  # while it has the ONNX files: their reports are not of other weights
    written = hub.write_folder(
        replace(release, files=(), reports=evidence.reports, left_out=evidence.left_out, name=entry.name),
        folder,
        license=entry.licence,
        about=about,
        load_as=f"{PREFIX}{entry.name}",
        texts={ENTRY: entry.json(), RECIPE: to_yaml(recipe_of(entry))},
    )
    load_entry(written.folder / ENTRY)
    display.say(f'{written}\n\n{entry.report.table()}\n\nWritten: ardor.models.load("{PREFIX}{entry.name}")')
    return 0
