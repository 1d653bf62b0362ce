"""`ardor demo`: the point of the field at a glance, on the digits that ship with scikit-learn."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ardor import models
from ardor.attacks import PGD, paper
from ardor.cli import display
from ardor.cli.commands import demo_page
from ardor.data import load
from ardor.data.split import Split
from ardor.demo import demo as plan
from ardor.deployment.variants.comparison import p_text, size_text
from ardor.engine.threads import use_threads
from ardor.errors import ConfigError
from ardor.evaluation.report import Report
from ardor.reporting import PageEntry, comparison, examples
from ardor.reporting.entry import entry_of
from ardor.reporting.page import write as write_page


def demo(
    *,
    all: Annotated[bool, Parameter(help="every method, with mean and SD over the seeds", negative="")] = False,
    seeds: Annotated[int | None, Parameter(help="how many seeds; default 1, with --all 3")] = None,
    quick: Annotated[bool, Parameter(help="two epochs, to see that all runs; no figures", negative="")] = False,
    out: Annotated[Path | None, Parameter(help="where everything goes; default runs/demo")] = None,
    drawn: Annotated[
        bool, Parameter(name="--page", help="also a page to draw digits on, which computes in the browser", negative="")
    ] = False,
    onnxruntime_web: Annotated[Path | None, Parameter(help="its npm package, for --page; default npm gets it")] = None,
    threads: Annotated[int, Parameter(help="of torch")] = 1,
) -> int:
    """Train a robust teacher on handwritten digits, distil small students from it, attack them all, draw one page.

    Takes under 3 minutes on 2 CPU cores; stopped, it goes on where it was; finished, it only draws again.
    """
    began = time.perf_counter()
    runtime = demo_page.runtime(onnxruntime_web) if drawn else None  # first: what is missing is said at once
    use_threads(threads)
    if seeds is not None and seeds < 1:
        raise ConfigError(f"expected at least one seed, got {seeds}: type --seeds 1")
    folder = out or Path("runs") / ("demo-quick" if quick else "demo")
    count = seeds or (3 if all and not quick else 1)
    todo = list(plan.jobs(folder, plan.ALL if all else plan.SHORT, range(count), quick))
    train, val, test = load("digits")
    display.say(
        f"digits: {len(train)} images to learn from, {len(val)} to select on, {len(test)} to judge on; "
        f"threat {plan.THREAT}; {len(todo)} nets"
    )
    reports: dict[str, list[Report]] = {}
    for number, job in enumerate(todo, 1):
        reports.setdefault(job.name, []).append(_one(job, f"{number}/{len(todo)}", train, val, test))
    chosen = [job for job in todo if all or job.name in plan.DEPLOYED]
    said = _on_devices(chosen, train, test.limit(60) if quick else test)
    page(folder, todo, reports, test, said)
    if runtime:
        display.say(demo_page.write(folder, {k: reports[k][0] for k in demo_page.SHOWN}, test, runtime, quick))
    display.say(f"{time.perf_counter() - began:.0f} s.")
    return 0


def _one(job: plan.Job, place: str, train: Split, val: Split, test: Split) -> Report:
    """Train and judge one net, and say how it did."""
    began = time.perf_counter()
    with display.progress(f"{place} {job.name}: training", job.epochs) as move:
        for record in plan.train(job, train, val):
            move(record.epoch, f"loss {record.loss:.3f}")
    names = list(paper(plan.THREAT).attacks)
    with display.progress(f"{place} {job.name}: attacks", len(names)) as move:
        report = plan.judge(job, test, lambda p: move(["clean", *names].index(p.attack), p.attack))
    clean, worst = report.clean, report.worst_case
    seconds = time.perf_counter() - began
    display.say(
        f"{place:>5}  {job.name:17} seed {job.seed}  clean {100 * clean.value:5.1f} %  "
        f"under every attack {100 * worst.value:5.1f} %  {seconds:5.1f} s"
    )
    return report


def _on_devices(todo: list[plan.Job], train: Split, test: Split) -> str:
    """Compare the first seed's students with their files for a device, and say what INT8 does to one of them."""
    students = [job for job in todo if job.teacher and job.seed == 0]
    if not plan.deploys():
        return 'With pip install "ardor[onnx]" this also compares the students with their ONNX and INT8 files.'
    made = {}
    with display.progress("ONNX and INT8", len(students)) as move:
        for number, job in enumerate(students, 1):
            made[job.name] = plan.deploy(job, train, test)
            move(number, job.name)
    net, int8 = made["rslad"].forms[0], made["rslad"].forms[-1]
    p = made["rslad"].differences[int8.name]["worst_case"].p
    return (
        f"On a device, in INT8, rslad weighs {size_text(int8.size)} instead of {size_text(net.size)}, and stands at "
        f"{100 * int8.report.worst_case.value:.1f} % under harder attacks (APGD, Square, transfer), where float32 "
        f"stands at {100 * net.report.worst_case.value:.1f} % (McNemar p {p_text(p)})."
    )


def page(folder: Path, todo: list[plan.Job], reports: dict[str, list[Report]], test: Split, said: str) -> None:
    """The comparison as a table, the figures as JSON, the page. said: of the devices, to be said at the end."""
    first = {job.name: job for job in todo if job.seed == 0}
    entries: list[PageEntry] = []
    with display.progress("radii and variance gap", len(first)) as move:
        for name, job in first.items():
            entry = entry_of(job.run, name=name, role="teacher" if job.teacher is None else "student")
            entry.reports = reports[name]
            entries.append(entry)
            move(len(entries), name)
    nets = {name: models.load(job.run) for name, job in first.items() if job.teacher}
    shown = examples({k: nets[k] for k in ("natural", "rslad")}, test, PGD(plan.THREAT, steps=20))
    where = write_page(
        folder / "page.html",
        entries,
        shown,
        title="ardor: small nets that stand",
        intro=INTRO.format(n=len(test), eps=plan.THREAT.eps),
        notes=NOTES,
        distilled="rslad",
    )
    plan.results(entries, folder / "results.json")
    display.say(f"\n{comparison(entries)}\n")
    natural, stands = (reports[k][0].worst_case.value for k in ("natural", "rslad"))
    display.say(
        f"The naturally trained student falls to {100 * natural:.1f} % under attack; "
        f"the same net distilled from the robust teacher (rslad) stands at {100 * stands:.1f} %."
    )
    display.say(said)
    display.say(f"Page: {where}   Figures: {folder / 'results.json'}")


INTRO = (
    "Nets on the handwritten digits of scikit-learn ({n} test images of 8x8 pixels): a robust teacher and students "
    "a fraction of its size. An attacker may move every pixel by {eps:g} of its range."
)
NOTES = [
    "8x8 digits are a toy: these figures say which way things go, not how a method ranks on natural images.",
    "The results are of white-box PGD and CW; ardor evaluate RUN --suite autoattack can only lower them.",
    "One seed shows no spread: ardor demo --all gives mean and SD over three.",
    "Here plain adversarial training without a teacher (sat) does as well as distillation: the images are few and the "
    "teacher is hardly more robust than its students. Do not expect the order of the papers from this page.",
    "The recipe is short (12 to 15 epochs) and shared by all methods; none was tuned for itself.",
    "Best checkpoints were chosen on a validation split cut from train; the test images took no part.",
    "Reproduce with: ardor demo",
]
