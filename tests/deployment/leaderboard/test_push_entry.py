"""`ardor push RUN --leaderboard` and `--zoo`, and `ardor models`: a run to an entry and to a net of the package."""

import json
import os
import shutil

import pytest
import torch

from ardor import models
from ardor.cli.main import main
from ardor.data import load_test
from ardor.deployment.leaderboard import load_entry, recheck
from ardor.errors import ConfigError
from ardor.evaluation.report import Report
from ardor.models import zoo
from tests.deployment.conftest import EPS, onnx_packages, train

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
onnx_packages()
WORDS = ["--limit", "10", "--queries", "5"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, its entry, and the folder of the leaderboard."""
    place = tmp_path_factory.mktemp("made")
    run = train(place / "runs" / "digits-cnn4-sat")
    assert main(["push", str(run), "--leaderboard", "--out", str(place / "board"), *WORDS]) == 0
    return run, load_entry(place / "board" / "digits-cnn4-sat.json"), place / "board"


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the run that a test may change."""
    return shutil.copytree(made[0], tmp_path / "digits-cnn4-sat")


def test_the_entry_is_of_the_run(made):
    run, entry, _ = made
    net = models.load(run)
    assert entry.weights == models.hash_of(net)
    assert entry.parameters == sum(p.numel() for p in net.parameters())
    assert (entry.report.n, entry.report.suite, entry.report.data["part"]) == (10, "autoattack", "test")
    assert [form.name for form in entry.deployed.forms] == ["float32", "onnx", "onnx-int8"]
    assert (entry.method, entry.teacher, entry.licence) == ("sat", "", "")


def test_nothing_of_the_machine_is_in_it(made):
    run, _, board = made
    text = (board / "digits-cnn4-sat.json").read_text()
    assert str(run.parent) not in text
    assert os.path.expanduser("~/") not in text


def test_a_report_that_was_there_is_evaluated_again_in_part(made, copied, tmp_path, capsys):
    assert main(["push", str(copied), "--leaderboard", "--out", str(tmp_path / "board"), *WORDS]) == 0
    again = load_entry(tmp_path / "board" / "digits-cnn4-sat.json")
    assert again.report.verdicts == made[1].report.verdicts
    (path,) = copied.glob("report-autoattack-*.json")
    report = Report.load(path)
    report.verdicts = dict.fromkeys(report.verdicts, "r" * report.n)
    report.save(path)
    capsys.readouterr()
    assert main(["push", str(copied), "--leaderboard", "--out", str(tmp_path / "other"), *WORDS]) == 2
    assert "expected verdicts that follow from the net, got 10 of 10 images" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_comparison_under_another_threat_is_made_anew(made, copied, tmp_path):
    words = ["--limit", "10", "--queries", "5", "--threat.eps", "0.01"]
    for path in copied.glob("deployed-*"):
        path.unlink()
    assert main(["deploy", str(copied), *words]) == 0
    assert main(["push", str(copied), "--leaderboard", "--out", str(tmp_path / "board"), *WORDS]) == 0
    entry = load_entry(tmp_path / "board" / "digits-cnn4-sat.json")
    assert {str(form.report.threat) for form in entry.deployed.forms} == {str(entry.report.threat)}


def test_other_images_are_refused(made):
    run, entry, _ = made
    with pytest.raises(ConfigError, match="expected a report on the images"):
        recheck(entry.report, models.load(run), load_test("digits").limit(9))


def test_a_net_of_the_package_with_rounded_weights(copied, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path / "shipped")
    words = ["push", str(copied), "--zoo", "digits-cnn4-sat", "--half", "--out", str(tmp_path / "shipped"), *WORDS]
    assert main(words) == 0
    assert "left out" not in capsys.readouterr().out, "the files' figures are in the entry"
    folder = tmp_path / "shipped" / "digits-cnn4-sat"
    names = ["README.md", "SHA256SUMS", "config.json", "entry.json", "model.safetensors", "recipe.yaml"]
    assert sorted(path.name for path in folder.iterdir()) == names
    given, net = models.load(copied), models.load("ardor:digits-cnn4-sat")
    for (name, value), kept in zip(given.state_dict().items(), net.state_dict().values(), strict=True):
        rounded = value.half().float() if value.is_floating_point() and value.ndim > 1 else value
        assert torch.equal(kept, rounded), name
    entry = load_entry(folder / "entry.json")
    assert entry.weights == models.hash_of(net) != models.hash_of(given)
    assert (folder / "model.safetensors").stat().st_size == entry.size
    command = "ardor push runs/digits-cnn4-sat --zoo digits-cnn4-sat --half --limit 10 --queries 5"
    assert (entry.licence, entry.made[1]) == ("mit", command)
    assert 'ardor.models.load("ardor:digits-cnn4-sat")' in (folder / "README.md").read_text()

    capsys.readouterr()
    assert main(["models"]) == 0
    assert "ardor:digits-cnn4-sat" in capsys.readouterr().out
    assert main(["models", "--json", "-"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["n"], listed["autoattack"]["k"]) == ("digits-cnn4-sat", 10, entry.robust.k)
    assert main(["models", "ardor:digits-cnn4-sat"]) == 0
    shown = capsys.readouterr().out
    assert "# digits-cnn4-sat" in shown
    assert "ardor train recipe.yaml" in shown
    assert "RobustBench has no leaderboard" in shown
    assert main(["models", "digits-cnn4-rslad"]) == 2
    assert "did you mean" in capsys.readouterr().err
    (folder / "README.md").write_text("altered")
    assert main(["models", "digits-cnn4-sat"]) == 2
    assert "altered or damaged" in capsys.readouterr().err

    for named in (["ardor:digits-cnn4-sat"], ["--model", "ardor:digits-cnn4-sat"]):
        words = ["evaluate", *named, "--suite", "quick", "--limit", "5"]
        assert main([*words, "--out", str(tmp_path / "report.json")]) == 0
        report = Report.load(tmp_path / "report.json")
        assert report.model["hash"] == entry.weights
        assert (report.data["name"], report.threat) == ("digits", {"name": "Linf", "eps": EPS}), "those of its training"
    assert main(["evaluate", "ardor:digits-cnn4-sat", "--model", "small_cnn"]) == 2
    assert "expected a run or --model" in capsys.readouterr().err


def test_the_recipe_trains_it_again(made, tmp_path):
    from ardor.deployment.leaderboard import recipe_of
    from ardor.storage.config import to_yaml

    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe_of(made[1])))
    assert main(["train", str(tmp_path / "recipe.yaml"), "--run", str(tmp_path / "again")]) == 0
    assert models.hash_of(models.load(tmp_path / "again")) == made[1].weights


def test_the_page_of_a_leaderboard(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path / "shipped")
    board = made[2]
    assert main(["models", "--leaderboard", str(board), "--out", str(tmp_path / "page.md")]) == 0
    assert "| 1 | `digits-cnn4-sat` |" in (tmp_path / "page.md").read_text()
    assert main(["models", "--leaderboard", str(tmp_path / "none")]) == 2
    assert "expected the folder of a leaderboard" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--zoo", "a", "--leaderboard"], "got two of them"),
        (["me/net", "--leaderboard"], "got two of them"),
        (["--leaderboard", "--name", "../a"], "a name of small letters"),
        (["--zoo", "A b"], "a name of small letters"),
        (["--zoo", ""], "a name of small letters"),
    ],
)
def test_words_that_do_not_fit(made, words, text, capsys):
    assert main(["push", str(made[0]), *words]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ["me/net", "--half"],
            "only with --zoo NAME or --leaderboard, got it with a folder for the Hub",
        ),
        (["--limit", "10"], "expected --limit only with --zoo NAME or --leaderboard"),
        (["--out", "a", "--queries", "5"], "expected --queries only with --zoo NAME or --leaderboard"),
        (["--name", "a"], "expected --name only with --leaderboard"),
        (["--zoo", "a", "--name", "b"], "expected --name only with --leaderboard, got it with --zoo NAME"),
        (["--zoo", "a", "--private"], "expected --private only with a folder for the Hub, got it with --zoo NAME"),
        (["--leaderboard", "--force"], "expected --force only with a folder for the Hub, got it with --leaderboard"),
        (["--leaderboard", "--dry_run"], "expected --dry_run only with a folder for the Hub"),
        (["--leaderboard", "--about", "a.md"], "expected --about only with --zoo NAME or a folder for the Hub"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(tmp_path, monkeypatch, words, text, capsys):
    """So that no one believes that --half rounded what was uploaded."""
    monkeypatch.chdir(tmp_path)
    assert main(["push", "runs/none", *words]) == 2
    assert text in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]
