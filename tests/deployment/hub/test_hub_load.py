"""A local folder like a repository of the Hub, by hf:./FOLDER or by its path, as a net, a teacher and a judged one."""

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from ardor import models
from ardor.cli.main import main
from ardor.deployment import hub
from ardor.errors import CheckpointError, ConfigError, ModelError
from ardor.evaluation.report import Report

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
constants = pytest.importorskip("huggingface_hub.constants")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    net = models.build("small_cnn", channels=1, width=4, seed=3)
    release = hub.Release(net, (1, 8, 8), tuple(map(str, range(10))))
    return hub.write_folder(release, tmp_path_factory.mktemp("hub") / "out", force=True)


def test_a_relative_folder_and_a_name_of_the_hub_are_told_apart(made, tmp_path, monkeypatch):
    shutil.copytree(made.folder, tmp_path / "owner" / "net")
    monkeypatch.chdir(tmp_path)
    want = models.hash_of(models.load(made.folder))
    for name in ("hf:./owner/net", f"hf:{tmp_path}/owner/net", "hf:../" + tmp_path.name + "/owner/net", "owner/net"):
        assert models.hash_of(models.load(name)) == want
    assert models.hash_of(models.load("hf:./owner/net", classes=10, channels=1)) == want
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.hash_of(models.load("hf:~/owner/net")) == want
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="answer of the Hub about owner/net"):
        models.load("hf:owner/net")  # a folder never takes the place of a repository unasked


def test_a_local_folder_needs_no_package(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert models.hash_of(models.load(f"hf:{made.folder}")) == models.hash_of(models.load(made.folder))


@pytest.mark.parametrize(
    ("name", "options", "error", "word"),
    [
        ("hf:./none", {}, ConfigError, "none, which is no folder: check the path"),
        ("hf:./out", {"classes": 7}, ModelError, "7 classes, got out, which has 10"),
        ("hf:./out", {"width": 4}, ConfigError, "no options for hf:./out"),
        ("hf:./out", {"weights": "w.pt"}, ConfigError, "brings its own"),
        ("hf:./out", {"checkpoint": "last"}, ConfigError, 'holds one net, got "last"'),
        ("out", {"width": 4}, ConfigError, "no options for out"),
        ("hf:./half", {}, ConfigError, r"half without model\.safetensors"),
        ("hf:./mixed", {}, CheckpointError, r"in mixed the weights \w{16} of its config\.json, got \w{16}"),
        ("mixed", {}, CheckpointError, "take them from one commit"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(made, tmp_path, monkeypatch, name, options, error, word):
    monkeypatch.chdir(tmp_path)
    for place in ("out", "half", "mixed"):
        shutil.copytree(made.folder, place)
    Path("half/model.safetensors").unlink()
    other = models.build("small_cnn", channels=1, width=4, seed=9)
    save_file(other.state_dict(), "mixed/model.safetensors")
    with pytest.raises(error, match=word):
        models.load(name, **options)


def test_a_folder_teaches_and_is_judged_at_the_shell(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made.folder, tmp_path / "teacher")
    words = ["train", "--data", "digits", "--student", "small_cnn", "--student.width", "2", "--method", "kd"]
    words += ["--recipe.epochs", "1", "--gate=false", "--data.limit", "64"]
    for teacher, run in (("hf:./teacher", "a"), ("teacher", "b")):
        assert main([*words, "--teacher", teacher, "--run", run]) == 0
        config = yaml.safe_load(Path(run, "config.yaml").read_text())["teacher"]
        assert config == {"name": "small_cnn", "classes": 10, "channels": 1, "width": 4,
                        "weights": "teacher/model.safetensors"}  # fmt: skip
    assert main(["evaluate", "--model", "hf:./teacher", "--data", "digits", "--suite", "quick", "--limit", "20"]) == 0
    assert main(["evaluate", "teacher", "--data", "digits", "--suite", "quick", "--limit", "20"]) == 0


@pytest.mark.parametrize("named", ["hf:./out", "out", "--model=hf:./out"])
def test_a_net_of_the_hub_is_judged_under_the_threat_of_its_training(tmp_path, monkeypatch, capsys, named):
    net = models.build("small_cnn", channels=1, width=4, seed=3)
    method = {"name": "sat", "attack": {"name": "PGD", "threat": {"name": "L2", "eps": 0.3}}}
    release = hub.Release(net, (1, 8, 8), tuple(map(str, range(10))), training={"method": method})
    hub.write_folder(release, tmp_path / "out", force=True)
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", named, "--data", "digits", "--suite", "quick", "--limit", "2"]
    assert main([*words, "--out", "trained.json"]) == 0
    assert main([*words, "--threat.eps", "0.1", "--out", "typed.json"]) == 0
    threats = [Report.load(Path(name)).threat for name in ("trained.json", "typed.json")]
    assert threats == [{"name": "L2", "eps": 0.3}, {"name": "L2", "eps": 0.1}]
