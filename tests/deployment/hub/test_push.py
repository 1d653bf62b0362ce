"""A folder to the Hub and back, by the real huggingface_hub, against a small Hub on this machine."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ardor
from ardor import models
from ardor.cli.main import main
from ardor.deployment import hub
from ardor.errors import CheckpointError, ConfigError, RunError
from tests.deployment.conftest import onnx_packages, train
from tests.deployment.hub.conftest import serving

client = pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")
constants = pytest.importorskip("huggingface_hub.constants")
onnx_packages()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A net with its report and a file, without a run."""
    net = models.build("small_cnn", channels=1, width=4, mean=[0.3], std=[0.4], seed=3).eval()
    test = ardor.data.load_test("digits").limit(20)
    path = tmp_path_factory.mktemp("file") / "best.onnx"
    report = ardor.evaluate(net, test, ardor.attacks.quick(ardor.Linf(0.1)))
    ardor.export(net, path, check=test, threat=ardor.Linf(0.1))
    return hub.Release(net, test.shape, test.class_names, [report], [path], name="tiny")


@pytest.fixture
def folder(release, tmp_path):
    return hub.write_folder(release, tmp_path / "out", repository="owner/tiny").folder


@pytest.fixture(params=["lfs", "pipeline"])
def server(request, tmp_path, monkeypatch):
    """The small Hub as the client's endpoint, logged in as its owner, with a cache of its own.

    lfs: as without xet, weights by LFS. pipeline: the way of an installed xet, all files small enough to go without it.
    """
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))  # xet's own, which it reads when it is imported
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    if request.param == "pipeline":
        pytest.importorskip("hf_xet", reason="this huggingface_hub has another way of uploading")
    with serving() as server:
        server.large = (".safetensors", ".onnx") if request.param == "lfs" else (" ",)
        places = {"HF_HUB_CACHE": tmp_path / "cache", "HF_TOKEN_PATH": tmp_path / "token", "HF_HOME": tmp_path / "home"}
        for name, value in places.items():
            monkeypatch.setattr(constants, name, str(value))
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs", raising=False)
        monkeypatch.setenv("HF_TOKEN", "owner-token")
        yield server


def images(n=3):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_there_and_back_bit_by_bit(server, folder, release):
    name = hub.push(folder, "owner/tiny")
    (_, (sha, files)) = server.commits("owner/tiny")
    assert name == f"hf:owner/tiny@{sha}"
    files.pop(".gitattributes")
    assert files == {p.name: p.read_bytes() for p in folder.iterdir()}
    for source in (name, "hf:owner/tiny", "hf:owner/tiny@main"):
        net = models.load(source)
        assert models.hash_of(net) == models.hash_of(release.net)
        assert torch.equal(net(images()), release.net(images()))
        assert net.built_as == {"name": name}, "the commit is recorded, for any revision"
    del server.repositories["owner/tiny"]
    assert models.hash_of(models.load(name)) == models.hash_of(release.net), "a commit in the cache needs no network"


def test_the_card_on_the_hub_runs_as_it_stands(server, folder):
    hub.push(folder, "owner/tiny")
    text = (folder / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert 'ardor.models.load("hf:owner/tiny")' in blocks[0]
    assert 'hf_hub_download("owner/tiny", "best.onnx")' in blocks[1]
    names = {}
    for block in blocks:
        exec(compile(block, "card", "exec"), names)
    assert names["logits"].shape == (1, 10)


def test_a_second_release_takes_the_first_ones_files_away(server, folder, release, tmp_path):
    first = hub.push(folder, "owner/tiny")
    assert hub.push(folder, "owner/tiny") == first, "nothing changed, no commit"
    other = models.build("small_cnn", channels=1, width=4, mean=[0.3], std=[0.4], seed=4).eval()
    new = hub.write_folder(replace(release, net=other), tmp_path / "new", force=True)
    assert [word.split(":")[0] for word in new.left_out] == ["best.onnx", "the report of small_cnn, suite quick"]
    second = hub.push(new.folder, "owner/tiny")
    assert len(server.commits("owner/tiny")) == 3
    files = server.commits("owner/tiny")[-1][1]
    assert files.keys() - {".gitattributes"} == {p.name for p in new.folder.iterdir()}
    assert "best.onnx" not in files, "it was of other weights"
    assert models.hash_of(models.load("hf:owner/tiny")) == models.hash_of(other)
    assert models.hash_of(models.load(first)) == models.hash_of(release.net)
    assert first != second


def test_other_content_is_not_overwritten(server, folder):
    server.add("owner/theirs", {".gitattributes": b"", "config.json": b"{}", "pytorch_model.bin": b"x"})
    with pytest.raises(RunError, match=r"or a release of ardor, got owner/theirs with config\.json, pytorch_model"):
        hub.push(folder, "owner/theirs")
    assert len(server.commits("owner/theirs")) == 1
    server.add("owner/begun", {".gitattributes": b"", "README.md": b"---\nlicense: mit\n---\n"})
    assert hub.push(folder, "owner/begun")


def test_a_private_repository_is_private(server, folder, monkeypatch):
    server.add("owner/open", {".gitattributes": b""})
    with pytest.raises(RunError, match="expected a private repository, got owner/open, which is public"):
        hub.push(folder, "owner/open", private=True)
    assert len(server.commits("owner/open")) == 1
    assert hub.push(folder, "owner/tiny", private=True)
    assert server.private["owner/tiny"]
    assert not server.private["owner/open"]
    monkeypatch.setenv("HF_TOKEN", "nobody")
    with pytest.raises(ConfigError, match="owner/tiny, which is not there, or is not open: check owner and name, and"):
        models.load("hf:owner/tiny")


@pytest.mark.parametrize(
    ("token", "repository", "error", "word"),
    [
        ("nobody", "owner/tiny", ConfigError, "a login of the Hub for owner/tiny.*type hf auth login; the folder"),
        ("reader-token", "owner/tiny", RunError, "may write to owner/tiny.*of the role write"),
        ("owner-token", "somebody/tiny", RunError, "may write to somebody/tiny"),
        ("owner-token", "tiny", ConfigError, "OWNER/NAME"),
    ],
)
def test_a_login_that_may_not_write_is_refused_with_advice(server, folder, monkeypatch, token, repository, error, word):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(error, match=word) as caught:
        hub.push(folder, repository)
    assert "\n" not in str(caught.value)
    assert token not in str(caught.value)
    assert not server.repositories


def test_no_network(server, folder, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match=r"the Hub to accept owner/tiny, got \w+: .*check the net") as caught:
        hub.push(folder, "owner/tiny")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match="got OfflineModeIsEnabled"):
        hub.push(folder, "owner/tiny")


def test_a_folder_that_was_changed_is_not_uploaded(server, folder, tmp_path):
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("%", "% (or more)"))
    with pytest.raises(RunError, match=r"in which README\.md changed since"):
        hub.push(folder, "owner/tiny")
    with pytest.raises(RunError, match="which is not there"):
        hub.push(tmp_path / "none", "owner/tiny")
    assert not server.repositories


def test_a_repository_of_two_nets_is_refused(server, folder, tmp_path):
    hub.push(folder, "owner/tiny")
    files = dict(server.commits("owner/tiny")[-1][1])
    save_file(models.build("small_cnn", channels=1, width=4, mean=[0.3], std=[0.4]).state_dict(), tmp_path / "w")
    server.add("owner/tiny", files | {"model.safetensors": (tmp_path / "w").read_bytes()})
    with pytest.raises(CheckpointError, match="expected in hf:owner/tiny the weights"):
        models.load("hf:owner/tiny")


def test_no_huggingface_hub(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r'huggingface_hub for hf:owner/tiny, .*pip install "ardor\[hub\]"'):
        hub.push(folder, "owner/tiny")


# the shell


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trained") / "sat")


@pytest.mark.parametrize("server", ["lfs"], indirect=True)
def test_the_shell_writes_and_uploads(server, run, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["push", str(run), "owner/sat", "--out", str(out)]
    assert main(words) == 2
    assert "ardor evaluate RUN first, or --force" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--suite", "quick", "--limit", "20"]) == 0
    (tmp_path / "about.md").write_text("For a *course*.")
    more = ["--license", "mit", "--about", str(tmp_path / "about.md")]
    assert main([*words, *more, "--dry-run"]) == 0
    assert "not uploaded" in capsys.readouterr().out
    assert not server.repositories
    assert main([*words, *more, "--private"]) == 0
    shown = capsys.readouterr().out
    (name,) = re.findall(r'ardor\.models\.load\("(hf:owner/sat@\w{40})"\)', shown)
    assert server.private["owner/sat"]
    assert models.hash_of(models.load(name)) == models.hash_of(models.load(run))
    assert "license: mit" in (out / "README.md").read_text()
    assert "For a *course*." in (out / "README.md").read_text()
    assert main(["push", str(run), "--checkpoint", "last", "--force"]) == 0
    assert "ardor push" in capsys.readouterr().out
    config = json.loads((run / "hub-last" / "config.json").read_text())
    assert config["weights"] == models.hash_of(models.load(run, checkpoint="last"))


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["none"], "expected a run folder"),
        (["RUN", "sat"], "expected a repository as OWNER/NAME"),
        (["RUN", "owner/sat", "--about", "none.md"], "expected a file with Markdown, got none.md"),
        (["RUN", "--out", "RUN"], "got RUN without SHA256SUMS: type --out NEW"),
        (["RUN", "--license", "My own"], "as the Hub names it"),
    ],
)
def test_the_shell_refuses_in_one_sentence(run, capsys, words, word):
    before = {p: p.read_bytes() for p in run.iterdir() if p.is_file()}
    assert main(["push", *(str(run) if w == "RUN" else w for w in words), "--force"]) == 2
    error = capsys.readouterr().err
    assert word.replace("RUN", str(run)) in error
    assert error.count("\n") == 1
    assert {p: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


def test_a_folder_of_the_hub_is_no_run(folder, capsys):
    assert main(["push", str(folder)]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err


def test_the_tests_hub_is_not_the_real_one(server):
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", client.HfApi().endpoint)
    assert not Path(constants.HF_TOKEN_PATH).exists()
