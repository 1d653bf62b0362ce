"""hf: names. huggingface_hub is the real one where it is installed, without a network, and a stand-in besides."""

import json
import sys
import types

import pytest
from safetensors.torch import save_file

from ardor import models
from ardor.errors import CheckpointError, ConfigError, ModelError
from ardor.models import hub
from tests.models.conftest import refused

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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
