"""Files of weights: changed bytes, other pickles and endings, and what a small file may not unfold to."""

import argparse
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ardor import models
from ardor.errors import ArdorError, CheckpointError, ConfigError
from ardor.models.reading import read
from ardor.storage.tensors import read_tensors, write_tensors

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(())}


def test_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, STATE, {"epoch": "1"})
    assert read_tensors(path)[1]["epoch"] == "1"
    content = path.read_bytes()
    for place in range(len(content) - 28, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match="as it was written, got other bytes"):
            read(path)
    for metadata in (None, {"sum": "none"}):  # of earlier versions and third parties
        save_file(STATE, path, metadata)
        assert read(path).keys() == STATE.keys()


@pytest.mark.parametrize("name", ["w.SAFETENSORS", "w.Safetensors", "w.bin", "w", "w.pt"])
def test_safetensors_by_their_first_bytes(tmp_path, name):
    save_file(STATE, tmp_path / name)
    assert torch.equal(read(tmp_path / name)["a"], STATE["a"])
    net = models.build("small_cnn", width=4)
    write_tensors(tmp_path / name, net.state_dict(), {"net": '{"name": "small_cnn", "width": 4}'})
    assert models.hash_of(models.load(tmp_path / name)) == models.hash_of(net)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols_of_pickle_are_named(tmp_path, protocol):
    for old in (True, False):
        torch.save(STATE, tmp_path / "w.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=not old)
        try:
            assert torch.equal(read(tmp_path / "w.pt")["a"], STATE["a"])
        except CheckpointError as error:
            text = str(error)
        else:
            continue
        assert f"protocol {protocol}" in text
        assert "again by torch.save" in text


def test_numbers_of_numpy_and_options_beside_the_weights(tmp_path):
    beside = {"best": np.float64(0.5), "epoch": np.int64(3), "x": np.float32(1), "args": argparse.Namespace(lr=0.1)}
    for old in (True, False):
        torch.save({"state_dict": STATE, **beside}, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
        assert torch.equal(read(tmp_path / "w.pt")["a"], STATE["a"])


def test_small_files_of_much_memory_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"no plain tensors \(a\)"):
        read(tmp_path / "w.pt")
    torch.save({"a": torch.zeros(1 << 23)}, tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as old,
        zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match="compressed"):
        read(tmp_path / "z.pt")
    for net, words in {
        '{"name": "wide_resnet", "width": 1000}': "parameters|values",
        '{"name": "wide_resnet", "depth": 600004}': "depth of wide_resnet as a whole number of at most",
        '{"name": "small_cnn", "classes": 30000000}': "classes of small_cnn",
        '{"name": "wide_resnet", "width": 10, "depth": 34}': "values",
    }.items():
        write_tensors(tmp_path / "n.safetensors", STATE, {"net": net})
        with pytest.raises(ArdorError, match=words):
            models.load(tmp_path / "n.safetensors")


def test_an_average_beside_the_weights_is_named(tmp_path, caplog):
    torch.save({"state_dict": STATE, "state_dict_ema": {"a": -STATE["a"]}, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    assert torch.equal(read(tmp_path / "w.pt")["a"], STATE["a"])
    assert "state_dict is taken, not state_dict_ema beside it: type --model.state state_dict_ema" in caplog.text


def test_an_average_beside_the_weights_is_loaded_by_its_key(tmp_path):
    file, net = tmp_path / "w.pt", models.build("small_cnn", width=2)
    average = {name: value * 2 for name, value in net.state_dict().items()}
    torch.save({"model": net.state_dict(), "ema": {"module": average, "steps": 3}, "optimizer": {"state": {}}}, file)
    loaded = models.load("small_cnn", weights=file, state="ema", width=2)
    assert all(torch.equal(value, average[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(CheckpointError, match=r'"swa" in .*w\.pt, got model, ema'):
        models.load("small_cnn", weights=file, state="swa", width=2)
    with pytest.raises(ConfigError, match="expected weights for the state ema"):
        models.load("small_cnn", state="ema", width=2)


def test_an_averaged_model_and_arrays_beside_weights_are_read(tmp_path):
    net = models.build("small_cnn", width=2)
    averaged = torch.optim.swa_utils.AveragedModel(net)
    torch.save({"model": averaged.state_dict(), "history": np.zeros((2, 3))}, tmp_path / "w.pt")
    loaded = models.load("small_cnn", weights=tmp_path / "w.pt", width=2)
    assert models.hash_of(loaded) == models.hash_of(net)


def test_names_in_a_file_are_cut_and_without_control_characters(tmp_path):
    torch.save({"\x1b[31m\n" + "x" * 10**6: torch.ones(1)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError) as refused:
        models.load("small_cnn", weights=tmp_path / "w.pt", width=2)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1500
