"""Release: a net with all that may be published beside it, and which of it is really of these weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ardor import data, models
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.variants.comparison import DeploymentReport
from ardor.deployment.variants.run_files import current
from ardor.diagnostics.record import record_of
from ardor.errors import ArdorError, ConfigError
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import reports_of
from ardor.storage.config import as_text
from ardor.storage.runs import Run


@dataclass(frozen=True)
class Release:
    """What is to be published.

    net: built by one of `ardor.models`. shape: (C, H, W) of its images. class_names: in the order of the logits.
    reports, files: evaluations, and exported .onnx files, of the net and of its files; those of other weights are
    left out. training: a run's config.yaml. chosen: which checkpoint it is, in words. left_out: what was not readable.
    deployed: the table of `ardor deploy`, where it is of these weights and files.
    """

    net: nn.Module
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    reports: Sequence[Report] = ()
    files: Sequence[Path] = ()
    training: Mapping[str, Any] = field(default_factory=dict)
    chosen: str = ""
    name: str = "net"
    left_out: tuple[str, ...] = ()
    deployed: str = ""


@dataclass(frozen=True)
class OnnxFile:
    """An exported file of the net's weights: what it says of itself, and the evaluations of the file itself."""

    path: Path
    metadata: Mapping[str, Any]
    reports: tuple[Report, ...]


@dataclass(frozen=True)
class Evidence:
    """What is of these weights: the reports of the net, its files, and in words what was left out."""

    weights: str
    reports: tuple[Report, ...]
    files: tuple[OnnxFile, ...]
    left_out: tuple[str, ...]


def release_of(run: str | Path, checkpoint: str = "best") -> Release:
    """A run's checkpoint, with every report and ONNX file in its folder.

    Image shape and class names are those of an exported file, else of the run's data, which are then read.
    Raises ConfigError, CheckpointError, RunError and DataError.
    """
    run, folder = Path(run), Run(run)
    net = models.load(run, checkpoint=checkpoint)
    if not folder.exists:
        raise ConfigError(f"expected the folder of a run, got {run}: type ardor push runs/NAME")
    config = folder.config
    reports, unread = reports_of(run)
    files = folder.onnx_files()
    shape, names = _images(net, files, config)
    chosen, (compared, why) = _chosen(run, net, checkpoint), current(run, checkpoint)
    unread += [why] if why else []
    deployed = _table(compared) if compared else ""
    return Release(net, shape, names, reports, files, config, chosen, run.resolve().name, tuple(unread), deployed)


def evidence_of(release: Release) -> Evidence:
    """The release's reports and files that are of its net's weights."""
    weights = models.hash_of(release.net)
    files, hashes, left_out = [], {weights}, list(release.left_out)
    for path in release.files:
        try:
            session = Session(path, threads=1)
        except ArdorError as error:
            left_out.append(f"{path.name}: {error}")
            continue
        if session.metadata.get("weights") != weights:
            of = f"of the weights {session.metadata['weights']}" if session.metadata else "not exported by ardor"
            left_out.append(f"{path.name}: {of}, expected {weights}: export it again with ardor export")
            continue
        own = models.hash_of(session)
        hashes.add(own)
        files.append(OnnxFile(path, session.metadata, tuple(r for r in release.reports if r.model.get("hash") == own)))
    for report in release.reports:
        if report.model.get("hash") not in hashes:
            left_out.append(
                f"the report of {report.title or report.model.get('name')}, suite {report.suite}: of the weights "
                f"{report.model.get('hash')}, expected {weights}"
            )
    reports = tuple(r for r in release.reports if r.model.get("hash") == weights)
    files.sort(key=lambda file: (str(file.metadata["to"]), file.path.name))  # float32 first
    return Evidence(weights, reports, tuple(files), tuple(left_out))


def _table(compared: DeploymentReport) -> str:
    """Without the findings, which stand together in the card."""
    forms = tuple(replace(form, report=replace(form.report, findings=[])) for form in compared.forms)
    return str(replace(compared, forms=forms))


def _images(
    net: nn.Module, files: Sequence[Path], config: Mapping[str, Any]
) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Image shape (C, H, W) and class names."""
    for path in files:
        try:
            session = Session(path, threads=1)
        except ArdorError:  # `evidence_of` says why
            continue
        if session.metadata.get("weights") == models.hash_of(net):
            c, h, w = session.metadata["input"]["shape"]
            return (c, h, w), session.class_names
    test = data.load_test(**config["data"])
    return test.shape, tuple(test.class_names)


def _chosen(run: Path, net: nn.Module, checkpoint: str) -> str:
    """Which epoch's weights, and what chose them."""
    claim = record_of(run, net)
    if claim is None:
        return f"the checkpoint `{checkpoint}`"
    said = f"the checkpoint `{checkpoint}`; on the validation images {100 * claim.clean:.2f} % clean"
    if claim.robust is None or claim.eps is None:
        return said
    under = f"{claim.attack} ({claim.norm.capitalize()} eps {as_text(claim.eps)})"
    return f"{said}, {100 * claim.robust:.2f} % under {under}"
