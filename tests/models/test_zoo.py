"""ardor: names, on folders of nets that stand for the package's own."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from ardor import models
from ardor.errors import CheckpointError, ConfigError, ModelError
from ardor.models import zoo
from ardor.storage.sums import write_sums
from ardor.storage.trust import require_no_code
from tests.models.conftest import refused


def put(folder, config=None, half=True):
    """A net as the package has it, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    net = models.build("small_cnn", width=4, classes=7, mean=[0.5], std=[0.25], seed=4)
    state = {k: v.half().float() if half and v.is_floating_point() else v for k, v in net.state_dict().items()}
    net.load_state_dict(state)
    ours = {k: v for k, v in net.built_as.items() if k != "seed"}
    content = {"ardor": ours, "weights": models.hash_of(net)} if config is None else config
    (folder / "config.json").write_text(json.dumps(content))
    kept = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    save_file(kept, folder / "model.safetensors")
    write_sums(folder)
    return net.eval()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The folder that stands for the package's, with one net, `tiny-sat`."""
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path / "shipped")
    put(zoo.SHIPPED / "tiny-sat")
    return zoo.SHIPPED


def test_a_net_of_the_package_loads_by_name(shelf):
    expected, net = put(shelf / "tiny-sat"), models.load("ardor:tiny-sat")
    assert models.hash_of(net) == models.hash_of(expected)
    assert net.built_as == {"name": "ardor:tiny-sat"}
    assert net.loaded_from is None
    assert not net.training


def test_weights_in_half_precision_are_computed_with_in_float32(shelf):
    kept = load_file(shelf / "tiny-sat" / "model.safetensors")
    net = models.load("ardor:tiny-sat")
    assert {v.dtype for v in kept.values() if v.is_floating_point()} == {torch.float16}
    assert {v.dtype for v in net.state_dict().values() if v.is_floating_point()} == {torch.float32}
    assert net(torch.rand(2, 1, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize("name", ["ardor:tiny_sat", "ardor:TINY-SAT", "ardor:tiny-rslad"])
def test_a_wrong_name_is_answered_by_the_nearest(shelf, name):
    with refused(ConfigError, rf'got "{name}" \(did you mean "ardor:tiny-sat"\?\): type ardor:tiny-sat'):
        models.load(name)


@pytest.mark.parametrize("name", ["ardor:", "ardor:../x", "ardor:/etc", "ardor:.", "ardor:tiny-sat/", "ardor:x:y"])
def test_a_name_is_no_path(shelf, name):
    put(shelf.parent / "x")
    with refused(ConfigError, "a net of the package"):
        models.load(name)


def test_a_package_without_nets_has_a_message(shelf, monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path / "none")
    with refused(ConfigError, "another name, for it has none"):
        models.load("ardor:tiny-sat")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_an_altered_file_is_refused_by_its_hash(shelf, file):
    path = shelf / "tiny-sat" / file
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with refused(CheckpointError, "with the SHA-256", "altered or damaged; install the package again"):
        models.load("ardor:tiny-sat")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "SHA256SUMS"])
def test_a_missing_file_is_refused(shelf, file):
    (shelf / "tiny-sat" / file).unlink()
    with refused(CheckpointError, "got No such file or directory for", file):
        models.load("ardor:tiny-sat")


def test_a_file_without_a_recorded_hash_is_refused(shelf):
    (shelf / "tiny-sat" / "SHA256SUMS").write_text("")
    with refused(CheckpointError, "with the SHA-256 none"):
        models.load("ardor:tiny-sat")


def test_weights_of_another_net_are_refused_though_the_sums_are_right(shelf):
    folder = shelf / "tiny-sat"
    state = load_file(folder / "model.safetensors")
    save_file({k: v * 2 if v.is_floating_point() else v for k, v in state.items()}, folder / "model.safetensors")
    write_sums(folder)
    with refused(CheckpointError, "the weights"):
        models.load("ardor:tiny-sat")


@pytest.mark.parametrize("name", ["evil.py:Net", "os:system", "hf:a/b", "ardor:tiny-sat", "./x", None, 3])
def test_no_code_and_no_other_source_is_named_by_a_config(shelf, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    put(shelf / "tiny-sat", {"ardor": {"name": name}})
    with refused(CheckpointError, "to name a builder"):
        models.load("ardor:tiny-sat")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"ardor": {"name": "small_cnn", "width": NaN}}',
        '{"ardor": ' + "[" * 99 + "]" * 99 + "}",
        '{"ardor": {"name": "small_cnn"}, "ardor": {"name": "resnet18"}}',
        '{"ardor": {"name": "small_cnn", "width": 1e9}}',
        '{"ardor": {"name": "wide_resnet", "depth": 28, "width": 1000}}',
        '{"ardor": {"name": "small_cnn", "trust_code": 1}}',
    ],
)
def test_a_damaged_config_is_refused(shelf, text):
    (shelf / "tiny-sat" / "config.json").write_text(text)
    write_sums(shelf / "tiny-sat")
    with refused(CheckpointError):
        models.load("ardor:tiny-sat")


def test_a_config_of_any_size_is_not_read(shelf, monkeypatch):
    from ardor.storage import reading

    monkeypatch.setitem(reading.LARGEST, "JSON", 10)
    with refused(CheckpointError, "of at most 10 bytes"):
        models.load("ardor:tiny-sat")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_link_to_other_weights_is_refused(shelf):
    put(shelf / "other", half=False)
    file = shelf / "tiny-sat" / "model.safetensors"
    file.unlink()
    file.symlink_to(shelf / "other" / "model.safetensors")
    with refused(CheckpointError, "altered or damaged"):
        models.load("ardor:tiny-sat")


@pytest.mark.parametrize(
    ("options", "text"),
    [({"width": 8}, "no options"), ({"weights": "w.pt"}, "brings its own"), ({"state": "x"}, "which has one"),
     ({"classes": 10}, "a net of 10 classes")],
)  # fmt: skip
def test_it_takes_no_options(shelf, options, text):
    with refused((ConfigError, ModelError), text):
        models.load("ardor:tiny-sat", **options)


def test_the_name_is_no_code(shelf):
    require_no_code({"teacher": {"name": "ardor:tiny-sat"}, "note": "ardor:tiny"}, "config.yaml")
    with refused(ConfigError, r'got a trained one, ardor:tiny-sat: call ardor.models.load\("ardor:tiny-sat"\)'):
        models.build("ardor:tiny-sat")


def test_the_training_of_a_net_names_data_and_no_code(shelf):
    net = {"name": "small_cnn", "width": 4, "classes": 7}
    put(shelf / "tiny-sat", {"ardor": net, "training": {"data": {"name": "digits"}}})
    assert zoo.training_of("ardor:tiny-sat") == {"data": {"name": "digits"}}
    put(shelf / "tiny-sat", {"ardor": net, "training": {"data": {"name": "evil.py:Data"}}})
    with refused(ConfigError, "names of ardor in a file", "evil.py:Data"):
        zoo.training_of("ardor:tiny-sat")
    put(shelf / "tiny-sat", {"ardor": net})
    assert zoo.training_of("ardor:tiny-sat") == {}


def test_what_the_package_has_loads_and_stays_small():
    """The real ones; all weights together are at most 6 MB, and with cards and verdicts 6 MiB."""
    for name in zoo.shipped():
        assert models.load(f"ardor:{name}").built_as == {"name": f"ardor:{name}"}
    files = [path for path in zoo.SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= 6e6
    assert sum(path.stat().st_size for path in files) <= 6 * 2**20
