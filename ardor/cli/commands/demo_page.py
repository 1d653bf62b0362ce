"""`ardor demo --page`: the page to draw digits on, with the demo's natural and distilled students."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ardor.cli import display
from ardor.data.split import Split
from ardor.demo import demo as plan
from ardor.demo import page
from ardor.evaluation.report import Report
from ardor.storage.imports import require_package

DOWNLOADS = Path("data")
"""The folder of downloads."""

SHOWN = {
    "natural": ("Trained as usual", "it saw no attack while it learnt"),
    "rslad": ("Distilled", "by RSLAD, from a robust teacher"),
}


def runtime(package: Path | None) -> page.Runtime:
    """onnxruntime-web from `package`, from an earlier call, or from npm. Raises ConfigError for what is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require_package(name, "onnx", "--page")
    if package is None and not (DOWNLOADS / page.npm.NAME).is_file():
        display.say(f"{page.npm.PACK}: 20 MB into {DOWNLOADS}, once")
    return page.unpack(page.fetch(DOWNLOADS) if package is None else package)


def write(folder: Path, reports: Mapping[str, Report], test: Split, runtime: page.Runtime, quick: bool) -> str:
    """Write FOLDER/draw.html from the runs of the first seed. Returns a line on it."""
    with display.progress("the page to draw on", len(SHOWN)) as move:
        students = []
        for name, (title, text) in SHOWN.items():
            run = folder / "seed0" / name
            students.append(page.student_of(run, title, text, reports[name], test, plan.THREAT))
            move(len(students), name)
        worst = reports["rslad"].worst_case
        falls = FALLS.format(worst.n - worst.k, worst.n)
        notes = [*([QUICK] if quick else []), falls, *NOTES]
        path = folder / "draw.html"
        page.write(path, students, test, plan.THREAT, runtime, intro=INTRO, notes=notes)
    return f"Draw:  {path}   {path.stat().st_size / 1e6:.1f} MB, opens from the file, in any browser since mid-2024"


INTRO = (
    "Two neural nets of the same size read your digit, here in your browser. One was trained as usual, the other was "
    "distilled from a robust teacher. An attacker then moves every pixel a little, in the worst way found."
)
QUICK = "This is a trial, ardor demo --quick: two epochs, tiny nets. Its figures are no result."
FALLS = (
    "The distilled net falls too, on {} of the {} test images within the radius it was trained for. The ten digits "
    "here are the first of each class that both nets read untouched, not those that look best."
)
NOTES = [
    "8x8 digits are a toy: 1,797 images by 43 people. They show which way things go, not how a method ranks on "
    "photographs.",
    "Your drawing is attacked by random search. A stronger attack can only do worse to both nets: a green bar says "
    "that this search failed, not that the net is safe.",
    "The slider scales one perturbation, searched for at the marked radius. The worst one for a smaller radius may "
    "fool a net sooner, and beyond the mark neither was trained nor judged.",
    "For your drawing nobody knows the truth but you: a net that misreads it untouched counts as fooled only when it "
    "changes its answer. Hands unlike those in the data are misread without any attack.",
    "What distillation gives on this toy, and where adversarial training does as well: see page.html beside this file.",
    "One net of each kind, from one seed.",
]
