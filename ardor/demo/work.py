"""The making of a demo's nets: training, evaluation, radii, files for a device.

Each student is an ordinary run in its own folder, and every step keeps its result there: an interrupted demo goes on
from it, and of a finished one only the page is written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import TypeAlias

from torch import nn

from ardor import models
from ardor.attacks import paper
from ardor.data import load
from ardor.data.split import Split
from ardor.demo.demo import TEACHER_NET, THREAT, Job, images_of, recipe_of
from ardor.deployment.variants import DeploymentReport, run_files
from ardor.diagnostics.teacher import TeacherReport, examine_teacher
from ardor.errors import ConfigError, RunError
from ardor.evaluation.progress import ProgressCallback
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import default_out
from ardor.evaluation.variance import GapPoint, gaps_of
from ardor.evaluation.verdicts import evaluate
from ardor.models.identity import is_of
from ardor.storage.config import describe
from ardor.storage.imports import require_package
from ardor.training.epoch import EpochRecord
from ardor.training.loop import epochs
from ardor.training.preflight import uses_teacher
from ardor.training.soft_labels import SoftLabelCache
from ardor.version import __version__

QUERIES = 100
"""Of Square on the exported files; its authors take 5,000."""
QUICK_IMAGES = 60
"""Of a quick demo's comparison of exported files."""

Tell: TypeAlias = Callable[[str], None]
"""Called with what is done now."""


@cache
def splits() -> tuple[Split, Split, Split]:
    """Train, val and test."""
    return load("digits")


def make(job: Job, tell: Tell, stop: Callable[[], bool] = lambda: False) -> None:
    """Train and evaluate a job's net as far as that is not done.

    Parameters
    ----------
    tell : called with what is done now.
    stop : asked after each step of training; where it is true, the state is saved and the rest is left.
    """
    train, _, test = splits()
    if job.method is not None:
        for record in train_epochs(job, stop):
            tell(f"epoch {record.epoch}/{record.epochs}")
    if stop():
        return
    judge(job, lambda progress: tell(progress.attack))
    if job.measured:
        tell("radii")
        gaps(job)
    if job.deployed and deploys():
        tell("ONNX and INT8")
        deploy(job, train, test.limit(QUICK_IMAGES) if job.quick else test)


def train_epochs(job: Job, stop: Callable[[], bool] | None = None) -> Iterator[EpochRecord]:
    """Train a job's net, or resume its training."""
    train, val, _ = splits()
    student = models.build("small_cnn", classes=10, channels=1, width=job.width, seed=job.seed)
    recipe, labels = recipe_of(job, train), SoftLabelCache(job.folder.parent / ".soft-labels")
    try:
        yield from epochs(
            student, _teachers(job), job.method, images_of(job, train), recipe, val=val, run=job.run,
            soft_labels=labels, progress=False, stop=stop,
        )  # fmt: skip
    except RunError as error:  # of an earlier demo in this folder, say
        raise RunError(error.args[0].replace("--run with a new name", "--out with a new name")) from error


def _teachers(job: Job) -> nn.Module | dict[str, nn.Module] | None:
    if not uses_teacher(job.method):
        return None
    robust = models.load(TEACHER_NET)
    return {"robust": robust, "natural": models.load(job.folder / job.needs)} if job.needs else robust


def judge(job: Job, progress: ProgressCallback | None = None) -> Report:
    """The report on a trained job's net: an existing one of the same weights, images and version, else a new one."""
    net, suite, test = job.net(), paper(THREAT), splits()[2]
    path = default_out(job.run, suite, "best")
    if path.exists():
        report = Report.load(path)
        origin = report.data.get("hash"), report.versions.get("ardor")
        if origin == (test.hash, __version__) and is_of(report.model, net):
            return report
    report = evaluate(net, test, suite, batch=len(test), progress=progress or False)
    report.title = job.name
    report.save(path)
    return report


def gaps(job: Job) -> list[GapPoint]:
    """Robust accuracy and variance gap of a student at radii from 0 to twice the threat's, kept in its run."""
    return gaps_of(job.run, THREAT, limit=1000)


def gate() -> TeacherReport:
    """The teacher on the validation images."""
    return examine_teacher(models.load(TEACHER_NET), splits()[1], THREAT)


def deploys() -> bool:
    """Whether the packages that an export needs are installed."""
    with suppress(ConfigError):
        return all(require_package(name, "onnx", "an export") for name in ("onnx", "onnxscript", "onnxruntime"))
    return False


def deploy(job: Job, train: Split, test: Split) -> DeploymentReport:
    """A trained job's net beside its ONNX and INT8 files: the existing comparison if it is current, else a new one."""
    report, _ = run_files.current(job.run)
    if report and len(report.forms) == 3:
        of = report.forms[0].report
        if (report.versions["ardor"], of.data["hash"], of.threat) == (__version__, test.hash, describe(THREAT)):
            return report
    net = models.load(job.run)
    for _ in run_files.prepare(net, run_files.files_of(job.run), train, test, THREAT, force=True):
        pass  # forced: a net of two epochs is shown too, and the table has the differences of its file
    return run_files.deploy_run(job.run, net, test, THREAT, queries=QUERIES, batch=len(test))
