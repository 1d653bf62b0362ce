"""`ardor evaluate`: a run, or any net with weights, to a verdict per image and attack."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from torch import nn
from torch.distributed import get_node_local_rank, is_torchelastic_launched

from ardor import models
from ardor.attacks import Suite, suites
from ardor.attacks.suites import SUITES
from ardor.attacks.threat import BY_NAME
from ardor.cli import display
from ardor.cli.selection import Overrides, config_of, find_split, find_threat, require_overrides, trained_threat
from ardor.data.split import Split
from ardor.deployment.export.executorch import Program
from ardor.deployment.export.onnx_session import Session
from ardor.engine.threads import threads_for, use_threads
from ardor.errors import ArdorError, ConfigError
from ardor.evaluation.checks.recipe import with_training
from ardor.evaluation.report_files import default_out, word_of
from ardor.evaluation.verdicts import evaluate as judge
from ardor.models.loading import net_for
from ardor.storage.config import build
from ardor.storage.runs import CHECKPOINTS, journal_of
from ardor.training.recipe import find_device
from ardor.types import Threat

FILES: dict[str, type[Session | Program]] = {".onnx": Session, ".pte": Program}
"""What computes an exported file, by the end of its name."""


def evaluate(
    run: Annotated[
        Path | None, Parameter(name="RUN", help="a run's folder, or an exported .onnx or .pte; must come first")
    ] = None,
    /,
    *,
    model: Annotated[str | None, Parameter(help="a net's name or file.py:Name, instead of RUN")] = None,
    weights: Annotated[str | None, Parameter(help="its weights: .safetensors, or .pt read with weights_only")] = None,
    data: Annotated[str | None, Parameter(help="the data set; default the run's own")] = None,
    suite: Annotated[
        Literal["paper", "quick", "autoattack", "plus", "rand", "apgd", "square", "transfer", "deployed"] | None,
        Parameter(help="which attacks; default paper, for a file deployed"),
    ] = None,
    transfer_from: Annotated[
        str | None, Parameter(help="the run, or known teacher, that transfer is made against; default a file's own run")
    ] = None,
    threat: Annotated[str | None, Parameter(help="linf or l2; default the run's own")] = None,
    checkpoint: Annotated[Literal["best", "last", "averaged"], Parameter(help="of the run")] = "best",
    part: Annotated[Literal["test", "val", "train"], Parameter(help="of the data")] = "test",
    limit: Annotated[int | None, Parameter(help="at most so many images, classes in proportion")] = None,
    batch: Annotated[int | None, Parameter(help="images at a time; default 256, or all if fewer")] = None,
    seed: Annotated[int, Parameter(help="of the attacks' random starts")] = 0,
    device: Annotated[str, Parameter(help="auto, cpu, cuda ...")] = "auto",
    out: Annotated[Path | None, Parameter(help="the report's file; default in RUN")] = None,
    journal: Annotated[
        Path | None, Parameter(help="folder of finished verdicts; default in RUN, for all but paper and quick")
    ] = None,
    threads: Annotated[int | None, Parameter(help="of torch; default 1 for a small net on a CPU")] = None,
    images: Annotated[bool, Parameter(help="keep the adversarial images in the journal", negative="")] = False,
    overrides: Annotated[Overrides | None, Parameter(parse=False)] = None,
) -> int:
    """Attack a net on every image of a data set's test part and say what it withstands, with 95 % intervals.

    RUN is a folder that `ardor train` made: its net, data and threat are those of its config.yaml unless you type
    others. Or it is a file that `ardor export` made, judged on its own runtime: by default by the suite `deployed`,
    that is with images made against the net that it came from, along the gradients of its simulated graph, and by
    Square. Somebody else's file is a black box, for `square` and `transfer`, and so is a .pte. Without RUN, name a net,
    its weights and the data.

    Examples:

    `ardor evaluate runs/rslad`

    `ardor evaluate --model net.py:build --weights w.safetensors --data npz:digits.npz --threat.eps 0.15`

    The report is saved as JSON in the run's folder (or where --out says), one verdict per image and attack.

    `ardor evaluate RUN --suite autoattack` keeps a journal beside it: stop it at any moment, and the same command goes
    on. The same command in a second terminal, on another machine that shares the folder, or as `torchrun
    --nproc-per-node 4 -m ardor evaluate RUN --suite autoattack` takes a share of the images.
    """
    if (run is None) == (model is None):
        got = "none" if run is None else f"the run {run} and the model {model}"
        raise ConfigError(f"expected one net, got {got}: type ardor evaluate RUN, or --model NAME --weights FILE")
    overrides = overrides or {}
    require_overrides(overrides, "threat", "data", "model")
    exported = FILES[run.suffix](run) if run is not None and run.suffix in FILES and not run.is_dir() else None
    trained = config_of(run)
    threat_ = find_threat(threat, overrides, _threat_of(exported) if exported else trained_threat(run))
    net = exported or (None if run is None else models.load(run, checkpoint=checkpoint))
    split = find_split(_data_of(exported) if exported else trained, data, part, overrides)
    split = split if limit is None else split.limit(limit)
    if net is None:
        net = net_for("model", {"name": model, "weights": weights, **overrides.get("model", {})}, split, fresh=False)
    chosen = suite or default_suite(exported)
    source: str | nn.Module | None = transfer_from
    if source is None and run and exported and chosen == "deployed":
        source = own_run(run, exported)
    attacks = find_suite(chosen, threat_, source, split)
    folder, word = (run.parent, word_of(run)) if run and exported else (run, checkpoint)
    where = default_out(folder, attacks, word, data, part, limit, seed)
    shared = is_torchelastic_launched()
    if journal is None and (attacks.sequential or shared or images):
        journal = journal_of(where)
    first = get_node_local_rank(fallback_rank=0) == 0  # of those that torchrun started here, the one that speaks
    net = net.to(find_device(device))
    models.require_fit(net, split.shape, split.classes)
    counted = net if source is None or isinstance(source, str) else source  # a file has no layers of torch
    use_threads(threads_for(counted, split.shape) if threads is None else threads)
    if first and chosen == "deployed" and source is None:
        display.err.print("no images by transfer: type --transfer_from with the run that the net is from", markup=False)
    with display.evaluation(quiet=not first) as tell:
        report = judge(
            net,
            split,
            attacks,
            batch=min(256, len(split)) if batch is None else batch,
            seed=seed,
            journal=journal,
            images=images,
            progress=tell,
        )
    report.title, report.training = f"{run} ({checkpoint})" if run else str(model), trained
    if exported:
        report.title = f"{run} ({vars(exported)['built_as']['runtime']})"
    report.findings = with_training(report.findings, trained, attacks.threat.eps)
    where = out or where
    report.save(where)
    if first:
        kept = f", the adversarial images to {Path(str(journal)) / 'adversarial.npy'}" if images else ""
        display.say(f"{report.table()}\n\nSaved to {where}{kept}.")
    return 0


def default_suite(exported: Session | Program | None) -> str:
    """The papers' for a net, the three answers for a file, and what needs no gradient for one that has none."""
    if exported is None:
        return "paper"
    return "square" if exported.without_gradients else "deployed"


def own_run(file: Path, exported: Session | Program) -> nn.Module | None:
    """The net that a file was exported from, where its run is beside it."""
    for checkpoint in CHECKPOINTS:
        with contextlib.suppress(ArdorError):  # no run, or one that has gone on since
            net = models.load(file.parent, checkpoint=checkpoint)
            if models.hash_of(net) == exported.metadata.get("weights"):
                return net
    return None


def find_suite(name: str, threat: Threat, source: str | nn.Module | None, split: Split) -> Suite:
    """The suite called `name`; `transfer` needs the net that the images are made against. Raises ConfigError."""
    allowed = name in ("transfer", "deployed")
    if (name == "transfer" and source is None) or (source is not None and not allowed):
        got = "none" if source is None else f"{source} for --suite {name}"
        raise ConfigError(
            f"expected --transfer_from for --suite transfer, and only there or for deployed, got {got}: type --suite "
            "transfer --transfer_from RUN"
        )
    if not allowed:
        return SUITES[name](threat)
    net = net_for("surrogate", {"name": source}, split, fresh=False) if isinstance(source, str) else source
    if net is not None:
        models.require_fit(net, split.shape, split.classes, "surrogate")
    return suites.deployed(threat, net) if name == "deployed" or net is None else suites.transfer(threat, net)


def _threat_of(net: Session | Program) -> Threat | None:
    """The threat that a file was checked under, None for somebody else's."""
    config = net.metadata.get("threat", {})
    threat: Threat | None = build(config, "threat") if str(config.get("name")).lower() in BY_NAME else None
    return threat


def _data_of(net: Session | Program) -> dict[str, Any]:
    """The data that a file was checked on, as a run's configuration says it."""
    said = net.metadata.get("check", {})
    return {"data": {"name": said["name"]}} if said else {}
