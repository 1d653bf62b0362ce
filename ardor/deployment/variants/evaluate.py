"""deploy: the variants of a net evaluated on the same images by the same attacks, timed side by side, and compared."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ardor.attacks import PGD, Suite
from ardor.data.split import Split
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.export.parity import match
from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, Variant, digest
from ardor.deployment.variants.latency import RUNS, latencies, processor
from ardor.engine.flops import macs
from ardor.engine.modes import freeze
from ardor.errors import CheckpointError, ConfigError
from ardor.evaluation.attacked import adversarial
from ardor.evaluation.identity import identity, matching_report
from ardor.evaluation.progress import Progress
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.report import Report
from ardor.evaluation.verdicts import evaluate
from ardor.models import hash_of
from ardor.models.identity import key_of
from ardor.storage.config import describe
from ardor.storage.runs import journal_of
from ardor.version import __version__


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
        name: _report(
            variant, data, suite, reports[name], str(files[name]), journal,
            batch=batch, seed=seed, progress=partial(progress, name) if progress else None,
        )
        for name, variant in nets.items()
    }  # fmt: skip
    attack = PGD(suite.threat, steps=10)
    clean, labels = data.batch(slice(None))[0].cpu(), data.labels.cpu()
    x_adv = adversarial(net, data, "parity", attack, batch=batch, seed=seed)

    def equal(variant: nn.Module, images: Tensor) -> Proportion:
        return Proportion(match(net, variant, images, labels).equal, len(data))

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
    if weights != hash_of(net):
        raise CheckpointError(
            f"expected {path} of the weights {hash_of(net)}, got {weights}: type ardor export RUN again"
        )
    return session


def _report(
    net: nn.Module, data: Split, suite: Suite, path: Path, title: str, journal: bool, *, progress: Any, **options: Any
) -> Report:
    """The report at `path` if it is of the same evaluation, else a new one, saved there."""
    wanted = identity(net, data, suite, **options)
    report = matching_report(path, wanted)
    if report is None:
        # named after the evaluation: that of other weights or attacks has another journal
        key = key_of(wanted)[:8]
        book = path.with_name(f"{journal_of(path).name}-{key}") if journal else None
        report = evaluate(net, data, suite, journal=book, progress=progress, **options)
        report.title = title
        report.save(path)
    return report
