"""`ardor --install-completion` in a home of its own, and what a real bash then completes."""

import os
import shutil
import subprocess
import sys

import pytest

from ardor.cli.completion import completable
from ardor.cli.main import COMMANDS


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    (folder / ".bashrc").write_text("# mine\n")
    environment = {**os.environ, "HOME": str(folder), "SHELL": "/bin/bash"}
    for _ in range(2):
        words = [sys.executable, "-m", "ardor", "--install-completion", "--shell", "bash"]
        subprocess.run(words, env=environment, check=True, capture_output=True)
    return folder


def completed(home, *words):
    """What bash completes the last word to, with the start-up file of this home."""
    script = f'source "$HOME/.bashrc"; COMP_WORDS=({" ".join(map(repr, words))}); COMP_CWORD={len(words) - 1}; '
    script += 'COMPREPLY=(); $(complete -p ardor | sed "s/.*-F \\([^ ]*\\) .*/\\1/"); printf "%s\\n" "${COMPREPLY[@]}"'
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    bash = ["bash", "--norc", "-c", script]
    done = subprocess.run(bash, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def test_the_start_up_file_keeps_what_it_has_and_is_extended_once(home):
    lines = (home / ".bashrc").read_text().splitlines()
    assert lines[0] == "# mine"
    assert len([line for line in lines if "completions/ardor" in line]) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ardor", "eva"], ["evaluate"]),
        (["ardor", "data", "pre"], ["prepare"]),
        (["ardor", "train", "--soft_labels_"], ["--soft_labels_in"]),
        (["ardor", "train", "--recipe.epo"], ["--recipe.epochs"]),
        (["ardor", "train", "sat", "--data", "digits", "--method.alp"], ["--method.alpha"]),
        (["ardor", "train", "--method", "trad"], ["trades"]),
        (["ardor", "train", "--data", "cifar"], ["cifar10", "cifar100"]),
        (["ardor", "evaluate", "runs/x", "--recipe."], ["--recipe.device"]),
        (["ardor", "evaluate", "runs/x", "--suite", "auto"], ["autoattack"]),
        (["ardor", "evaluate", "runs/x", "--threat.e"], ["--threat.eps"]),
        (["ardor", "check", "runs/x", "--min"], ["--min_robust", "--min_clean", "--min_class"]),
        (["ardor", "report", "runs/x", "--threat."], []),
    ],
)
def test_bash_completes_commands_options_dotted_options_and_names(home, words, expected):
    assert completed(home, *words) == expected


def test_files_are_completed_where_a_file_is_expected(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe_of_mine.yaml").touch()
    assert completed(home, "ardor", "train", "recipe_of") == ["recipe_of_mine.yaml"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_function_to_complete(command):
    assert completable(command).__annotations__.keys().isdisjoint({"overrides"})


def test_an_unknown_shell_is_one_sentence(tmp_path, capsys, monkeypatch):
    from ardor.cli.main import main

    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--install-completion", "--shell", "csh"]) == 2
    assert capsys.readouterr().err.startswith("ardor: ")
    assert list(tmp_path.iterdir()) == []
