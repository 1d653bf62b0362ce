"""From a folder of photographs to a report by the commands of ardor, each in its own process: seconds and memory.

    python benchmarks/photographs.py FOLDER [--images 3000]

Draws JPEG files of 256 to 500 pixels in 20 classes into FOLDER/photos, checks them, prepares a store, trains a teacher
(timm's mobilenetv3_small_100, adversarially, an epoch) and from it a timm student of 96 pixels, which is killed in the
middle of its epoch and goes on, evaluates, exports and reports. Fails where a command fails or takes 1.5 GB. The
figures of such nets are no result. FOLDER is new.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.data.photographs import draw  # noqa: E402

MOST = 1.5e9
"""Bytes of memory that a process may take."""

CLASSES, STORED, SIDE = 20, 112, 96
"""Classes, and sides in pixels of the store and of what the nets get."""

DATA = f"--data store:store --data.size {SIDE} --recipe.augment resized-crop-flip --threat.eps 2/255"
ATTACKS = " ".join(f"--{name}.steps 1 --{name}.step 2/255" for name in ("method.attack", "recipe.val_attack"))
RECIPE = f"--recipe.epochs 1 --recipe.batch 64 --recipe.lr 0.05 --recipe.device cpu {ATTACKS}"
TEACHER = f"sat {DATA} {RECIPE} --student timm:mobilenetv3_small_100 --run runs/teacher"
STUDENT = f"rslad {DATA} {RECIPE} --student timm:mobilenetv3_small_050 --teacher runs/teacher"


def main() -> None:
    """Every stage in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=3000)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    os.chdir(asked.folder)
    started = time.monotonic()
    draw(Path("photos"), asked.images, CLASSES, seed=1)
    row("draw", time.monotonic() - started, 0)
    ardor(f"data check photos --data.size {STORED}")
    ardor(f"data prepare photos --size {STORED} --out store")
    ardor("data check store:store")
    ardor(f"train {TEACHER}")
    ardor(f"plan {STUDENT}")
    train = f"train {STUDENT} --save_every 4 --run runs/student"
    state = Path("runs/student/step.safetensors")
    ardor(train, kill=state.exists)
    ardor(train)
    ardor("evaluate runs/student --suite quick")
    ardor("export runs/student --out student.onnx")
    ardor("report runs/student --out report.html --limit 40")
    assert "<html" in Path("report.html").read_text(encoding="utf-8")


def ardor(words: str, kill: Callable[[], bool] | None = None) -> None:
    """A command in a process of its own; `kill` ends it by SIGKILL as soon as it is true."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.with_timm", *shlex.split(words)]
    name = " ".join(words.split()[: 2 if words.startswith("data") else 1]) + (", killed" if kill else "")
    with Path("log.txt").open("a") as log:
        log.write(f"\n$ ardor {words}\n")
        log.flush()
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while kill and not kill():
            assert process.poll() is None, f"{name} ended before it was killed: see log.txt"
            time.sleep(0.02)
        if kill:
            process.send_signal(signal.SIGKILL)
        _, status, usage = os.wait4(process.pid, 0)
    code, memory = os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
    row(name, time.monotonic() - started, memory)
    assert code == (-signal.SIGKILL if kill else 0), f"{name}: exit code {code}, see log.txt"
    assert memory < MOST, f"{name} took {memory:,} bytes"


def row(name: str, seconds: float, memory: int) -> None:
    """A row of the table."""
    print(f"| {name} | {seconds:.0f} | {memory / 1e6:.0f} |", flush=True)


if __name__ == "__main__":
    main()
