"""`ardor plan`: it says it, writes nothing and refuses in one sentence."""

import contextlib
import re
from dataclasses import replace

import pytest

import ardor
from ardor.cli.main import main
from ardor.training.cost import Cost
from ardor.training.soft_labels import saving
from tests.training.conftest import ERRORS

# The command
WORDS = ["--data", "digits", "--student", "small_cnn", "--student.width", "4", "--recipe.device", "cpu"]


def test_the_command_says_it_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: trades\ndata: digits\nstudent: {name: small_cnn, width: 4}\nrecipe: {epochs: 3}\n")
    words = ["--method.attack.steps", "2", "--recipe.batch=32", "--recipe.device=cpu", "--steps", "2"]
    assert main(["plan", str(recipe), *words]) == 0
    out = capsys.readouterr().out
    assert "per image and step: 11.0 F (attack 5.0 F, learning 6.0 F)" in out
    assert re.search(r"per step: [\d.]+ s for 32 images, [\d,.]+ images/s", out)
    assert re.search(r"whole run: \d+ (s|min) for 3 epochs of 1213 images, \d+ s of it validation", out)
    assert re.search(r"peak memory: \d\.\d\d GB resident, the whole process", out)
    assert "teacher" not in out
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


def test_the_command_shows_how_far_it_is(monkeypatch, tmp_path):
    seen = []

    @contextlib.contextmanager
    def progress(name, parts):
        seen.append((name, parts))
        yield lambda *moved: seen.append(moved)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ardor.cli.display.progress", progress)
    assert main(["plan", *WORDS, "--method", "natural", "--recipe.val_size", "20", "--steps", "2"]) == 0
    assert seen == [("plan", 3), (0, "passes"), (1, "steps"), (2, "validation")]


def test_the_command_refuses_in_one_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *WORDS, "--method", "sat", "--steps", "1"]) == 2
    err = capsys.readouterr().err
    assert "expected at least 2 steps" in err
    assert "memory" not in err
    real = ardor.methods.SAT.terms

    def terms(self, student, teacher: "None", x, y, **others):
        if len(x) > 40:
            raise ERRORS[1]
        return real(self, student, teacher, x, y, **others)

    monkeypatch.setattr(ardor.methods.SAT, "terms", terms)
    assert main(["plan", *WORDS, "--method", "sat", "--method.attack.steps", "1"]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert "type --recipe.batch 32, which fits" in err


TABLE = saving(ardor.Recipe(), [(45000, 45000)], 10)


def test_a_teacher_is_in_the_cost():
    one = Cost(20, 6, 2, 1, 128, 2.0, 36.0, 0.5, 1_500_000_000, 45000, 300, "cpu", TABLE)
    assert one.text().splitlines() == [
        "per image and step: 26.0 F + 2.0 T (attack 20.0 F, learning 6.0 F); F is a forward pass of the student, "
        "T of the teacher",
        "per step: 2 s for 128 images, 64 images/s",
        "whole run: 58.6 h for 300 epochs of 45000 images, 36 s of it validation",
        "peak memory: 1.50 GB resident, the whole process",
        "the teacher's cached logits replace 54 % of 1.0 T in this run (137 of 162 views of an image occur), which "
        "saves 8.0 h; all in a later run, which saves 14.6 h; 321 MB of disk",
    ]
    assert "1.50 GB allocated on cuda" in replace(one, device="cuda").text()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(45, "45 s"), (89, "89 s"), (120, "2 min"), (720, "12 min"), (5340, "89 min"), (5400, "1.5 h"), (12600, "3.5 h")],
)
def test_times_have_the_unit_that_suits_them(seconds, words):
    cost = Cost(20, 6, 0, 0, 128, 0.01, seconds, 0.0, 0, 45000, 1, "cpu")
    text = cost.text()
    assert f"for 1 epoch of 45000 images, {words} of it validation" in text
    assert "128 images, 12,800 images/s" in text


def test_every_pass_that_can_be_cached_saves_its_share():
    one = Cost(20, 6, 2, 1, 128, 2.0, 36.0, 0.5, 0, 45000, 300, "cpu", TABLE)
    two = replace(one, kept=2)
    assert two.saved(0.5) == pytest.approx(2 * one.saved(0.5))
    assert one.saved(0.5) > 0
