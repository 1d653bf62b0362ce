"""Published teachers: the table, robustbench: names, a prefix of the user's own, and the shell.

The package robustbench is stood in for by a small module of the same calls.
"""

import re
import sys
import types

import pytest
import torch
import yaml
from torch import nn

from ardor import data, models
from ardor.cli.main import main
from ardor.errors import CheckpointError, ConfigError, ModelError
from ardor.models import known, published
from ardor.models.known import KNOWN, Known, known_of, table
from ardor.models.loading import net_for
from ardor.storage.config import describe
from tests.conftest import ROOT
from tests.models.conftest import refused


def built(record, seed=0):
    """The record's net with weights of its own."""
    return models.build(record.builder, classes=record.classes, **record.options, seed=seed)


# --- the table ---


def test_the_doc_shows_the_table(monkeypatch):
    for record in (TINY, TINY100):
        monkeypatch.delitem(KNOWN, f"{record.data}/{record.id}")
    assert table() in (ROOT / "docs" / "reference" / "teachers.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "network", "clean", "autoattack", "eps", "normalised", "licence"),
    [
        ("cifar10/Zhang2019Theoretically", "WRN-34-10", 0.8492, 0.5308, 0.031, False, "MIT"),
        ("cifar10/Chen2021LTD_WRN34_10", "WRN-34-10", 0.8521, 0.5694, 8 / 255, False, "MIT"),
        ("cifar10/Wang2023Better_WRN-28-10", "WRN-28-10 SiLU", 0.9244, 0.6731, 8 / 255, True, "MIT"),
        ("cifar100/Gowal2020Uncovering", "WRN-70-16 SiLU", 0.6086, 0.3003, 8 / 255, True, "Apache-2.0"),
        ("cifar100/Chen2021LTD_WRN34_10", "WRN-34-10", 0.6407, 0.3059, 8 / 255, False, "MIT"),
    ],
)
def test_records(key, network, clean, autoattack, eps, normalised, licence):
    record = KNOWN[key]
    assert (record.network, record.clean, record.autoattack) == (network, clean, autoattack)
    assert (record.eps, record.norm, record.licence) == (eps, "Linf", licence)
    assert record.shape == (3, 32, 32)
    assert (record.mean_std is not None) == normalised
    assert str(describe(record.eps)) == ("0.031" if eps == 0.031 else "8/255")


def test_every_record_is_sound():
    assert len(KNOWN) >= 48
    for key, record in KNOWN.items():
        assert key == f"{record.data}/{record.id}"
        assert 0.1 < record.autoattack < record.clean < 1
        assert record.classes in (10, 100, 1000)
        assert re.fullmatch(r"[\w-]{33}", record.drive)
        assert record.url.startswith("https://") or record.url == ""
        assert record.paper.startswith("https://")
    assert len({record.drive for record in KNOWN.values()}) == len(KNOWN)
    assert len({r.url for r in KNOWN.values() if r.url}) == sum(bool(r.url) for r in KNOWN.values()) == 14


def test_what_a_net_does_to_images_itself():
    assert KNOWN["cifar10/Wang2023Better_WRN-28-10"].mean_std == ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
    assert KNOWN["cifar100/Gowal2020Uncovering"].mean_std == ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    layer = built(TINY100).normalise
    assert torch.allclose(torch.stack([layer.mean, layer.std]).flatten(1), torch.tensor(TINY100.mean_std))


def test_the_nets_are_those_of_the_records():
    """Their shapes on no memory: sizes are those that are published."""
    sizes = {"cifar10/Zhang2019Theoretically": 48_262_586, "cifar10/Chen2021LTD_WRN34_10": 46_160_474}
    sizes |= {"cifar100/Gowal2020Uncovering": 266_888_756, "cifar10/Sehwag2021Proxy_R18": 11_173_962}
    sizes["cifar10/Wang2023Better_WRN-28-10"] = 36_479_194
    for key, size in sizes.items():
        with torch.device("meta"):
            record = KNOWN[key]
            net = models.find_builder(record.builder)[1](classes=record.classes, **record.options)
        assert sum(p.numel() for p in net.parameters()) == size, key
        layer = net.normalise
        if KNOWN[key].mean_std:
            assert layer.mean.shape == (3, 1, 1)
        else:
            assert isinstance(layer, nn.Identity)


# --- robustbench ---
TINY = Known("Tiny2021Net", "cifar10", "wide_resnet", 10, 1, 0.8, 0.5, "D" * 33, "https://example.org", "")
TINY100 = Known("Tiny2021Net", "cifar100", "wide_resnet_silu", 10, 1, 0.6, 0.3, "E" * 33, "https://example.org", "")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Two small records of one id, and no package that could help."""
    for record in (TINY, TINY100):
        monkeypatch.setitem(KNOWN, f"{record.data}/{record.id}", record)
    for name in ("robustbench", "robustbench.utils", "timm"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it is a ModuleNotFoundError
    return TINY


@pytest.fixture
def root(tmp_path):
    """RobustBench's own layout, with the files of both."""
    for record in (TINY, TINY100):
        path = record.place(tmp_path / "models")
        path.parent.mkdir(parents=True)
        net = built(record, seed=4)
        torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, path)
    return tmp_path / "models"


def test_a_file_in_robustbenchs_layout(root):
    net = models.load("robustbench:Tiny2021Net", root=root)
    assert not net.training
    assert models.hash_of(net) == models.hash_of(built(TINY, seed=4))
    assert net.built_as == {"name": "robustbench:cifar10/Tiny2021Net"}
    assert net.loaded_from == str(root / "cifar10" / "Linf" / "Tiny2021Net.pt")
    assert known_of(net) is TINY


@pytest.mark.parametrize(
    ("name", "classes", "record"),
    [
        ("robustbench:Tiny2021Net", None, TINY),
        ("robustbench:Tiny2021Net", 10, TINY),
        ("robustbench:Tiny2021Net", 100, TINY100),
        ("robustbench:cifar100/Tiny2021Net", None, TINY100),
        ("robustbench:cifar10/Tiny2021Net", 10, TINY),
    ],
)
def test_one_id_for_two_data_sets(root, name, classes, record):
    net = models.load(name, root=root, **({"classes": classes} if classes else {}))
    assert known_of(net) is record
    assert net(torch.rand(1, 3, 32, 32)).shape == (1, record.classes)
    assert known_of(models.load(net.built_as["name"], root=root)) is record  # the recorded name says which


def test_a_file_of_the_users_own_goes_before_the_folders(root, tmp_path):
    other = built(TINY, seed=9)
    torch.save(other.state_dict(), tmp_path / "mine.pt")
    net = models.load("robustbench:Tiny2021Net", root=root, weights=tmp_path / "mine.pt")
    assert models.hash_of(net) == models.hash_of(other)
    assert net.loaded_from == str(tmp_path / "mine.pt")


def test_mean_and_std_before_a_published_net(root):
    x = torch.rand(2, 3, 32, 32)
    name = "robustbench:Tiny2021Net"
    net, cured = models.load(name, root=root), models.load(name, root=root, mean=[0.5] * 3, std=[0.25] * 3)
    torch.testing.assert_close(cured(x), net((x - 0.5) / 0.25))
    assert known_of(cured) is TINY
    again = models.load(**describe(cured), root=root)
    assert models.hash_of(again) == models.hash_of(cured) != models.hash_of(net)


def test_what_is_not_known_of_other_nets(root):
    assert known_of(models.build("small_cnn")) is None
    assert known_of(nn.Linear(2, 2)) is None
    path = TINY.place(root)
    assert known_of(models.load("wide_resnet", weights=path, depth=10, width=1)) is None


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (
            {"name": "robustbench:Chen2021LTD_WRN34_10"},
            CheckpointError,
            [r"WRN-34-10\) at models/cifar10/Linf/Chen2021LTD_WRN34_10\.pt", "drive.google.com/file/d/1-0RoQ", "there"],
        ),
        ({"name": "robustbench:Chen2021LTD_WRN34_10", "download": True}, CheckpointError, ["browser", "drive.google"]),
        (
            {"name": "robustbench:Gowal2020Uncovering"},
            CheckpointError,
            ["models/cifar100/Linf", "download=True", "dm-adversarial-robustness/cifar100_linf_wrn70-16_without.pt"],
        ),
        ({"name": "robustbench:Chen2021LTD"}, ConfigError, ["did you mean", "Chen2021LTD_WRN34", "ardor.models.KNOWN"]),
        ({"name": "robustbench:cifar10/Gowal2020Uncovering"}, ConfigError, ["did you mean", "cifar10.*/Gowal2020"]),
        ({"name": "robustbench:Unknown", "weights": "WEIGHTS"}, ConfigError, ["known teacher", "Unknown"]),
        ({"name": "robustbench:Zhang2019Theoretically", "classes": 100}, ModelError, ["100 classes", "which has 10"]),
        ({"name": "robustbench:Tiny2021Net", "width": 4}, ConfigError, ["no options", "width"]),
        ({"name": "robustbench:Tiny2021Net", "weights": "NOWHERE"}, CheckpointError, ["not there"]),
        ({"name": "robustbench:"}, ConfigError, ["known teacher"]),
    ],
    ids=str,
)
def test_robustbench_refuses(arguments, error, words, root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "models" / "cifar10")
    places = {"WEIGHTS": str(TINY.place(root)), "NOWHERE": str(root / "nowhere.pt")}
    placed = {k: places.get(v, v) if isinstance(v, str) else v for k, v in arguments.items()}
    with refused(error, *words) as caught:
        models.load(**placed)
    assert "\n" not in str(caught.value)


def test_download_fetches_checks_and_is_asked_once(tmp_path, monkeypatch):
    asked = []

    def fetch(url, path, *, check, error):
        asked.append((url, path, error))
        path.parent.mkdir(parents=True)
        torch.save(built(TINY, seed=4).state_dict(), path)
        check(path)
        return path

    monkeypatch.setattr(published, "fetch", fetch)
    with_url = Known(**{**vars(TINY), "url": "https://example.org/tiny.pt"})
    monkeypatch.setitem(KNOWN, "cifar10/Tiny2021Net", with_url)
    with refused(CheckpointError, "pass download=True", "example.org/tiny.pt"):
        models.load("robustbench:Tiny2021Net", root=tmp_path)
    for _ in range(2):
        net = models.load("robustbench:Tiny2021Net", root=tmp_path, download=True)
    assert asked == [("https://example.org/tiny.pt", with_url.place(tmp_path), CheckpointError)]
    assert known_of(net) is with_url


@pytest.fixture
def package(monkeypatch):
    """A stand-in for the package robustbench; what it was asked for."""
    asked = []

    def load_model(model_name, dataset, threat_model, model_dir):
        asked.append((model_name, dataset, threat_model, model_dir))
        if model_name == "Broken":
            raise KeyError("Broken")
        return "no net" if model_name == "Text" else models.build("small_cnn", channels=3)

    utils = types.ModuleType("robustbench.utils")
    utils.load_model = load_model
    monkeypatch.setitem(sys.modules, "robustbench", types.ModuleType("robustbench"))
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    return asked


def test_the_package_is_asked_where_there_is_no_file(package, root, tmp_path):
    assert known_of(models.load("robustbench:Tiny2021Net", root=root)) is TINY
    assert package == []
    net = models.load("robustbench:Tiny2021Net", root=tmp_path)
    assert package == [("Tiny2021Net", "cifar10", "Linf", str(tmp_path))]
    assert net.built_as == {"name": "robustbench:cifar10/Tiny2021Net"}
    assert net.loaded_from is None
    assert not net.training
    net = models.load("robustbench:Debenedetti2022Light_XCiT-S12", root=tmp_path, classes=100)
    assert package[-1][:2] == ("Debenedetti2022Light_XCiT-S12", "cifar100")
    assert known_of(net) is None


def test_what_the_package_says_is_one_sentence(package, tmp_path):
    with refused(CheckpointError, "package robustbench", "Broken for cifar10", "KeyError"):
        models.load("robustbench:Broken", root=tmp_path)
    with refused(ModelError, "a net", "got str"):
        models.load("robustbench:Text", root=tmp_path)


def test_a_package_that_does_not_import_is_said(tmp_path, monkeypatch):
    (tmp_path / "robustbench").mkdir()
    (tmp_path / "robustbench" / "__init__.py").write_text("")
    (tmp_path / "robustbench" / "utils.py").write_text("import nothing_of_this_name")
    for name in ("robustbench", "robustbench.utils"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with refused(CheckpointError, "Tiny2021Net.pt", "does not import", "nothing_of_this_name"):
        models.load("robustbench:Tiny2021Net", root=tmp_path)


# --- a prefix of the user's own ---


@pytest.mark.parametrize("prefix", ["backbone.", "module.0.", "module.model.encoder.net_1.", "1."])
def test_a_common_prefix_goes_where_the_rest_fits_exactly(tmp_path, prefix):
    net, other = (models.build("small_cnn", width=4, seed=seed) for seed in (1, 2))
    state = {prefix + name: value for name, value in net.state_dict().items()}
    torch.save({"normalise.mean": torch.zeros(1), **state} if prefix == "1." else state, tmp_path / "w.pt")
    models.load_weights(other, tmp_path / "w.pt")
    assert models.hash_of(other) == models.hash_of(net)


@pytest.mark.parametrize("change", ["one without", "one more", "one less", "two nets"])
def test_a_prefix_stays_where_the_rest_does_not_fit(tmp_path, change):
    net, other = (models.build("small_cnn", width=4, seed=seed) for seed in (1, 2))
    state = {f"backbone.{name}": value for name, value in net.state_dict().items()}
    if change == "one without":
        state["linear.bias"] = state.pop("backbone.linear.bias")
    elif change == "one more":
        state["backbone.extra"] = torch.zeros(1)
    elif change == "one less":
        del state["backbone.linear.bias"]
    else:
        state |= {f"head.{name}": value for name, value in net.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    before = models.hash_of(other)
    with refused(CheckpointError, "missing", "left over", "backbone"):
        models.load_weights(other, tmp_path / "w.pt")
    assert models.hash_of(other) == before


# --- the shell ---


def test_a_known_net_for_images_of_another_size(root):
    with refused(ModelError, "1 x 8 x 8 and 10 classes", "cifar10/Tiny2021Net", "3 x 32 x 32"):
        net_for(
            "teacher", {"name": "robustbench:Tiny2021Net", "root": str(root)}, data.load_test("digits"), fresh=False
        )


def test_a_student_is_not_published(root):
    with refused(ConfigError, "student", "robustbench:Tiny2021Net", "weights=FILE"):
        net_for("student", {"name": "robustbench:Tiny2021Net"}, data.load_test("digits"), fresh=True)


def test_the_shell_distils_a_published_teacher(root, tmp_path, monkeypatch, capsys):
    """The run's config names the teacher and its file, and is a recipe that makes the same again."""
    import numpy as np

    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    np.savez("x.npz", x_train=images[:20], y_train=np.arange(20) % 10, x_test=images[20:], y_test=np.arange(20) % 10)
    words = "train --data npz:x.npz --student small_cnn --student.width 2 --teacher robustbench:Tiny2021Net "
    words += "--method kd --recipe.epochs 1 --recipe.batch 10 --data.val 4 --gate=false --run run"
    assert main([*words.split(), "--teacher.root", str(root)]) == 0, capsys.readouterr()
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["teacher"] == {"name": "robustbench:cifar10/Tiny2021Net", "weights": str(TINY.place(root))}
    assert main(["train", "run/config.yaml", "--gate=false", "--run", "again"]) == 0, capsys.readouterr()
    assert models.hash_of(models.load("again")) == models.hash_of(models.load("run"))


@pytest.mark.parametrize(
    ("name", "shown", "hidden"),
    [
        ("robustbench:Tiny2021Net", ["--teacher.weights", "--teacher.root", "--teacher.download"], ["--teacher.width"]),
        ("hf:owner/net", [], ["--teacher.root", "--teacher.download"]),
    ],
)
def test_help_shows_a_published_nets_options(name, shown, hidden, capsys):
    main(["train", "--teacher", name, "--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in shown)
    assert not any(word in text for word in hidden)


def test_the_table_of_a_record():
    assert known.get("Zhang2019Theoretically").options == {"depth": 34, "width": 10, "sub_block1": True}
