"""kill -9 at any moment, any number of processes: the same command continues, and ends in the same bytes."""

import itertools
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from ardor.cli.main import main
from tests import warm
from tests.fixtures.make import begun_from

pytestmark = pytest.mark.slow
WORDS = ["--suite", "autoattack", "--limit", "32", "--batch", "16", "--threat.eps", "0.12", "--images"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose net is robust on some images."""
    folder = tmp_path_factory.mktemp("run") / "sat"
    words = ["--data", "digits", "--method", "sat", "--threat.eps", "0.1", "--method.attack.steps", "3"]
    words += [*begun_from("narrow"), "--recipe.device", "cpu", "--recipe.val_size", "20"]
    assert main(["train", *words, "--run", str(folder)]) == 0
    return folder


def command(run, folder):
    out = ["--journal", str(folder / "journal"), "--out", str(folder / "report.json")]
    return [sys.executable, "-m", "ardor", "evaluate", str(run), *WORDS, *out]


def lines(folder):
    path = folder / "journal" / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def files_of(folder):
    return (folder / "report.json").read_bytes(), (folder / "journal" / "adversarial.npy").read_bytes()


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The files, table and number of batches of an uninterrupted evaluation."""
    folder = tmp_path_factory.mktemp("whole")
    done = warm.run(command(run, folder), env=ENV, capture_output=True, text=True, check=True)
    told = done.stderr.splitlines()
    assert all(" so far, at most " in line for line in told), told  # one each minute where there is no terminal
    report = done.stdout
    assert "| worst_case |" in report
    assert "n = 32 of 449, classes in proportion" in report
    return files_of(folder), table(report), lines(folder)


def table(shown):
    return [line for line in shown.splitlines() if "Saved to" not in line]


def kill_somewhere(run, folder, dice, total, processes=1):
    """Start, wait for some batches and a while, kill -9 all; return whether batches are left."""
    before = lines(folder)
    children = [warm.Popen(command(run, folder), env=ENV, stdout=subprocess.DEVNULL) for _ in range(processes)]
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
    done = warm.run(command(run, folder), env=ENV, capture_output=True, text=True, check=True)
    assert files_of(folder) == whole[0]
    assert table(done.stdout) == whole[1]
    assert lines(folder) == whole[2]  # no batch is there twice, and none is missing


def kill_until(run, whole, tmp_path, wanted, several=(1,)):
    """Kill evaluations until `wanted` kills left batches; return the numbers of kills and evaluations."""
    dice, kills, evaluations = random.Random(time.time_ns()), 0, 0
    while kills < wanted:
        folder = tmp_path / str(evaluations)
        folder.mkdir()
        for _ in range(dice.randrange(3, 6)):
            kills += kill_somewhere(run, folder, dice, whole[2], processes=dice.choice(several))
        finish(run, folder, whole)
        evaluations += 1
    return kills, evaluations


def test_three_random_kills(run, whole, tmp_path):
    kill_until(run, whole, tmp_path, 3)


def test_two_processes_of_torchrun_and_a_kill_before(run, whole, tmp_path):
    kill_somewhere(run, tmp_path, random.Random(time.time_ns()), whole[2])
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *command(run, tmp_path)[1:]]
    done = subprocess.run([sys.executable, *words], env=ENV, capture_output=True, text=True, check=True)
    assert files_of(tmp_path) == whole[0]
    assert table(done.stdout) == whole[1]  # printed once
    assert lines(tmp_path) == whole[2]


def test_one_of_two_processes_dies(run, whole, tmp_path):
    for attempt in itertools.count():  # a machine that is busy may kill it only when all is done
        folder = tmp_path / str(attempt)
        folder.mkdir()
        one, other = (warm.Popen(command(run, folder), env=ENV, stdout=subprocess.DEVNULL) for _ in range(2))
        while lines(folder) < whole[2] // 3 and one.poll() is None:
            time.sleep(0.01)
        one.kill()
        died = one.wait()
        assert other.wait() == 0
        assert files_of(folder) == whole[0]
        assert lines(folder) == whole[2]
        if died == -9:
            break
        assert died == 0


@pytest.mark.soak
def test_one_of_two_processes_stands_still(run, whole, tmp_path):
    """The other does all other batches and reports for whom it waits; awake again, both end alike."""
    reported = 0
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        one, other = (
            warm.Popen(command(run, folder), env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        )
        while lines(folder) < (1 + attempt) * whole[2] // 6 and one.poll() is None:
            time.sleep(0.01)
        one.send_signal(signal.SIGSTOP)
        before = -1
        while before < lines(folder):
            before = lines(folder)
            time.sleep(8)
        one.send_signal(signal.SIGCONT)
        warnings = other.communicate()[1]
        one.communicate()
        assert (one.returncode, other.returncode) == (0, 0)
        assert files_of(folder) == whole[0]
        assert lines(folder) == whole[2]
        reported += f"taken by process {one.pid} on " in warnings or "written by another process" in warnings
    assert reported
    print(f"{reported} of 4 processes that stood still were waited for with a warning: all ended in the same bytes")


@pytest.mark.soak
def test_twenty_random_kills(run, whole, tmp_path):
    """By one process or two."""
    kills, evaluations = kill_until(run, whole, tmp_path, 20, several=(1, 1, 2))
    print(f"{kills} kills over {evaluations} evaluations of {whole[2]} batches: all ended in the same bytes")
