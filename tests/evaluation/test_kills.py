"""kill -9 at any moment, any number of processes: the same command goes on, and ends in the same bytes."""

import os
import random
import subprocess
import sys
import time

import pytest

from ardor.cli.main import main

WORDS = ["--suite", "autoattack", "--limit", "32", "--batch", "16", "--threat.eps", "0.12", "--images"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A net that half stands."""
    folder = tmp_path_factory.mktemp("run") / "sat"
    words = ["--data", "digits", "--student", "small_cnn", "--student.width", "4", "--method", "sat"]
    recipe = ["--recipe.epochs", "4", "--recipe.augment", "none", "--recipe.batch", "64", "--recipe.device", "cpu"]
    attack = ["--threat.eps", "0.1", "--method.attack.steps", "3", "--recipe.val_size", "20"]
    assert main(["train", *words, *recipe, *attack, "--run", str(folder)]) == 0
    return folder


def command(run, folder):
    out = ["--journal", str(folder / "journal"), "--out", str(folder / "report.json")]
    return [sys.executable, "-m", "ardor", "evaluate", str(run), *WORDS, *out]


def lines(folder):
    path = folder / "journal" / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def left_behind(folder):
    return (folder / "report.json").read_bytes(), (folder / "journal" / "adversarial.npy").read_bytes()


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """What an uninterrupted evaluation leaves, and how many batches that took."""
    folder = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command(run, folder), env=ENV, capture_output=True, text=True, check=True)
    assert done.stderr == ""  # quiet where there is no terminal
    report = done.stdout
    assert "| worst_case |" in report
    assert "n = 32 of 449, classes in proportion" in report
    return left_behind(folder), table(report), lines(folder)


def table(shown):
    return [line for line in shown.splitlines() if "Saved to" not in line]


def kill_somewhere(run, folder, dice, total, processes=1):
    """Start, wait for some batches and a while, kill -9 all. Whether something was left to do."""
    before = lines(folder)
    children = [subprocess.Popen(command(run, folder), env=ENV, stdout=subprocess.DEVNULL) for _ in range(processes)]
    try:
        wanted = before + dice.randrange(1, max(2, (total - before) // 2))
        while lines(folder) < wanted and any(child.poll() is None for child in children):
            time.sleep(0.01)
        time.sleep(dice.random() * 0.3)
    finally:
        for child in children:
            child.kill()
            child.wait()
    return lines(folder) < total


def finish(run, folder, whole):
    done = subprocess.run(command(run, folder), env=ENV, capture_output=True, text=True, check=True)
    assert left_behind(folder) == whole[0]
    assert table(done.stdout) == whole[1]
    assert lines(folder) == whole[2]  # no batch was kept twice, and none is missing


def test_three_random_kills(run, whole, tmp_path):
    dice = random.Random(time.time_ns())
    for _ in range(3):
        assert kill_somewhere(run, tmp_path, dice, whole[2])
    finish(run, tmp_path, whole)


def test_two_processes_of_torchrun_and_a_kill_before(run, whole, tmp_path):
    kill_somewhere(run, tmp_path, random.Random(time.time_ns()), whole[2])
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command(run, tmp_path)[1:]]
    done = subprocess.run([sys.executable, *words], env=ENV, capture_output=True, text=True, check=True)
    assert left_behind(tmp_path) == whole[0]
    assert table(done.stdout) == whole[1]  # said once
    assert lines(tmp_path) == whole[2]


def test_one_of_two_processes_dies(run, whole, tmp_path):
    one, other = (subprocess.Popen(command(run, tmp_path), env=ENV, stdout=subprocess.DEVNULL) for _ in range(2))
    while lines(tmp_path) < whole[2] // 3:
        time.sleep(0.01)
    one.kill()
    assert one.wait() == -9
    assert other.wait(timeout=200) == 0
    assert left_behind(tmp_path) == whole[0]
    assert lines(tmp_path) == whole[2]


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_twenty_random_kills(run, whole, tmp_path):
    """Over as many evaluations as it takes, by one process or two."""
    dice, kills, evaluations = random.Random(time.time_ns()), 0, 0
    while kills < 20:
        folder = tmp_path / str(evaluations)
        folder.mkdir()
        for _ in range(dice.randrange(3, 6)):
            kills += kill_somewhere(run, folder, dice, whole[2], processes=dice.choice((1, 1, 2)))
        finish(run, folder, whole)
        evaluations += 1
    print(f"{kills} kills over {evaluations} evaluations of {whole[2]} batches: all ended in the same bytes")
