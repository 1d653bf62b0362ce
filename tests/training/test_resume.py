"""Resume, bit for bit: a run that is killed, at any moment, ends as one that was not."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ardor
import ardor.models.builders
from ardor.cli.main import main
from ardor.errors import CheckpointError
from ardor.storage.tensors import read_tensors, write_tensors
from tests import warm
from tests.training.conftest import ended, lines, require_same

WORDS = [
    "--data", "digits", "--data.limit", "256", "--student", "small_cnn", "--student.width", "4", "--method", "trades",
    "--method.attack.steps", "2", "--threat.eps", "0.1", "--recipe.epochs", "4", "--recipe.batch", "64",
    "--recipe.augment", "crop", "--recipe.padding", "1", "--recipe.val_size", "32", "--recipe.device", "cpu",
]  # fmt: skip

# dies at the nth durable write, or at the nth renaming, so that every gap between two files is met
DIES = """
import os, signal, sys
from ardor.cli.main import main
left = int(sys.argv[1])
def counted(call):
    def wrapper(*args):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args)
    return wrapper
os.fsync, os.replace = counted(os.fsync), counted(os.replace)
main(sys.argv[2:])
"""


def run(words):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return warm.Popen([sys.executable, *words], env=env, **silent)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *WORDS, "--run", str(folder)]) == 0
    return ended(folder)


@pytest.mark.parametrize("moment", [1, 7, 11, 17])
def test_killed_in_the_middle_of_a_write(tmp_path, whole, moment):
    folder = tmp_path / "run"
    process = run(["-c", DIES, str(moment), "train", *WORDS, "--run", str(folder)])
    assert process.wait() == -signal.SIGKILL
    again = [str(folder)] if moment > 1 else [*WORDS, "--run", str(folder)]
    assert run(["-m", "ardor", "train", *again]).wait() == 0, "the folder alone is enough to go on"
    require_same(ended(folder), whole)


def kill_at_random(folder, kills, rng):
    for _ in range(kills):
        process = run(["-m", "ardor", "train", *WORDS, "--run", str(folder)])
        time.sleep(rng.uniform(0.0, 2.0))
        process.kill()
        process.wait()
    assert run(["-m", "ardor", "train", *WORDS, "--run", str(folder)]).wait() == 0


def test_killed_at_a_random_moment(tmp_path, whole):
    kill_at_random(tmp_path / "run", 1, random.Random())
    require_same(ended(tmp_path / "run"), whole)


def finish(folder, whole):
    assert run(["-m", "ardor", "train", *WORDS, "--run", str(folder)]).wait() == 0
    require_same(ended(folder), whole)
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.soak
def test_soak_kills(tmp_path, whole):
    """At every third durable write or renaming, from a random one on, and at random moments."""
    seed = random.randrange(10**6)
    rng = random.Random(seed)
    kills = 0
    for moment in itertools.count(rng.randrange(1, 4), 3):
        folder = tmp_path / f"write{moment}"
        if run(["-c", DIES, str(moment), "train", *WORDS, "--run", str(folder)]).wait() == 0:
            break
        kills += 1
        finish(folder, whole)
    kill_at_random(tmp_path / "run", 10, rng)
    require_same(ended(tmp_path / "run"), whole)
    print(f"{kills} kills at writes and 10 at random moments, seed {seed}: the same bytes")


@pytest.mark.soak
def test_soak_two_trainers(tmp_path):
    """Both at once: one is refused; the other is killed at a random moment, and the next two find a whole run."""
    words = ["-m", "ardor", "train", *WORDS, "--recipe.epochs", "100000", "--run", str(tmp_path / "run")]
    rng, before = random.Random(), 0
    for _ in range(10):
        both = [run(words) for _ in range(2)]
        while all(process.poll() is None for process in both):
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 2.0))
        assert sorted(str(process.poll()) for process in both) == ["2", "None"]
        for process in both:
            process.kill()
            process.wait()
        numbers = [line["epoch"] for line in lines(tmp_path / "run")]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) >= before
        before = len(numbers) - 1
    print(f"10 of 10 second trainers were refused, over {before} epochs: none is there twice")


@pytest.mark.soak
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_soak_full_disks(tmp_path, whole):
    """A disk that is full after another number of bytes each time: a sentence, and once there is space the same end."""
    disk, full = tmp_path / "disk", 0
    disk.mkdir()
    for size in range(4, 84, 8):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)], check=True)
        try:
            words = [sys.executable, "-m", "ardor", "train", *WORDS, "--run", str(disk / "run")]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                full += 1
                assert done.returncode == 2, done.stderr
                assert "ardor: expected to write" in done.stderr.splitlines()[-1], done.stderr
                assert "No space left" in done.stderr.splitlines()[-1]
            subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
            finish(disk / "run", whole)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    assert full >= 3
    print(f"{full} full disks: a sentence each, and the same bytes")


@pytest.fixture
def finished(tmp_path):
    train, val, _ = ardor.data.load("digits")
    made = [ardor.models.build("small_cnn", channels=1, width=4), ardor.methods.Natural(), train.limit(128)]
    recipe = ardor.Recipe(epochs=3, batch=64, augment="none", device="cpu")
    words = (made[0], None, made[1], made[2], recipe)
    return words, val, tmp_path / "run"


def again(words, val, folder):
    fresh = ardor.models.build("small_cnn", channels=1, width=4)
    return [record.epoch for record in ardor.epochs(fresh, *words[1:], val=val.limit(32), run=folder)], fresh


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 16  # inside a tensor: the format does not notice
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, lambda p: p.write_bytes(p.read_bytes()[:-40]), lambda p: p.unlink()])
def test_a_damaged_newest_state_falls_back_to_the_one_before(finished, damage, caplog):
    words, val, folder = finished
    _, net = again(words, val, folder)
    damage(folder / "state.safetensors")
    epochs, other = again(words, val, folder)
    assert epochs == [3], "only the last epoch is done again"
    assert ardor.models.hash_of(other) == ardor.models.hash_of(net)
    assert ("looking for an earlier state" in caplog.text) == (damage.__name__ == "flip" or bool(caplog.text))
    assert [json.loads(x)["epoch"] for x in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_two_damaged_states_are_refused_and_left_alone(finished):
    words, val, folder = finished
    again(words, val, folder)
    for name in ("state", "previous"):
        flip(folder / f"{name}.safetensors")
    before = {p.name: p.read_bytes() for p in Path(folder).iterdir()}
    with pytest.raises(CheckpointError, match=r"as it was written, got other bytes.*no earlier state is left"):
        again(words, val, folder)
    assert before == {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def test_states_of_before_there_were_checksums_are_read(finished):
    words, val, folder = finished
    _, net = again(words, val, folder)
    tensors, metadata = read_tensors(folder / "state.safetensors")
    metadata.pop("sum")
    write_tensors(folder / "state.safetensors", tensors, metadata)
    epochs, other = again(words, val, folder)
    assert epochs == []
    assert ardor.models.hash_of(other) == ardor.models.hash_of(net)
