"""make_entry: a run to an entry; figures are evaluated, or those of reports that are evaluated again in part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ardor import data, models
from ardor.attacks.suites import SUITES
from ardor.attacks.threat import BY_NAME
from ardor.data.split import Split
from ardor.deployment.hub.redact import redact, trained
from ardor.deployment.hub.write import weights_of
from ardor.deployment.leaderboard.entry import NAME, SUITE, Entry
from ardor.deployment.variants.comparison import DeploymentReport
from ardor.deployment.variants.run_files import current, deploy_run, evaluated, files_of, prepare
from ardor.engine.flops import macs
from ardor.errors import ArdorError, ConfigError, shown
from ardor.evaluation.attacked import batch_for
from ardor.evaluation.claim import changed_attacks
from ardor.evaluation.protocol import same_threat
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import default_out, reports_of
from ardor.evaluation.verdicts import evaluate
from ardor.models import hash_of
from ardor.models.identity import is_of
from ardor.storage.config import build, describe
from ardor.storage.runs import Run
from ardor.types import Threat

RECHECKED = 32
"""Images of a report on disk that are evaluated again."""
COMPARED = 1000
"""The most images on which float32, ONNX and INT8 are compared; `ardor deploy` before takes any number."""
DERIVED = ("fingerprint", "processes", "threads", "lengthened")
"""Keys of a run's config that no recipe has."""


def make_entry(
    run: Path,
    name: str,
    *,
    checkpoint: str = "best",
    limit: int | None = None,
    queries: int = 5000,
    licence: str = "",
    made: tuple[str, ...] = (),
    trust_code: bool = False,
    progress: Callable[[str, Any], None] | None = None,
) -> Entry:
    """The entry of a run's checkpoint.

    AutoAttack and the comparison of float32, ONNX and INT8 are those in the run's folder, where they are of these
    weights; else they are made there, and resumed after an interruption. A report that was there is evaluated again on
    some of its images.

    Parameters
    ----------
    run : Path
        The folder of the run.
    name : str
        Of the entry.
    checkpoint : str
        best, last or averaged.
    limit : int or None
        Test images for AutoAttack, classes in proportion; None: those of the run's report, else all.
    queries : int
        Of Square in the comparison, for each image.
    licence, made : str, tuple of str
        Of the weights; the commands that make net and entry.
    trust_code : bool
        As in `ardor.models.load`.
    progress : callable or None
        Called with what is evaluated and its progress.

    Raises
    ------
    ConfigError: a name that is none, a run without threat, a report that cannot be made again, no onnxruntime.
    CheckpointError, RunError, DataError: files of the run that are missing or damaged.
    """
    require_name(name)
    folder = Run(run)
    net = models.load(run, checkpoint=checkpoint, trust_code=trust_code)
    size = len(weights_of(net))  # which refuses code before hours of attacks
    threat = _threat(folder)
    train, _, test = data.load(**data.options_of(folder.part("data", trust_code=trust_code)))
    models.require_fit(net, test.shape, test.classes, "net")
    report = _report(run, net, test, threat, checkpoint, limit, progress)
    compared = test.limit(min(COMPARED, limit or COMPARED))
    deployed = _deployed(run, net, train, compared, threat, checkpoint, queries, trust_code, progress)
    training = trained(folder.config)
    return Entry(
        name=name,
        net={key: value for key, value in vars(net)["built_as"].items() if key != "seed"},
        weights=hash_of(net),
        parameters=sum(p.numel() for p in net.parameters()),
        macs=macs(net, test.shape),
        size=size,
        licence=licence,
        training=training,
        made=made,
        report=_public(report, training),
        deployed=DeploymentReport.from_dict(redact(deployed.as_dict()), run),
    )


def require_name(name: str) -> None:
    """Raise ConfigError unless an entry may have this name."""
    if not NAME.fullmatch(name) or len(name) > 60:
        raise ConfigError(
            f'expected a name of small letters, digits, "-", "_" and ".", got "{shown(name)}": type digits-cnn8-sat'
        )


def recipe_of(entry: Entry) -> dict[str, Any]:
    """The recipe that trains such a net again: the config of its run without what was computed from it."""
    return {key: value for key, value in entry.training.items() if key not in DERIVED}


def recheck(report: Report, net: nn.Module, test: Split, images: int = RECHECKED) -> None:
    """Evaluate some of a report's images again: their verdicts depend on no other image.

    A verdict may differ by rounding on another processor, so that one image in sixteen may.

    Raises
    ------
    ConfigError
        For other images than the report's, and for verdicts that are not made again, with both numbers.
    """
    if report.data.get("hash") != test.hash:
        raise ConfigError(
            f"expected a report on the images {test.hash}, got one on {shown(report.data.get('hash'), 40)}: "
            "evaluate again"
        )
    rows = list(range(0, report.n, max(1, report.n // images)))[:images]
    threat: Threat = build(report.threat, "threat")
    again = evaluate(
        net,
        test.take(rows),
        SUITES[report.suite](threat),
        batch=min(report.batch, len(rows)),
        seed=report.seed,
        progress=False,
    )
    written, now = report.correct(), again.correct()
    for figure in ("clean", "worst_case"):
        before = [written[figure][row] for row in rows]
        differ = sum(a != b for a, b in zip(before, now[figure], strict=True))
        if differ > len(rows) / 16:
            raise ConfigError(
                f"expected verdicts that follow from the net, got {sum(before)} of {len(rows)} images in the report "
                f"({figure}), where {sum(now[figure])} do: delete the report, and type the same command"
            )


def _threat(run: Run) -> Threat:
    config = run.threat
    if str(config.get("name")).lower() not in BY_NAME:
        raise ConfigError(
            f"expected a run that was trained or validated under a threat, got {run.folder} without: type ardor train "
            "with --threat.eps"
        )
    threat: Threat = build(config, "threat")
    return threat


def _report(
    run: Path,
    net: nn.Module,
    test: Split,
    threat: Threat,
    checkpoint: str,
    limit: int | None,
    progress: Callable[[str, Any], None] | None,
) -> Report:
    """The report of AutoAttack in the run's folder, of these weights, threat and images, checked; else a new one."""
    present = [
        report
        for report in reports_of(run)[0]
        if report.suite == SUITE and report.data["part"] == "test" and not changed_attacks(report)
        if same_threat(report.threat, describe(threat)) and is_of(report.model, net)
        if limit is None or report.n == min(limit, len(test))
    ]
    if present:
        report = max(present, key=lambda report: report.n)
        recheck(report, net, test.limit(report.n))
        return report
    split, suite = test if limit is None else test.limit(limit), SUITES[SUITE](threat)
    path = default_out(run, suite, checkpoint, limit=limit)
    show = None if progress is None else lambda event: progress(SUITE, event)
    return evaluated(
        net, split, suite, path, f"{run} ({checkpoint})", True, progress=show, batch=batch_for(split), seed=0
    )


def _deployed(
    run: Path,
    net: nn.Module,
    train: Split,
    check: Split,
    threat: Threat,
    checkpoint: str,
    queries: int,
    trust_code: bool,
    progress: Callable[[str, Any], None] | None,
) -> DeploymentReport:
    """The comparison in the run's folder, where it is of the present weights, data and threat; else a new one."""
    kept, _ = current(run, checkpoint, trust_code)
    if kept is not None and (len(kept.forms) == 3 or kept.refused):
        of = kept.forms[0].report
        if of.data["part"] == "test" and of.data["name"] == check.name and same_threat(of.threat, describe(threat)):
            return kept
    refused, done = "", 0
    with Run(run).held("deploy"):
        try:
            for _ in prepare(net, files_of(run, checkpoint), train, check, threat, reports=reports_of(run)[0]):
                done += 1
        except ArdorError as error:
            if done == 0:  # there is no ONNX file
                raise
            refused = str(error)
        return deploy_run(
            run, net, check, threat, checkpoint=checkpoint, queries=queries, refused=refused, journal=True,
            batch=batch_for(check), progress=progress,
        )  # fmt: skip


def _public(report: Report, training: Mapping[str, Any]) -> Report:
    """The report without places on this machine."""
    content: dict[str, Any] = redact(report.as_dict())
    return Report.from_dict(content | {"training": dict(training)}, "the report")
