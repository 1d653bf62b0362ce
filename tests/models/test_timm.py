"""timm: names, with the real timm and without a network."""

import json
import re

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

import ardor
from ardor import attacks, methods, models
from ardor.cli.main import main
from ardor.deployment.hub import Release, write_folder
from ardor.errors import CheckpointError, ConfigError, ModelError
from ardor.models import KNOWN
from ardor.models.loading import net_for
from ardor.models.timm_nets import Timm
from ardor.storage.config import describe
from tests.conftest import bits, same, splits
from tests.models.conftest import refused
from tests.with_timm import OPERATORS

timm = pytest.importorskip("timm")
COMMIT = "0123456789abcdef0123456789abcdef01234567"

NAMES = (
    "mobilenetv3_small_050",
    "efficientnet_b0",
    "convnext_atto",
    "resnet18",
    "mobilenetv4_conv_small",
    "repvit_m0_9",
    "regnety_002",
    "vit_tiny_patch16_224",
    "xcit_nano_12_p16_224",
    "edgenext_xx_small",
    "resnet50_gn",
    "swin_tiny_patch4_window7_224",
)
SHALLOW = {"resnet50_gn": {"layers": [1, 1, 1, 1]}, "swin_tiny_patch4_window7_224": {"depths": [1, 1, 1, 1]}}


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch):
    """The Hub's client with a cache of its own, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def cached(cache, name, net):
    """The weights of a net as the Hub's client keeps them."""
    folder = cache / f"models--timm--{name}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    place = folder / "snapshots" / COMMIT
    place.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in net.net.state_dict().items()}, place / "model.safetensors")


def colour(n=16, val=8, classes=7, size=32):
    """Colour images in `classes` classes."""
    train, val = splits(n, val, classes)
    return tuple(
        ardor.data.Split(part.images.repeat(1, 3, size // 8, size // 8), part.labels, classes, "made", "train")
        for part in (train, val)
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_net_of_timm_is_a_student_and_is_evaluated(name):
    train, val = colour(8, 8)
    before, numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    net = net_for("student", {"name": f"timm:{name}", "seed": 3, **SHALLOW.get(name, {})}, train, fresh=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy).all()
    net.eval()
    x = val.batch(torch.arange(4))[0]
    logits = net(x)
    assert logits.shape == (4, 7)
    assert torch.equal(net.head(net.features(x)), logits)
    assert describe(net)["mean"] == pytest.approx(timm.get_pretrained_cfg(name).mean)
    again = models.build(**describe(net)).eval()
    assert same(bits(again), bits(net))
    assert torch.equal(again(x), logits)

    teacher = models.build("small_cnn", classes=7, channels=3, width=2).eval()
    inner = attacks.PGD(ardor.Linf(8 / 255), steps=1)
    recipe = ardor.Recipe(epochs=1, batch=8, lr=0.01, val_attack=inner)
    (record,) = ardor.epochs(net, teacher, methods.RSLAD(attack=inner), train, recipe, val=val)
    assert not same(bits(again), bits(net))
    assert record.loss > 0
    report = ardor.evaluate(net, val, attacks.Suite("short", inner.threat, {"pgd": inner}))
    assert report.n == 8


def test_a_run_loads_without_weights_of_timm(tmp_path, hub):
    train, val = colour(8, 8)
    base = models.build("timm:mobilenetv3_small_050", classes=1000, seed=5)
    cached(hub, "mobilenetv3_small_050.lamb_in1k", base)
    config = {"name": "timm:mobilenetv3_small_050", "pretrained": True, "drop_path": 0.1}
    student = net_for("student", config, train, fresh=True)
    trunk = {k: v for k, v in bits(student.net).items() if not k.startswith("classifier")}
    assert all(torch.equal(v, bits(base.net)[k]) for k, v in trunk.items())
    assert student.start == {
        "weights": "timm/mobilenetv3_small_050.lamb_in1k",
        "licence": "apache-2.0",
        "head": "new, 7 classes for 1000",
    }
    seeded = models.build(**describe(student))
    assert same(bits(seeded), bits(student))

    inner = attacks.PGD(ardor.Linf(8 / 255), steps=1)
    recipe = ardor.Recipe(epochs=1, batch=8, val_attack=inner)
    run = tmp_path / "run"
    list(ardor.epochs(student, None, methods.SAT(attack=inner), train, recipe, val=val, run=run))
    content = yaml.safe_load((run / "config.yaml").read_text())
    assert content["fingerprint"]["start"] == student.start
    (hub / "models--timm--mobilenetv3_small_050.lamb_in1k" / "refs" / "main").unlink()
    for place in (run, run / "last.safetensors"):
        loaded = models.load(place, **({"checkpoint": "last"} if place == run else {}))
        assert models.hash_of(loaded) == models.hash_of(student)
        assert "pretrained" not in loaded.built_as
    with safe_open(run / "last.safetensors", "pt") as file:
        assert json.loads(file.metadata()["net"])["name"] == "timm:mobilenetv3_small_050"
    identity = models.identity.identity(student, train.shape)
    assert models.identity.same_function(models.identity.identity(loaded, train.shape), identity)

    release = Release(loaded, train.shape, tuple("abcdefg"), training=content)
    write_folder(release, tmp_path / "hub", force=True)
    card = (tmp_path / "hub" / "README.md").read_text()
    line = next(line for line in card.splitlines() if line.startswith("- started from"))
    assert line.replace("\\", "") == "- started from: timm/mobilenetv3_small_050.lamb_in1k, licence apache-2.0"
    assert models.hash_of(models.load(tmp_path / "hub")) == models.hash_of(student)


def test_a_teacher_of_timm_has_timms_classes(hub):
    base = models.build("timm:resnet18", classes=1000, seed=5)
    cached(hub, "resnet18.a1_in1k", base)
    net = models.load("timm:resnet18")
    assert isinstance(net, Timm)
    assert not net.training
    assert same(bits(net), bits(base))
    assert net.normalise.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert same(bits(models.load(**net.built_as)), bits(net))
    assert net.start == {"weights": "timm/resnet18.a1_in1k", "licence": "apache-2.0"}
    with refused(ModelError, "7 classes", "which has 1000", "weights"):
        models.load("timm:resnet18", classes=7)
    own = models.load("timm:resnet18", mean=[0.5] * 3, std=[0.25] * 3)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(own(x), net.net((x - 0.5) / 0.25))


def test_a_file_of_weights_has_timms_names_or_those_of_a_run(tmp_path):
    there = models.build("timm:mobilenetv3_small_050", classes=7, channels=1, seed=4)
    save_file(there.net.state_dict(), tmp_path / "plain.safetensors")
    save_file(there.state_dict(), tmp_path / "whole.safetensors")
    for file in ("plain", "whole"):
        sizes = {"classes": 7, "channels": 1}
        net = models.load("timm:mobilenetv3_small_050", weights=tmp_path / f"{file}.safetensors", **sizes)
        assert same(bits(net), bits(there))
        assert net.normalise.mean.flatten().tolist() == pytest.approx([(0.485 + 0.456 + 0.406) / 3])
    with refused(CheckpointError, "timm:mobilenetv3_small_050", "is for 7 classes and the net for 1000"):
        models.load("timm:mobilenetv3_small_050", weights=tmp_path / "plain.safetensors", channels=1)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("timm:resnet81", {}, ConfigError, ["of timm", "resnet81", 'mean "resnet18"']),
        ("timm:hf-hub:owner/net", {}, ConfigError, ["of timm", "hf-hub"]),
        ("timm:resnet18.a9_in1k", {}, ConfigError, ["a9_in1k", "a1_in1k"]),
        ("timm:resnet18", {"drop_pat": 0.1}, ConfigError, ["option of timm:resnet18", "drop_pat", 'mean "drop_path"']),
        ("timm:vgg11", {"drop_path": 0.1}, ConfigError, ["option of timm:vgg11", '"drop_path"']),
        ("timm:resnet18", {"drop_path": 1.5}, ConfigError, ["drop_path", "below 1", "1.5"]),
        ("timm:resnet18", {"checkpoint_path": "x"}, ConfigError, ["checkpoint_path", "leave it out"]),
        ("timm:resnet18", {"classes": 10**9}, ConfigError, ["classes of timm:resnet18", "65,536"]),
        ("timm:resnet18", {"block": 3}, ConfigError, ["can be built with", "block 3"]),
        ("timm:resnet18", {"pretrained": True}, CheckpointError, ["timm/resnet18.a1_in1k", "in no cache", "network"]),
    ],
)
def test_timm_refuses(name, options, error, words):
    with refused(error, *words):
        models.build(name, **options)


def test_no_timm(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with refused(ConfigError, "timm for timm:resnet18", r'pip install "ardor\[timm\]"'):
        models.build("timm:resnet18")


def test_without_a_network_the_hub_is_asked_once(monkeypatch):
    import huggingface_hub

    asked = []

    def info(self, repository, timeout=None):
        asked.append((repository, timeout))
        raise OSError("no route\nto host")

    def download(*_, **__):
        raise AssertionError("retries for half a minute")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with refused(CheckpointError, "in no cache", "no route", "check the network", "weights"):
        models.load("timm:resnet18")
    ((repository, timeout),) = asked
    assert repository == "timm/resnet18.a1_in1k"
    assert timeout < 2


def test_a_fixed_size_is_that_of_the_data_and_another_is_refused_with_what_to_type():
    train, _ = colour()
    net = net_for("student", {"name": "timm:vit_tiny_patch16_224"}, train, fresh=True)
    assert net.built_as["img_size"] == 32
    with refused(ModelError, "student to take an image", "img_size=32"):
        models.require_fit(models.build("timm:vit_tiny_patch16_224", classes=7), train.shape, 7, "student")
    with refused(ModelError, "7 classes", "got 5", "classes=7"):
        models.require_fit(models.build("timm:resnet18", classes=5), train.shape, 7, "student")


# --- another head ---


@pytest.mark.parametrize("name", ["resnet18", "small_cnn", "timm:convnext_atto", "timm:resnet18"])
def test_a_student_keeps_the_trunk_of_a_file_for_other_classes(name, tmp_path, caplog):
    train, _ = colour()
    width = {"width": 4} if name == "small_cnn" else {}
    file = tmp_path / "w.safetensors"
    there = models.build(name, classes=10, channels=3, seed=9, **width)
    save_file(bits(there), file)
    config = {"name": name, "weights": str(file), "seed": 2, **width}
    net = net_for("student", config, train, fresh=True)
    fresh, ours, theirs = bits(models.build(name, classes=7, channels=3, seed=2, **width)), bits(net), bits(there)
    new = [key for key in ours if ours[key].shape != theirs[key].shape]
    assert len(new) == 2
    assert all(torch.equal(ours[key], (fresh if key in new else theirs)[key]) for key in ours)
    assert net.start == {"head": "new, 7 classes for 10"}
    assert "new, 7 classes for 10" in caplog.text
    assert describe(net)["seed"] == 2
    for refusing in (
        lambda: net_for("teacher", config, train, fresh=False),
        lambda: models.load(classes=7, channels=3, **config),
    ):
        with refused(CheckpointError, "10 classes and the net for 7"):
            refusing()


def test_only_the_last_layer_may_differ(tmp_path):
    train, _ = colour()
    wide = models.build("small_cnn", classes=10, channels=3, width=6)
    save_file(bits(wide), tmp_path / "w.safetensors")
    config = {"name": "small_cnn", "width": 4, "weights": str(tmp_path / "w.safetensors")}
    with refused(CheckpointError, "another shape", "width="):
        net_for("student", config, train, fresh=True)
    grey = models.build("small_cnn", classes=7, channels=1, width=4)
    save_file(bits(grey), tmp_path / "w.safetensors")
    with refused(CheckpointError, "another shape", "channels=1"):
        net_for("student", config, train, fresh=True)


def test_a_run_records_its_start_and_goes_on(tmp_path):
    train, val = colour()
    inner = attacks.PGD(ardor.Linf(8 / 255), steps=1)
    first = models.build("small_cnn", classes=10, channels=3, width=4, seed=9)
    save_file(bits(first), tmp_path / "w.safetensors")
    config = {"name": "small_cnn", "width": 4, "weights": str(tmp_path / "w.safetensors"), "seed": 1}
    student = net_for("student", config, train, fresh=True)
    recipe, run = ardor.Recipe(epochs=1, batch=8, val_attack=inner), tmp_path / "run"
    list(ardor.epochs(student, None, methods.SAT(attack=inner), train, recipe, val=val, run=run))
    content = yaml.safe_load((run / "config.yaml").read_text())
    assert content["student"]["weights"] == config["weights"]
    assert content["fingerprint"]["start"] == {"head": "new, 7 classes for 10"}
    again = net_for("student", content["student"], train, fresh=True)
    assert content["fingerprint"]["student"] == models.hash_of(again)
    assert models.hash_of(models.load(run, checkpoint="last")) == models.hash_of(student)
    (note,) = [f for f in ardor.evaluation.checks.recipe.of_recipe(content) if f.name == "started_from"]
    assert "its head was new, 7 classes for 10" in note.evidence


def test_the_operators_are_those_that_torchvision_asks_for():
    assert [operator.partition("(")[0] for operator in OPERATORS] == ["nms", "qnms"]


def test_help_shows_the_options_of_a_net_of_timm(capsys):
    main(["train", "--student", "timm:resnet18", "--help"])
    text = capsys.readouterr().out
    assert all(
        f"--student.{option} " in text for option in ("pretrained", "img_size", "drop_path", "weights", "classes")
    )


# --- ImageNet's known teachers ---


def test_a_known_teacher_of_imagenet_needs_no_package_robustbench(tmp_path):
    record = KNOWN["imagenet/Salman2020Do_R18"]
    assert (record.classes, record.eps, record.preprocessing) == (1000, 4 / 255, "Res256Crop224")
    there = models.build("timm:resnet18", classes=1000, seed=6)
    state = {f"module.model.{k}": v for k, v in there.net.state_dict().items()}
    state |= {f"module.normalize.{k}": v.flatten() for k, v in there.normalise.named_buffers()}
    place = record.place(tmp_path)
    place.parent.mkdir(parents=True)
    torch.save({"state_dict": state}, place)
    net = models.load("robustbench:imagenet/Salman2020Do_R18", root=tmp_path)
    assert same(bits(net), bits(there))
    assert models.known_of(net) is record
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(net(x), there.eval()(x))
    with refused(ModelError, "images of 3 x 32 x 32", "takes 3 x 224 x 224"):
        models.require_known(net, (3, 32, 32), 1000)
    state["module.normalize.mean"] = torch.tensor([0.5, 0.5, 0.5])
    torch.save({"state_dict": state}, place)
    with refused(CheckpointError, "to normalise as the net does"):
        models.load("robustbench:imagenet/Salman2020Do_R18", root=tmp_path)


def test_every_known_net_of_timm_is_one_with_its_classes():
    known = [record for record in KNOWN.values() if record.data == "imagenet"]
    assert len(known) == 13
    for record in known:
        config = timm.get_pretrained_cfg(record.builder.removeprefix("timm:"))
        assert config.num_classes == record.classes
        assert not config.fixed_input_size or config.input_size == record.shape


def test_names_of_an_earlier_timm_are_read(tmp_path):
    options = {"classes": 7, "depths": [1, 1, 1, 1], "img_size": 64}
    there = models.build("timm:swin_tiny_patch4_window7_224", seed=6, **options)
    old = {}
    for name, value in there.net.state_dict().items():
        match = re.match(r"layers\.(\d)\.downsample(.*)", name)
        name = f"layers.{int(match[1]) - 1}.downsample{match[2]}" if match else name
        old[name.replace("head.fc", "head")] = value
    assert old.keys() != there.net.state_dict().keys()
    save_file(old, tmp_path / "old.safetensors")
    net = models.load("timm:swin_tiny_patch4_window7_224", weights=tmp_path / "old.safetensors", **options)
    assert same(bits(net), bits(there))
    old["patch_embed.proj.weight"] = torch.zeros(5, 3, 4, 4)
    save_file(old, tmp_path / "old.safetensors")
    with refused(CheckpointError, "another shape", "patch_embed"):
        models.load("timm:swin_tiny_patch4_window7_224", weights=tmp_path / "old.safetensors", **options)


# --- random layers ---


@pytest.mark.parametrize("options", [{"drop_path": 0.2}, {"drop_path": 0.0, "drop": 0.5}])
def test_a_net_that_draws_numbers_resumes_bit_for_bit(options, tmp_path):
    train, val = colour(8, 4)
    inner = attacks.PGD(ardor.Linf(8 / 255), steps=1)
    recipe = ardor.Recipe(epochs=2, batch=4, lr=0.01, val_attack=inner)
    method, small = methods.SAT(attack=inner), {"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 16]}

    def student():
        config = {"name": "timm:convnext_atto", **small, **options}
        return net_for("student", config, train, fresh=True)

    def trained(run, most):
        net, before = student(), torch.get_rng_state()
        for record in ardor.epochs(net, None, method, train, recipe, val=val, run=tmp_path / run):
            torch.rand(record.epoch)  # somebody else draws from the global generator
            if record.epoch == most:
                break
        torch.set_rng_state(before)
        return bits(net)

    whole = trained("whole", 2)
    trained("broken", 1)
    torch.manual_seed(7)
    resumed = trained("broken", 2)
    assert same(whole, resumed)
    assert same(bits(models.load(tmp_path / "broken", checkpoint="last")), whole)
    plain = net_for("student", {"name": "timm:convnext_atto", **small, "drop_path": 0.0}, train, fresh=True)
    list(ardor.epochs(plain, None, method, train, recipe, val=val, run=tmp_path / "plain"))
    assert not same(bits(plain), whole)
