"""The files of a net for a device: exported where missing, evaluated side by side, timed, and compared with the net."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ardor import models
from ardor.attacks import PGD, Suite, suites
from ardor.data.split import Split, sample
from ardor.deployment.export import export
from ardor.deployment.export.formats import exported_from
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.export.parity import match
from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, Variant, digest
from ardor.deployment.variants.latency import RUNS, latencies, processor
from ardor.engine.flops import macs
from ardor.engine.modes import freeze
from ardor.errors import ArdorError, CheckpointError, ConfigError
from ardor.evaluation.attacked import adversarial
from ardor.evaluation.identity import identity, matching_report
from ardor.evaluation.progress import Progress
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.protocol import queries_of
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import default_out, word_of
from ardor.evaluation.verdicts import evaluate
from ardor.models import hash_of
from ardor.models.identity import is_of, key_of
from ardor.storage.config import describe
from ardor.storage.files import shortened
from ardor.storage.runs import Run, journal_of
from ardor.types import Threat
from ardor.version import __version__


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
    metadata, parity = session.metadata, session.metadata.get("parity") or {}
    equal = min(
        (parity[images]["equal"] / max(parity[images]["n"], 1) for images in parity if images != "attack"), default=0
    )
    agrees = force or (not metadata.get("forced") and equal >= agreement)
    return exported_from(metadata, net) and bool(agrees)


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
        net = models.load(run, checkpoint=checkpoint, trust_code=trust_code)
    except ArdorError as error:
        return None, str(error)
    if report.weights != (weights := hash_of(net)):
        return None, f"{path.name} is of the weights {report.weights}, {checkpoint} now of {weights}"
    if any(not is_of(form.report.model, net) for form in report.forms if form.name == "float32"):
        return None, f"{path.name} is of the weights {weights} with other code or settings than {checkpoint} has now"
    for form in report.forms[1:]:
        file = run / form.file
        if file.exists() and digest(file) != form.sha256:
            return None, f"{file.name} is another file than the one compared"
    return report, ""


def deploy(
    net: nn.Module,
    files: Mapping[str, Path],
    data: Split,
    suite: Suite,
    reports: Mapping[str, Path],
    *,
    checkpoint: str = "best",
    batch: int = 256,
    seed: int = 0,
    runs: int = RUNS,
    journal: bool = False,
    progress: Callable[[str, Progress], None] | None = None,
) -> DeploymentReport:
    """Evaluate every variant of a net on every image of a split, time it, and compare it with the net.

    The net, its modes, torch's threads and the global generators are as before.

    Parameters
    ----------
    net : nn.Module
        The net, on the CPU.
    files : mapping
        By name of the variant, in the order of `VARIANTS`: `float32`, the safetensors file of the net's weights, then
        the files of `ardor.export`.
    data : Split
        The images.
    suite : Suite
        One for all variants, such as `suites.deployed(threat, net)`.
    reports : mapping
        The file of each variant's report; one of the same net, images, attacks and versions that exists is reused.
    checkpoint : str
        The name of the net in the result.
    batch, seed : int
        As in `evaluate`.
    runs : int
        Timed runs of each variant, fewer where they take long.
    journal : bool
        Keep one beside each report, so that an interrupted evaluation resumes.
    progress : callable or None
        Called with the variant's name and the progress of its evaluation.

    Raises
    ------
    ConfigError: other names, or no onnxruntime. CheckpointError: a file of other weights. What `evaluate` raises.
    """
    if list(files) != list(VARIANTS)[: len(files)] or set(reports) != set(files) or not files:
        raise ConfigError(
            f"expected files and reports named {', '.join(VARIANTS)}, in this order, got "
            f"{', '.join(files) or 'none'} and {', '.join(reports) or 'none'}: pass both for each form"
        )
    batch = min(batch, len(data))
    nets = {name: net if name == "float32" else _opened(path, net) for name, path in files.items()}
    judged = {
        name: evaluated(
            variant, data, suite, reports[name], str(files[name]), journal,
            batch=batch, seed=seed, progress=partial(progress, name) if progress else None,
        )
        for name, variant in nets.items()
    }  # fmt: skip
    attack = PGD(suite.threat, steps=10)
    compared = sample(data)  # all of them are in memory at once
    clean, labels = compared.batch(slice(None))[0].cpu(), compared.labels.cpu()
    x_adv = adversarial(net, compared, "parity", attack, batch=min(batch, len(compared)), seed=seed)

    def equal(variant: nn.Module, images: Tensor) -> Proportion:
        return Proportion(match(net, variant, images, labels).equal, len(compared))

    timed = {name: net if name == "float32" else Session(path, threads=1) for name, path in files.items()}
    with freeze(net):
        same = {name: (equal(variant, clean), equal(variant, x_adv)) for name, variant in nets.items()}
        latency = latencies(timed, clean[:1], runs=runs)

    def variant_of(name: str) -> Variant:
        path, forced = files[name], tuple(getattr(nets[name], "metadata", {}).get("forced", ()))
        file = name, path.name, path.stat().st_size, digest(path)
        return Variant(*file, latency[name], judged[name], reports[name].name, same[name], forced)

    versions = {"ardor": __version__, "torch": str(torch.__version__)}
    versions |= {"onnxruntime": importlib.metadata.version("onnxruntime")} if len(files) > 1 else {}
    return DeploymentReport(
        checkpoint=checkpoint,
        weights=hash_of(net),
        parameters=sum(p.numel() for p in net.parameters()),
        macs=macs(net, data.shape),
        forms=tuple(map(variant_of, files)),
        attack=describe(attack),
        processor=processor(),
        versions=versions,
    )


def _opened(path: Path, net: nn.Module) -> Session:
    """The file as a net. Raises CheckpointError where it is not of the weights of `net`."""
    session = Session(path)
    weights = session.metadata.get("weights", "a third-party file")
    if not exported_from(session.metadata, net):
        got = f"{weights} with other layers or settings" if weights == hash_of(net) else weights
        raise CheckpointError(f"expected {path} of the weights {hash_of(net)}, got {got}: type ardor export RUN again")
    return session


def evaluated(
    net: nn.Module, data: Split, suite: Suite, path: Path, title: str, journal: bool, *, progress: Any, **options: Any
) -> Report:
    """The report at `path` if it is of the same evaluation, else a new one, saved there."""
    wanted = identity(net, data, suite, **options)
    report = matching_report(path, wanted)
    if report is None:
        # named after the evaluation: that of other weights or attacks has another journal
        key = key_of(wanted)[:8]
        book = path.with_name(shortened(f"{journal_of(path).name}-{key}")) if journal else None
        report = evaluate(net, data, suite, journal=book, progress=progress, **options)
        report.title = title
        report.save(path)
    return report
