"""The demo: a robust teacher, students a fraction of its size, and attacks, on 1,797 real handwritten digits.

Only the public interface is used. Each net is an ordinary run in its own folder, so an interrupted demo is resumed, and
of a finished one only the page is written again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ardor import models
from ardor.attacks import PGD, paper
from ardor.attacks.threat import Linf
from ardor.data.split import Split
from ardor.deployment.variants import DeploymentReport, run_files
from ardor.errors import ConfigError
from ardor.evaluation.progress import ProgressCallback
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import default_out
from ardor.evaluation.verdicts import evaluate
from ardor.methods import ARD, IAD, KD, MART, RSLAD, SAT, TRADES, Natural, VarianceGap
from ardor.models.identity import is_of
from ardor.reporting import PageEntry
from ardor.reporting.table import tables
from ardor.storage.config import describe
from ardor.storage.files import write_text
from ardor.storage.imports import require_package
from ardor.training.epoch import EpochRecord
from ardor.training.loop import epochs
from ardor.training.optimisers import SGD
from ardor.training.recipe import Recipe
from ardor.version import __version__

THREAT = Linf(0.2)
"""A fifth of the range from white to black: a person still reads the digit."""

RESULTS = "results.json"
QUICK = "two epochs of tiny nets, to see that everything runs"

QUERIES = 100
"""Of Square on the exported files; its authors take 5,000."""

TEACHER_WIDTH, STUDENT_WIDTH = 32, 8
TEACHER = "teacher (SAT)"
DEPLOYED = ("natural", "rslad")
"""The students that a short demo compares with their files: each takes several seconds."""

SHORT = ("natural", "sat", "rslad", "variance_gap")
METHODS: dict[str, Any] = {
    "natural": Natural(),
    "sat": SAT(),
    "trades": TRADES(),
    "mart": MART(),
    "kd": KD(),
    "ard": ARD(),
    "iad": IAD(begin=5),  # 60 of 200 epochs in the paper
    "rslad": RSLAD(),
    "variance_gap": VarianceGap(),
}
ALL = tuple(METHODS)
RECIPE = Recipe(
    batch=64,
    lr=0.2,
    schedule="one-cycle",
    optimiser=SGD(weight_decay=5e-4),
    augment="none",
    val_attack=PGD(THREAT, steps=10),
)
"""Short, as the data are few; no crop, since digits fill their 8 pixels."""


@dataclass(frozen=True)
class Job:
    """One net of the demo: its method, width, seed, and the folders of its run and of its teacher's."""

    name: str
    method: Any
    width: int
    seed: int
    run: Path
    teacher: Path | None = None
    epochs: int = 15

    @property
    def recipe(self) -> Recipe:
        """`RECIPE` with the job's epochs and seed, validated every third epoch."""
        every = min(3, self.epochs)
        return dataclasses.replace(RECIPE, epochs=self.epochs, seed=self.seed, val_every=every, device="cpu")


def jobs(out: Path, names: Iterable[str] = SHORT, seeds: Iterable[int] = (0,), quick: bool = False) -> Iterator[Job]:
    """The nets of a demo in the order of training: for each seed a teacher and then its students.

    Parameters
    ----------
    out : folder of the demo.
    names : methods of the students, of `METHODS`.
    quick : two epochs and tiny nets, a test that everything runs; the figures mean nothing.
    """
    wide, narrow = (8, 4) if quick else (TEACHER_WIDTH, STUDENT_WIDTH)
    for seed in seeds:
        folder = out / f"seed{seed}"
        teacher = folder / "teacher"
        yield Job(TEACHER, _under_threat(SAT()), wide, seed, teacher, epochs=2 if quick else 12)
        for name in names:
            method = _under_threat(METHODS[name])
            yield Job(name, method, narrow, seed, folder / name, teacher, epochs=2 if quick else 15)


def _under_threat(method: Any) -> Any:
    """A copy of the method with its attack under the demo's threat."""
    attack = {"attack": dataclasses.replace(method.attack, threat=THREAT)} if hasattr(method, "attack") else {}
    return dataclasses.replace(method, **attack)


def train(job: Job, train: Split, val: Split) -> Iterator[EpochRecord]:
    """Train a job's net, or resume its training."""
    student = models.build("small_cnn", classes=10, channels=1, width=job.width, seed=job.seed)
    teacher = models.load(job.teacher) if job.teacher else None
    yield from epochs(student, teacher, job.method, train, job.recipe, val=val, run=job.run, progress=False)


def judge(job: Job, test: Split, progress: ProgressCallback | None = None) -> Report:
    """The report on a trained job's net: an existing one of the same weights, images and version, else a new one."""
    net, suite = models.load(job.run), paper(THREAT)
    path = default_out(job.run, suite, "best")
    if path.exists():
        report = Report.load(path)
        origin = report.data.get("hash"), report.versions.get("ardor")
        if origin == (test.hash, __version__) and is_of(report.model, net):
            return report
    report = evaluate(net, test, suite, batch=len(test), progress=progress)
    report.title = job.name
    report.save(path)
    return report


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


def place_of(folder: Path, entries: list[PageEntry], name: str) -> Path:
    """The file called `name` (results.json) in the demo's folder, or part-NAME where that has more nets or seeds."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = {name: net["seeds"] for name, net in json.loads((folder / RESULTS).read_text())["nets"].items()}
        ours = {entry.name: len(entry.reports) for entry in entries}
        if any(ours.get(net, 0) < seeds for net, seeds in kept.items()):
            return folder / f"part-{name}"
    return folder / name


def results(entries: list[PageEntry], path: Path, trial: str = "") -> Path:
    """The figures as JSON: for each net and attack the accuracy of every seed, mean and SD (null for one seed).

    "best" has the student of each column that the paired comparison shows above all others, "verdict" the sentence on
    the worst case: as on the page.
    """
    (table,) = tables(entries)
    nets: dict[str, Any] = {}
    for entry in entries:
        n, seeds = entry.reports[0].n, len(entry.reports)
        nets[entry.name] = {"role": entry.role, "n": n, "seeds": seeds, "parameters": entry.parameters}
        for name, summary in entry.accuracies.items():
            figure = {"values": [p.value for p in summary.seeds], "mean": summary.value}
            figure |= {"sd": summary.sd if seeds > 1 else None, "wilson95": summary.seeds[0].interval}
            nets[entry.name][name] = figure
    best: dict[str, str | None] = dict.fromkeys(table.columns)
    for entry, row in zip(table.entries, table.rows, strict=True):
        best |= {column: entry.name for column, (_, star) in zip(table.columns, row, strict=True) if star}
    content = {
        "protocol": table.title,
        "data": "digits",
        "threat": f"Linf {THREAT.eps:g}",
        "suite": "paper",
        "n": entries[0].reports[0].n,
        "trial": trial,
        "best": best,
        "verdict": table.verdict,
        "nets": nets,
    }
    text = json.dumps(content, indent=1)
    return write_text(path, text)
