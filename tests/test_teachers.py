"""Published teachers: the table, and robustbench:, hf: and timm: names.

The packages robustbench and timm are stood in for by small modules of the same calls. huggingface_hub is the real one
where it is installed, without a network, and a stand-in besides.
"""

import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from ardor import data, models
from ardor.cli import main
from ardor.commands.nets import make_net
from ardor.config import describe
from ardor.errors import CheckpointError, ConfigError, ModelError
from ardor.models import hub, known, published
from ardor.models.known import KNOWN, Known, known_of, table

ROOT = Path(__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def refused(error, *words):
    """An error of ours whose sentence has these words in this order."""
    return pytest.raises(error, match="(?s)^expected .*" + ".*".join(words))


def built(record, seed=0):
    """The record's net with weights of its own."""
    return models.build(record.builder, classes=record.classes, **record.options, seed=seed)


# --- the table ---


def test_the_doc_shows_the_table(monkeypatch):
    for record in (TINY, TINY100):
        monkeypatch.delitem(KNOWN, f"{record.data}/{record.id}")
    assert table() in (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")


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
    assert len(KNOWN) >= 35
    for key, record in KNOWN.items():
        assert key == f"{record.data}/{record.id}"
        assert 0.1 < record.autoattack < record.clean < 1
        assert record.classes in (10, 100)
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
        ({"name": "robustbench:Chen2021LTD"}, ConfigError, ["did you mean", "Chen2021LTD_WRN34", "docs/teachers.md"]),
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


def test_a_half_downloaded_file_is_refused(root):
    path = TINY.place(root)
    path.write_bytes(path.read_bytes()[:-2000])
    with refused(CheckpointError, "truncated", "download it again"):
        models.load("robustbench:Tiny2021Net", root=root)


def test_a_file_of_another_net_is_refused(root):
    torch.save(built(TINY100).state_dict(), TINY.place(root))
    with refused(CheckpointError, "weights for wide_resnet", "missing"):
        models.load("robustbench:Tiny2021Net", root=root)


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
    with refused(CheckpointError, "download=True", r"--teacher\.download true", "example.org/tiny.pt"):
        models.load("robustbench:Tiny2021Net", root=tmp_path)
    for _ in range(2):
        net = models.load("robustbench:Tiny2021Net", root=tmp_path, download=True)
    assert asked == [("https://example.org/tiny.pt", with_url.place(tmp_path), CheckpointError)]
    assert known_of(net) is with_url


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    with_url = Known(**{**vars(TINY), "url": "http://127.0.0.1:9/tiny.pt"})
    monkeypatch.setitem(KNOWN, "cifar10/Tiny2021Net", with_url)
    with refused(CheckpointError, "127.0.0.1:9", "no answer", "by hand", "Tiny2021Net.pt"):
        models.load("robustbench:Tiny2021Net", root=tmp_path, download=True)


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


# --- hf ---


def repository(folder, config=None, seed=4):
    """A snapshot as the Hub would hold it, and the net in it."""
    folder.mkdir(parents=True, exist_ok=True)
    net = models.build("small_cnn", width=4, classes=7, mean=[0.5], std=[0.25], seed=seed)
    ours = {k: v for k, v in net.built_as.items() if k != "seed"}
    (folder / "config.json").write_text(json.dumps({"ardor": ours} if config is None else config))
    save_file(net.state_dict(), folder / "model.safetensors")
    return net


class MissingError(Exception):
    """Of the kinds that the Hub's client raises."""


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    """A stand-in for huggingface_hub that serves one folder; what it was asked for."""
    module = types.ModuleType("huggingface_hub")
    module.errors = types.SimpleNamespace(
        RepositoryNotFoundError=type("RepositoryNotFoundError", (MissingError,), {}),
        RevisionNotFoundError=type("RevisionNotFoundError", (MissingError,), {}),
        EntryNotFoundError=type("EntryNotFoundError", (MissingError,), {}),
    )
    module.errors.LocalEntryNotFoundError = type("LocalEntryNotFoundError", (module.errors.EntryNotFoundError,), {})
    module.asked, module.cache, folder = [], {}, tmp_path / "snapshot"

    class HfApi:
        def model_info(self, name, revision=None, timeout=None):
            module.asked.append(("info", name, revision, timeout))
            if name == "off/line":
                raise module.errors.LocalEntryNotFoundError("no route\nto host")
            if name != "owner/net":
                raise module.errors.RepositoryNotFoundError("404\nClient Error")
            if revision not in (None, "v1", COMMIT):
                raise module.errors.RevisionNotFoundError("404")
            return types.SimpleNamespace(sha=COMMIT)

    def hf_hub_download(name, file, revision, etag_timeout):
        module.asked.append(("file", file, revision, etag_timeout))
        if not (folder / file).is_file():
            raise module.errors.EntryNotFoundError("404")
        return str(folder / file)

    module.HfApi, module.hf_hub_download = HfApi, hf_hub_download
    module.try_to_load_from_cache = lambda name, file, revision: module.cache.get((file, revision))
    module.net = repository(folder)
    module.folder = folder
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


@pytest.mark.parametrize("name", ["hf:owner/net", "hf:owner/net@v1", f"hf:owner/net@{COMMIT}"])
def test_a_net_of_the_hub_is_pinned(fake_hub, name):
    net = models.load(name)
    assert models.hash_of(net) == models.hash_of(fake_hub.net)
    assert not net.training
    assert net.built_as == {"name": f"hf:owner/net@{COMMIT}"}
    assert net.loaded_from is None
    files = [asked for asked in fake_hub.asked if asked[0] == "file"]
    assert files == [("file", f, COMMIT, hub.TIMEOUT) for f in ("config.json", "model.safetensors")]
    assert all(asked[3] == hub.TIMEOUT for asked in fake_hub.asked)
    assert models.hash_of(models.load(net.built_as["name"])) == models.hash_of(net)


def test_a_cached_commit_needs_no_network(fake_hub):
    for file in ("config.json", "model.safetensors"):
        fake_hub.cache[file, COMMIT] = str(fake_hub.folder / file)
    assert models.hash_of(models.load(f"hf:owner/net@{COMMIT}")) == models.hash_of(fake_hub.net)
    assert fake_hub.asked == []


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("hf:owner/other", {}, ConfigError, ["repository of the Hub", "owner/other", "not there"]),
        ("hf:owner/net@v9", {}, ConfigError, ["revision of owner/net", "v9"]),
        ("hf:off/line", {}, CheckpointError, ["off/line", "LocalEntryNotFoundError: no route", "check the network"]),
        ("hf:net", {}, ConfigError, ["hf:OWNER/NAME@REVISION", "hf:net"]),
        ("hf:../../etc@", {}, ConfigError, ["hf:OWNER/NAME"]),
        ("hf:owner/net", {"classes": 10}, ModelError, ["10 classes", "which has 7"]),
        ("hf:owner/net", {"width": 4}, ConfigError, ["no options", "width"]),
        ("hf:owner/net", {"weights": "x.pt"}, ConfigError, ["no weights", "x.pt"]),
    ],
)
def test_the_hub_refuses(fake_hub, name, options, error, words):
    with refused(error, *words) as caught:
        models.load(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"ardor": {"name": "mine.py:Net"}}, ["name a builder", "mine.py:Net"]),
        ({"ardor": {"name": "os:system"}}, ["name a builder"]),
        ({"architectures": ["Bert"]}, ["name a builder", "None"]),
        ({"ardor": "small_cnn"}, ["name a builder"]),
        ([1], ["name a builder"]),
        ({"ardor": {"name": "small_cnn", "classes": 7, "depth": 3}}, ["can be built", "depth"]),
        ({"ardor": {"name": "small_cnn", "classes": 7, "width": "wide"}}, ["can be built"]),
        ({"ardor": {"name": "small_cnn", "classes": 7, "mean": "x", "std": "y"}}, ["can be built"]),
        ({"ardor": {"name": "small_cnn", "classes": 7, "width": 5}}, ["another shape"]),
    ],
    ids=str,
)
def test_a_repository_that_is_none_of_ours(fake_hub, config, words):
    (fake_hub.folder / "config.json").write_text(json.dumps(config))
    with refused(CheckpointError, *words):
        models.load("hf:owner/net")


def test_a_repository_without_its_files(fake_hub):
    (fake_hub.folder / "config.json").write_text("{")
    with refused(CheckpointError, "JSON", "config.json"):
        models.load("hf:owner/net")
    (fake_hub.folder / "config.json").unlink()
    with refused(CheckpointError, "config.json in owner/net", "ardor", "small|resnet18"):
        models.load("hf:owner/net")


def test_no_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refused(ConfigError, "huggingface_hub for hf:owner/net", r'pip install "ardor\[hub\]"'):
        models.load("hf:owner/net")


@pytest.fixture
def real_hub(tmp_path, monkeypatch):
    """The real client with a cache of its own, to be used without a network."""
    client = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return client


def test_the_real_client_offline(real_hub, tmp_path):
    with refused(CheckpointError, "answer of the Hub", "owner/net", "check the network"):
        models.load("hf:owner/net")
    with refused(CheckpointError, "answer of the Hub", "check the network"):
        models.load(f"hf:owner/net@{COMMIT}")
    net = repository(tmp_path / "cache" / "models--owner--net" / "snapshots" / COMMIT)
    assert models.hash_of(models.load(f"hf:owner/net@{COMMIT}")) == models.hash_of(net)


# --- timm ---


class TimmNet(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.num_classes = classes
        self.fc = nn.Linear(channels * 4, classes)
        self.pretrained_cfg = {"mean": (0.5,) * channels, "std": (0.25,) * channels}

    def forward(self, x):
        return self.fc(x.flatten(1))


@pytest.fixture
def timm(monkeypatch):
    module = types.ModuleType("timm")
    module.asked = []

    def create_model(name, pretrained=False, num_classes=1000, in_chans=3):
        module.asked.append((name, pretrained, num_classes, in_chans))
        if name == "resnet81":
            raise RuntimeError("Unknown model (resnet81)")
        net = TimmNet(num_classes, in_chans)
        if name == "bare":
            net.pretrained_cfg = {}
        return net

    module.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_timm_behind_its_own_normalisation(timm):
    before = torch.get_rng_state()
    net = models.load("timm:resnet18")
    assert torch.equal(torch.get_rng_state(), before)
    assert timm.asked == [("resnet18", True, 1000, 3)]
    x = torch.rand(2, 3, 2, 2)
    torch.testing.assert_close(net(x), net.net((x - 0.5) / 0.25))
    assert net.built_as == {"name": "timm:resnet18"}
    assert not net.training


def test_timm_with_weights_is_built_for_the_data(timm, tmp_path):
    there = TimmNet(7, 1)
    torch.save(there.state_dict(), tmp_path / "w.pt")
    net = models.load("timm:resnet18", weights=tmp_path / "w.pt", classes=7, channels=1)
    assert timm.asked == [("resnet18", False, 7, 1)]
    assert torch.equal(net.net.fc.weight, there.fc.weight)
    assert net.built_as == {"name": "timm:resnet18", "classes": 7, "channels": 1}
    assert net.loaded_from == str(tmp_path / "w.pt")


def test_timm_refuses(timm, monkeypatch):
    with refused(ModelError, "10 classes", "which has 1000"):
        models.load("timm:resnet18", classes=10)
    with refused(ConfigError, "resnet81", "Unknown model", "list_models"):
        models.load("timm:resnet81")
    with refused(ModelError, "pretrained_cfg"):
        models.load("timm:bare")
    monkeypatch.setitem(sys.modules, "timm", None)
    with refused(ConfigError, "timm for timm:resnet18", r'pip install "ardor\[timm\]"'):
        models.load("timm:resnet18")


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


def test_a_prefixed_file_for_other_classes_says_the_classes(tmp_path):
    net = models.build("small_cnn", width=4, classes=100)
    torch.save({f"backbone.{name}": value for name, value in net.state_dict().items()}, tmp_path / "w.pt")
    with refused(CheckpointError, "100 classes", "--student.classes 100"):
        models.load("small_cnn", weights=tmp_path / "w.pt", width=4)


# --- the shell ---


def test_a_known_net_for_images_of_another_size(root):
    with refused(ModelError, "1 x 8 x 8 and 10 classes", "cifar10/Tiny2021Net", "3 x 32 x 32"):
        make_net("teacher", "robustbench:Tiny2021Net", {"root": str(root)}, data.load_test("digits"), fresh=False)


def test_a_student_is_not_published(root):
    with refused(ConfigError, "student", "robustbench:Tiny2021Net", "--student.weights"):
        make_net("student", "robustbench:Tiny2021Net", {}, data.load_test("digits"), fresh=True)


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
        ("timm:resnet18", ["--teacher.weights"], ["--teacher.download", "--teacher.root"]),
    ],
)
def test_help_shows_a_published_nets_options(name, shown, hidden, capsys):
    main(["train", "--teacher", name, "--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in shown)
    assert not any(word in text for word in hidden)


def test_the_table_of_a_record():
    assert known.get("Zhang2019Theoretically").options == {"depth": 34, "width": 10, "sub_block1": True}
