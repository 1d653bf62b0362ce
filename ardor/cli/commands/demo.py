"""`ardor demo`: the point of the field at a glance, on the digits that ship with scikit-learn."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from ardor.attacks import PGD
from ardor.cli import display
from ardor.cli.commands import demo_page
from ardor.demo import demo as plan
from ardor.demo import labels, work, workers
from ardor.demo.results import RESULTS, place_of, results
from ardor.deployment.variants.comparison import size_text
from ardor.deployment.variants.run_files import current
from ardor.diagnostics.teacher import require
from ardor.engine.threads import restored, use_threads
from ardor.errors import ConfigError
from ardor.evaluation.comparison.significance import p_text
from ardor.evaluation.report import Report
from ardor.reporting import PageEntry, comparison, examples
from ardor.reporting.page import write as write_page
from ardor.types import uses_labels


def demo(
    *,
    all: bool = False,
    seeds: int | None = None,
    quick: bool = False,
    out: Path | None = None,
    page: bool = False,
    onnxruntime_web: Path | None = None,
    processes: int | None = None,
) -> int:
    """Distil small students from a robust teacher that ships with ardor, without labels, beside others that have them.

    The data are handwritten digits. All nets are attacked, and one page is written. Takes about two minutes on 2 CPU
    cores. The same command continues a demo that was stopped; of a finished one it only rewrites the page.

    Parameters
    ----------
    all
        Every method.
    seeds
        Number of seeds; default 3, with --quick 1. Fewer than 3 are no evidence about methods.
    quick
        A trial: two epochs of one seed, to see that everything runs. Its figures are no result.
    out
        Folder of everything; default runs/demo.
    page
        Write a page to draw digits on, too, which computes in the browser.
    onnxruntime_web
        npm package of that name, for --page; default npm downloads it.
    processes
        Nets that are made at once; default the cores there are, 8 at most.
    """
    began = time.perf_counter()
    runtime = demo_page.runtime(onnxruntime_web) if page else None  # first: a missing package is reported at once
    if seeds is not None and seeds < 1:
        raise ConfigError(f"expected at least one seed, got {seeds}: type --seeds 3")
    folder = out or Path("runs") / ("demo-quick" if quick else "demo")
    names = plan.ALL if all else plan.SHORT
    todo = plan.jobs(folder, names, range(seeds or (1 if quick else 3)), quick)
    with restored():
        use_threads(1)  # small nets: more threads wait for each other longer than they compute
        train, val, test = work.splits()
        _show_teacher()
        at_once = workers.cores() if processes is None else processes
        display.say(
            f"digits: {len(train)} images to train on, {len(val)} for the teacher's choice, {len(test)} to test on; "
            f"threat {plan.THREAT}; {len(todo) - 1} students, {min(at_once, len(todo))} at once"
        )
        reports = _make(todo, at_once)
        on_devices = _on_devices([job for job in todo if job.deployed])
        where = _write(folder, todo, reports, quick, page or (folder / "draw.html").is_file())
        display.say(f"{on_devices}\n{where}")
        if runtime:
            display.say(demo_page.write(folder, {k: reports[k][0] for k in demo_page.SHOWN}, test, runtime, quick))
    display.say(f"{time.perf_counter() - began:.0f} s.")
    return 0


def _show_teacher() -> None:
    """Measure the teacher on the validation images, and refuse one that is broken."""
    report = work.gate()
    require(report)
    display.say(
        f"teacher {plan.TEACHER_NET}: {report.clean} % of {report.n} validation images right, {report.robust} % under "
        "PGD-20"
    )


def _make(todo: list[plan.Job], processes: int) -> dict[str, list[Report]]:
    """Make all nets, and display each when it is finished. Returns by name of a net its report of each seed."""
    began, running, reports = dict[Path, float](), dict[Path, str](), dict[Path, Report]()
    with display.progress("nets", len(todo)) as move:

        def show(job: plan.Job, text: str) -> None:
            started = began.setdefault(job.run, time.perf_counter())
            if text:
                running[job.run] = f"{job.name} s{job.seed} {text}"
            else:
                reports[job.run] = report = work.judge(job)
                running.pop(job.run, None)
                seconds = time.perf_counter() - started
                display.say(f"{len(reports):3}/{len(todo)}  {_line(job, report)}  {seconds:5.1f} s")
            move(len(reports), ", ".join(running.values()))

        workers.make_all(todo, processes, show)
    by_name: dict[str, list[Report]] = {}
    for job in todo:
        by_name.setdefault(job.name, []).append(reports[job.run])
    return by_name


def _line(job: plan.Job, report: Report) -> str:
    seed = "      " if job.method is None else f"seed {job.seed}"
    clean, robust = (100 * p.value for p in (report.clean, report.worst_case))
    return f"{job.name:17} {seed}  clean {clean:5.1f} %  under every attack {robust:5.1f} %"


def _on_devices(students: list[plan.Job]) -> str:
    """A sentence on the INT8 file of one of the students that were compared with theirs."""
    if not work.deploys():
        return 'With pip install "ardor[onnx]" this also compares the students with their ONNX and INT8 files.'
    deployed = next(job for job in students if job.name == labels.DISTILLED)
    report, _ = current(deployed.run)
    if report is None:
        raise ConfigError(f"expected the comparison with exported files in {deployed.run}: type the same again")
    net, int8 = report.forms[0], report.forms[-1]
    p = report.differences[int8.name]["worst_case"].p
    return (
        f"On a device, in INT8, on {net.report.n} images, rslad weighs {size_text(int8.size)} instead of "
        f"{size_text(net.size)}, and stands at {100 * int8.report.worst_case.value:.1f} % under harder attacks (APGD, "
        f"Square, transfer), where float32 stands at {100 * net.report.worst_case.value:.1f} % (McNemar p {p_text(p)})."
    )


def _entries(todo: list[plan.Job], reports: dict[str, list[Report]]) -> dict[str, PageEntry]:
    """The nets of the page by name, with radii and files of the first seed."""
    entries = {}
    for job in reversed(todo):  # the first seed last
        gaps = work.gaps(job) if job.measured else []
        deployed, stale = current(job.run) if job.deployed else (None, "")
        entries[job.name] = PageEntry(job.name, job.role, reports[job.name], [], gaps, deployed, stale)
    return {name: entries[name] for name in reports}


def _write(folder: Path, todo: list[plan.Job], reports: dict[str, list[Report]], quick: bool, draw: bool) -> str:
    """Write the page and the figures as JSON, and display the comparison as a table. Returns a line on the files."""
    train, _, test = work.splits()
    by_name = _entries(todo, reports)
    entries = list(by_name.values())
    without = [job.name for job in todo if job.method is not None and not uses_labels(job.method)]
    counts = labels.labels_of(by_name, len(train), without)
    first = {job.name: job for job in reversed(todo)}
    nets = {name: first[name].net() for name in ("natural", labels.DISTILLED)}
    pictures = examples(nets, test, PGD(plan.THREAT, steps=20))
    trial = f"{plan.QUICK}; {len(test)} test images" if quick else ""
    seeds = len(reports[labels.DISTILLED])
    words = [*["--all"] * (len(first) > len(plan.SHORT) + 1), *(["--quick"] if quick else []), "--seeds", str(seeds)]
    claim = labels.headline(by_name, counts)
    page = place_of(folder, entries, "page.html")
    write_page(
        page,
        entries,
        pictures,
        title="ardor: small nets that withstand attacks",
        intro=INTRO.format(n=len(test), eps=plan.THREAT.eps),
        notes=[NOTE_QUICK if quick else NOTE_RECIPE, *NOTES],
        trial=trial,
        command=shlex.join(["ardor", "demo", *words, "--out", str(folder)]),
        links={"Draw a digit, and see both nets read it under attack": "draw.html"} if draw else {},
        headline=claim,
        sections=[labels.section(by_name, counts)],
    )
    figures = results(entries, counts, place_of(folder, entries, RESULTS), claim.text, trial)
    display.say(f"\n{comparison(entries)}\n")
    display.say(f"A trial ({trial}): its figures are no result." if trial else claim.text)
    kept = "" if page.name == "page.html" else f"{folder} has figures of more nets or seeds, which are kept.\n"
    return f"{kept}Page: {page}   Figures: {figures}"


INTRO = (
    "Nets on the handwritten digits of scikit-learn ({n} test images of 8x8 pixels): a robust teacher that comes with "
    "ardor, and students a fraction of its size. An attacker may move every pixel by {eps:g} of its range."
)
NOTES = [
    "The teacher came from all of the labels, and its checkpoint from the validation images: what a student reads in "
    "its answers was paid for once.",
    "No checkpoint of a student was chosen: each is judged as its last epoch left it, so no label of the validation "
    "images takes part, and the test images took no part in anything.",
    "8x8 digits are a toy: these figures show a direction, not how a method ranks on natural images.",
    "The results are of white-box PGD and CW; `ardor evaluate RUN --suite autoattack` can only lower them.",
    "The seeds share one teacher: another teacher would move every student of it.",
]
NOTE_RECIPE = "The recipe is short (12 epochs over all images) and shared by all methods."
NOTE_QUICK = "This is a trial, `ardor demo --quick`: two epochs, tiny nets, and files for a device on 60 images."
