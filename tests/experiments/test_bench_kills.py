"""kill -9 of a bench at any moment: nothing is done twice, and the table has the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests import warm

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
WORDS = ["whitebox-digits", "--scale", "smoke", "--students", "resnet18", "--methods", "natural", "rslad"]
SHEETS = [f"whitebox.{ending}" for ending in ("csv", "md", "html")]
IN_A_SHEET = """
import os, signal, sys
from ardor.cli.main import main
plain = os.replace
def replace(source, target):
    if str(target).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(source, target)
os.replace = replace
main(sys.argv[2:])
"""


def command(folder, words=WORDS):
    return [sys.executable, "-m", "ardor", "bench", *words, "--out", str(folder)]


def start(folder):
    return warm.Popen(command(folder), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(folder, words=WORDS):
    return warm.run(command(folder, words), env=ENV, capture_output=True, text=True, check=True)


def epochs_of(folder):
    """Each cell's epochs as the lines of its metrics, and whether its note says that it is trained."""
    found = {}
    for path in sorted((folder / "cells").glob("*/s*/metrics.jsonl")):
        note = yaml.safe_load(path.parent.with_name(f"{path.parent.name}.yaml").read_text())
        found[path.parent.parent.name] = path.read_text().splitlines(), bool(note.get("trained"))
    return found


def moments(folder):
    """How far a bench is: epochs, reports and trained notes."""
    cells = epochs_of(folder) if (folder / "cells").exists() else {}
    reports = len(list(folder.glob("cells/*/s*/report-*.json")))
    return reports + sum(len(lines) + trained for lines, trained in cells.values())


def sheet(folder):
    return (folder / "whitebox.csv").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The table of a bench that nobody disturbed, and how many moments it took."""
    folder = tmp_path_factory.mktemp("whole") / "bench"
    run(folder)
    require_each_epoch_once(folder)
    return sheet(folder), moments(folder)


def require_each_epoch_once(folder):
    cells = epochs_of(folder)
    assert sorted(cells) == ["natural-resnet18", "rslad-resnet18", "teacher-sat"]
    for name, (lines, trained) in cells.items():
        assert trained, name
        assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3], name


def require_kept(before, folder):
    """A cell that was trained is as it was, to the millisecond in its lines; another kept all but the last epoch."""
    after = epochs_of(folder)
    for name, (lines, trained) in before.items():
        kept = len(lines) if trained else max(0, len(lines) - 1)
        assert after[name][0][:kept] == lines[:kept], name


def kill_somewhere(folder, dice, total):
    """Start, kill -9 at a random moment; what the cells were like."""
    before = moments(folder)
    wanted = before + dice.randrange(0, max(1, total - before))
    child = start(folder)
    try:
        while moments(folder) < wanted and child.poll() is None:
            time.sleep(0.005)
        time.sleep(dice.random() * 0.2)
    finally:
        child.kill()
        child.communicate()
    return epochs_of(folder)


def require_same_end(folder, whole):
    done = run(folder)
    assert (sheet(folder), moments(folder)) == whole
    assert done.stderr == ""
    assert all((folder / name).is_file() for name in SHEETS)
    require_each_epoch_once(folder)


@pytest.mark.slow
def test_three_random_kills(whole, tmp_path):
    dice, folder = random.Random(time.time_ns()), tmp_path / "bench"
    for _ in range(3):
        before = kill_somewhere(folder, dice, whole[1])
    require_same_end(folder, whole)
    require_kept(before, folder)


@pytest.mark.slow
def test_a_kill_while_a_sheet_is_written(whole, tmp_path):
    """Once in each of the three files, with one cell, to be quick."""
    folder, alone = tmp_path / "bench", [*WORDS[:-1], "--teacher", "nobody"]
    for name in SHEETS:
        words = [sys.executable, "-c", IN_A_SHEET, name, *command(folder, alone)[3:]]
        died = warm.run(words, env=ENV, capture_output=True, text=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert not (folder / name).exists()
        before = epochs_of(folder)
        assert before["natural-resnet18"][1]
    run(folder, alone)
    require_kept(before, folder)
    wanted = [line for line in whole[0].splitlines() if b",rslad," not in line]
    assert sheet(folder).splitlines() == wanted
    assert all((folder / name).is_file() for name in SHEETS)


@pytest.mark.soak
def test_twelve_random_kills(whole, tmp_path):
    """Over three benches."""
    dice = random.Random(time.time_ns())
    for number in range(3):
        folder = Path(tmp_path / str(number))
        for _ in range(4):
            kill_somewhere(folder, dice, whole[1])
        before = epochs_of(folder)
        require_same_end(folder, whole)
        require_kept(before, folder)
