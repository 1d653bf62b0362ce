"""Weights from files: all of them or none, and never a line of code from the file."""

import importlib.util
import json
import os
import pickle
import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ardor import models
from ardor.errors import CheckpointError
from tests.conftest import SHARED
from tests.models.conftest import refused

# --- weights ---


@pytest.fixture
def net():
    return models.build("small_cnn", width=4, seed=1)


@pytest.fixture
def other():
    """A net like `net` with other weights, to load into."""
    return models.build("small_cnn", width=4, seed=2)


def save(path, content):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return path


@pytest.mark.parametrize("ending", ["safetensors", "pt", "pth", "tar", "model", "ckpt"])
def test_weights_survive_the_file(net, other, tmp_path, ending):
    models.load_weights(other, save(tmp_path / f"w.{ending}", net.state_dict()))
    assert models.hash_of(other) == models.hash_of(net)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "model.module.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model", "net"])
def test_wrappers_and_prefixes(net, other, tmp_path, prefix, wrapper):
    state = {prefix + name: value for name, value in net.state_dict().items()}
    content = {"epoch": 3, wrapper: state, "optimizer": {"lr": 0.1}} if wrapper else state
    models.load_weights(other, save(tmp_path / "w.pt", content))
    assert models.hash_of(other) == models.hash_of(net)


def test_old_files(net, other, tmp_path):
    state = {k: nn.Parameter(v) for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    models.load_weights(other, tmp_path / "old.pt")
    assert models.hash_of(other) == models.hash_of(net)
    assert all(p.requires_grad for p in other.parameters())


def test_a_part_called_model_keeps_its_name(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Linear(2, 2)

    net, other = Wrapped(), Wrapped()
    models.load_weights(other, save(tmp_path / "w.pt", {f"module.{k}": v for k, v in net.state_dict().items()}))
    assert models.hash_of(other) == models.hash_of(net)


def test_half_precision_fills_and_integers_do_not(net, other, tmp_path):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    models.load_weights(other, save(tmp_path / "half.pt", halves))
    assert other.linear.weight.dtype == torch.float32
    torch.testing.assert_close(other.linear.weight, net.linear.weight, rtol=1e-3, atol=1e-3)
    with refused(CheckpointError, "kind", "int8"):
        models.load_weights(
            other, save(tmp_path / "int8.pt", {**halves, "linear.weight": halves["linear.weight"].to(torch.int8)})
        )


def test_a_mean_in_the_file_must_be_the_nets(tmp_path, net, other):
    state = {f"module.model.{k}": v for k, v in net.state_dict().items()}
    statistics = {"normalize.mean": torch.tensor([0.5]), "normalize.std": torch.tensor([0.25])}
    file = save(tmp_path / "w.pt", {**statistics, **state})
    same = models.build("small_cnn", width=4, mean=[0.5], std=[0.25])
    models.load_weights(same, file)
    assert torch.equal(same.linear.weight, net.linear.weight)
    for wrong in (other, models.build("small_cnn", width=4, mean=[0.5], std=[0.3])):
        before = models.hash_of(wrong)
        with refused(CheckpointError, "normalise", "pass (mean|std)=0"):
            models.load_weights(wrong, file)
        assert models.hash_of(wrong) == before


class Bomb:
    """Unpickling this runs a command that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def spoiled(kind, folder, state):
    """A file that must be refused, as its path."""
    folder.mkdir(exist_ok=True)
    whole = save(folder / "whole.pt", state).read_bytes()
    tensors = save(folder / "whole.safetensors", state).read_bytes()
    page = b"<!DOCTYPE html><html><body>Quota exceeded</body></html>" * 20
    itself = {}
    itself["model"] = itself
    first = next(iter(state))
    contents = {
        "truncated.pt": whole[: len(whole) // 2],
        "nearly.pt": whole[:-30],
        "truncated.safetensors": tensors[: len(tensors) // 2],
        "header.safetensors": tensors[:20],
        "empty.pt": b"",
        "empty.safetensors": b"",
        "page.pt": page,
        "page.safetensors": page,
        "pointer.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "noise.pt": bytes(range(200, 256)) * 9,
        "noise.safetensors": bytes(range(200, 256)) * 9,
        "zip.safetensors": whole,
        "list.pt": [1, 2],
        "nothing.pt": {},
        "itself.pt": itself,
        "nested.pt": {"ema": state, "epoch": 1},
        "numbers.pt": {**state, "epoch": 3},
        "sparse.pt": {**state, first: torch.eye(3).to_sparse()},
        "nan.pt": {**state, "linear.weight": state["linear.weight"] * float("nan")},
        "inf.safetensors": {**state, "linear.bias": state["linear.bias"] / 0},
        "missing.pt": {k: v for k, v in state.items() if k != "linear.bias"},
        "left_over.pt": {**state, "extra.weight": torch.zeros(1)},
        "two_nets.pt": {**state, **{f"module.{k}": v for k, v in state.items()}},
        "half_prefixed.pt": {("module." if k == first else "") + k: v for k, v in state.items()},
        "classes.pt": {**state, "linear.weight": torch.zeros(100, 16), "linear.bias": torch.zeros(100)},
        "channels.pt": {**state, first: torch.zeros(4, 3, 3, 3)},
    }
    content, path = contents[kind], folder / kind
    path.write_bytes(content) if isinstance(content, bytes) else save(path, content)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated.pt", ["truncated", "download it again"]),
        ("nearly.pt", ["truncated", "download it again"]),
        ("truncated.safetensors", ["truncated", "download it again"]),
        ("header.safetensors", ["truncated", "download it again"]),
        ("empty.pt", ["empty"]),
        ("empty.safetensors", ["empty"]),
        ("page.pt", ["<!DOCTYPE", "web page"]),
        ("page.safetensors", ["<!DOCTYPE", "web page"]),
        ("pointer.pt", ["git lfs pull"]),
        ("noise.pt", ["something else"]),
        ("noise.safetensors", ["of another kind"]),
        ("zip.safetensors", ["of another kind"]),
        ("list.pt", ["state dict", "got list", "net.state_dict"]),
        ("nothing.pt", ["an empty dict"]),
        ("itself.pt", ["state dict", "model"]),
        ("nested.pt", ["no plain tensors", "ema, epoch"]),
        ("numbers.pt", ["no plain tensors", "epoch"]),
        ("sparse.pt", ["no plain tensors"]),
        ("nan.pt", ["NaN", "linear.weight", "diverged"]),
        ("inf.safetensors", ["infinity", "linear.bias"]),
        ("missing.pt", ["small_cnn", "1 names missing", "linear.bias"]),
        ("left_over.pt", ["1 left over", "extra.weight"]),
        ("two_nets.pt", ["26 left over", "module.layers", "..."]),
        ("half_prefixed.pt", ["1 names missing", "1 left over"]),
        (
            "classes.pt",
            [
                "2 of another shape",
                r"\(100, 16\) in the file, \(10, 16\)",
                "for 100 classes and the net for 10",
                "pass classes=100",
            ],
        ),
        ("channels.pt", ["1 of another shape", "pass channels=3"]),
        ("not_there.pt", ["not there"]),
        (".", ["folder"]),
    ],
)
def test_a_bad_file_is_refused_and_the_net_is_as_it_was(net, other, tmp_path, kind, words):
    made = kind not in ("not_there.pt", ".")
    path = spoiled(kind, tmp_path / "files", net.state_dict()) if made else tmp_path / kind
    before = models.hash_of(other)
    with refused(CheckpointError, *words) as caught:
        models.load_weights(other, path)
    assert models.hash_of(other) == before
    assert "expected" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("how", ["zip", "legacy", "protocol 0", "protocol 5", "beside weights"])
def test_pickled_code_never_runs(net, other, tmp_path, how, ending):
    harm, path = tmp_path / "harm", tmp_path / f"bomb.{ending}"
    if how.startswith("protocol"):
        path.write_bytes(pickle.dumps(Bomb(harm), protocol=int(how[-1])))
    else:
        content = {**net.state_dict(), "best": Bomb(harm)} if how == "beside weights" else {"state_dict": Bomb(harm)}
        torch.save(content, path, _use_new_zipfile_serialization=how != "legacy")
    before = models.hash_of(other)
    with refused(CheckpointError, "got") as caught:
        models.load_weights(other, path)
    assert not harm.exists()
    assert models.hash_of(other) == before
    if ending == "pt" and how in ("zip", "legacy", "beside weights"):
        assert "mkdir" in str(caught.value)
        assert "not run" in str(caught.value)


def test_the_bomb_is_live(tmp_path):
    """Otherwise the test above would prove nothing."""
    torch.save(Bomb(tmp_path / "harm"), tmp_path / "bomb.pt")
    torch.load(tmp_path / "bomb.pt", weights_only=False)
    assert (tmp_path / "harm").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_whole_pickled_net_and_torchscript_are_refused(other, tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "net.pt")
    with refused(CheckpointError, "Linear", "not run", "safetensors"):
        models.load_weights(other, tmp_path / "net.pt")
    torch.jit.save(torch.jit.trace(other.eval(), torch.rand(1, 1, 8, 8)), tmp_path / "script.pt")
    with refused(CheckpointError, "not run", "safetensors"):
        models.load_weights(other, tmp_path / "script.pt")


def test_trades_sub_block(tmp_path):
    small = {"depth": 10, "width": 1}
    with_it = models.build("wide_resnet", sub_block1=True, **small)
    without = models.build("wide_resnet", **small)
    file = save(tmp_path / "trades.pt", with_it.state_dict())
    with refused(CheckpointError, "left over", "sub_block1=True"):
        models.load_weights(without, file)
    with refused(CheckpointError, "missing", "sub_block1=False"):
        models.load_weights(with_it, save(tmp_path / "without.pt", without.state_dict()))
    assert models.load("wide_resnet", weights=file, sub_block1=True, **small).sub_block1 is not None


def test_another_width_is_named(net, tmp_path):
    wide = models.build("small_cnn", width=5)
    with refused(CheckpointError, "of another shape", r"\.\.\.", "pass width="):
        models.load_weights(wide, save(tmp_path / "w.pt", net.state_dict()))


def test_hash_of_sees_every_part(net):
    first = models.hash_of(net)
    assert first == models.hash_of(net)
    assert len(first) == 16
    with torch.no_grad():
        net.layers[0][1].running_var[0] += 1e-6
    assert models.hash_of(net) != first
    assert models.hash_of(nn.Linear(2, 2).bfloat16())
    first, second = nn.Linear(6, 1), nn.Linear(6, 1)
    second.load_state_dict(first.state_dict())
    assert models.hash_of(first) == models.hash_of(second)
    second.weight = nn.Parameter(second.weight.detach().reshape(1, 6).half().float())
    assert models.hash_of(first) != models.hash_of(second)


def test_hash_of_tells_shapes_names_and_normalisation_apart():
    def hashed(**state):
        net = nn.Module()
        for name, value in state.items():
            net.register_buffer(name, value)
        return models.hash_of(net)

    zeros = torch.zeros(6)
    hashes = [hashed(a=zeros), hashed(b=zeros), hashed(a=zeros.reshape(2, 3)), hashed(a=zeros.int())]
    hashes += [models.hash_of(models.build("small_cnn", mean=[m], std=[1.0])) for m in (0.0, 0.5)]
    assert len(set(hashes)) == len(hashes)


# --- published checkpoints ---

PUBLISHED = {
    "mnist_trades_smallcnn": ("SmallCNN", {}),
    "mnist_deeprobust_pgd": ("LeNet20_50", {}),
    "cifar10_resnet2b_adv2": ("PlainResNet", {"width": 8, "stages": 1, "flat": 1024}),
    "cifar10_cnn_a_adv4": ("conv2", {"cin": 3, "side": 8}),
}


def all_test_images(pack):
    """The 10,000 test images as float NCHW in [0, 1], and their labels."""
    spec = importlib.util.spec_from_file_location("packs_of_test_images", SHARED / "data" / "packs.py")
    packs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(packs)
    arrays = packs.read(SHARED / "data" / pack)
    images = torch.from_numpy(arrays["x_test"])
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images.float() / 255, torch.from_numpy(arrays["y_test"])


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the published checkpoints are not beside the repository")
@pytest.mark.parametrize(("data", "pack"), [("MNIST", "mnist.pack.zip"), ("CIFAR-10", "cifar10_test.pack.zip")])
def test_published_nets_reach_their_published_accuracy(data, pack, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    index = json.loads((SHARED / "checkpoints" / "index.json").read_text())
    archs = shutil.copy(SHARED / "checkpoints" / "archs.py", tmp_path)
    x, y = all_test_images(pack)
    for name in [name for name in PUBLISHED if index[name]["data"] == data]:
        arch, options = PUBLISHED[name]
        net = models.load(f"{archs}:{arch}", weights=SHARED / "checkpoints" / f"{name}.safetensors", **options)
        mean, std = (torch.tensor(index[name][key])[:, None, None] for key in ("mean", "std"))
        with torch.no_grad():
            answers = torch.cat([net((images - mean) / std).argmax(1) for images in x.split(100)])
        assert (answers == y).double().mean().item() == index[name]["clean_10000"], name
