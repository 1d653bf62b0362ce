"""One trainer in a run's folder: a second is refused, and a folder that is deleted meanwhile ends the first."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import ardor
from ardor.cli.main import main
from ardor.errors import RunError
from ardor.storage.runs import Run
from ardor.training.loop import distill, epochs
from tests import warm
from tests.conftest import splits
from tests.training.conftest import WORDS, lines, net, recipe

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def begun(run, **changes):
    """A run in its first epoch's record."""
    train, val = splits()
    iterator = epochs(net(), None, ardor.methods.Natural(), train, recipe(**changes), val=val, run=run)
    next(iterator)
    return iterator


def test_a_second_trainer_is_refused_with_the_first_ones_process_and_free_after_a_kill(tmp_path):
    run = tmp_path / "r"
    words = ["train", *WORDS[:-1], "100000", "--method", "natural", "--run", str(run)]
    first = warm.Popen([sys.executable, "-m", "ardor", *words], env=ENV, stderr=subprocess.DEVNULL)
    while not (run / "state.safetensors").exists():
        assert first.poll() is None
        time.sleep(0.01)
    second = warm.run(
        [sys.executable, "-m", "ardor", *words], env=ENV, capture_output=True, text=True, check=False, timeout=1800
    )
    assert second.returncode == 2
    sentence = second.stderr.strip().splitlines()[-1]
    assert re.search(rf"got process {first.pid} on \S+ since 20.*which trains there: let it finish or stop", sentence)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = len(lines(run))
    assert [line["epoch"] for line in lines(run)] == list(range(1, done + 1)), "the second wrote nothing"
    third = warm.Popen([sys.executable, "-m", "ardor", *words], env=ENV, stderr=subprocess.DEVNULL)
    while len(lines(run)) < done + 2:
        assert third.poll() is None
        time.sleep(0.01)
    third.kill()
    third.wait()


def test_the_lock_ends_with_the_iterator_and_is_put_into_no_foreign_folder(tmp_path):
    iterator = begun(tmp_path / "r")
    with pytest.raises(RunError, match=f"process {os.getpid()} "):
        begun(tmp_path / "r")
    del iterator
    assert len(list(begun(tmp_path / "r"))) == 1
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").touch()
    with pytest.raises(RunError, match="with other files"):
        begun(tmp_path / "foreign")
    assert os.listdir(tmp_path / "foreign") == ["file"]


def content(run):
    return {path.name: path.read_bytes() for path in run.glob("*") if path.suffix != ".lock"}


def deleted(run):
    shutil.rmtree(run)


def moved(run):
    run.rename(run.with_name("elsewhere"))


def replaced(run):
    moved(run)
    shutil.copytree(run.with_name("elsewhere"), run)


def without_config(run):
    (run / "config.yaml").unlink()


@pytest.mark.parametrize("how", [deleted, moved, replaced, without_config])
def test_a_folder_that_is_gone_ends_training_in_a_sentence(tmp_path, how):
    run = tmp_path / "r"
    iterator = begun(run)
    how(run)
    before = content(run)
    with pytest.raises(RunError, match="got it deleted, moved or replaced meanwhile"):
        next(iterator)
    assert content(run) == before


def test_a_folder_that_is_deleted_during_the_last_save_does_not_end_well(tmp_path, monkeypatch):
    append = Run.append

    def gone(self, record):
        append(self, record)
        if record["epoch"] == 3:
            shutil.rmtree(self.folder)

    monkeypatch.setattr(Run, "append", gone)
    train, val = splits()
    with pytest.raises(RunError, match="deleted, moved or replaced|expected to write"):
        distill(net(), None, ardor.methods.Natural(), train, recipe(), val=val, run=tmp_path / "r")


def test_two_comparisons_of_exported_files_are_refused(tmp_path, capsys):
    assert main(["train", *WORDS[:-1], "1", "--method", "natural", "--run", str(tmp_path / "r")]) == 0
    with Run(tmp_path / "r").held("deploy"):
        assert main(["deploy", str(tmp_path / "r")]) == 2
    assert f"got process {os.getpid()} on " in capsys.readouterr().err
