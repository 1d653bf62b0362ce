"""The demo: a robust teacher, students a fraction of its size, and attacks, on 1,797 real handwritten digits.

Nothing here is special: every line uses the public interface, and each net is an ordinary run in its own folder, so a
demo that was stopped goes on, and one that was finished is only drawn again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ardor import models
from ardor.attacks import PGD, paper
from ardor.attacks.threat import Linf
from ardor.data import load
from ardor.data.split import Split
from ardor.deployment.variants import DeploymentReport, run_files
from ardor.errors import ConfigError
from ardor.evaluation.progress import ProgressCallback
from ardor.evaluation.proportion import mean_sd
from ardor.evaluation.report import Report
from ardor.evaluation.report_files import default_out
from ardor.evaluation.verdicts import evaluate
from ardor.methods import ARD, IAD, KD, MART, RSLAD, SAT, TRADES, Natural, VarianceGap
from ardor.models import hash_of
from ardor.reporting import PageEntry
from ardor.storage.files import write_atomic
from ardor.storage.imports import require_package
from ardor.training.epoch import EpochRecord
from ardor.training.loop import epochs
from ardor.training.recipe import Recipe
from ardor.version import __version__

THREAT = Linf(0.2)
"""A fifth of the range from white to black: a person still reads the digit."""

QUERIES = 100
"""Of Square on the files for a device: a look, where its authors take 5,000."""

TEACHER_WIDTH, STUDENT_WIDTH = 32, 8
TEACHER = "teacher (SAT)"
DEPLOYED = ("natural", "rslad")
"""The students that a short demo compares with their files: each takes several seconds."""

SHORT = ("natural", "sat", "rslad", "variance_gap")
ALL = ("natural", "sat", "trades", "mart", "kd", "ard", "iad", "rslad", "variance_gap")
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


@dataclass(frozen=True)
class Job:
    """One net of the demo: what trains it, how wide it is, from which seed, and in which folder."""

    name: str
    method: Any
    width: int
    seed: int
    run: Path
    teacher: Path | None = None
    epochs: int = 15

    @property
    def recipe(self) -> Recipe:
        """Short, as the data are few; no crop, since digits fill their 8 pixels. Selected on a held-out split."""
        return Recipe(
            epochs=self.epochs,
            batch=64,
            lr=0.2,
            schedule="one-cycle",
            weight_decay=5e-4,
            augment="none",
            seed=self.seed,
            val_attack=PGD(THREAT, steps=10),
            val_every=min(3, self.epochs),
            device="cpu",
        )


def jobs(out: Path, names: Iterable[str] = SHORT, seeds: Iterable[int] = (0,), quick: bool = False) -> Iterator[Job]:
    """Everything that a demo trains, in order: for each seed a teacher and then its students.

    quick: two epochs and tiny nets, to see that everything runs; its figures mean nothing.
    """
    for seed in seeds:
        folder = out / f"seed{seed}"
        teacher = folder / "teacher"
        teacher_width, width = (8, 4) if quick else (TEACHER_WIDTH, STUDENT_WIDTH)
        teacher_epochs, length = (2, 2) if quick else (12, 15)
        yield Job(TEACHER, _under(SAT()), teacher_width, seed, teacher, epochs=teacher_epochs)
        for name in names:
            yield Job(name, _under(METHODS[name]), width, seed, folder / name, teacher, length)


def _under(method: Any) -> Any:
    """The method with its attack under the demo's threat."""
    if not hasattr(method, "attack"):
        return dataclasses.replace(method)
    return dataclasses.replace(method, attack=dataclasses.replace(method.attack, threat=THREAT))


def train(job: Job, train: Split, val: Split) -> Iterator[EpochRecord]:
    """Train a job's net, or go on with it."""
    student = models.build("small_cnn", classes=10, channels=1, width=job.width, seed=job.seed)
    teacher = models.load(job.teacher) if job.teacher else None
    yield from epochs(student, teacher, job.method, train, job.recipe, val=val, run=job.run)


def judge(job: Job, test: Split, progress: ProgressCallback | None = None) -> Report:
    """Attack a trained job's net on the test split, unless a report of the same weights, images and version exists."""
    net: nn.Module = models.load(job.run)
    suite = paper(THREAT)
    path = default_out(job.run, suite, "best")
    if path.exists():
        kept = Report.load(path)
        if (kept.model["hash"], kept.data["hash"], kept.versions["ardor"]) == (hash_of(net), test.hash, __version__):
            return kept
    report = evaluate(net, test, suite, batch=len(test), progress=progress)
    report.title = job.name
    report.save(path)
    return report


def deploys() -> bool:
    """Whether the packages are there that an export needs."""
    with suppress(ConfigError):
        return all(require_package(name, "onnx", "an export") for name in ("onnx", "onnxscript", "onnxruntime"))
    return False


def deploy(job: Job, train: Split, test: Split) -> DeploymentReport:
    """A trained job's net beside its ONNX and INT8 files, unless a comparison of the same is in its folder already."""
    found, _ = run_files.current(job.run)
    if found and found.versions["ardor"] == __version__ and found.forms[0].report.data["hash"] == test.hash:
        return found
    net = models.load(job.run)
    for _ in run_files.prepare(net, run_files.files_of(job.run), train, test, THREAT, force=True):
        pass  # forced: also a net of two epochs is shown, and the table says where its file misses it
    return run_files.deploy_run(job.run, net, test, THREAT, queries=QUERIES, batch=len(test))


def results(entries: Iterable[PageEntry], path: Path) -> Path:
    """The figures as JSON: for each net and attack the accuracy of every seed, mean and SD (null for one seed)."""
    table: dict[str, Any] = {}
    for entry in entries:
        row: dict[str, Any] = {"role": entry.role, "n": entry.reports[0].n, "seeds": len(entry.reports)}
        row["parameters"] = entry.reports[0].model["parameters"]
        for name in entry.reports[0].figures():
            values = [report.figures()[name].value for report in entry.reports]
            mean, sd = mean_sd(values)
            row[name] = {"values": values, "mean": mean, "sd": sd if len(values) > 1 else None}
            row[name]["wilson95"] = entry.reports[0].figures()[name].interval
        table[entry.name] = row
    content = {"data": "digits", "threat": f"Linf {THREAT.eps:g}", "suite": "paper", "nets": table}
    text = json.dumps(content, indent=1)
    return write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def digits() -> tuple[Split, Split, Split]:
    """The demo's data: train, val and test."""
    return load("digits")
