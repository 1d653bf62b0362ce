"""`--processes N`: the bytes of other launchers, one output, one sentence, and the exit codes of one process."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ardor.cli.main import main
from ardor.cli.processes import require_processes
from ardor.errors import ConfigError
from tests import warm
from tests.engine.distributed.conftest import together
from tests.training.conftest import WORDS, ended, require_same

WORDS = [*WORDS, "--method", "trades", "--method.attack.steps", "2", "--recipe.batch", "16", "--recipe.epochs", "3"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def train(folder, *words):
    command = [sys.executable, "-m", "ardor", "train", *WORDS, "--run", str(folder), "--processes", "2", *words]
    return warm.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def commanded(folder):
    return main(["train", *WORDS, "--run", str(folder)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in two processes that no launcher started."""
    folder = tmp_path_factory.mktemp("whole")
    assert together(folder, commanded, folder / "run") == [0, 0]
    return ended(folder / "run")


def waited(child, path):
    while not path.exists() and child.poll() is None:
        time.sleep(0.002)


def workers(child):
    """The processes that the launcher started, by their command lines."""
    children = [p.read_text().split() for p in Path(f"/proc/{child.pid}/task").glob("*/children")]
    return [int(c) for c in itertools.chain(*children) if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the launcher's children in /proc")
def test_killed_then_stopped_then_finished_in_the_same_bytes(tmp_path, whole):
    run = tmp_path / "r"
    child = train(run, "--save_every", "1")
    waited(child, run / "step.safetensors")
    os.kill(workers(child)[-1], signal.SIGKILL)
    sentence = child.communicate()[1].strip().splitlines()[-1]
    assert child.returncode == 2, sentence
    assert "killed by SIGKILL; the others were stopped: type the same again" in sentence
    for path in run.glob("step.safetensors"):
        path.unlink()
    child = train(run, "--save_every", "1")
    waited(child, run / "step.safetensors")
    child.send_signal(signal.SIGTERM)
    sentence = child.communicate()[1].strip().splitlines()[-1]
    assert child.returncode == 143, sentence
    assert sentence.startswith("ardor: stopped by SIGTERM; what was finished is kept")
    child = train(run)
    out, errors = child.communicate()
    assert child.returncode == 0, errors
    assert out.count("Kept in ") == 1
    told = [line.split()[1] for line in errors.splitlines() if line.startswith("epoch ")]
    assert len(told) == len(set(told)), "an epoch is displayed once"
    require_same(ended(run), whole)


def test_a_refusal_of_the_processes_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    child = train(tmp_path)
    out, errors = child.communicate()
    assert (child.returncode, out) == (2, "")
    assert [line for line in errors.splitlines() if not line.startswith(("note:", "warning:"))] == [
        f"ardor: expected an empty folder or a run of ardor, got {tmp_path} with other files: type --run with a new "
        "name"
    ]


@pytest.mark.parametrize("count", [0, -1, 17])
def test_a_number_of_processes_that_cannot_share_a_step(tmp_path, capsys, count):
    words = [*WORDS, "--run", str(tmp_path / "r"), "--processes", str(count)]
    for command in ("train", "plan"):
        assert main([command, *words]) == 2
        assert (
            f"expected --processes from 1 to 16, one for each image of a step of 16, got {count}: type --processes"
            in (" ".join(capsys.readouterr().err.split()))
        )
    assert not (tmp_path / "r").exists()


def test_processes_of_processes_and_more_than_gpus(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with pytest.raises(ConfigError, match="got --processes 2 inside torchrun|got processes=2 inside torchrun"):
        require_processes(2, 16)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(ConfigError, match="one for each of 4 GPUs, got 5"):
        require_processes(5, 16, "auto")


def test_plan_tells_the_images_of_a_process(capsys):
    assert main(["plan", *WORDS, "--processes", "3", "--steps", "2"]) == 0
    assert "of 3, each has 6 of the 16 images of a step" in capsys.readouterr().out
