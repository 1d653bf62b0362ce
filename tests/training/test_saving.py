"""A state inside an epoch: a run that stops or dies between two steps ends as one that did not."""

import copy
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta

import numpy as np
import pytest
import torch

import ardor
from ardor import methods
from ardor.cli.commands.train import TrainWords
from ardor.cli.main import main
from ardor.engine import distributed
from ardor.errors import ConfigError
from ardor.storage.runs import Run
from ardor.storage.tensors import read_tensors
from ardor.testing import TinyNet
from ardor.training.averaging import EMA
from ardor.training.loop import epochs
from ardor.training.soft_labels import SoftLabelCache
from tests import warm
from tests.conftest import bits, same, splits
from tests.engine.distributed.conftest import lines_of, together
from tests.training.conftest import PGD2, WORDS, ended, lines, net, recipe, require_same

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


class After:
    """True from the `number`th question on."""

    def __init__(self, number):
        self.left = number

    def __call__(self):
        self.left -= 1
        return self.left <= 0


def trained(folder, method=None, stop=None, save_every=None, student=None, cache=None):
    student, (train, val) = student or TinyNet(1, 4, 4), splits(40)
    settings = recipe(epochs=3, schedule="cosine", augment="crop")
    method = copy.deepcopy(method) or methods.Natural()
    teacher = net(4, 4) if vars(type(method)).get("needs_teacher", True) else None
    options = {"averaging": EMA(0.9), "soft_labels": cache and SoftLabelCache(cache)}
    records = epochs(
        student, teacher, method, train, settings, val=val, run=folder, save_every=save_every, stop=stop, **options
    )
    return student, list(records)


@pytest.mark.parametrize("step", range(1, 10))  # of three epochs of three steps, the last ones of epochs too
def test_a_run_that_stops_after_a_step_resumes_there(tmp_path, step):
    method = methods.VarianceGap(attack=PGD2, lc=1e-7) if step % 2 else methods.RSLAD(attack=PGD2)
    whole, _ = trained(tmp_path / "whole", method, cache=tmp_path / "one")
    _, before = trained(tmp_path / "parts", method, After(step), cache=tmp_path / "two")
    assert [record.epoch for record in before] == list(range(1, (step - 1) // 3 + 1))
    assert int(read_tensors(tmp_path / "parts" / "step.safetensors")[1]["step"]) == (step - 1) % 3 + 1
    resumed, after = trained(tmp_path / "parts", method, cache=tmp_path / "two")
    assert [record.epoch for record in before + after] == [1, 2, 3]
    assert same(bits(whole), bits(resumed))
    require_same(ended(tmp_path / "whole"), ended(tmp_path / "parts"))
    for name in ("table.bin", "sums.bin"):
        one, two = (next((tmp_path / folder).glob(f"*/{name}")).read_bytes() for folder in ("one", "two"))
        assert one == two


def test_saving_changes_no_result_and_leaves_nothing(tmp_path):
    trained(tmp_path / "whole")
    for every in (1, 2, timedelta(microseconds=1)):
        trained(tmp_path / str(every), save_every=every)
        require_same(ended(tmp_path / "whole"), ended(tmp_path / str(every)))


@pytest.mark.parametrize(("every", "steps"), [(1, 9), (2, 3), (3, 3), (4, 0), (None, 0), (timedelta(hours=1), 0)])
def test_how_often_it_is_saved(tmp_path, monkeypatch, every, steps):
    saved, real = [], ardor.training.checkpoint.save_step
    monkeypatch.setattr("ardor.training.checkpoint.save_step", lambda *args: (saved.append(args), real(*args)))
    trained(tmp_path / "run", save_every=every)
    assert len(saved) == steps


@pytest.mark.parametrize("every", [0, -1, timedelta(0)])
def test_no_time_between_two_saves_is_refused(tmp_path, every):
    with pytest.raises(ConfigError, match=r"expected save_every of 1 step or more, or a time.*pass save_every=1000"):
        trained(tmp_path / "run", save_every=every)
    assert main(["train", *WORDS, "--run", str(tmp_path / "r"), "--save_every", "0"]) == 2


@pytest.mark.parametrize("text", ["0m", "-1m", "nanm", "1e99m", "often", "m", "1.5"])
def test_no_interval_is_one_sentence(tmp_path, capsys, text):
    assert main(["train", *WORDS, "--run", str(tmp_path / "r"), f"--save_every={text}"]) == 2
    assert f"expected --save_every as steps or minutes, got {text}: type --save_every 500" in capsys.readouterr().err


def test_steps_and_minutes_have_one_option():
    every = [TrainWords(data="digits", student="small_cnn", method="natural", save_every=t) for t in ("500", "1.5m")]
    assert [words.job(None, {}).save_every for words in every] == [500, timedelta(minutes=1.5)]


def test_a_damaged_state_inside_an_epoch_falls_back_to_the_end_of_the_one_before(tmp_path, caplog):
    whole, _ = trained(tmp_path / "whole")
    trained(tmp_path / "parts", stop=After(5))
    path = tmp_path / "parts" / "step.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    resumed, records = trained(tmp_path / "parts")
    assert "looking for an earlier state" in caplog.text
    assert [record.epoch for record in records] == [2, 3]
    assert same(bits(whole), bits(resumed))


def test_a_state_inside_a_finished_epoch_is_not_gone_back_to(tmp_path):
    """A kill between the two leaves it."""
    trained(tmp_path / "run", stop=After(2))
    left = (tmp_path / "run" / "step.safetensors").read_bytes()
    trained(tmp_path / "run", stop=After(3))  # in the second epoch
    (tmp_path / "run" / "step.safetensors").write_bytes(left)
    assert Run(tmp_path / "run").states()[0].name == "state.safetensors"
    _, records = trained(tmp_path / "run")
    assert [record.epoch for record in records] == [2, 3]
    assert not (tmp_path / "run" / "step.safetensors").exists()


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    class Bad(methods.Natural):
        def terms(self, student, teacher, x, y, *, epoch, noise):
            student.layers[1].running_var.fill_(float("inf"))
            return super().terms(student, teacher, x, y, epoch=epoch, noise=noise)

    with pytest.raises(ardor.errors.DivergedError, match="nothing of this epoch is saved"):
        trained(tmp_path / "run", Bad(), save_every=1)
    assert not (tmp_path / "run" / "step.safetensors").exists()


# -- several processes: batch statistics and learned state are each one's own inside an epoch


class Learns(methods.Natural):
    def prepare(self, student, teacher, x):
        self.seen_ = torch.zeros(3)

    def terms(self, student, teacher, x, y, *, epoch, noise):
        self.seen_ = self.seen_ * 0.5 + x.mean()
        terms = super().terms(student, teacher, x, y, epoch=epoch, noise=noise)
        return {name: term + self.seen_.sum() * student(x).square().mean(1) for name, term in terms.items()}


def shared(folder, number, asks):
    """One process is told to stop, or none; the student that it ends with."""
    stop = After(number) if number and asks == distributed.rank() else None
    student, records = trained(folder, Learns(), stop)
    return [r.epoch for r in records], np.concatenate([v.numpy().reshape(-1) for v in student.state_dict().values()])


@pytest.mark.parametrize("step", [2, 4])
def test_processes_stop_at_one_step_and_resume_as_uninterrupted(tmp_path, step):
    whole = together(tmp_path, shared, tmp_path / "whole", 0, 0)
    stopped = together(tmp_path, shared, tmp_path / "parts", step, 1)
    assert stopped[0][0] == stopped[1][0] == list(range(1, (step - 1) // 3 + 1))
    content, metadata = read_tensors(tmp_path / "parts" / "step.safetensors")
    assert metadata["step"] == str((step - 1) % 3 + 1)
    own = [key for key in content if key.startswith("process/1/student/") and "running_mean" in key]
    assert own
    assert not any(torch.equal(content[key], content[key.removeprefix("process/1/")]) for key in own)
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in os.listdir(tmp_path / "parts"):
        (alone / name).write_bytes((tmp_path / "parts" / name).read_bytes())
    for mine, theirs in zip(together(tmp_path, shared, tmp_path / "parts", 0, 0), whole, strict=True):
        assert np.array_equal(mine[1], theirs[1])
    require_same(ended(tmp_path / "whole"), ended(tmp_path / "parts"))
    shared(alone, 0, 0)  # one process goes on where two stopped, with the sums of both
    assert [line["epoch"] for line in lines(alone)] == [1, 2, 3]
    epoch = (step - 1) // 3
    assert lines(alone)[epoch]["loss"] == pytest.approx(lines(tmp_path / "whole")[epoch]["loss"], rel=0.1)


# -- the command

LONG = [*WORDS[:-2], "--method", "trades", "--method.attack.steps", "4", "--recipe.batch", "8", "--recipe.epochs", "3"]
SAVING = [*LONG, "--save_every", "1"]


def command(folder, *words):
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return warm.Popen([sys.executable, "-m", "ardor", "train", *words, "--run", str(folder)], env=ENV, **silent)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *LONG, "--run", str(folder)]) == 0
    return ended(folder)


def inside(folder):
    return (folder / "step.safetensors").exists()


def test_killed_in_the_middle_of_an_epoch(tmp_path, whole):
    """At a random moment, after a state inside an epoch was there."""
    child = command(tmp_path / "r", *SAVING)
    while not inside(tmp_path / "r") and child.poll() is None:
        time.sleep(0.001)
    time.sleep(random.uniform(0, 1))
    child.kill()
    child.communicate()
    done = len(lines_of(tmp_path / "r"))
    at = read_tensors(tmp_path / "r" / "step.safetensors")[1] if inside(tmp_path / "r") else {}
    child = command(tmp_path / "r", *SAVING)
    errors = child.communicate()[1].decode()
    assert child.returncode == 0, errors
    assert errors.count("\nepoch ") + errors.startswith("epoch ") <= 3 - min(done, int(at.get("epoch", done)))
    require_same(ended(tmp_path / "r"), whole)
    assert not inside(tmp_path / "r")


@pytest.mark.skipif(sys.platform == "win32", reason="other signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_the_step_and_ends_the_command(tmp_path, whole, number):
    child = command(tmp_path / "r", *SAVING)
    while not inside(tmp_path / "r") and child.poll() is None:
        time.sleep(0.001)
    (tmp_path / "r" / "step.safetensors").unlink()  # that the signal saves anew
    child.send_signal(number)
    sentence = child.communicate()[1].decode().strip().splitlines()[-1]
    assert child.returncode == 128 + number, sentence
    assert sentence.startswith(f"ardor: stopped by {number.name}; what was finished is kept")
    assert inside(tmp_path / "r")
    assert main(["train", str(tmp_path / "r")]) == 0
    require_same(ended(tmp_path / "r"), whole)


@pytest.mark.soak
def test_soak_kills_inside_epochs(tmp_path, whole):
    rng, kills = random.Random(), 0
    for attempt in range(10):
        folder = tmp_path / str(attempt)
        while True:
            child = command(folder, *SAVING)
            time.sleep(rng.uniform(0.2, 4))
            if child.poll() == 0:
                break
            child.kill()
            child.communicate()
            kills += 1
        require_same(ended(folder), whole)
    print(f"{kills} kills inside epochs: the same bytes")
