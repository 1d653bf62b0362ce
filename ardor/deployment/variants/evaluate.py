"""deploy: the forms of a net judged on the same images by the same attacks, timed side by side, and compared."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ardor.attacks import PGD, Suite
from ardor.data.split import Split
from ardor.deployment.export.onnx_session import Session
from ardor.deployment.export.parity import Match, match
from ardor.deployment.variants.comparison import VARIANTS, DeploymentReport, Variant, digest
from ardor.deployment.variants.latency import RUNS, latencies, processor
from ardor.engine.flops import macs
from ardor.engine.modes import freeze
from ardor.errors import CheckpointError, ConfigError
from ardor.evaluation.attacked import adversarial
from ardor.evaluation.identity import identity, matching_report
from ardor.evaluation.progress import Progress, ProgressCallback
from ardor.evaluation.proportion import Proportion
from ardor.evaluation.report import Report
from ardor.evaluation.verdicts import evaluate
from ardor.models import hash_of
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
    """Judge every form of `net` on every image of `data` under `suite`, time it, and compare it with the net.

    net: on the CPU. files: by name of the form, in the order of `FORMS`: `float32`, the safetensors file of the net's
    weights, then what `ardor.export` made of it. suite: one value for all, such as `suites.deployed(threat, net)`.
    reports: where the report of each form is kept; one of the same net, images, attacks and versions that lies there
    already is taken over. checkpoint: what the result calls the net. batch, seed: as in `evaluate`. runs: measured ones
    of each form, fewer where they take long. journal: keep one beside each report, so that a stopped evaluation goes
    on. progress: called with the form's name and how far its evaluation is.

    Net, modes, torch's threads and the global generators are as before. Raises ConfigError for other names, or without
    onnxruntime; CheckpointError for a file that was made of other weights; and what `evaluate` raises.
    """
    if list(files) != list(VARIANTS)[: len(files)] or set(reports) != set(files) or not files:
        raise ConfigError(
            f"expected files and reports named {', '.join(VARIANTS)}, in this order, got "
            f"{', '.join(files) or 'none'} and {', '.join(reports) or 'none'}: pass both for each form"
        )
    nets: dict[str, nn.Module] = {name: net if name == "float32" else opened(path, net) for name, path in files.items()}
    judged = {}
    for name, one in nets.items():
        tell = partial(progress, name) if progress else None
        judged[name] = _report(one, data, suite, reports[name], str(files[name]), batch, seed, journal, tell)
    attack = PGD(suite.threat, steps=10)
    same = _same(net, nets, data, attack, seed, min(batch, len(data)))
    image = data.batch(slice(0, 1))[0].cpu()
    timed = {name: net if name == "float32" else Session(path, threads=1) for name, path in files.items()}
    with freeze(net):
        taken = latencies(timed, image, runs=runs)
    forms = tuple(
        Variant(
            name,
            path.name,
            path.stat().st_size,
            digest(path),
            taken[name],
            judged[name],
            reports[name].name,
            same[name],
            _forced(nets[name]),
        )
        for name, path in files.items()
    )
    versions = {"ardor": __version__, "torch": str(torch.__version__)}
    versions |= {"onnxruntime": importlib.metadata.version("onnxruntime")} if len(files) > 1 else {}
    return DeploymentReport(
        checkpoint=checkpoint,
        weights=hash_of(net),
        parameters=sum(p.numel() for p in net.parameters()),
        macs=macs(net, data.shape),
        forms=forms,
        attack=describe(attack),
        processor=processor(),
        versions=versions,
    )


def opened(path: Path, net: nn.Module) -> Session:
    """The file as a net. Raises CheckpointError where it was not made of the weights of `net`."""
    session = Session(path)
    if session.metadata.get("weights") != hash_of(net):
        made = session.metadata.get("weights", "somebody else's")
        raise CheckpointError(f"expected {path} of the weights {hash_of(net)}, got {made}: type ardor export RUN again")
    return session


def _report(
    net: nn.Module,
    data: Split,
    suite: Suite,
    where: Path,
    title: str,
    batch: int,
    seed: int,
    journal: bool,
    progress: ProgressCallback | None,
) -> Report:
    """The form's report, made anew where none of the same evaluation is kept."""
    batch = min(batch, len(data))
    wanted = identity(net, data, suite, batch=batch, seed=seed)
    report = matching_report(where, wanted)
    if report is None:
        # named after the evaluation: that of other weights or attacks has a journal of its own
        key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:8]
        book = where.with_name(f"{journal_of(where).name}-{key}") if journal else None
        report = evaluate(net, data, suite, batch=batch, seed=seed, journal=book, progress=progress)
        report.title = title
        report.save(where)
    return report


def _same(
    net: nn.Module, nets: Mapping[str, nn.Module], data: Split, attack: PGD, seed: int, batch: int
) -> dict[str, tuple[Proportion, Proportion]]:
    """Of each form, the images on which it predicts as the net does: clean ones, and adversarial ones for the net."""
    clean, labels = data.batch(slice(None))[0].cpu(), data.labels.cpu()
    x_adv = adversarial(net, data, "parity", attack, batch=batch, seed=seed)

    def share(found: Match) -> Proportion:
        return Proportion(found.equal, found.n)

    whole = Proportion(len(data), len(data))
    return {
        name: (whole, whole)
        if one is net
        else (share(match(net, one, clean, labels)), share(match(net, one, x_adv, labels)))
        for name, one in nets.items()
    }


def _forced(net: nn.Module) -> tuple[str, ...]:
    """How a file misses its net, where its export was forced."""
    return tuple(net.metadata["forced"]) if isinstance(net, Session) else ()
