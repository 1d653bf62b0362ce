"""Release: a net with the evidence that may be published beside it, restricted to that of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ardor import data, models
from ardor.deployment.export.formats import exported_from
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.variants.run_files import current
from ardor.diagnostics.record import record_of
from ardor.errors import ArdorError, ConfigError
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import reports_of
from ardor.models.identity import identity, same_function
from ardor.storage.config import as_text
from ardor.storage.markdown import code, inline
from ardor.storage.runs import Run


@dataclass(frozen=True)
class Release:
    """The content of a folder for the Hub.

    Attributes
    ----------
    net : nn.Module
        A net of `ardor.models`.
    shape : tuple of int
        (C, H, W) of its images.
    class_names : tuple of str
        In the order of the logits.
    reports : sequence of Report
        Evaluations of the net and of its files; those of other weights are left out.
    files : sequence of Path
        Exported .onnx files; those of other weights are left out.
    training : mapping
        The config.yaml of its run; empty if unknown.
    chosen : str
        The checkpoint, as Markdown.
    name : str
        The title of the model card where there is no repository.
    left_out : tuple of str
        Why other files of the run are not published.
    deployed : str
        The table of `ardor deploy`, if it is of these weights and files.
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
    """An exported file of the net's weights, its metadata, and the evaluations of the file itself."""

    path: Path
    metadata: Mapping[str, Any]
    reports: tuple[Report, ...]


@dataclass(frozen=True)
class Evidence:
    """The evidence of the weights with this hash: reports of the net, its files, and why others are left out."""

    weights: str
    reports: tuple[Report, ...]
    files: tuple[OnnxFile, ...]
    left_out: tuple[str, ...]

    @property
    def judged(self) -> list[tuple[OnnxFile | None, Report]]:
        """Every report with the file that it is of, None for the net."""
        of_files = [(file, report) for file in self.files for report in file.reports]
        return [*((None, report) for report in self.reports), *of_files]


def release_of(run: str | Path, checkpoint: str = "best", *, trust_code: bool = False) -> Release:
    """A run's checkpoint, with every report and ONNX file in its folder.

    Image shape and class names are those of an exported file, else of the run's data, which are then read.

    Parameters
    ----------
    run : str or Path
        The folder of the run.
    checkpoint : str
        best, last or averaged.
    trust_code : bool
        As in `ardor.models.load`.

    Raises
    ------
    ConfigError, CheckpointError, RunError and DataError, where folder, checkpoint or data are missing or damaged.
    """
    run, folder = Path(run), Run(run)
    net = models.load(run, checkpoint=checkpoint, trust_code=trust_code)
    if not folder.exists:
        raise ConfigError(f"expected the folder of a run, got {run}: type ardor push runs/NAME")
    config, files = folder.config, folder.onnx_files()
    reports, unread = reports_of(run)
    compared, stale = current(run, checkpoint, trust_code)
    deployed = ""
    if compared:  # without the findings, which have a section of the card
        forms = tuple(replace(form, report=replace(form.report, findings=[])) for form in compared.forms)
        deployed = str(replace(compared, forms=forms))
    session = next((one for path in files if isinstance(one := _opened(path, net), Session)), None)
    if session is None:
        test = data.load_test(**data.options_of(folder.part("data", trust_code=trust_code)))
        shape, names = test.shape, tuple(test.class_names)
    else:
        c, h, w = session.metadata["input"]["shape"]
        shape, names = (c, h, w), session.class_names
    chosen, left_out = _chosen(run, net, checkpoint), (*unread, *([stale] if stale else []))
    return Release(net, shape, names, reports, files, config, chosen, run.resolve().name, left_out, deployed)


def evidence_of(release: Release) -> Evidence:
    """The release's reports and files that are of its net's weights."""
    net = identity(release.net, release.shape)
    weights = net["hash"]
    files, of, left_out = [], {weights: list[Report]()}, list(release.left_out)
    for path in release.files:
        session = _opened(path, release.net)
        if isinstance(session, Session):
            reports = of.setdefault(models.hash_of(session), [])
            files.append((path, session.metadata, reports))
        else:
            left_out.append(session)
    for report in release.reports:
        if report.model.get("hash") in of and (report.model["hash"] != weights or same_function(report.model, net)):
            of[report.model["hash"]].append(report)
        else:
            left_out.append(
                f"the report of {report.title or report.model.get('name')}, suite {report.suite}: of the weights "
                f"{report.model.get('hash')}, expected {weights}"
            )
    files.sort(key=lambda file: (str(file[1]["to"]), file[0].name))  # float32 first
    exported = tuple(OnnxFile(path, metadata, tuple(reports)) for path, metadata, reports in files)
    return Evidence(weights, tuple(of[weights]), exported, tuple(left_out))


def _opened(path: Path, net: nn.Module) -> Session | str:
    """A file that was exported from this net; for any other, why it is left out."""
    try:
        session = Session(path, threads=1)
    except ArdorError as error:
        return f"{path.name}: {error}"
    if exported_from(session.metadata, net):
        return session
    weights = models.hash_of(net)
    of = f"of the weights {session.metadata['weights']}" if session.metadata else "not exported by ardor"
    return f"{path.name}: {of}, expected {weights}: export it again with ardor export"


def _chosen(run: Path, net: nn.Module, checkpoint: str) -> str:
    """The checkpoint in words, with the validation accuracies that selected it."""
    text, record = f"the checkpoint {code(checkpoint)}", record_of(run, net)
    if record is None:
        return text
    text += f"; on the validation images {100 * record.clean:.2f} % clean"
    if record.robust is None or record.eps is None:
        return text
    under = inline(f"{record.attack} ({record.norm.capitalize()} eps {as_text(record.eps)})")
    return f"{text}, {100 * record.robust:.2f} % under {under}"
