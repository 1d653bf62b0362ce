"""A run's folder before and after: its files for a device, made where they are missing, and its comparison of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import nn

from ardor import models
from ardor.attacks import Suite, suites
from ardor.data.split import Split
from ardor.deployment.export import export
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, digest
from ardor.deployment.variants.evaluate import deploy
from ardor.deployment.variants.latency import RUNS
from ardor.errors import ArdorError, ConfigError
from ardor.evaluation.progress import Progress
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import default_out, word_of
from ardor.storage.runs import Run
from ardor.types import Threat


def files_of(run: Path, checkpoint: str = "best") -> dict[str, Path]:
    """By name of the form, the file in the run's folder: weights, float32 ONNX and INT8 ONNX."""
    of = Run(run)
    files = of.checkpoint(checkpoint), of.exported(checkpoint), of.exported(checkpoint, int8=True)
    return dict(zip(VARIANTS, files, strict=True))


def reports_of(
    files: dict[str, Path], suite: Suite, part: str = "test", limit: int | None = None, seed: int = 0
) -> dict[str, Path]:
    """By name of the form, where `ardor evaluate` keeps its report."""
    words = {"part": part, "limit": limit, "seed": seed}
    return {name: default_out(path.parent, suite, word_of(path), **words) for name, path in files.items()}  # type: ignore[arg-type]


def prepare(
    net: nn.Module,
    files: dict[str, Path],
    train: Split,
    check: Split,
    threat: Threat | None = None,
    *,
    force: bool = False,
    agreement: float = 0.95,
    reports: Sequence[Report] = (),
    seed: int = 0,
) -> Iterator[str]:
    """Export the files that are missing or were made of other weights, and give the name of each form when it is there.

    What `ardor.export` takes. Raises what it raises, CheckpointError for a damaged file, and ConfigError for somebody
    else's under that name.
    """
    for to in ("onnx", "onnx-int8"):
        if not _is_of(net, files[to], agreement, force):
            words = {"force": force, "agreement": agreement, "reports": reports, "seed": seed}
            export(net, files[to], to=to, calibrate=train, check=check, threat=threat, **words)  # type: ignore[arg-type]
        yield to


def deploy_run(
    run: Path,
    net: nn.Module,
    check: Split,
    threat: Threat,
    *,
    checkpoint: str = "best",
    queries: int = 5000,
    batch: int = 256,
    seed: int = 0,
    runs: int = RUNS,
    journal: bool = False,
    progress: Callable[[str, Progress], None] | None = None,
) -> DeploymentReport:
    """Compare the files of `prepare` with `net`, the run's, under the suite `deployed`, and keep that in the folder.

    queries: of Square. The rest is as in `deploy`, which says what is raised, beside RunError.
    """
    files = files_of(run, checkpoint)
    suite = suites.deployed(threat, net, queries)
    reports = reports_of(files, suite, check.part, len(check) if check.of else None, seed)
    words = {"batch": batch, "seed": seed, "runs": runs, "journal": journal, "progress": progress}
    made = deploy(net, files, check, suite, reports, checkpoint=checkpoint, **words)  # type: ignore[arg-type]
    made.save(Run(run).comparison(checkpoint))
    return made


def _is_of(net: nn.Module, path: Path, agreement: float, force: bool) -> bool:
    """Whether the file is of the net, and answers as it does, or may miss it. Raises ConfigError, CheckpointError."""
    if not path.exists():
        return False
    session = Session(path)
    if session.foreign:
        raise ConfigError(f"expected a file that ardor exported, or none, got {path} of somebody else: move it away")
    said = session.metadata
    equal = min(said["parity"][images]["equal"] / said["parity"][images]["n"] for images in ("clean", "adversarial"))
    answers = force or (not said["forced"] and equal >= agreement)
    return bool(said["weights"] == models.hash_of(net) and answers)


def current(run: Path, checkpoint: str = "best") -> tuple[DeploymentReport | None, str]:
    """The comparison in a run's folder, and why it is not shown where it no longer is of what lies there.

    (None, "") where there is none.
    """
    path = Run(run).comparison(checkpoint)
    if not path.exists():
        return None, ""
    try:
        found = DeploymentReport.load(path)
        weights = models.hash_of(models.load(run, checkpoint=checkpoint))
    except ArdorError as error:
        return None, str(error)
    if found.weights != weights:
        return None, f"{path.name} is of the weights {found.weights}, {checkpoint} now of {weights}"
    for form in found.forms[1:]:
        there = run / form.file
        if there.exists() and digest(there) != form.sha256:
            return None, f"{there.name} is another file than the one compared"
    return found, ""
