"""`ardor demo`: the point of the field at a glance, on the digits that ship with scikit-learn."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Literal

from ardor import models
from ardor.attacks import PGD, paper
from ardor.cli import display
from ardor.cli.commands import demo_page
from ardor.data import load
from ardor.data.split import Split
from ardor.demo import demo as plan
from ardor.deployment.variants.comparison import size_text
from ardor.engine.threads import use_threads
from ardor.errors import ConfigError
from ardor.evaluation.comparison.significance import p_text
from ardor.evaluation.report import Report
from ardor.reporting import PageEntry, comparison, examples
from ardor.reporting.entry import entry_of
from ardor.reporting.page import write as write_page
from ardor.reporting.table import differ


def demo(
    *,
    all: bool = False,
    seeds: int | None = None,
    quick: bool = False,
    out: Path | None = None,
    page: bool = False,
    onnxruntime_web: Path | None = None,
    threads: int = 1,
) -> int:
    """Train a robust teacher on handwritten digits, distil small students from it, attack them all, write one page.

    Takes under 3 minutes on 2 CPU cores. The same command continues a demo that was stopped; of a
    finished one it only rewrites the page.

    Parameters
    ----------
    all
        Every method, with mean and SD over the seeds.
    seeds
        Number of seeds; default 1, with --all 3.
    quick
        Two epochs, to test that everything runs; the figures mean nothing.
    out
        Folder of everything; default runs/demo.
    page
        Write a page to draw digits on, too, which computes in the browser.
    onnxruntime_web
        npm package of that name, for --page; default npm downloads it.
    threads
        Threads of torch.
    """
    began = time.perf_counter()
    runtime = demo_page.runtime(onnxruntime_web) if page else None  # first: a missing package is reported at once
    use_threads(threads)
    if seeds is not None and seeds < 1:
        raise ConfigError(f"expected at least one seed, got {seeds}: type --seeds 1")
    folder = out or Path("runs") / ("demo-quick" if quick else "demo")
    count = seeds or (3 if all and not quick else 1)
    todo = list(plan.jobs(folder, plan.ALL if all else plan.SHORT, range(count), quick))
    train, val, test = load("digits")
    display.say(
        f"digits: {len(train)} images to train on, {len(val)} to select on, {len(test)} to test on; "
        f"threat {plan.THREAT}; {len(todo)} nets"
    )
    reports: dict[str, list[Report]] = {}
    for number, job in enumerate(todo, 1):
        reports.setdefault(job.name, []).append(_one(job, f"{number}/{len(todo)}", train, val, test))
    chosen = [job for job in todo if all or job.name in plan.DEPLOYED]
    on_devices = _on_devices(chosen, train, test.limit(60) if quick else test)
    draw = page or (folder / "draw.html").is_file()
    where = _write(folder, todo, reports, test, quick, draw)
    display.say(f"{on_devices}\n{where}")
    if runtime:
        display.say(demo_page.write(folder, {k: reports[k][0] for k in demo_page.SHOWN}, test, runtime, quick))
    display.say(f"{time.perf_counter() - began:.0f} s.")
    return 0


def _one(job: plan.Job, place: str, train: Split, val: Split, test: Split) -> Report:
    """Train and evaluate one net, and display its accuracies."""
    began = time.perf_counter()
    with display.progress(f"{place} {job.name}: training", job.epochs) as move:
        for record in plan.train(job, train, val):
            move(record.epoch, f"loss {record.loss:.3f}")
    names = list(paper(plan.THREAT).attacks)
    with display.progress(f"{place} {job.name}: attacks", len(names)) as move:
        report = plan.judge(job, test, lambda p: move(["clean", *names].index(p.attack), p.attack))
    display.say(
        f"{place:>5}  {job.name:17} seed {job.seed}  clean {100 * report.clean.value:5.1f} %  "
        f"under every attack {100 * report.worst_case.value:5.1f} %  {time.perf_counter() - began:5.1f} s"
    )
    return report


def _on_devices(todo: list[plan.Job], train: Split, test: Split) -> str:
    """Compare the first seed's students with their exported files; return a sentence on the INT8 file of one."""
    students = [job for job in todo if job.teacher and job.seed == 0]
    if not plan.deploys():
        return 'With pip install "ardor[onnx]" this also compares the students with their ONNX and INT8 files.'
    deployed = {}
    with display.progress("ONNX and INT8", len(students)) as move:
        for number, job in enumerate(students, 1):
            deployed[job.name] = plan.deploy(job, train, test)
            move(number, job.name)
    net, int8 = deployed["rslad"].forms[0], deployed["rslad"].forms[-1]
    p = deployed["rslad"].differences[int8.name]["worst_case"].p
    return (
        f"On a device, in INT8, on {net.report.n} images, rslad weighs {size_text(int8.size)} instead of "
        f"{size_text(net.size)}, and stands at {100 * int8.report.worst_case.value:.1f} % under harder attacks (APGD, "
        f"Square, transfer), where float32 stands at {100 * net.report.worst_case.value:.1f} % (McNemar p {p_text(p)})."
    )


def _write(
    folder: Path, todo: list[plan.Job], reports: dict[str, list[Report]], test: Split, quick: bool, draw: bool
) -> str:
    """Write the page and the figures as JSON, and display the comparison as a table. Returns a line on the files."""
    first = {job.name: job for job in todo if job.seed == 0}
    entries: list[PageEntry] = []
    with display.progress("radii and variance gap", len(first)) as move:
        for name, job in first.items():
            role: Literal["teacher", "student"] = "teacher" if job.teacher is None else "student"
            entry = entry_of(job.run, name, role, report=reports[name][0])
            entry.reports = reports[name]
            entries.append(entry)
            move(len(entries), name)
    nets = {name: models.load(first[name].run) for name in ("natural", "rslad")}
    pictures = examples(nets, test, PGD(plan.THREAT, steps=20))
    trial = f"{plan.QUICK}; {len(test)} test images" if quick else ""
    words = [*["--all"] * (len(first) > len(plan.SHORT) + 1), *(["--quick"] if quick else [])]
    words += ["--seeds", str(len(entries[0].reports)), "--out", str(folder)]
    notes = [NOTE_QUICK if quick else NOTE_RECIPE, *NOTES]
    page = plan.place_of(folder, entries, "page.html")
    write_page(
        page,
        entries,
        pictures,
        title="ardor: small nets that withstand attacks",
        intro=INTRO.format(n=len(test), eps=plan.THREAT.eps),
        notes=notes,
        distilled="rslad",
        trial=trial,
        command=shlex.join(["ardor", "demo", *words]),
        links={"Draw a digit, and see both nets read it under attack": "draw.html"} if draw else {},
    )
    figures = plan.results(entries, plan.place_of(folder, entries, plan.RESULTS), trial)
    display.say(f"\n{comparison(entries)}\n")
    natural, distilled = (next(entry for entry in entries if entry.name == name) for name in ("natural", "rslad"))
    falls, stands = (100 * entry.accuracies["worst_case"].value for entry in (natural, distilled))
    if trial:
        display.say(f"A trial ({trial}): its figures are no result.")
    elif stands > falls and differ(natural, distilled):
        display.say(
            f"The naturally trained student falls to {falls:.1f} % under attack; the same net distilled from the "
            f"robust teacher (rslad) stands at {stands:.1f} %."
        )
    else:
        display.say(f"No difference shown between natural ({falls:.1f} %) and rslad ({stands:.1f} %) under attack.")
    kept = "" if page.name == "page.html" else f"{folder} has figures of more nets or seeds, which are kept.\n"
    return f"{kept}Page: {page}   Figures: {figures}"


INTRO = (
    "Nets on the handwritten digits of scikit-learn ({n} test images of 8x8 pixels): a robust teacher and students "
    "a fraction of its size. An attacker may move every pixel by {eps:g} of its range."
)
NOTES = [
    "8x8 digits are a toy: these figures show a direction, not how a method ranks on natural images.",
    "The results are of white-box PGD and CW; ardor evaluate RUN --suite autoattack can only lower them.",
    "One seed shows no spread: ardor demo --all gives mean and SD over three.",
    "The images are few and the teacher is hardly more robust than its students: do not expect the order of the papers "
    "from this page.",
    "Best checkpoints were chosen on a validation split cut from train; the test images took no part.",
]
NOTE_RECIPE = "The recipe is short (12 to 15 epochs) and shared by all methods; none was tuned for itself."
NOTE_QUICK = "This is ardor demo --quick, a trial: two epochs, tiny nets, and files for a device on 60 images."
