"""A command that a signal stops ends in a sentence, with the signal's exit code, at any moment of its life."""

import os
import signal
import subprocess
import sys
import time

import pytest

import ardor
from tests import warm
from tests.training.conftest import WORDS, lines

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="other signals")

WHEN_IMPORTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from ardor.cli.main import main
sys.exit(main(sys.argv[2:]))
"""
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
ENDLESS = [*WORDS[:-2], "--method", "natural", "--recipe.epochs", "100000"]


@pytest.mark.parametrize("module", ["cyclopts", "ardor.errors", "torch", "torch._C", "numpy", "ardor.training.loop"])
def test_ctrl_c_during_the_imports_ends_without_a_traceback(tmp_path, module):
    words = [sys.executable, "-c", WHEN_IMPORTED, module, "train", *ENDLESS, "--run", "r"]
    done = subprocess.run(words, env=ENV, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.strip().startswith("ardor: stopped; what was finished is kept")
    assert len(done.stderr.strip().splitlines()) == 1


def training(folder, **options):
    """A command that trains for ever, after its first epoch."""
    words = [sys.executable, "-c", f"import signal, sys; {options.pop('first', '')}; from ardor.cli.main import main; "
             "sys.exit(main(sys.argv[1:]))", "train", *ENDLESS, "--run", str(folder)]  # fmt: skip
    child = warm.Popen(words, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (folder / "state.safetensors").exists() and child.poll() is None:
        time.sleep(0.01)
    return child


DEFAULT = "signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_training_in_a_sentence_and_its_state_is_whole(tmp_path, number):
    # a child of nohup would ignore SIGHUP
    child = training(tmp_path / "r", first=f"{DEFAULT}; signal.signal(signal.SIGHUP, signal.SIG_DFL)")
    child.send_signal(number)
    sentence = child.communicate()[1].strip().splitlines()[-1]
    assert child.returncode == 128 + number, sentence
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert sentence == f"ardor: stopped{by}; what was finished is kept, and the same command continues from it."
    assert ardor.models.load(tmp_path / "r", checkpoint="last") is not None
    assert [line["epoch"] for line in lines(tmp_path / "r")] == list(range(1, len(lines(tmp_path / "r")) + 1))


def test_a_signal_that_nohup_ignores_is_ignored(tmp_path):
    child = training(tmp_path / "r", first="signal.signal(signal.SIGHUP, signal.SIG_IGN)")
    child.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert child.poll() is None
    child.terminate()
    child.communicate()
    assert child.returncode == 143


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    """Also where the first is still being answered, or was lost in a library."""
    held = """
import signal, sys, time
class Held:
    def __init__(self, folder):
        (folder / "held").touch()
        try:
            time.sleep(100)
        except KeyboardInterrupt:
            (folder / "first").touch()
            time.sleep(100)
import ardor.training.loop as loop
save = loop.checkpoint.save
loop.checkpoint.save = lambda run, *rest: (save(run, *rest), Held(run.folder))
"""
    words = [sys.executable, "-c", f"{held}\n{DEFAULT}\nfrom ardor.cli.main import main\nmain(sys.argv[1:])"]
    child = warm.Popen([*words, "train", *ENDLESS, "--run", str(tmp_path / "r")], env=ENV)
    for name in ("held", "first"):
        while not (tmp_path / "r" / name).exists():
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
    assert child.wait(30) == -signal.SIGINT


def test_handlers_are_as_before_after_a_command(capsys):
    from ardor.cli.main import main

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert main(["--version"]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def shell(folder, *words, **environment):
    command = [sys.executable, "-m", "ardor", *map(str, words)]
    return warm.run(command, env=ENV | environment, cwd=folder, capture_output=True, text=True, check=False)


def test_a_name_that_the_terminal_cannot_encode_fails_no_command(tmp_path):
    words = ["train", *WORDS, "--method", "natural", "--recipe.epochs", "1", "--run"]
    done = shell(tmp_path, *words, "é画", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, "Kept in ??. Next: ardor evaluate '??'\n"), done.stderr
    refused = shell(tmp_path, *words, os.fsdecode(b"r\xff"))
    assert refused.returncode == 2
    assert "expected the name of a run in UTF-8" in refused.stderr.splitlines()[-1]
    assert os.listdir(tmp_path) == ["é画"]


def test_a_rank_in_the_environment_without_torchrun_silences_nothing(tmp_path):
    ranks = {"LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}
    train = ["train", *WORDS, "--method", "natural", "--recipe.epochs", "1", "--run", "r"]
    assert "Kept in r" in shell(tmp_path, *train, **ranks).stdout
    done = shell(tmp_path, "evaluate", "r", "--suite", "quick", "--limit", "8", **ranks)
    assert done.returncode == 0
    assert "| worst_case |" in done.stdout
