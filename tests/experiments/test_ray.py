"""Cells on Ray: the same table as by one process, whatever dies, and a GPU for each."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ardor.errors import ConfigError, RunError
from ardor.experiments import grid, run_sweep
from ardor.experiments.coordinator import coordinating
from ardor.experiments.ray_engine import TRIES, USAGE, on_ray
from ardor.storage.locks import holder
from ardor.training.epoch import EpochRecord
from tests.experiments.test_sweep import CONFIG, WORDS, silent
from tests.interrupts import INTERRUPTED

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

FOUR = {"recipe.lr": ["0.1", "0.2"], "recipe.seed": range(2)}
METHOD = """
import os, signal, time
from dataclasses import dataclass
from pathlib import Path
from ardor.losses import ce


@dataclass
class Mine:
    fate: str = "lives"
    needs_teacher = False

    def terms(self, student, teacher, x, y, *, epoch, noise):
        if self.fate == "dies" or (self.fate == "dies once" and epoch == 2 and first()):
            os.kill(os.getpid(), signal.SIGKILL)
        with Path("seen").open("a") as file:
            file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "") + "\\n")
        time.sleep(0.2)  # so that two are at work at once
        return {"hard": ce(student(x), y) * (float("inf") if self.fate == "diverges" else 1)}


def first():
    try:
        return bool(os.open("killed", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
"""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A local Ray of two CPUs, and two GPUs that are not there."""
    os.environ[USAGE] = "0"
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    signal.signal(signal.SIGTERM, handler)
    yield
    ray.shutdown()
    del os.environ[USAGE]


@pytest.fixture
def method(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(METHOD)
    return {**CONFIG, "method": {"name": "mine.py:Mine"}}


def test_a_killed_worker_goes_on_and_the_table_is_that_of_one_process(method, tmp_path):
    method = {**method, "method": {"name": "mine.py:Mine", "fate": "dies once"}}
    method["recipe"] = {**method["recipe"], "epochs": 3}
    alone, shared = (grid(method, FOUR, tmp_path / name) for name in ("alone", "ray"))
    killed, events, refused = tmp_path / "killed", [], []
    killed.touch()
    (table, *_), none = run_sweep(alone, "a command", silent)
    assert none == []
    killed.unlink()

    def watch(cell, event):
        events.append(event)
        if not refused:  # a second coordinator
            with pytest.raises(RunError, match="alone"), coordinating(shared.spec.folder):
                pass
            refused.append(cell)

    with on_ray() as engine:
        (other, *_), problems = run_sweep(shared, "a command", watch, engine=engine)
    assert problems == []
    assert len(refused) == 1
    assert killed.exists()
    assert other.read_bytes() == table.read_bytes()
    assert len([event for event in events if isinstance(event, str) and "its worker died (try 1 of 3)" in event]) == 1
    assert any(isinstance(event, EpochRecord) for event in events)
    for cell in shared.cells:
        metrics = (shared.spec.run(cell.name) / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["epoch"] for line in metrics] == [1, 2, 3], cell.name
    assert ray.is_initialized(), "a Ray of the caller's is left"


def test_two_cells_at_once_see_one_gpu_each(method, tmp_path):
    sweep = grid(method, {"recipe.seed": range(2)}, tmp_path / "sweep")
    with on_ray(gpus=1) as engine:
        assert engine.slots == 2
        assert run_sweep(sweep, "", silent, engine=engine)[1] == []
    seen = (tmp_path / "seen").read_text().split()
    assert set(seen) == {"0", "1"}
    with on_ray(gpus=0.5, cpus=0.5) as engine:
        assert engine.slots == 4


def test_a_worker_that_dies_every_time_is_a_failed_cell_and_the_others_go_on(method, tmp_path):
    sweep, events, finished = grid(method, {"method.fate": ["dies", "diverges", "lives"]}, tmp_path / "out"), [], []
    with on_ray() as engine:
        _, problems = run_sweep(sweep, "", lambda cell, event: events.append(event), finished.append, engine)
    reasons = {problem.cell.name: problem.reason for problem in problems}
    assert reasons.keys() == {"fate=dies/s0", "fate=diverges/s0"}
    assert reasons["fate=dies/s0"].startswith(f"its worker died {TRIES} times, last with ")
    assert len([event for event in events if isinstance(event, str) and "its worker died" in event]) == TRIES - 1
    assert "expected" in reasons["fate=diverges/s0"], "an error in a worker is its sentence"
    assert [cell.name for cell in finished] == ["fate=lives/s0"]
    assert not (tmp_path / "seen").read_text().strip(), "a cell on the CPU takes no GPU"


@pytest.mark.parametrize("share", [{"gpus": 3}, {"gpus": 1.5}, {"cpus": 3}, {"gpus": -1}])
def test_more_than_the_cluster_has_is_refused_and_not_waited_for(share):
    with pytest.raises(ConfigError, match="as Ray has, and whole above 1"), on_ray(**share):
        pass


def test_a_command_ends_its_workers_on_ctrl_c_and_continues(tmp_path):
    """In another process, with a Ray of its own: what it leaves is nothing that runs, and all that was trained."""
    words = [
        *WORDS,
        "--recipe.epochs",
        "40",
        "--over",
        "recipe.lr=0.1,0.2",
        "--on",
        "ray",
        "--out",
        str(tmp_path / "out"),
    ]
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    runs = [tmp_path / "out" / "cells" / f"lr={lr}" / "s0" for lr in ("0.1", "0.2")]
    limit = time.monotonic() + 120
    while not all((run / "state.safetensors").exists() for run in runs) and time.monotonic() < limit:
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.05)
    workers = [int(holder(run.with_suffix(".lock")).split()[1]) for run in runs]
    child.send_signal(signal.SIGINT)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert "ardor: stopped; what was finished is kept, and the same command continues from it." in said
    assert "Traceback" not in said
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert all((run / "state.safetensors").exists() for run in runs)
