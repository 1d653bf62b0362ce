"""The files for a device in a run's folder, exported where they are missing, and the comparison of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ardor import models
from ardor.attacks import Suite, suites
from ardor.data.split import Split
from ardor.deployment.export import export
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, digest
from ardor.deployment.variants.evaluate import deploy
from ardor.errors import ArdorError, ConfigError
from ardor.evaluation.protocol import queries_of
from ardor.evaluation.report_files import default_out, word_of
from ardor.storage.runs import Run
from ardor.types import Threat


def files_of(run: Path, checkpoint: str = "best") -> dict[str, Path]:
    """By name of the variant, the file in the run's folder: weights, float32 ONNX and INT8 ONNX."""
    of = Run(run)
    files = of.checkpoint(checkpoint), of.exported(checkpoint), of.exported(checkpoint, int8=True)
    return dict(zip(VARIANTS, files, strict=True))


def reports_of(
    files: dict[str, Path], suite: Suite, part: str = "test", limit: int | None = None, seed: int = 0
) -> dict[str, Path]:
    """By name of the variant, the file of its report, with the name that `ardor evaluate` gives it."""
    return {
        name: default_out(path.parent, suite, word_of(path), part=part, limit=limit, seed=seed)
        for name, path in files.items()
    }


def prepare(
    net: nn.Module,
    files: dict[str, Path],
    train: Split,
    check: Split,
    threat: Threat | None = None,
    *,
    force: bool = False,
    agreement: float = 0.95,
    **options: Any,
) -> Iterator[str]:
    """Export the files that are missing or of other weights, and yield the name of each variant when its file exists.

    Parameters
    ----------
    net : nn.Module
        The run's net.
    files : dict
        By name of the variant, as `files_of` returns them.
    train, check, threat, force, agreement, options
        As in `ardor.export`, with `train` as `calibrate`.

    Raises
    ------
    What `ardor.export` raises, CheckpointError for a damaged file, and ConfigError for a third-party file.
    """
    for to in ("onnx", "onnx-int8"):
        if not _matches(net, files[to], agreement, force):
            options |= {"calibrate": train, "check": check, "threat": threat, "force": force, "agreement": agreement}
            export(net, files[to], to=to, **options)
        yield to


def _matches(net: nn.Module, path: Path, agreement: float, force: bool) -> bool:
    """Whether the file is of the net's weights and agrees with it, or need not. Raises ConfigError, CheckpointError."""
    if not path.exists():
        return False
    session = Session(path)
    if session.foreign:
        raise ConfigError(f"expected a file that ardor exported, or none, got a third-party file {path}: move it away")
    metadata, parity = session.metadata, session.metadata["parity"]
    equal = min(parity[images]["equal"] / parity[images]["n"] for images in ("clean", "adversarial"))
    agrees = force or (not metadata["forced"] and equal >= agreement)
    return bool(metadata["weights"] == models.hash_of(net) and agrees)


def deploy_run(
    run: Path,
    net: nn.Module,
    check: Split,
    threat: Threat,
    *,
    checkpoint: str = "best",
    queries: int = 5000,
    seed: int = 0,
    refused: str = "",
    **options: Any,
) -> DeploymentReport:
    """Compare the files of `prepare` with the run's net under the suite `deployed`, and save the result in the folder.

    Parameters
    ----------
    run : Path
        The folder of the run.
    net : nn.Module
        Its net.
    check : Split
        The images.
    threat : Threat
        Of the suite.
    checkpoint : str
        best, last or averaged.
    queries : int
        Of Square, for each image.
    refused : str
        Why there is no INT8 file; the others are then compared.
    seed, options
        As in `deploy`.

    Raises
    ------
    RunError: the result cannot be written. What `deploy` raises.
    """
    files, suite = files_of(run, checkpoint), suites.deployed(threat, net, queries)
    reports = reports_of(files, suite, check.part, len(check) if check.of else None, seed)
    if refused:
        del files["onnx-int8"], reports["onnx-int8"]
    result = deploy(net, files, check, suite, reports, checkpoint=checkpoint, seed=seed, **options)
    result = replace(result, refused=refused)
    result.save(place_of(run, result))
    return result


def place_of(run: Path, result: DeploymentReport) -> Path:
    """The file for a comparison; beside the checkpoint's own where that has more images, queries or variants.

    The same before and after the comparison is saved.
    """
    path = Run(run).comparison(result.checkpoint)
    with suppress(ConfigError):  # missing, damaged, or with reports that have changed
        kept = DeploymentReport.load(path)
        files = {(form.name, form.sha256) for form in result.forms}
        same = kept.weights == result.weights and files <= {(form.name, form.sha256) for form in kept.forms}
        if same and not result.replaces(kept):
            return Run(run).comparison(result.checkpoint, _words(result))
    return path


def _words(result: DeploymentReport) -> list[str]:
    report = result.forms[0].report
    words = [report.data["part"], report.threat["name"].lower(), str(report.threat["eps"]).replace("/", "_")]
    queries = [f"{n}queries" for n in queries_of(report)]
    return [*words, f"{report.n}images", *queries, *(["without_int8"] if result.refused else [])]


def current(run: Path, checkpoint: str = "best", trust_code: bool = False) -> tuple[DeploymentReport | None, str]:
    """The comparison in a run's folder; where it is not of the present weights and files, None and the reason.

    (None, "") where there is none.
    """
    path = Run(run).comparison(checkpoint)
    if not path.exists():
        return None, ""
    try:
        report = DeploymentReport.load(path)
        weights = models.hash_of(models.load(run, checkpoint=checkpoint, trust_code=trust_code))
    except ArdorError as error:
        return None, str(error)
    if report.weights != weights:
        return None, f"{path.name} is of the weights {report.weights}, {checkpoint} now of {weights}"
    for form in report.forms[1:]:
        file = run / form.file
        if file.exists() and digest(file) != form.sha256:
            return None, f"{file.name} is another file than the one compared"
    return report, ""
