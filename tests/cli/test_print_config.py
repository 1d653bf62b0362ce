"""`ardor train --print_config`: a recipe of the same run, and nothing else."""

import pytest
import yaml
from safetensors.torch import load_file

from ardor.cli.commands.train import TrainWords
from ardor.cli.main import main, parse
from ardor.training.job import config_of_job, default_run, findings_of
from tests.conftest import job_of, same

SMALL = ["--data", "digits", "--student", "small_cnn", "--student.width", "4", "--recipe.device", "cpu"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def printed(capsys, *words):
    """What the words print, in a file."""
    capsys.readouterr()
    assert main(["train", *words, "--print_config"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out


@pytest.mark.parametrize(
    "words",
    [
        ["sat", "--data", "digits"],
        ["sat", *SMALL, "--variant", "smoke", "--recipe.lr", "1/20"],
        ["trades", *SMALL, "--threat", "l2", "--threat.eps", "1/2", "--recipe.val_attack.steps", "3"],
        [*SMALL, "--method", "mart", "--averaging", "ema", "--data.seed", "3", "--data.val", "0.2"],
        [*SMALL, "--method", "natural", "--recipe.optimiser", "adamw", "--recipe.schedule", "cosine"],
        [*SMALL, "--method", "sat", "--recipe.milestones", "2", "3", "--soft_labels", "float16", "--save_every", "20"],
    ],
)
def test_the_printed_recipe_is_the_same_run_and_nothing_is_written(folder, capsys, words):
    text = printed(capsys, *words)
    assert list(folder.iterdir()) == []
    (folder / "file.yaml").write_text(text)
    one, other = job_of(words), job_of(["file.yaml"])
    assert config_of_job(other) == config_of_job(one)
    assert (other.run, other.save_every, other.gate) == (one.run, one.save_every, one.gate)
    assert [f.name for f in findings_of(other)] == [f.name for f in findings_of(one)]
    assert printed(capsys, "file.yaml") == text, "a completed recipe is complete"


def test_a_run_prints_a_recipe_of_another_that_is_equal(folder, capsys):
    words = [*SMALL, "--method", "sat", "--method.attack.steps", "1", "--recipe.epochs", "1", "--recipe.batch", "512"]
    assert main(["train", *words, "--run", "runs/a"]) == 0
    (folder / "file.yaml").write_text(printed(capsys, "runs/a"))
    assert "fingerprint" not in (folder / "file.yaml").read_text()
    assert main(["train", "file.yaml", "--run", "runs/b"]) == 0
    assert (folder / "runs/b/config.yaml").read_text() == (folder / "runs/a/config.yaml").read_text()
    one, two = (load_file(folder / f"runs/{name}/last.safetensors") for name in "ab")
    assert same(one, two)


def test_neither_images_nor_nets_are_read(folder, capsys):
    words = ["--data", "cifar10", "--data.root", "nowhere", "--student", "resnet18", "--teacher", "runs/none"]
    config = yaml.safe_load(printed(capsys, "rslad", *words, "--run", "runs/x", "--gate=false"))
    assert config["data"]["root"] == "nowhere"
    assert config["teacher"] == {"name": "runs/none"}
    assert (config["run"], config["gate"]) == ("runs/x", False)
    assert config["recipe"]["epochs"] == 300
    assert list(config) == ["data", "student", "teacher", "method", "recipe", "gate", "run"]
    assert "teacher" not in yaml.safe_load(printed(capsys, "sat", *words)), "which sat does not use"


def test_several_teachers_and_a_base_are_printed_whole(folder, capsys):
    words = [*SMALL, "--method", "mtard", "--teacher.robust", "runs/a", "--teacher.natural", "runs/b"]
    config = yaml.safe_load(printed(capsys, *words))
    assert config["teacher"] == {"robust": "runs/a", "natural": "runs/b"}
    config = yaml.safe_load(printed(capsys, *SMALL, "--method", "igdm", "--method.base", "ard", "--teacher", "runs/a"))
    assert config["method"]["base"]["name"] == "ard"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "--data"),
        (["sat", "--recipe.epochs", "0"], "above 0"),
        (["sat", "--method.alpah", "1"], "alpah"),
        (["nope.yaml"], "nope.yaml"),
        (["sat", "--data", "digit"], 'did you mean "digits"'),
        (["sat", "--data", "digits", "--data.protocl", "paper"], "--data.protocol"),
    ],
)
def test_what_training_refuses_is_refused(folder, capsys, words, expected):
    assert main(["train", *words, "--print_config"]) == 2
    shown = capsys.readouterr()
    assert expected in shown.err
    assert shown.out == ""


def test_a_variant_names_the_folder_as_training_does():
    _, bound = parse(["train", "sat", "--data", "digits", "--variant", "smoke"])
    words = bound.arguments["words"]
    config = words.completed(bound.arguments["recipe"], bound.arguments["overrides"])
    assert config["run"] == "runs/smoke-sat-small_cnn-digits-s0"
    assert default_run(config, 0).name == "sat-small_cnn-digits-s0"
    assert "variant" not in config
    assert TrainWords().variants == []


def test_a_folder_with_the_name_of_a_recipe_is_a_run_only_with_a_configuration(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sat").mkdir()  # as ardor push RUN --out sat writes one
    assert main(["train", "sat", "--data", "digits", "--print_config"]) == 0
    assert "name: sat" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    assert main(["train", "other", "--data", "digits", "--print_config"]) == 2
    assert "name a run's folder" in capsys.readouterr().err
