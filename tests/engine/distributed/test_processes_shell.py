"""Several processes at the shell: one writer, averages and kept labels, and restarts."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ardor import methods
from ardor.cli.main import main
from ardor.engine import distributed
from ardor.storage.tensors import read_tensors
from ardor.testing import TinyNet
from ardor.training.averaging import EMA
from ardor.training.loop import epochs
from ardor.training.soft_labels import SoftLabelCache
from tests import warm
from tests.conftest import splits
from tests.engine.distributed.conftest import (
    PATIENCE,
    SERVER,
    close,
    lines_of,
    plain,
    recipe,
    rslad,
    state,
    sure,
    together,
)
from tests.training.conftest import ended, require_same

WORDS = [
    "--data", "digits", "--data.limit", "256", "--student", "small_cnn", "--student.width", "4", "--method", "sat",
    "--method.attack.steps", "2", "--threat.eps", "0.1", "--recipe.epochs", "12", "--recipe.batch", "64",
    "--recipe.augment", "crop", "--recipe.padding", "1", "--recipe.val_size", "32", "--recipe.device", "cpu",
    "--averaging", "ema", "--averaging.decay", "0.9",
]  # fmt: skip


# -- averages and kept soft labels


def averaged(folder, keep, changes):
    student, (train, val) = TinyNet(1, 4, 4, seed=distributed.rank()), splits(33, 40)
    options = {"averaging": EMA(0.8), "soft_labels": SoftLabelCache(keep) if keep else None, "run": folder, "val": val}
    records = list(epochs(student, sure(), rslad(), train, recipe(**changes), **options))
    said = [(r.loss, r.val_clean, r.val_robust, r.averaged_clean, r.averaged_robust) for r in records]
    return said, state(student)


def test_averages_and_kept_soft_labels(tmp_path):
    keep = tmp_path / "soft"
    first, other = together(tmp_path, averaged, tmp_path / "one", keep, {})
    assert first[0] == other[0]
    assert np.array_equal(first[1], other[1])
    (table,) = keep.iterdir()
    met = np.fromfile(table / "sums.bin", "<u4")
    before = (table / "table.bin").read_bytes(), met
    assert 0 < (met != 0).sum() <= 33 * 3, "an entry for each image and epoch, but for views that came again"
    warm, _ = together(tmp_path, averaged, tmp_path / "two", keep, {})
    assert warm[0] == first[0]
    assert np.array_equal(warm[1], first[1])
    assert (table / "table.bin").read_bytes() == before[0], "the second run asked the teacher nothing new"
    live, _ = together(tmp_path, averaged, None, None, {})
    close(live[1], first[1])
    for name in ("averaged", "state"):
        one, two = (read_tensors(tmp_path / run / f"{name}.safetensors")[0] for run in ("one", "two"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def moving(folder):
    student, (train, val) = plain(distributed.rank()), splits(33, 40)
    return list(epochs(student, None, methods.Natural(), train, recipe(), val=val, averaging=EMA(0.8), run=folder))


def test_an_average_follows_one_process(tmp_path):
    moving(tmp_path / "one")
    together(tmp_path, moving, tmp_path / "two")
    one, two = (read_tensors(tmp_path / run / "state.safetensors")[0] for run in ("one", "two"))
    assert any(key.startswith("averaging/") for key in one)
    assert one.keys() == two.keys()
    for key in one:
        close(two[key], one[key])


# -- the command: one voice, one writer, and restarts


def commanded(folder):
    return main(["train", *WORDS, "--run", str(folder)])


def torchrun(folder, *options):
    """`torchrun ... -m -- ardor train ...`; without the -- it would take --run for its own --run-path."""
    words = ["--standalone", "--nproc-per-node", "2", *options, "-m", "--", "ardor", "train", *WORDS]
    command = [sys.executable, "-m", "torch.distributed.run", *words, "--run", str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in two processes that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    assert together(folder, commanded, folder / "run") == [0, 0]
    return folder / "run"


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_one_process_writes(whole, tmp_path):
    assert commanded(tmp_path / "run") == 0
    assert names(whole) == names(tmp_path / "run")
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert "processes: 2" in (whole / "config.yaml").read_text()


def joins(rank, port, wait, pipe):
    """What torchrun makes of a process: its second start finds the store of the first one."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    time.sleep(wait)
    try:
        with distributed.joined(torch.device("cpu")):
            pipe.send(distributed.total({"ranks": distributed.rank() + 10}))
            dist.barrier()
    except Exception as error:
        pipe.send(error)


def test_a_second_start_does_not_believe_the_first_ones_store():
    """torchrun keeps one store over its restarts, with the addresses of processes that are gone."""
    store = dist.TCPStore("localhost", 0, is_master=True)
    for wait in (0.0, 1.0):
        pipes, children = zip(*(SERVER.Pipe() for _ in range(2)), strict=True), []
        ours, theirs = pipes
        try:
            for rank in range(2):
                children.append(SERVER.Process(target=joins, args=(rank, store.port, wait * rank, theirs[rank])))
                children[-1].start()
            assert all(pipe.poll(PATIENCE) for pipe in ours)
            assert [pipe.recv() for pipe in ours] == [{"ranks": 21.0}] * 2
        finally:
            for child in children:
                child.join(5)
                child.kill()


def test_the_start_of_several_processes_reports_whom_it_waits_for(tmp_path):
    """Process 1 comes seconds after process 0."""
    store = dist.TCPStore("localhost", 0, is_master=True)
    code = (
        "import sys, time, torch; time.sleep(float(sys.argv[1])); from ardor.engine import distributed\n"
        "from ardor.storage import locks; locks.FIRST = 0.2\n"
        "with distributed.joined(torch.device('cpu')):\n"
        "    with distributed.rank_zero_first(): time.sleep(3 * (distributed.rank() == 0))"
    )
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "OMP_NUM_THREADS": "1"}
    ranks |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    children = [
        warm.Popen(
            [sys.executable, "-c", code, str(5 * rank)], env=os.environ | ranks | {"RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    first, second = (child.communicate(timeout=PATIENCE)[1] for child in children)
    assert "waiting for process 1 of 2 to start" in first
    assert "waiting for process 0 of 2, which examines the teacher or opens the run's folder" in second


def workers(agent):
    """The processes that torchrun started: rank to process id."""
    found = {}
    for child in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split():
        variables = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        found |= {int(v.removeprefix("RANK=")): int(child) for v in variables if v.startswith("RANK=")}
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for torchrun's children in /proc")
def test_a_killed_worker_and_torchruns_restart(whole, tmp_path):
    victim = random.Random(time.time_ns()).randrange(2)
    for attempt in itertools.count():  # a machine that is busy may look only when all is done
        folder = tmp_path / str(attempt) / "run"
        agent = torchrun(folder, "--max-restarts", "1")
        try:
            while not (folder / "state.safetensors").exists() and agent.poll() is None:
                time.sleep(0.005)
            with contextlib.suppress(FileNotFoundError, KeyError, ProcessLookupError):  # it is over
                os.kill(workers(agent)[victim], signal.SIGKILL)
            kept = lines_of(folder)
            said, errors = agent.communicate()
        finally:
            agent.kill()
        assert agent.returncode == 0, errors
        if len(kept) < 12:
            break
    assert kept, "killed in the middle"
    assert lines_of(folder)[0] == kept[0], "it went on: the first epoch took the same time as before"
    require_same(ended(folder), ended(whole))
    assert names(folder) == names(whole)
    assert said.count("Kept in ") == 1, "one process speaks"
    told = [line.split()[1] for line in errors.splitlines() if line.startswith("epoch ")]
    assert len(told) == len(set(told)) >= 11, "an epoch is told by one process, and once"
