"""`ardor evaluate`: a run, or any net with weights, to a verdict per image and attack."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ardor import models
from ardor.attacks import Suite, suites
from ardor.attacks.suites import SUITES
from ardor.cli import display
from ardor.cli.selection import RUN, NetWords, Overrides, config_of, device_of, of_package
from ardor.data.split import Split
from ardor.deployment.export.executorch import Program
from ardor.deployment.export.formats import exported_from
from ardor.deployment.export.onnx_session import Session
from ardor.engine import distributed
from ardor.engine.threads import threads_for, use_threads
from ardor.errors import ArdorError, ConfigError
from ardor.evaluation.attacked import batch_for
from ardor.evaluation.checks.recipe import with_training
from ardor.evaluation.report_files import default_out, place_of, word_of
from ardor.evaluation.verdicts import evaluate as judge
from ardor.models.loading import net_for
from ardor.storage.files import require_writable
from ardor.storage.runs import CHECKPOINTS, journal_of
from ardor.types import Threat

FILES: dict[str, type[Session | Program]] = {".onnx": Session, ".pte": Program}
"""What computes an exported file, by the end of its name."""


def evaluate(
    run: Path | None = None,
    /,
    words: NetWords = RUN,
    *,
    suite: Literal["paper", "quick", "autoattack", "plus", "rand", "apgd", "square", "transfer", "deployed"]
    | None = None,
    transfer_from: str | None = None,
    part: Literal["test", "val", "train"] = "test",
    limit: int | None = None,
    batch: int | None = None,
    out: Path | None = None,
    journal: Path | None = None,
    threads: int | None = None,
    images: bool = False,
    compile: bool = False,
    overrides: Overrides,
) -> int:
    """Attack a net on every image of a data set's test part: accuracies with 95 % intervals.

    RUN is a folder that `ardor train` made: its net, data and threat are those of its config.yaml unless you type
    others. Or it is a file that `ardor export` made, evaluated on its own runtime: by default by the suite `deployed`,
    that is with images made against the net that it came from, along the gradients of its simulated graph, and by
    Square. A third-party file is a black box, for `square` and `transfer`, and so is a .pte. Without RUN, name a net,
    its weights and the data.

    `--recipe.device cuda:1` names the device; the default is a GPU if there is one.

    Examples:

    `ardor evaluate runs/rslad`

    `ardor evaluate --model net.py:build --weights w.safetensors --data npz:digits.npz --threat.eps 0.15`

    The report is saved as JSON in the run's folder (or in --out), one verdict per image and attack.

    `ardor evaluate RUN --suite autoattack` keeps a journal beside it: stop it at any moment, and the same command
    continues it. The same command in a second terminal, on another machine that shares the folder, or as `torchrun
    --nproc-per-node 4 -m ardor evaluate RUN --suite autoattack` takes a share of the images.

    Parameters
    ----------
    run
        Folder of a run, an exported .onnx or .pte, or ardor:NAME; first.
    suite
        Attacks; default paper, for an exported file deployed.
    transfer_from
        Run or known teacher that transfer is made against; default the run of an exported file.
    part
        Part of the data.
    limit
        Largest number of images, classes in proportion.
    batch
        Images at a time; default 256, or fewer where they are large.
    out
        File of the report; default in RUN.
    journal
        Folder of finished verdicts; default in RUN, for all suites but paper and quick.
    threads
        Threads of torch; default 1 for a small net on a CPU.
    images
        Keep the adversarial images in the journal.
    compile
        Compile the passes without gradients, as Square's: needs a C++ compiler, and a minute at first.
    """
    run, words = of_package(run, words)
    if compile and run is not None and run.suffix in FILES:
        raise ConfigError(f"expected a net of torch for --compile, got {run}, which has its own runtime: leave it out")
    exported = FILES[run.suffix](run) if run is not None and run.suffix in FILES and not run.is_dir() else None
    net, split, threat = words.load(run, part, overrides, exported)
    split = split if limit is None else split.limit(limit)
    suite_name = suite or default_suite(exported)
    source: str | nn.Module | None = transfer_from
    if source is None and run and exported and suite_name == "deployed":
        source = own_run(run, exported, words.trust_code)
    options = {"trust_code": words.trust_code, **overrides.get("transfer_from", {})}
    attacks = find_suite(suite_name, threat, source, split, options)
    folder, word = (run.parent, word_of(run)) if run and exported else (run, words.checkpoint)
    default = default_out(folder, attacks, word, words.data, part, limit, words.seed)
    require_writable(out or default)
    if journal is None and (attacks.sequential or distributed.launched() or images):
        journal = journal_of(default)
    first = distributed.local_rank() == 0  # only the first process on this machine displays
    net = net.to(device_of(overrides))
    models.require_fit(net, split.shape, split.classes, "model")
    measured = source if isinstance(source, nn.Module) else net  # an exported file has no layers of torch
    use_threads(threads_for(measured, split.shape) if threads is None else threads)
    if first and suite_name == "deployed" and source is None:
        display.err.print("no images by transfer: type --transfer_from with the run that the net is from", markup=False)
    training = config_of(run)
    with display.evaluation(quiet=not first) as show:
        report = judge(
            net,
            split,
            attacks,
            batch=batch_for(split) if batch is None else batch,
            seed=words.seed,
            journal=journal,
            images=images,
            compile=compile,
            progress=show,
        )
    report.title, report.training = f"{run} ({words.checkpoint})" if run else str(words.model), training
    if exported:
        report.title = f"{run} ({vars(exported)['built_as']['runtime']})"
    report.findings = with_training(report.findings, report.training, attacks.threat)
    if not default.parent.is_dir():  # the run was deleted meanwhile: a folder with a report alone would be no run
        default = Path(default.name)
    usual = out or default
    out = place_of(report, usual)
    report.save(out)
    if first:
        saved = f", the adversarial images to {journal / 'adversarial.npy'}" if images and journal else ""
        kept = "" if out == usual else f"{usual} has a stronger suite, more images or another protocol, and is kept. "
        display.say(f"{report.table()}\n\n{kept}Saved to {out}{saved}.")
    return 0


def default_suite(exported: Session | Program | None) -> str:
    """`paper` for a net, `deployed` for an exported file, `square` for one without gradients."""
    if exported is None:
        return "paper"
    return "square" if exported.without_gradients else "deployed"


def own_run(file: Path, exported: Session | Program, trust_code: bool = False) -> nn.Module | None:
    """The net that a file was exported from, where its run is beside it."""
    for checkpoint in CHECKPOINTS:
        with contextlib.suppress(ArdorError):  # no run, or one that was continued since
            net = models.load(file.parent, checkpoint=checkpoint, trust_code=trust_code)
            if exported_from(exported.metadata, net):
                return net
    return None


def find_suite(
    name: str, threat: Threat, source: str | nn.Module | None, split: Split, options: Mapping[str, Any]
) -> Suite:
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
    if isinstance(source, str):
        source = net_for("transfer_from", {"name": source, **options}, split, fresh=False)
    net = source
    if net is not None:
        models.require_fit(net, split.shape, split.classes, "surrogate")
    return suites.deployed(threat, net) if name == "deployed" or net is None else suites.transfer(threat, net)
