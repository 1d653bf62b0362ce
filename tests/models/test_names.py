"""Names to nets: build, a user's own code, and load."""

import copy
import json
import sys

import pytest
import torch
import yaml
from safetensors.torch import save_file

import ardor
from ardor import models
from ardor.errors import CheckpointError, ConfigError, ModelError, RunError
from ardor.models.builders import BUILDERS
from ardor.storage.config import build, describe
from ardor.storage.imports import nearest, resolve
from tests.models.conftest import refused

# --- build ---


def test_all_names_the_builders():
    assert set(models.__all__) > set(BUILDERS)
    assert all(getattr(models, name) is builder for name, builder in BUILDERS.items())


@pytest.mark.parametrize("name", ["small_cnn", "Small-CNN", "SMALLCNN", "small cnn"])
def test_spelling_of_names(name):
    assert models.build(name).built_as == {"name": "small_cnn", "classes": 10, "seed": 0}


def test_seed_fixes_the_weights_and_leaves_the_global_generator():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = models.hash_of(models.build("small_cnn", seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert models.hash_of(models.build("small_cnn", seed=3)) == first
    assert models.hash_of(models.build("small_cnn", seed=4)) != first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet81"}, ["resnet81", "resnet18", "type one of mobilenet_v2, resnet18"]),
        ({"name": "mobilnet"}, ["did you mean", "mobilenet_v2"]),
        ({"name": "qqqqqq"}, ["got", "small_cnn", "file.py:Name"]),
        ({"name": "small_cnn", "widht": 3}, ["widht", "did you mean", "width", "it takes classes"]),
        ({"name": "resnet18", "depth": 34}, ["option of resnet18", "depth"]),
        ({"name": "small_cnn", "classes": 0}, ["classes", "got 0"]),
        ({"name": "small_cnn", "classes": "ten"}, ["classes", "'ten'"]),
        ({"name": "small_cnn", "classes": True}, ["classes", "True"]),
        ({"name": "small_cnn", "channels": 2.0}, ["channels", "2.0"]),
        ({"name": "small_cnn", "width": 0}, ["width", "got 0"]),
        ({"name": "wide_resnet", "depth": 33}, ["depth", "got 33", "34"]),
        ({"name": "wide_resnet_silu", "depth": 4}, ["depth", "got 4"]),
    ],
    ids=str,
)
def test_build_refuses(arguments, words):
    with refused(ConfigError, *words):
        models.build(**arguments)


# --- a user's own code ---

USER = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Shape:
    width: int = 3

class Net(nn.Module):
    def __init__(self, classes, channels=1, extra=0):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64 * channels + extra, classes))
    def forward(self, x):
        return self.layers(x)

def fixed():
    return Net(4)

def anything(**options):
    return Net(options["classes"], options["channels"])

def number():
    return 3

instance = Net(2)
constant = 7
"""


@pytest.fixture
def user(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(USER)
    return path


def test_a_users_net(user):
    net = models.build(f"{user}:Net", classes=6, channels=2)
    assert net(torch.rand(1, 2, 8, 8)).shape == (1, 6)
    assert net.built_as == {"name": f"{user}:Net", "classes": 6, "channels": 2, "seed": 0}
    assert models.build(f"{user}:fixed", classes=6)(torch.rand(1, 64)).shape == (1, 4)  # its net knows its own
    assert models.build(f"{user}:anything", classes=3, channels=1)(torch.rand(1, 64)).shape == (1, 3)
    assert type(net) is type(models.build(f"{user}:Net", classes=2))  # imported once
    assert models.hash_of(models.build(f"{user}:Net", seed=1)) == models.hash_of(models.build(f"{user}:Net", seed=1))


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("constant", ConfigError, ["a callable", "got a int"]),
        ("instance", ConfigError, ["a callable", "got a Net"]),
        ("number", ModelError, ["nn.Module", "got int"]),
        ("Ned", ConfigError, ["Ned", "no such name", "did you mean", "Net"]),
    ],
)
def test_a_users_name_that_builds_no_net(user, name, error, words):
    with refused(error, *words):
        models.build(f"{user}:{name}")


def test_a_users_option_that_is_not_there(user):
    with refused(ConfigError, "extar", "extra"):
        models.build(f"{user}:Net", extar=1)


def test_resolve_sees_edits_neighbours_and_modules(tmp_path, user, monkeypatch):
    (tmp_path / "neighbour_of_mine.py").write_text("value = 5\n")
    path = tmp_path / "theirs.py"
    path.write_text("from neighbour_of_mine import value\n")
    search = list(sys.path)
    assert resolve(f"{path}:value", "model") == 5
    path.write_text("value = 6\n")
    assert resolve(f"{path}:value", "model") == 6
    assert sys.path == search
    monkeypatch.chdir(tmp_path)
    assert resolve("neighbour_of_mine:value", "model") == 5
    assert resolve("collections:OrderedDict", "model").__name__ == "OrderedDict"
    sys.modules.pop("neighbour_of_mine")


@pytest.mark.parametrize(
    ("reference", "text", "words"),
    [
        ("nowhere.py:Net", None, ["nowhere.py", "not there"]),
        ("broken.py:Net", "def f(:\n", ["broken.py", "SyntaxError"]),
        ("raising.py:Net", "1 / 0\n", ["raising.py", "ZeroDivisionError: division by zero"]),
        ("leaving.py:Net", "import sys; sys.exit(2)\n", ["leaving.py", "SystemExit"]),
        ("silent.py:Net", "", ["silent.py", "no such name", "it has none"]),
        ("no_such_package.part:Net", None, ["no_such_package", "ModuleNotFoundError"]),
        ("Net", None, ["file.py:Name", '"Net"', "colon"]),
        ("file.py:", None, ["file.py:Name"]),
        (":Net", None, ["file.py:Name"]),
    ],
)
def test_resolve_refuses_in_one_line(tmp_path, monkeypatch, reference, text, words):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / reference.split(":")[0]).write_text(text)
    with refused(ConfigError, *words) as caught:
        resolve(reference, "model")
    assert "\n" not in str(caught.value)
    assert not {m for m in sys.modules if m.startswith(("ardor_user_raising", "ardor_user_leaving"))}  # not by halves


def test_nearest():
    assert nearest("RESNET81", ["resnet18", "vgg"]) == ' (did you mean "resnet18"?)'
    assert nearest("zzz", ["resnet18", "vgg"]) == ""


# --- load ---


@pytest.fixture
def net():
    return models.build("small_cnn", width=4, seed=1)


@pytest.fixture
def run(tmp_path, net):
    folder = tmp_path / "run"
    folder.mkdir()
    config = {"method": "rslad", "student": {"name": "small_cnn", "width": 4, "classes": 10, "channels": 1}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    save_file(net.state_dict(), folder / "best.safetensors")
    save_file(models.build("small_cnn", width=4, seed=8).state_dict(), folder / "last.safetensors")
    return folder


def test_load_a_run(run, net):
    best, last = models.load(run), models.load(str(run), checkpoint="last")
    assert not best.training
    assert models.hash_of(best) == models.hash_of(net)
    assert models.hash_of(last) == models.hash_of(models.build("small_cnn", width=4, seed=8))
    assert best.built_as["width"] == 4


def test_load_a_builder_and_a_users_net(run, net, user, tmp_path):
    loaded = models.load("Small-CNN", weights=run / "best.safetensors", width=4)
    assert not loaded.training
    assert models.hash_of(loaded) == models.hash_of(net)
    mine = models.build(f"{user}:Net", seed=5)
    save_file(mine.state_dict(), tmp_path / "mine.safetensors")
    assert models.hash_of(models.load(f"{user}:Net", weights=tmp_path / "mine.safetensors")) == models.hash_of(mine)
    assert not models.load(f"{user}:fixed").training  # a callable may bring its own weights


def test_a_file_of_a_run_says_itself_what_net_it_is(tmp_path):
    train, _, _ = ardor.data.load("digits")
    net = models.build("small_cnn", channels=1, width=5, seed=3)
    recipe = ardor.Recipe(epochs=1, batch=64, augment="none", device="cpu")
    ardor.distill(net, None, ardor.methods.Natural(), train.limit(64), recipe, run=tmp_path / "run")
    moved = (tmp_path / "run" / "last.safetensors").rename(tmp_path / "moved.safetensors")
    loaded = models.load(moved)
    assert models.hash_of(loaded) == models.hash_of(net)
    assert (loaded.built_as["width"], loaded.loaded_from) == (5, str(moved))
    for foreign in ('{"name": "evil.py:Net"}', "[1]", "small_cnn"):  # no code is run because a file names it
        save_file(net.state_dict(), moved, {"net": foreign})
        with refused(ConfigError, "a file whose metadata name its net"):
            models.load(moved)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"name": "resnet18"}, ConfigError, ["weights", "none", "weights="]),
        ({"name": "resnet81"}, ConfigError, ["neither", "resnet18"]),
        ({"name": "runs/nowhere"}, ConfigError, ["got runs/nowhere, where there is none", "--run runs/nowhere"]),
        (
            {"name": "RUN/bets.safetensor"},
            ConfigError,
            ["none", "did you mean", "best.safetensors", "path$"],
        ),
        ({"name": "RUN/model.onx"}, ConfigError, ["model.onx, where there is none: check the path$"]),
        ({"name": "/nowhere"}, ConfigError, ["got /nowhere, where there is none"]),
        ({"name": "nowhere"}, ConfigError, ["neither", "check the path"]),
        ({"name": "RUN/best.safetensors"}, ConfigError, ["a file whose metadata name its net", "weights="]),
        ({"name": "RUN", "width": 4}, ConfigError, ["no options", "width"]),
        ({"name": "RUN", "checkpoint": "bets"}, CheckpointError, ["bets", "best and last", 'checkpoint="best"']),
        ({"name": "RUN/.."}, RunError, ["config.yaml"]),
        ({"name": "small_cnn", "weights": "RUN"}, CheckpointError, ["folder", "named without weights"]),
        ({"name": "small_cnn", "weights": "RUN/best.safetensors"}, CheckpointError, ["another shape", "width"]),
    ],
    ids=str,
)
def test_load_refuses(run, arguments, error, words):
    placed = {k: v.replace("RUN", str(run)) if isinstance(v, str) else v for k, v in arguments.items()}
    with refused(error, *words):
        models.load(**placed)


MEAN, STD = [0.25], [0.5]


@pytest.mark.parametrize("kind", ["run", "run that normalises", "file of a run", "run of a user's net", "Hub folder"])
def test_mean_and_std_go_before_a_net_that_was_normalised_outside(run, user, tmp_path, kind, monkeypatch):
    monkeypatch.chdir(user.parent)
    config = yaml.safe_load((run / "config.yaml").read_text())["student"]
    if kind == "run that normalises":
        config |= {"mean": [0.1], "std": [0.4]}
    if kind == "run of a user's net":
        config = {"name": f"{user}:Net", "classes": 10, "channels": 1}
    (run / "config.yaml").write_text(yaml.safe_dump({"student": config}))
    plain = models.build(**config, seed=3)
    save_file(plain.state_dict(), run / "best.safetensors", {"net": yaml.safe_dump(config)})
    (tmp_path / "config.json").write_text(json.dumps({"ardor": config}))
    save_file(plain.state_dict(), tmp_path / "model.safetensors")
    source = {"file of a run": run / "best.safetensors", "Hub folder": tmp_path}.get(kind, run)
    cured = models.load(source, mean=MEAN, std=STD, trust_code=True)
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(cured(x), plain.eval()((x - 0.25) / 0.5), rtol=1e-4, atol=1e-5)
    save_file(cured.state_dict(), tmp_path / "kept.safetensors")
    again = load_weights_into(build(describe(cured), "net"), tmp_path / "kept.safetensors")
    assert models.hash_of(again) == models.hash_of(cured)
    assert describe(again) | {"seed": 0} == describe(cured) | {"seed": 0}
    if hasattr(plain, "features"):
        torch.testing.assert_close(cured.head(cured.features(x)), cured(x))
    with refused(ConfigError, "mean and std together"):
        models.load(source, mean=MEAN, trust_code=True)
    with refused(ConfigError, "1 numbers|mean and in std"):
        models.load(source, mean=[0.5, 0.5], std=[1], trust_code=True)


def load_weights_into(net, path):
    models.load_weights(net, path)
    return net.eval()


def test_mean_and_std_before_a_users_net_that_is_built(user, tmp_path):
    plain, cured = models.build(f"{user}:Net", seed=2), models.build(f"{user}:Net", seed=2, mean=MEAN, std=STD)
    x = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(cured(x), plain((x - 0.25) / 0.5))
    assert describe(build(describe(cured), "net")) == describe(cured)
    save_file(plain.state_dict(), tmp_path / "w.safetensors")  # as its author kept it
    loaded = models.load(f"{user}:Net", weights=tmp_path / "w.safetensors", mean=MEAN, std=STD)
    torch.testing.assert_close(loaded(x), cured(x))
    assert not hasattr(cured, "features")
    assert torch.equal(copy.deepcopy(cured)(x), cured(x))


@pytest.mark.parametrize(
    "text", ["student: [1", "- a", "student: small_cnn", "student: {width: 4}", "", "student: {name: 3}", "\x00"]
)
def test_a_damaged_config_is_named(run, text):
    (run / "config.yaml").write_text(text)
    with refused(ConfigError, "config.yaml", "got"):
        models.load(run)


def test_a_config_that_asks_for_code_is_refused(run, tmp_path):
    (run / "config.yaml").write_text(f"student: !!python/object/apply:os.mkdir ['{tmp_path}/harm']")
    with refused(ConfigError, "config.yaml"):
        models.load(run)
    assert not (tmp_path / "harm").exists()


def test_a_run_without_checkpoints(run):
    for path in run.glob("*.safetensors"):
        path.unlink()
    with refused(CheckpointError, "without any", "train it first"):
        models.load(run)


def test_the_name_of_a_trained_net_is_not_built_and_the_error_names_the_call_that_loads_it():
    with pytest.raises(ConfigError, match=r'call ardor\.models\.load\("hf:owner/net"\)'):
        models.build("hf:owner/net")
